"""From prompts to images: Conditioning -> guided denoiser -> solver -> x0_hat -> decode."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.models import Conditioning
from t2i_jax.models.control import CONTROLS, Role, with_role
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding
from t2i_jax.process import Time, mix
from t2i_jax.sampling import (
  GUIDANCE_OF_PROMPTS,
  Denoiser,
  Guided,
  Labelled,
  Step,
  autoguide,
  classify,
  guide,
  make_plan,
  remember,
  row_noise,
  sample,
)
from t2i_jax.sampling.inpainting import inpaint, repeated
from t2i_jax.sampling.inversion import INVERTERS, before_last_step, invert, rising
from t2i_jax.systems.few_step import until
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.sampler import Batches, checked_plan, make_sampler
from t2i_jax.systems.system import checked, levels
from t2i_jax.systems.tasks import Draw, Start

AND = " AND "  # between the prompts of one image
DRAW_KNOWN = 2**31  # noise of the known part of an image: of other keys than the solver's


class Inputs(NamedTuple):
  """What a compiled sampler is given besides the model's parameters and a plan.

  text            tokens by encoder;  others: of each further prompt of an image
  seeds           [B] uint32
  scale           of guidance
  guide_params, label, weight  of a noisy classifier, its captions, and how strongly it guides
  weak            (parameters, tokens by encoder) of the weak model
  """

  text: Any
  seeds: Any
  scale: Any
  guide_params: Any = None
  label: Any = ()
  weight: Any = None
  others: tuple[Any, ...] = ()
  weak: Any = None


class Origin(NamedTuple):
  """images [B, H, W, C]; fill [B, H, W, 1] bool or None; source: tokens by encoder, or None."""

  images: Any
  fill: Any = None
  source: Any = None


class Drawing:
  """The compiled functions of a model that draws, in batches of config.sampling.batch.

  system   systems.drawing.DrawingSystem
  c        config.sampling
  guides  other models that guide it
  An image is a function of (parameters, prompt, seed): its batch changes it by matmul rounding
  only. Results are whole on every process. Raises ConfigError; its functions PromptError and
  NotFinite.
  """

  def __init__(self, system: Any, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES):
    self.system, self.c, self.mesh, self.guides = system, c, mesh, guides
    sampler = make_sampler(c, system.process, GUIDANCE_OF_PROMPTS)
    self.solver, self.times, self.method = sampler
    perturb, worse = self.method.perturb, self.method.worse
    self.control = (
      None if perturb is None else CONTROLS[perturb.kind](perturb.layers, system.layers)
    )
    self.plan = checked_plan(c, sampler, system)
    self.negative = {name: encoder.encode([c.negative]) for name, encoder in system.text.items()}
    guides.check(system)
    if system.two_times and c.solver != "euler":
      raise ConfigError(
        f"sampling.solver = {c.solver!r}: a network of two times gives the average velocity of a "
        "whole step, which is euler's. Use sampling.solver='euler'."
      )
    if (worse is None) != (guides.weak is None):
      raise ConfigError(
        f"sampling.guidance = {c.guidance!r}: the weak model of auto is opened by t2i sample and "
        "t2i eval, as --guidance."
      )
    self.scale = c.cfg if worse is None or worse.scale is None else worse.scale
    # What joins the prompts of an image; a perturbed prediction has the first prompt.
    self.joined = self.method.others if perturb is None else 0
    self.batches = Batches(mesh, c.batch)
    self._from_noise: Any = self._jit(self._sample_noise)
    self._from_images = cache(self._compile_from_images)

  def _jit(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return jax.jit(function, out_shardings=jax.NamedSharding(self.mesh, jax.P()))

  def draw(self, params: Params, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """tasks.Draw. Raises PromptError."""
    given = self._inputs(prompts, seeds)
    return self._in_batches(
      len(prompts), given, lambda part: self._from_noise(params, self.plan, *part)
    )

  def lower(self, params: Params) -> Any:
    """The sampler that `draw` compiles, lowered for parameters that may be abstract."""
    given = self._inputs([AND.join([""] * (self.joined + 1))], [0])
    put, rows = batch_sharding(self.mesh), self.batches.rows
    row = lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype, sharding=put)
    plan = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.plan)
    given = jax.tree.map(row, given)._replace(scale=jax.ShapeDtypeStruct((), jnp.float32))
    with jax.set_mesh(self.mesh):
      return self._from_noise.lower(params, plan, *given)

  def redraw(
    self, params: Params, prompts: Sequence[str], seeds: Sequence[int], start: Start
  ) -> np.ndarray:
    """tasks.Redraw. Raises ConfigError, PromptError.

    Sampled from the grid's first time t <= strength: [2108.01073], with fresh noise, or by
    inversion. Where there is a mask, what it leaves comes back as it was, to the bit.
    """
    first = self._first(start.strength)
    sampler = self._from_images(first, start.repeats, start.inverter)
    fill = None if start.mask is None else np.asarray(start.mask, bool)[..., None]
    source = None if start.source is None else self._tokens(start.source)
    given = (self._inputs(prompts, seeds), Origin(np.asarray(start.images), fill, source))
    return self._in_batches(len(prompts), given, lambda part: sampler(params, *part))

  def _first(self, strength: float) -> int:
    """The step from which a start at this strength is sampled."""
    t = np.asarray(self.times.t)
    first = int(np.argmax(t <= strength + 1e-9))
    if not 0 < strength <= 1 or first == len(t) - 1:
      raise ConfigError(
        f"strength = {strength:g}: with sampling.steps = {self.c.steps} it is at least "
        f"{t[-2]:.3g}, the grid's last time, and at most 1."
      )
    return first

  def _tokens(self, texts: Sequence[str]) -> Any:
    return {name: encoder.encode(texts) for name, encoder in self.system.text.items()}

  def _inputs(self, prompts: Sequence[str], seeds: Sequence[int]) -> Inputs:
    """Of all prompts: arrays [n, ...], with the other models' parameters left out."""
    first, *others = zip(*map(self._split, prompts), strict=True)
    given = Inputs(
      self._tokens(first),
      np.asarray(seeds, np.uint32),
      None,
      others=tuple(map(self._tokens, others)),
    )
    if self.guides.classifier is not None:
      given = given._replace(label=self.guides.classifier.system.text["text"].encode(prompts))
    if self.guides.weak is not None:
      encoders = self.guides.weak.system.text
      given = given._replace(weak={name: e.encode(prompts) for name, e in encoders.items()})
    return given

  def _split(self, prompt: str) -> list[str]:
    """The prompts of an image. Raises PromptError where they are not as many as the method has."""
    if not self.joined:
      return [prompt]
    parts = prompt.split(AND)
    if len(parts) != self.joined + 1:
      raise PromptError(
        f"{prompt!r} joins {len(parts)} prompts, and --guidance={self.c.guidance} takes "
        f'{self.joined + 1}. Write "one{AND}another".'
      )
    return parts

  def _in_batches(self, n: int, given: Any, run: Callable[[Any], jax.Array]) -> np.ndarray:
    images = []
    for part in self.batches(given):
      with jax.set_mesh(self.mesh):
        images.append(checked(run(self._with_models(part))))
    return np.concatenate(images)[:n]

  def _with_models(self, part: Any) -> Any:
    """The inputs with the scales and the other models' parameters."""
    if not isinstance(part, Inputs):
      return (self._with_models(part[0]), part[1])
    guide, weak = self.guides
    part = part._replace(scale=jnp.float32(self.scale))
    if guide is not None:
      part = part._replace(guide_params=guide.params, weight=jnp.float32(guide.weight))
    return part if weak is None else part._replace(weak=(weak.params, part.weak))

  def _guided(
    self, params: Params, given: Inputs, x: jax.Array, plan: Step, on_step: Any = None
  ) -> tuple[Denoiser, Any, dict[str, Any]]:
    """The denoiser, its condition, and the hooks of `sample`."""
    system, control, method, c = self.system, self.control, self.method, self.c
    cond: Any = system.encode_text(params, given.text)
    denoise: Denoiser = lambda x_t, time, cond: system.denoise(params, x_t, time, cond, control)
    hooks: dict[str, Any] = {} if on_step is None else {"on_step": on_step}
    if system.two_times:
      hooks["cond_at"] = lambda i, cond, _: _until(cond, plan.to.model_time[i])
    if self.guides.weak is not None:
      weak, (weak_params, tokens) = self.guides.weak.system, given.weak
      denoise = autoguide(
        lambda x_t, time, both: system.denoise(params, x_t, time, both[0]),
        lambda x_t, time, both: weak.denoise(weak_params, x_t, time, both[1]),
        method,
        given.scale,
      )
      cond = Guided((cond, weak.encode_text(weak_params, tokens)))
    elif c.cfg != 1 or control is not None or given.others:  # else the null has no weight
      like = given.text
      tokens = jax.tree.map(lambda row, to: jnp.broadcast_to(row, to.shape), self.negative, like)
      null = None
      if c.cfg != 1 or given.others:
        null = system.encode_text(params, tokens)
      others = tuple(system.encode_text(params, text) for text in given.others)
      cond = Guided(cond, null, others) if control is None else _with_roles(cond, null)
      denoise = guide(denoise, method, given.scale)
      hooks = remember(method, x, **hooks)
    if self.guides.classifier is not None:
      guide_params, helper = given.guide_params, self.guides.classifier
      log_prob = lambda x_t, time, y: helper.classify(guide_params, x_t, time, y)
      denoise, cond = classify(denoise, log_prob, given.weight), Labelled(cond, given.label)
    return denoise, cond, hooks

  def _sample_noise(self, params: Params, plan: Step, *given: Any) -> jax.Array:
    system, inputs = self.system, Inputs(*given)
    keys = jax.vmap(jax.random.key)(inputs.seeds)
    prior = system.process.prior(keys, system.x_shape)
    denoise, cond, hooks = self._guided(params, inputs, prior, plan)
    noise = row_noise(keys, system.x_shape)
    x0_hat, _ = sample(denoise, self.solver, plan, prior, cond, noise, **hooks)
    return levels(system.decode(params, x0_hat))

  def _compile_from_images(self, first: int, repeats: int, inverter: str) -> Callable[..., Any]:
    """The sampler of the grid's times from `first` on. Raises ConfigError."""
    system, process = self.system, self.system.process
    times = Time(*(np.asarray(field)[first:] for field in self.times))
    plan = make_plan(self.solver, process, times)
    if repeats > 1 and _remembers(self.solver, system.x_shape):
      raise ConfigError(
        f"repeats = {repeats}: sampling.solver = {self.c.solver!r} keeps outputs of steps before, "
        "which are not those of a repeated step. Use ddim, ddpm or heun, or repeats = 1."
      )
    masked_plan = repeated(plan, repeats)
    upwards = build(INVERTERS, inverter, "inverter")
    start = jax.tree.map(lambda field: field[0], plan.now)

    def run(params: Params, given: Inputs, origin: Origin) -> jax.Array:
      keys = jax.vmap(jax.random.key)(given.seeds)
      x0 = system.encode(params, origin.images)
      noise, on_step, steps = row_noise(keys, system.x_shape), None, plan
      if origin.fill is not None:
        own = jax.vmap(lambda key: jax.random.fold_in(key, DRAW_KNOWN))(keys)
        known = 1 - _cells(origin.fill, system.x_shape[:2]).astype(x0.dtype)
        steps = masked_plan
        on_step = inpaint(steps, x0, known, row_noise(own, system.x_shape))
      if origin.source is None:
        eps = process.prior(keys, system.x_shape) / process.prior_std
        x = mix(x0, eps, start)
      else:
        cond = system.encode_text(params, origin.source)
        denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
        up, x = rising(times), x0
        if len(up.t) < len(times.t):  # the sampler's last step ends at sigma = 0
          first = Time(*(jnp.float32(field[0]) for field in up))
          x = before_last_step(denoise, first, x0, cond)
        x, _ = invert(denoise, upwards, process, up, x, cond)
      denoise, cond, hooks = self._guided(params, given, x, steps, on_step)
      x0_hat, _ = sample(denoise, self.solver, steps, x, cond, noise, **hooks)
      images = levels(system.decode(params, x0_hat))
      return images if origin.fill is None else jnp.where(origin.fill, images, origin.images)

    return self._jit(run)


