"""Layers that every backbone shares.

Precision: weights are float32 and are cast to the activations' dtype at each
matmul (`project`, `Dense`); norm statistics, softmax, timestep embeddings and rotary angles are
float32. A model chooses float32 or bfloat16 by the dtype it gives its first activation.
"""

import math
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t2i_jax.models.adapters import SidePath
from t2i_jax.models.params import Init, fan_in, ones, weight, zeros
from t2i_jax.parallel import constrain
from t2i_jax.parallel.rules import Axes

MLP_RATIO = 4  # hidden width of an MLP over its width [1706.03762 sec. 3.3]
TIME_EMBEDDING = 256  # sinusoid width [2212.09748, its code]


@dataclass(frozen=True)
class BlockConfig:
  """What a transformer block is made of.

  hidden    width inside the MLP; 0 = MLP_RATIO times the width
  mlp       a name in MLPS
  bias      of every matrix;   qkv_bias: of q, k and v, also where `bias` is False
  qk_norm   RMS norm of each head's q and k, with qk_eps
  kv_heads  heads of k and v, each shared by heads / kv_heads of q [2305.13245]; 0 = heads
  head_dim  width of a head; 0 = width / heads
  """

  width: int
  heads: int
  hidden: int = 0
  mlp: str = "gelu"
  bias: bool = False
  qk_norm: bool = True
  qk_eps: float = 1e-6
  kv_heads: int = 0
  head_dim: int = 0
  qkv_bias: bool = False

  @property
  def head_width(self) -> int:
    return self.head_dim or self.width // self.heads


def project(equation: str, x: jax.Array, kernel: nnx.Param | jax.Array) -> jax.Array:
  """einsum of activations with a weight, in the activations' dtype."""
  return jnp.einsum(equation, x, jnp.asarray(kernel[...]).astype(x.dtype))


def rms_norm(x: jax.Array, gain: nnx.Param | None = None, eps: float = 1e-6) -> jax.Array:
  """x / rms(x) over the last dimension, statistics in float32 [1910.07467 eq. 4]."""
  x32 = x.astype(jnp.float32)
  y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (y if gain is None else y * gain[...]).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float = 1e-6) -> jax.Array:
  """LayerNorm without gain or shift, which adaLN supplies; statistics in float32."""
  x32 = x.astype(jnp.float32)
  x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return (x32 * scale).astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """adaLN [2212.09748 sec. 3.2]: x [B, L, D]; shift, scale [B, D]."""
  return x * (1 + scale[:, None]) + shift[:, None]


def _gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  c = math.sqrt(2 / math.pi)
  tanh = jnp.tanh(c * (x + 0.044715 * x**3))
  slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * c * (1 + 3 * 0.044715 * x**2)
  return 0.5 * x * (1 + tanh), slope


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """GELU, tanh form [1606.08415 sec. 2]; the slope is computed in the forward pass.

  Inside a scanned backward pass XLA on CPU would recompute tanh for every consumer.
  """
  return _gelu_and_slope(x)[0]


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  value, slope = jax.lax.optimization_barrier(_gelu_and_slope(*primals))
  return value, slope * tangents[0]


def gelu_erf(x: jax.Array) -> jax.Array:
  """GELU itself, x Phi(x), in float32 inside [1606.08415 sec. 2]."""
  return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
  """GELU's sigmoid form, x sigmoid(1.702 x) [1606.08415 sec. 2]."""
  return x * jax.nn.sigmoid(1.702 * x)


class MLP(NamedTuple):
  """gated: the activation is of one half of the first matrix, and multiplies the other."""

  activation: Callable[[jax.Array], jax.Array]
  gated: bool = False


# Gated ones: [2002.05202 sec. 2].
MLPS = {
  "gelu": MLP(gelu),
  "gelu_erf": MLP(gelu_erf),
  "quick_gelu": MLP(quick_gelu),
  "relu": MLP(jax.nn.relu),
  "swiglu": MLP(jax.nn.silu, gated=True),
  "geglu": MLP(gelu, gated=True),
  "geglu_erf": MLP(gelu_erf, gated=True),
}


