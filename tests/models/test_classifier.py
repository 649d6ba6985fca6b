"""The noisy classifier: a distribution over sets of tokens, at every noise level."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.models import init_params, with_params
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier, log_prob, present

CONFIG = ClassifierConfig(width=16, depth=2, heads=2, patch=4, channels=3, vocab=11)


def test_probabilities_of_all_sets_sum_to_one():
  logits = jnp.array([[0.3, -1.0, 2.0, 0.0]])
  sets = jnp.array(list(product([0.0, 1.0], repeat=4)))
  total = jnp.exp(log_prob(jnp.broadcast_to(logits, sets.shape), sets)).sum()
  np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_caption_is_the_set_of_its_real_tokens():
  ids = jnp.array([[1, 5, 5, 0], [2, 3, 4, 9]])
  mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
  y = present(ids, mask, 11)
  assert [np.flatnonzero(row).tolist() for row in y] == [[1, 5], [2, 3]]
  np.testing.assert_array_equal(y, present(ids[:, jnp.array([1, 0, 2, 3])], mask, 11))


@pytest.mark.newest
def test_a_fresh_classifier_is_at_even_odds_and_sees_time():
  make = lambda rngs: NoisyClassifier(CONFIG, rngs)
  params = init_params(make, jax.random.key(0))
  model = with_params(make)
  x = jax.random.normal(jax.random.key(1), (3, 8, 12, 3))
  logits = model(params)(x, jnp.array([1.0, 500, 999]))
  assert logits.shape == (3, 11) and logits.dtype == jnp.float32
  np.testing.assert_array_equal(logits, 0)
  head = params["head"]
  head["kernel"] = jax.random.normal(jax.random.key(2), head["kernel"].shape)
  now, later = (model(params)(x, jnp.full(3, t)) for t in (1.0, 900.0))
  assert jnp.abs(now - later).max() > 1e-3
  alone = model(params)(x[1:2], jnp.array([1.0]))
  np.testing.assert_allclose(alone[0], now[1], atol=1e-5)


def test_width_must_divide():
  with pytest.raises(ConfigError, match=r"model\.width = 18"):
    ClassifierConfig(18, 2, 2, 4, 3, 11)
