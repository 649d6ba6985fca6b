"""Autoencoders at equal budget, and what a model on the latents of each draws.

python -m benchmarks.autoencoders --data=runs/data/scenes_quickstart --emoji=runs/data/emoji32

Makes docs/autoencoders.md and two sheets: trains five kinds on scenes and on emoji, each for as
many steps (or goes on where it stopped), scores what they give back, trains a model on the latents
of each and on pixels, and scores that: on scenes the quickstart's with the judge, on emoji that of
configs/emoji_dit_flow.py by retrieval. Two hours on two cores.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.few_step import CATEGORIES, cell, finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.cli.evaluate import draw_all, real_images
from t2i_jax.config import load_config
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.evaluation.retrieval import Figure, score_drawn
from t2i_jax.evaluation.score import Score, score
from t2i_jax.inference import Model, open_model
from t2i_jax.inference.reconstruction import score_reconstructions

# name -> config of the autoencoder
KINDS = {
  "KL, 4 channels": "vae_kl.py:kl4",
  "KL, 16 channels": "vae_kl.py:kl16",
  "VQ, 512 codes": "vq.py:vq",
  "FSQ, 8 x 8 x 8": "vq.py:fsq",
  "LFQ, 512 codes": "vq.py:lfq",
}
SCENES, EMOJI = "heldout", "val_concept"  # splits that are given back
IMAGES = 500
PER_CELL = 50
PROMPT_SEED = 40_000
SHOWN = 8  # images in a sheet
PIXELS = "none: pixels"
DRAWN = 256  # emoji of trained captions
SEED = 50_000
SCENES_PARENT, EMOJI_PARENT = "scenes_dit_flow", "emoji_dit_flow"
GENERATOR = """from t2i_jax.configs import {parent} as parent


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


def train_generator(config: str, workdir: Path, data: str, steps: int) -> Path:
  if not finished(workdir):
    t2i(
      "train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={data}",
      f"--config.train.steps={steps}", "--config.sampling.every=0",
    )  # fmt: skip
  return workdir


def judged(workdir: Path) -> Score:
  """What a model of scenes draws."""
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


class Emoji:
  """The real emoji of the training split, and an encoder that says which of them are near."""

  def __init__(self, data: str, encoder: Path):
    source = ShardSource(data, "train")
    self.real, _, self.concepts, _ = real_images(source, (32, 32), "concept")
    self.wanted = [(r.captions[0], str(r.meta["concept"])) for r in source.spread(DRAWN)]
    model = open_model(encoder)
    self.embed = partial(model.need("embed"), model.params)

  def retrieved(self, workdir: Path) -> Figure:
    """How often the image nearest to what a model draws for a trained caption is of its concept."""
    prompts, wanted = zip(*self.wanted, strict=True)
    drawn = draw_all(open_model(workdir), prompts, SEED)
    found = score_drawn("train", prompts, wanted, drawn, self.real, self.concepts, self.embed)
    print(workdir, found.figures[0].top[5].percent(), flush=True)
    return found.figures[0]


def models_of_emoji(
  found: dict[str, Found], args: argparse.Namespace
) -> dict[str, tuple[Path, Figure]]:
  """Models on the latents of each, and on pixels, with their retrieval."""
  if not finished(Path(args.encoder)):
    t2i("train", "--config=configs/emoji_contrastive.py", f"--workdir={args.encoder}")
  compared, how = Emoji(args.emoji, Path(args.encoder)), (args.emoji, args.emoji_steps)
  models = {name: generator(one, EMOJI_PARENT, *how) for name, one in found.items()}
  pixels = Path(args.runs, "emoji_pixels")
  models[PIXELS] = train_generator(f"configs/{EMOJI_PARENT}.py", pixels, *how)
  return {name: (workdir, compared.retrieved(workdir)) for name, workdir in models.items()}


