"""Low-rank adapters of projections: a side path while training, merged into the weights after.

    y = x W + scale (x A) B,   merged: W + scale A B        [2106.09685 sec. 4.1]

Adapters are a tree {path of a layer: Adapter}, apart from the parameters: "double/image/heads/q".
`models.with_params(make)(params, adapters)` is the model with the side paths; those of a stack's
layers have a leading axis of layers and are scanned with its blocks. Where only the adapters are
differentiated, no gradient of W is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapter:
  """Of a kernel [*inputs, *outputs], or [layers, *inputs, *outputs] of a stack.

  a      [*inputs, rank], or [layers, *inputs, rank]
  b      [rank, *outputs], or [layers, rank, *outputs]
  scale  of the product; not a leaf of the tree
  """

  a: jax.Array
  b: jax.Array
  scale: float = field(default=1.0, metadata={"static": True})


Adapters = Mapping[str, Adapter]


class SidePath(nnx.Module):
  """scale (x A) B beside a projection."""

  def __init__(self, adapter: Adapter):
    self.a, self.b, self.scale = nnx.Variable(adapter.a), nnx.Variable(adapter.b), adapter.scale

  def __call__(self, x: jax.Array, inward: str, outward: str) -> jax.Array:
    """inward, outward: einsums of x with A, and of that with B; in the dtype of x"""
    h = jnp.einsum(inward, x, self.a[...].astype(x.dtype))  # [..., rank]
    return self.scale * jnp.einsum(outward, h, self.b[...].astype(x.dtype))


def attach(model: nnx.Module, adapters: Adapters) -> None:
  """Gives the named layers of a model their side paths. Raises ConfigError."""
  for path, adapter in adapters.items():
    layer: Any = model
    for name in path.split("/"):
      layer = getattr(layer, name, None)
    if not hasattr(layer, "adapter"):
      raise ConfigError(f"adapter {path!r}: the model has no projection of this name.")
    _check(path, layer.kernel.shape, adapter)
    layer.adapter = nnx.data(SidePath(adapter))


def merge_adapters(params: dict[str, Any], adapters: Adapters) -> dict[str, Any]:
  """The parameters with W + scale A B in place of each adapted W. Raises ConfigError."""
  for path, adapter in adapters.items():
    params = _merged(params, path.split("/"), path, adapter)
  return params


def _merged(tree: dict[str, Any], names: list[str], path: str, adapter: Adapter) -> dict[str, Any]:
  if names:
    if names[0] not in tree:
      raise ConfigError(f"adapter {path!r}: the parameters have no {names[0]!r} there.")
    return tree | {names[0]: _merged(tree[names[0]], names[1:], path, adapter)}
  if "kernel" not in tree:
    raise ConfigError(f"adapter {path!r}: the parameters have no kernel there.")
  kernel = tree["kernel"]
  _check(path, kernel.shape, adapter)
  a, b = adapter.a, adapter.b
  layers = kernel.shape[: a.ndim + b.ndim - 2 - kernel.ndim]  # () or (layers,)
  rank = a.shape[-1]
  product = a.reshape(*layers, -1, rank) @ b.reshape(*layers, rank, -1)
  return tree | {"kernel": kernel + adapter.scale * product.reshape(kernel.shape)}


def _check(path: str, kernel: tuple[int, ...], adapter: Adapter) -> None:
  a, b = adapter.a.shape, adapter.b.shape
  alone = a[:-1] + b[1:] == kernel and a[-1] == b[0]
  stacked = a[:-1] + b[2:] == kernel and a[-1] == b[1] and a[0] == b[0]
  if not (alone or stacked):
    raise ConfigError(
      f"adapter {path!r}: a {a} and b {b} do not multiply to the kernel {kernel}: they are "
      "[*inputs, rank] and [rank, *outputs], each with the kernel's leading axis in a stack."
    )
