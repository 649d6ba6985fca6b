"""A model taught a subject, on the planted world: docs/personalisation.md and its images.

python -m benchmarks.personalisation --jobs=2

Trains the base (configs/scenes_planted.py), its twin without anything planted and two oracles that
learn the subjects from scratch, or goes on where each stopped; chooses learning rates, steps and
the guidance scale on development subjects; teaches five subjects twice by every method; and writes
the page. What is drawn is kept in RUNS as it was read: started again, it goes on, and --only=page
writes the page without a model, with --restore of what is recorded beside it. --only=PART[,PART]
makes a part: see PARTS. The judge is in no loss. About three and a half hours on two cores, two of
them for the base, twin and oracles. With --jobs=2 runs and methods are processes beside each other.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.few_step import finished
from benchmarks.personalisation_adapt import (
  AT_ONCE,
  CURVES,
  IMAGES,
  METHOD_OF,
  PRIORS,
  STEPS,
  Learner,
  Method,
  Run,
  chains,
)
from benchmarks.personalisation_jobs import add_run_flags, each_by_itself, names_of, threads
from benchmarks.personalisation_page import RECORD, write_pages
from benchmarks.personalisation_settings import choose
from benchmarks.personalisation_world import (
  COUNTS,
  DEVELOPMENT,
  FIRST_SEED,
  SIZE,
  SUBJECTS,
  Cell,
  Subject,
  WithSubjects,
  all_scenes,
  load_cell,
  read_groups,
  save_cell,
)
from benchmarks.quickstart import t2i
from benchmarks.recorded import check_base, restore
from t2i_jax.adapt.personalise import How, drawn_of_class
from t2i_jax.data.build import build
from t2i_jax.data.source import MANIFEST
from t2i_jax.inference import Model, open_model
from t2i_jax.systems.draw import Drawing

SEEDS = (0, 1)
GUIDANCES = (1.5, 2.5, 3.5)  # that are tried; rates and steps are chosen at the middle one
DEV_COUNTS = dict.fromkeys(COUNTS, 15)
CURVE_COUNTS = {group: n for group, n in COUNTS.items() if group != "related"}
SAMPLING = {"sampling.steps": "10", "sampling.batch": "20"}
AGAIN = 50_000  # added to the seeds of drawings: other noise
ERASED = "all"  # in the twin
PARTS = ("base", "twin", "oracle", "develop", "methods", "images", "control", "page")


def build_planted(folder: str, count: int, without: str = "") -> None:
  """The folder of data of level planted, unless it is there.   without: its flag"""
  if not Path(folder, MANIFEST).is_file():
    less = [f"--without={without}"] if without else []
    t2i("data", "build", "--from=scenes", "--level=planted", f"--size={SIZE}",
        f"--count={count}", *less, f"--to={folder}")  # fmt: skip


def train_planted(args: argparse.Namespace, workdir: str, data: str, seed: int = 0) -> None:
  """A run of configs/scenes_planted.py, or the rest of it.   args: runs, steps, every and jobs"""
  if finished(Path(workdir)):
    return
  t2i(
    "train", "--config=configs/scenes_planted.py", f"--workdir={workdir}",
    f"--config.data.dir={data}", f"--config.seed={seed}", "--config.sampling.every=0",
    f"--config.train.steps={args.steps}", f"--config.checkpoint.every={args.every}",
    f"--config.eval.every={args.every}",
    JAX_COMPILATION_CACHE_DIR=str((Path(args.runs) / "compiled").resolve()),
    **threads(args.jobs),
  )  # fmt: skip


class Bench:
  """The runs, and what is drawn of them."""

  def __init__(self, args: argparse.Namespace):
    self.args, self.runs = args, Path(args.runs)
    self.twin, self.oracles = f"{args.base}_without_{ERASED}", self.runs / "oracle_{}"
    self.pool = ThreadPoolExecutor(1)  # reads while the next images are drawn
    self.reading: list[Future[None]] = []
    self.learners = dict[tuple[Any, ...], Learner]()  # by base and program

  # Models that are trained from scratch.

  def train(self, parts: Sequence[str]) -> None:
    """Data and runs of those parts that are there; what is finished is left as it is."""
    data, todo = self.args.data, list[tuple[str, str, int]]()
    if "base" in parts:
      build_planted(data, self.args.count)
      todo.append((self.args.base, data, 0))
    if "twin" in parts:
      folder = f"{data}_without_{ERASED}"
      build_planted(folder, self.args.count, ERASED)
      todo.append((self.twin, folder, 0))
    if "oracle" in parts:
      source: Any = WithSubjects(size=SIZE, count=self.args.count)
      if not Path(f"{data}_subjects", MANIFEST).is_file():
        build(source, f"{data}_subjects")
      todo += [(str(self.oracles).format(s), f"{data}_subjects", s) for s in SEEDS]
    with ThreadPoolExecutor(self.args.jobs) as pool:
      list(pool.map(lambda one: train_planted(self.args, *one), todo))

  # What is drawn.

  @cached_property
  def base(self) -> Model:
    model = self.opened(self.args.base, "base")
    check_base(self.runs, dict(model.params))
    return model

  def opened(self, workdir: str, part: str) -> Model:
    """A run of --only=`part`, as all are sampled."""
    if not finished(Path(workdir)):
      sys.exit(f"{workdir} has not made all of its steps: --only={part} goes on with it.")
    return open_model(workdir, SAMPLING)

  @cached_property
  def drawing(self) -> Drawing:
    """The one compiled sampler of all models: their parameters have the same shapes."""
    return Drawing(self.base.system, self.base.config.sampling, self.base.mesh)

  def priors(self, model: Model, folder: str) -> dict[str, np.ndarray]:
    """Images of each class as `t2i personalise` has a model draw them, at its own scale."""
    found, self.drawing.scale = {}, model.config.sampling.cfg
    model = replace(model, tasks=model.tasks._replace(draw=self.drawing.draw))
    for shape in sorted({s.shape for s in (*SUBJECTS, *DEVELOPMENT)}):
      how = How("", shape, priors=PRIORS)
      paths = drawn_of_class(model, how, self.runs / folder / shape)[:PRIORS]
      found[shape] = np.stack([np.asarray(Image.open(path)) for path in paths])
    return found

  def cell(
    self,
    path: Path,
    params: Any,
    subject: Subject,
    phrase: str,
    about: dict[str, Any],
    guidance: float,
    counts: dict[str, int] = COUNTS,
    noise: int = 0,
  ) -> None:
    """Draws what a cell has; it is read and written while the next one is drawn."""
    scenes = all_scenes(subject, phrase, counts)
    prompts = [scene.caption for group in scenes.values() for scene in group]
    seeds = [noise + FIRST_SEED[group] + i for group, n in counts.items() for i in range(n)]
    self.drawing.scale = guidance
    images = self.drawing.draw(params, prompts, seeds)
    about = {"subject": subject.name, "guidance": guidance} | about

    def read() -> None:
      shown = images if counts == COUNTS else None
      save_cell(path, Cell(about, read_groups(images, counts)), shown)

    self.reading.append(self.pool.submit(read))

  def read(self) -> None:
    """Waits for what is still read."""
    for future in self.reading:
      future.result()
    self.reading.clear()

  # Runs of personalisation.

  def teach(
    self,
    name: str,
    method: Method,
    runs: Sequence[Run],
    base: Model,
    priors: str,
    steps: Sequence[int] = STEPS,
  ) -> Iterator[tuple[int, float, Run, Any]]:
    """Step, seconds, run and its parameters, of all runs after each of `steps`."""
    key = (base.where, *method.program)
    if key not in self.learners:
      self.learners[key] = Learner(base, method, self.priors(base, priors))
    learner = self.learners[key].using(method)
    for start in range(0, len(runs), AT_ONCE):
      some = runs[start : start + AT_ONCE]
      rows = [self.word(method.word, run) if method.word else None for run in some]
      for step, seconds, found in learner.learn(some, rows, steps):
        print(f"{name}: step {step}, {seconds:.1f} s a run, {len(some)} runs", flush=True)
        for run, params in zip(some, found, strict=True):
          if "row" in params:
            row = np.asarray(params["row"])
            self.word_file(name, run, step).parent.mkdir(parents=True, exist_ok=True)
            np.save(self.word_file(name, run, step), row)
          own = {part: params[part] for part in base.params}
          yield step, seconds, run, own

  def word_file(self, method: str, run: Run, step: int) -> Path:
    return self.runs / "words" / f"{method}_{run.subject.name}_{run.seed}_{step}.npy"

  def word(self, method: str, run: Run) -> np.ndarray:
    """The embedding that a method has learned, of the steps that were chosen for it."""
    return np.load(self.word_file(method, run, self.chosen["settings"][method]["step"]))

  def beside(self, part: str, named: dict[str, Method]) -> None:
    """A part's methods as processes of their own, --jobs at a time; nothing with one job."""
    if self.args.jobs > 1:
      self.priors(self.base, "priors")  # once, before all read them
      flags = ["benchmarks.personalisation", f"--only={part}", *flags_of(self.args)]
      commands = [[*flags, f"--methods={','.join(some)}"] for some in chains(named)]
      each_by_itself(commands, self.args.jobs, self.runs)

  def develop(self, tried: dict[str, Method]) -> None:
    """Drawings of the development subjects at all settings."""
    folder = self.runs / "develop"
    for name, method in tried.items():
      runs = [Run(s, 0, rate) for rate in method.rates for s in DEVELOPMENT]
      where = lambda run, step, g, name=name: (
        folder / f"{name}_{run.subject.name}_{run.rate:g}_{step}_{g:g}.json"
      )
      if all(where(run, STEPS[-1], g).is_file() for run in runs for g in GUIDANCES):
        continue
      for step, seconds, run, params in self.teach(name, method, runs, self.base, "priors"):
        for guidance in GUIDANCES if step == STEPS[-1] else (GUIDANCES[1],):
          about = {"method": name, "step": step, "rate": run.rate, "seconds": seconds}
          path, phrase = where(run, step, guidance), method.phrase(run.subject)
          self.cell(path, params, run.subject, phrase, about, guidance, DEV_COUNTS)
      self.read()

  def choose(self) -> None:
    chosen = choose(self.runs / "develop", GUIDANCES)
    (self.runs / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n")
    print(json.dumps(chosen | {"tried": "..."}, indent=1), flush=True)

  @cached_property
  def chosen(self) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((self.runs / "chosen.json").read_text())
    return found

  def methods(
    self,
    named: dict[str, Method],
    curves: Sequence[str] = (),
    base: Model | None = None,
    suffix: str = "",
    subjects: Sequence[Subject] = SUBJECTS,
  ) -> None:
    """Teaches subjects on every seed; cells RUNS/cells/METHOD_SUBJECT_SEED_STEP.json.

    curves  those that are judged at all STEPS, beside those that were chosen with fewer drawings
    suffix  of the methods' names, and of the folder of images of classes
    """
    base, guidance = base or self.base, self.chosen["guidance"]
    for plain, method in named.items():
      name = plain + suffix
      settings = self.chosen["settings"][method.family or plain]
      steps = STEPS if name in curves else (settings["step"],)
      counts = {step: COUNTS if step == settings["step"] else CURVE_COUNTS for step in steps}
      runs = [Run(s, seed, settings["rate"]) for seed in SEEDS for s in subjects]
      where = lambda run, step, name=name: (
        self.runs / "cells" / f"{name}_{run.subject.name}_{run.seed}_{step}.json"
      )
      if all(self.is_drawn(where(r, step), r.rate, counts[step]) for r in runs for step in steps):
        continue
      taught = self.teach(name, method, runs, base, f"priors{suffix}", steps)
      for step, seconds, run, params in taught:
        about = {
          "method": name, "seed": run.seed, "step": step, "rate": run.rate, "seconds": seconds,
        }  # fmt: skip
        phrase = method.phrase(run.subject)
        given = (where(run, step), params, run.subject, phrase, about, guidance, counts[step])
        self.cell(*given)
      self.read()

  def is_drawn(
    self, path: Path, rate: float | None = None, counts: dict[str, int] = COUNTS
  ) -> bool:
    """Whether a cell is there, of the settings that are chosen now."""
    if not path.is_file():
      return False
    about, readings = load_cell(path)
    same = about["guidance"] == self.chosen["guidance"] and about.get("rate") == rate
    return same and readings.keys() >= counts.keys()

  def baselines(self) -> None:
    """The base as it is, the same with other noise, and the oracles."""
    self.untaught("base", 0, self.args.base)
    self.untaught("base_again", 0, self.args.base, AGAIN)
    for seed in SEEDS:
      workdir = str(self.oracles).format(seed)
      if finished(Path(workdir)):
        self.untaught("oracle", seed, workdir)
      else:
        print(f"{workdir} has not made all of its steps: --only=oracle,methods adds it", flush=True)

  def untaught(self, name: str, seed: int, workdir: str, noise: int = 0) -> None:
    """Cells of a run that nothing is taught to; an oracle knows the subjects by name."""
    where = lambda s: self.runs / f"cells/{name}_{s.name}_{seed}_0.json"
    missing = [s for s in SUBJECTS if not self.is_drawn(where(s))]
    params: Any = None
    if missing:
      own = workdir == self.args.base
      params = (self.base if own else self.opened(workdir, name)).params
    for s in missing:
      phrase = f"{s.name if name == 'oracle' else s.word} {s.shape}"
      about = {"method": name, "seed": seed, "step": 0, "seconds": 0.0}
      self.cell(where(s), params, s, phrase, about, self.chosen["guidance"], noise=noise)
    self.read()

  def control(self) -> None:
    """Methods on the twin, which has seen no mark."""
    known = [s for s in SUBJECTS if s.tier == "known"]
    named = {name: METHOD_OF[name] for name in ("inversion", "lora4_prior")}
    base = self.opened(self.twin, "twin")
    self.methods(named, base=base, suffix="_twin", subjects=known)


def flags_of(args: argparse.Namespace) -> list[str]:
  """What all processes of a benchmark are given."""
  return [f"--{name}={getattr(args, name)}" for name in ("data", "base", "runs", "steps", "count")]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add_run_flags(parser)
  parser.add_argument("--base", default="runs/scenes_planted", help="of the base; of its twin, too")
  parser.add_argument("--runs", default="runs/personalisation", help="where all else goes")
  parser.add_argument("--jobs", type=int, default=1, help="runs of t2i train beside each other")
  parser.add_argument("--methods", help="of develop and methods: these alone, NAME[,NAME]")
  parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
  parser.add_argument("--to", default="docs", help="folder of the page and its record")
  parser.add_argument("--restore", action="store_true", help="what the page's record holds, first")
  args = parser.parse_args()
  parts = names_of(parser, "only", args.only, PARTS)
  some = names_of(parser, "methods", args.methods or None, METHOD_OF)
  if args.restore:
    restore(Path(args.runs), Path(args.to, RECORD))
  bench = Bench(args)
  bench.train(parts)
  named = {name: METHOD_OF[name] for name in some}
  for part in ("develop", "methods"):
    if part not in parts:
      continue
    own = {name: one for name, one in named.items() if one.rates or part == "methods"}
    if not args.methods:
      bench.beside(part, own)
    if part == "develop":
      bench.develop(own)
    else:
      bench.methods(own, CURVES)
    if not args.methods:  # of all methods, whatever made their drawings
      (bench.choose if part == "develop" else bench.baselines)()
  if "images" in parts:
    bench.methods(IMAGES)
  if "control" in parts:
    bench.control()
  if "page" in parts:
    command = " ".join(["python -m benchmarks.personalisation", *flags_of(args)])
    trained = [args.base, bench.twin, *(str(bench.oracles).format(seed) for seed in SEEDS)]
    configs = [Path(workdir, "config.json") for workdir in trained]
    write_pages(bench.runs, Path(args.to), command, configs)


if __name__ == "__main__":
  main()
