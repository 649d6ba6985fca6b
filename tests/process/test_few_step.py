"""Few-step objectives on Gaussian data, where the ODE's flow map is known in closed form.

Data are N(MEAN, STD^2) in one dimension. Expectations over (x0, eps) are by Gauss-Hermite rules,
exact for the polynomials met here, so that no test waits for an average of draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.proofs import closed_form
from t2i_jax.process import KINDS, PROCESSES, Prediction, Time, convert, from_x0_eps, like
from t2i_jax.process.few_step import (
  bounded,
  consistency_distillation,
  consistency_training,
  guidance_distillation,
  heun_teacher,
  level_count,
  levels,
  meanflow,
  pseudo_huber,
  squared_distance,
)
from t2i_jax.process.timesteps import TIMESTEP_DISTRIBUTIONS
from t2i_jax.process.weightings import WEIGHTINGS
from t2i_jax.sampling import GUIDANCE, SOLVERS, Guided, guide, make_plan, sample
from t2i_jax.sampling.grids import at_times

MEAN, STD = 0.4, 0.6
DATA = closed_form.gaussian([MEAN], STD**2)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(4)
PAIRS = np.stack(np.meshgrid(NODES, NODES), -1).reshape(-1, 2)
MASS = np.outer(WEIGHTS, WEIGHTS).reshape(-1) / (2 * np.pi)  # [16]
X0, EPS = MEAN + STD * PAIRS[:, :1], PAIRS[:, 1:]  # [16, 1] each

ZERO, ONE = (PROCESSES["flow"]().at(np.float64(t)) for t in (0, 1))


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _row(time, i):
  return Time(*(jnp.asarray(f)[i] for f in time))


def _exact_map(x_t, time):
  return closed_form.flow_map(DATA, x_t, time, ZERO)


def _exact_step(x_t, now, to):
  return closed_form.flow_map(DATA, x_t, now, to)


@pytest.mark.parametrize("distance", [squared_distance, pseudo_huber(), pseudo_huber(0.1)])
@pytest.mark.parametrize("name", ["flow", "trigonometric", "edm", "ddpm_linear"])
def test_exact_map_is_a_fixed_point_of_distillation(name, distance):
  """A student scale x + shift after the exact map: loss and gradient vanish at (1, 0)."""
  process = PROCESSES[name]()
  now, to = process.at(jnp.linspace(0.3, 0.9, 16)), process.at(jnp.linspace(0.1, 0.89, 16))

  def loss(w):
    f = lambda x_t, time: w[0] * _exact_map(x_t, time) + w[1] * like(time.t, x_t)
    each = consistency_distillation(f, f, _exact_step, X0, EPS, now, to, distance)
    assert each.shape == (16,)
    return each.sum()

  at_best, gradient = jax.value_and_grad(loss)(jnp.array([1.0, 0.0]))
  np.testing.assert_allclose(at_best, 0, atol=1e-12)
  # Of order sqrt(loss): rounding of 1e-16 in x gives 1e-13 here.
  np.testing.assert_allclose(gradient, 0, atol=1e-10)
  assert loss(jnp.array([1.1, 0.1])) > 1e-5


def test_held_target_has_no_gradient():
  process = PROCESSES["flow"]()
  now, to = process.at(jnp.full(16, 0.5)), process.at(jnp.full(16, 0.4))
  student = lambda x_t, time: 0.5 * x_t
  scaled = lambda w: lambda x_t, time: w * x_t
  for loss in (
    lambda w: consistency_training(student, scaled(w), X0, EPS, now, to).sum(),
    lambda w: consistency_distillation(student, scaled(w), _exact_step, X0, EPS, now, to).sum(),
  ):
    assert jax.grad(loss)(2.0) == 0


def _affine(w):
  """A map per level, scale x + shift, that is the identity at the lowest level.   w [N - 1, 2]"""

  def f(x_t, index):
    row = jnp.concatenate([jnp.array([[1.0, 0.0]]), w])[index]
    return row[:, :1] * x_t + row[:, 1:]

  return f


def _train(process, times, loss_of, rounds):
  """The affine maps at the optimum of the loss, level after level (its fixed point).

  Each row of levels is a linear least squares problem given the level below; solved by Newton's
  step on the loss itself, which is quadratic in the student.
  """
  n = len(times.t)
  w = jnp.tile(jnp.array([[1.0, 0.0]]), (n - 1, 1))
  step = jax.jit(lambda w: w - _newton(lambda new: loss_of(new, w), w))
  for _ in range(rounds):
    w = step(w)
  return w


def _newton(loss, w):
  flat = w.reshape(-1)
  of = lambda v: loss(v.reshape(w.shape))
  return jnp.linalg.solve(jax.hessian(of)(flat), jax.grad(of)(flat)).reshape(w.shape)


def _trained_map(n, teacher):
  """The maps [n - 1, 2] that training (teacher None) or distillation finds on n levels."""
  process = PROCESSES["flow"]()
  times = process.at(np.linspace(0.1, 0.9, n))

  def loss_of(new, old):
    def of_level(i):
      now, to = (Time(*(jnp.full(16, jnp.asarray(f)[j]) for f in times)) for j in (i + 1, i))
      student = lambda x_t, time: _affine(new)(x_t, jnp.full(16, i + 1))
      target = lambda x_t, time: _affine(old)(x_t, jnp.full(16, i))
      if teacher is None:
        each = consistency_training(student, target, X0, EPS, now, to)
      else:
        each = consistency_distillation(student, target, teacher, X0, EPS, now, to)
      return jnp.sum(each * MASS)

    return jax.vmap(of_level)(jnp.arange(n - 1)).sum()

  return times, _train(process, times, loss_of, n)


def _error(times, w):
  """Largest difference to the exact map from the top level, over three standard deviations."""
  top, bottom = _row(times, -1), _row(times, 0)
  x = top.alpha * MEAN + np.linspace(-3, 3, 7)[:, None] * np.sqrt(
    top.alpha**2 * STD**2 + top.sigma**2
  )
  return float(jnp.abs(w[-1, 0] * x + w[-1, 1] - closed_form.flow_map(DATA, x, top, bottom)).max())


def test_distillation_finds_the_exact_map():
  """With the exact teacher to rounding, with Heun's as its second-order steps allow."""
  times, w = _trained_map(9, _exact_step)
  np.testing.assert_allclose(_error(times, w), 0, atol=1e-10)
  heun = heun_teacher(lambda x_t, time: closed_form.denoiser(DATA, "eps")(x_t, time))
  errors = [_error(*_trained_map(n, heun)) for n in (5, 9, 17)]
  slopes = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(slopes[-1], 2, atol=0.3)


