"""Deterministic solvers reach the order that theory gives them, and docs/orders.md says so.

In float64, against an eighth-order integration of a mixture and the formula of a Gaussian.
"""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.proofs import ode_orders as orders
from benchmarks.proofs.closed_form import denoiser, flow_map
from benchmarks.proofs.ode_orders import DETERMINISTIC, NORMAL, interior_order, whole_order
from benchmarks.proofs.weak_orders import EXACT, STOCHASTIC
from t2i_jax.process import PROCESSES, convert

PAGE = Path(__file__).parents[2] / "docs" / "orders.md"
MADE = {name: make() for name, make in PROCESSES.items()}
TITLES = [f"{row.label} {row.kind} {row.process}" for row in DETERMINISTIC]
ROWS = pytest.mark.parametrize("row", DETERMINISTIC, ids=TITLES)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def cells(title):
  """The rows of the page's table whose header starts with this word, as lists of text."""
  lines = PAGE.read_text().splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith(title))
  table = []
  for line in lines[start + 2 :]:
    if not line.startswith("|"):
      return table
    table.append([cell.strip() for cell in line.strip("|").split("|")])
  return table


DETERMINISTIC_TABLE = "| solver | network |"


@ROWS
def test_interior_order_is_that_of_theory_and_of_the_page(row):
  measured = interior_order(row, MADE[row.process])
  assert abs(measured - row.theory) < 0.2
  line = cells(DETERMINISTIC_TABLE)[DETERMINISTIC.index(row)]
  assert line[0] == f"`{row.label}`" and int(line[3]) == row.theory
  assert abs(float(line[4]) - measured) < 0.011


STARTS = [row for row in DETERMINISTIC if row.start != row.theory]


@pytest.mark.parametrize("row", STARTS, ids=lambda row: row.label)
def test_order_with_its_own_start(row):
  assert abs(interior_order(row, MADE[row.process], exact_history=False) - row.start) < 0.2


def test_all_figures_of_the_page_agree_with_theory():
  for row, line in zip(DETERMINISTIC, cells(DETERMINISTIC_TABLE), strict=True):
    assert line[0] == f"`{row.label}`" and (int(line[3]), int(line[5])) == (row.theory, row.start)
    assert abs(float(line[4]) - row.theory) < 0.2 and abs(float(line[6]) - row.start) < 0.2
    assert int(line[9]) == row.solver().calls
  for row, line in zip(STOCHASTIC, cells("| solver | even in |"), strict=True):
    assert line[0] == f"`{row.label}`"
    for theory, measured, wanted in ((2, 3, row.mean), (4, 5, row.covariance)):
      if wanted == EXACT:
        assert line[theory] == line[measured] == "exact"
      else:
        assert int(line[theory]) == wanted and abs(float(line[measured]) - wanted) < 0.2


@pytest.mark.parametrize(
  "title", ["heun(frame='flow') x0 flow", "unipc(order=2, bh1=False) x0 flow"]
)
def test_the_whole_interval_is_as_the_page_says(title):
  row = DETERMINISTIC[TITLES.index(title)]
  line = cells(DETERMINISTIC_TABLE)[TITLES.index(title)]
  assert abs(float(line[7]) - whole_order(row, MADE["flow"])) < 0.011
  assert abs(float(line[8]) - whole_order(row, MADE["ddpm_linear"])) < 0.011


@pytest.mark.parametrize("name", [n for n in MADE if n != "flow"])
@pytest.mark.parametrize(
  "label", ["heun(frame='flow')", "dpmpp(order=2)", "unipc(order=3, bh1=False)"]
)
def test_the_order_is_that_of_every_process(label, name):
  row = next(row for row in DETERMINISTIC if row.label == label)
  assert abs(interior_order(row, MADE[name]) - row.theory) < 0.2


@pytest.mark.parametrize(
  "label",
  ["euler", "heun(frame='sigma')", "dpmpp(order=3, published=False)", "unipc(order=2, bh1=True)"],
)
def test_order_on_gaussian_data_against_its_formula(label):
  row = next(row for row in DETERMINISTIC if row.label == label)
  assert abs(interior_order(row, MADE["flow"], problem="gaussian") - row.theory) < 0.2


@pytest.mark.parametrize("kind", ["eps", "v", "velocity", "score"])
def test_the_order_is_that_of_every_prediction(kind):
  row = next(row for row in DETERMINISTIC if row.label == "dpmpp(order=2)")
  assert abs(interior_order(row._replace(kind=kind), MADE["vp"]) - 2) < 0.2


def test_the_integrator_agrees_with_the_formula(monkeypatch):
  """The reference itself, on data for which the flow is known."""
  velocity, flow = denoiser(NORMAL, "velocity"), MADE["flow"]
  field = jax.jit(lambda y, tau: velocity(y, flow.at(tau), None).value)
  monkeypatch.setattr(orders, "_slope", lambda: field)
  for name in ("flow", "vp", "edm"):
    times = MADE[name].at(np.array([1.0, 0.7, 0.2, 0.0]))
    x = orders.starts(orders.part(times, 0))
    np.testing.assert_allclose(orders.integrated(x, times), orders.mapped(x, times), atol=1e-10)


def test_the_field_is_the_derivative_of_the_flow():
  """dx/dt of the closed flow map is the closed velocity, for every process."""
  x = np.array([[0.3, -1.2]])
  for name, process in MADE.items():
    now = jax.tree.map(np.asarray, process.at(np.array(0.40003)))
    moved = jax.jacfwd(
      lambda t, p=process, now=now: flow_map(NORMAL, jax.numpy.asarray(x), now, p.at(t))
    )
    slope = moved(jax.numpy.float64(0.40003))
    wanted = convert(denoiser(NORMAL, "x0")(jax.numpy.asarray(x), now, None), "velocity", x, now)
    np.testing.assert_allclose(slope, wanted.value, rtol=1e-7, err_msg=name)


def test_the_page_says_how_it_was_made():
  text = PAGE.read_text()
  assert "python -m benchmarks.proofs.solver_orders" in text
  assert re.findall(r"nan|inf\b", text) == []
