"""A language model as a text encoder: its sizes, its layers, padding on either side."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.models import axes_of, init_params, with_params
from t2i_jax.models.params import abstract_of
from t2i_jax.towers.language_model import LanguageModelConfig

TINY = {
  "vocab": 50, "width": 24, "depth": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 40,
}  # fmt: skip
IDS = jnp.array([[3, 9, 4, 7, 8, 1]])


def bound(**changes):
  config = LanguageModelConfig(**TINY | changes)
  return jax.jit(with_params(config.make)(init_params(config.make, jax.random.key(0))))


PUBLISHED = {
  "Qwen2.5-VL-7B": (
    (152064, 3584, 28, 28, 4, 128, 18944), {"qkv_bias": True}, 7_070_619_136,
  ),
  "Qwen3-4B": ((151936, 2560, 36, 32, 8, 128, 9728), {"qk_norm": True}, 4_022_468_096),
  "Qwen3-8B": ((151936, 4096, 36, 32, 8, 128, 12288), {"qk_norm": True}, 7_568_405_504),
  # The published 22,901,314,560 are without the head, which has as many as the embedding.
  "Mistral-Small-3": ((131072, 5120, 40, 32, 8, 128, 32768), {}, 22_901_314_560),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
  sizes, how, count = PUBLISHED[name]
  config = LanguageModelConfig(*sizes, **how)
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