def test_training_tends_to_the_exact_map():
  """Without a teacher the maps of n levels are off by 1 / n: the recursion of regressions.

  f_n+1's slope is that of f_n times cov(x_n+1, x_n) / var(x_n+1).
  """
  errors = []
  for n in (5, 9, 17, 33):
    times, w = _trained_map(n, None)
    a, s = np.asarray(times.alpha), np.asarray(times.sigma)
    cov = a[1:] * a[:-1] * STD**2 + s[1:] * s[:-1]
    slopes = np.cumprod(cov / (a[1:] ** 2 * STD**2 + s[1:] ** 2))
    np.testing.assert_allclose(w[:, 0], slopes, rtol=1e-9)
    errors.append(_error(times, w))
  slopes = np.log2(np.divide(errors[:-1], errors[1:]))
  np.testing.assert_allclose(slopes[-1], 1, atol=0.2)


@pytest.mark.parametrize("name", ["edm", "flow", "ddpm_linear"])
def test_a_consistency_function_is_the_identity_at_the_smallest_time(name):
  """In x_t / alpha, whatever the network says there; above, it is the network."""
  process, network = PROCESSES[name](), lambda x_t, time: 1e3 * x_t
  f, x_t = bounded(network, jnp.float64(0.01)), jnp.array([[0.3], [-2.0], [0.7]])
  time = process.at(jnp.array([0.01, 0.01, 1.0]))
  factors = jnp.append(1 / time.alpha[:2], 1e3)[:, None]
  np.testing.assert_allclose(f(x_t, time), factors * x_t, rtol=1e-12)
  gradient = jax.grad(lambda x: jnp.sum(f(x, time)))(x_t)  # finite also where alpha = 0
  np.testing.assert_allclose(gradient, factors, rtol=1e-12)


