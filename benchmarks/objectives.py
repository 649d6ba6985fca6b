"""Five objectives at equal budget, three solvers, four step counts: docs/objectives.md and .png.

python -m benchmarks.objectives --data=runs/data/scenes_quickstart --runs=runs/objectives

Trains the quickstart's model, with patches of 4 pixels instead of 8, on each objective (or goes on
where it stopped), scores every combination with the judge, and compares what the models know by the
error of x0_hat at the same noise. Patches of 8 hold 192 numbers, as many as a token of this model:
noise does not fit through, so that whatever predicts noise fails there and x0 alone does not
[2511.13720 sec. 4]. About an hour on two cores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.config import apply_overrides
from t2i_jax.data.loader import validation_batches
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import ShardSource
from t2i_jax.evaluation.score import score
from t2i_jax.inference import Model, open_model
from t2i_jax.process import convert, like
from t2i_jax.sampling.grids import at_ratios
from t2i_jax.systems.draw import make_draw
from t2i_jax.systems.system import flat_images

OBJECTIVES: dict[str, dict[str, str]] = {
  "DDPM, eps": {
    "kind": "ddpm_scaled_linear", "prediction": "eps", "weighting": "eps", "timesteps": "uniform",
  },
  "DDPM, v": {
    "kind": "ddpm_scaled_linear", "prediction": "v", "weighting": "v", "timesteps": "uniform",
  },
  "flow, velocity": {"prediction": "velocity"},
  "flow, x0": {},  # the quickstart's
  "EDM": {
    "kind": "edm", "prediction": "edm", "weighting": "edm", "timesteps": "edm",
  },
}  # fmt: skip
SOLVERS = {"euler (DDIM)": "euler", "DPM-Solver++ 2M": "dpmpp", "Heun": "heun"}
STEPS = (5, 10, 20, 50)
RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)  # sigma / alpha at which x0_hat is compared
CATEGORIES = ("single", "binding", "relation")
PER_CELL = 30
SHOWN = (
  "a red circle",
  "a yellow circle and a purple square",
  "a green square above a red triangle",
)
ROWS = 256  # validation images
PATCH = 4
SCALE = 2


def train_all(data: str, runs: Path, steps: int) -> dict[str, Path]:
  """One run an objective, by the same command but for config.process and EDM's grid."""
  workdirs = {}
  for name, process in OBJECTIVES.items():
    workdir = runs / name.lower().replace(", ", "_")
    flags = [f"--config.process.{key}={value}" for key, value in process.items()]
    if process.get("kind") == "edm":  # a grid for its sigmas, which t does not space well
      flags.append("--config.sampling.grid=karras")
    flags += [f"--config.model.patch={PATCH}", f"--config.train.steps={steps}"]
    flags += ["--config.checkpoint.every=0", "--config.sampling.every=0"]
    common = [f"--workdir={workdir}", f"--config.data.dir={data}"]
    t2i("train", "--config=configs/compare/speedrun.py:first", *common, *flags)
    workdirs[name] = workdir
  return workdirs


def x0_errors(at: Model) -> list[float]:
  """Mean squared error of x0_hat on validation images, at each of RATIOS."""
  c, system = at.config, at.system
  source = ShardSource(c.data.dir, c.data.val_split)
  (rows,) = validation_batches(source, system.row_maker(), ROWS, ROWS, np.arange(ROWS))
  grid = at_ratios(system.process, np.sort(RATIOS)[::-1])

  @jax.jit
  def error(params, batch, time, key):
    x0 = system.encode(params, flat_images(batch))
    eps = jax.random.normal(key, x0.shape)
    x_t = like(time.alpha, x0) * x0 + like(time.sigma, x0) * eps
    cond = system.encode_text(params, batch.text)
    x0_hat = convert(system.denoise(params, x_t, time, cond), "x0", x_t, time).value
    return jnp.mean(jnp.square(x0_hat - x0))

  times = [jax.tree.map(lambda f, i=i: jnp.float32(f[i]), grid) for i in range(len(RATIOS))]
  found = [float(error(at.params, rows, time, jax.random.key(7))) for time in times]
  return found[::-1]


