"""DomainGallery [2411.04571]: what ten images have in common, under "a [V] N", without their noun.

A run has two stages. Erasure: the word [V] first loses what it means to the model. Then the images
are learned, and the similarities of a batch stay what they were. In both stages the class "a N"
stays what it was.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from t2i_jax.data.batch import Batch, Tokens
from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Visible
from t2i_jax.models.control import Control, Here, Role, with_role
from t2i_jax.models.params import Params
from t2i_jax.process import Prediction
from t2i_jax.process.matching import cosines, denoised, matching, similarity_consistency
from t2i_jax.ranges import Count, Weight, Whole
from t2i_jax.systems.denoising import denoise_batch
from t2i_jax.systems.roles import (
  INSTANCE,
  PRIOR,
  SUBJECT,
  before,
  check_before,
  check_prompts,
  in_place,
  of_role,
  prompted,
  term_of,
  tokens_of,
)
from t2i_jax.systems.system import Draws, Mixture, Term

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem

BLANK = "{}"  # in prompts, where the class stands
FEWEST = 3  # rows of which similarities are compared: of two there is one


@dataclass(frozen=True)
class DomainGallery:
  """Half of a batch are images of a domain, half those that the model itself drew of their class.

  prompt        "a [V] N", the captions of the former;   class_prompt: "a N", those of the latter
  class_words   where the images are of several classes: each N, which stands in both in place of {}
  erase_steps   of the first stage, without the domain's images; 0, as erasure = 0: there is none
  prior         weight of the loss of the class's images, in both stages
  erasure       of the prediction for those under `prompt`, which is held to that under
                `class_prompt` [eq. 2], in the first stage
  disentanglement  of the prediction under `class_prompt`, which is held to that of the model as it
                was [eq. 3], in both stages
  similarity    of the similarities of the class's images, denoised under `prompt`, which are held
                to those under `class_prompt` [eq. 4], in the second stage
  denoise_steps  of DDIM, from x_t on
  A weight of 0 leaves a term out. Weights by default are the published ones.
  """

  prompt: str
  class_prompt: str
  erase_steps: Whole = 0
  prior: Weight = 1.0
  erasure: Weight = 10.0
  disentanglement: Weight = 10.0
  similarity: Weight = 1.0
  denoise_steps: Count = 5
  class_words: tuple[str, ...] = ()

  roles = SUBJECT
  frozen_copy = True

  @property
  def prompts(self) -> tuple[list[str], list[str]]:
    """Of each class that with the word, and that without it."""
    words = self.class_words or (BLANK,)
    own, source = ([p.replace(BLANK, w) for w in words] for p in (self.prompt, self.class_prompt))
    return own, source

  @property
  def terms(self) -> dict[str, Term]:
    weights = {
      "erasure": self.erasure if self.erase_steps else 0.0,
      "disentanglement": self.disentanglement,
      "similarity": self.similarity,
    }
    return {name: term_of(weight, PRIOR) for name, weight in weights.items() if weight}

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError, PromptError."""
    check_prompts(system, "domain_gallery")
    tokens_of(system, [prompt for side in self.prompts for prompt in side])
    if self.similarity and not system.layers:
      raise ConfigError(
        "train.objective: domain_gallery compares the queries of attention, and this backbone has "
        "none. Use similarity=0."
      )

  def check_training(self, system: "DrawingSystem", rows: int) -> None:
    """Raises ConfigError.   rows: of a micro-batch"""
    if self.disentanglement:
      check_before(system, "domain_gallery")
    if self.similarity and rows < FEWEST * len(SUBJECT):
      raise ConfigError(
        f"train.batch / train.accumulate = {rows}: domain_gallery compares the similarities of "
        f"images of the class, half of these. Use {FEWEST * len(SUBJECT)} or more, or similarity=0."
      )

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    found, m, cond, prediction = denoise_batch(system, params, batch, draws)
    if batch.role is None:  # of validation
      return found | {name: jnp.zeros_like(found["image"]) for name in self.terms}
    erasing = jnp.asarray(draws.step) < (self.erase_steps if "erasure" in self.terms else 0)
    domain = jnp.where(erasing, 0.0, 1.0)
    found["image"] *= jnp.where(batch.role == INSTANCE, domain, self.prior)
    if not self.terms:
      return found

    own, source, cond = of_role((prediction, m, cond), PRIOR)
    values: dict[str, jax.Array] = {}
    if self.disentanglement:
      held = before(system, params)(source.seen, source.time, cond)
      values["disentanglement"] = matching(own, held, source.seen, source.time, system.weighting)
    tokens = [tokens_of(system, side) for side in self.prompts]
    which = chosen(of_role(batch.text, PRIOR), tokens[1])
    of_rows = jax.tree.map(lambda x: jnp.asarray(x)[which], tokens)
    conds = [prompted(system, params, one, cond) for one in of_rows]
    stages = {"erasure": self._erasure, "similarity": self._similarity}
    here = [name for name in stages if name in self.terms]

    def stage(now: str) -> dict[str, jax.Array]:
      call = lambda name: stages[name](system, params, source, *conds)
      zeros = jnp.zeros(len(source.x_t))
      return {name: call(name) if name == now else zeros for name in here}

    values |= jax.lax.cond(erasing, partial(stage, "erasure"), partial(stage, "similarity"))
    return found | {name: in_place(value, PRIOR) for name, value in values.items()}

  def _erasure(
    self, system: "DrawingSystem", params: Params, m: Mixture, target: Any, source: Any
  ) -> jax.Array:
    """The prediction under `prompt` against that under `class_prompt`, which stays.   # [B]"""
    call = lambda cond: system.denoise(params, m.seen, m.time, cond)
    return matching(call(target), call(source), m.seen, m.time, system.weighting)

  def _similarity(
    self, system: "DrawingSystem", params: Params, m: Mixture, target: Any, source: Any
  ) -> jax.Array:
    """Of images of the class, denoised under either prompt, by queries of attention.   # [B]

    Of all tokens, in the layers of the network's first half. The paper has the maps of a U-Net's
    encoder, which other backbones have not.
    """
    control = recorded_similarities(system.layers)
    smallest = system.process.at(jnp.full(len(m.x_t), 1 / (system.process.steps or 1000)))

    def similarities(params: Params, cond: Any) -> tuple[jax.Array, jax.Array]:
      denoise: Any = lambda x_t, time: system.denoise(params, x_t, time, cond)
      x0_hat = denoised(denoise, system.process, m.x_t, m.time.t, self.denoise_steps)
      known = with_role(cond, Role.COND)
      return collected(system.denoise(params, x0_hat, smallest, known, control))

    found, used = similarities(params, target)
    wanted, _ = similarities(jax.lax.stop_gradient(params), source)
    losses = jax.vmap(similarity_consistency)(found, wanted)  # [layers, B]
    return used @ losses / jnp.sum(used)


