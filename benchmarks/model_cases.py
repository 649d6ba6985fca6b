"""How our transformers are called on the cases of published_cases, and with which weights.

Nothing of it needs torch: model_parity has the other side.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.published_cases import CASES, GOLDEN, TEXT, Case
from t2i_jax.models import Conditioning, Tower, with_params
from t2i_jax.models.controlnet import COLOURS
from t2i_jax.pretrained.names import stored_shapes, tensors_of
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of

__all__ = ["CASES", "GOLDEN", "Case"]
B = 2  # rows
# Compile time: a gradient takes 2.3 s of CPU with these and 23 s without (FLUX, November 2026, one
# x86-64 core). They are of XLA for CPUs, where all of it runs.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):  # newer compilers do not have it
  QUICK["xla_cpu_use_fusion_emitters"] = False


class Given(NamedTuple):
  """What a model is called on, as the published ones take it; some use a part of it."""

  x: Any  # [B, C, H, W]
  times: Any  # [B] of 1000
  text: Any  # [B, T, TEXT]
  mask: Any  # [B, T] bool
  pooled: Any  # [B, POOLED]
  label: Any  # [B] int
  size: Any  # [B, 2]
  micro_conditions: Any  # [B, case.micro]
  aspect: Any  # [B, 1]
  guidance: Any  # [B]
  references: tuple[Any, ...]  # [B, C, h, w] each


def given(case: Case, seed: int = 1) -> Given:
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape, np.float32)
  longest = max(case.words)
  seen = np.arange(longest) < np.array(case.words)[:, None]
  if case.theirs.startswith(("SD3", "Flux", "Control")):  # they know no mask
    seen[:] = True
  return Given(
    x=draw(B, *case.shape),
    times=np.float32([300.0, 750.5]),
    text=draw(B, longest, TEXT),
    mask=seen,
    pooled=draw(B, case.pooled),
    label=np.array([3, 10]),
    size=np.float32([[512, 640], [1024, 768]]),
    micro_conditions=np.float32([[512, 640, 8, 0, 5.5, 640], [1024, 768, 0, 32, 6, 768]])[
      :, : case.micro
    ],
    aspect=np.float32([[0.8], [1.33]]),
    guidance=np.float32([3.5, 1.5]),
    references=tuple(draw(B, case.shape[0], *side) for side in case.references),
  )


def channels_last(x: Any) -> jax.Array:
  return jnp.asarray(x).transpose(0, 2, 3, 1)


def channels_first(x: jax.Array) -> np.ndarray:
  return np.asarray(x).transpose(0, 3, 1, 2)


def condition(g: Given, channels: int = 0) -> Conditioning:
  """What our models are told.   channels: of x_t, where g.x has others besides"""
  towers = {
    "text": Tower(jnp.asarray(g.text), jnp.asarray(g.mask), jnp.asarray(g.pooled)),
    "label": Tower(jnp.asarray(g.label)[:, None, None], jnp.ones((B, 1), bool), None),
  }
  extras = {
    key: jnp.asarray(getattr(g, key)) for key in ("size", "aspect", "guidance", "micro_conditions")
  }
  extras["beside"] = channels_last(g.x)[..., channels:]
  extras["references"] = tuple(channels_last(r) for r in g.references)
  return Conditioning(towers, extras)


def answered(model: Any, x: jax.Array, times: Any, cond: Conditioning) -> jax.Array:
  """The answer [B, H, W, C]; of a ControlNet all residuals in one row [B, 1, N, 1].

  Its reference is its image, of which one that reads pixels has the first three channels.
  """
  if not hasattr(model, "embed"):
    return model(x, times, cond).value
  (image,) = cond.extras["references"]
  latents = getattr(model.config, "reads_latents", False)
  image = image if latents else image[..., :COLOURS]
  found = model(x, times, cond, model.embed(image.astype(x.dtype)))
  if latents:
    rows = [r.swapaxes(0, 1).reshape(B, -1) for r in jax.tree.leaves(found)]
  else:
    residuals = [*found["skips"], found["after_middle"]]
    rows = [r.transpose(0, 3, 1, 2).reshape(B, -1) for r in residuals]
  return jnp.concatenate(rows, axis=1)[:, None, :, None]


@functools.cache
def compiled(module: Any, config: Any) -> Any:
  """(params, x_t, times, cond) -> the answer."""
  bind = with_params(make_of(module, config))
  run = lambda params, x, times, cond: answered(bind(params), x, times, cond)
  return jax.jit(run, compiler_options=QUICK)


def answer(module: Any, config: Any, params: Any, g: Given, dtype: Any = jnp.float32) -> np.ndarray:
  """What our model says.   dtype is that of its activations   # [B, C, H, W]"""
  x = channels_last(g.x)[..., : config.channels].astype(dtype)
  cond = condition(g, config.channels)
  return channels_first(compiled(module, config)(params, x, g.times, cond))


@functools.cache
def compiled_slopes(module: Any, config: Any) -> Any:
  """(params, x_t, times, cond, probe) -> the answer, and what sum(answer probe) changes with."""
  bind = with_params(make_of(module, config))

  def value(params, x, times, cond, probe):
    out = answered(bind(params), x, times, cond)
    return jnp.sum(out * probe), out

  of = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
  return jax.jit(of, compiler_options=QUICK)


def distance(a: np.ndarray, b: np.ndarray) -> float:
  """max|a - b| / max|b|."""
  return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Numbers in [-1, 1) that follow from a name: the raw bits of PCG64 are numpy's promise."""
  raw = np.random.PCG64(np.random.SeedSequence(list(name.encode()))).random_raw(int(np.prod(shape)))
  return ((raw >> np.uint64(40)) * 2.0**-23 - 1).astype(np.float32).reshape(shape)


def formula_weights(case: Case) -> dict[str, np.ndarray]:
  """Weights by the published tensors' names, made of these names."""
  config = read_config(case.spec, case.config, case.theirs)
  shapes = shapes_of(abstract_params(case.spec.module, config))
  entries = case.spec.entries(config)
  pieces, found = tensors_of(entries, shapes), {}
  for name, shape in stored_shapes(entries, shapes).items():
    first = pieces[name][0]
    drawn = uniform(first.part.name.format(i=0) if first.entry.copies else name, shape)
    if len(shape) > 1:
      found[name] = drawn * np.float32(1.7 * np.prod(shape[1:]) ** -0.5)
    else:  # a gain, or a bias
      found[name] = drawn * np.float32(0.3) + np.float32(name.endswith(".weight"))
  return found


def as_arrays(g: Given) -> dict[str, np.ndarray]:
  """The inputs by name, for a file."""
  images = {f"reference_{i}": image for i, image in enumerate(g.references)}
  return {key: leaf for key, leaf in g._asdict().items() if key != "references"} | images


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Given:
  """The inverse of as_arrays; what else there is is left."""
  count = sum(key.startswith("reference_") for key in arrays)
  images = tuple(arrays[f"reference_{i}"] for i in range(count))
  own = {key: arrays[key] for key in Given._fields if key != "references"}
  return Given(**own, references=images)
