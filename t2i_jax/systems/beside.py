"""What a backbone reads beside x_t: a mask and the masked image to fill in, or an image to edit.

Stable Diffusion's inpainting model [2112.10752 sec. 4.5] and InstructPix2Pix [2211.09800].
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding
from t2i_jax.systems.inputs import Inputs, Origin
from t2i_jax.systems.system import unit_range

MASK, IMAGE = "mask", "image"


def kind_of(system: Any) -> str:
  """MASK, IMAGE, or "" for a backbone that reads x_t alone. Raises ConfigError."""
  count = getattr(system.parts["backbone"].config, "beside", 0)
  channels = system.x_shape[-1]
  kinds = {0: "", channels + 1: MASK, channels: IMAGE}
  if count not in kinds:
    raise ConfigError(
      f"model.beside = {count}: beside x_t of {channels} channels a model reads {channels} of an "
      f"image to edit, or {channels + 1} of a mask and a masked image."
    )
  return kinds[count]


def check_drawn(kind: str, references: Sequence[Any]) -> None:
  """Raises ConfigError for a drawing from noise without the image that is edited, or filled in."""
  if kind == MASK:
    raise ConfigError("this model fills in a part of an image. Give it with --image and --mask.")
  if kind == IMAGE and len(references) != 1:
    raise ConfigError(
      f"this model edits one image, and has {len(references)}. Give it with --reference=FILE."
    )


def check_redrawn(kind: str, mask: Any) -> None:
  """Raises ConfigError for a drawing from an image without its mask, or of a model that edits."""
  if kind == MASK and mask is None:
    raise ConfigError("this model fills in a part of an image. Give that with --mask.")
  if kind == IMAGE:
    raise ConfigError("this model edits an image. Give it with --reference=FILE, not --image.")


class Encoded:
  """The compiled encoders of what is read beside x_t, and where it goes.

  edits  whether the guidance has a prediction for the image without the text [2211.09800 eq. 3]
  shape  of one row
  """

  def __init__(self, system: Any, mesh: jax.sharding.Mesh, edits: bool):
    self.edits, (height, width, _) = edits, system.x_shape
    count = system.parts["backbone"].config.beside
    self.shape = jax.ShapeDtypeStruct((1, height, width, count), jnp.float32)

    def masked(params: Params, images: jax.Array, fill: jax.Array) -> jax.Array:
      """The mask at the latent's size, its nearest pixels, and the image without what it covers."""
      height, width = fill.shape[1] // system.x_shape[0], fill.shape[2] // system.x_shape[1]
      mask = fill[:, ::height, ::width].astype(jnp.float32)
      hidden = system.encode(params, jnp.where(fill, 0, unit_range(images)))
      return jnp.concatenate([mask, hidden], axis=-1)

    def shown(params: Params, images: jax.Array) -> jax.Array:
      """The posterior's mean without the scale of latents, as the published model has it."""
      return system.module(params, "vae").restore(system.encode(params, images))

    put = batch_sharding(mesh)
    compiled: Callable[[Any], Any] = lambda run: jax.jit(run, out_shardings=put)
    self._masked, self._shown = compiled(masked), compiled(shown)

  def masked(self, params: Params, part: Inputs, origin: Origin) -> Inputs:
    """With the mask and the masked image in every condition."""
    found = self._masked(params, origin.images, origin.fill)
    of = lambda cond: None if cond is None else _with(cond, found)
    return part._replace(cond=of(part.cond), null=of(part.null), others=tuple(map(of, part.others)))

  def shown(self, params: Params, part: Inputs, images: jax.Array) -> Inputs:
    """With the image in every condition; for guidance by both, the null has neither."""
    found = self._shown(params, images)
    null = None if part.null is None else _with(part.null, found)
    if not self.edits:
      return part._replace(cond=_with(part.cond, found), null=null)
    neither = _with(part.null, jnp.zeros_like(found))
    return part._replace(cond=_with(part.cond, found), null=neither, others=(null,))


def _with(cond: Conditioning, found: jax.Array) -> Conditioning:
  return cond._replace(extras=cond.extras | {"beside": found})
