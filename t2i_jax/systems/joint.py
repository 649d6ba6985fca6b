"""The joint model as a system: one decoder over text and images, one loss over both.

Source: [2408.11039]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data import documents
from t2i_jax.data.batch import Batch
from t2i_jax.data.documents import NO_DOCUMENT, Layout, Packed, Packing
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Crop
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import Params
from t2i_jax.models.transfusion import Rows, Transfusion, TransfusionConfig
from t2i_jax.process.losses import Penalty
from t2i_jax.process.weightings import Weighting
from t2i_jax.systems.chat import Chat
from t2i_jax.systems.denoising import image_losses
from t2i_jax.systems.generate import Generator
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.system import (
  Draws,
  Output,
  System,
  Term,
  flat_images,
  image_counts,
  predicted,
  text_counts,
)
from t2i_jax.systems.tasks import Tasks


@dataclass(frozen=True)
class JointSystem(System):
  """A model that reads and writes text and draws images.

  model_config  of the backbone
  text_length   tokens a text may have
  balance       weight of the images' loss beside the text's [2408.11039 eq. 3: 5]
  """

  tokenizer: Tokenizer
  text_length: int
  model_config: TransfusionConfig
  packed: Packed
  layout: Layout
  output: Output
  weighting: Weighting
  penalty: Penalty
  balance: float

  @property
  def terms(self) -> dict[str, Term]:
    return {"image": Term(self.balance, image_counts), "text": Term(1.0, text_counts)}

  def model(self, params: Params) -> Transfusion:
    return self.module(params, "backbone")

  def check_captions(self, texts: Sequence[str]) -> None:
    self.tokenizer.encode(list(texts), self.text_length)

  def row_maker(self, too_long: str = "error", crop: Crop = "centre") -> RowMaker:
    if crop != "centre":
      raise ConfigError(f"data.crop = {crop!r}: packed rows have images cropped at the centre.")
    shapes = (self.packed, self.layout, self.row_shape)
    return Packing(*shapes, self.tokenizer, self.text_length, too_long)

  def rows(self, n: int) -> Batch:
    made = self.layout.pack([], self.row_shape)
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct((n, *v.shape), v.dtype), made)

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    """Of each image as a model that draws has it, and -log p in nats of each next token."""
    m = self.mix(self.encode(params, flat_images(batch), draws.key, draws.rows), draws)
    shape = batch.image_weight.shape
    model, hidden = self.model(params), []

    def network(x: jax.Array) -> jax.Array:
      x = x.reshape(*shape, *x.shape[1:]).astype(self.dtype)
      states, outputs = model(self.visible(batch), x, m.time.model_time.reshape(shape)).value
      hidden.append(states)
      return outputs.reshape(-1, *outputs.shape[2:])

    prediction = predicted(self.output, network, m.seen, m.time)
    text = model.token_losses(hidden[0], jnp.roll(_rows(batch).tokens, -1, axis=1))
    return {"image": image_losses(self, prediction, m), "text": text}

  def forward(self, params: Params, batch: Batch) -> Any:
    shape = batch.image_weight.shape
    time = jnp.broadcast_to(self.process.at(jnp.float32(0.5)).model_time, shape)
    model = self.model(params)
    x_t = self.encode(params, flat_images(batch)).astype(self.dtype)
    x_t = x_t.reshape(*shape, *x_t.shape[1:])
    hidden, outputs = model(self.visible(batch), x_t, time).value
    return model.token_losses(hidden, _rows(batch).tokens), outputs

  def visible(self, batch: Batch) -> Rows:
    """The rows as the model gets them: hidden tokens are pad."""
    rows = _rows(batch)
    tokens = jnp.where(rows.hidden, self.layout.ids.pad, rows.tokens)
    return Rows(tokens, rows.patch, rows.doc, rows.end, rows.positions, rows.starts)

  @property
  def row(self) -> str:
    return f"a row of {self.layout.length} positions, {self.layout.images} images in it"

  def counted(self, batch: Batch) -> dict[str, jax.Array]:
    """padding: share of positions with nothing. Of a row: its images, those in the loss, documents
    that did not fit.
    """
    rows = _rows(batch)
    empty = (rows.doc == NO_DOCUMENT).astype(jnp.float32)
    return {
      "padding": jnp.mean(empty),
      "images": jnp.mean(jnp.sum(rows.starts > 0, axis=1)),
      "drawn": jnp.mean(jnp.sum(batch.image_weight > 0, axis=1)),
      "left_out": jnp.mean(rows.left_out),
    }

  def tasks(self, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    guides.refuse("transfusion")
    generator = Generator(self, c, mesh)
    reads = ("captions",) if self.packed.image_first > 0 else ()
    edits = ("edits",) if self.packed.edited > 0 else ()
    return Tasks(
      draw=generator.prompts,
      caption=generator.caption,
      edit=generator.edit,
      chat=lambda params, seed: Chat(generator, params, seed),
      measures=reads + edits,
    )


def _rows(batch: Batch) -> documents.Rows:
  assert batch.rows is not None  # Packing makes them
  return batch.rows