def test_levels_and_their_weights():
  process = PROCESSES["edm"]()
  times = levels(process, 11)
  s = times.sigma / times.alpha
  np.testing.assert_allclose(s[[0, -1]], [0.002, 80])
  np.testing.assert_allclose(np.diff(s ** (1 / 7)), np.diff(s ** (1 / 7))[0])
  # Draws of t by either law fall between two levels as those of ln s ~ N(-1.1, 2^2) do.
  draws = np.exp(-1.1 + 2 * np.random.default_rng(0).standard_normal(400_000))
  counts, _ = np.histogram(draws[(draws > s[0]) & (draws < s[-1])], s)
  for name, law in (
    ("edm", TIMESTEP_DISTRIBUTIONS["edm"](mean=-1.1, std=2.0)),
    ("flow", TIMESTEP_DISTRIBUTIONS["logit_normal"](mean=-1.1, std=2.0)),
  ):
    t = law(jnp.linspace(0, 1, 400_002)[1:-1])
    found, _ = np.histogram(t, levels(PROCESSES[name](), 11).t)
    np.testing.assert_allclose(found / found.sum(), counts / counts.sum(), atol=0.004)


def test_level_count_doubles():
  """10 to 1280 in 8 equal spans, + 1, and never above. [2310.14189 sec. 3.4]"""
  counts = [level_count(step, 800) for step in range(0, 900, 100)]
  assert counts == [11, 21, 41, 81, 161, 321, 641, 1281, 1281]
  assert level_count(99, 800) == 11


def test_pseudo_huber_limits():
  a, b = jnp.zeros((2, 4)), jnp.array([[1e-5, 0, 0, 0], [3e3, 4e3, 0, 0]])
  d = pseudo_huber(0.1)(a, b)
  np.testing.assert_allclose(d[0], 1e-10 / 0.2, rtol=1e-5)  # |e|^2 / 2c
  np.testing.assert_allclose(d[1], 5e3, rtol=1e-4)  # |e|
  gradient = jax.grad(lambda x: pseudo_huber()(a, x).sum())(a)
  np.testing.assert_array_equal(gradient, 0)  # finite where both agree
  np.testing.assert_allclose(pseudo_huber()(a, b)[1], 5e3 - 0.00054 * 2, rtol=1e-9)


def _average(x_t, t, r, process):
  """The exact average velocity, (x_t - x_r) / (t - r); at r = t its limit, the velocity.

  Written so that its derivative exists for r < t.
  """
  x_r = closed_form.flow_map(DATA, x_t, process.at(t), process.at(r))
  return (x_t - x_r) / like(t - r, x_t)


@pytest.mark.newest
@pytest.mark.parametrize("name", ["flow", "trigonometric", "vp", "edm"])
def test_meanflow_identity(name):
  """With the true velocity the exact average velocity has no loss. [2505.13447 eq. 6]"""
  process = PROCESSES[name]()
  t, r = jnp.linspace(0.3, 0.95, 16), jnp.linspace(0.05, 0.5, 16) / 2
  time = process.at(t)
  x_t = like(time.alpha, X0) * X0 + like(time.sigma, X0) * EPS
  velocity = closed_form.denoiser(DATA, "velocity")(x_t, time).value
  u = lambda x, t, r: _average(x, t, r, process)
  scale = jnp.mean(velocity**2)
  np.testing.assert_allclose(meanflow(u, X0, EPS, time, r, velocity) / scale, 0, atol=1e-18)
  wrong = lambda x, t, r: 1.01 * u(x, t, r)
  assert jnp.all(meanflow(wrong, X0, EPS, time, r, velocity) / scale > 1e-9)


def test_meanflow_trains_to_the_exact_average():
  """With the velocities of single rows the exact one is stationary in the mean, and is found.

  The family, at one pair (t, r), is the exact one + w_0 x_t + w_1; training sees its own du/dt.
  """
  process = PROCESSES["flow"]()
  t, r = jnp.full(16, 0.8), jnp.full(16, 0.2)
  time = process.at(t)

  def loss(w):
    u = lambda x, t, r: _average(x, t, r, process) + w[0] * x + w[1]
    return jnp.sum(MASS * meanflow(u, X0, EPS, time, r))

  gradient = jax.jit(jax.grad(loss))
  np.testing.assert_allclose(gradient(jnp.zeros(2)), 0, atol=1e-12)
  w = jnp.array([0.5, -0.3])
  for _ in range(400):
    w = w - 0.3 * gradient(w)
  np.testing.assert_allclose(w, 0, atol=1e-9)
  # At r = t it is flow matching: the plain squared error of the velocity.
  plain = lambda x, t, r: 0.7 * x
  x_t = 0.2 * X0 + 0.8 * EPS
  expected = (0.7 * x_t - (EPS - X0))[:, 0] ** 2
  np.testing.assert_allclose(meanflow(plain, X0, EPS, time, t), expected, rtol=1e-12)
  # The adaptive weight scales rows, and is held.
  weighted = meanflow(plain, X0, EPS, time, t, power=1.0)
  np.testing.assert_allclose(weighted, expected / (expected + 1e-3), rtol=1e-12)


