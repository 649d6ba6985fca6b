"""Our transformers beside those of diffusers, with the same weights: docs/parity_models.md.

python -m benchmarks.model_parity --to docs

Every case of model_cases goes through a folder that diffusers writes and we read. tests/parity runs
the same cases. Needs torch and diffusers, which the package itself does not.
"""

import argparse
import copy
import functools
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.model_calls import CALLS
from benchmarks.model_cases import (
  CASES,
  Case,
  Given,
  answer,
  channels_first,
  channels_last,
  compiled_slopes,
  condition,
  distance,
  given,
)
from benchmarks.model_sizes import SIZES, Size, count, count_stored
from benchmarks.pages import made_by, table, write
from t2i_jax.pretrained import load
from t2i_jax.pretrained.spec import flat
from t2i_jax.pretrained.tensors import STEM

FORWARD, GRADIENT, RATIO = 1e-4, 1e-3, 1.5  # the bounds
DRAWS = 6  # of inputs, in bfloat16


def theirs(case: Case, model: Any, g: Given, dtype: torch.dtype = torch.float32) -> np.ndarray:
  """What the model of diffusers says.   # [B, C, H, W]"""
  with torch.no_grad():
    return CALLS[case.theirs](model, tensors(g, dtype)).float().numpy()


def tensors(g: Given, dtype: torch.dtype) -> Given:
  """As torch's, those in this dtype that pipelines hand over so: times and sizes are not."""
  made = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), g)
  cast = lambda leaf: leaf.to(dtype)
  images = tuple(cast(r) for r in made.references)
  return made._replace(
    x=cast(made.x), text=cast(made.text), pooled=cast(made.pooled), references=images
  )


