"""What `make quickstart` says of its time, and how MINUTES fits the steps to it."""

import sys
from pathlib import Path

import pytest

from t2i_jax.config import load_config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from quickstart import LEAST, Seconds, fitted, statement  # noqa: E402

MACHINE = Seconds(data=75.0, start=20.0, step=0.25, judge=0.008)


@pytest.fixture(params=["scenes_dit_flow", "emoji_dit_flow"])
def config(request):
  return load_config(ROOT / "configs" / f"{request.param}.py")


def in_all(config, steps):
  seconds = MACHINE.train(config, steps) + MACHINE.sample(config) + MACHINE.evaluate(config)
  return (MACHINE.data + seconds) / 60


def test_the_steps_are_the_most_that_fit(config):
  assert fitted(MACHINE, config, 1e4) == config.train.steps
  steps = fitted(MACHINE, config, 6.0)
  assert LEAST <= steps < config.train.steps
  assert in_all(config, steps) <= 6.0 < in_all(config, steps + 20)


def test_too_few_minutes_are_refused_with_a_number_that_works(config):
  with pytest.raises(SystemExit, match="MINUTES=1 is too short") as refused:
    fitted(MACHINE, config, 1.0)
  enough = float(str(refused.value).split("Use MINUTES=")[1].split()[0])
  assert fitted(MACHINE, config, enough) >= LEAST


def test_the_statement_has_the_sum_of_its_parts(config):
  text = statement(MACHINE, config, config.train.steps)
  assert f"{in_all(config, config.train.steps):.1f} in all" in text
  assert "scores will be lower" not in text
  assert "the scores will be lower" in statement(MACHINE, config, 200)
