"""Time grids: laws of each, published numbers, and that time reaches the network exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models import layers
from t2i_jax.process import PROCESSES
from t2i_jax.process.timesteps import dynamic_factor, shift
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, sample
from t2i_jax.sampling.grids import at_times, stretch
from t2i_jax.systems import make_system

MADE = {name: make() for name, make in PROCESSES.items()}
MADE["zero SNR"] = PROCESSES["ddpm_scaled_linear"](zero_terminal_snr=True, between="angle")
MADE["sd"] = PROCESSES["ddpm_scaled_linear"](published=True)
FLOW, SD, LINEAR = MADE["flow"], MADE["sd"], MADE["ddpm_linear"]
EVEN = [name for name in GRIDS if name != "times"]
STEPS = st.integers(1, 1000)


@pytest.mark.parametrize("grid", EVEN)
@pytest.mark.parametrize("name", MADE)
@given(steps=STEPS)
@settings(max_examples=8, deadline=None)
def test_every_grid_falls_from_noise_to_data(grid, name, steps):
  process = MADE[name]
  if grid == "leading" and process.steps is None:
    with pytest.raises(ConfigError, match="leading"):
      GRIDS[grid](process, steps)
    return
  if grid == "leading" and steps > 500:
    steps = steps // 2  # the offset of 1 would pass the last training step
  times = GRIDS[grid](process, steps)
  assert all(field.shape == (steps + 1,) and field.dtype == np.float64 for field in times)
  assert times.t[0] <= 1 and times.t[-1] == 0 and np.all(np.diff(times.t) < 0)
  assert (times.alpha[-1], times.sigma[-1]) == (1, 0)
  assert all(np.all(np.isfinite(field)) for field in times)
  exact = process.at(times.t)
  np.testing.assert_allclose(times.sigma, exact.sigma, rtol=1e-12)
  if grid in ("trailing", "linspace", "shifted", "beta"):
    assert times.t[0] == 1


# 5 steps of SD's processes, as the reference library's samplers visit them.
PUBLISHED = {
  "trailing": ({}, [999, 799, 599, 399, 199]),
  "leading": ({}, [801, 601, 401, 201, 1]),
  "linspace": ({}, [999, 749.25, 499.5, 249.75, 0]),
}


@pytest.mark.parametrize("grid", PUBLISHED)
def test_published_steps(grid):
  args, wanted = PUBLISHED[grid]
  assert GRIDS[grid](SD, 5, **args).model_time[:-1].tolist() == pytest.approx(wanted, abs=1e-9)


def test_published_sigmas_of_stable_diffusion():
  ratio = lambda times: (times.sigma / times.alpha)[:-1]
  leading = ratio(GRIDS["leading"](SD, 5))
  np.testing.assert_allclose(leading, [5.1344, 2.2929, 1.1682, 0.5741, 0.0413], atol=5e-5)
  np.testing.assert_allclose(ratio(GRIDS["linspace"](SD, 5))[0], 14.6146, atol=5e-5)


def test_published_shifts():
  """4 steps: SD3, FLUX.1-dev and Qwen-Image at 4096 tokens."""
  three = GRIDS["shifted"](FLOW, 4, factor=3.0, bottom=float(shift(0.001, 3.0)))
  np.testing.assert_allclose(three.t, [1, 0.8577, 0.6022, 0.0089, 0], atol=5e-5)
  flux = GRIDS["shifted"](FLOW, 4, factor=float(dynamic_factor(4096)))
  np.testing.assert_allclose(flux.t, [1, 0.9045, 0.7595, 0.5128, 0], atol=5e-5)
  mu = float(dynamic_factor(4096, 0.5, 0.9, 256, 8192))
  qwen = GRIDS["shifted"](FLOW, 4, factor=mu, terminal=0.02)
  np.testing.assert_allclose(qwen.t, [1, 0.7667, 0.4556, 0.02, 0], atol=5e-5)


def test_karras_is_its_formula_and_exponential_is_even_in_log_snr():
  s = lambda times: (times.sigma / times.alpha)[:-1]
  i = np.arange(12) / 11
  wanted = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  karras = GRIDS["karras"](MADE["edm"], 12, top=80.0, bottom=0.002)
  np.testing.assert_allclose(s(karras), wanted, rtol=1e-10)
  for name in ("ddpm_linear", "vp", "flow"):
    steps = np.diff(np.log(s(GRIDS["exponential"](MADE[name], 12))))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
  even = np.diff(np.log(s(GRIDS["exponential"](MADE["vp"], 12))))
  np.testing.assert_allclose(even, even[0], rtol=1e-9)


def test_beta_moments_are_quantiles():
  t = GRIDS["beta"](FLOW, 10).t
  np.testing.assert_allclose(stats.beta(0.6, 0.6).cdf(t), np.linspace(1, 0, 11), atol=1e-9)
  ends, middle = np.diff(t)[[0, -1]], np.diff(t)[5]
  assert np.all(ends > middle)  # both negative: shorter steps at the ends


def test_times_are_those_given():
  given = (1.0, 0.83, 0.5, 0.02)
  assert GRIDS["times"](FLOW, 3, t=given).t.tolist() == list(given)


QUARTERS = (999.0, 749.25, 499.5, 249.75, 0.0)
FOUR = (999.0, 937.0, 833.0, 625.0)
# Half and whole steps between which Heun's and Euler's grids fall, and every whole one.
MOMENTS = {
  "every step": tuple(np.arange(1000.0)[::-1]),
  "quarters": QUARTERS,
  "4 steps": FOUR,
  "every quarter": tuple(np.arange(0, 999.25, 0.25)[::-1]),
}


@pytest.mark.newest
@pytest.mark.parametrize("name", [name for name in MADE if MADE[name].steps])
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_every_step_of_ddpm_reaches_the_plan_exactly(name, moments, solver):
  n = np.array(MOMENTS[moments])
  times = at_times(MADE[name], np.append((n + 1) / 1000, 0.0))
  plan = make_plan(SOLVERS[solver](), MADE[name], times)
  for side, wanted in ((plan.now, n), (plan.to, np.append(n[1:], -1))):
    assert side.model_time.dtype == jnp.float32
    assert np.array_equal(np.asarray(side.model_time), wanted.astype(np.float32))


def test_linspace_of_any_step_count_is_rounded_once():
  for steps in range(1, 200, 7):
    n = np.linspace(999, 0, steps)
    plan = make_plan(SOLVERS["euler"](), LINEAR, GRIDS["linspace"](LINEAR, steps))
    np.testing.assert_array_max_ulp(np.asarray(plan.now.model_time)[:-1], np.float32(n)[:-1], 1)


@pytest.mark.parametrize("n", [FOUR, tuple(np.arange(1.0, 1001.0)[::-1]), QUARTERS[:-1]])
def test_every_thousandth_of_the_flow_reaches_the_plan_exactly(n):
  n = np.array(n)
  plan = make_plan(SOLVERS["euler"](), FLOW, at_times(FLOW, np.append(n / 1000, 0.0)))
  assert np.array_equal(np.asarray(plan.now.model_time), n.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_time_reaches_the_network_exactly_under_every_dtype_policy(dtype, tiny_config, monkeypatch):
  """What the model's embedding of time is given, in a sampler of the whole system."""
  seen, embed = [], layers.timestep_embedding

  def embedding(model_time, size, **options):
    assert model_time.dtype == jnp.float32
    jax.debug.callback(lambda t: seen.append(float(t[0])), model_time)
    return embed(model_time, size, **options)

  monkeypatch.setattr(layers, "timestep_embedding", embedding)
  choices = {"process.kind": "ddpm_linear", "process.prediction": "v", "text.tokenizer": "bytes"}
  config = tiny_config({"model.dtype": dtype, **choices})
  system = make_system(config, Tokenizer.bytes())
  params = system.init(jax.random.key(0))
  solver, n = SOLVERS["euler"](), np.array([*FOUR, 749.25, 499.5, 249.75, 17.0, 0.0])
  n = np.sort(n)[::-1]
  plan = make_plan(solver, system.process, at_times(system.process, np.append((n + 1) / 1000, 0)))
  x = jnp.zeros((1, *system.x_shape))
  denoise = lambda x, time, cond: system.denoise(params, x, time, cond)
  out, _ = sample(denoise, solver, plan, x, system.null(params))
  jax.effects_barrier()
  assert sorted(seen) == sorted(n.tolist()) and out.dtype == jnp.float32


