"""Plug-and-Play's injection in a DiT, and the recorded maps beside torch's attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.models import DiT, abstract_of, with_params
from t2i_jax.models.attention import attend, padding_mask
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.control import Here, Role
from t2i_jax.models.cross_maps import cross_maps
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.plug_and_play import PLUGGED, PluggedRows, plug_and_play

# Of one pair under guidance: the prompt and the null of the source, those of the target.
ROLES = jnp.array([Role.SOURCE, Role.NULL, Role.TARGET, Role.NULL], jnp.int32)
CONFIG = DiTConfig(
  width=32, depth=3, heads=2, patch=2, channels=3, out=3, text="cross", text_width=16
)


def plugged(features, attention, step=3):
  of = lambda n: jnp.full(4, n, jnp.int32)
  return PluggedRows(of(features), of(attention), of(step))


def placed(rows, layer=(True, True), text=0, stack="blocks"):
  return Here(jnp.array(layer), ROLES, {PLUGGED: rows}, stack, text, attend)


def qkv(length, seed=0):
  return [
    jax.random.normal(k, (4, length, 2, 8)) for k in jax.random.split(jax.random.key(seed), 3)
  ]


def test_the_target_attends_as_the_source_does():
  """Its values, the source's queries and keys: of the same condition of guidance."""
  control, (q, k, v) = plug_and_play(3, 2, (), (1,)), qkv(6)
  on = control.attention(placed(plugged(0, 4)), "self", q, k, v, None)
  source = jnp.array([0, 1, 0, 1])
  np.testing.assert_allclose(on, attend(q[source], k[source], v), atol=1e-6)
  plain = attend(q, k, v)
  for off, site in [
    (placed(plugged(0, 3)), "self"),  # the step is past
    (placed(plugged(0, 4), (True, False)), "self"),  # another layer
    (placed(plugged(0, 4)), "cross"),
    (placed(plugged(0, 4), stack="text_blocks"), "self"),
  ]:
    np.testing.assert_array_equal(control.attention(off, site, q, k, v, None), plain)


def test_in_a_joint_sequence_text_has_its_own_queries_and_keys():
  control, (q, k, v) = plug_and_play(3, 2, (), (1,)), qkv(6)
  found = control.attention(placed(plugged(0, 4), text=2), "joint", q, k, v, None)
  mixed = lambda x: jnp.concatenate([x[:, :2], x[jnp.array([0, 1, 0, 1]), 2:]], 1)
  np.testing.assert_allclose(found, attend(mixed(q), mixed(k), v), atol=1e-6)


def model_of(mode, control, params):
  bind = with_params(lambda rngs: DiT(dataclasses.replace(CONFIG, text=mode), rngs))
  run = lambda x, cond: bind(params)(x, jnp.full(4, 300.0), cond, control).value
  return jax.jit(run)


@pytest.mark.newest
@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_with_the_features_of_the_last_block_the_target_is_its_source(mode):
  """What follows is the last layer, of the same pooled text. Not with features of an earlier
  block, nor after the last step of them."""
  params = random_weights(
    abstract_of(lambda rngs: DiT(dataclasses.replace(CONFIG, text=mode), rngs)), seed=9
  )
  tokens = jax.random.normal(jax.random.key(1), (4, 5, 16))
  tower = Tower(tokens, jnp.ones((4, 5), bool), jnp.ones((4, 16)))
  x = jax.random.normal(jax.random.key(5), (4, 8, 8, 3))
  cond = lambda rows: Conditioning({"text": tower}, {"role": ROLES, PLUGGED: rows})
  run = model_of(mode, plug_and_play(3, 2, (2,), ()), params)
  on, off = run(x, cond(plugged(4, 0))), run(x, cond(plugged(3, 0)))
  np.testing.assert_allclose(on[2:], on[:2], atol=1e-5)
  np.testing.assert_allclose(on[:2], off[:2], atol=1e-6)
  early = model_of(mode, plug_and_play(3, 2, (0,), ()), params)(x, cond(plugged(4, 0)))
  assert np.abs(off[2:] - off[:2]).max() > 1e-2 and np.abs(early[2:] - early[:2]).max() > 1e-2


def test_recorded_maps_are_those_of_torch():
  torch = pytest.importorskip("torch")
  scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention
  """Attention over values that are one-hot is the map itself."""
  q, k, v = qkv(6)
  mask = padding_mask(jnp.ones((4, 6), bool), jnp.arange(6)[None] < jnp.array([[3], [6], [2], [4]]))
  found = cross_maps(3).record(placed(plugged(0, 0)), "cross", q, k, v, mask)
  heads = lambda x: torch.from_numpy(np.array(x)).transpose(1, 2)
  one_hot = torch.eye(6).expand(4, 2, 6, 6)
  allowed = torch.from_numpy(np.array(mask.allowed()))[:, None]
  wanted = scaled_dot_product_attention(heads(q), heads(k), one_hot, allowed)
  np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
  joint = cross_maps(3).record(placed(plugged(0, 0), text=2), "joint", q, k, v, mask)
  np.testing.assert_allclose(joint, wanted.numpy()[:, :, 2:, :2], atol=1e-6)
  assert cross_maps(3).record(placed(plugged(0, 0)), "self", q, k, v, mask) is None


def test_a_layer_that_does_not_exist():
  with pytest.raises(
    ConfigError, match=r"plug-and-play: layers = \(1, 3\) of a model that has layers 0 to 2"
  ):
    plug_and_play(3, 2, (1, 3), ())
