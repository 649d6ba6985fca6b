"""Every backbone at a tiny size, with what it is called on: for the tests that all must pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from weights import random_weights

from t2i_jax.models import BACKBONES, Conditioning, Tower, abstract_of, with_params
from t2i_jax.models.control import Role

TEXT, POOLED, WORDS = 24, 20, 5
SHARED = {"width": 32, "heads": 2, "patch": 2, "channels": 4, "out": 4}
ROPE = (4, 4, 8)
FAMILIES = {
  "dit_cross": {"depth": 3, "text": "cross", "text_width": TEXT},
  "dit_joint": {"depth": 3, "text": "joint", "text_width": TEXT},
  "class_dit": {"depth": 2, "classes": 10, "side": 8},
  "pixart": {"depth": 2, "text_width": TEXT, "side": 8},
  "pixart_sizes": {
    "width": 48, "depth": 2, "text_width": TEXT, "side": 8, "sizes": True, "interpolation": 2.0,
  },
  "sd3": {
    "depth": 3, "text_width": TEXT, "pooled_width": POOLED, "side": 8, "max_side": 8,
    "dual_blocks": 1,
  },
  "flux": {
    "double_blocks": 2, "single_blocks": 2, "text_width": TEXT, "pooled_width": POOLED,
    "rope_axes": ROPE, "guidance": 3.5,
  },
  "flux2": {
    "double_blocks": 1, "single_blocks": 2, "text_width": TEXT,
    "rope_axes": (4, 4, 4, 4), "guidance": 3.5,
  },
  "qwen_image": {"depth": 2, "text_width": TEXT, "rope_axes": ROPE},
  "z_image": {
    "width": 48, "depth": 2, "refiner_blocks": 1, "text_width": TEXT, "rope_axes": (8, 8, 8),
  },
  "unet": {
    "widths": (16, 32), "depths": (0, 2), "heads": (2, 2), "res_blocks": 1, "groups": 8,
    "text_width": TEXT, "pooled_width": POOLED, "micro_conditions": 6, "size_width": 8,
  },
}  # fmt: skip
# Published to see the text's padding; told not to, they do not.
SEE_PADDING = ("sd3", "flux", "flux2")


def kind_of(name):
  return next(kind for kind in sorted(BACKBONES, key=len, reverse=True) if name.startswith(kind))


def config_of(name, **changes):
  config = BACKBONES[kind_of(name)][1]
  has = {field.name for field in dataclasses.fields(config)}
  shared = {key: value for key, value in SHARED.items() if key in has}
  return config(**shared | FAMILIES[name] | changes)


@functools.cache
def maker(name, config):
  return lambda rngs: BACKBONES[kind_of(name)][0](config, rngs)


@functools.cache
def live_params(name, config, seed=9):
  """Random values, also where the initialisation has zeros, so that every path counts."""
  return random_weights(abstract_of(maker(name, config)), seed=seed)


def condition(name, rows=2, words=WORDS, used=(5, 3), seed=1, roles=None):
  """Random text of `used` words a row in `words` places, a label, and sizes."""
  keys = jax.random.split(jax.random.key(seed), 3)
  real = jnp.arange(words) < jnp.array(used * (rows // len(used)))[:, None]
  pooled = TEXT if name.startswith("dit") else POOLED
  tokens = jax.random.normal(keys[0], (rows, 64, TEXT))[:, :words]  # the same at any length
  towers = {
    "text": Tower(tokens, real, jax.random.normal(keys[1], (rows, pooled))),
    "label": Tower(jnp.arange(rows).reshape(rows, 1, 1), jnp.ones((rows, 1), bool), None),
  }
  extras = {"size": jnp.full((rows, 2), 64.0), "aspect": jnp.ones((rows, 1))}
  if roles is not None:
    extras["role"] = jnp.array([Role(role) for role in roles], jnp.int32)
  return Conditioning(towers, extras)


def image(rows=2, height=8, width=8, seed=5):
  return jax.random.normal(jax.random.key(seed), (rows, height, width, 4))


@functools.cache
def compiled(name, config, dtype):
  bind = with_params(maker(name, config))
  times = lambda x: jnp.full(len(x), 300.0)
  return jax.jit(lambda params, x, cond: bind(params)(x.astype(dtype), times(x), cond).value)


def forward(name, config, params, x, cond, dtype=jnp.float32):
  return compiled(name, config, dtype)(params, x, cond)
