"""The objective of a model that edits an image as an instruction says [2211.09800 sec. 3.2].

Its backbone reads the image before the edit beside x_t, and x0 is the image after it. Rows are
those of data.edit_rows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from t2i_jax.data.batch import Batch
from t2i_jax.data.edit_rows import BEFORE
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.ranges import Share
from t2i_jax.systems.beside import check_trained, shown, with_image
from t2i_jax.systems.denoising import denoise_batch
from t2i_jax.systems.system import DRAW_DROP, Draws, row_keys

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem


@dataclass(frozen=True)
class Instruct:
  """The denoising loss of the edited image, given the instruction and the image.

  text, image, both  shares of the rows without the instruction alone, without the image alone, and
                     without either, for guidance by both [2211.09800 sec. 3.2.1]: the instruction
                     becomes the null of every encoder, the image zeros
  In validation nothing is dropped.
  """

  text: Share = 0.05
  image: Share = 0.05
  both: Share = 0.05
  drops = True

  def __post_init__(self) -> None:
    if self.text + self.image + self.both > 1:
      raise ConfigError(
        f"instruct: text = {self.text}, image = {self.image} and both = {self.both} are shares of "
        "the rows, and sum to more than 1."
      )

  def check_training(self, system: "DrawingSystem", rows: int) -> None:
    check_trained(system, instructs=True)

  def dropped(self, draws: Draws) -> tuple[jax.Array, jax.Array]:
    """Which rows lose the instruction, and which the image.   # bool [R] each"""
    if draws.validates:
      none = jnp.zeros(draws.rows.shape, bool)
      return none, none
    u = jax.vmap(jax.random.uniform)(row_keys(draws.key, draws.rows, DRAW_DROP))
    ends = self.text + self.both
    return u < ends, (u >= self.text) & (u < ends + self.image)

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    assert batch.conditions is not None  # check_training
    before = batch.conditions[BEFORE]
    latent = shown(system, params, before.reshape(-1, *before.shape[2:]))  # [R, h, w, C]
    text, image = self.dropped(draws)
    latent = jnp.where(image[:, None, None, None], 0, latent)
    draws = draws._replace(drop=dict.fromkeys(system.text, text))
    change = lambda cond: _with(cond, latent)
    return denoise_batch(system, params, batch, draws, change).values


def _with(cond: Conditioning, latent: jax.Array) -> Conditioning:
  return with_image(cond, jax.lax.stop_gradient(latent))
