"""The code of docs/extending.md, run: what it adds obeys the laws of what is here."""

import json
import re
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.proofs.closed_form import denoiser, flow_map, gaussian
from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.cli.main import VERBS, main
from t2i_jax.config import build
from t2i_jax.data.build import build as build_data
from t2i_jax.data.sources import SOURCES
from t2i_jax.models import BACKBONES
from t2i_jax.process import (
  KINDS,
  PROCESSES,
  TIMESTEP_DISTRIBUTIONS,
  WEIGHTINGS,
  Time,
  convert,
  from_x0_eps,
  to_x0_eps,
)
from t2i_jax.sampling import (
  GRIDS,
  GUIDANCE,
  SOLVERS,
  Guided,
  guide,
  make_plan,
  sample,
)
from t2i_jax.sampling.grids import at_times
from t2i_jax.systems.drawing import OBJECTIVES
from t2i_jax.towers import TOWERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
REGISTRIES = (
  SOLVERS,
  PROCESSES,
  WEIGHTINGS,
  TIMESTEP_DISTRIBUTIONS,
  GUIDANCE,
  BACKBONES,
  AUTOENCODERS,
)
REGISTRIES += (TOWERS, SOURCES, OBJECTIVES, VERBS)
DATA = gaussian([0.6, -0.3], [[0.5, 0.2], [0.2, 0.3]])
POWERS = (1.0, 1.5, 2.0, 4.0)


@pytest.fixture(autouse=True, scope="module")
def extended():
  """The page's entries in the registries, for this file only."""
  patches = [mock.patch.dict(registry) for registry in REGISTRIES]
  for patch in patches:
    patch.start()
  for block in BLOCKS:
    exec(compile(block, "docs/extending.md", "exec"), {"__name__": "extending"})
  yield
  for patch in patches:
    patch.stop()


def test_each_example_is_registered_by_one_line():
  lines = [re.findall(r"^([A-Z_]+)\[\"(\w+)\"\] = (.+)$", block, re.MULTILINE) for block in BLOCKS]
  assert [len(found) for found in lines] == [1] * len(REGISTRIES)
  assert {found[0][0] for found in lines} == {
    "SOLVERS", "PROCESSES", "WEIGHTINGS", "TIMESTEP_DISTRIBUTIONS", "GUIDANCE", "BACKBONES",
    "AUTOENCODERS", "TOWERS", "SOURCES", "OBJECTIVES", "VERBS",
  }  # fmt: skip
  assert all(len(line) <= 100 for block in BLOCKS for line in block.splitlines())


def test_an_entry_touches_at_most_three_files_of_the_package():
  """Of the page's table: those that exist hold the registry, the others are new."""
  rows = re.findall(r"^\| an? .*$", PAGE, re.MULTILINE)
  new = {"models/mixer.py", "autoencoders/fold.py", "towers/neighbours.py"}
  new |= {"data/from_gradients.py", "cli/norms.py"}
  assert len(rows) == 9
  for row in rows:
    files = set(re.findall(r"`(\w+/\w+\.py)`", row))
    missing = {file for file in files if not (ROOT / "t2i_jax" / file).is_file()}
    assert missing <= new
    assert len(files) <= 3


@pytest.fixture(scope="module")
def extended_run(tmp_path_factory, extended, one_device):
  """A run whose data, backbone, autoencoder, text encoder and objective are the page's."""
  folder = tmp_path_factory.mktemp("extended")
  build_data(SOURCES["gradients"](), folder / "data", workers=1, progress=False)
  changes = {
    "data.dir": folder / "data", "data.image_size": "(16, 16)", "autoencoder": "fold",
    "text.length": 16, "text.towers.text": "neighbours(width=16)", "model.channels": 12,
    "model.patch": 2, "train.objective": "x0_error(power=2.0)", "train.steps": 4,
    "train.batch": 8, "train.schedule": "constant", "eval.rows": 8, "sampling.steps": 2,
    "sampling.prompts": "('left to right',)", "sampling.batch": 8, "log.every": 1,
  }  # fmt: skip
  config = ROOT / "tests/extending_config.py"
  flags = [f"--config.{key}={value}" for key, value in changes.items()]
  assert main(["train", f"--config={config}", f"--workdir={folder}/run", *flags]) == 0
  return folder / "run"