def timestep_embedding(
  model_time: jax.Array, size: int, max_period: float = 1e4, less: int = 0
) -> jax.Array:
  """[cos, sin] of the time at geometric frequencies, float32.   # [..., size]

  model_time [...] in units of steps, 0 to 1000.   Source: [1706.03762 sec. 3.5]
  less       1 where the last frequency is 1 / max_period itself, as published DiT folders have it
  """
  half = size // 2
  # Exponents are rounded to float32 first, as the published models' code has it: at t = 1000 the
  # angles would differ by 6e-5 otherwise.
  exponent = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
  frequency = np.float32(np.exp(np.float64(exponent / np.float32(half - less))))
  angle = model_time.astype(jnp.float32)[..., None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class Dense(nnx.Module):
  """x W + b over the last dimensions of x, as many as W has inputs.

  W is [*inputs, *outputs], its axes given in that order; the rows of `b` are the outputs.
  slots: whether the first axis of outputs counts projections that have adapters of their own.
  """

  def __init__(
    self,
    rngs: nnx.Rngs,
    inputs: int | tuple[int, ...],
    outputs: int | tuple[int, ...],
    axes: Axes,
    *,
    bias: bool = True,
    init: Init | None = None,
    matrix: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    slots: bool = False,
  ):
    """init: fan-in where it is left out.   matrix: see params.weight."""
    inputs = (inputs,) if isinstance(inputs, int) else inputs
    outputs = (outputs,) if isinstance(outputs, int) else outputs
    init = fan_in(math.prod(inputs)) if init is None else init
    self.kernel = weight(rngs, inputs + outputs, axes, init, matrix)
    if bias:
      self.bias = weight(rngs, outputs, axes[len(inputs) :], zeros)
    self.summed, self.slots, self.has_bias = len(inputs), slots, bias
    self.adapter: SidePath | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.kernel[...]
    ours, theirs = string.ascii_lowercase[: self.summed], string.ascii_uppercase
    new = theirs[: kernel.ndim - self.summed]
    y = project(f"...{ours},{ours}{new}->...{new}", x, kernel)
    if self.adapter is not None:
      y = self.adapter.beside(x, y, kernel, ours, new)
    return y + self.bias[...].astype(y.dtype) if self.has_bias else y


class LayerNorm(nnx.Module):
  """LayerNorm with gain and bias, statistics in float32 [1607.06450 eq. 4]."""

  def __init__(self, width: int, rngs: nnx.Rngs, eps: float = 1e-5):
    self.eps = eps
    self.gain = weight(rngs, (width,), ("embed",), ones)
    self.bias = weight(rngs, (width,), ("embed",), zeros)

  def __call__(self, x: jax.Array) -> jax.Array:
    y = layer_norm(x.astype(jnp.float32), self.eps)
    return (y * self.gain[...] + self.bias[...]).astype(x.dtype)


class Embedder(nnx.Module):
  """Two matrices with a SiLU between: of a time, a guidance scale, a pooled text.   # [B, D]"""

  def __init__(
    self, rngs: nnx.Rngs, inputs: int, width: int, *, hidden: int | None = None, bias: bool = True
  ):
    hidden = width if hidden is None else hidden
    self.first = Dense(rngs, inputs, hidden, (None, "embed"), bias=bias)
    self.second = Dense(rngs, hidden, width, ("embed", "mlp"), bias=bias)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.second(jax.nn.silu(self.first(x)))
    # Constrained here: without it, the partitioner of XLA for CPUs (jax 0.10.2) has been seen to
    # give wrong values where a vector over all three axes of a mesh met a later constraint.
    return constrain(x, "batch", *[None] * (x.ndim - 1))


class TimeEmbedder(Embedder):
  """An Embedder of the sinusoid of a time, a guidance scale or a size.   [...] -> [..., D]

  less  of timestep_embedding
  """

  def __init__(
    self,
    rngs: nnx.Rngs,
    width: int,
    *,
    hidden: int | None = None,
    bias: bool = True,
    less: int = 0,
  ):
    super().__init__(rngs, TIME_EMBEDDING, width, hidden=hidden, bias=bias)
    self.less = less

  def __call__(self, number: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """number in units of steps, 0 to 1000; dtype of the activations"""
    embedding = timestep_embedding(number, TIME_EMBEDDING, less=self.less)
    return super().__call__(embedding.astype(dtype))


class Modulation(nnx.Module):
  """The vectors of adaLN, of all layers at once: [layers,] chunks, [B, D] each.

  These matrices are up to a third of a model's weights and see one row an image: gathering the
  vector and scattering the modulation moves far less over fsdp than gathering them would.
  """

  def __init__(
    self,
    rngs: nnx.Rngs,
    inputs: int,
    chunks: int,
    width: int,
    *,
    layers: int | None = None,
    bias: bool = True,
    init: Init = zeros,
  ):
    """init: zero, so that every block begins as the identity [2212.09748 sec. 3.2, adaLN-Zero]."""
    stack, of = ((), ()) if layers is None else ((layers,), ("layers",))
    axes = (*of, "mlp", None, "embed")
    self.kernel = weight(rngs, (*stack, inputs, chunks, width), axes, init)
    if bias:
      self.bias = weight(rngs, (*stack, chunks, width), (*of, None, "embed"), zeros)
    self.stacked, self.has_bias = layers is not None, bias
    self.adapter: SidePath | None = None

  def __call__(self, vector: jax.Array) -> jax.Array:
    """vector [B, inputs] -> [layers, chunks, B, D], or [chunks, B, D] of one layer"""
    of, stack = ("l", ("layers",)) if self.stacked else ("", ())
    vector = constrain(vector, "batch_data", None)
    found = project(f"bd,{of}dsk->{of}sbk", vector, self.kernel)
    if self.adapter is not None:
      found = found + self.adapter(vector, f"bd,{of}dr->{of}br", f"{of}br,{of}rsk->{of}sbk")
    if self.has_bias:
      found = found + self.bias[...].astype(found.dtype)[..., None, :]
    found = constrain(found, *stack, None, "batch_data", "embed")
    return constrain(found, *stack, None, "batch", None)


class FeedForward(nnx.Module):
  """Two matrices with an activation between, or three: down(act(gate x) * up x).

  gate and up are one matrix [D, 2, F].
  """

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs, *, down_bias: bool | None = None):
    hidden = c.hidden or MLP_RATIO * c.width
    down_bias = c.bias if down_bias is None else down_bias
    self.kind = c.mlp
    gated = MLPS[c.mlp].gated
    self.up = Dense(
      rngs,
      c.width,
      (2, hidden) if gated else hidden,
      ("embed", None, "mlp") if gated else ("embed", "mlp"),
      bias=c.bias,
      matrix=((0,), (2,)) if gated else ((0,), (1,)),
    )
    outer = ((0,), (1,))
    self.down = Dense(rngs, hidden, c.width, ("mlp", "embed"), bias=down_bias, matrix=outer)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = checkpoint_name(self.up(x), "mlp")  # [B, L, F], or [B, L, 2, F]
    activation, gated = MLPS[self.kind]
    return self.down(activation(x[..., 0, :]) * x[..., 1, :] if gated else activation(x))


def patchify(x: jax.Array, patch: int) -> jax.Array:
  """[B, H, W, C] to tokens [B, H/p W/p, p p C] in reading order."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: jax.Array, patch: int, height: int, width: int) -> jax.Array:
  """The inverse of patchify: tokens back to [B, height, width, C]."""
  b, rows, cols = tokens.shape[0], height // patch, width // patch
  x = tokens.reshape(b, rows, cols, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, height, width, -1)


def final_layer(
  x: jax.Array, modulation: jax.Array, head: Dense, patch: int, height: int, width: int
) -> jax.Array:
  """A model's output from its last tokens, float32.   # [B, height, width, out]

  x [B, L, D] begins with the image's patches; modulation [2, B, D] of adaLN: shift, scale
  """
  x = x[:, : (height // patch) * (width // patch)]
  tokens = head(modulate(layer_norm(x), modulation[0], modulation[1]))
  return unpatchify(tokens.astype(jnp.float32), patch, height, width)
