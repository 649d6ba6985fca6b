"""A U-Net and a DiT on scenes at equal FLOPs, with flow matching and as DDPMs: docs/backbones.md.

python -m benchmarks.backbones --data=runs/data/scenes_quickstart --jobs=2

Trains the four configs on each seed (or goes on where a run stopped), scores them with the judge,
compares the errors of x0_hat at the same noise and writes the page and its sheet. With the default
steps about two CPU hours.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.few_step import CATEGORIES, cell, finished
from benchmarks.objectives import RATIOS, x0_errors
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.configs.sections import SCENES_PROMPTS as SHOWN
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.score import Score, score
from t2i_jax.evaluation.stats import Rate
from t2i_jax.inference import open_model

NAMES = {
  "scenes_dit_flow": "DiT, flow matching",
  "scenes_unet_flow": "U-Net, flow matching",
  "scenes_dit_ddpm": "DiT, DDPM",
  "scenes_unet_ddpm": "U-Net, DDPM",
}
PROMPT_SEED = 50_000  # prompts that no choice was made on
SCALE = 2


class Found(NamedTuple):
  """One trained model.

  flops  of a forward pass of one image;   seconds: of CPU, of a step
  errors of x0_hat at RATIOS
  """

  score: Score
  images: np.ndarray
  parameters: int
  flops: int
  steps: int
  batch: int
  seconds: float
  loss: float
  errors: list[float]


def train(name: str, seed: int, args: argparse.Namespace) -> Path:
  """The run of a config on a seed; what is trained already is left as it is."""
  workdir = Path(args.runs, f"{name}_{seed}")
  steps = args.flow_steps if name.endswith("flow") else args.ddpm_steps
  if not finished(workdir):
    t2i(
      "train", f"--config=configs/{name}.py", f"--workdir={workdir}", f"--config.seed={seed}",
      f"--config.data.dir={args.data}", f"--config.train.steps={steps}",
      f"--config.train.batch={args.batch}", "--config.checkpoint.every=100",
      "--config.eval.every=100", "--config.sampling.every=0",
      JAX_COMPILATION_CACHE_DIR=str(Path(args.runs, "compiled").resolve()),
    )  # fmt: skip
  return workdir


def cpu_seconds(lines: list[dict[str, Any]]) -> float:
  """CPU seconds of a step: from a run's first log line, after its compilation, to its last."""
  first, last = lines[0], lines[-1]
  return (last["perf"]["cpu_s"] - first["perf"]["cpu_s"]) / (last["step"] - first["step"])


def measure(workdir: Path, per_cell: int) -> Found:
  model = open_model(workdir)
  draw = lambda captions, seed: model.draw(captions, range(seed, seed + len(captions)))
  size = model.config.data.image_size[0]
  given = {"size": size, "per_cell": per_cell, "seed": PROMPT_SEED, "categories": CATEGORIES}
  found = score(draw, "easy", **given)
  print(workdir.name, [found.pooled(name).percent() for name in CATEGORIES], flush=True)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return Found(
    found,
    model.draw(SHOWN, range(len(SHOWN))),
    sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    model.system.flops,
    model.step,
    model.config.train.batch,
    cpu_seconds([line for line in lines if line["kind"] == "train"]),
    [line for line in lines if line["kind"] == "val"][-1]["loss"],
    x0_errors(model),
  )


def together(runs: Sequence[Found], category: str) -> Rate:
  """Of all seeds, seen and held-out compositions."""
  rates = [run.score.pooled(category) for run in runs]
  return Rate(sum(rate.successes for rate in rates), sum(rate.n for rate in rates))


