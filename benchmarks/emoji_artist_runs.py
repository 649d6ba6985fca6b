"""The runs of docs/emoji_artist.md: a base, verbs that adapt it, and what each model draws."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.emoji import children, minutes
from benchmarks.emoji_artist_judge import (
  SIDE,
  Artist,
  Concepts,
  Parts,
)
from benchmarks.few_step import finished
from benchmarks.quickstart import t2i
from t2i_jax.cli.evaluate import draw_all
from t2i_jax.inference import open_model

TAUGHT = (
  "fox", "pizza", "rocket", "mushroom", "alarm clock",
  "house", "automobile", "sunflower", "crown", "teddy bear",
)  # fmt: skip
FORGOTTEN, NEIGHBOUR = "Twemoji", "OpenMoji"
BASE_STEPS = 500
DRAWN = 64  # concepts a kind of prompt
OWN = 4  # drawings of each of the ten
TEMPLATES = 32  # concepts whose prompts forget the style
SEED, OWN_SEED = 70_000, 80_000


class Method(NamedTuple):
  """A row of the tables.

  label
  flags  of the verb, the first is the verb; none of the base
  of     the row whose weights draw
  """

  label: str
  flags: tuple[str, ...] = ()
  of: str = ""


def taught(name: str) -> tuple[str, ...]:
  return ("personalise", f"--method={name}")


FORGET_RATE = 2e-4


def forgets(what: str, anchor: str = "", rate: float = FORGET_RATE) -> tuple[str, ...]:
  return ("forget", f"--what={what}", f"--anchor={anchor}", "--regularisation=1", f"--lr={rate:g}")


ENHANCED = 0.5  # strength of the word in DomainGallery's guidance
PERSONALISED = {
  "domain_gallery": Method("DomainGallery", taught("domain_gallery")),
  "enhanced": Method(f"the same, enhanced by {ENHANCED}", of="domain_gallery"),
  "lora": Method("LoRA with images of the concepts", taught("lora")),
  "dreambooth": Method("DreamBooth, all weights", taught("dreambooth")),
}
ERASED = {
  "forgot_kv": Method("forgotten by keys and values of the text; anchor no style", forgets("kv")),
  "forgot_all": Method("forgotten by all weights; anchor no style", forgets("all")),
  "forgot_for": Method(
    f"forgotten by keys and values; anchor {NEIGHBOUR} style", forgets("kv", f"{NEIGHBOUR} style")
  ),
  "forgot_fast": Method(
    "the same, ten times the learning rate",
    forgets("kv", f"{NEIGHBOUR} style", 10 * FORGET_RATE),
  ),
}
METHODS = {"base": Method("base, untouched"), **PERSONALISED, **ERASED}


class Paths:
  """Where everything lies below --runs."""

  def __init__(self, runs: str):
    self.runs = Path(runs)
    self.data, self.base, self.ten = self.runs / "data", self.runs / "base", self.runs / "ten"
    self.classifier, self.templates = self.runs / "classifier.npz", self.runs / "templates.txt"
    self.seconds, self.compiled = self.runs / "seconds.json", self.runs / "compiled"

  def run(self, name: str) -> Path:
    return self.runs / (METHODS[name].of or name)

  def drawn(self, name: str) -> Path:
    return self.runs / "drawn" / f"{name}.npz"

  def kept_seconds(self) -> dict[str, float]:
    return json.loads(self.seconds.read_text()) if self.seconds.is_file() else {}

  @contextmanager
  def timed(self, what: str) -> Iterator[None]:
    """Adds the seconds of processors of this program and of the commands that it has run."""
    now = lambda: children() + time.process_time()
    began = now()
    try:
      yield
    finally:
      kept = self.kept_seconds()
      kept[what] = kept.get(what, 0.0) + now() - began
      self.seconds.write_text(json.dumps(kept, indent=1) + "\n")


class World(NamedTuple):
  """Everything but the models."""

  artist: Artist
  concepts: Concepts
  parts: Parts
  drawn: int

  @property
  def word(self) -> str:
    return f"{self.artist.name} style"

  @property
  def judged(self) -> list[int]:
    """Concepts that the base was trained on, and no method."""
    return self.parts.known[: self.drawn]

  @property
  def templates(self) -> list[str]:
    """Prompts of further concepts, {} where the style stands."""
    some = self.parts.known[self.drawn : self.drawn + TEMPLATES]
    return [f"{self.concepts.name(i)}, {{}}" for i in some]

  def groups(self) -> dict[str, tuple[list[str], int]]:
    """Prompts by kind, and the first seed: that of a concept is the same in the first four."""
    names = [self.concepts.name(i) for i in self.judged]
    ends = {"word": f", {self.word}", "plain": ""}
    ends |= {style: f", {style} style" for style in self.concepts.styles[:2]}
    found = {kind: ([name + end for name in names], SEED) for kind, end in ends.items()}
    return found | {"taught": ([f"{name}, {self.word}" for name in TAUGHT] * OWN, OWN_SEED)}


def train_base(paths: Paths, steps: int) -> None:
  if not (paths.data / "manifest.json").is_file():
    with paths.timed("data"):
      t2i("data", "build", "--from=emoji", f"--size={SIDE}", f"--to={paths.data}")
  if not finished(paths.base):
    t2i(
      "train", "--config=configs/emoji_dit_flow.py", f"--workdir={paths.base}",
      f"--config.data.dir={paths.data}", f"--config.train.steps={steps}",
      "--config.sampling.every=0", "--config.checkpoint.every=100", "--config.checkpoint.keep=2",
      JAX_COMPILATION_CACHE_DIR=str(paths.compiled),
    )  # fmt: skip
  kept = paths.kept_seconds() | {"base": 60 * minutes(paths.base)}
  paths.seconds.write_text(json.dumps(kept, indent=1) + "\n")


def write_inputs(paths: Paths, world: World) -> None:
  """What a user would have: a folder of ten images, a file of prompts."""
  paths.ten.mkdir(parents=True, exist_ok=True)
  for i, k in enumerate(world.parts.taught):
    Image.fromarray(world.concepts.images[k, -1]).save(paths.ten / f"{i}.png")
  paths.templates.write_text("\n".join(world.templates) + "\n")


def flags_of(paths: Paths, world: World, method: Method) -> list[str]:
  """Of a verb, with its name."""
  shown = [world.concepts.name(i) for i in world.judged[:2]]
  flags = [*method.flags, f"--workdir={paths.base}"]
  if method.flags[0] == "personalise":
    flags += [f"--images={paths.ten}", *(f"--class-word={name}" for name in TAUGHT)]
    flags += [f"--word={world.word}", "--template={class}, {word}"]
    return [*flags, *(f"--prompt={name}, {world.word}" for name in shown)]
  flags += ["--kind=style", f"--concept={FORGOTTEN} style"]
  flags += [f"--templates={paths.templates}"]
  return [*flags, *(f"--keep={name}, {NEIGHBOUR} style" for name in shown)]


def adapt(paths: Paths, world: World, name: str, steps: int) -> None:
  """Runs the verb of a row.   steps: of training; 0: the verb's own"""
  to, method = paths.run(name), METHODS[name]
  if not method.flags or (finished(to) and (to / "eval/report.html").is_file()):
    return
  more = [f"--steps={steps}"] if steps else []
  with paths.timed(name):
    compiled = str(paths.compiled)
    flags = flags_of(paths, world, method)
    t2i(*flags, f"--to={to}", *more, JAX_COMPILATION_CACHE_DIR=compiled)


