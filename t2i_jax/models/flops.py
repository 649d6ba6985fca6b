"""What a computation costs, counted in its own program rather than in a formula beside it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(run: Callable, *args: Any) -> int:
  """FLOPs of run(*args): matmuls, attention, convolutions; 2 a multiply-add, of all scanned layers.

  args may be ShapeDtypeStructs. Norms, softmax and activations are left out, as is usual; XLA's
  own count has them, and counts a scanned body once.
  """
  return _of(jax.make_jaxpr(run)(*args).jaxpr)


def _of(jaxpr: Any) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      inputs = eqn.invars[0].aval.shape
      summed = math.prod(inputs[axis] for axis in contracted)
      total += 2 * summed * math.prod(eqn.outvars[0].aval.shape)
      continue
    if eqn.primitive.name == "conv_general_dilated":
      total += 2 * _conv_sums(eqn) * math.prod(eqn.outvars[0].aval.shape)
      continue
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    if eqn.primitive.name == "pallas_call":
      times = math.prod(eqn.params["grid_mapping"].grid)  # the kernel's blocks
    inside = list(_jaxprs(eqn.params))
    if eqn.params.get("branches_platforms") is not None:
      inside = inside[-1:]  # of what is written out for each platform, the default
    total += times * sum(map(_of, inside))
  return total


def _conv_sums(eqn: Any) -> int:
  """Multiply-adds of one element of a convolution's output: the kernel's, but for its outputs.

  Its input channels are those of one group. Padding is counted as data; the zeros of a dilated
  input, as in a transposed convolution or the gradient of a strided one, are not.
  """
  kernel, dimensions = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
  zeros = math.prod(eqn.params["lhs_dilation"])
  return math.prod(kernel) // kernel[dimensions.rhs_spec[0]] // zeros


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
  """The programs among an operation's parameters."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, (ClosedJaxpr, Jaxpr)):
        yield item.jaxpr if isinstance(item, ClosedJaxpr) else item