def chosen(text: dict[str, Tokens], prompts: dict[str, Any]) -> jax.Array:
  """Which of n prompts each row's caption is; 0 where it is none.

  text     captions of R rows by encoder;   prompts: as of tokens_of
  Returns [R] int32; of one prompt [1], which stands for all rows.
  """
  count = len(next(iter(prompts.values()))[0])
  if count == 1:
    return jnp.zeros(1, jnp.int32)
  same = [
    jnp.all(text[name].ids[:, None] == jnp.asarray(ids)[None], axis=-1)  # [R, n]
    for name, (ids, _) in prompts.items()
  ]
  return jnp.argmax(jnp.all(jnp.stack(same), axis=0), axis=1)


def recorded_similarities(depth: int) -> Control:
  """A control that records `cosines` of the image's queries in each layer, and which count."""

  def record(here: Here, site: str, q: jax.Array, k: Any, v: Any, mask: Visible | None) -> Any:
    return None if site == "cross" else (cosines(q[:, here.text :]), here.layer)

  return Control(1.0 * (jnp.arange(depth) < max(depth // 2, 1)), record=record)


def collected(prediction: Prediction) -> tuple[jax.Array, jax.Array]:
  """Of what `recorded_similarities` recorded [layers, B, B], and weights [layers] of these."""
  found = [
    note
    for stack, sites in prediction.aux.items()
    for note in sites.values()
    if note is not None and not stack.startswith("text")  # of the text alone
  ]
  cosine, used = zip(*found, strict=True)
  return jnp.concatenate(cosine), jnp.concatenate(used)