@pytest.mark.parametrize("ask, words", [
  (lambda: GRIDS["trailing"](FLOW, 0), "sampling.steps = 0: must be at least 1"),
  (lambda: GRIDS["trailing"](LINEAR, 1001), "allows 1 to 1000"),
  (lambda: GRIDS["trailing"](LINEAR, 6, distilled=5), "steps = 6: at most 5 steps"),
  (lambda: GRIDS["trailing"](LINEAR, 6, distilled=30), "must divide 1000"),
  (lambda: GRIDS["leading"](FLOW, 4), "'leading' counts training steps"),
  (lambda: GRIDS["leading"](LINEAR, 1000), r"found 1\.001 \.\. 0 in 1001 times"),
  (lambda: at_times(FLOW, [0.5, 0.7, 0.0]), "must decrease"),
  (lambda: at_times(FLOW, [0.5, 0.0, 0.0]), "must decrease"),
  (lambda: at_times(FLOW, [1.1, 0.0]), r"within \[1, 0\]; found \[1\.1, 0\.0\]"),
  (lambda: at_times(FLOW, [0.3]), "must decrease"),
  (lambda: GRIDS["times"](FLOW, 4, t=(1.0, 0.0)), "has 2 times, and .* = 4 requires 5"),
  (lambda: stretch(np.array([1.0]), 0.02), "terminal = 0.02 requires at least 2 steps"),
])  # fmt: skip
def test_refusals(ask, words):
  with pytest.raises(ConfigError, match=words):
    ask()


@pytest.mark.parametrize(
  "tokens, terminal, published",
  [(4096, None, [1, 0.9045, 0.7595, 0.5128, 0])],  # FLUX.1-dev at 1024 px, mu = 1.15
)
def test_dynamic_is_flux_by_its_tokens(tokens, terminal, published):
  grid = GRIDS["dynamic"](PROCESSES["flow"](), 4, tokens=tokens, terminal=terminal)
  np.testing.assert_allclose(grid.t, published, atol=5e-5)


def test_dynamic_with_a_terminal_is_qwen():
  grid = GRIDS["dynamic"](
    PROCESSES["flow"](), 4, tokens=4096, max_shift=0.9, max_tokens=8192, terminal=0.02
  )  # mu = 0.69355
  np.testing.assert_allclose(grid.t, [1, 0.7667, 0.4556, 0.02, 0], atol=5e-5)