def sampling_of(paths: Paths, world: World, name: str) -> dict[str, str]:
  """Overrides: enhancement has a share of the scale, which is then the base's in all."""
  if name != "enhanced":
    return {}
  scale = json.loads((paths.base / "config.json").read_text())["sampling"]["cfg"]
  guidance = f"enhance(word='{world.word}',scale={ENHANCED})"
  return {"sampling.guidance": guidance, "sampling.cfg": str(scale / (1 + ENHANCED))}


def draw(paths: Paths, world: World, name: str) -> dict[str, np.ndarray]:
  """uint8 [n, SIDE, SIDE, 3] by kind of prompt, kept in a file."""
  file, groups = paths.drawn(name), world.groups()
  if name == "enhanced":  # of prompts that have the word
    groups = {kind: groups[kind] for kind in ("word", "taught")}
  if not file.is_file():
    file.parent.mkdir(parents=True, exist_ok=True)
    with paths.timed("drawing"):
      model = open_model(paths.run(name), sampling_of(paths, world, name))
      found = {kind: draw_all(model, *given) for kind, given in groups.items()}
    part = file.with_suffix(".part.npz")
    np.savez_compressed(part, **found)
    part.replace(file)
  with np.load(file) as kept:
    return {kind: kept[kind] for kind in groups}
