"""Editors that keep the structure of an image by what the network does on its inversion.

pnp           Plug-and-Play: features and self-attention of the image's states in the edit's
pix2pix_zero  every x_t is moved until the edit attends to its text where the image does
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from t2i_jax.edit.inversions import DDIM, inverted
from t2i_jax.edit.request import Edited, Request
from t2i_jax.edit.session import Given, Run, Session, edited
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning
from t2i_jax.models.control import Role, with_role
from t2i_jax.models.cross_maps import cross_maps
from t2i_jax.models.params import Params
from t2i_jax.models.plug_and_play import PLUGGED, PluggedRows, plug_and_play
from t2i_jax.process import Prediction, Time
from t2i_jax.ranges import Range, Share, Whole
from t2i_jax.sampling import Denoiser, Guided, guide, make_plan, sample
from t2i_jax.sampling.guidance import interleave
from t2i_jax.sampling.inversion import ddim_inverse
from t2i_jax.sampling.map_guidance import Matched, match_maps, states_at
from t2i_jax.sampling.noise_regularity import Regular, regularised
from t2i_jax.systems.imagic import shifted
from t2i_jax.systems.inputs import each_condition

Layers = tuple[Whole, ...]


def in_turn(first: Any, second: Any) -> Any:
  """The rows of two trees, one of the first, one of the second, and so on."""
  return jax.tree.map(interleave, first, second)


@dataclass(frozen=True)
class PlugAndPlay:
  """Plug-and-Play [2211.12572]: the edit is drawn from the inversion, with parts of it.

  features   layers whose output is the image's; (): the one in the middle
  attention  layers whose self-attention is; (): from the middle on
  share      of the steps in which self-attention is, in units of those in which features are
  A request's strengths are shares of the steps in which features are the image's; 0 edits the most.
  The published shares are 0.8 and 0.5 of 50 steps, on layers of a U-Net's decoder.
  """

  features: Layers = ()
  attention: Layers = ()
  share: Annotated[float, Range("[0, 10]")] = 0.625

  def __call__(self, model: Any, request: Request) -> Edited:
    return edited(model, request, "pnp", (0.4, 0.8), Share, self.sampler, alike=True, traced=True)

  def sampler(self, session: Session, _: float) -> Run:
    times, depth = session.times, session.system.layers
    plan = make_plan(DDIM, session.process, times)
    stride = 1 + (session.scale != 1)
    features = self.features or (depth // 2,)
    attention = self.attention or tuple(range(depth // 2, depth))
    control = plug_and_play(depth, stride, features, attention)
    of = lambda share: jnp.round(jnp.minimum(share, 1) * session.steps).astype(jnp.int32)

    def run(params: Params, given: Given) -> jax.Array:
      states = inverted(session, params, times, given, ddim_inverse())
      share = jnp.repeat(given.strength, 2)
      plugged = PluggedRows(of(share), of(share * self.share), jnp.zeros(len(share), jnp.int32))
      pair = lambda a, b, role: _plugged(
        in_turn(with_role(a, Role.SOURCE), with_role(b, role)), plugged
      )

      def denoise(x_t: jax.Array, time: Time, cond: Conditioning) -> Prediction:
        return session.system.denoise(params, x_t, time, cond, control)

      def cond_at(i: jax.Array, cond: Any, state: Any) -> Any:
        return each_condition(cond, lambda one: _at_step(one, i))

      def follow(i: jax.Array, x: jax.Array, prediction: Prediction, state: Any):
        edit = x.reshape(-1, 2, *x.shape[1:])[:, 1]
        return interleave(states[i + 1], edit), state  # the source is at its own states

      cond: Any = pair(given.source, given.target, Role.TARGET)
      sampled: Denoiser = denoise
      if session.scale != 1:
        cond = Guided(cond, pair(given.source, given.null, Role.NULL))
        sampled = guide(denoise, session.guidance, session.scale)
      x = interleave(states[0], states[0])
      x, _ = sample(sampled, DDIM, plan, x, cond, on_step=follow, cond_at=cond_at)
      return x.reshape(-1, 2, *x.shape[1:])[:, 1]

    return run


def _plugged(cond: Conditioning, rows: PluggedRows) -> Conditioning:
  return cond._replace(extras=cond.extras | {PLUGGED: rows})


def _at_step(cond: Conditioning, i: jax.Array) -> Conditioning:
  rows: PluggedRows = cond.extras[PLUGGED]
  return _plugged(cond, rows._replace(step=jnp.full_like(rows.step, i)))


def direction(before: Conditioning, after: Conditioning) -> Params:
  """From the mean of encoded sentences to that of others.   Source: [2302.03027 sec. 3.2]

  Of conditions with rows of sentences, a shift as systems.imagic.shifted takes it, of one row.
  """
  mean = lambda leaf: jnp.mean(leaf.astype(jnp.float32), 0)
  found: Params = {}
  for name, old in before.towers.items():
    new = after.towers[name]
    found[name] = {"tokens": mean(new.tokens) - mean(old.tokens)}
    if old.pooled is not None and new.pooled is not None:
      found[name]["pooled"] = mean(new.pooled) - mean(old.pooled)
  return found


@dataclass(frozen=True)
class Pix2PixZero:
  """pix2pix-zero [2302.03027]: cross-attention guidance of the edit, from a regular inversion.

  before, after  sentences with ";" between them that differ by the edit: the image's prompt moved
                 by the direction between their encodings takes the place of the edit's prompt
  regular        gradient steps of each eps_hat of the inversion towards regular noise; the
                 published 5 need alpha > 0 below the last time, and sizes of 8 and more
  A request's strengths are weights of the guidance.
  """

  before: str = ""
  after: str = ""
  regular: Annotated[int, Range("[0, 1000]")] = 0

  def __post_init__(self) -> None:
    if bool(self.before) != bool(self.after):
      raise ConfigError("--method=pix2pix_zero: give sentences before and after, or neither.")

  def __call__(self, model: Any, request: Request) -> Edited:
    weight = Annotated[float, Range("[0, 1e6]")]
    return edited(
      model, request, "pix2pix_zero", (0.1,), weight, self.sampler, alike=True, traced=True
    )

  def sampler(self, session: Session, _: float) -> Run:
    times = session.times
    plan = make_plan(DDIM, session.process, times)
    control = cross_maps(session.system.layers)
    shift = None
    if self.before:
      shift = direction(*(session.encoded(text.split(";")) for text in (self.before, self.after)))

    def run(params: Params, given: Given) -> jax.Array:
      wrap = lambda denoise: regularised(denoise, Regular(self.regular))
      states = inverted(session, params, times, given, wrap=wrap if self.regular else None)
      target = given.target if shift is None else shifted(given.source, shift)
      record = session.recording(params, control)
      # The squared distance is a mean over heads, as published.
      maps = lambda x_t, time, cond: jax.tree.map(
        lambda leaf: leaf / jnp.sqrt(leaf.shape[2]), record(x_t, time, cond)
      )
      mark = lambda cond: with_role(cond, Role.COND)
      cond = Matched(Guided(target, given.null), mark(target), mark(given.source), states)
      matched = match_maps(session.guided(params), maps, given.strength)
      return sample(matched, DDIM, plan, states[0], cond, cond_at=states_at)[0]

    return run