def test_what_the_page_adds_trains_and_samples(extended_run, capsys):
  metrics = [json.loads(line) for line in (extended_run / "metrics.jsonl").read_text().splitlines()]
  assert all(np.isfinite(entry["loss"]) for entry in metrics)
  argv = [f"--workdir={extended_run}", "--prompt=left to right"]
  assert main(["sample", *argv]) == 0
  assert (extended_run / "drawn/0000_seed0.png").is_file()
  assert main(["norms", f"--workdir={extended_run}"]) == 0
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == [
    "backbone", "text", "vae",
  ]  # fmt: skip


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests/|test_)[\w/]+\.py)`", PAGE))))
def test_files_that_the_page_names_are_there(path):
  places = [ROOT / path] if "/" in path else list(ROOT.glob(f"tests/*/{path}"))
  assert any(place.is_file() for place in places)


def end_error(process, times, solver="adams_bashforth", kind="velocity"):
  """Largest distance from the exact end of the ODE, from three points."""
  x = jnp.asarray([[0.4, -1.1], [1.3, 0.2], [-0.7, 0.9]])
  first, last = (Time(*(jnp.asarray(f[i]) for f in times)) for i in (0, -1))
  solver = SOLVERS[solver]()
  plan = make_plan(solver, process, times)
  got, _ = jax.jit(lambda x, plan: sample(denoiser(DATA, kind), solver, plan, x, None))(x, plan)
  return float(jnp.max(jnp.abs(got - flow_map(DATA, x, first, last))))


# Of the solver.


@pytest.mark.parametrize("spacing", [1.0, 1.6])
def test_the_solver_is_of_second_order(spacing):
  """Over even and uneven steps, between t = 0.9 and 0.1 of the flow."""
  with jax.enable_x64(True):
    flow, counts = PROCESSES["flow"](), (16, 32, 64, 128)
    grids = [at_times(flow, 0.1 + 0.8 * np.linspace(1, 0, n + 1) ** spacing) for n in counts]
    errors = [end_error(flow, grid) for grid in grids]
  slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
  assert slope == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_takes_any_prediction(kind):
  flow = PROCESSES["flow"]()
  assert end_error(flow, at_times(flow, np.linspace(0.9, 0.1, 65)), kind=kind) < 2e-3


def test_a_step_of_the_solver_from_t_to_t_is_the_identity():
  """Also with a history, and followed by another step."""
  flow = PROCESSES["flow"]()
  solver = SOLVERS["adams_bashforth"]()
  x = jnp.asarray([[0.4, -1.1]])

  def end(t):
    plan = make_plan(solver, flow, flow.at(np.array(t)))
    return sample(denoiser(DATA), solver, plan, x, None)[0]

  np.testing.assert_allclose(end([0.7, 0.7]), x, atol=1e-6)
  np.testing.assert_allclose(end([0.9, 0.7, 0.7]), end([0.9, 0.7]), atol=1e-6)
  assert np.all(np.isfinite(end([0.9, 0.7, 0.7, 0.5])))


# Of the process.


@pytest.mark.parametrize("power", POWERS)
def test_the_process_obeys_the_laws(power):
  process = build(PROCESSES, f"superellipse(power={power})", "process.kind")
  ends = process.at(np.array([0.0, 1.0]))
  np.testing.assert_array_equal([ends.alpha, ends.sigma], [[1, 0], [0, 1]])
  assert process.zero_terminal_snr and np.all(np.isfinite(np.stack(ends)))
  t = np.linspace(0, 1, 401)
  time = process.at(t)
  np.testing.assert_allclose(time.alpha**power + time.sigma**power, 1, rtol=1e-14)
  assert np.all(np.diff(time.sigma / (time.alpha + time.sigma)) > 0)
  with np.errstate(divide="ignore"):
    np.testing.assert_allclose(process.time_of(time.sigma / time.alpha), t, atol=1e-14)


@pytest.mark.parametrize("power", POWERS)
def test_derivatives_of_the_process_agree_with_autodiff(power):
  with jax.enable_x64(True):
    process = PROCESSES["superellipse"](power)
    t = jnp.linspace(0.01, 0.99, 31)
    time = process.at(t)
    for field, slope in ((1, time.d_alpha), (2, time.d_sigma)):
      exact = jax.vmap(jax.grad(lambda t, field=field: process.at(t)[field]))(t)
      np.testing.assert_allclose(slope, exact, rtol=1e-10, atol=1e-12)


def test_the_process_meets_those_it_lies_between():
  t = np.linspace(0, 1, 51)
  circle, known = PROCESSES["superellipse"](2.0).at(t), PROCESSES["trigonometric"]().at(t)
  np.testing.assert_allclose(np.stack(circle), np.stack(known), atol=1e-14)
  line = PROCESSES["superellipse"](1.0).at(t)
  np.testing.assert_allclose(line.alpha + line.sigma, 1, rtol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_predictions_of_the_process_turn_into_each_other(t):
  with jax.enable_x64(True):
    time = Time(*map(jnp.asarray, PROCESSES["superellipse"]().at(np.array(t))))
    x0, eps = jnp.array([[0.3, -1.2]]), jnp.array([[0.8, 0.1]])
    x_t = time.alpha * x0 + time.sigma * eps
    for kind in ("v", "velocity"):  # those that have both ends
      value = from_x0_eps(kind, x0, eps, time)
      prediction = denoiser(DATA, kind)(x_t, time, None)._replace(value=value)
      for other in ("v", "velocity"):
        back = to_x0_eps(convert(prediction, other, x_t, time), x_t, time)
        np.testing.assert_allclose(back, (x0, eps), atol=1e-12)


@pytest.mark.parametrize("solver, order", [("heun", 2), ("dpmpp", 2), ("adams_bashforth", 2)])
def test_samplers_converge_on_the_process(solver, order):
  with jax.enable_x64(True):
    process = PROCESSES["superellipse"]()
    counts = (16, 32, 64)
    grids = [at_times(process, np.linspace(0.95, 0.1, n + 1)) for n in counts]
    errors = [end_error(process, grid, solver) for grid in grids]
    whole = [end_error(process, GRIDS["trailing"](process, n), solver) for n in counts]
  assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > order - 0.25
  assert whole[-1] < 0.01 and whole[-1] < 0.7 * whole[0]


# Of the rest.


def test_the_weighting_lies_between_x0_and_eps():
  time = PROCESSES["flow"]().at(jnp.linspace(0, 1, 101))
  weights = [WEIGHTINGS["snr_power"](power)(time) for power in (0.0, 0.5, 1.0)]
  np.testing.assert_allclose(weights[0], WEIGHTINGS["x0"]()(time))
  np.testing.assert_allclose(weights[2], WEIGHTINGS["eps"]()(time), rtol=1e-5)
  np.testing.assert_allclose(weights[1] ** 2, weights[2], rtol=1e-5)
  assert np.all(np.isfinite(weights))


@pytest.mark.parametrize("a, b", [(1.0, 1.5), (2.0, 0.7)])
def test_the_timestep_distribution_is_as_it_says(a, b):
  u = jax.random.uniform(jax.random.key(0), (20000,), minval=1e-7)
  t = np.asarray(TIMESTEP_DISTRIBUTIONS["kumaraswamy"](a, b)(u), np.float64)
  assert np.all((t >= 0) & (t <= 1))
  assert stats.kstest(t, lambda t: 1 - (1 - t**a) ** b).pvalue > 0.01
  if a == 1:  # where it is a beta distribution
    assert stats.kstest(t, stats.beta(a, b).cdf).pvalue > 0.01


@pytest.mark.parametrize("rows", [False, True])
def test_the_method_is_conditional_at_scale_1_and_ramps(rows):
  flow, method = PROCESSES["flow"](), GUIDANCE["ramped"]()
  x_t = jax.random.normal(jax.random.key(0), (3, 2))
  denoise = lambda x, time, cond: denoiser(DATA)(x + cond[:, None], time)
  cond = Guided(jnp.ones(3), jnp.zeros(3))
  scale = lambda value: jnp.full(3, value) if rows else value
  for t in (0.2, 0.5, 0.9):
    time = flow.at(jnp.full(3, t) if rows else jnp.asarray(t))
    own, null = (denoise(x_t, time, c).value for c in (cond.cond, cond.null))
    at = lambda value, time=time: guide(denoise, method, scale(value))(x_t, time, cond).value
    np.testing.assert_allclose(at(1.0), own, atol=1e-6)
    grown = (at(3.0) - own) / (own - null)
    np.testing.assert_allclose(grown, 2 * (1 - t) * 2, rtol=1e-3)
