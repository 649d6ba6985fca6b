"""What the compiled sampler of a model that draws is given, as pytrees of rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t2i_jax.models import Conditioning
from t2i_jax.models.control import Role, with_role
from t2i_jax.sampling import Guided
from t2i_jax.systems.few_step import until


class Origin(NamedTuple):
  """images [B, H, W, C] or what they are encoded to; fill [B, H, W, 1] bool or None; source: a
  prompt, as in Inputs, or None."""

  images: Any
  fill: Any = None
  source: Any = None


class Inputs(NamedTuple):
  """What a compiled sampler is given besides the backbone's parameters and a plan.

  cond    of the prompts: their tokens, and images of an encoder that sees them, by encoder, which
          `_conditioned` replaces by the encoders' output, a Conditioning;   others: of each further
          prompt of an image
  null    of the negative prompt, or None where it has no weight
  references  images [B, H, W, 3] that the model is shown besides, encoded like those of `origin`
  seeds   [B] uint32;   noise: unit Gaussian [B, h, w, C] in place of that of the seeds, or None
  scale   of guidance
  label, guide_params, weight  captions and parameters of a noisy classifier, and how strongly it
          guides
  weak, weak_params  of the weak model
  controls  systems.controlnet.Rows of each ControlNet
  shift  by which `cond` is moved before it is sampled: systems.imagic.shifted; or None
  """

  cond: Any
  seeds: Any
  scale: Any = None
  noise: Any = None
  null: Any = None
  references: tuple[Any, ...] = ()
  others: tuple[Any, ...] = ()
  label: Any = ()
  guide_params: Any = None
  weight: Any = None
  weak: Any = None
  weak_params: Any = None
  origin: Origin | None = None
  controls: tuple[Any, ...] = ()
  shift: Any = None


def with_images(cond: Conditioning, latents: tuple[Any, ...]) -> Conditioning:
  """A condition with the images that a model is shown, encoded."""
  return cond._replace(extras=cond.extras | {"references": latents}) if latents else cond


def with_roles(cond: Conditioning, null: Conditioning | None) -> Guided:
  """The conditions of a method with a control: the third is the first, on perturbed rows."""
  null = None if null is None else with_role(null, Role.NULL)
  return Guided(with_role(cond, Role.COND), null, (with_role(cond, Role.PERTURBED),))


def each_condition(cond: Any, change: Callable[[Conditioning], Conditioning]) -> Any:
  """A change of every Conditioning in a condition."""
  one = lambda node: isinstance(node, Conditioning)
  return jax.tree.map(lambda c: change(c) if one(c) else c, cond, is_leaf=one)


def all_until(cond: Any, model_time: jax.Array) -> Any:
  """`until` of every Conditioning in a condition."""
  return each_condition(cond, lambda c: until(c, model_time))


def remembers(solver: Any, shape: tuple[int, ...]) -> bool:
  """Whether a solver keeps anything from step to step."""
  memory = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  return any(leaf.size for leaf in jax.tree.leaves(memory))


def cells_of(fill: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Which cells of latents hold a pixel that is to be filled.   [B, H, W, 1] -> [B, *size, 1]"""
  rows, cols = size
  b, height, width, _ = fill.shape
  cells = fill.reshape(b, rows, height // rows, cols, width // cols)
  return jnp.any(cells, axis=(2, 4))[..., None]
