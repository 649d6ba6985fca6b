"""CLIP's text encoder: what a token sees, which layer is taken, where a caption ends."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.errors import ConfigError
from t2i_jax.models import with_params
from t2i_jax.models.params import abstract_of, axes_of
from t2i_jax.parallel import make_mesh, shardings
from t2i_jax.towers import ClipConfig

CONFIG = ClipConfig(40, 8, 16, 3, 4, 24, projection=12, eos=30)
IDS = np.array([[1, 7, 5, 30, 0, 0, 0, 0], [1, 9, 35, 7, 8, 30, 30, 30]], np.int32)
MASK = np.array([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]], bool)


PARAMS = random_weights(abstract_of(CONFIG.make))


@functools.cache
def compiled(config):
  return jax.jit(lambda params, ids, mask: with_params(config.make)(params)(ids, mask))


def encode(ids=IDS, mask=MASK, params=PARAMS, **changes):
  return compiled(dataclasses.replace(CONFIG, **changes))(params, ids, mask)


def test_a_token_sees_those_before_it_and_padding_where_it_is_not_masked():
  changed = IDS.copy()
  changed[0, 4:] = 3  # padding
  for masked in (False, True):
    one, two = encode(masked=masked), encode(changed, masked=masked)
    np.testing.assert_array_equal(one.tokens[0, :4], two.tokens[0, :4])
    np.testing.assert_array_equal(one.pooled[0], two.pooled[0])
  left = np.roll(MASK, 2, axis=1)  # padding before tokens
  changed = IDS.copy()
  changed[0, 0] = 3
  seen, masked = (
    np.abs(encode(IDS, left, masked=m).tokens - encode(changed, left, masked=m).tokens)
    for m in (False, True)
  )
  assert seen[0, 2:].max() > 1e-3 and masked[0, 2:6].max() == 0
  np.testing.assert_array_equal(encode().mask, MASK)


def test_a_layer_is_the_last_of_a_shallower_tower():
  """Without the final norm, or with it, as clip_skip has it; the pooled vector is the last's."""
  params = PARAMS
  for layer, normed in ((-2, None), (-3, True)):
    depth = CONFIG.depth + layer + 1
    blocks = jax.tree.map(lambda leaf, depth=depth: leaf[:depth], params["blocks"])
    short = encode(params=params | {"blocks": blocks}, depth=depth, normed=bool(normed))
    found = encode(layer=layer, normed=normed)
    np.testing.assert_allclose(found.tokens, short.tokens, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.pooled, encode().pooled, rtol=1e-5, atol=1e-5)
  embedding = params["embedding"][IDS] + params["place"]
  np.testing.assert_array_equal(encode(layer=-4).tokens, embedding)


def test_a_caption_ends_at_its_first_end_or_at_its_highest_id():
  tokens = encode().tokens
  np.testing.assert_array_equal(encode().pooled, tokens[np.arange(2), [3, 5]])
  np.testing.assert_allclose(encode(eos=2).pooled, tokens[np.arange(2), [3, 2]], rtol=1e-5)
  projected = encode(pooled="projected").pooled
  kernel = PARAMS["projection"]["kernel"]
  np.testing.assert_allclose(projected, encode().pooled @ kernel, rtol=1e-4, atol=1e-4)
  assert CONFIG.widths == {"text_width": 16, "pooled_width": 16}
  config = dataclasses.replace(CONFIG, pooled="projected")
  assert config.widths == {"text_width": 16, "pooled_width": 12}


def test_bfloat16_is_that_of_the_outputs():
  bind = with_params(CONFIG.make)(PARAMS)
  tower = bind(jnp.asarray(IDS), jnp.asarray(MASK), jnp.bfloat16)
  assert tower.tokens.dtype == tower.pooled.dtype == jnp.bfloat16
  assert float(jnp.abs(tower.tokens - encode().tokens).max()) < 0.1


def test_a_mesh_computes_what_one_device_does():
  mesh = make_mesh(2, 2, 2)
  placed = jax.device_put(PARAMS, shardings(axes_of(CONFIG.make), mesh))
  with jax.set_mesh(mesh):
    tower = encode(params=placed)
  np.testing.assert_allclose(tower.tokens, encode().tokens, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(tower.pooled, encode().pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"heads": 3}, "width = 16 is not a multiple of heads = 3"),
    ({"activation": "silu"}, "activation = 'silu' is not one of quick_gelu, gelu"),
    ({"pooled": "mean"}, "pooled = 'mean' is not one of eos, projected"),
    ({"projection": 0, "pooled": "projected"}, "use pooled = 'eos'"),
    ({"layer": -5}, "layer = -5 of 3 layers: use -1, the last, to -4"),
    ({"layer": 0}, "layer = 0 of 3 layers"),
  ],
)
def test_configs_that_do_not_fit(changes, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **changes)


def test_captions_longer_than_the_positions():
  with pytest.raises(ConfigError, match="captions of 12 tokens, and positions for 8"):
    encode(np.tile(IDS, 2)[:, :12], np.tile(MASK, 2)[:, :12])


def test_windows_of_a_longer_caption_are_encoded_one_by_one():
  first, second = encode(), encode(IDS[::-1], MASK[::-1])
  both = encode(np.concatenate([IDS, IDS[::-1]], 1), np.concatenate([MASK, MASK[::-1]], 1))
  whole = np.concatenate([first.tokens, second.tokens], 1)
  np.testing.assert_allclose(both.tokens, whole, atol=1e-6)
  np.testing.assert_allclose(both.pooled, first.pooled, atol=1e-6)
