"""Objectives that make a model forget a concept: concept ablation, ESD, and loss maximisation.

Rows come in pairs: an image under the prompt of the anchor ("a circle"), what is drawn instead, and
under that of the concept ("a grum circle"), the target. Sources: [2303.13516], [2303.07345].
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process.matching import guided_negative, matching, partly_denoised
from t2i_jax.ranges import Count, Range, Weight
from t2i_jax.sampling.guidance import Guided, guide, together
from t2i_jax.sampling.guidance_methods import GUIDANCE
from t2i_jax.systems.denoising import denoising, image_losses
from t2i_jax.systems.roles import (
  ANCHOR,
  PAIR,
  TARGET,
  before,
  check_before,
  in_place,
  of_role,
  term_of,
)
from t2i_jax.systems.system import DRAW_END, Draws, Mixture, Term, flat_images, row_keys

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem

Guidance = Annotated[float, Range("[0, 100]")]
# Keys and values that text enters by: of cross-attention; of a text stream; of a sequence that text
# and image share, whose weights are those of the image, too.
CROSS, STREAM, SHARED = "*/cross/kv/*", "*/text/heads/kv/*", "*/attn/kv/*"
OF_KIND = {
  **dict.fromkeys(("unet", "pixart"), CROSS),
  **dict.fromkeys(("flux", "flux2", "sd3", "qwen_image"), STREAM),
  "z_image": SHARED,
}


def trained_kv(model: ConfigDict) -> str:
  """parts.backbone.train for keys and values of the text alone, "all" where there are none.

  model  config.model
  """
  pattern = OF_KIND.get(model.kind, "")
  if model.kind == "dit":
    pattern = {"cross": CROSS, "joint": SHARED}.get(model.text, "")
  return f"only(pattern={pattern!r})" if pattern else "all"


class Pairs(NamedTuple):
  """Of R rows: images of one role with noise, and the conditions of both.   leaves [R / 2, ...]"""

  m: Mixture
  anchor: Conditioning
  target: Conditioning


def pairs(system: "DrawingSystem", params: Params, batch: Batch, draws: Draws, role: int) -> Pairs:
  """role: whose images. Raises ConfigError where captions are dropped."""
  if draws.drop:
    raise ConfigError(
      f"train.caption_dropout drops captions of {', '.join(draws.drop)}: the null would be "
      "ablated. Use 0.0."
    )
  images, t, rows = of_role((flat_images(batch), draws.t, draws.rows), role)
  own = draws._replace(t=t, rows=rows)
  m = system.mix(system.encode(params, images, own.key, rows), own)
  cond = system.conditioning(params, batch, draws)
  return Pairs(m, of_role(cond, ANCHOR), of_role(cond, TARGET))


class _OfPairs:
  """What the objectives share.   regularisation: weight of the denoising loss of the anchors"""

  roles = PAIR
  name: str
  regularisation: float

  @property
  def terms(self) -> dict[str, Term]:
    return {self.name: term_of(1.0, TARGET)}

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    if batch.role is None:  # of validation
      found = denoising(system, params, batch, draws)
      return found | {self.name: jnp.zeros_like(found["image"])}
    value, image, inner = self.of_pairs(system, params, batch, draws)
    found = {name: in_place(one, TARGET) for name, one in ({self.name: value} | inner).items()}
    return found | {"image": in_place(self.regularisation * image, ANCHOR)}

  def of_pairs(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """The loss of each target, the denoising loss of each anchor (0 where regularisation is 0), and
    what the backbone itself gives.   # [R / 2]"""
    raise NotImplementedError


