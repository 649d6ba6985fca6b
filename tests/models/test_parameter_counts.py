"""Every published size has the published number of parameters, without an array being made."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.model_sizes import SIZES, config_of, count, count_stored
from t2i_jax.config import load_config
from t2i_jax.plan.describe import system_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", SIZES)
def test_count_is_the_published_one(name):
  size = SIZES[name]
  assert count_stored(size) == size.stored
  assert count(size) == size.unique or not size.unique
  assert size.kind == "class_dit" or count(size) == size.stored


CONFIGS = {
  "dit": [f"{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)],
  "pixart": ["alpha-512", "alpha-1024", "sigma-1024"],
  "sd3": ["3-medium", "3.5-medium", "3.5-large"],
  "flux1": ["dev", "schnell"],
  "flux2": ["dev", "klein-4b", "klein-9b"],
  "qwen_image": [""],
  "z_image": [""],
}
VARIANTS = [f"{name}.py:{v}".rstrip(":") for name, variants in CONFIGS.items() for v in variants]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_config_is_of_a_published_size(variant):
  """configs/ has every one of them, and what it trains is that size to the last number."""
  config = system_of(load_config(f"{ROOT}/configs/{variant}")).parts["backbone"].config

  def plain(config):
    unread = {} if getattr(config, "pooled", True) else {"pooled_width": 0}
    return replace(config, remat="none", attention="xla", **unread)

  assert plain(config) in [plain(config_of(size)) for size in SIZES.values()]
