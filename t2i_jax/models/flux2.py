"""FLUX.2: double, then single stream, under one modulation for all blocks; no biases, SwiGLU.

Reference pictures come as extras["references"], a tuple of latents [B, h, w, C]: their tokens
follow the picture's and are cut from the answer. Source: github.com/black-forest-labs/flux2
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.conditioning import Conditioning, guidance_of, with_references
from t2i_jax.models.control import Control
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  Modulation,
  TimeEmbedder,
  check_rope,
  drawn,
  grid_positions,
  patchify,
  rope_angles,
)
from t2i_jax.models.params import stack_blocks, zeros
from t2i_jax.models.stack import Runs, Stacks
from t2i_jax.models.streams import Both, DoubleBlock, SingleBlock, joined, joint_mask, laid

ROPE_THETA = 2000.0
MLP_RATIO = 3
REFERENCE_STEP = 10  # between pictures, on the first axis


@dataclass(frozen=True)
class Flux2Config(Runs):
  """rope_axes are what of a head's width tells (picture, row, column, word).

  hidden          width inside the MLP; 0 = MLP_RATIO times the width
  guidance        0: the model takes none; else the scale it is told where extras do not say one
  attend_padding  the published models see the text's padding; without it, it is masked
  """

  width: int
  double_blocks: int
  single_blocks: int
  heads: int
  patch: int
  channels: int
  out: int
  text_width: int
  rope_axes: tuple[int, ...]
  hidden: int = 0
  guidance: float = 0.0
  attend_padding: bool = True

  def __post_init__(self):
    super().__post_init__()
    check_rope(self.width, self.heads, self.rope_axes)

  @property
  def layers(self) -> int:
    return self.double_blocks + self.single_blocks


class Flux2(nnx.Module):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  def __init__(self, config: Flux2Config, rngs: nnx.Rngs):
    c = self.config = config
    d, p = c.width, c.patch * c.patch
    block = BlockConfig(d, c.heads, hidden=c.hidden or MLP_RATIO * d, mlp="swiglu")
    self.patch_in = Dense(rngs, p * c.channels, d, ("conv_in", "embed"), bias=False)
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"), bias=False)
    self.time_in = TimeEmbedder(rngs, d, bias=False)
    if c.guidance:
      self.guidance_in = TimeEmbedder(rngs, d, bias=False)
    self.text_adaln = Modulation(rngs, d, 6, d, bias=False)
    self.image_adaln = Modulation(rngs, d, 6, d, bias=False)
    self.double = stack_blocks(lambda r: DoubleBlock(block, r), c.double_blocks, rngs)
    self.single_adaln = Modulation(rngs, d, 3, d, bias=False)
    self.single = stack_blocks(lambda r: SingleBlock(block, r), c.single_blocks, rngs)
    self.final_adaln = Modulation(rngs, d, 2, d, bias=False)
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), bias=False, init=zeros)

  def __call__(
    self,
    x_t: jax.Array,
    model_time: jax.Array,
    cond: Conditioning,
    control: Control | None = None,
  ) -> jax.Array:
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    pictures = with_references(x_t, cond)
    image = self.patch_in(jnp.concatenate([patchify(p, c.patch) for p in pictures], axis=1))
    tokens = self.text_in(text.tokens.astype(image.dtype))  # [B, T, D]
    words = tokens.shape[1]
    vector = jax.nn.silu(self.condition_vector(model_time, cond, image.dtype))  # [B, D]
    ropes = self.rotary(words, [p.shape[1:3] for p in pictures])
    mask = None if c.attend_padding else joint_mask(text.mask, image.shape[1])

    stacks = Stacks(c, control, cond, words)
    both = laid(tokens, image)
    modulation = Both(self.text_adaln(vector), self.image_adaln(vector))
    double = lambda block, x, _, at: block(x, modulation, at, ropes, mask)
    both = stacks.run("double", self.double, both, double)
    rope = joined(*ropes)
    shared = self.single_adaln(vector)
    single = lambda block, x, _, at: block(x, shared, at, rope, mask)
    x = stacks.run("single", self.single, joined(*both), single)
    picture = drawn(x[:, words:], self.final_adaln(vector), self.head, c.patch, height, width)
    return stacks.answer(picture)

  def condition_vector(self, model_time: jax.Array, cond: Conditioning, dtype) -> jax.Array:
    """Time and guidance scale.   # [B, D]"""
    vector = self.time_in(model_time, dtype)
    if self.config.guidance:
      scale = guidance_of(cond, self.config.guidance, len(model_time))
      vector = vector + self.guidance_in(1000 * scale, dtype)
    return vector

  def rotary(self, words: int, sizes: list[tuple[int, ...]]) -> Both:
    """Angles of both streams.   sizes (height, width) in latents; the first is the picture's"""
    patch, angles = self.config.patch, lambda at: rope_angles(at, self.config.rope_axes, ROPE_THETA)
    places = []
    for i, (height, width) in enumerate(sizes):
      grid = jnp.pad(grid_positions(height // patch, width // patch), ((0, 0), (1, 1)))
      places.append(grid.at[:, 0].set(REFERENCE_STEP * i))
    text = jnp.pad(jnp.arange(words)[:, None], ((0, 0), (3, 0)))
    return Both(angles(text), angles(jnp.concatenate(places)))