def measure(workdir: Path) -> dict[str, Any]:
  """Scores and images of one model under every solver and step count."""
  at = open_model(workdir)
  cells, images = {}, {}
  for label, solver in SOLVERS.items():
    for steps in STEPS:
      sampling = at.config.sampling.copy_and_resolve_references()
      apply_overrides(sampling, {"solver": solver, "steps": str(steps)}, "config.sampling")
      draw = make_draw(at.system, sampling, at.mesh)
      result = score(
        lambda captions, seed, draw=draw: draw(
          at.params, captions, range(seed, seed + len(captions))
        ),
        "easy",
        size=at.config.data.image_size[0],
        per_cell=PER_CELL,
        seed=20_000,  # prompts that no choice was made on
        categories=CATEGORIES,
      )
      rates = [result.pooled(category).rate for category in CATEGORIES]
      cells[f"{label}|{steps}"] = rates
      images[f"{label}|{steps}"] = draw(at.params, SHOWN, range(len(SHOWN)))
      print(workdir.name, label, steps, [f"{r:.0%}" for r in rates], flush=True)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  last = [line for line in lines if line["kind"] == "val"][-1]
  return {
    "cells": cells,
    "images": images,
    "x0": x0_errors(at),
    "val": last["loss"],
    "steps": at.step,
  }


def sheet(found: dict[str, dict[str, Any]]) -> Image.Image:
  """A row an objective, a block of three images a step count, a band a solver."""
  rows = [
    [image for steps in STEPS for image in of["images"][f"{label}|{steps}"]]
    for label in SOLVERS
    for of in found.values()
  ]
  return grid(rows, SCALE, block=len(SHOWN), band=len(found))


def page(found: dict[str, dict[str, Any]], command: str) -> str:
  any_of = next(iter(found.values()))
  lines = [
    "# Five objectives at equal budget",
    "",
    "Made by",
    "",
    f"    {command}",
    "",
    f"The quickstart's model, data and optimiser, with patches of {PATCH} pixels;",
    f"{any_of['steps']} steps of 96 images each, one seed. Only `config.process` differs",
    "(`OBJECTIVES` in the script), and EDM's grid, which is Karras's.",
    "",
    "## What they learned",
    "",
    "The validation loss is each objective's own and says nothing across rows. The error of x0_hat",
    f"does: mean square over {ROWS} validation images in [-1, 1], at the same sigma / alpha.",
    "",
  ]
  head = ["objective", "validation loss", *(f"x0 error at {r:g}" for r in RATIOS)]
  losses = [
    [name, f"{of['val']:.4f}", *(f"{e:.4f}" for e in of["x0"])] for name, of in found.items()
  ]
  lines.append(table(head, losses))
  n = 2 * PER_CELL
  lines += [
    "",
    "## What they draw",
    "",
    f"Percent correct, single / binding / relation, {n} drawings each, of seen and held-out",
    f"compositions together; one standard error is at most {50 / n**0.5:.1f}. Guidance scale 2.5.",
    "Heun calls the network twice a step.",
    "",
  ]
  rows = []
  for name, of in found.items():
    for label in SOLVERS:
      cells = [
        " / ".join(f"{100 * rate:.0f}" for rate in of["cells"][f"{label}|{steps}"])
        for steps in STEPS
      ]
      rows.append([name, label, *cells])
  lines += [
    table(["objective", "solver", *(f"{s} steps" for s in STEPS)], rows),
    "",
    f"![Drawings: a band a solver, a row an objective, a block a step count]({IMAGE})",
    "",
    f"Bands from top to bottom: {', '.join(SOLVERS)}. Rows of a band: {', '.join(OBJECTIVES)}.",
    f"Blocks from left to right: {', '.join(map(str, STEPS))} steps, of " + "; ".join(SHOWN) + ".",
    "",
  ]
  return "\n".join(lines)


IMAGE = "objectives.png"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/objectives")
  parser.add_argument("--steps", type=int, default=800, help="of training")
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  workdirs = train_all(args.data, Path(args.runs), args.steps)
  found = {name: measure(workdir) for name, workdir in workdirs.items()}
  command = f"python -m benchmarks.objectives --data={args.data} --runs={args.runs}"
  command += f" --steps={args.steps}"
  sheet(found).save(Path(args.to) / IMAGE)
  configs = (workdir / "config.json" for workdir in workdirs.values())
  write(Path(args.to, "objectives.md"), page(found, command), run_of(command, *configs))
  print(Path(args.to, "objectives.md"))


if __name__ == "__main__":
  main()
