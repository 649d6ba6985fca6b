"""Tiny published pipelines and what diffusers draws with them, kept as files that need no torch.

python -m benchmarks.golden_pipelines --to tests/inference/pipelines

A file has all of a folder but its weights, which follow from their names, shapes and spreads: the
folder is written again without torch. `ours` draws with a folder, also for pipeline_parity.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.model_cases import uniform
from t2i_jax.inference.folder import folder_config, open_pipeline
from t2i_jax.systems.tasks import ControlImages, Start

PROMPTS = ("a red cat", "photo of a cat on a red")
LABELS = ("3", "207")
SIDE = 32  # pixels
STEPS = 4
WEIGHTS = ".safetensors"
KEPT = "pos_embed"  # end of the names of tensors that the config determines
DIGITS = 4  # of a mean or a spread


HALF = np.arange(SIDE) < SIDE // 2 + np.zeros((SIDE, 1))  # of an image that is filled, bool [H, W]


class Call(NamedTuple):
  """How a pipeline is sampled: those fields of tiny_pipelines.Tiny."""

  settings: dict[str, str]
  labels: bool
  layers: Sequence[int]
  images: Sequence[tuple[int, int]]
  area: int
  prompts: int
  fills: bool = False
  strength: float = 0.0
  controls: Mapping[str, Any] = {}


class Golden(NamedTuple):
  """A pipeline.

  texts    path -> content of a file
  weights  path -> name -> (shape, name that its numbers follow from, their mean, their spread)
  kept     "path:name" -> tensors that are as they are
  latents  [B, c, h, w] that the decoder is given;   images: uint8 [B, H, W, 3]
  """

  call: Call
  texts: dict[str, str]
  weights: dict[str, dict[str, Any]]
  kept: dict[str, np.ndarray]
  latents: np.ndarray
  images: np.ndarray


def image_of(size: tuple[int, int]) -> np.ndarray:
  """A coloured gradient of this height and width, uint8."""
  y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij")
  return (255 * np.stack([y, x, (y + x) / 2], -1)).astype(np.uint8)


def conditions(count: int) -> list[np.ndarray]:
  """As many condition images, one for each ControlNet."""
  return [np.rot90(image_of((SIDE, SIDE)), i).copy() for i in range(count)]


class Drawn(NamedTuple):
  """noise [B, h, w, C], the latents that the decoder is given [B, c, h, w], images uint8."""

  noise: np.ndarray
  latents: np.ndarray
  images: np.ndarray


def ours(call: Any, folder: Path, steps: int) -> Drawn:
  """What is drawn here with a folder.   call: a Call, or a tiny_pipelines.Tiny"""
  n = call.prompts
  settings = {"sampling.steps": str(steps), "sampling.batch": str(n)} | call.settings
  smaller = {"layers": tuple(call.layers), "area": call.area}
  own = "".join(f", {key}={value}" for key, value in smaller.items() if value)
  if own:
    text = folder_config(folder, (SIDE, SIDE)).text.towers.text_encoder
    settings["text.towers.text_encoder"] = f"{text.removesuffix(')')}{own})"
  model = open_pipeline(folder, settings, (SIDE, SIDE))
  prompts = (LABELS if call.labels else PROMPTS)[:n]
  shown = [np.repeat(image_of(size)[None], n, 0) for size in call.images]
  noise = np.float32(1.7) * uniform("noise", (n, *model.system.x_shape))
  given: dict[str, Any] = {}
  if call.controls:
    how = {key: value for key, value in call.controls.items() if key != "count"}
    images = [np.repeat(image[None], n, 0) for image in conditions(call.controls["count"])]
    given["controls"] = ControlImages(images, **how)
  if call.fills or call.strength:  # from the noise of the seeds
    seeds = range(n)
    keys, process = jax.vmap(jax.random.key)(np.arange(n, dtype=np.uint32)), model.system.process
    noise = np.asarray(process.prior(keys, model.system.x_shape) / process.prior_std)
    mask = np.repeat(HALF[None], n, 0) if call.fills else None
    start = Start(*shown, mask, call.strength or 1.0, repeats=1)
    draw = lambda **how: model.redraw(prompts, seeds, start, **given, **how)
  else:
    given |= {"noise": noise, "references": shown}
    draw = lambda **how: model.draw(prompts, [0] * n, **given, **how)
  z, images = draw(decode=False), draw()
  x = model.system.module(model.params, "vae").restore(z)
  return Drawn(noise, np.moveaxis(np.asarray(x), -1, 1), images)


def write_folder(golden: Golden, root: Path) -> Path:
  """The folder of a pipeline. Needs no torch."""
  for name, text in golden.texts.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, "utf-8")
  for name, about in golden.weights.items():
    tensors = {}
    for key, (shape, seed, mean, spread) in about.items():
      tensors[key] = golden.kept.get(f"{name}:{key}")
      if tensors[key] is None:
        drawn = np.float32(spread * 3**0.5) * uniform(seed, tuple(shape))
        tensors[key] = (np.float32(mean) + drawn).astype(np.float32)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, root / name, {"format": "pt"})
  return root


def described(root: Path, call: Call) -> Golden:
  """A folder without what was drawn with it."""
  texts, weights, kept = {}, {}, {}
  for path in sorted(path for path in root.rglob("*") if path.is_file()):
    name = path.relative_to(root).as_posix()
    if path.suffix != WEIGHTS:
      texts[name] = path.read_text("utf-8")
      continue
    weights[name], first = {}, dict[bytes, str]()
    with safe_open(path, "numpy") as opened:
      for key in sorted(opened.keys()):
        value = opened.get_tensor(key)
        if value.dtype != np.float32 or key.endswith(KEPT):
          kept[f"{name}:{key}"] = value
        # Copies of a tensor follow from one name.
        seed = first.setdefault(value.tobytes(), f"{name}:{key}")
        rounded = [float(f"{x:.{DIGITS}g}") for x in (value.mean(), value.std())]
        weights[name][key] = [list(value.shape), seed, *rounded]
  nothing = np.zeros(0)
  return Golden(call, texts, weights, kept, nothing, nothing)


def save(golden: Golden, path: Path) -> None:
  text = json.dumps([golden.call._asdict(), golden.texts, golden.weights])
  folder = np.frombuffer(text.encode(), np.uint8)
  drawn = {"latents": golden.latents, "images": golden.images}
  np.savez_compressed(path, folder=folder, **drawn, **golden.kept)


def load(path: Path) -> Golden:
  with np.load(path) as opened:
    found = dict(opened)
  call, texts, weights = json.loads(found.pop("folder").tobytes())
  latents, images = found.pop("latents"), found.pop("images")
  return Golden(Call(**call), texts, weights, found, latents, images)


def made(name: str) -> Golden:
  """A pipeline, made and drawn with by diffusers."""
  from benchmarks import pipeline_parity
  from benchmarks.tiny_pipelines import PIPELINES

  tiny = PIPELINES[name]
  call = Call(*(getattr(tiny, field) for field in Call._fields))
  with tempfile.TemporaryDirectory() as temporary:
    pipe = pipeline_parity.saved(name, Path(temporary))
    golden = described(Path(temporary, "model"), call)
    root = write_folder(golden, Path(temporary, "again"))
    parts = {Path(file).parts[0] for file in golden.weights}
    read = lambda old, part: type(old).from_pretrained(str(root / part)).eval()
    for part in parts & pipe.components.keys():
      old = getattr(pipe, part)
      if hasattr(old, "nets"):  # of several ControlNets
        each = [read(net, f"{part}_{i}" if i else part) for i, net in enumerate(old.nets)]
        pipe.register_modules(**{part: type(old)(each)})
      else:
        pipe.register_modules(**{part: read(old, part)})
    noise = ours(call, root, STEPS).noise
    latents, images = pipeline_parity.theirs(tiny, pipe, noise, STEPS)
  return golden._replace(latents=latents, images=np.round(255 * images).astype(np.uint8))


def main() -> None:
  from benchmarks.tiny_pipelines import PIPELINES

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", type=Path, default=Path("tests/inference/pipelines"))
  args = parser.parse_args()
  args.to.mkdir(parents=True, exist_ok=True)
  for name in PIPELINES:
    path = args.to / f"{name.replace(', ', '_').replace(' ', '_')}.npz"
    golden = made(name)
    save(golden, path)
    print(path, path.stat().st_size, golden.latents.std(), golden.images.std(), flush=True)


if __name__ == "__main__":
  main()
