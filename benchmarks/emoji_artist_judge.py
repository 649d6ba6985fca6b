"""Three artists' emoji of the same concepts, and a small classifier that tells them apart.

The third artist's come from the folder of an npm package of Iconify. The classifier is trained on
real images and is in no loss of a generator.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.recorded import load_params, save_params
from t2i_jax.data.from_emoji import (
  FLAGS,
  STYLES,
  Emoji,
  bucket,
  category,
  draw_svg,
  group,
  has_skin_tone,
  key_of,
  names,
  split_of,
)
from t2i_jax.data.source import ShardSource
from t2i_jax.data.transforms import fit_image
from t2i_jax.evaluation.stats import Rate
from t2i_jax.models.image_encoder import ImageEncoder, ImageEncoderConfig
from t2i_jax.models.layers import Dense
from t2i_jax.models.params import Params, init_params, with_params

SIDE = 32
FEATURES = 64
STEPS, BATCH, RATE, DECAY = 500, 120, 2e-3, 1e-2  # AdamW
SHIFT = 2  # pixels, at random, so that a margin alone does not tell artists apart
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '


class Artist(NamedTuple):
  """A set of icons.   name: first word of its title;   svgs: by key;   info: of the package"""

  name: str
  svgs: dict[str, str]
  info: dict[str, Any]


def read_artist(folder: str | Path) -> Artist:
  """The emoji of an npm package of Iconify, which has icons.json, chars.json and info.json."""
  read = lambda name: json.loads(Path(folder, f"{name}.json").read_text("utf-8"))
  icons, info = read("icons"), read("info")
  svgs = {}
  for points, name in read("chars").items():
    key = key_of("".join(chr(int(point, 16)) for point in points.split("-")))
    svgs[key] = svg_of(icons, name)
  info["version"] = read("package")["version"]
  return Artist(info["name"].split()[0], svgs, info)


def svg_of(icons: dict[str, Any], name: str) -> str:
  """An icon as a document; an alias is its parent's."""
  while name not in icons["icons"]:
    name = icons["aliases"][name]["parent"]
  icon = icons["icons"][name]
  number = lambda field, default: icon.get(field, icons.get(field, default))
  box = [number(*pair) for pair in (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
  return f'{SVG}viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'


class Concepts(NamedTuple):
  """Concepts that all three artists have drawn, in hashed order.

  keys    code points;   images: uint8 [n, 3, SIDE, SIDE, 3], by artist
  styles  names of the artists, the third last
  """

  keys: tuple[str, ...]
  images: np.ndarray
  styles: tuple[str, ...]

  def name(self, i: int) -> str:
    return names()[self.keys[i]][0]

  def where(self, name: str) -> int:
    return next(i for i in range(len(self.keys)) if self.name(i) == name)


def concepts_of(data: str | Path, artist: Artist) -> Concepts:
  """data: built by `t2i data build --from=emoji`; flags are left out"""
  found: dict[str, dict[str, np.ndarray]] = {}
  for split in Emoji.splits:
    source = ShardSource(str(data), split)
    for record in (source[i] for i in range(len(source))):
      style, key = str(record.meta["style"]), str(record.meta["concept"])
      if key in artist.svgs and category(key) != FLAGS and not has_skin_tone(key):
        found.setdefault(key, {})[style] = fit_image(record.image, (SIDE, SIDE))
  keys = [key for key, images in found.items() if len(images) == len(STYLES)]
  keys.sort(key=lambda key: bucket(key, 2**64))
  of = lambda key: [*(found[key][s] for s in STYLES), np.asarray(draw_svg(artist.svgs[key], SIDE))]
  images = np.stack([np.stack(of(key)) for key in keys])
  return Concepts(tuple(keys), images, (*STYLES, artist.name))


class Parts(NamedTuple):
  """Indices of concepts.   known: the base was trained on in both styles, and not taught"""

  taught: list[int]
  held_out: list[int]
  trained: list[int]
  known: list[int]


def divided(concepts: Concepts, taught: tuple[str, ...]) -> Parts:
  """Held out of the classifier are the groups that the base has never seen (val_concept)."""
  ten = [concepts.where(name) for name in taught]
  groups = {group(concepts.keys[i]) for i in ten}
  splits = [{split_of(key, style) for style in STYLES} for key in concepts.keys]
  rest = [i for i, key in enumerate(concepts.keys) if group(key) not in groups]
  held_out = [i for i in rest if splits[i] == {"val_concept"}]
  trained = [i for i in rest if i not in set(held_out)]
  return Parts(ten, held_out, trained, [i for i in trained if splits[i] == {"train"}])


class Classifier(nnx.Module):
  """Images in [-1, 1], [B, SIDE, SIDE, 3] -> logits [B, 3]."""

  def __init__(self, rngs: nnx.Rngs):
    config = ImageEncoderConfig(
      width=32, depth=1, stages=2, side=SIDE, patch=2, channels=3, head=FEATURES
    )
    self.encoder = ImageEncoder(config, rngs)
    self.head = Dense(rngs, FEATURES, len(STYLES) + 1, ("embed", None))

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.head(FEATURES**0.5 * self.encoder(x))


@jax.jit
def logits(params: Params, images: jax.Array) -> jax.Array:
  """images: uint8 [B, SIDE, SIDE, 3]"""
  return with_params(Classifier)(params)(images.astype(jnp.float32) / 127.5 - 1)


def learn(concepts: Concepts, which: list[int], steps: int = STEPS, seed: int = 0) -> Params:
  """Weights of the classifier after so many steps on these concepts."""
  images = concepts.images[which].reshape(-1, SIDE, SIDE, 3)
  labels = np.tile(np.arange(len(concepts.styles)), len(which))
  params = init_params(Classifier, jax.random.key(seed))
  tx = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=DECAY)

  def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

  @jax.jit
  def step(params: Params, state: Any, x: jax.Array, y: jax.Array) -> Any:
    changes, state = tx.update(jax.grad(loss)(params, x, y), state, params)
    return optax.apply_updates(params, changes), state

  state, rng = tx.init(params), np.random.default_rng(seed)
  for _ in range(steps):
    rows = rng.integers(len(images), size=BATCH)
    params, state = step(params, state, views(images[rows], rng), labels[rows])
  return params


def views(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Shifted by up to SHIFT pixels, half of them mirrored."""
  n, m = len(images), 2 * SHIFT + 1
  padded = np.pad(images, ((0, 0), (SHIFT,) * 2, (SHIFT,) * 2, (0, 0)), constant_values=255)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))  # [n,m,m,3,h,w]
  chosen = windows[np.arange(n), rng.integers(m, size=n), rng.integers(m, size=n)]
  chosen = chosen.transpose(0, 2, 3, 1)
  mirrored = rng.random(n) < 0.5
  return np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)


def styles_of(params: Params, images: np.ndarray) -> np.ndarray:
  """The most probable artist of each image [n] int.   images: uint8 [n, SIDE, SIDE, 3]"""
  n = len(images)
  padded = np.pad(images, ((0, -n % BATCH), *[(0, 0)] * 3))  # one compiled program
  parts = [logits(params, padded[i : i + BATCH]) for i in range(0, len(padded), BATCH)]
  return np.concatenate([np.argmax(part, axis=-1) for part in parts])[:n]


def confusion(params: Params, concepts: Concepts, which: list[int]) -> list[list[Rate]]:
  """Of real images of each artist, the rates of the answers."""
  answers = [styles_of(params, concepts.images[which, i]) for i in range(len(concepts.styles))]
  return [[Rate.of(row == i) for i in range(len(concepts.styles))] for row in answers]


def learned(file: Path, concepts: Concepts, which: list[int], steps: int = STEPS) -> Params:
  """`learn`, kept in a file."""
  if not file.is_file():
    save_params(file, learn(concepts, which, steps))
  return load_params(file)
