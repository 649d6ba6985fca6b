"""From prompts to images: Conditioning -> guided denoiser -> solver -> x0_hat -> decode."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import build
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.models.control import CONTROLS
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, compiler_options
from t2i_jax.process import Time, mix
from t2i_jax.sampling import GUIDANCE_OF_PROMPTS, Step, make_plan, row_noise, sample
from t2i_jax.sampling.inpainting import inpaint, repeated
from t2i_jax.sampling.inversion import INVERTERS, noise_of
from t2i_jax.systems.beside import (
  IMAGE,
  Encoded,
  check_drawn,
  check_redrawn,
  kind_of,
  reads_images,
)
from t2i_jax.systems.controlnet import rows_of, with_latents
from t2i_jax.systems.guided import GuidedSampler
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.imagic import shifted
from t2i_jax.systems.inputs import Inputs, Origin, cells_of, remembers, with_images
from t2i_jax.systems.not_finite import checked_with_cause
from t2i_jax.systems.parts import InTurn, only
from t2i_jax.systems.sampler import Batches, checked_plan, first_step, make_sampler
from t2i_jax.systems.stages import Stage, negative
from t2i_jax.systems.system import levels
from t2i_jax.systems.tasks import ControlImages, Draw, Start

AND = " AND "  # between the prompts of one image
VAE = ("vae",)
DRAW_KNOWN = 2**31  # noise of the known part of an image: of other keys than the solver's


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
    self._guided = GuidedSampler(system, self.solver, self.method, self.control, guides)
    # Of what sees images a prompt is encoded with them.
    blind = {name: encoder for name, encoder in system.text.items() if encoder.shown is None}
    self.negative = {name: encoder.encode([c.negative]) for name, encoder in blind.items()}
    self.shown = next((e.shown for e in system.text.values() if e.shown is not None), None)
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
    self.beside = kind_of(system)
    edits = self.beside == IMAGE and c.guidance.startswith("dual")
    self.joined = self.method.others if perturb is None and not edits else 0
    self._beside = Encoded(system, mesh, edits) if self.beside else None
    self.batches = Batches(mesh, c.batch)
    rows, jit = batch_sharding(mesh), partial(jax.jit, compiler_options=compiler_options(mesh))
    self._encode: Any = jax.jit(system.encode_text, out_shardings=rows)
    self._shifted: Any = jax.jit(shifted, out_shardings=rows)
    if guides.weak is not None:
      self._encode_weak: Any = jax.jit(guides.weak.system.encode_text, out_shardings=rows)
    self._encode_image: Any = jit(system.encode, out_shardings=rows)
    self._from_noise: Any = jit(self._sample_noise, out_shardings=rows)
    self._from_images = cache(self._compile_from_images)
    whole = jax.NamedSharding(mesh, jax.P())
    self._decode: Any = jit(self._finished, out_shardings=whole)
    self._whole: Any = jax.jit(lambda x: x, out_shardings=whole)

  def draw(
    self,
    params: Params,
    prompts: Sequence[str],
    seeds: Sequence[int],
    noise: np.ndarray | None = None,
    decode: bool = True,
    references: Sequence[np.ndarray] = (),
    stage: Stage | None = None,
    controls: ControlImages | None = None,
    shift: Any = None,
  ) -> np.ndarray:
    """tasks.Draw. Raises PromptError, ConfigError.

    noise       unit Gaussian float32 [n, h, w, C] to start from; None: that of the seeds
    stage       the steps that are run; None: all of them
    decode      False: latents float32 [n, h, w, C]
    references  uint8 [n, H, W, 3], images that the model is shown besides the prompts. A model
                that edits resizes them; for another, sides are multiples of its autoencoder's
    controls    condition images of its ControlNets
    shift       by which the encoded prompts are moved, n rows: systems.imagic.shifted
    """
    check_drawn(self.beside, references)
    if references and not reads_images(self.system):
      raise ConfigError(
        "this model takes no reference images: FLUX.2 and Qwen-Image-Edit do. With --image a "
        "drawing starts from one."
      )
    plan = self.plan if stage is None else stage.plan(self.solver, self.system.process, self.times)
    sampler = lambda own, part: self._from_noise(own, plan, *part)
    rows = rows_of(self.system, controls, len(prompts))
    given = self._inputs(prompts, seeds, references)
    given = given._replace(noise=noise, controls=rows, shift=shift)
    return self._in_stages(params, len(prompts), given, sampler, decode)

  def edit(
    self,
    params: Params,
    images: np.ndarray,
    instructions: Sequence[str],
    seeds: Sequence[int],
    others: Sequence[np.ndarray] = (),
  ) -> np.ndarray:
    """tasks.Edit: `draw` with each image, and then the others, as the ones that are read."""
    return self.draw(params, instructions, seeds, references=(np.asarray(images), *others))

  def lower(self, params: Params) -> dict[str, Any]:
    """The programs of `draw`, lowered for parameters that may be abstract: "encoders", "sampler",
    "decoder"."""
    put, rows = batch_sharding(self.mesh), self.batches.rows
    row = lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype, sharding=put)
    # A model that edits is shown one image of the size that it draws.
    image = np.zeros((1, *self.system.image_shape[:2], 3), np.uint8)
    shown = () if self.shown is None else (image,)
    given = self._inputs([AND.join([""] * (self.joined + 1))], [0], shown)
    controls = ControlImages([image] * len(self.system.controlnets))
    given = jax.tree.map(row, given._replace(controls=rows_of(self.system, controls, 1)))
    tokens, x0 = given.cond, row(jax.ShapeDtypeStruct((1, *self.system.x_shape), jnp.float32))
    seen = tuple(jax.eval_shape(self.system.encode, params, image) for image in given.references)

    def of(text: Any) -> Any:
      cond = with_images(jax.eval_shape(self.system.encode_text, params, text), seen)
      if self._beside:
        cond = cond._replace(extras=cond.extras | {"beside": self._beside.shape})
      return jax.tree.map(row, cond)

    given = given._replace(
      references=(),
      cond=of(given.cond),
      null=None if given.null is None else of(given.null),
      others=tuple(map(of, [given.null] if self._beside and self._beside.edits else given.others)),
      scale=jax.ShapeDtypeStruct((), jnp.float32),
      controls=with_latents(self.system, given.controls, lambda image: x0),
    )
    plan = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self.plan)
    with jax.set_mesh(self.mesh):
      return {
        "encoders": self._encode.lower(only(params, self.system.encoding), tokens),
        "sampler": self._from_noise.lower(only(params, self.system.sampled), plan, *given),
        "decoder": self._decode.lower(only(params, VAE), x0, None),
      }

  def redraw(
    self,
    params: Params,
    prompts: Sequence[str],
    seeds: Sequence[int],
    start: Start,
    decode: bool = True,
    controls: ControlImages | None = None,
  ) -> np.ndarray:
    """tasks.Redraw. Raises ConfigError, PromptError.   decode, controls: as for `draw`

    Sampled from the grid's first time t <= strength: [2108.01073], with fresh noise, or by
    inversion. Where there is a mask, what it leaves comes back as it was, to the bit.
    """
    check_redrawn(self.beside, start.mask)
    first = self._first(start.strength)
    repeats = 1 if self.beside else start.repeats  # what replaces known latents
    sampler = self._from_images(first, repeats, start.inverter)
    fill = None if start.mask is None else np.asarray(start.mask, bool)[..., None]
    source = None if start.source is None else self._tokens(start.source)
    given = self._inputs(prompts, seeds)._replace(
      noise=start.noise,
      origin=Origin(np.asarray(start.images), fill, source),
      controls=rows_of(self.system, controls, len(prompts)),
    )
    return self._in_stages(params, len(prompts), given, sampler, decode)

  def _first(self, strength: float) -> int:
    """The step from which a start at this strength is sampled. Raises ConfigError."""
    first = first_step(self.times, strength)
    if first is None:
      raise ConfigError(
        f"strength = {strength:g}: with sampling.steps = {self.c.steps} it is at least "
        f"{np.asarray(self.times.t)[-2]:.3g}, the grid's last time, and at most 1."
      )
    return first

  def _tokens(self, texts: Sequence[str], images: Sequence[np.ndarray] = ()) -> Any:
    return {name: encoder.encode(texts, images) for name, encoder in self.system.text.items()}

  def _nulls(self, n: int, images: Sequence[np.ndarray]) -> Any:
    """The tokens of the negative prompt, n times."""
    if self.shown is not None:
      return self._tokens([self.c.negative] * n, images)
    return jax.tree.map(lambda row: np.repeat(row, n, 0), self.negative)

  def _inputs(
    self, prompts: Sequence[str], seeds: Sequence[int], images: Sequence[np.ndarray] = ()
  ) -> Inputs:
    """Of all prompts: arrays [n, ...], with the other models' parameters left out."""
    first, *others = zip(*map(self._split, prompts), strict=True)
    given = Inputs(
      self._tokens(first, images),
      np.asarray(seeds, np.uint32),
      null=self._nulls(len(prompts), images) if self._with_null else None,
      references=tuple(images if self.shown is None else map(self.shown.for_backbone, images)),
      others=tuple(self._tokens(texts, images) for texts in others),
    )
    if self.guides.classifier is not None:
      given = given._replace(label=self.guides.classifier.system.text["text"].encode(prompts))
    if self.guides.weak is not None:
      encoders = self.guides.weak.system.text
      given = given._replace(weak={name: e.encode(prompts) for name, e in encoders.items()})
    return given

  def _split(self, prompt: str) -> list[str]:
    """The prompts of an image. Raises PromptError where they are not as many as the method has."""
    if self.method.reworded is not None:
      return [prompt, self.method.reworded(prompt)]
    if not self.joined:
      return [prompt]
    parts = prompt.split(AND)
    if len(parts) != self.joined + 1:
      raise PromptError(
        f"{prompt!r} joins {len(parts)} prompts, and --guidance={self.c.guidance} takes "
        f'{self.joined + 1}. Write "one{AND}another".'
      )
    return parts

  def _in_stages(
    self,
    params: Params | InTurn,
    n: int,
    given: Inputs,
    sampler: Callable[[Params, Any], jax.Array],
    decode: bool = True,
  ) -> np.ndarray:
    """Encoders, sampler and decoder, batch by batch; one after the other for params in turn."""
    with jax.set_mesh(self.mesh):
      each: Any = list if isinstance(params, InTurn) else iter
      parts = each((raw, *self._conditioned(params, raw)) for raw in self.batches(given))
      drawn = each(
        (sampler(only(params, self.system.sampled), part), raw, o) for raw, part, o in parts
      )
      if not decode:
        return np.concatenate([np.asarray(self._whole(x0)) for x0, *_ in drawn])[:n]
      found = [
        checked_with_cause(self._decode(only(params, VAE), x0, o), self.system, params, raw, x0)
        for x0, raw, o in drawn
      ]
    return np.concatenate(found)[:n]

  @property
  def _with_null(self) -> bool:
    """Whether the negative prompt is encoded: without guidance it has no weight."""
    always = self.joined > 0 or (self._beside is not None and self._beside.edits)
    return self.guides.weak is None and (self.c.cfg != 1 or always)

  def _conditioned(self, params: Params | InTurn, part: Inputs) -> tuple[Inputs, Origin | None]:
    """The inputs with the encoders' outputs, the scales and other models' parameters; and the
    images that they start from as they were."""
    own, (guide, weak), origin = only(params, self.system.encoding), self.guides, part.origin
    vae = only(params, VAE)
    told = () if self._beside else part.references
    seen = tuple(self._encode_image(vae, image) for image in told)

    of = lambda text: with_images(self._encode(own, text), seen)
    cond = of(part.cond)
    images, part = (
      part.references,
      part._replace(
        cond=cond if part.shift is None else self._shifted(cond, part.shift),
        shift=None,
        null=None if part.null is None else negative(of(part.null)),
        others=tuple(map(of, part.others)),
        scale=jnp.float32(self.scale),
        references=(),
        controls=with_latents(self.system, part.controls, partial(self._encode_image, vae)),
      ),
    )
    if self._beside and origin is not None:
      part = self._beside.masked(vae, part, origin)
    elif self._beside:
      part = self._beside.shown(vae, part, *images)
    if origin is not None:
      x0 = self._encode_image(vae, origin.images)
      source = None if origin.source is None else of(origin.source)
      part = part._replace(origin=origin._replace(images=x0, source=source))
    if guide is not None:
      part = part._replace(guide_params=guide.params, weight=jnp.float32(guide.weight))
    if weak is not None:
      cond = self._encode_weak(weak.params, part.weak)
      part = part._replace(weak=cond, weak_params=weak.params)
    return part, origin

  def _sample_noise(self, params: Params, plan: Step, *given: Any) -> jax.Array:
    system, inputs = self.system, Inputs(*given)
    keys = jax.vmap(jax.random.key)(inputs.seeds)
    prior = system.process.prior(keys, system.x_shape)
    if inputs.noise is not None:
      prior = system.process.prior_std * inputs.noise
    denoise, cond, hooks = self._guided.denoiser(params, inputs, prior, plan, whole=self.plan)
    noise = row_noise(keys, system.x_shape)
    return sample(denoise, self.solver, plan, prior, cond, noise, **hooks)[0]

  def _finished(self, params: Params, x0_hat: jax.Array, origin: Origin | None) -> jax.Array:
    images = levels(self.system.decode(params, x0_hat))
    if origin is None or origin.fill is None:
      return images
    return jnp.where(origin.fill, images, origin.images)

  def _compile_from_images(self, first: int, repeats: int, inverter: str) -> Callable[..., Any]:
    """The sampler of the grid's times from `first` on. Raises ConfigError."""
    system, process = self.system, self.system.process
    times = Time(*(np.asarray(field)[first:] for field in self.times))
    plan = make_plan(self.solver, process, times)
    if repeats > 1 and remembers(self.solver, system.x_shape):
      raise ConfigError(
        f"repeats = {repeats}: sampling.solver = {self.c.solver!r} keeps outputs of steps before, "
        "which are not those of a repeated step. Use ddim, ddpm or heun, or repeats = 1."
      )
    masked_plan = repeated(plan, repeats)
    upwards = build(INVERTERS, inverter, "inverter")
    start = jax.tree.map(lambda field: field[0], plan.now)

    def run(params: Params, given: Inputs) -> jax.Array:
      keys, origin = jax.vmap(jax.random.key)(given.seeds), given.origin
      assert origin is not None
      x0 = origin.images
      noise, on_step, steps = row_noise(keys, system.x_shape), None, plan
      eps = given.noise
      if eps is None:
        eps = process.prior(keys, system.x_shape) / process.prior_std
      if origin.fill is not None and not self.beside:
        own = jax.vmap(lambda key: jax.random.fold_in(key, DRAW_KNOWN))(keys)
        known = 1 - cells_of(origin.fill, system.x_shape[:2]).astype(x0.dtype)
        steps = masked_plan
        # One noise for all steps, that of the start, as in diffusers; a repeated step needs others.
        one = repeats == 1 and origin.source is None
        of_known = (lambda i: eps) if one else row_noise(own, system.x_shape)
        on_step = inpaint(steps, x0, known, of_known)
      if origin.source is None:
        # What is filled in starts from noise alone, as published.
        alone = first == 0 and (self.beside or origin.fill is not None)
        x = process.prior_std * eps if alone else mix(x0, eps, start)
      else:
        cond = origin.source
        denoise = lambda x_t, time, cond: system.denoise(params, x_t, time, cond)
        x = noise_of(denoise, upwards, process, times, x0, cond)
      denoise, cond, hooks = self._guided.denoiser(params, given, x, steps, on_step)
      return sample(denoise, self.solver, steps, x, cond, noise, **hooks)[0]

    options = compiler_options(self.mesh)
    return jax.jit(run, out_shardings=batch_sharding(self.mesh), compiler_options=options)


def make_draw(system: Any, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Draw:
  """The task of drawing alone: see `Drawing`."""
  return Drawing(system, c, mesh, guides).draw
