"""Concepts erased, attacked and memorised on the planted world: docs/forgetting.md and its charts.

python -m benchmarks.forgetting --jobs=2

Needs the base of benchmarks.personalisation. Trains the twin without what is erased, or goes on
where it stopped; chooses settings of every method on development concepts; erases eight concepts;
attacks one; measures what of the copied images is memorised, and what a policy at the source
refuses; and writes the page. What is drawn is kept in RUNS as it was read: started again, it goes
on, and --only=page writes the page without a model, of what has been run, with --restore of what
is recorded beside it. --only=PART[,PART] makes a part: see PARTS. The judge is in no loss.

CPU minutes on two cores without AVX-512: base 56, twin 47, develop and efficacy 75, recovery 25,
prefixes 5, memorisation 10, guard 1: three and two thirds hours; about half of it with AVX-512.
--tiny runs all parts with a few drawings and steps, and its figures mean nothing.
"""

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import forgetting_efficacy as efficacy
from benchmarks import forgetting_memorisation as memorisation
from benchmarks import forgetting_prefixes as prefixes
from benchmarks import forgetting_recovery as recovery
from benchmarks.few_step import finished
from benchmarks.forgetting_efficacy import ATTACKED
from benchmarks.forgetting_guard import Guarding
from benchmarks.forgetting_methods import METHOD_OF
from benchmarks.forgetting_page import RECORD, write_page
from benchmarks.forgetting_world import DEVELOPMENT, REPORTED, WITHOUT
from benchmarks.personalisation import build_planted, train_planted
from benchmarks.personalisation_bench import SAMPLING, Base
from benchmarks.personalisation_jobs import add_run_flags, each_by_itself, names_of
from benchmarks.recorded import agree, restore
from t2i_jax.inference import open_model
from t2i_jax.models.params import Params

PARTS = ("twin", "develop", "efficacy", "recovery", "prefixes", "memorisation", "guard", "page")
BY_METHOD = ("develop", "efficacy")  # which are divided into processes
SHARED = ("data", "base", "twin", "runs", "steps", "count")  # flags of all processes
SEARCHED = ("ablation", "esd")  # methods whose best one prefixes are searched for
AFTER = ("recovery", "prefixes", "memorisation", "guard")  # which are processes beside each other


class Bench:
  """The base, its twin, and the parts that are made of them."""

  def __init__(self, args: argparse.Namespace, methods: Sequence[str]):
    self.args, self.runs = args, Path(args.runs)
    self.base = Base(args.base, self.runs)
    scale = efficacy.TINY if args.tiny else efficacy.FULL
    self.efficacy = efficacy.Efficacy(self.base, self.runs, scale, methods)

  @cached_property
  def twin(self) -> Params | None:
    """Parameters of the twin; None where it has not made all of its steps."""
    if not finished(Path(self.args.twin)):
      print(f"{self.args.twin} has not made all of its steps: its rows are left out. --only=twin "
            "goes on with it.", flush=True)  # fmt: skip
      return None
    return open_model(self.args.twin, SAMPLING).params

  def make(self, part: str) -> None:
    if part == "twin":
      data = f"{self.args.data}_without_{WITHOUT.replace(',', '_')}"
      build_planted(data, self.args.count, WITHOUT)
      train_planted(self.args, self.args.twin, data)
    elif part == "develop":
      self.efficacy.develop()
    elif part == "efficacy":
      self.efficacy.make()
      if not self.args.methods:  # of all, whatever made their drawings
        self.efficacy.baselines()
        if self.twin is not None:
          self.efficacy.twin(self.twin)
    elif part == "recovery":
      scale = recovery.TINY if self.args.tiny else recovery.FULL
      recovery.Recovery(self.base, self.runs, scale).make(self.models())
    elif part == "prefixes":
      budget = prefixes.TINY if self.args.tiny else prefixes.FULL
      prefixes.Search(self.base, self.runs, budget).make(self.searched())
    elif part == "memorisation":
      scale = memorisation.TINY if self.args.tiny else memorisation.FULL
      memorisation.Memorisation(self.base, self.runs, scale).make(self.twin)
    elif part == "guard":
      Guarding(self.base, self.runs, 4 if self.args.tiny else 20).make()

  def draw_images(self) -> None:
    """What methods are trained on, once, before processes read it."""
    reported = [concept for some in REPORTED.values() for concept in some]
    self.efficacy.eraser.draw_images([*DEVELOPMENT.values(), *reported])

  def beside(self, flags: Sequence[Sequence[str]]) -> None:
    """Processes of this benchmark, --jobs at a time."""
    command = ["benchmarks.forgetting", *flags_of(self.args)]
    each_by_itself([[*command, *some] for some in flags], self.args.jobs, self.runs)

  def models(self) -> dict[str, Any]:
    """Of the attacked concept: parameters, or the file that has them, by method."""
    found: dict[str, Any] = {"base": self.base.model.params}
    if self.twin is not None:
      found["twin"] = self.twin
    for name in METHOD_OF:
      path = efficacy.model_path(self.runs, name)
      if path.is_file():
        found[name] = path
    return found

  def searched(self) -> dict[str, Any]:
    """Of `models` those that prefixes are searched for: with the best of two objectives."""
    best = [efficacy.best_of(self.efficacy.folder, of, ATTACKED.kind) for of in SEARCHED]
    return {name: of for name, of in self.models().items() if name in ("base", "twin", *best)}