def generator(found: Found, parent: str, data: str, steps: int) -> Path:
  """Trains a model on the latents of an autoencoder."""
  workdir = found.workdir
  config = workdir.with_name(f"{workdir.name}_generator.py")
  channels = found.model.config.model.channels
  config.write_text(GENERATOR.format(parent=parent, workdir=workdir, channels=channels))
  return train_generator(str(config), workdir.with_name(f"{workdir.name}_generator"), data, steps)


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
  retrieved: dict[str, Figure],
  args: argparse.Namespace,
) -> str:
  head = ["autoencoder", "latents", "PSNR, dB", "SSIM", "codes used", "perplexity"]
  judged = {n: [cell(s.pooled(category)) for category in CATEGORIES] for n, s in drawn.items()}
  found = {n: [f"{f.top[k].percent()} {f.top[k].interval()}" for k in (1, 5)]
           for n, f in retrieved.items()}  # fmt: skip
  return "\n".join([
    "# Autoencoders",
    "",
    "Five autoencoders of images at 32 x 32 pixels (`configs/vae_kl.py`, `configs/vq.py`), each",
    f"trained once for {args.steps} steps of {args.batch} images, with a patch discriminator from",
    "half of them on. PSNR, SSIM and codes are of held-out images, given back from the mean of the",
    "posterior; perplexity is that of the codes' frequencies. FSQ and LFQ have a term of the",
    "entropy of their codes: without it FSQ used 47% of them on scenes and 87% on emoji, at 22.7",
    "and 18.0 dB.",
    "",
    "## Scenes",
    "",
    "With the quickstart's model on the latents of each, trained for",
    f"{args.generator_steps} steps of 64, with patches of 2 latents: 16 tokens, as on pixels. The",
    f"last columns are percent right by the judge, of {2 * PER_CELL} prompts a category, seen and",
    "held-out compositions together, with 95% Wilson intervals.",
    "",
    table([*head, *CATEGORIES], with_columns(scenes, judged)),
    "",
    f"`{SCENES}`, {quantity(scenes)} images. {SHOWN} of them, and below them, in the order of the",
    "table, what is given back:",
    "",
    "![Held-out scenes, and below them what each autoencoder gives back](autoencoders.png)",
    "",
    "## Emoji",
    "",
    *retrieval_of(retrieved, args),
    table([*head, *(["top 1", "top 5"] if found else [])], with_columns(emoji, found)),
    "",
    f"`{EMOJI}`, {quantity(emoji)} images of concepts that no training image has. A model that is",
    "trained for longer on the latents of an autoencoder of larger emoji is in",
    "[emoji_latent.md](emoji_latent.md).",
    "",
    "![Held-out emoji, and below them what each autoencoder gives back](autoencoders_emoji.png)",
    "",
    read_manifest(args.emoji)["attribution"],
  ])  # fmt: skip


def with_columns(found: dict[str, Found], columns: dict[str, list[str]]) -> list[list[Any]]:
  """A row an autoencoder, and one of pixels, with what a model on the latents of each reaches."""
  rows = {name: row(name, one) for name, one in found.items()}
  if columns:
    rows[PIXELS] = [PIXELS, "32 x 32 x 3", *["-"] * 4]
  return [[*own, *columns.get(name, [])] for name, own in rows.items()]


def retrieval_of(retrieved: dict[str, Figure], args: argparse.Namespace) -> list[str]:
  """What the columns of emoji's models say."""
  if not retrieved:
    return []
  first = next(iter(retrieved.values()))
  return [
    "With the model of `configs/emoji_dit_flow.py` on the latents of each, trained for",
    f"{args.emoji_steps} steps of 128, with patches of 2 latents. The last columns are retrieval:",
    f"of {DRAWN} drawings of trained captions, how often the nearest of all training images by",
    "`configs/emoji_contrastive.py` has the caption's concept, or one of the five nearest; of",
    f"images at random {100 * first.chance[1]:.1f}% and {100 * first.chance[5]:.1f}%, from which",
    "an interval that begins below them does not tell a model.",
    "",
  ]


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
  parser.add_argument("--generator-steps", type=int, default=700, help="of a model of scenes")
  parser.add_argument("--emoji-steps", type=int, default=300, help="of a model of emoji; 0: none")
  parser.add_argument("--encoder", default="runs/emoji_contrastive", help="that compares emoji")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  Path(args.runs).mkdir(parents=True, exist_ok=True)
  scenes = {name: measured(name, args.data, SCENES, args) for name in KINDS}
  emoji = {name: measured(name, args.emoji, EMOJI, args) for name in KINDS}
  models = {
    name: generator(one, SCENES_PARENT, args.data, args.generator_steps)
    for name, one in scenes.items()
  }
  models[PIXELS] = train_generator(
    f"configs/{SCENES_PARENT}.py", Path(args.runs, "pixels"), args.data, args.generator_steps
  )
  drawn = {name: judged(workdir) for name, workdir in models.items()}
  of_emoji = models_of_emoji(emoji, args) if args.emoji_steps else {}
  retrieved = {name: figure for name, (_, figure) in of_emoji.items()}
  sheet(scenes, Path(args.to, "autoencoders.png"))
  sheet(emoji, Path(args.to, "autoencoders_emoji.png"))
  command = f"python -m benchmarks.autoencoders --data={args.data} --emoji={args.emoji}"
  command += f" --steps={args.steps} --batch={args.batch} --generator-steps={args.generator_steps}"
  command += f" --emoji-steps={args.emoji_steps}"
  runs = [one.workdir for one in (*scenes.values(), *emoji.values())]
  runs += [*models.values(), *(workdir for workdir, _ in of_emoji.values())]
  line = run_of(command, *(workdir / "config.json" for workdir in runs))
  write(Path(args.to, "autoencoders.md"), page(scenes, emoji, drawn, retrieved, args), line)
  print(Path(args.to, "autoencoders.md"))


if __name__ == "__main__":
  main()
