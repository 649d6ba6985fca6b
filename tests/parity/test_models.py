"""Every row of docs/parity_models.md: our transformers beside those of diffusers."""

import logging
from pathlib import Path

import numpy as np
import pytest
from cases import here

pytest.importorskip("torch")
pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]

from benchmarks.make_golden import GOLDEN, made  # noqa: E402
from benchmarks.model_parity import (  # noqa: E402
  CASES,
  FORWARD,
  GRADIENT,
  RATIO,
  SIZES,
  bfloat16_errors,
  distance,
  float32_errors,
)

logging.getLogger("diffusers").setLevel(logging.ERROR)


# With what they leave out: no sizes, no norm of q and k, no guidance.
@pytest.mark.parametrize("name", here(CASES, (*GOLDEN, "pixart", "sd3", "flux", "flux2_unguided")))
def test_answer_and_gradients_are_theirs(name):
  """By x_t and by every weight."""
  found = float32_errors(name)
  assert found.forward < FORWARD
  over = {path: off for path, off in found.by_weight.items() if not off < GRADIENT}
  assert found.by_x < GRADIENT and not over


# One of each class; `make proof` has the others, and the page.
@pytest.mark.parametrize("name", here(CASES, GOLDEN))
def test_bfloat16_loses_no_more_than_theirs(name):
  ours, theirs = bfloat16_errors(name)
  assert 0 < ours <= RATIO * theirs


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_what_diffusers_answers(name):
  kept, now = np.load(ROOT / "tests" / "golden" / f"{name}.npz"), made(name)
  assert set(kept.files) == now.keys()
  assert str(kept["config"]) == str(now["config"])
  for key in now.keys() - {"config", "answer"}:
    np.testing.assert_array_equal(kept[key], now[key])
  assert distance(now["answer"], kept["answer"]) < 1e-5  # another processor, other roundings


def test_page_has_every_row():
  page = (ROOT / "docs" / "parity_models.md").read_text()
  for name in (*CASES, *SIZES):
    assert f"| {name} |" in page
