"""Z-Image: one stream of image and text, each refined on its own first [2511.22699].

The published model counts time from noise to data and predicts minus the velocity; both are
reversed here, so that it is called like every other model.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attention, Rope, Visible, padding_mask
from t2i_jax.models.backbone import Backbone, PatchConfig
from t2i_jax.models.layers import (
  BlockConfig,
  Dense,
  FeedForward,
  Modulation,
  TimeEmbedder,
  layer_norm,
  patchify,
  rms_norm,
  unpatchify,
)
from t2i_jax.models.params import ones, stack_blocks, weight, zeros
from t2i_jax.models.positions import Axes, check_rope, grid_positions, rope_angles
from t2i_jax.models.stack import At
from t2i_jax.models.streams import joined, joint_mask
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Depth, Width

TIME_HIDDEN, TIME_WIDTH = 1024, 256
ROPE_THETA = 256.0
MULTIPLE = 32  # of tokens: both sequences are filled up with learned ones, which are seen
EPS = 1e-5


@dataclass(frozen=True)
class ZImageConfig(PatchConfig):
  """rope_axes are the parts of a head's width for (text token or image, row, column).

  depth  of the joint stack; refiner_blocks of each of the two that come before it
  """

  text_width: Width
  refiner_blocks: Depth
  rope_axes: Axes

  def __post_init__(self):
    super().__post_init__()
    check_rope(self.width, self.heads, self.rope_axes)
    if self.refiner_blocks < 1:
      raise ConfigError(f"model.refiner_blocks = {self.refiner_blocks}: at least 1 is needed.")

  @property
  def layers(self) -> int:
    return self.depth + 2 * self.refiner_blocks


class Block(nnx.Module):
  """RMS norms before and after attention and MLP; gates through tanh, no shift."""

  def __init__(self, c: BlockConfig, rngs: nnx.Rngs):
    self.attn = Attention(c, rngs)
    self.mlp = FeedForward(c, rngs)
    gain = lambda: weight(rngs, (c.width,), ("embed",), ones)
    self.attn_in, self.attn_out, self.mlp_in, self.mlp_out = gain(), gain(), gain(), gain()

  def __call__(
    self,
    x: jax.Array,  # [B, L, D]
    modulation: jax.Array | None,  # [4, B, D]; None: without time
    at: At,
    site: str,
    rope: Rope,
    mask: Visible | None,
  ) -> jax.Array:
    scale_a = gate_a = scale_m = gate_m = jnp.ones((), x.dtype)
    if modulation is not None:
      scale_a, gate_a, scale_m, gate_m = modulation[:, :, None]  # each [B, 1, D]
      scale_a, gate_a = 1 + scale_a, jnp.tanh(gate_a)
      scale_m, gate_m = 1 + scale_m, jnp.tanh(gate_m)
    h = rms_norm(x, self.attn_in, EPS) * scale_a
    h = self.attn(h, rope=rope, mask=mask, attend=at(site))
    x = x + gate_a * rms_norm(h, self.attn_out, EPS)
    h = self.mlp(rms_norm(x, self.mlp_in, EPS) * scale_m)
    return constrain(x + gate_m * rms_norm(h, self.mlp_out, EPS), "batch", "sequence", None)


class ZImage(Backbone):
  """(x_t [B, H, W, C], model_time [B], Conditioning with a "text" tower) -> [B, H, W, out]."""

  config: ZImageConfig

  def __init__(self, config: ZImageConfig, rngs: nnx.Rngs):
    c = self.config = config
    d, p, e = c.width, c.patch * c.patch, min(c.width, TIME_WIDTH)
    block = BlockConfig(d, c.heads, hidden=int(d / 3 * 8), mlp="swiglu", qk_eps=EPS)
    stack = lambda n: stack_blocks(lambda r: Block(block, r), n, rngs)
    self.patch_in = Dense(rngs, p * c.inputs, d, ("conv_in", "embed"))
    self.text_gain = weight(rngs, (c.text_width,), (None,), ones)
    self.text_in = Dense(rngs, c.text_width, d, (None, "embed"))
    self.image_pad = weight(rngs, (d,), ("embed",), zeros)
    self.text_pad = weight(rngs, (d,), ("embed",), zeros)
    self.time_in = TimeEmbedder(rngs, e, hidden=TIME_HIDDEN)
    self.image_adaln = Modulation(rngs, e, 4, d, layers=c.refiner_blocks)
    self.image_refiner = stack(c.refiner_blocks)
    self.text_refiner = stack(c.refiner_blocks)
    self.adaln = Modulation(rngs, e, 4, d, layers=c.depth)
    self.blocks = stack(c.depth)
    self.final_adaln = Modulation(rngs, e, 1, d)
    self.head = Dense(rngs, d, p * c.out, ("embed", "conv_out"), init=zeros)

  def predict(self, x_t, model_time, cond, stacks) -> jax.Array:
    c, text = self.config, cond.towers["text"]
    height, width = x_t.shape[1:3]
    image, tokens, seen, places = self.sequences(x_t, text.tokens, text.mask)
    ropes = [rope_angles(place, c.rope_axes, ROPE_THETA) for place in places]
    vector = self.time_in(1000 - model_time, x_t.dtype)

    def run(name, x, site, rope, mask, modulations=None):
      call = lambda block, x, modulation, at: block(x, modulation, at, site, rope, mask)
      text = tokens.shape[1] if site == "joint" else 0
      return stacks.run(name, getattr(self, name), x, call, modulations, text)

    image = constrain(image, "batch", "sequence", None)
    image = run("image_refiner", image, "self", ropes[1], None, self.image_adaln(vector))
    tokens = run("text_refiner", tokens, "self", ropes[0], padding_mask(seen, seen))
    x = joined(tokens, image)  # [B, T + L, D]
    mask = joint_mask(seen, image.shape[1])
    x = run("blocks", x, "joint", joined(*ropes), mask, self.adaln(vector))

    own = (height // c.patch) * (width // c.patch)
    x = x[:, tokens.shape[1] : tokens.shape[1] + own]
    scale = self.final_adaln(jax.nn.silu(vector))[0]
    x = -self.head(layer_norm(x) * (1 + scale[:, None]))
    return unpatchify(x.astype(jnp.float32), c.patch, height, width)

  def sequences(
    self, x_t: jax.Array, words: jax.Array, text_mask: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Both sequences filled up: image [B, L, D], text [B, T, D], which text is seen [B, T],
    and the positions (text token or image, row, column) of text and image, [B, T, 3] and [B, L, 3].
    """
    c, b = self.config, x_t.shape[0]
    up = lambda n: -(-n // MULTIPLE) * MULTIPLE
    image = self.patch_in(patchify(x_t, c.patch))
    rows, cols = x_t.shape[1] // c.patch, x_t.shape[2] // c.patch
    missing = up(rows * cols) - rows * cols
    pad = lambda token, n: jnp.broadcast_to(token[...].astype(x_t.dtype), (b, n, c.width))
    image = jnp.concatenate([image, pad(self.image_pad, missing)], axis=1)

    text = self.text_in(rms_norm(words.astype(x_t.dtype), self.text_gain, EPS))
    length = up(words.shape[1])
    more = ((0, 0), (0, length - words.shape[1]))
    text, real = jnp.pad(text, (*more, (0, 0))), jnp.pad(text_mask, more)
    text = jnp.where(real[:, :, None], text, pad(self.text_pad, length))
    filled = up(jnp.sum(text_mask, axis=1))[:, None]  # [B, 1] tokens seen of each row
    index = jnp.arange(length)
    of_text = jnp.pad((index + 1)[:, None], ((0, 0), (0, 2)))  # (1 + i, 0, 0)
    grid = jnp.pad(grid_positions(rows, cols), ((0, missing), (1, 0)))  # (0, row, column)
    after = jnp.where(jnp.arange(len(grid)) < rows * cols, filled + 1, 0)  # [B, L]
    of_image = jnp.broadcast_to(grid, (b, *grid.shape)).at[:, :, 0].set(after)
    places = jnp.broadcast_to(of_text, (b, *of_text.shape)), of_image
    return image, text, index < filled, places
