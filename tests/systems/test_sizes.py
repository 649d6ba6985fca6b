"""The sizes of a batch's images are conditions of a backbone that has them (SDXL)."""

from dataclasses import dataclass

import jax
import numpy as np
from batches import make_batch
from toys import Toy, ToyConfig, config_of, register, system_of
from weights import random_weights

from t2i_jax.models import BACKBONES
from t2i_jax.systems import Draws


@dataclass(frozen=True)
class MicroConfig(ToyConfig):
  micro_conditions = 6


def test_of_a_batch_they_replace_those_of_a_whole_image(monkeypatch):
  register(monkeypatch)
  monkeypatch.setitem(BACKBONES, "toy", (Toy, MicroConfig))
  system = system_of(config_of())
  assert system.rows(3).sizes.shape == (3, 1, 4)
  sizes = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
  batch = make_batch(3, (8, 8, 3), 16)._replace(sizes=sizes)
  draws = Draws(np.full(3, 0.5), np.arange(3), jax.random.key(0), {}, 0)
  params = random_weights(system.abstract, 0.2)
  found = system.conditioning(params, batch, draws).extras["micro_conditions"]
  np.testing.assert_array_equal(found, [[*row, 8, 8] for row in sizes[:, 0].tolist()])
  drawn = system.encode_text(params, batch.text).extras["micro_conditions"]
  np.testing.assert_array_equal(drawn, [[8, 8, 0, 0, 8, 8]] * 3)


def test_without_them_a_batch_has_none(monkeypatch):
  register(monkeypatch)
  assert system_of(config_of()).rows(3).sizes is None
