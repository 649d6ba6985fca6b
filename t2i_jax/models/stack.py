"""One pass through a model's stacks of equal blocks: scanned, rematerialised, controlled.

The only place where blocks meet a control. Without one the compiled program is the same as if
there were none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attend, Visible
from t2i_jax.models.conditioning import Conditioning
from t2i_jax.models.control import Control, Here
from t2i_jax.models.implementations import ATTENTIONS
from t2i_jax.models.params import REMAT, scan_blocks, stacked

At = Callable[[str], Attend]  # from a site ("self", "joint", "cross") to its attention


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


class Stacks:
  """The stacks of one model call, in the order in which they are run.

  text  tokens of text that lead a joint sequence
  """

  def __init__(self, c: Runs, control: Control | None, cond: Conditioning, text: int = 0):
    self._remat, self._own = c.policies
    self._attend = ATTENTIONS[c.attention]
    self._control, self._cond, self._text = control, cond, text
    self._first = 0  # layers run so far
    self._names: list[str] = []
    self._notes: dict[str, Any] = {}

  def run(self, name: str, blocks: nnx.Module, x: Any, call: Callable, xs: Any = None) -> Any:
    """x = call(block, x, xs[i], at) for each block i of the stack, as one scan.

    x is a pytree of [B, L, D]; at(site) is the attention to use there.
    """
    control, depth = self._control, stacked(blocks)
    remat = self._own.get(name, self._remat)
    self._names.append(name)
    if control is None:
      plain = lambda block, x, layer: (call(block, x, layer, lambda site: self._attend), None)
      return scan_blocks(blocks, x, plain, xs, remat)[0]
    layers = jax.tree.map(lambda leaf: leaf[self._first : self._first + depth], control.layers)
    self._first += depth
    role = self._cond.extras["role"]

    def controlled(block, before, layer):
      xs, of_layer = layer
      notes: dict[str, Any] = {}
      here = Here(of_layer, role, 0, self._attend)

      def at(site: str) -> Attend:
        place = here._replace(text=self._text) if site == "joint" else here

        def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: Visible | None) -> jax.Array:
          if control.record is not None:
            notes[site] = control.record(place, site, q, k, v, mask)
          return control.attention(place, site, q, k, v, mask)

        return attention

      after = call(block, before, xs, at)
      return control.block(here, before, after), notes

    x, self._notes[name] = scan_blocks(blocks, x, controlled, (xs, layers), remat)
    return x

  def answer(self, value: Any) -> Any:
    """What a model returns: value, or (value, notes) where the control records.

    notes  {stack: {site: what Control.record gave, with a leading axis [layers]}}
    Raises ConfigError where remat names a stack that was not run.
    """
    for name in self._own:
      if name not in self._names:
        has = ", ".join(self._names)
        raise ConfigError(f"model.remat: no stack of this model is named {name!r}. It has {has}.")
    recording = self._control is not None and self._control.record is not None
    return (value, self._notes) if recording else value
