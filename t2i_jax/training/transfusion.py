"""The joint model as a system: one loss over what is written and what is drawn."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.data.documents import NOBODY, Layout, Packed, Packing
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models import with_params
from t2i_jax.models.params import Params
from t2i_jax.models.transfusion import Rows, Transfusion, TransfusionConfig
from t2i_jax.pretrained import load_language_model
from t2i_jax.pretrained.language_model import OF_WORDS
from t2i_jax.process import denoising_loss
from t2i_jax.process.losses import Penalty
from t2i_jax.process.variational import variance_loss
from t2i_jax.process.weightings import Weighting
from t2i_jax.training.state import TrainState
from t2i_jax.training.system import (
  Batch,
  Mixture,
  Output,
  Trainable,
  predicted,
  unit_range,
)


@dataclass(frozen=True)
class TransfusionSystem(Trainable):
  """A model that reads, writes and draws.

  model_config  of the backbone
  balance       weight of the pictures' loss beside the text's [2408.11039 eq. 3: 5]
  """

  model_config: TransfusionConfig
  packed: Packed
  layout: Layout
  output: Output
  weighting: Weighting
  penalty: Penalty
  balance: float

  @property
  def terms(self) -> dict[str, float]:
    return {"image": self.balance, "text": 1.0}

  def model(self, params: Params) -> Transfusion:
    return with_params(self.makers["backbone"])(params["backbone"])

  def transform(self, tokenizer: Tokenizer) -> RowMaker:
    return Packing(self.packed, self.layout, self.x_shape, tokenizer, self.text_length)

  def rows(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
    made = self.layout.pack([], self.x_shape)
    return {k: jax.ShapeDtypeStruct((n, *v.shape), v.dtype) for k, v in made.items()}

  def losses(self, params: Params, batch: Batch, mixture: Mixture) -> dict[str, jax.Array]:
    """Of each picture, as a system that draws has it, and -log p in nats of each next token."""
    m, shape = mixture, batch["weight"].shape
    model, kept = self.model(params), []

    def network(x: jax.Array) -> jax.Array:
      x = x.reshape(*shape, *x.shape[1:]).astype(self.dtype)
      hidden, answers = model(self.shown(batch), x, m.time.model_time.reshape(shape)).value
      kept.append(hidden)
      return answers.reshape(-1, *answers.shape[2:])

    prediction = predicted(self.output, network, m.seen, m.time)
    losses = denoising_loss(prediction, m.x0, m.eps, m.time, self.weighting, self.penalty)
    if self.output.learned_variance:
      losses = losses + variance_loss(self.process, prediction, m.x0, m.x_t, m.time)
    text = model.token_losses(kept[0], jnp.roll(batch["tokens"], -1, axis=1))
    return {"image": losses, "text": text}

  def forward(self, params: Params, batch: Batch) -> Any:
    time = jnp.broadcast_to(self.process.at(jnp.float32(0.5)).model_time, batch["weight"].shape)
    model = self.model(params)
    x_t = unit_range(batch["image"]).astype(self.dtype)
    hidden, answers = model(self.shown(batch), x_t, time).value
    return model.token_losses(hidden, batch["tokens"]), answers

  def shown(self, batch: Batch) -> Rows:
    """What the model reads of a batch."""
    rows = Rows(*(batch[name] for name in Rows._fields))
    return rows._replace(tokens=jnp.where(batch["dropped"], self.layout.ids.pad, rows.tokens))

  @property
  def row(self) -> str:
    return f"a row of {self.layout.length} positions, {self.layout.pictures} pictures in it"

  def counted(self, batch: Batch) -> dict[str, jax.Array]:
    """padding: share of positions with nothing. A row: its pictures, those of them that are to be
    drawn, documents that did not fit.
    """
    empty = (batch["doc"] == NOBODY).astype(jnp.float32)
    return {
      "padding": jnp.mean(empty),
      "pictures": jnp.mean(jnp.sum(batch["starts"] > 0, axis=1)),
      "drawn": jnp.mean(jnp.sum(batch["weight"] > 0, axis=1)),
      "left_out": jnp.mean(batch["left_out"]),
    }


def words_of(folder: str, system: TransfusionSystem, abstract: TrainState) -> Params:
  """The parameters of a language model's folder (t2i_jax.pretrained), sharded as the state's.

  Raises ConfigError for a folder of another model, RestoreError for one that is damaged.
  """
  own = abstract.trainable["backbone"]
  where = {name: own[name] for name in OF_WORDS if name in own}
  shardings = jax.tree.map(lambda leaf: leaf.sharding, where)
  return load_language_model(folder, system.model_config, shardings)


def start_with(state: TrainState, words: Params) -> TrainState:
  """A fresh state that begins with these words instead of its own."""
  filled = lambda tree: tree | {"backbone": tree["backbone"] | jax.tree.map(jnp.copy, words)}
  return state._replace(trainable=filled(state.trainable), ema=filled(state.ema))
