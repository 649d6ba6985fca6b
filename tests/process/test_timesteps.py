"""The laws of t against scipy's distributions (Kolmogorov-Smirnov)."""

import jax
import numpy as np
import pytest
from scipy import stats

from t2i_jax.errors import ConfigError
from t2i_jax.process import make_timestep_law


def draw(law, n=20000):
  return np.asarray(jax.vmap(law)(jax.random.split(jax.random.key(0), n)))


def test_uniform():
  assert stats.kstest(draw(make_timestep_law("uniform")), "uniform").pvalue > 0.01


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal(mean, std):
  t = draw(make_timestep_law("logit_normal", mean, std))
  assert stats.kstest(np.log(t / (1 - t)), stats.norm(mean, std).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", ["uniform", "logit_normal"])
def test_inside_the_interval(name):
  t = draw(make_timestep_law(name, 0.0, 4.0))
  assert t.min() > 0 and t.max() < 1 and t.dtype == np.float32


def test_unknown_law():
  with pytest.raises(ConfigError, match="uniform, logit_normal"):
    make_timestep_law("cosmap")
