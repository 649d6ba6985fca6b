"""A model that draws: a backbone under text encoders, and an objective over its predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch, Features
from t2i_jax.data.conditions import OfRecord
from t2i_jax.data.edit_rows import BEFORE, EditRows
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.record import Record
from t2i_jax.data.transforms import Crop, conditions_of, fit_image
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.conditioning import Tower, drop_towers
from t2i_jax.models.control import Control
from t2i_jax.models.params import Params
from t2i_jax.models.stack import Answer
from t2i_jax.models.unet import micro_conditions
from t2i_jax.process import Prediction, Time
from t2i_jax.process.losses import Penalty
from t2i_jax.process.weightings import Weighting
from t2i_jax.ranges import Weight
from t2i_jax.systems.ablation import Ablation, Esd, Maximise
from t2i_jax.systems.adapters import with_adapters
from t2i_jax.systems.beside import IMAGE, check_trained, kind_of, reads_images, with_image
from t2i_jax.systems.comfusion import ComFusion
from t2i_jax.systems.conditions import CONDITIONS, Condition
from t2i_jax.systems.controlnet import residuals, with_conditions
from t2i_jax.systems.denoising import denoising
from t2i_jax.systems.distillation import ConsistencyDistillation, GuidanceDistillation
from t2i_jax.systems.domain_gallery import DomainGallery
from t2i_jax.systems.draw import Drawing
from t2i_jax.systems.few_step import Consistency, MeanFlow
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.imagic import Imagic
from t2i_jax.systems.instruct import Instruct
from t2i_jax.systems.likelihood import make_likelihood
from t2i_jax.systems.roles import INSTANCE, SUBJECT
from t2i_jax.systems.system import (
  Draws,
  Output,
  System,
  Term,
  flat_images,
  image_counts,
  predicted,
)
from t2i_jax.systems.tasks import ONLY_EDITS, ControlImages, Tasks
from t2i_jax.towers.join import Join


@dataclass(frozen=True)
class DrawingSystem(System):
  """A model that draws.

  join                text encoders to towers of the backbone
  layers              blocks of the backbone, by which a control names them
  inner               weights of the losses that the backbone itself gives, by name
  weighting, penalty  of the denoising loss, whatever the network predicts
  objective           (system, params, batch, draws) -> values by term: one of OBJECTIVES. It may
                      have check(system) and check_training(system, rows of a micro-batch), which
                      raise ConfigError; roles; terms; networks, frozen parts of its own; drops,
                      True where it drops captions itself;
                      learned(text, join), the part "embedding";
                      teacher(config), of the backbone that is the frozen part "teacher", or
                      frozen_copy: a config may list such a part, with the backbone's config
  controlnets         parts whose residuals are added to the backbone's -> what makes their
                      condition images of those of training, or None
  """

  join: Join
  layers: int
  inner: dict[str, float]
  output: Output
  weighting: Weighting
  penalty: Penalty
  objective: Callable[..., dict[str, jax.Array]]
  controlnets: dict[str, Condition | None] = field(default_factory=dict)

  def __post_init__(self):
    check = getattr(self.objective, "check", None)
    if check is not None:
      check(self)
    if self.latents is not None and any(self.controlnets.values()):
      raise ConfigError(
        "controlnets: condition images are made of images, and the data set holds latents. Use "
        "data.dir of the images."
      )

  def check_training(self, rows: int) -> None:
    check = getattr(self.objective, "check_training", None)
    if check is not None:
      check(self, rows)
    else:
      check_trained(self, instructs=False)

  @property
  def edits(self) -> bool:
    """Whether it changes an image that it is given, as a prompt says."""
    return kind_of(self) == IMAGE

  @property
  def sampled(self) -> tuple[str, ...]:
    """The parts that a sampler calls, with their adapters."""
    return with_adapters(self, ("backbone", *self.controlnets))

  @property
  def encoding(self) -> tuple[str, ...]:
    """The text encoders, with their adapters."""
    return with_adapters(self, tuple(self.text))

  @property
  def two_times(self) -> bool:
    """Whether the backbone takes an end besides its time: extras["end"] of the condition."""
    return getattr(self.parts["backbone"].config, "times", 1) == 2

  @property
  def reads_sizes(self) -> bool:
    """Whether a batch has the sizes of its images."""
    return bool(getattr(self.parts["backbone"].config, "micro_conditions", 0))

  @property
  def of_records(self) -> dict[str, OfRecord]:
    """By ControlNet, what makes its condition images of records."""
    return {name: one for name, one in self.controlnets.items() if isinstance(one, OfRecord)}

  @property
  def reads(self) -> dict[str, Any]:  # type: ignore[override]
    return {"sizes": self.reads_sizes, "conditions": self.of_records}

  def rows(self, n: int) -> Batch:
    of = jax.ShapeDtypeStruct
    sizes = of((n, 1, 4), jnp.float32) if self.reads_sizes else None
    role = of((n,), jnp.int32) if self.roles else None
    image = of((n, 1, *self.image_shape[:2], 3), jnp.uint8)
    conditions = dict.fromkeys(self.of_records, image)
    rows = super().rows(n)
    conditions |= {BEFORE: rows.images} if self.edits else {}
    return rows._replace(sizes=sizes, role=role, conditions=conditions or None)

  def row_maker(self, too_long: str = "error", crop: Crop = "centre") -> RowMaker:
    rows = self.transform(too_long, crop)
    return EditRows(rows) if self.edits else rows

  @property
  def roles(self) -> tuple[str, ...]:  # type: ignore[override]
    return getattr(self.objective, "roles", ())

  @property
  def terms(self) -> dict[str, Term]:
    inner = {name: Term(weight, image_counts) for name, weight in self.inner.items()}
    return {"image": Term(1.0, image_counts)} | inner | getattr(self.objective, "terms", {})

  @property
  def droppable(self) -> tuple[str, ...]:
    return () if getattr(self.objective, "drops", False) else tuple(self.text)

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    for name, condition in self.controlnets.items():
      if condition is None:
        raise ConfigError(
          f"controlnets.{name}: training does not know its condition images. Give it a condition, "
          f"one of {', '.join(CONDITIONS)}, as folder(path='PATH', condition='edges')."
        )
    return self.objective(self, params, batch, draws)

  def towers(self, params: Params, text: dict[str, Any]) -> dict[str, Tower]:
    """The output of each encoder.

    text  (ids [B, T] int32, mask [B, T] bool), and the images of one that sees them, by encoder; or
          its stored output
    """
    found = {}
    for name, encoder in self.text.items():
      if isinstance(text[name], Features):
        tokens, mask, pooled = text[name]
        pooled = None if pooled is None else pooled.astype(self.dtype)
        found[name] = Tower(tokens.astype(self.dtype), mask, pooled)
        continue
      ids, mask, *images = text[name]
      module = self.module(params, name, encoder.make)
      found[name] = encoder.after(module(ids, mask, self.dtype, *images))
    return found

  def encode_text(self, params: Params, text: dict[str, Any]) -> Conditioning:
    """The encoders' outputs as the backbone takes them.   text: as for `towers`"""
    return self._condition(self.towers(params, text))

  def null(self, params: Params) -> Conditioning:
    """The conditioning of "", one row."""
    return self._condition(self._nulls(params))

  def _nulls(self, params: Params) -> dict[str, Tower]:
    nulls: dict[str, Any] = {
      name: self.cached[name].null if name in self.cached else encoder.null
      for name, encoder in self.text.items()
    }
    return self.towers(params, jax.tree.map(jnp.asarray, nulls))

  def conditioning(self, params: Params, batch: Batch, draws: Draws) -> Conditioning:
    """Of a batch's captions, those dropped of an encoder replaced by its null."""
    towers = self.towers(params, batch.text)
    if draws.drop:
      towers = drop_towers(towers, self._nulls(params), draws.drop)
    cond = with_conditions(self, params, batch, self._condition(towers))
    if batch.sizes is None:
      return cond
    micro = cond.extras["micro_conditions"].at[:, :4].set(batch.sizes.reshape(-1, 4))
    return cond._replace(extras=cond.extras | {"micro_conditions": micro})

  def _condition(self, encoded: dict[str, Tower]) -> Conditioning:
    """Towers of the backbone, and what it takes besides of images that are as they were."""
    towers, extras = self.join.towers(encoded), {}
    if n := getattr(self.parts["backbone"].config, "micro_conditions", 0):
      rows = len(next(iter(towers.values())).mask)
      extras["micro_conditions"] = micro_conditions(n, *self.image_shape[:2], rows)
    return Conditioning(towers, extras)

  def network(
    self,
    params: Params,
    x_t: jax.Array,
    time: Time,
    cond: Conditioning,
    control: Control | None = None,
    part: str = "backbone",
  ) -> tuple[Prediction, dict[str, jax.Array]]:
    """The prediction at x_t [R, H, W, C] float32, time of scalars or [R], and the inner losses.

    part: the network's name, "backbone" or "teacher". aux is what a control recorded, else the raw
    learned variance, shaped like x_t, or None.
    """
    model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
    model = self.module(params, part)
    answers: list[Answer] = []

    def value(x: jax.Array) -> jax.Array:
      x = x.astype(self.dtype)
      controlled = self.controlnets and part == "backbone"
      added = (residuals(self, params, x, model_time, cond),) if controlled else ()
      answers.append(model(x, model_time, cond, control, *added))
      return answers[0].value

    prediction = predicted(self.output, value, x_t, time)
    (answer,) = answers
    if control is not None and control.record is not None:
      prediction = prediction._replace(aux=answer.notes)
    inner = {name: jnp.broadcast_to(loss, x_t.shape[:1]) for name, loss in answer.losses.items()}
    return prediction, inner

  def denoise(
    self,
    params: Params,
    x_t: jax.Array,
    time: Time,
    cond: Conditioning,
    control: Control | None = None,
    part: str = "backbone",
  ) -> Prediction:
    """The network as a denoiser: see `network`."""
    return self.network(params, x_t, time, cond, control, part)[0]

  def forward(self, params: Params, batch: Batch) -> Any:
    cond = with_conditions(self, params, batch, self.encode_text(params, batch.text))
    x_t = self.encode(params, flat_images(batch))
    if count := getattr(self.parts["backbone"].config, "beside", 0):
      cond = with_image(cond, jnp.zeros((*x_t.shape[:3], count)))
    return self.denoise(params, x_t, self.process.at(jnp.float32(0.5)), cond).value

  def condition_images(self, records: Sequence[Record]) -> ControlImages:
    """What the ControlNets read of records of training, each by its `condition`.

    Raises DataError for a record that does not have it.
    """
    size = self.image_shape[:2]
    made = [conditions_of(record, self.of_records, size) for record in records]
    unit = jnp.stack([fit_image(record.image, size) for record in records]) / 255

    def of(name: str, condition: Condition) -> np.ndarray:
      if isinstance(condition, OfRecord):
        return np.stack([images[name] for images in made])
      return np.asarray(jnp.round(255 * condition(unit)), np.uint8)

    conditions = self.controlnets.items()
    return ControlImages([of(name, one) for name, one in conditions if one is not None])

  def tasks(self, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    drawing = Drawing(self, c, mesh, guides)
    if self.edits:
      return Tasks(
        draw=drawing.draw,
        redraw=drawing.redraw,
        edit=drawing.edit,
        denoise=self.denoise,
        measures=ONLY_EDITS,
      )
    return Tasks(
      draw=drawing.draw,
      redraw=drawing.redraw,
      edit=drawing.edit if reads_images(self) else None,
      likelihood=make_likelihood(self, c, mesh),
      denoise=self.denoise,
      condition=self.condition_images if any(self.controlnets.values()) else None,
    )


@dataclass(frozen=True)
class DreamBooth:
  """Prior preservation [2208.12242 eq. 2]: half of a batch are images of a subject, half those
  that the model itself drew of its class.

  prior  weight of the latter; 0 leaves their loss out
  In the mean over a batch both terms count half of what they do in the paper.
  """

  prior: Weight = 1.0
  roles = SUBJECT

  def __call__(
    self, system: DrawingSystem, params: Params, batch: Batch, draws: Draws
  ) -> dict[str, jax.Array]:
    found = denoising(system, params, batch, draws)
    if batch.role is None:  # of validation
      return found
    return found | {"image": found["image"] * jnp.where(batch.role == INSTANCE, 1.0, self.prior)}


# By the name in config.train.objective.
OBJECTIVES: dict[str, Callable[..., Callable[..., dict[str, jax.Array]]]] = {
  "denoising": lambda: denoising,
  "dreambooth": DreamBooth,
  "comfusion": ComFusion,
  "domain_gallery": DomainGallery,
  "imagic": Imagic,
  "ablation": Ablation,
  "esd": Esd,
  "maximise": Maximise,
  "instruct": Instruct,
  "consistency": Consistency,
  "consistency_distillation": ConsistencyDistillation,
  "guidance_distillation": GuidanceDistillation,
  "meanflow": MeanFlow,
}
