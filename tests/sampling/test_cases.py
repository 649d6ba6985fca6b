"""Zero SNR, one step, t exactly 0 and 1, eta 1, guidance 0 and 1: right, or refused with why."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pages import table
from benchmarks.proofs import solver_cases as cases
from t2i_jax.process import KINDS
from t2i_jax.sampling import GRIDS, SOLVERS

PAGE = Path(__file__).parents[2] / "docs" / "cases.md"
SAMPLERS = pytest.mark.parametrize(
  "index", range(len(cases.SAMPLERS)), ids=[sampler.label for sampler in cases.SAMPLERS]
)


@SAMPLERS
def test_from_noise_alone_every_solver_reaches_the_data(index):
  """The error of the covariance is truncation: a tenth at 64 steps, and less with more."""
  error = cases.law_error(index, "velocity", cases.ENDLESS["flow"])
  assert error < 0.1
  twice = cases.law_error(index, "velocity", cases.ENDLESS["flow"], 2 * cases.STEPS)
  assert twice < 0.7 * error + 1e-3


@SAMPLERS
def test_one_step_is_the_mean_of_what_is_possible(index):
  for name, process in cases.ALL.items():
    assert cases.one_step_error(index, "velocity", process) < 1e-4, name


OTHERS = [(kind, name) for kind, name in cases.NO_SIGNAL if kind != "velocity"]


@pytest.mark.parametrize("kind, name", OTHERS)
@pytest.mark.parametrize("label", ["ddpm", "flow_sde", "dpmpp", "unipc", "heun", "pndm"])
def test_other_predictions_and_processes_without_signal(label, kind, name):
  index = next(i for i, sampler in enumerate(cases.SAMPLERS) if sampler.label == label)
  assert cases.law_error(index, kind, cases.ENDLESS[name]) < 0.1
  for process in cases.ALL.values():
    assert cases.one_step_error(index, kind, process) < 1e-4


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_of_one_step(name):
  for title, process in cases.ALL.items():
    if name == "leading" and process.steps is None:
      continue  # refused, as below
    assert cases.grid_result(name, process, 1) < 1e-4, title


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_at_0_is_the_null_at_1_the_class_and_else_the_tilted_field(kind, scale):
  assert cases.guided_error(kind, scale) < 1e-4


@pytest.mark.parametrize("solver", ["heun", "dpmpp", "unipc", "ddpm", "pndm"])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guidance_at_0_and_1_with_every_sort_of_solver(solver, scale):
  assert cases.guided_error("v", scale, solver) < 1e-4


@pytest.mark.parametrize("what", cases.REFUSED)
def test_refusals_say_why_and_are_on_the_page(what):
  message = cases.refusal(cases.REFUSED[what])
  assert message != "not refused" and len(message.split()) >= 7
  assert f"| {what} | {message} |" in PAGE.read_text()


def test_the_page_is_fresh():
  """Its cheap tables word for word, its solvers and grids by name, and nothing on it is wrong."""
  text = PAGE.read_text()
  for end in ((1.0, 0.0), (0.0, 1.0)):
    assert table(["given", *KINDS], cases.ends(*end)) in text
  assert all(f"| `{sampler.label}` |" in text for sampler in cases.SAMPLERS)
  assert {sampler.name for sampler in cases.SAMPLERS} == set(SOLVERS)
  assert all(f"| `{name}` | right to 1e-04 |" in text for name in GRIDS)
  assert all(word not in text for word in ("| off by", "| nan", "| not refused |"))
  lines = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
  figures = [float(cell) for line in lines for cell in line[2:5] if cell.strip()[:2] == "0."]
  assert len(figures) == 3 * len(cases.SAMPLERS) and np.max(figures) < 0.1
