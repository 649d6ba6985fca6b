"""Autoencoders at equal budget, and what a model on the latents of each draws.

python -m benchmarks.autoencoders --data=runs/data/scenes_quickstart --emoji=runs/data/emoji32

Makes docs/autoencoders.md and two sheets: trains four kinds on scenes and on emoji, each for as
many steps (or goes on where it stopped), scores what they give back, trains the quickstart's model
on the scenes' latents of each and on pixels, and scores that with the judge. 40 minutes on two
cores.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.few_step import CATEGORIES, cell, finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.config import load_config
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import read_manifest
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
SCENES, EMOJI = "heldout", "val_concept"  # splits that are given back
IMAGES = 500
PER_CELL = 50
PROMPT_SEED = 40_000
SHOWN = 8  # images in a sheet
PIXELS = "none: pixels"
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
  """An autoencoder, and how it gives held-out images back: scores, images, what is given back."""

  workdir: Path
  model: Model
  quality: dict[str, Any]
  images: list[Any]
  back: list[Any]


def train_autoencoder(
  kind: str, workdir: Path, data: str, split: str, args: argparse.Namespace
) -> None:
  config = f"configs/{kind}"
  objective = load_config(config).train.objective.replace("start=1000", f"start={args.steps // 2}")
  if not finished(workdir):
    t2i(
      "train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={data}",
      f"--config.train.steps={args.steps}", f"--config.train.batch={args.batch}",
      f"--config.train.objective={objective}", "--config.checkpoint.every=200",
      "--config.eval.every=200", f"--config.data.val_split={split}", "--config.text.vocab=4096",
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


def measured(name: str, data: str, split: str, args: argparse.Namespace) -> Found:
  """Trains and scores one kind on the images of a folder."""
  kind = KINDS[name]
  workdir = Path(args.runs, f"{Path(data).name}_{kind.partition(':')[2]}")
  train_autoencoder(kind, workdir, data, split, args)
  model = open_model(workdir)
  scores, rows = score_reconstructions(model, IMAGES)
  print(workdir, scores[split], flush=True)
  at = 2 * list(scores).index(split)  # two rows a split
  return Found(workdir, model, scores[split], list(rows[at]), list(rows[at + 1]))


def generated(found: Found, args: argparse.Namespace) -> Score:
  """Trains the quickstart's model on the latents of an autoencoder, and scores it."""
  workdir = found.workdir
  config = workdir.with_name(f"{workdir.name}_generator.py")
  config.write_text(GENERATOR.format(workdir=workdir, channels=found.model.config.model.channels))
  generator = workdir.with_name(f"{workdir.name}_generator")
  train_generator(str(config), generator, args)
  return drawn_by(generator)


def row(name: str, found: Found) -> list[Any]:
  q = found.quality
  height, width, channels = found.model.system.x_shape
  codes = f"{100 * q['codes_used']:.0f}%" if "codes_used" in q else "-"
  perplexity = f"{q['perplexity']:.0f}" if "perplexity" in q else "-"
  shape = f"{height} x {width} x {channels}"
  return [name, shape, f"{q['psnr']:.1f}", f"{q['ssim']:.3f}", codes, perplexity]


def page(
  scenes: dict[str, Found],
  emoji: dict[str, Found],
  drawn: dict[str, Score],
  args: argparse.Namespace,
) -> str:
  head = ["autoencoder", "latents", "PSNR, dB", "SSIM", "codes used", "perplexity"]
  rows = {name: row(name, one) for name, one in scenes.items()}
  rows[PIXELS] = [PIXELS, "32 x 32 x 3", *["-"] * 4]
  for name, score_of in drawn.items():
    rows[name] += [cell(score_of.pooled(category)) for category in CATEGORIES]
  return "\n".join([
    "# Autoencoders",
    "",
    "Four autoencoders of images at 32 x 32 pixels (`configs/vae_kl.py`, `configs/vq.py`), each",
    f"trained once for {args.steps} steps of {args.batch} images, with a patch discriminator from",
    "half of them on. PSNR, SSIM and codes are of held-out images, given back from the mean of the",
    "posterior; perplexity is that of the codes' frequencies.",
    "",
    "## Scenes",
    "",
    "With the quickstart's model on the latents of each, trained for",
    f"{args.generator_steps} steps of 64, with patches of 2 latents: 16 tokens, as on pixels. The",
    f"last columns are percent right by the judge, of {2 * PER_CELL} prompts a category, seen and",
    "held-out compositions together, with 95% Wilson intervals.",
    "",
    table([*head, *CATEGORIES], rows.values()),
    "",
    f"`{SCENES}`, {quantity(scenes)} images. {SHOWN} of them, and below them, in the order of the",
    "table, what is given back:",
    "",
    "![Held-out scenes, and below them what each autoencoder gives back](autoencoders.png)",
    "",
    "## Emoji",
    "",
    table(head, [row(name, one) for name, one in emoji.items()]),
    "",
    f"`{EMOJI}`, {quantity(emoji)} images of concepts that no training image has. A model on the",
    "latents of an autoencoder of larger emoji is in [emoji_latent.md](emoji_latent.md).",
    "",
    "![Held-out emoji, and below them what each autoencoder gives back](autoencoders_emoji.png)",
    "",
    read_manifest(args.emoji)["attribution"],
  ])  # fmt: skip


def quantity(found: dict[str, Found]) -> int:
  return int(next(iter(found.values())).quality["images"])


def sheet(found: dict[str, Found], to: Path) -> None:
  first = next(iter(found.values()))
  rows = [first.images[:SHOWN], *(one.back[:SHOWN] for one in found.values())]
  grid(rows, 3).save(to, optimize=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", default="runs/data/scenes_quickstart")
  parser.add_argument("--emoji", default="runs/data/emoji32")
  parser.add_argument("--runs", default="runs/autoencoders", help="where runs go")
  parser.add_argument("--steps", type=int, default=800, help="of each autoencoder")
  parser.add_argument("--batch", type=int, default=16, help="of each autoencoder")
  parser.add_argument("--generator-steps", type=int, default=700)
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  Path(args.runs).mkdir(parents=True, exist_ok=True)
  scenes = {name: measured(name, args.data, SCENES, args) for name in KINDS}
  emoji = {name: measured(name, args.emoji, EMOJI, args) for name in KINDS}
  drawn = {name: generated(one, args) for name, one in scenes.items()}
  on_pixels = Path(args.runs, "pixels")
  train_generator("configs/scenes_dit_flow.py", on_pixels, args)
  drawn[PIXELS] = drawn_by(on_pixels)
  sheet(scenes, Path(args.to, "autoencoders.png"))
  sheet(emoji, Path(args.to, "autoencoders_emoji.png"))
  command = f"python -m benchmarks.autoencoders --data={args.data} --emoji={args.emoji}"
  command += f" --steps={args.steps} --batch={args.batch} --generator-steps={args.generator_steps}"
  runs = (*(one.workdir for one in (*scenes.values(), *emoji.values())), on_pixels)
  line = run_of(command, *(workdir / "config.json" for workdir in runs))
  write(Path(args.to, "autoencoders.md"), page(scenes, emoji, drawn, args), line)
  print(Path(args.to, "autoencoders.md"))


if __name__ == "__main__":
  main()
