"""A model that reads captions off noisy images, for classifier guidance."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.models.classifier import log_prob, present
from t2i_jax.models.params import Params
from t2i_jax.process import Time
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.system import Draws, System, flat_images
from t2i_jax.systems.tasks import Tasks


@dataclass(frozen=True)
class ClassifierSystem(System):
  """p(caption | x_t, t); its text encoder "text" has no weights, only the captions' tokens."""

  def logits(self, params: Params, x_t: jax.Array, time: Time) -> jax.Array:
    """x_t [B, H, W, C], time of scalars or [B] -> [B, vocab]."""
    model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
    return self.module(params, "classifier")(x_t.astype(self.dtype), model_time)

  def log_prob(self, params: Params, x_t: jax.Array, time: Time, caption: Any) -> jax.Array:
    """log f_phi(y | x_t, t) of captions (ids [B, T], mask [B, T]), in nats.   # [B]"""
    logits = self.logits(params, x_t, time)
    ids, mask = caption
    return log_prob(logits, present(ids, mask, logits.shape[-1]))

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    """-log f_phi(y | x_t, t), in nats.     Source: [2105.05233 sec. 4]"""
    m = self.mix(self.encode(params, flat_images(batch), draws.key, draws.rows), draws)
    return {"image": -self.log_prob(params, m.seen, m.time, batch.text["text"])}

  def forward(self, params: Params, batch: Batch) -> Any:
    half = self.process.at(jnp.float32(0.5))
    return self.logits(params, self.encode(params, flat_images(batch)), half)

  def tasks(self, c: ConfigDict | None, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    guides.refuse("classifier")
    return Tasks(classify=self.log_prob)