def test_meanflow_samples_in_one_step():
  """The solver euler on the flow, its network given where each step ends."""
  process, noise = PROCESSES["flow"](), jnp.linspace(-2, 2, 9)[:, None]

  def denoise(x_t, time, end):
    rows = jnp.full(len(x_t), time.t)
    return Prediction(_average(x_t, rows, jnp.full(len(x_t), end), process), "velocity")

  for t in ([1.0, 0.0], [1.0, 0.5, 0.0]):
    plan = make_plan(SOLVERS["euler"](), process, at_times(process, t))
    ends = lambda i, cond, state, plan=plan: plan.to.t[i]
    x0, _ = sample(denoise, SOLVERS["euler"](), plan, noise, None, cond_at=ends)
    np.testing.assert_allclose(x0, MEAN + STD * noise, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_distilled_optimum_is_the_guided_field(kind):
  """A student that equals the guided teacher has no loss; a linear one finds it.

  The student sees the scale: its value is a + scale b with free a, b, one for each x_t.
  """
  classes = closed_form.mixture([1, 1], [[-1.0], [1.0]], 0.2)
  process = PROCESSES["ddpm_linear"]()
  time = process.at(jnp.full(8, 0.4))
  x_t = jnp.linspace(-2, 2, 8)[:, None]
  label = jnp.arange(8) % 2
  scales = jnp.array([1.0, 2.5, 4.0])
  weighting = WEIGHTINGS["min_snr"]()
  denoise = closed_form.denoiser(classes, "velocity" if kind == "eps" else "eps")

  def distil(value, scale):
    """The losses of a student's value, and the teacher's own as a value of that kind."""
    pair = Guided(label, jnp.full(8, -1))
    guided = guide(denoise, GUIDANCE["cfg"](), scale)(x_t, time, pair)
    each = guidance_distillation(Prediction(value, kind), guided, x_t, time, weighting)
    return each, convert(guided, kind, x_t, time).value

  @jax.jit
  def train():
    loss = lambda w: jax.vmap(lambda s: distil(w[0] + s * w[1], s)[0].sum())(scales).sum()
    w = jnp.zeros((2, 8, 1))
    w = w - _newton(loss, w)
    own = jax.vmap(lambda s: distil(x_t, s)[1])(scales)
    return w, jax.vmap(lambda value, s: distil(value, s)[0])(own, scales)

  w, at_teacher = train()
  np.testing.assert_allclose(at_teacher, 0, atol=1e-12)
  for s in scales:
    truth = closed_form.tilted(classes, s, kind)(x_t, time, label).value
    np.testing.assert_allclose(w[0] + s * w[1], truth, rtol=1e-4, atol=1e-4)


def test_guidance_distillation_weighs_as_the_denoising_loss():
  """An error of one unit in x0 costs w_x0, whatever the student predicts."""
  process = PROCESSES["flow"]()
  time = process.at(jnp.array([0.3, 0.7]))
  x_t, x0 = jnp.array([[0.4], [0.9]]), jnp.array([[0.1], [-0.5]])
  weighting = WEIGHTINGS["min_snr"]()
  for kind in KINDS:
    halves = lambda x0: (x0, (x_t - like(time.alpha, x0) * x0) / like(time.sigma, x0))
    student = Prediction(from_x0_eps(kind, *halves(x0 + 0.1), time), kind)
    teacher = Prediction(from_x0_eps("v", *halves(x0), time), "v")
    loss = guidance_distillation(student, teacher, x_t, time, weighting)
    np.testing.assert_allclose(loss, 0.01 * weighting(time), rtol=1e-4)
