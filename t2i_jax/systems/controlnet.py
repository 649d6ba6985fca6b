"""ControlNets of a model that draws [2302.05543]: parts whose residuals its backbone adds.

    config.controlnets.controlnet = "folder(path='sd-controlnet-canny')"

and parts.controlnet.start = "folder:sd-controlnet-canny". To train one, these are
"of_backbone(condition='edges')" and "base", a copy of the backbone's weights. What a ControlNet's
config and network have is in models.controlnet.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.data.batch import Batch
from t2i_jax.data.conditions import OfRecord
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.ranges import Share, Weight, checked
from t2i_jax.sampling.solver import Solver, Step
from t2i_jax.systems.conditions import Condition
from t2i_jax.systems.controlnet_choices import CONTROLNETS, Base, Net
from t2i_jax.systems.inputs import Inputs, each_condition
from t2i_jax.systems.parts import Part
from t2i_jax.systems.tasks import ControlImages

HINTS, PROGRESS = "controlnets", "progress"  # extras of a condition
ROUNDING = 1e-6  # of fractions of calls, of which there are fewer than 1e5
GUESS = -1.0  # exponent of 10 of the first residual's scale in guess mode; the last one has 0


def make_nets(
  c: ConfigDict, backbone: Any, image_shape: tuple[int, ...], x_shape: tuple[int, ...]
) -> dict[str, Net]:
  """The ControlNets that config.controlnets names, by the names of their parts.

  backbone  config of the part
  Raises ConfigError for a ControlNet of another backbone.
  """
  found = {}
  for name, choice in c.get("controlnets", {}).items():
    where = f"controlnets.{name}"
    base = Base(backbone, image_shape[0] // x_shape[0])
    net = found[name] = build(CONTROLNETS, choice, where, base)
    check_fits(net.config, backbone, base.factor, f"{where} = {choice!r}")
    if net.condition is not None and not isinstance(net.condition, OfRecord):
      jax.eval_shape(net.condition, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  counts = {name: getattr(net.config, "counts", {}) for name, net in found.items()}
  for name, own in counts.items():
    if own != (first := next(iter(counts.values()))):
      raise ConfigError(
        f"controlnets.{name} gives residuals {own}, and {next(iter(counts))} {first}: those of "
        "several ControlNets are added up. Give ones of the same numbers of blocks."
      )
  return found


def parts_of(nets: Mapping[str, Net]) -> dict[str, Part]:
  return {n: Part(net.config.make, net.config, base="backbone") for n, net in nets.items()}


def check_fits(c: Any, backbone: Any, factor: int, where: str) -> None:
  """Raises ConfigError naming in what a ControlNet differs from the one that fits a backbone."""
  if type(backbone) is not c.base:
    raise ConfigError(
      f"{where} is the ControlNet of a {c.base.__name__}, and this model's backbone is a "
      f"{type(backbone).__name__}."
    )
  pairs = c.compared(backbone, factor).items()
  wrong = [f"{what}: {own}, and {its} there" for what, (own, its) in pairs if own != its]
  if wrong:
    raise ConfigError(f"{where} is the ControlNet of another backbone. {wrong[0]}.")


def check_count(nets: int, images: int) -> None:
  """Raises ConfigError unless there is one condition image for each ControlNet."""
  if nets == images:
    return
  if not nets:
    raise ConfigError(
      "--control: this model has no ControlNet. Add one with --controlnet=FOLDER, or leave "
      "--control out."
    )
  raise ConfigError(
    f"this model has {nets} ControlNet{'s' * (nets > 1)} and is given {images or 'no'} condition "
    f"image{'s' * (images != 1)}: give --control=FILE once for each."
  )


def settled(given: ControlImages, nets: int) -> ControlImages:
  """With one scale, start and end for each ControlNet. Raises ConfigError for wrong ones."""
  found: dict[str, Any] = {}
  for name, hint in (("scales", Weight), ("starts", Share), ("ends", Share)):
    flag, values = f"--control-{name.removesuffix('s')}", tuple(getattr(given, name))
    if len(values) not in (1, nets):
      raise ConfigError(
        f"{flag} is given {len(values)} times for {nets} ControlNet{'s' * (nets > 1)}: give it "
        "once, for all, or once for each."
      )
    values = tuple(checked(value, hint, flag) for value in values)
    found[name] = values * nets if len(values) == 1 else values
  for start, end in zip(found["starts"], found["ends"], strict=True):
    if start >= end:
      raise ConfigError(
        f"--control-start={start:g} is not below --control-end={end:g}: a ControlNet is used "
        "between these fractions of the steps."
      )
  return given._replace(**found)


class Rows(NamedTuple):
  """What a ControlNet is given, row by row.

  image  uint8 [B, H, W, 3], or the latents [B, h, w, C] of it where the ControlNet reads these
  start, end  [B], as in ControlImages
  scale, null  [B, K], of each of the config's residual_count, of the prompt and of the null
  """

  image: Any
  scale: Any
  null: Any
  start: Any
  end: Any


def rows_of(system: Any, given: ControlImages | None, n: int) -> tuple[Rows, ...]:
  """The rows of n images, one Rows for each ControlNet. Raises ConfigError."""
  names = tuple(system.controlnets)
  check_count(len(names), 0 if given is None else len(given.images))
  if given is None or not names:
    return ()
  given = settled(given, len(names))
  size = tuple(system.image_shape[:2])
  configs = [system.parts[name].config for name in names]
  pooled = [getattr(config, "global_pool", False) for config in configs]
  guess = given.guess or pooled[0]
  found = []
  for config, flat, image, scale, start, end in zip(
    configs, pooled, given.images, given.scales, given.starts, given.ends, strict=True
  ):
    shape = np.shape(image)
    if shape != (n, *size, 3):
      raise ConfigError(
        f"condition images of shape {shape}: {n} of {size[0]} x {size[1]} x 3 are needed, the size "
        "that is drawn."
      )
    count = config.residual_count
    curve = np.logspace(GUESS, 0, count) if guess and not flat else np.ones(count)
    scales = np.tile(np.float32(scale * curve), (n, 1))
    null = np.zeros_like(scales) if guess else scales
    each = lambda value: np.full(n, value, np.float32)
    found.append(Rows(np.asarray(image), scales, null, each(start), each(end)))
  return tuple(found)


class Hint(NamedTuple):
  """A condition image in extras["controlnets"]: embedded [B, ...]; the others as in Rows."""

  embedded: jax.Array
  scale: jax.Array
  start: jax.Array
  end: jax.Array


def with_latents(
  system: Any, rows: Sequence[Rows], encode: Callable[[Any], Any]
) -> tuple[Rows, ...]:
  """The rows with what each ControlNet reads of an image.   encode: uint8 images to latents"""
  reads = [reads_latents(system, name) for name in system.controlnets]
  pairs = zip(rows, reads, strict=False)  # without condition images there are no rows
  return tuple(row._replace(image=encode(row.image)) if own else row for row, own in pairs)


def reads_latents(system: Any, name: str) -> bool:
  """Whether a ControlNet reads the latents of its condition image in place of its pixels."""
  return getattr(system.parts[name].config, "reads_latents", False)


def _embedded(system: Any, params: Params, name: str, image: jax.Array) -> jax.Array:
  """image: [B, H, W, 3] in [0, 1], or latents"""
  if getattr(system.parts[name].config, "unshifted", False):
    shift = getattr(system.autoencoder, "shift", None)
    image = image if shift is None else image + shift * system.autoencoder.scale
  return system.module(params, name).embed(image.astype(system.dtype))


def with_hints(system: Any, params: Params, given: Inputs) -> Inputs:
  """The inputs with the condition images, embedded, in every condition."""
  if not given.controls:
    return given
  own, null = [], []
  for name, row in zip(system.controlnets, given.controls, strict=True):
    image = row.image if reads_latents(system, name) else row.image.astype(jnp.float32) / 255
    hint = Hint(_embedded(system, params, name, image), row.scale, row.start, row.end)
    own.append(hint)
    null.append(hint._replace(scale=row.null))
  of = lambda cond, hints: cond._replace(extras=cond.extras | {HINTS: tuple(hints)})
  return given._replace(
    cond=of(given.cond, own),
    null=None if given.null is None else of(given.null, null),
    others=tuple(of(other, own) for other in given.others),
  )


def with_conditions(system: Any, params: Params, batch: Batch, cond: Conditioning) -> Conditioning:
  """A condition of training with what each ControlNet reads, made of the images or of the records.

  As it is where no ControlNet has a `condition`. Raises ConfigError where one has and another not.
  """
  conditions: Mapping[str, Condition | None] = system.controlnets
  if not any(conditions.values()):
    return cond
  made, hints = batch.conditions or {}, []
  for name, condition in conditions.items():
    if condition is None:
      raise ConfigError(f"controlnets.{name}: give it a condition, as another ControlNet has one.")
    config = system.parts[name].config
    images = made[name] if isinstance(condition, OfRecord) else batch.images  # [B, N, H, W, 3]
    unit = images.reshape(-1, *images.shape[2:]).astype(jnp.float32) / 255
    image = unit if isinstance(condition, OfRecord) else condition(unit)
    image = system.encode(params, 2 * image - 1) if reads_latents(system, name) else image
    embedded = _embedded(system, params, name, image)
    rows = len(image)
    scale = jnp.ones((rows, config.residual_count))
    hints.append(Hint(embedded, scale, jnp.zeros(rows), jnp.ones(rows)))
  return cond._replace(extras=cond.extras | {HINTS: tuple(hints)})


class Progress(NamedTuple):
  """Where the network's calls of a step are among those of all steps, in extras["progress"].

  now     [S], model time of the step: calls at a lower one are not its first
  before, after  [S, 2], fractions of all calls before and after the step's first, and its second
  In a condition it is that of one step, with rows in place of S.
  """

  now: jax.Array
  before: jax.Array
  after: jax.Array


def progress_of(solver: Solver, plan: Step) -> Progress:
  """That of a plan: calls are counted as the schedulers of diffusers list their timesteps.

  PNDM calls the network twice in its first step, Heun in all that do not end at sigma = 0.
  """
  warm = getattr(plan.numbers, "warm", None)
  further = (solver.calls - 1) * (plan.to.sigma > 0) if warm is None else warm > 0  # [S]
  calls = 1 + further.astype(jnp.int32)
  first = jnp.cumsum(calls) - calls
  index = first[:, None] + jnp.arange(2)  # [S, 2]
  whole = jnp.sum(calls)
  return Progress(plan.now.model_time, index / whole, (index + 1) / whole)


def with_progress(cond: Any, progress: Progress, i: jax.Array) -> Any:
  """Every Conditioning in a condition, with the progress of step i."""

  def of(one: Conditioning) -> Conditioning:
    if HINTS not in one.extras:
      return one
    rows = len(one.extras[HINTS][0].scale)
    here = jax.tree.map(lambda a: jnp.broadcast_to(a[i], (rows, *a.shape[1:])), progress)
    return one._replace(extras=one.extras | {PROGRESS: here})

  return each_condition(cond, of)


def residuals(
  system: Any, params: Params, x: jax.Array, model_time: jax.Array, cond: Conditioning
) -> Mapping[str, Any] | None:
  """The sum of what all ControlNets add to the backbone; None without condition images.

  x  [B, H, W, C] as the backbone gets it;   model_time: [B]
  """
  hints: Sequence[Hint] = cond.extras.get(HINTS, ())
  progress = cond.extras.get(PROGRESS)
  found: Any = None
  for name, hint in zip(system.controlnets, hints, strict=False):
    scale = scales_at(hint, progress, model_time)

    def scaled(name: str = name, hint: Hint = hint, scale: jax.Array = scale) -> Any:
      net = system.module(params, name)
      return net.scaled(net(x, model_time, cond, hint.embedded), scale)

    own = scaled() if progress is None else _where_used(jnp.any(scale != 0), scaled)
    found = own if found is None else jax.tree.map(jnp.add, found, own)
  return found


def _where_used(used: jax.Array, run: Callable[[], Any]) -> Any:
  """What a ControlNet adds, without its cost in calls outside of start and end.   used: [] bool"""
  zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run))
  return jax.lax.cond(used, run, zeros)


def scales_at(hint: Hint, progress: Progress | None, model_time: jax.Array) -> jax.Array:
  """Of each residual, 0 in calls outside of start and end.   # [B, K]"""
  if progress is None:
    return hint.scale
  first = model_time >= progress.now
  before, after = (jnp.where(first, f[:, 0], f[:, 1]) for f in (progress.before, progress.after))
  used = (before >= hint.start - ROUNDING) & (after <= hint.end + ROUNDING)
  return hint.scale * used[:, None]
