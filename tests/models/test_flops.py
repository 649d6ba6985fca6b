"""FLOPs of convolutions against closed forms and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from t2i_jax.models import matmul_flops

ORDER = ("NHWC", "HWIO", "NHWC")


def conv(stride=1, groups=1, padding="SAME", dilation=1):
  return lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=ORDER, feature_group_count=groups,
    lhs_dilation=(dilation, dilation),
  )  # fmt: skip


def shapes(inputs=6, outputs=8, groups=1, side=12, size=3):
  kernel = jax.ShapeDtypeStruct((size, size, inputs // groups, outputs), jnp.float32)
  return jax.ShapeDtypeStruct((2, side, side, inputs), jnp.float32), kernel


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_a_convolution(stride, groups):
  out_side, inputs, outputs = 12 // stride, 6, 8
  closed = 2 * (2 * out_side**2 * outputs) * 3 * 3 * (inputs // groups)
  assert matmul_flops(conv(stride, groups), *shapes(groups=groups)) == closed


def test_other_layouts_dimensions_and_transposed_ones():
  one = lambda x, k: jax.lax.conv_general_dilated(x, k, (1,), "SAME")  # NCH, OIH
  x, k = jnp.zeros((2, 4, 10)), jnp.zeros((7, 4, 3))
  assert matmul_flops(one, x, k) == 2 * (2 * 7 * 10) * 4 * 3
  # Each output of a dilated input meets a quarter of the kernel's places.
  padding = [(1, 2), (1, 2)]
  assert matmul_flops(conv(dilation=2, padding=padding), *shapes(side=5, size=4)) == (
    2 * (2 * 9**2 * 8) * 4 * 4 * 6 // 4
  )


def test_in_a_scan_and_in_a_gradient():
  x, kernel = shapes(inputs=6, outputs=6)
  many = lambda x, kernels: jax.lax.scan(lambda x, k: (conv()(x, k), None), x, kernels)[0]
  kernels = jax.ShapeDtypeStruct((5, *kernel.shape), jnp.float32)
  once = matmul_flops(conv(), x, kernel)
  assert matmul_flops(many, x, kernels) == 5 * once
  slope = jax.grad(lambda *args: jnp.sum(jnp.square(conv()(*args))), argnums=(0, 1))
  assert matmul_flops(slope, x, kernel) == 3 * once


@pytest.mark.parametrize("stride", [1, 2])
def test_against_xla(stride):
  """Without padding, which XLA leaves out."""
  run, args = conv(stride, padding="VALID"), shapes()
  counted = jax.jit(run).lower(*args).compile().cost_analysis()["flops"]
  assert matmul_flops(run, *args) == counted
