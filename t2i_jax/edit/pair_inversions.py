"""Where a pair of Prompt-to-Prompt begins, of an image: its noise, and the nulls that lead back.

    ddim_inverse, midpoint  the noise of the sampler's own steps; of the source the null is its
                            prompt, so that guidance leaves it on its way, of the target the
                            negative prompt
    negative_prompt         the image's prompt is the null of both [2305.16807]
    null_text               a null of each step, learned on the source, is that of both [2211.09794]
    edict                   two coupled states, inverted exactly and guided [2211.12446]
    direct                  the source is put back on the inversion's states, the target is free
                            [2310.01506]; with prompt=False the states are those of no prompt

The last four step by DDIM, whatever config.sampling.solver is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

from ml_collections import ConfigDict

from t2i_jax.edit.inversions import DDIM, learned_nulls
from t2i_jax.errors import ConfigError
from t2i_jax.process import Process, Time
from t2i_jax.ranges import Range
from t2i_jax.sampling import Combine, Denoiser, Guided, Solver, Step
from t2i_jax.sampling.coupled import MIX, Mix, coupled, invert_coupled
from t2i_jax.sampling.inversion import Iterations, ddim_inverse, midpoint, noise_of, states_of
from t2i_jax.sampling.null_text import Inner, Search

PLAIN = ("cfg", "cfg()")


class Images(NamedTuple):
  """What n images are inverted with.

  plain, guided  denoisers of conditions, and of Guided ones at `scale`
  plan, times    of the sampler, [S] and [S + 1] falling
  x0             the images, encoded [n, h, w, C]
  source, null   conditions of their prompts and of the negative prompt; null: None without guidance
  """

  plain: Denoiser
  guided: Denoiser
  process: Process
  plan: Step
  times: Time
  x0: Any
  source: Any
  null: Any
  scale: Any


class Begin(NamedTuple):
  """Where n pairs begin.

  x       at the sampler's first time, the same for source and target [n, h, w, C], or a
          sampling.coupled.Pair of these
  nulls   of the source and of the target
  tokens  of both nulls in each step, {tower: [S, n, T, D]}; None: those of `nulls`
  states  where the source is, at all times [S + 1, n, h, w, C]; None: where it is drawn to
  """

  x: Any
  nulls: tuple[Any, Any]
  tokens: Any = None
  states: Any = None


class PairInversion(Protocol):
  """solver: that the pair is drawn with; None: that of config.sampling"""

  @property
  def solver(self) -> Solver | None: ...

  def check(self, c: ConfigDict, guidance: Combine) -> None:
    """Raises ConfigError for a guidance that it does not lead back under.   c: config.sampling"""

  def begin(self, images: Images) -> Begin: ...


class _Any:
  """Of every guidance."""

  solver: Solver | None = None

  def check(self, c: ConfigDict, guidance: Combine) -> None:
    del c, guidance


@dataclass(frozen=True)
class Noise(_Any):
  """The noise of which the sampler makes the image, by a solver of sampling.inversion."""

  upwards: Solver

  def begin(self, images: Images) -> Begin:
    x = noise_of(images.plain, self.upwards, images.process, images.times, images.x0, images.source)
    return Begin(x, (images.source, images.null))


@dataclass(frozen=True)
class NegativePrompt(_Any):
  """iterations: of each step of the inversion"""

  iterations: Iterations = 10
  solver = DDIM

  def begin(self, images: Images) -> Begin:
    found = Noise(ddim_inverse(self.iterations)).begin(images)
    return found._replace(nulls=(images.source, images.source))


@dataclass(frozen=True)
class NullText(_Any):
  """steps: of Adam for each null;   rate: at the first"""

  steps: Inner = 10
  rate: Annotated[float, Range("(0, 10]")] = 1e-2
  solver = DDIM

  def check(self, c: ConfigDict, guidance: Combine) -> None:
    if c.guidance not in PLAIN or c.cfg == 1:
      raise ConfigError(
        f"--inverter=null_text learns the null of plain guidance, and sampling.guidance = "
        f"{c.guidance!r}, sampling.cfg = {c.cfg:g}. Use --guidance=cfg with --cfg above 1, or "
        "--inverter=direct."
      )

  def begin(self, images: Images) -> Begin:
    states = states_of(images.plain, DDIM, images.process, images.times, images.x0, images.source)
    search = Search(self.steps, self.rate)
    found, _ = learned_nulls(
      images.plain, images.plan, states, images.source, images.null, images.scale, search
    )
    return Begin(states[0], (images.null, images.null), tokens=found.nulls)


@dataclass(frozen=True)
class Edict:
  """mix: p of the two states"""

  mix: Mix = MIX

  @property
  def solver(self) -> Solver:
    return coupled(self.mix)

  def check(self, c: ConfigDict, guidance: Combine) -> None:
    if guidance.starts:
      raise ConfigError(
        f"sampling.guidance = {c.guidance!r} keeps a memory from step to step, which "
        "--inverter=edict cannot undo. Use --guidance=cfg."
      )

  def begin(self, images: Images) -> Begin:
    unguided = images.null is None
    cond: Any = images.source if unguided else Guided(images.source, images.null)
    denoise = images.plain if unguided else images.guided
    x = invert_coupled(denoise, images.process, images.times, images.x0, cond, self.mix)
    return Begin(x, (images.null, images.null))


@dataclass(frozen=True)
class Direct(_Any):
  """prompt      whether the image is inverted under its prompt; else under the negative prompt
  iterations  of each step of the inversion
  """

  prompt: bool = True
  iterations: Iterations = 10
  solver = DDIM

  def check(self, c: ConfigDict, guidance: Combine) -> None:
    if not self.prompt and c.cfg == 1:
      raise ConfigError(
        "--inverter=direct(prompt=False) inverts under the negative prompt, which has no weight at "
        "sampling.cfg = 1. Use --cfg above 1, or direct()."
      )

  def begin(self, images: Images) -> Begin:
    cond = images.source if self.prompt else images.null
    upwards = ddim_inverse(self.iterations)
    states = states_of(images.plain, upwards, images.process, images.times, images.x0, cond)
    return Begin(states[0], (images.null, images.null), states=states)


def _ddim_inverse(iterations: Iterations = 10) -> Noise:
  return Noise(ddim_inverse(iterations))


def _midpoint(iterations: Iterations = 10) -> Noise:
  return Noise(midpoint(iterations))


# By name in --inverter: "name" or "name(argument=value)".
PAIR_INVERSIONS: dict[str, Callable[..., PairInversion]] = {
  "ddim_inverse": _ddim_inverse,
  "midpoint": _midpoint,
  "negative_prompt": NegativePrompt,
  "null_text": NullText,
  "edict": Edict,
  "direct": Direct,
}
