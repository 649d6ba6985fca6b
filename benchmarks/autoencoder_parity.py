"""Our autoencoders beside those of diffusers, with the same weights: docs/parity_autoencoders.md.

python -m benchmarks.autoencoder_parity --to docs

Every case of autoencoder_cases goes through a folder that diffusers writes and we read.
tests/parity runs the same cases. Needs torch and diffusers, which the package itself does not.
"""

import argparse
import contextlib
import functools
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jax
import numpy as np
import torch

from benchmarks.autoencoder_cases import ALL, BOUND, QWEN_IMAGE_READ, SIZES, image_of
from benchmarks.model_cases import QUICK, distance
from benchmarks.pages import made_by, table, write
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import SPECS, load, save
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of

TILE = 8  # side of a tile in latents


@functools.cache
def build(name: str) -> Any:
  """The model of diffusers, every weight and statistic off its initial value."""
  kind, keys = ALL[name]
  torch.manual_seed(0)
  model = getattr(diffusers, kind)(**keys).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for _, buffer in model.named_buffers():
      if buffer.is_floating_point():
        buffer.copy_(torch.rand_like(buffer) + 0.5)
  return model


def opened(folder: Path, **changes: Any) -> tuple[Any, Any, Any]:
  """Our module with its weights, its config and its parameters."""
  module, config, params = load(folder, **changes)
  return with_params(make_of(module, config))(params), config, params


def theirs(x: Any) -> torch.Tensor:
  """[B, H, W, C] to torch's order."""
  return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def ours(x: torch.Tensor) -> np.ndarray:
  return x.permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def their_latents(model: Any, image: np.ndarray) -> tuple[torch.Tensor, ...]:
  """Mean and logarithm of the variance of the posterior; the latents alone of a VQModel."""
  if isinstance(model, diffusers.VQModel):
    return (model.encode(theirs(image)).latents,)
  if isinstance(model, diffusers.AutoencoderKLQwenImage):
    posterior = model.encode(theirs(image)[:, :, None]).latent_dist
    return posterior.mean[:, :, 0], posterior.logvar[:, :, 0]
  posterior = model.encode(theirs(image)).latent_dist
  return posterior.mean, posterior.logvar


@torch.no_grad()
def their_image(model: Any, x: torch.Tensor) -> torch.Tensor:
  if isinstance(model, diffusers.AutoencoderKLQwenImage):
    return model.decode(x[:, :, None]).sample[:, :, 0]
  return model.decode(x).sample


@torch.no_grad()
def their_z(model: Any, x: torch.Tensor) -> torch.Tensor:
  """What their pipelines make of latents."""
  c = model.config
  column = lambda values: torch.as_tensor(values).view(1, -1, 1, 1)
  if isinstance(model, diffusers.AutoencoderKLFlux2):
    x = diffusers.Flux2Pipeline._patchify_latents(x)
    std = torch.sqrt(column(model.bn.running_var) + c.batch_norm_eps)
    return (x - column(model.bn.running_mean)) / std
  if c.get("latents_mean") is not None:
    scale = c.get("scaling_factor") or 1.0
    return (x - column(c.latents_mean)) * scale / column(c.latents_std)
  return (x - (c.get("shift_factor") or 0)) * c.scaling_factor


def moments_of(own: Any) -> Callable[[Any], tuple[Any, ...]]:
  """image -> what `their_latents` gives."""
  return getattr(own, "moments", lambda image: (own.to_latents(image),))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def run(function: Callable[[Any], Any], x: Any) -> Any:
  return function(x)


class Errors(NamedTuple):
  """In float32: of what the encoder gives, of z, and of the image; largest over largest.

  shape  of our z
  """

  encoded: tuple[float, ...]
  z: float
  decoded: float
  shape: tuple[int, ...]


