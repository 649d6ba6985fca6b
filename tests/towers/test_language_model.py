"""A language model as a text encoder: its sizes, its layers, padding on either side."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.published_towers import LANGUAGE_MODELS
from t2i_jax.errors import ConfigError
from t2i_jax.models import axes_of, init_params, with_params
from t2i_jax.models.params import abstract_of
from t2i_jax.pretrained.known import spec_of
from t2i_jax.pretrained.spec import read_config
from t2i_jax.towers.language_model import LanguageModelConfig

TINY = {
  "vocab": 50, "width": 24, "depth": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 40,
}  # fmt: skip
IDS = jnp.array([[3, 9, 4, 7, 8, 1]])


def bound(**changes):
  config = LanguageModelConfig(**TINY | changes)
  return jax.jit(with_params(config.make)(init_params(config.make, jax.random.key(0))))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_published_sizes(name):
  content, _, count = LANGUAGE_MODELS[name]
  config = read_config(spec_of(content, name), content, name)
  leaves = jax.tree.leaves(abstract_of(config.make))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count
  assert len(jax.tree.leaves(axes_of(config.make))) == len(leaves)


@pytest.mark.parametrize("layers, blocks", [((-1,), 3), ((-2,), 2), ((1, 0), 1), ((-3, 3), 3)])
def test_blocks_after_the_last_layer_taken_are_not_declared(layers, blocks):
  config = LanguageModelConfig(**TINY, layers=layers)
  params = abstract_of(config.make)
  assert {leaf.shape[0] for leaf in jax.tree.leaves(params["blocks"])} == {blocks}
  assert ("gain" in params) == (blocks == 3)
  assert config.widths == {"text_width": 24 * len(layers)}


@pytest.mark.parametrize("layers", [(4,), (-5,), (0,), ()])
def test_layers_that_do_not_exist(layers):
  with pytest.raises(ConfigError, match="from -4 to 3"):
    LanguageModelConfig(**TINY, layers=layers)


def test_sections_of_positions_that_do_not_fit():
  with pytest.raises(ConfigError, match="4 frequencies"):
    LanguageModelConfig(**TINY, rope_sections=(1, 1, 1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_do_not_depend_on_padding(side):
  """On the left they move by as many positions, which a relative encoding does not see."""
  model, pads = bound(layers=(2, -1)), 3
  where = (pads, 0) if side == "left" else (0, pads)
  padded = jnp.pad(IDS, ((0, 0), where), constant_values=11)
  mask = jnp.pad(jnp.ones(IDS.shape, bool), ((0, 0), where))
  alone, among = model(IDS, jnp.ones(IDS.shape, bool)), model(padded, mask)
  kept = np.asarray(among.tokens)[np.asarray(mask)]
  np.testing.assert_allclose(kept, alone.tokens[0], atol=1e-5)


def test_a_row_that_attends_to_nothing_passes_through_the_mlp_alone():
  """Padding on the left: each such row is as that token would be with any others before it."""
  model = bound(layers=(1,))
  mask = jnp.array([[False, False, False, True, True, True]])
  tokens = model(jnp.full((1, 6), 5), mask).tokens[0]
  np.testing.assert_array_equal(tokens[0], tokens[1])
  np.testing.assert_array_equal(tokens[0], tokens[2])
  assert float(jnp.abs(tokens[3] - tokens[0]).max()) > 1e-3
  assert bool(jnp.all(jnp.isfinite(model(IDS, jnp.zeros(IDS.shape, bool)).tokens)))


def test_a_text_longer_than_the_window():
  bound(window=6)(IDS, IDS > 0)
  with pytest.raises(ConfigError, match="a length of 5 at most"):
    bound(window=5)(IDS, IDS > 0)


def test_bfloat16_activations():
  tower = bound(layers=(0, -1))(IDS, IDS > 0)
  config = LanguageModelConfig(**TINY, layers=(0, -1))
  model = with_params(config.make)(init_params(config.make, jax.random.key(0)))
  half = model(IDS, IDS > 0, jnp.bfloat16)
  assert half.tokens.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.tokens.astype(jnp.float32), tower.tokens, atol=0.1)