def page(found: dict[str, list[Found]], command: str) -> str:
  sizes, scores, seeds, errors = [], [], [], []
  for config, runs in found.items():
    name, one = NAMES[config], runs[0]
    forward = f"{one.flops / 1e6:.1f}"
    seconds = f"{1000 * fmean(run.seconds / run.batch for run in runs):.1f}"
    images = f"{one.steps * one.batch:,}"
    sizes.append([f"`{config}`", f"{one.parameters / 1e6:.2f}", forward, images, seconds])
    scores.append([name, *(cell(together(runs, category)) for category in CATEGORIES)])
    each = lambda category, runs=runs: " / ".join(r.score.pooled(category).percent() for r in runs)
    losses = " / ".join(f"{run.loss:.4f}" for run in runs)
    seeds.append([name, *map(each, CATEGORIES), losses])
    mean = np.mean([run.errors for run in runs], axis=0)
    errors.append([name, *(f"{error:.4f}" for error in mean)])
  first = next(iter(found.values()))
  count, prompts = len(first), together(first, CATEGORIES[0]).n
  trained = "one seed" if count == 1 else f"{count} seeds"
  return "\n".join([
    "# A U-Net beside a DiT",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    "The quickstart's scenes, text encoder and optimiser, with a U-Net [2112.10752 sec. 3.3] in",
    "place of the DiT: residual blocks of convolutions at four sizes, attention and",
    "cross-attention at 8 x 8 and 4 x 4 pixels. For each process its widths make the FLOPs of a",
    "forward pass, and so of training (three times as many an image), those of the DiT within 5%,",
    "and both have seen as many images. The DiT has patches of 8 pixels with flow matching and of",
    "4 as a DDPM.",
    "",
    table(["config", "M parameters", "MFLOPs forward", "images", "CPU ms an image"], sizes),
    "",
    "CPU time is that of training on two cores from the first log line on: steps, and a validation",
    "every 100 of them; a mean of the seeds.",
    "",
    "## What they draw",
    "",
    f"Percent right by the judge of {prompts} prompts a category: {trained}, seen and held-out",
    "compositions together, with 95% Wilson intervals of drawings.",
    "",
    table(["", *CATEGORIES], scores),
    "",
    "Each seed by itself; the validation loss is each process's own:",
    "",
    table(["", *CATEGORIES, "validation loss"], seeds),
    "",
    "## What they learned",
    "",
    "Mean square of the error of x0_hat on validation images in [-1, 1], at the same sigma /",
    "alpha, a mean of the seeds:",
    "",
    table(["", *(f"at {ratio:g}" for ratio in RATIOS)], errors),
    "",
    "![A row a model, in the order of the tables](backbones.png)",
    "",
    f"A row a model in the order of the tables, seed 0, the same noise: {'; '.join(SHOWN)}.",
    "",
    *LIMITS,
  ])  # fmt: skip


LIMITS = (
  "## What this does not say",
  "",
  "The optimiser and its rates were tuned on the DiT, and the smaller U-Net has a third of its",
  "weights. The quickstart trains on 140,800 images: with fewer, what is compared is how fast",
  "models begin to learn. A model that draws nothing right says no more than its errors.",
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/backbones", help="where runs go")
  parser.add_argument("--flow-steps", type=int, default=800, help="of flow matching")
  parser.add_argument("--ddpm-steps", type=int, default=400, help="of the DDPMs")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--seeds", type=int, default=2)
  parser.add_argument("--per-cell", type=int, default=50, help="prompts of a category, twice")
  parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  todo = [(name, seed) for seed in range(args.seeds) for name in NAMES]
  with ThreadPoolExecutor(args.jobs) as pool:
    each = list(pool.map(lambda one: measure(train(*one, args), args.per_cell), todo))
  found: dict[str, list[Found]] = {name: [] for name in NAMES}
  for (name, _), one in zip(todo, each, strict=True):
    found[name].append(one)
  grid([list(runs[0].images) for runs in found.values()], SCALE).save(
    Path(args.to, "backbones.png")
  )
  command = f"python -m benchmarks.backbones --data={args.data} --flow-steps={args.flow_steps}"
  command += f" --ddpm-steps={args.ddpm_steps} --batch={args.batch} --seeds={args.seeds}"
  command += f" --per-cell={args.per_cell}"
  line = run_of(command, *(Path(args.runs, f"{n}_{s}", "config.json") for n, s in todo))
  write(Path(args.to, "backbones.md"), page(found, command), line)
  print(Path(args.to, "backbones.md"))


if __name__ == "__main__":
  main()
