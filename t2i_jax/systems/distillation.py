"""Objectives that learn from a frozen network: the part "teacher", left out of inference.

  --config.parts.teacher.start=run:runs/scenes_dit_flow --config.parts.teacher.train=none

The teacher sees the condition of the student: text encoders with weights are frozen.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp

from t2i_jax.data.batch import Batch
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process.few_step import consistency_distillation, guidance_distillation, heun_teacher
from t2i_jax.ranges import Range
from t2i_jax.sampling.guidance import Guided, Scale, guide
from t2i_jax.sampling.guidance_methods import GUIDANCE
from t2i_jax.systems.few_step import Consistency, Pairs
from t2i_jax.systems.system import DRAW_END, Draws, flat_images, row_keys

if TYPE_CHECKING:
  from t2i_jax.systems.drawing import DrawingSystem

Guidance = Annotated[float, Range("[0, 100]")]


def check_frozen(system: "DrawingSystem") -> None:
  """Raises ConfigError where the teacher, or a text encoder that it shares, is trained."""
  for name, part in system.parts.items():
    if (name == "teacher" or name in system.text) and part.train != "none":
      raise ConfigError(
        f"parts.{name}.train = {part.train!r}: the teacher and the text encoders that it shares "
        f"with the student are frozen. Use parts.{name}.train='none' and give "
        f"parts.{name}.start=run:PATH."
      )


def guided_teacher(
  system: "DrawingSystem", params: Params, cond: Conditioning, scale: Scale
) -> Any:
  """(x_t, time) -> Prediction of the teacher with classifier-free guidance."""
  null = jax.tree.map(lambda n, c: jnp.broadcast_to(n, c.shape), system.null(params), cond)
  denoise = partial(system.denoise, params, part="teacher")
  guided = guide(denoise, GUIDANCE["cfg"](), scale)
  return lambda x_t, time: guided(x_t, time, Guided(cond, null))


@dataclass(frozen=True)
class ConsistencyDistillation(Consistency):
  """Consistency distillation [2303.01469 alg. 2]: a pair lies on a path of the teacher's ODE.

  A step of Heun's method leads from a level to the next lower one; with guidance in the teacher the
  student draws guided images in one call a step, at sampling.cfg = 1, as [2310.04378 sec. 4.2].

  guidance  scale of the teacher's guidance, 1 = none
  Other fields as of Consistency.
  """

  guidance: Guidance = 1.0

  def teacher(self, config: Any) -> Any:
    """The config of the teacher, of the backbone's."""
    return config

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError."""
    super().check(system)
    check_frozen(system)

  def pairs(self, system: "DrawingSystem", params: Params, cond: Conditioning) -> Pairs:
    """The loss between two levels of a path."""
    step = heun_teacher(guided_teacher(system, params, cond, self.guidance))
    return lambda f, target, *rest: consistency_distillation(f, target, step, *rest)


@dataclass(frozen=True)
class GuidanceDistillation:
  """Guidance distillation [2210.03142 sec. 3.1]: a student that is given the scale of the guidance.

  One call of the student, whose backbone has an embedding of the scale (model.guidance), stands for
  the two of a guided teacher, which has none; FLUX.1-dev is such a student.

  low, high  scales are uniform between them
  """

  low: Guidance = 1.0
  high: Guidance = 8.0

  def teacher(self, config: Any) -> Any:
    """The config of the teacher, of the backbone's: without the embedding. Raises ConfigError."""
    if not getattr(config, "guidance", 0):
      raise ConfigError(
        "train.objective = 'guidance_distillation' needs a backbone with an embedding of the "
        "guidance scale: model.kind='flux' and model.guidance above 0."
      )
    return replace(config, guidance=0.0)

  def check(self, system: "DrawingSystem") -> None:
    """Raises ConfigError."""
    if self.low > self.high:
      raise ConfigError(
        f"train.objective: guidance_distillation(low={self.low}, high={self.high}) needs low <= "
        "high."
      )
    check_frozen(system)

  def __call__(
    self, system: "DrawingSystem", params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    m = system.mix(system.encode(params, flat_images(batch), draws.key, draws.rows), draws)
    cond = system.conditioning(params, batch, draws)
    keys = row_keys(draws.key, draws.rows, DRAW_END)
    scale = jax.vmap(lambda key: jax.random.uniform(key, (), minval=self.low, maxval=self.high))(
      keys
    )  # [R]
    seen = cond._replace(extras=cond.extras | {"guidance": scale})
    student, inner = system.network(params, m.seen, m.time, seen)
    guided = guided_teacher(system, params, cond, scale)(m.x_t, m.time)
    losses = guidance_distillation(student, guided, m.x_t, m.time, system.weighting)
    return {"image": losses} | inner
