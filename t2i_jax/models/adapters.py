"""Low-rank adapters of projections: a side path while training, merged into the weights after.

    y = x W + scale (x A) B,                                merged: W + scale A B
        [2106.09685 sec. 4.1]
    y = m / |W + scale A B| (x W + scale (x A) B),          merged likewise
        [2402.09353 eq. 5], the norm of each output

Adapters are a tree {path of a layer: Adapter}, apart from the parameters: "double/image/heads/q".
`models.with_params(make)(params, adapters)` is the model with the side paths; those of a stack's
layers have a leading axis of layers and are scanned with its blocks. Where only the adapters are
differentiated, no gradient of W is computed.

While training, the x of a side path may have dropout: y = x W + scale (drop(x) A) B, as in peft.
The mask of a row follows from a key of its own, so that no mesh changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError

TINY = 1e-12  # of a norm


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapter:
  """Of a kernel [*inputs, *outputs], or [layers, *inputs, *outputs] of a stack.

  a      [*inputs, rank], or [layers, *inputs, rank]
  b      [rank, *outputs], or [layers, rank, *outputs]
  scale  of the product; not a leaf of the tree
  magnitude  m of each output, [*outputs] or [layers, *outputs], NaN for one that keeps its own; or
             None: all do
  slots  the first axis of outputs counts projections, each with an A and a B of its own, as k and
         v: a is [*inputs, slots, rank] and b [slots, rank, *the other outputs]
  """

  a: jax.Array
  b: jax.Array
  scale: float = field(default=1.0, metadata={"static": True})
  magnitude: jax.Array | None = None
  slots: bool = field(default=False, metadata={"static": True})
  keys: jax.Array | None = None
  rate: float = field(default=0.0, metadata={"static": True})


Adapters = Mapping[str, Adapter]


class SidePath(nnx.Module):
  """What is added beside a projection, and what its outputs are multiplied by."""

  def __init__(self, adapter: Adapter):
    self.a, self.b, self.scale = nnx.Variable(adapter.a), nnx.Variable(adapter.b), adapter.scale
    m = adapter.magnitude
    self.magnitude = nnx.data(None if m is None else nnx.Variable(m))
    self.slots, self.rate = adapter.slots, adapter.rate
    self.keys = nnx.data(None if adapter.keys is None else nnx.Variable(adapter.keys))

  def __call__(self, x: jax.Array, inward: str, outward: str) -> jax.Array:
    """scale (x A) B, in the dtype of x [B, ...], which is dropped where there are keys.

    inward, outward  einsums of x with A, and of that with B
    """
    if self.keys is not None:
      keys = self.keys[...]
      # The layers of a modulation have one input, of which one mask is drawn.
      x = dropped(x, keys[0] if keys.ndim == 3 else keys, self.rate)
    h = jnp.einsum(inward, x, self.a[...].astype(x.dtype))  # [..., rank]
    return self.scale * jnp.einsum(outward, h, self.b[...].astype(x.dtype))

  def beside(self, x: jax.Array, y: jax.Array, kernel: jax.Array, ours: str, new: str) -> jax.Array:
    """y = x W of a Dense, adapted.   ours, new: letters of the inputs and outputs of W"""
    slot, rest = (new[0], new[1:]) if self.slots else ("", new)
    inward = f"...{ours},{ours}{slot}r->...{slot}r"
    y = y + self(x, inward, f"...{slot}r,{slot}r{rest}->...{new}")
    if self.magnitude is None:
      return y
    adapter = Adapter(self.a[...], self.b[...], self.scale, self.magnitude[...], self.slots)
    return y * _gains(kernel, adapter, len(ours)).astype(y.dtype)


def dropped(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """x [B, ...], each number 0 with probability `rate` and divided by 1 - rate else [1207.0580].

  keys  key data of each row, uint32 [B, n]. Raises ConfigError where x has other rows.
  """
  if len(x) != len(keys):
    raise ConfigError(
      f"dropout of an adapter: a projection has an input {x.shape} in a step of {len(keys)} "
      "images. Leave it out of targets, or use dropout=0."
    )
  keep = lambda key: jax.random.bernoulli(jax.random.wrap_key_data(key), 1 - rate, x.shape[1:])
  return jnp.where(jax.vmap(keep)(keys), x / (1 - rate), 0).astype(x.dtype)


def attach(model: nnx.Module, adapters: Adapters) -> None:
  """Gives the named layers of a model their side paths. Raises ConfigError."""
  for path, adapter in adapters.items():
    layer: Any = model
    for name in path.split("/"):
      layer = getattr(layer, name, None)
    if not hasattr(layer, "adapter"):
      raise ConfigError(f"adapter {path!r}: the model has no projection of this name.")
    if adapter.magnitude is not None and not hasattr(layer, "summed"):
      raise ConfigError(
        f"adapter {path!r}: a modulation takes no magnitudes. Leave dora off there."
      )
    _check(path, layer.kernel.shape, adapter)
    layer.adapter = nnx.data(SidePath(adapter))


def merge_adapters(params: dict[str, Any], adapters: Adapters, scale: Any = 1.0) -> dict[str, Any]:
  """The parameters with the merged weights in place of each adapted W. Raises ConfigError.

  scale  further factor of every product, a number or []
  """
  for path, adapter in adapters.items():
    params = _merged(params, path.split("/"), path, adapter, scale)
  return params


def _merged(
  tree: dict[str, Any], names: list[str], path: str, adapter: Adapter, scale: Any
) -> dict[str, Any]:
  if names:
    if names[0] not in tree:
      raise ConfigError(f"adapter {path!r}: the parameters have no {names[0]!r} there.")
    return tree | {names[0]: _merged(tree[names[0]], names[1:], path, adapter, scale)}
  if "kernel" not in tree:
    raise ConfigError(f"adapter {path!r}: the parameters have no kernel there.")
  kernel = tree["kernel"]
  stacked, inputs = _check(path, kernel.shape, adapter)
  adapter = replace(adapter, b=adapter.b * scale)
  one = lambda kernel, adapter: _whole(kernel, adapter, inputs)
  merged = (jax.vmap(one) if stacked else one)(kernel.astype(jnp.float32), adapter)
  return tree | {"kernel": merged.astype(kernel.dtype)}


def _whole(kernel: jax.Array, adapter: Adapter, inputs: int) -> jax.Array:
  """The merged weight of one layer, float32."""
  merged = kernel + product(adapter, inputs)
  if adapter.magnitude is None:
    return merged
  return merged * _gains(kernel, adapter, inputs)


def product(adapter: Adapter, inputs: int) -> jax.Array:
  """scale A B of one layer, in the shape of its kernel, float32.   inputs: axes of the kernel"""
  a, b = adapter.a.astype(jnp.float32), adapter.b.astype(jnp.float32)
  ours, new = "abcd"[:inputs], "uvwxyz"
  if adapter.slots:
    rest = new[: b.ndim - 2]
    found = jnp.einsum(f"{ours}sr,sr{rest}->{ours}s{rest}", a, b)
  else:
    rest = new[: b.ndim - 1]
    found = jnp.einsum(f"{ours}r,r{rest}->{ours}{rest}", a, b)
  return adapter.scale * found


def _gains(kernel: jax.Array, adapter: Adapter, inputs: int) -> jax.Array:
  """m / |W + scale A B| of each output of one layer; the norm has no gradient, as published
  [2402.09353 sec. 4.3].   # [*outputs]"""
  whole = kernel.astype(jnp.float32) + product(adapter, inputs)
  m = adapter.magnitude
  assert m is not None
  return jnp.where(jnp.isnan(m), 1.0, m / jax.lax.stop_gradient(norm(whole, inputs)))