def errors(name: str, folder: Path, image: np.ndarray) -> Errors:
  model, (own, _, _) = build(name), opened(folder)
  latents = their_latents(model, image)
  if name.startswith("flux2"):  # z is of pairs
    height, width = (side // 2 * 2 for side in latents[0].shape[2:])
    x = latents[0][:, :, :height, :width]
  else:
    x = latents[0]
  z = ours(their_z(model, x))
  encoded, back = run(moments_of(own), image), run(own.decode, z)
  found = own.normalise(encoded[0][:, : x.shape[2], : x.shape[3]])
  return Errors(
    tuple(distance(have, ours(want)) for have, want in zip(encoded, latents, strict=True)),
    distance(found, z),
    distance(back, ours(their_image(model, x))),
    found.shape,
  )


def codes(name: str, folder: Path, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of a VQModel: our indices [B, h, w], theirs, and their codes as z."""
  model, (own, config, _) = build(name), opened(folder)
  with torch.no_grad():
    quantised, _, (_, _, indices) = model.quantize(theirs(z / config.scale))
  found = np.asarray(own.indices(z))
  return found, indices.numpy().reshape(found.shape), config.scale * ours(quantised)


def round_trip(name: str, folder: Path, to: Path, shard_bytes: int) -> tuple[Any, bool]:
  """Their folder, read here and written to `to`: the model of diffusers that it is then, and
  whether it is equal to the first, bit for bit.
  """
  _, config, params = load(folder)
  save(to, config, params, shard_bytes=shard_bytes)
  back, problems = getattr(diffusers, ALL[name][0]).from_pretrained(
    to, output_loading_info=True, low_cpu_mem_usage=False
  )
  state, new = build(name).state_dict(), back.state_dict()
  same = state.keys() == new.keys() and all(torch.equal(state[key], new[key]) for key in state)
  again = jax.tree.map(np.array_equal, params, load(to)[2])
  return back, same and not any(problems.values()) and all(jax.tree.leaves(again))


def folder_cell(name: str, folder: Path, to: Path) -> str:
  """Raises ValueError where the folder does not come back equal."""
  if SPECS[ALL[name][0]].unwritten:
    try:
      save(to, *load(folder)[1:])
    except ConfigError:
      return "read only"
  if not round_trip(name, folder, to, 5 * 10**9)[1]:
    raise ValueError(f"{name}: the folder does not come back equal.")
  return "equal"


class Tiles(NamedTuple):
  """theirs   ours tiled as diffusers does, beside tiled_encode and tiled_decode; None: they are
              not in the class
  smooth, diffusers  each way of tiling beside the whole image decoded at once, root mean squares
  """

  theirs: float | None
  smooth: float
  diffusers: float


def tile_errors(name: str, folder: Path) -> Tiles:
  """Of an image of more than one tile a side, with slivers at the ends."""
  model, (module, config, params) = build(name), load(folder)
  factor = 2 ** (len(config.widths) - 1)  # of x; FLUX.2's z is of pairs
  config = replace(config, sample_size=TILE * factor)
  bind = lambda how: with_params(make_of(module, replace(config, tiling=how)))(params)
  image = image_of(14 * factor, 9 * factor)
  latents = their_latents(model, image)
  x = latents[0][:, :, :14, :8] if name.startswith("flux2") else latents[0]  # z is of pairs
  z = ours(their_z(model, x))
  ways = ("", "smooth", "diffusers")
  whole, smooth, there = (np.asarray(run(bind(how).decode, z)) for how in ways)
  rms = lambda a: float(np.sqrt(np.mean(np.square(a - whole)) / np.mean(np.square(whole))))
  off = None
  if hasattr(model, "tiled_decode"):
    with tiled_by(model, TILE * factor):
      want, mean = ours(their_image(model, x)), ours(their_latents(model, image)[0])
    if isinstance(model, diffusers.AutoencoderKLQwenImage):
      want = np.clip(want, -1, 1)  # its decode does so, its tiled_decode does not
    encoded = run(moments_of(bind("diffusers")), image)[0]
    off = max(distance(there, want), distance(encoded, mean))
  return Tiles(off, rms(smooth), rms(there))


@contextlib.contextmanager
def tiled_by(model: Any, side: int) -> Iterator[None]:
  """With tiles of this side in pixels in a model of diffusers."""
  if isinstance(model, diffusers.AutoencoderKLQwenImage):
    model.enable_tiling(side, side, side * 3 // 4, side * 3 // 4)
  else:
    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size = side, TILE
  try:
    yield
  finally:
    model.disable_tiling()


@functools.cache
def cells(name: str) -> list[str]:
  """What is compared of one case. Raises ValueError where a bound does not hold."""
  with tempfile.TemporaryDirectory() as root:
    folder = Path(root) / "theirs"
    build(name).save_pretrained(folder)
    found, odd = (errors(name, folder, image_of(*sides)) for sides in ((16, 24), (19, 21)))
    tiles = tile_errors(name, folder)
    back = folder_cell(name, folder, Path(root) / "ours")
    if ALL[name][0] == "VQModel":
      channels = build(name).quantize.embedding.weight.shape[1]
      own, their, _ = codes(name, folder, image_of(8, 8, channels))
      if not np.array_equal(own, their):
        raise ValueError(f"{name}: other codes")
  at_odd = max(*odd.encoded, odd.z, odd.decoded)
  if not max(*found.encoded, found.z, found.decoded, at_odd, tiles.theirs or 0) < BOUND:
    raise ValueError(f"{name}: {found}, {odd}, {tiles}")
  mean, *logvar = (f"{off:.1e}" for off in found.encoded)
  return [
    *(mean, *(logvar or ["codes equal"]), f"{found.z:.1e}", f"{found.decoded:.1e}"),
    f"{at_odd:.1e}",
    "not there" if tiles.theirs is None else f"{tiles.theirs:.1e}",
    *(f"{off:.3f}" for off in (tiles.smooth, tiles.diffusers)),
    back,
  ]


def count(name: str) -> tuple[str, int, int]:
  """Class of a published size, its parameters in diffusers, and ours.

  Raises ValueError where names or shapes of tensors differ.
  """
  config, published = SIZES[name]
  spec = next(spec for spec in SPECS.values() if spec.config is type(config))
  with torch.device("meta"):
    model = getattr(diffusers, spec.hf_class)(**spec.write(config))
  number = sum(parameter.numel() for parameter in model.parameters())
  shapes = shapes_of(abstract_params(spec.module, config))
  stored = stored_shapes(spec.entries(config), shapes)
  stored |= {key: value.shape for key, value in spec.constants.items()}
  state = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  read = {key: shape for key, shape in state.items() if spec.renamed(key)}
  own = sum(math.prod(shape) for path, shape in shapes.items() if path not in ("mean", "var"))
  expected = QWEN_IMAGE_READ if name == "Qwen-Image" else published
  same_config = read_config(spec, dict(model.config), name) == config
  if stored != read or (number, own) != (published, expected) or not same_config:
    raise ValueError(f"{name}: {number:,} and {own:,} parameters, or other tensors")
  return spec.hf_class, number, own


# Published size -> its tiny case.
ROWS = {
  "SD 1.5": "sd",
  "SDXL": "sdxl",
  "SD3": "sd3",
  "FLUX.1": "flux",
  "FLUX.2": "flux2",
  "Qwen-Image": "qwen",
  "VQ f4": "vq, three levels",
  "VQ f16": "vq",
}
OTHERS = tuple(name for name in ALL if name not in ROWS.values())

HEAD = """# Our autoencoders beside those of diffusers

Made by `python -m benchmarks.autoencoder_parity --to docs` with diffusers {diffusers}, torch
{torch} and jax {jax}, on one CPU; `tests/parity/test_autoencoders.py` runs the same cases. Compared
is a tiny model of the same class and options: every weight and statistic is moved off its initial
value, written by diffusers into a folder and read here by `t2i_jax.pretrained.load`. Counted is
the model of published size.

- **published**: parameters of the class of diffusers at the published config, built without
  memory. **ours**: by `jax.eval_shape`; the names and shapes of all tensors are compared, too. Of
  Qwen-Image's 3-D convolutions only the last slice in time acts on a single frame; the others, and
  those that change the number of frames, are not read.
- **mean**, **logvar**: of the posterior, of images of 16 x 24; a VQModel has latents alone, and
  its codes are equal index by index. **z**: normed as the pipelines norm it, in FLUX.2 as 2 x 2
  patches. **decode**: the image of z. All are max|ours - theirs| / max|theirs| in float32. Bound
  {bound:.0e}.
- **odd**: the largest of these four of images of 19 x 21, which the factor does not divide: the
  ends are lost there, and here. FLUX.2's z is of the part in pairs.
- **tiles**: ours with `tiling="diffusers"` beside `tiled_encode` and `tiled_decode`, of 14 x 9
  latents (FLUX.2: 14 x 8 decoded) in tiles of {tile}, with slivers at the ends. VQModel has no
  tiles in diffusers. Qwen-Image's class limits a decoded image to [-1, 1] only where it is not
  tiled; ours always does, and theirs is limited for the comparison. Same bound.
- **smooth off**, **diffusers off**: decoded in tiles beside decoded at once, root mean square over
  that of the image: ours with `tiling="smooth"`, and with "diffusers", whose tiles are those of the
  column before. Norms and attention see one tile; of random weights and tiles this small, these
  figures compare the two ways, and are not those of a trained model.
- **folder**: written there, read here, written here, read there: all tensors equal bit for bit.
  "read only": `save` refuses, because a part of each tensor was not read. Copy such a folder.

"""
FOUND = [
  "mean", "logvar", "z", "decode", "odd", "tiles", "smooth off", "diffusers off", "folder",
]  # fmt: skip
OTHERS_HEAD = """
## Other choices of the same classes

"""


def page() -> str:
  """docs/parity_autoencoders.md."""
  head = HEAD.format(
    diffusers=diffusers.__version__, torch=torch.__version__, jax=jax.__version__,
    bound=BOUND, tile=TILE,
  )  # fmt: skip
  if missing := SIZES.keys() - ROWS.keys():
    raise ValueError(f"published sizes without a row: {', '.join(sorted(missing))}")
  rows = []
  for name, case in ROWS.items():
    kind, published, own = count(name)
    if kind != ALL[case][0]:
      raise ValueError(f"{name} is a {kind}, {case} is not")
    rows.append([name, f"`{kind}`", f"{published:,}", f"{own:,}", *cells(case)])
    print(*rows[-1], flush=True)
  others = [[name, f"`{ALL[name][0]}`", *cells(name)] for name in OTHERS]
  columns = ["autoencoder", "class", "published", "ours", *FOUND]
  rest = table(["case", "class", *FOUND], others)
  return f"{head}{table(columns, rows)}\n{OTHERS_HEAD}{rest}\n"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", default="docs", help="folder of parity_autoencoders.md")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  logging.disable(logging.WARNING)
  content = page()
  source = "benchmarks/autoencoder_parity.py"
  made = made_by("python -m benchmarks.autoencoder_parity --to docs", source)
  write(Path(args.to) / "parity_autoencoders.md", content, made)


if __name__ == "__main__":
  main()
