"""Autoencoders at equal budget, and what a model on the latents of each draws.

python -m benchmarks.autoencoders --data=runs/data/scenes_quickstart --runs=runs/autoencoders

Makes docs/autoencoders.md and .png: trains four kinds for as many steps each (or goes on where each
stopped), scores what they give back, trains the quickstart's model on the latents of each and on
pixels, and scores that with the judge. About 40 minutes on two cores.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.few_step import CATEGORIES, cell, finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.config import load_config
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.score import Score, score
from t2i_jax.inference import Model, open_model
from t2i_jax.inference.reconstruction import score_reconstructions

# name -> config of the autoencoder
KINDS = {
  "KL, 4 channels": "vae_kl.py:kl4",
  "KL, 16 channels": "vae_kl.py:kl16",
  "VQ, 512 codes": "vq.py:vq",
  "FSQ, 8 x 8 x 8": "vq.py:fsq",
}
SPLIT = "heldout"
IMAGES = 500  # that are given back
PER_CELL = 50
PROMPT_SEED = 40_000
SHOWN = 8  # images in the sheet
GENERATOR = """from t2i_jax.configs import scenes_dit_flow as parent


def get_config():
  c = parent.get_config()
  c.name = "on_latents"
  c.autoencoder = "run(path='{workdir}')"
  c.parts.vae = {{"start": "run:{workdir}", "train": "none"}}
  c.model.update(channels={channels}, patch=2)
  return c
"""


class Found(NamedTuple):
  """An autoencoder: how it gives held-out images back, and the score of a model on its latents."""

  model: Model
  quality: dict[str, Any]
  rows: list[Any]
  drawn: Score


def train_autoencoder(kind: str, workdir: Path, args: argparse.Namespace) -> None:
  config = f"configs/{kind}"
  objective = load_config(config).train.objective.replace("start=1000", f"start={args.steps // 2}")
  if not finished(workdir):
    t2i(
      "train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={args.data}",
      f"--config.train.steps={args.steps}", f"--config.train.batch={args.batch}",
      f"--config.train.objective={objective}", "--config.checkpoint.every=200",
      "--config.eval.every=200",
    )  # fmt: skip


def train_generator(config: str, workdir: Path, args: argparse.Namespace) -> None:
  if not finished(workdir):
    t2i(
      "train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={args.data}",
      f"--config.train.steps={args.generator_steps}", "--config.sampling.every=0",
    )  # fmt: skip


def drawn_by(workdir: Path) -> Score:
  model = open_model(workdir)
  draw = lambda captions, seed: model.draw(captions, range(seed, seed + len(captions)))
  size = model.config.data.image_size[0]
  return score(draw, "easy", size=size, per_cell=PER_CELL, seed=PROMPT_SEED, categories=CATEGORIES)


def measured(name: str, args: argparse.Namespace) -> Found:
  """Trains and scores one kind."""
  kind = KINDS[name]
  workdir = Path(args.runs, kind.partition(":")[2])
  train_autoencoder(kind, workdir, args)
  model = open_model(workdir)
  scores, rows = score_reconstructions(model, IMAGES)
  config = workdir.with_suffix(".generator.py")
  config.write_text(GENERATOR.format(workdir=workdir, channels=model.config.model.channels))
  generator = workdir.with_name(f"{workdir.name}_generator")
  train_generator(str(config), generator, args)
  found = Found(model, scores[SPLIT], rows, drawn_by(generator))
  print(name, found.quality, [found.drawn.pooled(c).percent() for c in CATEGORIES], flush=True)
  return found


def row(name: str, found: Found) -> list[Any]:
  q = found.quality
  height, width, channels = found.model.system.x_shape
  codes = f"{100 * q['codes_used']:.0f}%" if "codes_used" in q else "-"
  perplexity = f"{q['perplexity']:.0f}" if "perplexity" in q else "-"
  scored = [cell(found.drawn.pooled(category)) for category in CATEGORIES]
  shape = f"{height} x {width} x {channels}"
  return [name, shape, f"{q['psnr']:.1f}", f"{q['ssim']:.3f}", codes, perplexity, *scored]


def page(found: dict[str, Found], pixels: Score, args: argparse.Namespace) -> str:
  head = ["autoencoder", "latents", "PSNR, dB", "SSIM", "codes used", "perplexity", *CATEGORIES]
  alone = ["none: pixels", "32 x 32 x 3", *["-"] * 4]
  alone += [cell(pixels.pooled(category)) for category in CATEGORIES]
  return "\n".join([
    "# Autoencoders",
    "",
    "Four autoencoders of scenes at 32 x 32 pixels (`configs/vae_kl.py`, `configs/vq.py`), each",
    f"trained once for {args.steps} steps of {args.batch} images, with a patch discriminator from",
    "half of them on; and the quickstart's model on the latents of each, for",
    f"{args.generator_steps} steps of 64, with patches of 2 latents: 16 tokens, as on pixels.",
    "",
    table(head, [*(row(name, one) for name, one in found.items()), alone]),
    "",
    f"PSNR, SSIM and codes are of {IMAGES} held-out images, given back from the mean of the",
    "posterior; perplexity is that of the codes' frequencies. The last columns are percent right",
    f"by the judge, of {2 * PER_CELL} prompts a category, seen and held-out compositions together,",
    "with 95% Wilson intervals.",
    "",
    "![Held-out images, and below them what each autoencoder gives back](autoencoders.png)",
    "",
    f"{SHOWN} held-out images; below them, in the order of the table, what is given back.",
  ])  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--runs", default="runs/autoencoders", help="where runs go")
  parser.add_argument("--steps", type=int, default=800, help="of each autoencoder")
  parser.add_argument("--batch", type=int, default=16, help="of each autoencoder")
  parser.add_argument("--generator-steps", type=int, default=700)
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  Path(args.runs).mkdir(parents=True, exist_ok=True)
  found = {name: measured(name, args) for name in KINDS}
  on_pixels = Path(args.runs, "pixels")
  train_generator("configs/scenes_dit_flow.py", on_pixels, args)
  sheets = [one.rows for one in found.values()]
  originals, *_ = sheets[0][-2:]  # of the last split, and below them what is given back
  rows = [list(originals)[:SHOWN], *(list(rows[-1])[:SHOWN] for rows in sheets)]
  grid(rows, 3).save(Path(args.to, "autoencoders.png"))
  command = f"python -m benchmarks.autoencoders --data={args.data} --runs={args.runs}"
  command += f" --steps={args.steps} --batch={args.batch} --generator-steps={args.generator_steps}"
  runs = (*(Path(args.runs, kind.partition(":")[2]) for kind in KINDS.values()), on_pixels)
  line = run_of(command, *(workdir / "config.json" for workdir in runs))
  write(Path(args.to, "autoencoders.md"), page(found, drawn_by(on_pixels), args), line)
  print(Path(args.to, "autoencoders.md"))


if __name__ == "__main__":
  main()