def make_draw(system: Any, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Draw:
  """The task of drawing alone: see `Drawing`."""
  return Drawing(system, c, mesh, guides).draw


def _with_roles(cond: Conditioning, null: Conditioning | None) -> Guided:
  """The conditions of a method with a control: the third is the first, on perturbed rows."""
  null = None if null is None else with_role(null, Role.NULL)
  return Guided(with_role(cond, Role.COND), null, (with_role(cond, Role.PERTURBED),))


def _until(cond: Any, model_time: jax.Array) -> Any:
  """`until` of every Conditioning in a condition."""
  one = lambda node: isinstance(node, Conditioning)
  return jax.tree.map(lambda c: until(c, model_time) if one(c) else c, cond, is_leaf=one)


def _remembers(solver: Any, shape: tuple[int, ...]) -> bool:
  """Whether a solver keeps anything from step to step."""
  memory = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  return any(leaf.size for leaf in jax.tree.leaves(memory))


def _cells(fill: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Which cells of latents hold a pixel that is to be filled.   [B, H, W, 1] -> [B, *size, 1]"""
  rows, cols = size
  b, height, width, _ = fill.shape
  cells = fill.reshape(b, rows, height // rows, cols, width // cols)
  return jnp.any(cells, axis=(2, 4))[..., None]