def norm(kernel: jax.Array, inputs: int) -> jax.Array:
  """The norm of each output of a kernel [*inputs, *outputs].   # [*outputs] float32"""
  square = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=tuple(range(inputs)))
  return jnp.sqrt(square + TINY)


def _check(path: str, kernel: tuple[int, ...], adapter: Adapter) -> tuple[bool, int]:
  """Whether it is that of a stack's layers, and the number of input axes. Raises ConfigError."""
  a, b, m = adapter.a.shape, adapter.b.shape, adapter.magnitude
  extra = 1 + adapter.slots  # axes that A and B have, and the kernel has not, or once
  for stacked in (False, True):
    inputs = len(a) - extra - stacked
    layers = kernel[:stacked]
    ranks = a[-extra:]  # (rank,) or (slots, rank)
    outputs = (*ranks[:-1], *b[stacked + extra :])
    fits = kernel == (*layers, *a[stacked : stacked + inputs], *outputs)
    fits &= b[: stacked + extra] == (*layers, *ranks) and a[:stacked] == layers and inputs > 0
    if fits and (m is None or m.shape == (*layers, *outputs)):
      return stacked, inputs
  raise ConfigError(
    f"adapter {path!r}: a {a} and b {b} do not multiply to the kernel {kernel}: they are "
    "[*inputs, rank] and [rank, *outputs], each with the kernel's leading axis in a stack."
  )
