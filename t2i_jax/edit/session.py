"""The compiled functions of an editor of given images: encoders, its own sampler, decoder."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from t2i_jax.edit.request import Edited, Request, needs_image
from t2i_jax.errors import ConfigError
from t2i_jax.inference.start import repeated
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.parallel import batch_sharding, compiler_options, overridden
from t2i_jax.process import Prediction, Process, Time
from t2i_jax.ranges import checked as in_range
from t2i_jax.sampling import GUIDANCE_OF_PROMPTS, Combine, Denoiser, Guided, guide, row_noise
from t2i_jax.sampling.loop import Noise
from t2i_jax.systems.beside import kind_of
from t2i_jax.systems.parts import only
from t2i_jax.systems.sampler import Batches, first_step, make_sampler
from t2i_jax.systems.stages import negative
from t2i_jax.systems.system import checked, levels

VAE = ("vae",)


class Given(NamedTuple):
  """Rows that an editor's sampler is given.

  source, target, null  conditions of the image's prompt, the edit's, and the negative prompt
  x0     the image, encoded [B, h, w, C] float32
  seeds  uint32 [B];   strength: float32 [B], the request's, of a method that reads it here
  """

  source: Any
  target: Any
  null: Any
  x0: Any
  seeds: Any
  strength: Any


Run = Callable[[Params, Given], jax.Array]  # of what is sampled -> x0_hat


class Session:
  """A model with config.sampling, as an editor's sampler reads it.

  times  the grid [S + 1];   scale: of guidance, config.sampling.cfg
  Raises ConfigError for a model or a guidance that images are not edited with.
  """

  def __init__(self, model: Any, method: str):
    model.need("redraw")
    self.model, self.system, self.c = model, model.system, model.config.sampling
    sampler = make_sampler(self.c, self.system.process, GUIDANCE_OF_PROMPTS)
    self.times, self.guidance, self.scale = sampler.times, sampler.guidance, float(self.c.cfg)
    self.process: Process = self.system.process
    self.steps = len(self.times.t) - 1
    self._check(method, sampler.guidance)
    mesh, rows = model.mesh, batch_sharding(model.mesh)
    whole = jax.NamedSharding(mesh, jax.P())
    self._encode = self._jit(self.system.encode_text, rows)
    self._encode_image = self._jit(self.system.encode, rows)
    self._decode = self._jit(lambda own, x0: levels(self.system.decode(own, x0)), whole)

  def _jit(self, run: Callable[..., Any], out: Any) -> Any:
    options = compiler_options(self.model.mesh)
    return jax.jit(run, out_shardings=out, compiler_options=options)

  def _check(self, method: str, guidance: Combine) -> None:
    system = self.system
    if guidance.perturb or guidance.worse or guidance.others or guidance.starts:
      raise ConfigError(
        f"sampling.guidance = {self.c.guidance!r}: --method={method} is guided by the null alone. "
        "Use --guidance=cfg."
      )
    if system.two_times or kind_of(system) or system.controlnets:
      raise ConfigError(
        f"--method={method}: this model reads more than x_t, one time and a prompt. Use "
        "--method=sdedit."
      )
    if any(encoder.shown is not None for encoder in system.text.values()):
      raise ConfigError(f"--method={method}: this model's text encoder reads images.")

  def times_from(self, level: float) -> Time:
    """The end of the grid from where the noise level is at most this. Raises ConfigError."""
    first = first_step(self.times, level)
    if first is None:
      raise ConfigError(
        f"--strengths: {level:g} is below {np.asarray(self.times.t)[-2]:.3g}, the last of "
        f"sampling.steps = {self.steps}, or above 1."
      )
    return Time(*(np.asarray(field)[first:] for field in self.times))

  def plain(self, params: Params) -> Denoiser:
    return lambda x_t, time, cond: self.system.denoise(params, x_t, time, cond)

  def guided(self, params: Params, scale: float | None = None) -> Denoiser:
    """Of `Guided` conditions, at config.sampling.cfg by default."""
    return guide(self.plain(params), self.guidance, self.scale if scale is None else scale)

  def call(self, params: Params, cond: Any, null: Any, scale: float | None = None) -> Any:
    """The guided denoiser with its conditions given."""
    scale = self.scale if scale is None else scale
    if scale == 1:
      return lambda x_t, time: self.plain(params)(x_t, time, cond)
    return lambda x_t, time: self.guided(params, scale)(x_t, time, Guided(cond, null))

  def noise(self, seeds: jax.Array, purpose: int = 0) -> Noise:
    """By step, of the seeds; those of two purposes are independent."""
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), purpose))(seeds)
    return row_noise(keys, self.system.x_shape)

  def encoded(self, texts: Sequence[str]) -> Conditioning:
    """The conditions of texts, one row each, on this host."""
    own, n = only(self.model.params, self.system.encoding), len(texts)
    tokens = {name: one.encode(list(texts)) for name, one in self.system.text.items()}
    with jax.set_mesh(self.model.mesh):
      (part,) = Batches(self.model.mesh, n)(tokens)
      return jax.tree.map(lambda leaf: leaf[:n], jax.device_get(self._encode(own, part)))

  def recording(self, params: Params, control: Any) -> Callable[..., Any]:
    """What a control records at (x_t, time, cond)."""

    def record(x_t: jax.Array, time: Time, cond: Any) -> Any:
      found: Prediction = self.system.denoise(params, x_t, time, cond, control)
      return found.aux

    return record

  def compiled(self, run: Run) -> Run:
    return self._jit(run, batch_sharding(self.model.mesh))

  def draw(self, sampler: Run, request: Request, image: np.ndarray, strength: float) -> np.ndarray:
    """uint8 [n, H, W, 3], a row for each seed. Raises NotFinite.   sampler: from `compiled`"""
    n = len(request.seeds)
    prompts, targets = [request.prompt] * n, [request.target] * n
    return self.draw_rows(sampler, prompts, targets, repeated(image, n), request.seeds, strength)

  def draw_rows(
    self,
    sampler: Run,
    prompts: Sequence[str],
    targets: Sequence[str],
    images: np.ndarray,
    seeds: Sequence[int],
    strength: float,
  ) -> np.ndarray:
    """Edits of n images [n, H, W, 3], each with its own prompts and seed. Raises NotFinite."""
    system, mesh, params = self.system, self.model.mesh, self.model.params
    n = len(seeds)
    tokens = lambda texts: {name: e.encode(list(texts)) for name, e in system.text.items()}
    source, target, null = map(tokens, (prompts, targets, [self.c.negative] * n))
    strengths = np.full(n, strength, np.float32)
    given = Given(source, target, null, images, np.asarray(seeds, np.uint32), strengths)
    own, vae, found = only(params, system.encoding), only(params, VAE), []
    with jax.set_mesh(mesh):
      for part in Batches(mesh, min(n, self.c.batch))(given):
        part = part._replace(
          source=self._encode(own, part.source),
          target=self._encode(own, part.target),
          null=negative(self._encode(own, part.null)),
          x0=self._encode_image(vae, part.x0),
        )
        x0 = sampler(only(params, system.sampled), part)
        found.append(checked(self._decode(vae, x0)))
    return np.concatenate(found)[:n]


def edited(
  model: Any,
  request: Request,
  method: str,
  default: tuple[float, ...],
  strength: Any,
  sampler: Callable[[Session, float], Run],
  alike: bool = False,
  traced: bool = False,
) -> Edited:
  """An edit of a given image at every strength.

  default   strengths where a request has none;   strength: their type with its range
  sampler   of a session and a strength, the function that is compiled
  alike     whether every seed gives the same image, which is then drawn once
  traced    whether the function reads given.strength, so that it is the same for all of them
  """
  image = needs_image(request, method)
  if request.mask is not None:
    raise ConfigError(f"--mask: --method={method} edits the whole image. Use --method=sdedit.")
  n, after = len(request.seeds), {}
  strengths = [in_range(one, strength, "--strengths") for one in request.strengths or default]
  with overridden(model.config.mesh.rules):
    session = Session(model, method)
    rows = request._replace(seeds=request.seeds[:1]) if alike else request
    each = strengths[:1] if traced else strengths
    samplers = [session.compiled(sampler(session, one)) for one in each]
    for i, one in enumerate(strengths):
      drawn = session.draw(samplers[0 if traced else i], rows, image, one)
      after[one] = repeated(drawn[0], n) if alike else drawn
  return Edited(repeated(image, n), after)
