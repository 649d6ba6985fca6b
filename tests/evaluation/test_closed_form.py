"""The closed forms against scipy, autodiff and plain averages: what all other proofs rest on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.proofs import closed_form as known
from t2i_jax.errors import ConfigError
from t2i_jax.process import KINDS, PROCESSES, convert, like

MADE = {name: make() for name, make in PROCESSES.items()}
RNG = np.random.default_rng(0)
ROOTS = RNG.normal(size=(3, 2, 2))
FULL = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.1 * np.eye(2)
MEANS = RNG.normal(size=(3, 2))
DATA = {
  "full": known.mixture([1, 2, 3], MEANS, FULL, classes=[0, 1, 1]),
  "a coordinate": known.mixture([1, 2, 3], MEANS, [[0.1, 0.4], [0.2, 0.2], [0.3, 0.9]], [0, 1, 1]),
}
X = RNG.normal(size=(5, 2))
LABEL = jnp.array([0, 1, 1, 0, -1])
ALL = pytest.mark.parametrize("data", DATA.values(), ids=list(DATA))


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@ALL
@pytest.mark.parametrize("name", MADE)
def test_every_field_is_the_gradient_of_its_density(data, name):
  x, time = jnp.asarray(X), MADE[name].at(jnp.linspace(0.2, 0.9, 5))
  slope = lambda density: jax.grad(lambda x: jnp.sum(density(x)))(x)
  score = lambda label=None: known.denoiser(data, "score")(x, time, label).value
  agree = lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-12)
  agree(score(), slope(lambda x: known.log_density(data, x, time)))
  agree(score(LABEL), slope(lambda x: known.log_density(data, x, time, LABEL)))
  one = jnp.abs(LABEL)
  own = lambda x: known.log_posterior(data, x, time)[jnp.arange(5), one]
  agree(known.posterior_gradient(data, x, time, one), slope(own))
  tilted = known.tilted(data, 3.0, "score")(x, time, one).value
  agree(tilted, slope(lambda x: known.tilted_log_density(data, x, one, 3.0, time)))


@pytest.mark.newest
@ALL
@pytest.mark.parametrize("name", MADE)
def test_every_kind_is_the_same_prediction(data, name):
  x, time = jnp.asarray(X), MADE[name].at(jnp.linspace(0.2, 0.9, 5))
  for kind in KINDS:
    got = convert(known.denoiser(data, kind)(x, time, LABEL), "x0", x, time)
    np.testing.assert_allclose(got.value, known.denoiser(data)(x, time, LABEL).value, rtol=1e-7)
    guided = convert(known.tilted(data, 2.0, kind)(x, time, jnp.abs(LABEL)), "x0", x, time)
    np.testing.assert_allclose(
      guided.value, known.tilted(data, 2.0)(x, time, jnp.abs(LABEL)).value, rtol=1e-7
    )


def test_densities_and_posteriors_are_those_of_scipy():
  weights = np.array([1, 2, 3]) / 6
  each = np.stack(
    [stats.multivariate_normal(m, c).pdf(X) for m, c in zip(MEANS, FULL, strict=True)]
  )
  data, x = DATA["full"], jnp.asarray(X)
  np.testing.assert_allclose(known.log_density(data, x), np.log(weights @ each), rtol=1e-10)
  second = np.log(weights[1:] @ each[1:] / weights[1:].sum())
  np.testing.assert_allclose(known.log_density(data, x, None, jnp.ones(5)), second, rtol=1e-10)
  joint = weights[:, None] * each
  wanted = np.stack([joint[0], joint[1] + joint[2]], -1) / joint.sum(0)[:, None]
  np.testing.assert_allclose(np.exp(known.log_posterior(data, x)), wanted, rtol=1e-10)


def test_the_denoiser_is_the_average_of_what_could_have_been():
  """E[x0 | x_t] by weighing a million samples of x0 with p(x_t | x0)."""
  data, time = DATA["full"], MADE["flow"].at(np.array(0.5))
  x0, label = known.draw(data, jax.random.key(0), 1_000_000)
  for row in X[:2]:
    weight = jnp.exp(-jnp.sum(((row - 0.5 * x0) / 0.5) ** 2, -1) / 2)
    mean = weight @ x0 / weight.sum()
    got = known.denoiser(data)(jnp.asarray(row[None]), jax.tree.map(jnp.asarray, time), None).value[
      0
    ]
    np.testing.assert_allclose(got, mean, atol=0.01)
    share = weight @ (label == 1) / weight.sum()
    wanted = np.exp(known.log_posterior(data, jnp.asarray(row[None]), time))[0, 1]
    np.testing.assert_allclose(share, wanted, atol=0.01)


def test_samples_have_the_moments_of_the_data():
  x0, label = known.draw(DATA["full"], jax.random.key(1), 200_000)
  own = np.asarray(x0)[np.asarray(label) == 0]
  np.testing.assert_allclose(own.mean(0), MEANS[0], atol=0.03)
  np.testing.assert_allclose(np.cov(own.T), FULL[0], atol=0.06)
  np.testing.assert_allclose(np.mean(label == 0), 1 / 6, atol=0.01)


@pytest.mark.parametrize("name", MADE)
def test_the_flow_map_keeps_marginals_and_composes(name):
  """It takes N(m_t, C_t) to N(m_s, C_s), and t to u to s is t to s."""
  data, at = known.gaussian([0.3, -1.0], FULL[0]), MADE[name].at
  times = [jax.tree.map(np.asarray, at(np.array(t))) for t in (1.0, 0.45, 0.0)]
  x = jnp.asarray(X)
  through = known.flow_map(data, known.flow_map(data, x, *times[:2]), *times[1:])
  np.testing.assert_allclose(through, known.flow_map(data, x, times[0], times[2]), rtol=1e-9)
  # A density moves with the map: log p_s(map x) = log p_t(x) - log |det|.
  jacobian = jax.jacfwd(lambda x: known.flow_map(data, x[None], *times[:2])[0])(x[0])
  before = known.log_density(data, x[:1], times[0])
  after = known.log_density(data, known.flow_map(data, x[:1], *times[:2]), times[1])
  np.testing.assert_allclose(after, before - jnp.linalg.slogdet(jacobian)[1], rtol=1e-9)


def test_images_are_flattened_and_scalars_broadcast():
  data = known.gaussian(np.zeros(12), 0.5)
  x = jnp.asarray(RNG.normal(size=(3, 2, 2, 3)))
  time = MADE["vp"].at(jnp.full(3, 0.4))
  one = jax.tree.map(lambda f: f[0], time)
  got = known.denoiser(data, "v")(x, time, None)
  np.testing.assert_allclose(got.value, known.denoiser(data, "v")(x, one, None).value)
  assert got.value.shape == x.shape and known.log_density(data, x, time).shape == (3,)
  gain = time.alpha * 0.5 / (time.alpha**2 * 0.5 + time.sigma**2)
  np.testing.assert_allclose(known.denoiser(data)(x, time, None).value, like(gain, x) * x)


def test_prior_density():
  for name in ("flow", "edm"):
    wanted = stats.norm(0, MADE[name].prior_std).logpdf(X).sum(-1)
    np.testing.assert_allclose(known.prior_log_density(MADE[name], jnp.asarray(X)), wanted)


def test_refusals():
  with pytest.raises(ConfigError, match="the map is closed for one"):
    known.flow_map(DATA["full"], jnp.asarray(X), known.data_time(), known.data_time())
  with pytest.raises(ConfigError, match=r"weights \(2,\)"):
    known.mixture([1, 1], MEANS, 0.1)
