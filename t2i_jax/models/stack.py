"""One pass through a model's stacks of equal blocks: scanned, rematerialised, controlled.

The only place where blocks meet a control, residuals, skip connections and losses of their own.
Without any of them the compiled program is the same as if there were none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attend, Visible
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.control import Control, Here
from t2i_jax.models.implementations import ATTENTIONS
from t2i_jax.models.params import REMAT, Chosen, scan_blocks, stacked
from t2i_jax.ranges import Range

Eps = Annotated[float, Range("(0, 0.1]")]  # of a norm
At = Callable[[str], Attend]  # from a site ("self", "joint", "cross") to its attention


class Answer(NamedTuple):
  """What a backbone returns.

  value   the prediction [B, H, W, out], float32
  losses  terms that blocks add to the loss, scalars or [B], each summed over the layers
  notes   {stack: {site: what Control.record gave, with a leading axis [layers]}}
  """

  value: Any
  losses: dict[str, jax.Array]
  notes: dict[str, Any]


class BlockOutput(NamedTuple):
  """What a block may return in place of x.

  skip    for a later stack (U-Net); collected in Stacks.skips
  losses  scalars or [B] by name, as a router's balance [2101.03961 eq. 4]
  """

  x: Any
  skip: Any = None
  losses: Mapping[str, jax.Array] = {}


@dataclass(frozen=True, kw_only=True)
class Runs:
  """What the configs of all models have: how the blocks are run, by name.

  remat  a policy, and others for some of the stacks: "full", "full, single=qkv"
  """

  remat: str = "none"
  attention: str = "xla"

  def __post_init__(self) -> None:
    """Raises ConfigError for a policy or an implementation that does not exist."""
    policy, of_stacks = self.policies
    for one in (policy, *of_stacks.values()):
      if one not in REMAT:
        raise ConfigError(f"model.remat = {one!r} is not one of {', '.join(REMAT)}.")
    if self.attention not in ATTENTIONS:
      known = ", ".join(ATTENTIONS)
      raise ConfigError(f"model.attention = {self.attention!r} is not one of {known}.")

  @property
  def policies(self) -> tuple[str, dict[str, str]]:
    """The policy of remat, and those of stacks that have their own."""
    policy, *others = (part.strip() for part in self.remat.split(","))
    return policy, {name: own for name, _, own in (part.partition("=") for part in others)}

  @property
  def layers(self) -> int:
    """Blocks of all stacks."""
    return self.depth  # type: ignore[attr-defined]


class Stacks:
  """The stacks of one model call, in the order in which they are run.

  residuals  {stack: pytree [K, ...]}, added after its blocks: see params.scan_blocks
  skips      {stack: what its blocks handed on, with a leading axis [layers]}
  """

  def __init__(
    self,
    c: Runs,
    control: Control | None = None,
    cond: Conditioning | None = None,
    residuals: Mapping[str, Any] | None = None,
  ):
    self._remat, self._own = c.policies
    self._attend = ATTENTIONS[c.attention]
    self._control, self._cond = control, cond
    self._residuals = residuals or {}
    self._first = 0  # layers run so far
    self._names: list[str] = []
    self._notes: dict[str, Any] = {}
    self._losses: dict[str, jax.Array] = {}
    self.skips: dict[str, Any] = {}

  def run(
    self,
    name: str,
    blocks: nnx.Module,
    x: Any,
    call: Callable,
    xs: Any = None,
    text: int = 0,
    residuals: Chosen | None = None,
  ) -> Any:
    """x = call(block, x, xs[i], at) for each block i of the stack, as one scan.

    x is a pytree of [B, L, D], call returns x or a BlockOutput; at(site) is the attention to use.
    text  tokens of text that lead a joint sequence
    residuals  in place of those that were given for the stack
    """
    remat = self._own.get(name, self._remat)
    residuals = self._residuals.get(name) if residuals is None else residuals
    self._names.append(name)
    if self._control is None:

      def plain(block, x, layer):
        x, *rest = _output(call(block, x, layer, lambda site: self._attend))
        return x, (*rest, {})

      x, outputs = scan_blocks(blocks, x, plain, xs, remat, residuals)
    else:
      depth, first = stacked(blocks), self._first
      layers = jax.tree.map(lambda leaf: leaf[first : first + depth], self._control.layers)
      self._first += depth
      controlled = self._controlled(self._control, name, call, text)
      x, outputs = scan_blocks(blocks, x, controlled, (xs, layers), remat, residuals)
    self.skips[name], losses, self._notes[name] = outputs
    for key, of_layers in losses.items():
      self._losses[key] = self._losses.get(key, 0) + jnp.sum(of_layers, axis=0)
    return x

  def once(self, name: str, call: Callable, *args: Any) -> Any:
    """call(*args), a block that is not stacked, rematerialised as `name` is."""
    self._names.append(name)
    return REMAT[self._own.get(name, self._remat)](call)(*args)

  def residual(self, name: str) -> Any:
    """What is added elsewhere than after the blocks of a stack, or None."""
    self._names.append(name)
    return self._residuals.get(name)

  def _controlled(self, control: Control, name: str, call: Callable, text: int) -> Callable:
    assert self._cond is not None
    extras = self._cond.extras

    def controlled(block, before, layer):
      xs, of_layer = layer
      notes: dict[str, Any] = {}
      here = Here(of_layer, extras["role"], extras, name, 0, self._attend)

      def at(site: str) -> Attend:
        there = here._replace(text=text) if site == "joint" else here

        def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None) -> jax.Array:
          if control.record is not None:
            notes[site] = control.record(there, site, q, k, v, mask)
          return control.attention(there, site, q, k, v, mask)

        return attention

      after, *rest = _output(call(block, before, xs, at))
      return control.block(here._replace(text=text), before, after), (*rest, notes)

    return controlled

  def answer(self, value: Any) -> Answer:
    """What a model returns. Raises ConfigError for a stack that was named and not run."""
    for where, named in (("model.remat", self._own), ("residuals", self._residuals)):
      for name in named:
        if name not in self._names:
          has = ", ".join(self._names)
          raise ConfigError(f"{where}: no stack of this model is named {name!r}. It has {has}.")
    recording = self._control is not None and self._control.record is not None
    return Answer(value, self._losses, self._notes if recording else {})


def _output(found: Any) -> BlockOutput:
  return found if isinstance(found, BlockOutput) else BlockOutput(found)
