"""Editors that invert a given image, or follow it: from the noise of it, another prompt is drawn.

    null_text        DDIM inversion, and a null condition of each step that gives the image back
    negative_prompt  the same with the image's own prompt for the null, without a search
    edict            two coupled states with an exact inverse
    rf_inversion     a flow's inversion without a prompt, drawn back towards the image
    flow_edit        no inversion: the image moves by the difference of two velocities
    ilvr             drawn from noise, with the low frequencies of the image

Their mathematics: sampling.null_text, coupled, flow_editing, ilvr. They differ in what a strength
is; all are guided at config.sampling.cfg over config.sampling.grid, by steps of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.edit.request import Edited, Request
from t2i_jax.edit.session import Given, Run, Session, edited
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.params import Params
from t2i_jax.process import Time
from t2i_jax.ranges import Range, Share
from t2i_jax.sampling import SOLVERS, Denoiser, Guided, Solver, Step, make_plan, sample
from t2i_jax.sampling.coupled import MIX, Mix, invert_coupled, sample_coupled
from t2i_jax.sampling.flow_editing import Draws, flow_edit, towards_image, towards_noise
from t2i_jax.sampling.guidance import Scale
from t2i_jax.sampling.ilvr import ilvr, low_pass
from t2i_jax.sampling.inversion import ddim_inverse, states_of
from t2i_jax.sampling.null_text import Found, Inner, Search, WithNull, null_at, null_text

Level = Annotated[float, Range("(0, 1]")]  # of noise: t
DDIM = SOLVERS["ddim"]()


def inverted(
  session: Session,
  params: Params,
  times: Time,
  given: Given,
  inverter: Solver = DDIM,
  wrap: Callable[[Denoiser], Denoiser] | None = None,
) -> jax.Array:
  """The states of an inversion under the image's prompt at scale 1, from the noisiest to x0.

  # [S + 1, B, h, w, C]
  times  [S + 1] falling;   wrap: of the denoiser that it follows
  """
  denoise = session.plain(params)
  denoise = denoise if wrap is None else wrap(denoise)
  return states_of(denoise, inverter, session.process, times, given.x0, given.source)


@dataclass(frozen=True)
class NullText:
  """Null-text inversion [2211.09794], and the edit guided by the nulls of the image.

  steps   of Adam for each null;   rate: at the first
  A request's strengths are noise levels t to which the image is inverted.
  """

  steps: Inner = 10
  rate: Annotated[float, Range("(0, 10]")] = 1e-2

  def __call__(self, model: Any, request: Request) -> Edited:
    return edited(model, request, "null_text", (1.0, 0.8), Level, self.sampler, alike=True)

  def sampler(self, session: Session, level: float) -> Run:
    times = session.times_from(level)
    plan = make_plan(DDIM, session.process, times)
    search = Search(self.steps, self.rate)

    def run(params: Params, given: Given) -> jax.Array:
      states = inverted(session, params, times, given)
      found, whole = learned_nulls(
        session.plain(params), plan, states, given.source, given.null, session.scale, search
      )
      cond = Guided(given.target, given.null)
      at = null_at(found.nulls, whole)
      return sample(session.guided(params), DDIM, plan, states[0], cond, cond_at=at)[0]

    return run


def learned_nulls(
  denoise: Denoiser,
  plan: Step,
  states: jax.Array,
  source: Conditioning,
  null: Conditioning,
  scale: Scale,
  search: Search,
) -> tuple[Found, WithNull]:
  """sampling.null_text of a null condition's tokens, and the null condition of other tokens."""
  tokens = {name: tower.tokens for name, tower in null.towers.items()}
  whole = lambda tokens: with_tokens(null, tokens)
  return null_text(denoise, plan, states, source, tokens, scale, search, whole), whole


def with_tokens(cond: Conditioning, tokens: dict[str, jax.Array]) -> Conditioning:
  """A condition with other tokens in its towers."""
  towers = {name: tower._replace(tokens=tokens[name]) for name, tower in cond.towers.items()}
  return cond._replace(towers=towers)


@dataclass(frozen=True)
class NegativePrompt:
  """Negative-prompt inversion [2305.16807]: the image's prompt is the null.

  iterations  of each step of the inversion; 0: DDIM's own step upwards, as published
  A request's strengths are noise levels t to which the image is inverted.
  """

  iterations: Annotated[int, Range("[0, 1000]")] = 10

  def __call__(self, model: Any, request: Request) -> Edited:
    default = (1.0, 0.8)
    return edited(model, request, "negative_prompt", default, Level, self.sampler, alike=True)

  def sampler(self, session: Session, level: float) -> Run:
    times = session.times_from(level)
    plan = make_plan(DDIM, session.process, times)
    inverter = ddim_inverse(self.iterations) if self.iterations else DDIM

    def run(params: Params, given: Given) -> jax.Array:
      x = inverted(session, params, times, given, inverter)[0]
      cond = Guided(given.target, given.source)
      return sample(session.guided(params), DDIM, plan, x, cond)[0]

    return run


