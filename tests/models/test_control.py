"""Controls: nothing changes without one; PAG and skipped blocks, by layer, row and role."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning, DiT, Tower, abstract_of, with_params
from t2i_jax.models.attention import Mask, attend
from t2i_jax.models.control import (
  Alone,
  Control,
  Role,
  identity_attention,
  skip_blocks,
  with_role,
)
from t2i_jax.models.dit import DiTConfig

CONFIG = DiTConfig(
  width=32, depth=3, heads=2, patch=2, channels=3, out=3, text="cross", text_width=16
)
MODES = pytest.mark.parametrize("mode", ["cross", "joint"])
ROLES = (Role.COND, Role.NULL, Role.PERTURBED, Role.PERTURBED)


def config_of(mode, **changes):
  return dataclasses.replace(CONFIG, text=mode, **changes)


def live_params(config, seed=9):
  """Random values, also where the initialisation has zeros, so that every path counts."""
  make = lambda rngs: DiT(config, rngs)
  return random_weights(abstract_of(make), seed=seed)


def condition(roles=ROLES):
  """The same text and image in each row; the roles alone differ."""
  b = len(roles)
  tokens = jnp.tile(jax.random.normal(jax.random.key(1), (1, 5, 16)), (b, 1, 1))
  tower = Tower(tokens, jnp.tile(jnp.arange(5) < 3, (b, 1)), tokens[:, 0])
  return Conditioning({"text": tower}, {"role": jnp.array(roles, jnp.int32)})


X = jnp.tile(jax.random.normal(jax.random.key(5), (1, 8, 8, 3)), (4, 1, 1, 1))


def forward(config, params, control):
  """The answer to X, or with a tuple of parameters the answers of each, compiled once."""
  bind = with_params(lambda rngs: DiT(config, rngs))
  run = jax.jit(lambda params, x, cond: bind(params)(x, jnp.full(4, 300.0), cond, control).value)
  several = params if isinstance(params, tuple) else (params,)
  found = [np.asarray(run(one, X, condition())) for one in several]
  return found if isinstance(params, tuple) else found[0]


@functools.cache
def plain_forward(mode):
  return forward(config_of(mode), live_params(config_of(mode)), None)


@MODES
def test_a_control_that_does_nothing_changes_nothing(mode):
  config = config_of(mode)
  params = live_params(config)
  idle = Control(jnp.zeros(3, bool))
  np.testing.assert_array_equal(forward(config, params, idle), plain_forward(mode))


@pytest.mark.parametrize("make", [identity_attention, skip_blocks])
@MODES
def test_other_rows_and_other_layers_are_left_alone(mode, make):
  config = config_of(mode)
  params = live_params(config)
  plain = plain_forward(mode)
  some, more = (forward(config, params, make(layers, 3)) for layers in ((1,), (0, 2)))
  for found in (some, more):
    np.testing.assert_allclose(found[:2], plain[:2], atol=1e-5)
    assert np.abs(found[2:] - plain[2:]).max() > 1e-2
    np.testing.assert_allclose(found[2], found[3], atol=1e-5)  # the rows are equal
  assert np.abs(some[2] - more[2]).max() > 1e-2


@pytest.mark.newest
@MODES
def test_skipped_blocks_are_as_if_they_did_not_exist(mode):
  config = config_of(mode)
  params = live_params(config)
  found = forward(config, params, skip_blocks((0, 2), 3))
  fewer = dict(params)
  for name in ("blocks", "adaln"):
    fewer[name] = jax.tree.map(lambda leaf: leaf[1:2], params[name])
  alone = forward(config_of(mode, depth=1), fewer, None)
  np.testing.assert_allclose(found[2:], alone[2:], atol=2e-5)


def changed_queries(params):
  """Other queries and other gains in self-attention: another map of who sees whom."""
  attn = params["blocks"]["attn"]
  other = attn | {
    "q": {"kernel": attn["q"]["kernel"][..., ::-1] * 1.7},
    "k_gain": attn["k_gain"] * 0.3,
  }
  return params | {"blocks": params["blocks"] | {"attn": other}}


def test_with_the_identity_a_map_has_no_say():
  """Perturbed rows, all layers: the answer is of the values alone, whatever q and k are."""
  config = config_of("cross")
  params = live_params(config)
  control = identity_attention((0, 1, 2), 3)
  a, b = forward(config, (params, changed_queries(params)), control)
  np.testing.assert_allclose(a[2:], b[2:], atol=1e-5)
  assert np.abs(a[:2] - b[:2]).max() > 1e-2


def test_in_a_joint_sequence_text_is_still_seen():
  config = config_of("joint")
  params = live_params(config)
  control = identity_attention((0, 1, 2), 3)
  a, b = forward(config, (params, changed_queries(params)), control)
  assert np.abs(a[2:] - b[2:]).max() > 1e-2


def qkv(length, seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return [jax.random.normal(key, (2, length, 2, 4)) for key in keys]


def test_an_image_alone_is_its_own_values():
  """To the last bit: a softmax over one score is 1."""
  q, k, v = qkv(6)
  rows = jnp.array([True, False])
  found = attend(q, k, v, Alone(None, rows, 0, 6))
  np.testing.assert_array_equal(found[0], v[0])
  np.testing.assert_array_equal(found[1], attend(q, k, v)[1])


def test_alone_is_for_image_tokens_and_keeps_the_mask():
  """Two of text, the second of them padding, and three of the image."""
  doc = jnp.array([[1, 0, 1, 1, 1]] * 2)
  seen = Alone(Mask(doc, doc), jnp.array([True, False]), 2, 5).allowed().astype(int)
  perturbed = [[1, 0, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]
  np.testing.assert_array_equal(seen[0], perturbed)
  np.testing.assert_array_equal(seen[1], Mask(doc, doc).allowed()[1])


def test_roles_are_rows_of_the_condition():
  marked = with_role(condition()._replace(extras={"size": jnp.ones(4)}), Role.PERTURBED)
  np.testing.assert_array_equal(marked.extras["role"], [2, 2, 2, 2])
  assert set(marked.extras) == {"role", "size"}


def test_a_control_may_say_more_of_a_layer_than_whether():
  """The per-layer pytree is anything: here, how much of the cross-attention is left."""

  def weaker(here, site, q, k, v, mask):
    out = attend(q, k, v, mask)
    return out * here.layer["keep"] if site == "cross" else out

  config = config_of("cross")
  params = live_params(config)
  keep = Control({"keep": jnp.ones(3)}, attention=weaker)
  drop = Control({"keep": jnp.array([1.0, 0.0, 1.0])}, attention=weaker)
  plain = plain_forward("cross")
  np.testing.assert_allclose(forward(config, params, keep), plain, atol=1e-5)
  assert np.abs(forward(config, params, drop) - plain).max() > 1e-2


@pytest.mark.parametrize("layers", [(3,), (0, -1), ()])
def test_layers_that_do_not_exist_are_named(layers):
  with pytest.raises(ConfigError, match="layers 0 to 2"):
    identity_attention(layers, 3)
