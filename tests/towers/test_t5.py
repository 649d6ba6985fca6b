"""T5's encoder: relative positions in buckets, padding masked or not, no scale of the scores."""

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
from t2i_jax.towers import T5Config
from t2i_jax.towers.t5 import relative_buckets

CONFIG = T5Config(40, 16, 2, 4, 6, 24, buckets=8, max_distance=6)
IDS = np.array([[7, 5, 9, 1, 0, 0], [7, 9, 5, 3, 8, 1]], np.int32)
MASK = IDS > 0


PARAMS = random_weights(abstract_of(CONFIG.make))


@functools.cache
def compiled(config):
  return jax.jit(lambda params, ids, mask: with_params(config.make)(params)(ids, mask))


def encode(ids=IDS, mask=MASK, params=PARAMS, **changes):
  return compiled(dataclasses.replace(CONFIG, **changes))(params, ids, mask)


def test_buckets_of_the_published_models():
  """One distance each up to 7, then bounds 8 * 2^(k / 2) up to 128; keys after the query apart."""
  buckets = relative_buckets(513, 32, 128)
  behind, ahead = buckets[:513][::-1], buckets[512:]
  bounds = [*range(8), *(int(np.ceil(8 * 2 ** (k / 2))) for k in range(8))]
  np.testing.assert_array_equal(behind, np.searchsorted(bounds, np.arange(513), "right") - 1)
  np.testing.assert_array_equal(ahead[1:], behind[1:] + 16)
  assert buckets.dtype == np.int32 and len(buckets) == 1025 and ahead[0] == 0


def test_positions_are_relative():
  """With padding masked, tokens are the same wherever they stand, but not in another order."""
  length, real = IDS.shape[1], 4
  shifted, there = np.roll(IDS[:1], 2, axis=1), np.roll(MASK[:1], 2, axis=1)
  one, two = encode(IDS[:1], MASK[:1], masked=True), encode(shifted, there, masked=True)
  np.testing.assert_allclose(one.tokens[:, :real], two.tokens[:, length - real :], atol=1e-5)
  turned = encode(IDS[:1, ::-1], MASK[:1, ::-1], masked=True).tokens[:, ::-1]
  assert float(jnp.abs(one.tokens - turned)[:, :real].max()) > 1e-2


def test_padding_is_seen_where_it_is_not_masked():
  changed = np.where(MASK, IDS, 3)
  seen, masked = (
    np.abs(encode(masked=m).tokens - encode(changed, masked=m).tokens)[0, :4] for m in (False, True)
  )
  assert seen.max() > 1e-3 and masked.max() == 0
  tower = encode()
  assert tower.pooled is None and CONFIG.widths == {"text_width": 16}
  np.testing.assert_array_equal(tower.mask, MASK)


def test_the_table_of_one_bias_serves_all_layers():
  """Large for one bucket, it makes every layer's attention that of one distance."""
  itself = np.zeros((8, 4), np.float32)
  itself[0] = 1e4
  params = PARAMS | {"bias_table": itself}
  alone = encode(IDS[:, :1], MASK[:, :1], params).tokens
  np.testing.assert_allclose(encode(params=params).tokens[:, :1], alone, rtol=1e-5, atol=1e-5)


def test_a_mesh_computes_what_one_device_does():
  mesh = make_mesh(2, 2, 2)
  placed = jax.device_put(PARAMS, shardings(axes_of(CONFIG.make), mesh))
  with jax.set_mesh(mesh):
    tower = encode(params=placed)
  np.testing.assert_allclose(tower.tokens, encode().tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"mlp": "gelu"}, "mlp = 'gelu' is not one of geglu, relu"),
    ({"buckets": 6}, "buckets = 6.*multiple of 4"),
    ({"max_distance": 2}, "max_distance = 2.*greater than a quarter"),
  ],
)
def test_configs_that_do_not_fit(changes, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **changes)
