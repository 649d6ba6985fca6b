"""Few-step models of scenes in 1, 2 and 4 steps, beside their teacher: docs/few_step.md, .png.

python -m benchmarks.few_step --data=runs/data/scenes_quickstart --runs=runs/few_step

Trains the quickstart's model, and from its weights the three students (or goes on where each
stopped), scores all with the judge and writes the page. --teacher names a trained run of
configs/scenes_dit_flow.py to start from instead. About 40 minutes of one core.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.config import load_config
from t2i_jax.configs.sections import SCENES_PROMPTS as SHOWN
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.score import Score, score
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import Model, kept_steps, open_model

CATEGORIES = ("single", "binding", "relation")
PER_CELL = 100
PROMPT_SEED = 40_000  # prompts that no choice was made on
SCALE = 2
STUDENTS = {
  "consistency": "configs/scenes_consistency.py",
  "distillation": "configs/scenes_consistency.py:distillation",
  "meanflow": "configs/scenes_meanflow.py",
}
NAMES = {
  "teacher": "teacher",
  "consistency": "consistency training",
  "distillation": "consistency distillation",
  "meanflow": "MeanFlow",
}


class Setting(NamedTuple):
  """A row of the table: which model, in how many steps."""

  model: str
  steps: int


SETTINGS = (
  *(Setting("teacher", steps) for steps in (20, 4, 2, 1)),
  *(Setting(student, steps) for student in STUDENTS for steps in (4, 2, 1)),
)


class Found(NamedTuple):
  """What a setting gave: its score, images of SHOWN, and network calls an image."""

  score: Score
  images: np.ndarray
  calls: int


def finished(workdir: Path) -> bool:
  """Whether a run has made all steps of its config."""
  if not (workdir / "config.json").is_file():
    return False
  steps = json.loads((workdir / "config.json").read_text())["train"]["steps"]
  return kept_steps(workdir)[-1] == steps


def train(args: argparse.Namespace) -> dict[str, Path]:
  """The work directories by model; what is trained already is left as it is."""
  runs, data = Path(args.runs), f"--config.data.dir={args.data}"
  dirs = {"teacher": Path(args.teacher) if args.teacher else runs / "teacher"}
  few = ["--config.sampling.every=0", "--config.checkpoint.every=100"]
  if not args.teacher:
    flags = [f"--workdir={dirs['teacher']}", data, f"--config.train.steps={args.steps}", *few]
    t2i("train", "--config=configs/scenes_dit_flow.py", *flags)
  for name, config in STUDENTS.items():
    dirs[name] = runs / name
    if finished(dirs[name]):
      continue
    parts = load_config(config).parts
    starts = [f"--config.parts.{part}.start=run:{dirs['teacher']}" for part in parts]
    model = json.loads((dirs["teacher"] / "config.json").read_text())["model"]
    same = [f"--config.model.absolute={model['absolute']}"] if "absolute" in model else []
    t2i("train", f"--config={config}", f"--workdir={dirs[name]}", data, *starts, *same, *few)
  return dirs


def measure(workdir: Path, steps: int) -> Found:
  """Scores a model as its config samples, in so many steps."""
  model = open_model(workdir, {"sampling.steps": str(steps)})
  draw = lambda captions, seed: model.draw(captions, range(seed, seed + len(captions)))
  size = model.config.data.image_size[0]
  given = {"size": size, "per_cell": PER_CELL, "seed": PROMPT_SEED, "categories": CATEGORIES}
  found = score(draw, "easy", **given)
  calls = steps * (1 if model.config.sampling.cfg == 1 else 2)
  print(workdir.name, steps, [found.pooled(name).percent() for name in CATEGORIES], flush=True)
  return Found(found, model.draw(SHOWN, range(len(SHOWN))), calls)


def cell(rate: Rate) -> str:
  return f"{rate.percent()} {rate.interval()}"


def page(found: dict[Setting, Found], models: dict[str, Model]) -> str:
  rows = [
    [NAMES[s.model], s.steps, of.calls, *(cell(of.score.pooled(name)) for name in CATEGORIES)]
    for s, of in found.items()
  ]
  trained = [
    [NAMES[name], m.step, m.step * m.config.train.batch, f"`{m.config.train.objective}`",
     f"{m.config.sampling.solver}, cfg {m.config.sampling.cfg:g}"]
    for name, m in models.items()
  ]  # fmt: skip
  return "\n".join([
    "# Few steps",
    "",
    "The quickstart's model as the teacher, and three that start from its weights: consistency",
    "training and distillation [2303.01469, 2310.14189] and MeanFlow [2505.13447], objectives of",
    "the same trainer (`configs/scenes_consistency.py`, with the variant `distillation`, and",
    "`configs/scenes_meanflow.py`). Each was trained once.",
    "",
    table(["model", "steps of training", "images", "objective", "sampled by"], trained),
    "",
    f"Right by the judge, of {2 * PER_CELL} prompts a category, seen and held-out compositions",
    "together, with 95% Wilson intervals. A step at a guidance scale other than 1 is two calls of",
    "the network; distillation and MeanFlow learn the guidance and need one.",
    "",
    table(["model", "steps", "calls", *CATEGORIES], rows),
    "",
    "![A row a setting, in the order of the table](few_step.png)",
    "",
    f"A row a setting in the order of the table, the same noise in every row: {'; '.join(SHOWN)}.",
  ])  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/few_step", help="where runs go")
  parser.add_argument("--teacher", help="a trained run to start from; default: trained here")
  parser.add_argument("--steps", type=int, default=2200, help="of training of the teacher")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  dirs = train(args)
  found: dict[Setting, Found] = {s: measure(dirs[s.model], s.steps) for s in SETTINGS}
  models: dict[str, Any] = {name: open_model(folder) for name, folder in dirs.items()}
  grid([list(of.images) for of in found.values()], SCALE).save(Path(args.to, "few_step.png"))
  command = f"python -m benchmarks.few_step --data={args.data} --runs={args.runs}"
  command += f" --teacher={args.teacher}" if args.teacher else f" --steps={args.steps}"
  line = run_of(command, *(folder / "config.json" for folder in dirs.values()))
  write(Path(args.to, "few_step.md"), page(found, models), line)
  print(Path(args.to, "few_step.md"))


if __name__ == "__main__":
  main()