@dataclass(frozen=True)
class Edict:
  """EDICT [2211.12446]: inverted exactly, guided by the image's prompt, and drawn by the edit's.

  mix  p of the two states
  A request's strengths are noise levels t to which the image is inverted.
  """

  mix: Mix = MIX

  def __call__(self, model: Any, request: Request) -> Edited:
    return edited(model, request, "edict", (0.8,), Level, self.sampler, alike=True)

  def sampler(self, session: Session, level: float) -> Run:
    times, process = session.times_from(level), session.process

    def run(params: Params, given: Given) -> jax.Array:
      denoise = session.guided(params)
      of = lambda cond: Guided(cond, given.null)
      pair = invert_coupled(denoise, process, times, given.x0, of(given.source), self.mix)
      return sample_coupled(denoise, process, times, pair, of(given.target), self.mix).a

    return run


@dataclass(frozen=True)
class RFInversion:
  """RF-Inversion [2410.10792]: inverted under the negative prompt, drawn towards the image.

  gamma        how much of the way up is to the noise of the seed
  start, stop  fractions of the steps between which it is drawn towards the image
  A request's strengths are eta: how much of the way down is to the image; 0 edits the most. The
  image's prompt is not used.
  """

  gamma: Share = 0.5
  start: Share = 0.0
  stop: Share = 0.25

  def __call__(self, model: Any, request: Request) -> Edited:
    return edited(model, request, "rf_inversion", (0.9, 0.6), Share, self.sampler, traced=True)

  def sampler(self, session: Session, _: float) -> Run:
    process, times = session.process, session.times
    up = Time(*(np.asarray(field)[::-1] for field in times))

    def run(params: Params, given: Given) -> jax.Array:
      forth = towards_noise(session.noise(given.seeds)(jnp.int32(0)), self.gamma)
      plan = make_plan(forth, process, up)
      x, _ = sample(session.plain(params), forth, plan, given.x0, given.null)
      back = towards_image(given.x0, given.strength, self.start, self.stop)
      cond = Guided(given.target, given.null)
      return sample(session.guided(params), back, make_plan(back, process, times), x, cond)[0]

    return run


@dataclass(frozen=True)
class FlowEdit:
  """FlowEdit [2412.08629].

  draws   n_avg, noises that a step is averaged over
  plain   n_min / S, share of the steps at the end that are the edit's alone
  source_scale  of guidance under the image's prompt
  A request's strengths are noise levels t at which it begins: n_max / S on an even grid.
  """

  draws: Draws = 1
  plain: Share = 0.0
  source_scale: Annotated[float, Range("[0, 100]")] = 1.5

  def __call__(self, model: Any, request: Request) -> Edited:
    return edited(model, request, "flow_edit", (0.6, 0.8, 1.0), Level, self.sampler)

  def sampler(self, session: Session, level: float) -> Run:
    times = session.times_from(level)
    plain = min(round(self.plain * session.steps), len(times.t) - 1)

    def run(params: Params, given: Given) -> jax.Array:
      source = session.call(params, given.source, given.null, self.source_scale)
      target = session.call(params, given.target, given.null)
      noise = session.noise(given.seeds)
      return flow_edit(source, target, session.process, times, given.x0, noise, self.draws, plain)

    return run


@dataclass(frozen=True)
class Ilvr:
  """ILVR [2108.02938]: the edit's prompt drawn by ancestral steps, like the image when small.

  until  share of the steps, from the first, after which low frequencies are replaced
  kind   of the filter: sampling.ilvr.low_pass
  A request's strengths are whole factors by which the image is scaled down; they divide its sides.
  """

  until: Share = 0.8
  kind: str = "box"

  def __call__(self, model: Any, request: Request) -> Edited:
    factor = Annotated[float, Range("[2, 1024]")]
    return edited(model, request, "ilvr", (4.0, 8.0), factor, self.sampler)

  def sampler(self, session: Session, factor: float) -> Run:
    if factor != int(factor):
      raise ConfigError(f"--strengths={factor:g}: a factor of ilvr is a whole number.")
    solver, process = SOLVERS["ddpm"](), session.process
    plan = make_plan(solver, process, session.times)
    steps = round(self.until * session.steps)
    jax.eval_shape(
      lambda x: low_pass(x, int(factor), self.kind), jnp.zeros((1, *session.system.x_shape))
    )

    def run(params: Params, given: Given) -> jax.Array:
      shape = session.system.x_shape
      x = process.prior(jax.vmap(jax.random.key)(given.seeds), shape)
      hook = ilvr(plan, given.x0, session.noise(given.seeds, 1), int(factor), steps, self.kind)
      noise, cond = session.noise(given.seeds), Guided(given.target, given.null)
      return sample(session.guided(params), solver, plan, x, cond, noise, hook)[0]

    return run
