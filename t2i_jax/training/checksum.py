"""Checksums of arrays, made on the devices that hold them (of small ones, on the host): exact, and
the same on any mesh.

A checkpoint holds one for each of its arrays. They cover what is computed with, whatever lies
between: files, their compression, the network, the copy to the device.
"""

import hashlib
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by bytes of a number
SMALL = 2**16  # bytes; numpy hashes an array of fewer sooner than a program for it is compiled


class Checksum(NamedTuple):
  """hash: of an array's bits, in hexadecimal;   odd: how many of its values are not finite"""

  hash: str
  odd: int


def checksums(tree: Any) -> dict[str, Checksum]:
  """Of the arrays of a tree, by path. They lie on one mesh; every process gets all of them."""
  leaves = jax.tree.leaves_with_path(tree)
  begun = [_begin(leaf) for _, leaf in leaves]  # all before one is read
  found = {}
  for (path, leaf), sums in zip(leaves, begun, strict=True):
    one, two, odd = _sums_of_small(np.asarray(leaf)) if sums is None else np.asarray(sums)
    found[jax.tree_util.keystr(path)] = Checksum(f"{one:08x}{two:08x}", int(odd))
  return found


def differing(found: dict[str, Checksum], saved: dict[str, str]) -> list[str]:
  """Paths of arrays with another hash than the saved one, or that only one of the two has."""
  paths = sorted(found.keys() | saved.keys())
  return [p for p in paths if p not in found or found[p].hash != saved.get(p)]


def not_finite(found: dict[str, Checksum]) -> str:
  """What to say of values that are not finite: a count and the first array; "" for none."""
  wrong = {path: odd for path, (_, odd) in found.items() if odd}
  if not wrong:
    return ""
  return f"{sum(wrong.values())} values are not finite, the first in {next(iter(wrong))}"


def fingerprint(parts: dict[str, Any]) -> dict[str, str]:
  """A hash of the weights of each part, in hexadecimal."""
  found = {}
  for name, tree in parts.items():
    sums = [
      (path, [int(hash[:8], 16), int(hash[8:], 16)]) for path, (hash, _) in checksums(tree).items()
    ]
    found[name] = hashlib.sha256(repr(sums).encode()).hexdigest()[:16]
  return found


def _begin(leaf: Any) -> Any:
  """The sums of an array, on their way; None of one that the host takes."""
  if leaf.nbytes < SMALL and leaf.is_fully_addressable:
    return None
  return _sums_on(leaf.sharding.mesh)(leaf)


@cache
def _sums_on(mesh: jax.sharding.Mesh) -> Any:
  return jax.jit(_sums, out_shardings=jax.NamedSharding(mesh, jax.P()))  # on every process


def _sums(leaf: jax.Array) -> jax.Array:
  """Two sums of an array's bits, weighted by position, and its values that are not finite.   [3]

  The weights are odd, so that a change of one bit, at least 2^b times an odd number modulo 2^32,
  always changes the first sum.
  """
  bits = _bits(leaf)
  at = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    at = at * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  odd = 2 * at + 1
  wrong = jnp.zeros_like(bits)
  if jnp.issubdtype(leaf.dtype, jnp.inexact):
    wrong = (~jnp.isfinite(leaf)).astype(jnp.uint32).reshape(bits.shape)
  # One reduction of three compiles four times faster than three, and there is one an array's shape.
  parts = (bits * odd, (bits ^ (bits >> 15)) * (odd * odd + 2 * at), wrong)
  add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))
  return jnp.stack(jax.lax.reduce(parts, (jnp.uint32(0),) * 3, add, tuple(range(bits.ndim))))


def _sums_of_small(leaf: np.ndarray) -> np.ndarray:
  """What `_sums` gives.   [3] uint32"""
  wrong = 0
  if jnp.issubdtype(leaf.dtype, jnp.inexact):
    wrong = np.sum(~np.isfinite(leaf))
  kind = np.dtype(UNSIGNED[leaf.dtype.itemsize])
  bits = np.ascontiguousarray(leaf).reshape(-1).view(kind).astype(np.uint32)
  at = np.arange(len(bits), dtype=np.uint32)
  odd = 2 * at + 1
  one = np.sum(bits * odd, dtype=np.uint32)
  two = np.sum((bits ^ (bits >> 15)) * (odd * odd + 2 * at), dtype=np.uint32)
  return np.array([one, two, wrong], np.uint32)


def _bits(leaf: jax.Array) -> jax.Array:
  """The bits of each number as uint32; of 8 bytes two, on an axis more."""
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint32)
  kind = UNSIGNED[leaf.dtype.itemsize]
  return jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
