"""What objectives over batches by role share: rows of a role, prompts, the model as it was.

Rows of a batch have their roles in turn (data.roles), and so have those of a micro-batch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import Prediction
from t2i_jax.systems.system import Term

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem

SUBJECT = ("instance", "prior")  # images of a subject, and what the model itself drew of its class
INSTANCE, PRIOR = range(2)
PAIR = ("anchor", "target")  # what is drawn in place of a concept, and the concept
ANCHOR, TARGET = range(2)
TEACHER = "teacher"


def of_role(tree: Any, role: int) -> Any:
  """The rows of a role.   leaves [R, ...] -> [R / 2, ...]"""
  return jax.tree.map(lambda x: x.reshape(-1, len(SUBJECT), *x.shape[1:])[:, role], tree)


def in_place(values: jax.Array, role: int) -> jax.Array:
  """The inverse of `of_role`, with zeros for rows of the others.   # [R]"""
  zeros = jnp.zeros_like(values)
  return jnp.stack([values if i == role else zeros for i in range(len(SUBJECT))], 1).reshape(-1)


def term_of(weight: float, role: int) -> Term:
  """A term that rows of one role have: half of its weight, as the rows of each role count half."""

  def counts(batch: Batch) -> jax.Array:
    if batch.role is None:  # of validation
      return batch.image_weight
    return batch.image_weight * (batch.role == role)[:, None]

  return Term(weight / len(SUBJECT), counts)


def tokens_of(system: "DrawingSystem", prompts: Sequence[str]) -> dict[str, Any]:
  """What each text encoder reads: (ids [n, T], mask [n, T]) by its name. Raises PromptError."""
  return {name: encoder.encode(prompts) for name, encoder in system.text.items()}


def prompted(
  system: "DrawingSystem", params: Params, tokens: dict[str, Any], like: Conditioning
) -> Conditioning:
  """The conditions of prompts, for images whose own conditions are `like`.

  tokens  as of tokens_of, with one row for all images or one for each
  """
  rows = len(next(iter(like.towers.values())).mask)
  towers = system.encode_text(params, tokens).towers
  return like._replace(
    towers=jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape[1:])), towers)
  )


def check_prompts(system: "DrawingSystem", objective: str) -> None:
  """Raises ConfigError where an objective cannot encode its own prompts."""
  stored = [name for name in system.text if name in system.cached]
  shown = [name for name, encoder in system.text.items() if encoder.shown is not None]
  for names, why in ((stored, "stored outputs"), (shown, "images beside the text")):
    if names:
      raise ConfigError(
        f"train.objective = {objective!r} encodes prompts of its own, and the text encoder "
        f"{names[0]} has {why}. Use data of images and captions, and a model without."
      )


def before(system: "DrawingSystem", params: Params) -> Callable[..., Prediction]:
  """(x_t, time, cond) -> the prediction of the model as it was before, which has no gradient:
  without the adapters that are trained, or by the part "teacher"."""
  own = {name: tree for name, tree in params.items() if name not in _trained_adapters(system)}
  part = "backbone" if adapted(system) else TEACHER
  return partial(system.denoise, jax.lax.stop_gradient(own), part=part)


def _trained_adapters(system: "DrawingSystem") -> list[str]:
  return [name for name in system.adapters if system.parts[name].train != "none"]


def adapted(system: "DrawingSystem") -> bool:
  """Whether the backbone is trained by adapters alone."""
  by = any(system.adapters[name].of == "backbone" for name in _trained_adapters(system))
  return by and system.parts["backbone"].train == "none"


def check_before(system: "DrawingSystem", objective: str) -> None:
  """Raises ConfigError where there is no model as it was before, or one that reads other text."""
  trained = [name for name in system.text if name in system.parts
             if system.parts[name].train != "none"]  # fmt: skip
  own = _trained_adapters(system)
  trained += [name for name in own if system.adapters[name].of in system.text]
  if trained:
    raise ConfigError(
      f"train.objective = {objective!r} compares with the model before it was trained, which reads "
      f"the same text encoders: parts.{trained[0]} is to be frozen, or left out."
    )
  if not adapted(system) and (TEACHER not in system.parts or system.parts[TEACHER].train != "none"):
    raise ConfigError(
      f"train.objective = {objective!r} compares with the model before it was trained: train "
      "adapters (adapters.lora) with parts.backbone.train='none', or list the part "
      'parts.teacher = {"start": that of the backbone, "train": "none"}.'
    )