def flags_of(args: argparse.Namespace) -> list[str]:
  """What all processes are given."""
  return [f"--{name}={getattr(args, name)}" for name in SHARED] + ["--tiny"] * args.tiny


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add_run_flags(parser)
  parser.add_argument("--base", default="runs/scenes_planted")
  parser.add_argument("--twin", default="runs/scenes_planted_without_some", help="of the base")
  parser.add_argument("--runs", default="runs/forgetting", help="where all else goes")
  parser.add_argument("--jobs", type=int, default=1, help="methods, and parts, beside each other")
  parser.add_argument("--methods", help="of develop and efficacy: these alone, NAME[,NAME]")
  parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
  parser.add_argument("--tiny", action="store_true", help="a few drawings and steps of all")
  parser.add_argument("--to", default="docs", help="folder of the page and its record")
  parser.add_argument("--restore", action="store_true", help="what the page's record holds, first")
  args = parser.parse_args()
  parts = names_of(parser, "only", args.only, PARTS)
  some = names_of(parser, "methods", args.methods or None, METHOD_OF)
  if args.restore:
    restore(Path(args.runs), Path(args.to, RECORD))
  agree(Path(args.runs), {"base": args.base, "twin": args.twin, "tiny": args.tiny})
  bench = Bench(args, some)
  if "twin" in parts:
    bench.make("twin")
  by_method = [part for part in BY_METHOD if part in parts]
  if by_method and args.jobs > 1 and not args.methods:
    bench.draw_images()
    flags = f"--only={','.join(by_method)}"
    bench.beside([[flags, f"--methods={name}"] for name in METHOD_OF])
  for part in by_method:
    bench.make(part)
  after = [part for part in AFTER if part in parts]
  if args.jobs > 1 and len(after) > 1:
    bench.beside([[f"--only={part}"] for part in after])
  else:
    for part in after:
      bench.make(part)
  if "page" in parts:
    other = [
      f"--{n}={getattr(args, n)}" for n in SHARED if getattr(args, n) != parser.get_default(n)
    ]
    command = " ".join(["python -m benchmarks.forgetting", *other, *["--tiny"] * args.tiny])
    configs = [Path(workdir, "config.json") for workdir in (args.base, args.twin)]
    write_page(bench.runs, Path(args.to), command, configs)


if __name__ == "__main__":
  main()
