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
  """What the configs of all models have: how the blocks are run, by name."""

  remat: str = "none"
  attention: str = "xla"

  def __post_init__(self) -> None:
    """Raises ConfigError for a policy or an implementation that does not exist."""
    for key, value, known in (
      ("remat", self.remat, REMAT),
      ("attention", self.attention, ATTENTIONS),
    ):
      if value not in known:
        raise ConfigError(f"model.{key} = {value!r} is not one of {', '.join(known)}.")


class Stacks:
  """The stacks of one model call, in the order in which they are run.

  text  tokens of text that lead a joint sequence
  """

  def __init__(self, c: Runs, control: Control | None, cond: Conditioning, text: int = 0):
    self._remat, self._attend = c.remat, ATTENTIONS[c.attention]
    self._control, self._cond, self._text = control, cond, text
    self._first = 0  # layers run so far
    self._notes: dict[str, Any] = {}

  def run(self, name: str, blocks: nnx.Module, x: Any, call: Callable, xs: Any = None) -> Any:
    """x = call(block, x, xs[i], at) for each block i of the stack, as one scan.

    x is a pytree of [B, L, D]; at(site) is the attention to use there.
    """
    control, depth = self._control, stacked(blocks)
    if control is None:
      plain = lambda block, x, layer: (call(block, x, layer, lambda site: self._attend), None)
      return scan_blocks(blocks, x, plain, xs, self._remat)[0]
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

    x, self._notes[name] = scan_blocks(blocks, x, controlled, (xs, layers), self._remat)
    return x

  def answer(self, value: jax.Array) -> Any:
    """What a model returns: value, or (value, notes) where the control records.

    notes  {stack: {site: what Control.record gave, with a leading axis [layers]}}
    """
    recording = self._control is not None and self._control.record is not None
    return (value, self._notes) if recording else value