@dataclass(frozen=True)
class Ablation(_OfPairs):
  """Concept ablation [2303.13516 sec. 3.2]: the concept is drawn as its anchor is.

      |Phi(x_t, c*, t) - sg Phi(x_t, c, t)|^2,        c* of the concept, c of the anchor,

  at x_t of images that the model drew of the anchor before.

  target  what the prediction under c* is held to: "current", that under c by the weights that are
          trained, as published; "frozen", by those before; "noise", the noise itself, as if the
          images were of the concept (the noise-based variant)
  regularisation  weight of the denoising loss of the images under c, 0 = off

  Predictions are compared in the kind and with the weight of the denoising loss, for flow matching
  as velocities: at t = 1 alpha is 0 and eps = x_t whatever is predicted, so that a difference of
  noises is small where a concept is decided. In the mean over a batch both terms count half.
  """

  target: Literal["current", "frozen", "noise"] = "current"
  regularisation: Weight = 0.0

  name = "ablation"

  @property
  def frozen_copy(self) -> bool:
    return self.target == "frozen"

  def check_training(self, system: "DrawingSystem", rows: int) -> None:
    """Raises ConfigError.   rows: of a micro-batch"""
    if self.target == "frozen":
      check_before(system, "ablation(target='frozen')")

  def of_pairs(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    m, anchor, target = pairs(system, params, batch, draws, ANCHOR)
    found, inner = system.network(params, m.seen, m.time, target)
    image, own = jnp.zeros(len(m.x_t)), None
    if self.regularisation:
      own = system.denoise(params, m.seen, m.time, anchor)
      image = image_losses(system, own, m)
    if self.target == "noise":
      return image_losses(system, found, m), image, inner
    if self.target == "frozen":
      own = before(system, params)(m.seen, m.time, anchor)
    if own is None:
      own = system.denoise(jax.lax.stop_gradient(params), m.seen, m.time, anchor)
    return matching(found, own, m.seen, m.time, system.weighting), image, inner


@dataclass(frozen=True)
class Esd(_OfPairs):
  """Erased Stable Diffusion [2303.07345 sec. 4]: away from the concept, on its own trajectories.

      |Phi(x_t, c*) - (Phi_0(x_t, c) - eta (Phi_0(x_t, c*) - Phi_0(x_t, "")))|^2,

  Phi_0 the model before. In the paper c is the null; in its code c = c* and eta is one more, which
  is the same.

  eta            strength of the negative guidance
  source         c: "null", or "anchor", the prompt of a row's anchor
  guidance       scale at which the model before draws x_t under c*
  denoise_steps  of DDIM from noise down to t, of each row its own. They are taken in the step, so
                 that nothing is stored and a run that goes on draws the same; the code stops at
                 random in 50 steps
  regularisation weight of the denoising loss of images of the anchor, 0 = off
  """

  eta: Guidance = 1.0
  source: Literal["null", "anchor"] = "null"
  guidance: Guidance = 3.0
  denoise_steps: Count = 10
  regularisation: Weight = 0.0

  name = "esd"
  frozen_copy = True

  def check_training(self, system: "DrawingSystem", rows: int) -> None:
    """Raises ConfigError.   rows: of a micro-batch"""
    check_before(system, "esd")

  def of_pairs(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    m, anchor, target = pairs(system, params, batch, draws, ANCHOR)
    spread: Any = lambda one, like: jnp.broadcast_to(one, like.shape)
    null = jax.tree.map(spread, system.null(params), target)
    frozen = before(system, params)
    guided = guide(frozen, GUIDANCE["cfg"](), self.guidance)
    keys = row_keys(draws.key, of_role(draws.rows, TARGET), DRAW_END)
    x_t = partly_denoised(
      lambda x, time: guided(x, time, Guided(target, null)),
      system.process,
      system.process.prior(keys, m.x_t.shape[1:]),
      m.time.t,
      self.denoise_steps,
    )
    others = [anchor] if self.source == "anchor" else []
    concept, without, *rest = together(frozen, x_t, m.time, [target, null, *others])
    wanted = guided_negative(rest[0] if rest else without, concept, without, self.eta)
    found, inner = system.network(params, x_t, m.time, target)
    image = jnp.zeros(len(x_t))
    if self.regularisation:
      image = image_losses(system, system.denoise(params, m.seen, m.time, anchor), m)
    return matching(found, wanted, x_t, m.time, system.weighting), image, inner


@dataclass(frozen=True)
class Maximise(_OfPairs):
  """A baseline of [2303.13516]: minus the denoising loss of images of the concept.

  ceiling  of the loss of an image, beyond which it has no gradient; 0: none, and the loss has no
           bound
  regularisation  weight of the denoising loss of images of the anchor, 0 = off
  """

  ceiling: Weight = 0.0
  regularisation: Weight = 0.0

  name = "maximise"

  def of_pairs(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    def losses(role: int) -> tuple[jax.Array, dict[str, jax.Array]]:
      m, *conds = pairs(system, params, batch, draws, role)
      found, inner = system.network(params, m.seen, m.time, conds[role])
      return image_losses(system, found, m), inner

    loss, inner = losses(TARGET)
    image = losses(ANCHOR)[0] if self.regularisation else jnp.zeros_like(loss)
    return -jnp.minimum(loss, self.ceiling or jnp.inf), image, inner
