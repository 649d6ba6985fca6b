"""What a backbone reads beside x_t: a mask and the masked image to fill in, or an image to edit.

Stable Diffusion's inpainting model [2112.10752 sec. 4.5] and InstructPix2Pix [2211.09800]; the
latter is trained by the objective of systems.instruct.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.backbone import BESIDE
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


def reads_images(system: Any) -> bool:
  """Whether a model is shown images besides the prompt: beside x_t, in the sequence or the text."""
  takes = getattr(system.parts["backbone"].config, "references", False)
  return bool(takes or kind_of(system) or any(e.shown is not None for e in system.text.values()))


def check_trained(system: Any, instructs: bool) -> None:
  """Raises ConfigError for a training that does not know what its backbone reads beside x_t.

  instructs  whether the objective gives it an image
  """
  kind = kind_of(system)
  if instructs and kind != IMAGE:
    channels = system.x_shape[-1]
    raise ConfigError(
      "train.objective = 'instruct' trains a model that edits an image, and this backbone has no "
      f"image input: model.beside = {getattr(system.parts['backbone'].config, 'beside', 0)}. Use "
      f"model.beside={channels}, the channels of x_t."
    )
  if kind == MASK:
    raise ConfigError("a model that fills in a part of an image is drawn with, not trained here.")
  if kind == IMAGE and not instructs:
    raise ConfigError(
      "this backbone reads an image beside x_t (model.beside), which train.objective = 'instruct' "
      "gives it. Use that, with data of edits."
    )
  if kind == IMAGE and system.cached:
    raise ConfigError(
      f"the data set holds features of captions by {', '.join(system.cached)}, and none of "
      "instructions. Use data.dir of the images, or of their latents alone."
    )


def shown(system: Any, params: Params, images: jax.Array) -> jax.Array:
  """What a model that edits reads of its image: the posterior's mean, in the scale of x_t or, of a
  U-Net, without it, as the published one has it.   [R, *row_shape] -> [R, h, w, C]"""
  latent = system.encode(params, images)
  unscaled = getattr(system.parts["backbone"].config, "unscaled_beside", False)
  if not unscaled or "vae" not in system.parts:
    return latent
  return system.module(params, "vae").restore(latent)


def check_drawn(kind: str, references: Sequence[Any]) -> None:
  """Raises ConfigError for a drawing from noise without the image that is edited, or filled in."""
  if kind == MASK:
    raise ConfigError("this model fills in a part of an image. Give it with --image and --mask.")
  if kind == IMAGE and len(references) != 1:
    way = "Leave the others out" if references else "Give it with --reference=FILE"
    raise ConfigError(f"this model edits one image, and has {len(references)}. {way}.")


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

    put = batch_sharding(mesh)
    compiled: Callable[[Any], Any] = lambda run: jax.jit(run, out_shardings=put)
    self._masked = compiled(masked)
    self._shown = compiled(lambda params, images: shown(system, params, images))

  def masked(self, params: Params, part: Inputs, origin: Origin) -> Inputs:
    """With the mask and the masked image in every condition."""
    found = self._masked(params, origin.images, origin.fill)
    of = lambda cond: None if cond is None else with_image(cond, found)
    return part._replace(cond=of(part.cond), null=of(part.null), others=tuple(map(of, part.others)))

  def shown(self, params: Params, part: Inputs, images: jax.Array) -> Inputs:
    """With the image in every condition; for guidance by both, the null has neither."""
    found = self._shown(params, images)
    null = None if part.null is None else with_image(part.null, found)
    if not self.edits:
      return part._replace(cond=with_image(part.cond, found), null=null)
    neither = with_image(part.null, jnp.zeros_like(found))
    return part._replace(cond=with_image(part.cond, found), null=neither, others=(null,))


def with_image(cond: Conditioning, found: jax.Array) -> Conditioning:
  """A condition with what is read beside x_t.   found [B, h, w, beside]"""
  return cond._replace(extras=cond.extras | {BESIDE: found})
