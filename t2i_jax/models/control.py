"""Controls: what is changed inside a model's blocks, by layer and by row, without a second model.

A control is an argument of a model call. What it needs of each layer is scanned with the blocks,
it is two pure functions of them, and the role of each row is in cond.extras["role"]. Without a
control the compiled program is the same as if there were no such argument.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.errors import ConfigError
from t2i_jax.models.attention import Attend, Visible, attend
from t2i_jax.models.conditioning import Conditioning


class Role(IntEnum):
  """The role of a row of a batch in guidance: the number in cond.extras["role"]."""

  COND = 0
  NULL = 1
  PERTURBED = 2
  SOURCE = 3  # of two rows that are drawn side by side, the one whose attention is read
  TARGET = 4  # and the one whose attention is edited


def with_role(cond: Conditioning, role: Role) -> Conditioning:
  """The same condition, its rows marked: extras["role"] [B] int32."""
  rows = next(iter(cond.towers.values())).mask.shape[0]
  return cond._replace(extras=cond.extras | {"role": jnp.full(rows, role, jnp.int32)})


class Here(NamedTuple):
  """The block in which a control is applied.

  layer   this layer's slice of Control.layers
  role    [B] int32, the Role of each row
  extras  those of the condition, of rows
  stack   name of the stack (static)
  text    how many tokens of text lead the sequence (static); 0 where it holds the image alone
  attend  the model's own attention
  """

  layer: Any
  role: jax.Array
  extras: dict[str, Any]
  stack: str
  text: int
  attend: Attend


def plain_attention(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array:
  return here.attend(q, k, v, mask)


def plain_block(here: Here, before: Any, after: Any) -> Any:
  return after


class Control(NamedTuple):
  """A change inside the blocks.

  layers     pytree with a leading axis [layers], of all stacks in the order they are run
  attention  (here, site, q, k, v, mask) -> [B, Lq, N, K] in place of `attend`; site is "self" (one
             kind of tokens alone), "joint" (text before image) or "cross" (image to text)
  block      (here, x before a block, x after it) -> x, a pytree of [B, L, D]
  record     (here, site, q, k, v, mask) -> a pytree of reduced maps to keep of each layer, or None
  """

  layers: Any
  attention: Callable[..., jax.Array] = plain_attention
  block: Callable[[Here, Any, Any], Any] = plain_block
  record: Callable[..., Any] | None = None


def chosen_layers(layers: Sequence[int], depth: int, where: str = "sampling.guidance") -> jax.Array:
  """True at these layers.   # [depth] bool

  where  they are given, for the message
  Raises ConfigError where there is none, or one does not exist.
  """
  if not layers or any(not 0 <= layer < depth for layer in layers):
    raise ConfigError(
      f"{where}: layers = {tuple(layers)} of a model that has layers 0 to {depth - 1}."
    )
  return jnp.zeros(depth, bool).at[jnp.array(layers)].set(True)


class Alone(NamedTuple):
  """A mask: in some rows, an image token attends to no other image token; text is unchanged.

  mask    what holds besides, or None
  rows    [B] bool, or a scalar
  text    tokens of text that lead the sequence of `length`
  """

  mask: Visible | None
  rows: jax.Array
  text: int
  length: int

  def allowed(self) -> jax.Array:
    i = jnp.arange(self.length)
    other = (i[:, None] >= self.text) & (i >= self.text) & (i[:, None] != i)  # [L, L]
    allowed = ~(self.rows[:, None, None] & other)
    return allowed if self.mask is None else allowed & self.mask.allowed()


def identity_attention(layers: tuple[int, ...], depth: int) -> Control:
  """The self-attention map of the image is the identity in perturbed rows of these layers.

  Then each image token's output is its own value [2403.17377 sec. 4]. In a joint sequence it still
  attends to the text, and text to all, as in the reference library's version for SD3.
  """

  def attention(here: Here, site: str, q, k, v, mask: Visible | None) -> jax.Array:
    if site == "cross":
      return here.attend(q, k, v, mask)
    rows = here.layer & (here.role == Role.PERTURBED)
    return attend(q, k, v, Alone(mask, rows, here.text, q.shape[1]))

  return Control(chosen_layers(layers, depth), attention=attention)


def skip_blocks(layers: tuple[int, ...], depth: int) -> Control:
  """Perturbed rows pass these blocks unchanged. Source: github.com/Stability-AI/sd3.5"""

  def block(here: Here, before: Any, after: Any) -> Any:
    rows = (here.layer & (here.role == Role.PERTURBED))[:, None, None]
    return jax.tree.map(lambda old, new: jnp.where(rows, old, new), before, after)

  return Control(chosen_layers(layers, depth), block=block)


# By the name in a guidance method (sampling.Perturb.kind).
CONTROLS: dict[str, Callable[[tuple[int, ...], int], Control]] = {
  "identity_attention": identity_attention,
  "skip_blocks": skip_blocks,
}