@functools.cache
def build(name: str) -> Any:
  """The model of diffusers, every weight off its initial value, copies kept equal."""
  case = CASES[name]
  torch.manual_seed(0)
  model = getattr(diffusers, case.theirs)(**case.config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    if case.theirs == "DiTTransformer2DModel":
      first = model.transformer_blocks[0].norm1.emb.state_dict()
      for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
  return model


@functools.cache
def read(name: str) -> tuple[Any, Any, Any]:
  """The module, config and parameters that we read of its folder."""
  with tempfile.TemporaryDirectory() as folder:
    build(name).save_pretrained(folder)
    return load(folder)


def slopes(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """Theirs: the answer, and the gradients of its product with `probe` by x and by our weights."""
  case, model = CASES[name], build(name)
  g = tensors(given(case), torch.float32)
  g.x.requires_grad_(True)
  model.zero_grad()
  out = CALLS[case.theirs](model, g)
  (out * torch.tensor(probe(out.shape))).sum().backward()
  zero = torch.zeros_like
  of = {key: zero(p) if p.grad is None else p.grad for key, p in model.named_parameters()}
  of = {
    key: torch.zeros_like(model.get_parameter(key)) if v is None else v for key, v in of.items()
  }
  if case.theirs == "DiTTransformer2DModel":  # what we hold once, they hold in every block
    for key in [key for key in of if ".0.norm1.emb." in key]:
      copies = [key.replace(".0.", f".{i}.", 1) for i in range(len(model.transformer_blocks))]
      of |= dict.fromkeys(copies, sum(of[copy] for copy in copies))
  with tempfile.TemporaryDirectory() as folder:  # through the tables, as if they were weights
    model.save_config(folder)
    stored = {key: v.clone().contiguous() for key, v in of.items()}
    save_file(stored, Path(folder) / f"{STEM}.safetensors")
    weights = flat(load(folder)[2])
  return out.detach().numpy(), g.x.grad.numpy(), {k: np.asarray(v) for k, v in weights.items()}


def probe(shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(3).standard_normal(tuple(shape), np.float32)


class Slopes(NamedTuple):
  """Errors in float32: of the answer, and of the gradient by x and by every weight."""

  forward: float
  by_x: float
  by_weight: dict[str, float]

  @property
  def worst(self) -> float:
    return max(self.by_x, *self.by_weight.values())


def float32_errors(name: str) -> Slopes:
  case, (module, config, params) = CASES[name], read(name)
  out, by_x, by_weight = slopes(name)
  g, seen = given(case), channels_last(probe(out.shape))
  x_t, cond = channels_last(g.x)[..., : config.channels], condition(g, config.channels)
  run = compiled_slopes(module, config)
  (_, ours), (grads, x) = run(params, x_t, g.times, cond, seen)
  # What SD3's last text asks is answered to nobody: zero on both sides.
  apart = lambda a, b: distance(a, b) if np.any(b) else float(np.max(np.abs(a)))
  found = {path: apart(np.asarray(leaf), by_weight[path]) for path, leaf in flat(grads).items()}
  forward = distance(channels_first(ours), out)
  return Slopes(forward, distance(channels_first(x), by_x[:, : config.channels]), found)


def rounded(leaf: Any) -> Any:
  """To a number of bfloat16; what is no floating number stays."""
  leaf = np.asarray(leaf)
  if leaf.dtype != np.float32:
    return leaf
  return np.asarray(leaf.astype(jnp.bfloat16), np.float32)


def rms(x: np.ndarray) -> np.ndarray:
  """Over all numbers; of a matrix, of each row."""
  return np.sqrt(np.mean(np.square(x), axis=-1 if x.ndim == 2 else None))


def bfloat16_errors(name: str) -> tuple[float, float]:
  """Of ours and of theirs, against theirs in float32 on the same numbers of bfloat16."""
  case, (module, config, params) = CASES[name], read(name)
  params = jax.tree.map(rounded, params)
  half = copy.deepcopy(build(name)).to(torch.bfloat16)
  whole = copy.deepcopy(half).to(torch.float32)
  errors = []
  for seed in range(DRAWS):
    g = jax.tree.map(rounded, given(case, seed))
    # Theirs round the time and the guidance of some models to bfloat16, and then take them times
    # 1000. Ours never do: not to count it for us, these numbers are not changed by it.
    g = g._replace(times=np.float32([250, 500]), guidance=np.float32([4, 1]))
    exact = theirs(case, whole, g)
    found = (
      answer(module, config, params, g, jnp.bfloat16),
      theirs(case, half, g, torch.bfloat16),
    )
    errors.append([rms(one - exact) / rms(exact) for one in found])
  ours, of_theirs = rms(np.array(errors).T)
  return float(ours), float(of_theirs)


HEAD = """# Our transformers beside those of diffusers

Made by `python -m benchmarks.model_parity --to docs` with diffusers {diffusers}, torch {torch} and
jax {jax}, on one CPU; `tests/parity/test_models.py` runs the same cases. Every weight is moved off
its initial value (gains, biases and what begins at zero too), written by diffusers into a folder
and read here by `t2i_jax.pretrained.load`. Both models are then called on the same latent, times,
text and sizes, two different rows at once.

- **forward**: max|ours - theirs| / max|theirs| in float32. Bound {forward:.0e}.
- **gradient**: of the sum of the answer times fixed random numbers, by x_t and by **every** weight,
  theirs brought into our layout by the tables that read the folder; max|ours - theirs| over
  max|theirs| of each, the largest shown with where it is. Bound {gradient:.0e}.
- **bf16**: weights, latent and text are rounded to bfloat16, then theirs is run in float32 on them.
  Against that: ours with bfloat16 activations, and theirs `.to(torch.bfloat16)`, root mean square
  of the error over that of the answer, of {draws} draws of the inputs (a maximum of so few numbers
  is mostly chance). Times and guidance are such that bfloat16 holds them: some of theirs round
  them, ours do not. **ratio** is ours over theirs. Bound {ratio}.

"""

COLUMNS = [
  "case", "class", "what is odd", "forward", "gradient", "by", "bf16 ours", "bf16 theirs", "ratio",
]  # fmt: skip
SIZES_COLUMNS = ["model", "ours", "copies", "ours and copies", "published", "equal"]

SIZES_HEAD = """
## Published sizes

Parameters of our model by `jax.eval_shape`, and what the class of diffusers has at the published
config. DiT's folders store the embedders of time and label in every block; we hold them once, and
ours with the other copies are what is stored. `tests/models/test_parameter_counts.py` holds our
side to it, `tests/parity/test_pretrained.py` theirs, with the name and shape of every tensor.

"""

NOTES = """
## What is not compared

1. **DiT on images that are not square.** Theirs takes the square root of the number of patches.
2. **Masked text in SD3 and FLUX.** Theirs take no mask; ours do (`attend_padding=False`), and
   `tests/models/test_families.py` says what that means.
3. **Rows of different sizes in one batch**, which Z-Image's class takes as a list. Our batches are
   arrays.
4. **The sign and the direction of time of Z-Image.** Its class counts time from noise to data and
   answers minus the velocity; it is called here with 1 - t, and its answer is turned.
5. **The last digits of the time's frequencies.** Theirs round the exponent to float32 before the
   exponential, ours after it; the angles of a time of 1000 are 6e-5 apart. It is a large part of
   what is left in float32 (not of Qwen-Image), and of the gradient where the time enters.
"""


def line(name: str) -> list[str]:
  """One case. Raises ValueError where a bound does not hold."""
  case, exact, half = CASES[name], float32_errors(name), bfloat16_errors(name)
  ratio = half[0] / half[1]
  if not (exact.forward < FORWARD and exact.worst < GRADIENT and ratio <= RATIO):
    raise ValueError(f"{name}: {exact}, bfloat16 {half}")
  by = {"x_t": exact.by_x} | exact.by_weight
  return [
    name,
    f"`{case.theirs}`",
    case.said,
    f"{exact.forward:.1e}",
    f"{exact.worst:.1e}",
    f"`{max(by, key=lambda key: by[key])}`",
    f"{half[0]:.4f}",
    f"{half[1]:.4f}",
    f"{ratio:.2f}",
  ]


def size_line(name: str, size: Size) -> list[str]:
  """One published size. Raises ValueError where the counts differ."""
  ours, all_copies = count(size), count_stored(size)
  if all_copies != size.stored:
    raise ValueError(f"{name}: {all_copies} and {size.stored}")
  copies = f"{all_copies - ours:,}" if all_copies > ours else ""
  return [name, f"{ours:,}", copies, f"{all_copies:,}", f"{size.stored:,}", "yes"]


def page() -> str:
  """docs/parity_models.md."""
  text = HEAD.format(
    diffusers=diffusers.__version__, torch=torch.__version__, jax=jax.__version__,
    forward=FORWARD, gradient=GRADIENT, ratio=RATIO, draws=DRAWS,
  )  # fmt: skip
  rows = []
  for name in CASES:
    rows.append(line(name))
    print(*rows[-1], flush=True)
  sizes = table(SIZES_COLUMNS, [size_line(name, size) for name, size in SIZES.items()])
  return f"{text}{table(COLUMNS, rows)}\n{SIZES_HEAD}{sizes}\n{NOTES}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", default="docs", help="folder of parity_models.md")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  logging.disable(logging.WARNING)
  line = made_by("python -m benchmarks.model_parity --to docs", "benchmarks/model_parity.py")
  write(Path(args.to) / "parity_models.md", page(), line)


if __name__ == "__main__":
  main()
