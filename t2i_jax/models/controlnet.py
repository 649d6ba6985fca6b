"""ControlNet of the U-Nets: an image that conditions, as residuals of the skip connections.

    the U-Net's own way down and middle, of x_t after its first convolution + the embedded image
    -> a convolution, zero at the start, of every skip connection and of the middle

Source: [2302.05543 sec. 3], and diffusers' ControlNetModel, whose modules these are.

What systems.controlnet needs of the ControlNet of any backbone: in its config `base`, `make`,
`residual_count` and `compared`; in the network `embed`, its call, whose residuals are what the
backbone takes, and `scaled`. Besides these a config may have `reads_latents`: what is embedded is
the autoencoder's latents, `unshifted` ones or not; and `counts` of residuals, equal for several.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.convolution import Conv
from t2i_jax.models.layers import Dense
from t2i_jax.models.params import zeros
from t2i_jax.models.stack import Stacks
from t2i_jax.models.unet import Stem, StemConfig, UNetConfig
from t2i_jax.ranges import Width

COLOURS = 3  # channels of a condition image


@dataclass(frozen=True)
class ControlNetConfig(StemConfig):
  """As the U-Net that it controls.

  hint_widths  of the convolutions that embed the condition image, which is halved between them
  bgr          it was trained on images whose channels are blue, green, red
  global_pool  residuals are means over the image
  """

  base: ClassVar[type] = UNetConfig

  hint_widths: tuple[Width, ...] = (16, 32, 96, 256)
  bgr: bool = False
  global_pool: bool = False

  def make(self, rngs: nnx.Rngs) -> "ControlNet":
    return ControlNet(self, rngs)

  @property
  def factor(self) -> int:
    """Pixels of the condition image along a side of one latent."""
    return 2 ** (len(self.hint_widths) - 1)

  @property
  def residual_count(self) -> int:
    """Residuals, each of which has a scale: those of the skip connections, then the middle's."""
    return len(self.skip_widths) + 1

  def compared(self, backbone: UNetConfig, factor: int) -> dict[str, tuple[Any, Any]]:
    """What has to be equal of this and of the backbone that it is given for, by its name.

    factor  pixels along a side of the backbone's latents
    """
    found: dict[str, tuple[Any, Any]] = {
      "channels of x_t": (self.channels, backbone.channels),
      "width of the text (cross_attention_dim)": (self.text_width, backbone.text_width),
      "number of skip connections": (len(self.skip_widths), len(backbone.skip_widths)),
      "widths of skip connections": (self.skip_widths, backbone.skip_widths),
      "width of the middle": (self.widths[-1], backbone.widths[-1]),
      "pixels of the condition image along a side of a latent": (self.factor, factor),
    }
    if self.micro_conditions:
      found["micro-conditions"] = (self.micro_conditions, backbone.micro_conditions)
      found["width of the pooled text"] = (self.pooled_width, backbone.pooled_width)
    return found


class HintEmbedding(nnx.Module):
  """A condition image to an image of the latent's size.   [B, H, W, 3] -> [B, h, w, widths[0]]"""

  def __init__(self, c: ControlNetConfig, rngs: nnx.Rngs):
    widths = c.hint_widths
    self.halvings = len(widths) - 1
    self.conv_in = Conv(rngs, COLOURS, widths[0])
    for i in range(self.halvings):
      setattr(self, f"keep{i}", Conv(rngs, widths[i], widths[i]))
      halve = Conv(rngs, widths[i], widths[i + 1], halves=True, padding=(1, 1))
      setattr(self, f"halve{i}", halve)
    self.conv_out = Conv(rngs, widths[-1], c.widths[0], init=zeros)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = jax.nn.silu(self.conv_in(x))
    for i in range(self.halvings):
      x = jax.nn.silu(getattr(self, f"keep{i}")(x))
      x = jax.nn.silu(getattr(self, f"halve{i}")(x))
    return self.conv_out(x)


class ControlNet(Stem):
  """(x_t [B, H, W, C], model_time [B], Conditioning, hint) -> residuals of a U-Net.

  hint  [B, H, W, widths[0]], of `embed`: it is the same for all times
  x_t, model_time, cond  as the U-Net has them; it does not read extras["beside"]
  The residuals are "skips", a list, and "after_middle", as models.unet.UNet adds them.
  """

  def __init__(self, config: ControlNetConfig, rngs: nnx.Rngs):
    c = self.config = config
    super().__init__(c, rngs, c.channels)
    self.embedding = HintEmbedding(c, rngs)
    zero_conv = lambda width: Dense(rngs, width, width, ("conv_in", "conv_out"), init=zeros)
    for i, width in enumerate(c.skip_widths):
      setattr(self, f"skip{i}", zero_conv(width))
    self.after_middle = zero_conv(c.widths[-1])

  def embed(self, image: jax.Array) -> jax.Array:
    """A condition image [B, H, W, 3] in [0, 1], red, green, blue -> hint [B, h, w, widths[0]]."""
    return self.embedding(image[..., ::-1] if self.config.bgr else image)

  def __call__(
    self, x_t: jax.Array, model_time: jax.Array, cond: Conditioning, hint: jax.Array
  ) -> dict[str, Any]:
    c = self.config
    run = self.run(c, Stacks(c), x_t, model_time, cond)
    x, skips = self.down(c, self.first(x_t) + hint.astype(x_t.dtype), run)
    found = [getattr(self, f"skip{i}")(skip) for i, skip in enumerate(skips)]
    middle = self.after_middle(self.middle(x, run))
    if c.global_pool:
      mean = lambda x: jnp.mean(x, axis=(1, 2), keepdims=True)
      found, middle = list(map(mean, found)), mean(middle)
    return {"skips": found, "after_middle": middle}

  @staticmethod
  def scaled(residuals: dict[str, Any], scale: jax.Array) -> dict[str, Any]:
    """Each residual times its scale.   scale: [B, residual_count]"""
    pairs = zip([*residuals["skips"], residuals["after_middle"]], scale.T, strict=True)
    *skips, middle = (r * s[:, None, None, None].astype(r.dtype) for r, s in pairs)
    return {"skips": skips, "after_middle": middle}
