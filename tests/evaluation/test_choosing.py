"""docs/choosing.md: complete, its tables are what the functions give, and those are right."""

import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.proofs import choosing
from benchmarks.proofs import choosing_guidance as guidance
from benchmarks.proofs import choosing_solvers as solvers
from benchmarks.proofs import choosing_training as training
from benchmarks.proofs.choosing_sheet import Panel, sheet
from benchmarks.proofs.closed_form import denoiser, gaussian, log_density, log_posterior
from t2i_jax.process import PROCESSES, TIMESTEP_DISTRIBUTIONS, WEIGHTINGS, Time
from t2i_jax.process.timesteps import shift
from t2i_jax.process.variational import learned_log_variance, log_bounds
from t2i_jax.sampling import GUIDANCE, SOLVERS

FOLDER = Path(__file__).parents[2] / "docs"
PAGE = (FOLDER / "choosing.md").read_text(encoding="utf-8")


def rows(text):
  """First cell of each line of a table -> the numbers after it."""
  lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
  number = re.compile(r"-?\d+\.?\d*")
  return {first: [float(v) for v in number.findall(" ".join(rest))] for first, *rest in lines}


def section(title):
  return PAGE.split(f"## {title}")[1].split("\n## ")[0]


def agree(made, title, within, only=None):
  """The page's table has these rows, to `within` (the last digit that is shown)."""
  shown, found = rows(section(title)), rows(made)
  assert only is not None or list(found)[1:] == list(shown)[1:]
  for name in only or list(found)[1:]:
    np.testing.assert_allclose(shown[name], found[name], rtol=1e-9, atol=1.01 * within)


@pytest.mark.parametrize("name", [*SOLVERS, *TIMESTEP_DISTRIBUTIONS, *WEIGHTINGS, *GUIDANCE])
def test_everything_that_can_be_chosen_is_on_the_page(name):
  titles = {
    "Solvers": SOLVERS, "Timestep distributions": TIMESTEP_DISTRIBUTIONS,
    "Weightings": WEIGHTINGS, "Guidance": GUIDANCE,
  }  # fmt: skip
  for title, registry in titles.items():
    parts = "".join(section(s) for s in re.findall(r"^## (.*)$", PAGE, re.M) if title in s)
    assert name not in registry or re.search(rf"`{name}[`( ]", parts), title


def test_pictures_are_there_and_no_others():
  shown = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
  assert sorted(shown) == sorted(p.name for p in FOLDER.glob("choosing*") if p.suffix != ".md")


# Solvers.


@pytest.mark.proof
def test_calls_of_the_page_are_measured_again():
  with jax.enable_x64(True):
    curves = solvers.ode_curves(("heun",))
  agree(choosing.calls_table(curves), "Solvers of the ODE", 1, ["`heun`"])
  # Heun at 255 calls and DOP853 to 1e-10 meet: each proves the other.
  assert curves[0].case.title == "flow, even t" and curves[0].errors[-1] < 3e-4


@pytest.mark.proof
def test_noise_of_the_page_is_measured_again():
  curves = solvers.sde_curves(("ddpm",), (8, 32))
  agree(choosing.noise_table(curves), "Solvers that add noise", 0.001, ["`ddpm`"])


@pytest.mark.parametrize("text, calls", [("heun", 7), ("edm", 6), ("pndm", 5), ("unipc", 4)])
def test_calls_are_counted_as_made(text, calls):
  """Four steps of the flow: Heun's last is Euler's, as is edm's first; PLMS asks twice at first."""
  ends = solvers.sampler(text)
  assert [ends(solvers.CASES[0], solvers.starts(3), 4)[1] for _ in range(2)] == [calls, calls]


@pytest.mark.parametrize("one, other", solvers.SAME.items())
def test_names_that_are_the_same_step_end_alike(one, other):
  ends, x = (solvers.sampler(one), solvers.sampler(other)), solvers.starts(16)
  for case in solvers.CASES:
    first, second = (end(case, x, 6)[0] for end in ends)
    np.testing.assert_allclose(first, second, atol=2e-5)


def test_the_data_are_centred_and_of_unit_covariance():
  data = solvers.DATA
  covariances = (data.basis * data.variances[:, None]) @ np.swapaxes(data.basis, 1, 2)
  second = covariances + data.means[:, :, None] * data.means[:, None]
  np.testing.assert_allclose(data.weights @ data.means, 0, atol=1e-12)
  np.testing.assert_allclose(np.einsum("k,kij->ij", data.weights, second), np.eye(2), atol=1e-12)


def test_sliced_distance_of_a_moved_gaussian():
  """Mass moved by d along x moves by |d cos angle| along a line: 2 d / pi in the mean."""
  n = 4001
  sliced = solvers.Sliced(gaussian([0, 0], 1.0), n)
  normal = stats.norm.ppf((np.arange(n) + 0.5) / n)
  sliced.along = np.stack([np.ones(32), np.zeros(32)])  # the points lie on a line
  assert sliced(np.stack([normal, 0 * normal], 1)) < 1e-3
  assert sliced(np.stack([normal + 0.3, 0 * normal], 1)) == pytest.approx(0.3, abs=1e-3)
  points = np.random.default_rng(0).normal(size=(n, 2))
  moved = guidance.sliced(points, points + np.array([0.3, 0]))
  assert moved == pytest.approx(2 * 0.3 / np.pi, rel=1e-3)


@pytest.mark.parametrize("n", [2, 100, 900])
def test_the_perfect_variance_is_that_of_a_gaussian(n):
  """x_s and x_t of Gaussian data are jointly Gaussian: their conditional variance is a formula."""
  with jax.enable_x64(True):
    process, of_x0 = PROCESSES["ddpm_linear"](), np.array([0.5, 0.1])
    now, to = (process.at(np.array(m / 1000)) for m in (n + 1, n))
    of_t, of_s = (time.alpha**2 * of_x0 + time.sigma**2 for time in (now, to))
    covariance = now.alpha / to.alpha * of_s
    exact = of_s - covariance**2 / of_t
    scalars = lambda time: Time(*map(jnp.asarray, time))
    network = solvers.with_variance(denoiser(gaussian([0.3, 0], of_x0)), process)
    aux = network(jnp.array([[0.4, -1.0]]), scalars(now), None).aux
    bounds = log_bounds(now, to, process.at(np.array([1.0, 2.0]) / 1000))
    found = jnp.exp(learned_log_variance(aux, *map(jnp.asarray, bounds)))
  np.testing.assert_allclose(found[0], exact, rtol=1e-5)


def test_calls_for_an_error_are_read_off_lines():
  curve = solvers.Curve("", solvers.CASES[0], [1, 10, 100], [1.0, 0.1, 0.01])
  assert solvers.calls_for(curve, 0.03) == pytest.approx(1 / 0.03)
  assert solvers.calls_for(curve, 2.0) == 1 and solvers.calls_for(curve, 0.001) == np.inf
  assert solvers.error_at(curve, 30) == pytest.approx(1 / 30)


# Timestep distributions and weightings.


def test_timestep_distributions_of_the_page_are_measured_again():
  with jax.enable_x64(True):
    agree(choosing.timesteps_table(), "Timestep distributions", 0.1)


def test_weightings_of_the_page_are_measured_again():
  with jax.enable_x64(True):
    agree(choosing.weights_table(), "Weightings", 0.1)


DISTRIBUTIONS = {
  "uniform": stats.uniform.pdf,
  "logit_normal": lambda t: stats.norm.pdf(np.log(t / (1 - t))) / (t * (1 - t)),
  "cosmap": lambda t: 2 / (np.pi * (1 - 2 * t + 2 * t**2)),
  "beta": stats.beta(1.0, 1.5).pdf,
  # ln s is normal, and s = t / (1 - t) of the flow.
  "edm": lambda t: stats.norm(-1.2, 1.2).pdf(np.log(t / (1 - t))) / (t * (1 - t)),
}


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_densities_are_those_of_the_distributions(factor):
  with jax.enable_x64(True):
    found = training.densities(factor, "t")
  for name, pdf in DISTRIBUTIONS.items():
    at, value = found[name]
    before = at / (factor - (factor - 1) * at)
    np.testing.assert_allclose(shift(before, factor), at)
    exact = pdf(before) * (before / at) ** 2 * factor  # d before / d at
    inner = (at > 0.02) & (at < 0.98)
    np.testing.assert_allclose(value[inner], exact[inner], rtol=2e-3, err_msg=name)


def test_emphasis_of_a_plain_eps_error_is_the_density_itself():
  """On the flow with logit-normal t log SNR is normal of deviation 2; x0 moves its mean to -4."""
  with jax.enable_x64(True):
    eps, x0 = (training.emphasis(name, training.SETTINGS[1]) for name in ("eps", "x0"))
  wide = np.abs(eps.at) < 5  # sigma is held beyond
  np.testing.assert_allclose(eps.value[wide], stats.norm(0, 2).pdf(eps.at[wide]), rtol=0.01)
  np.testing.assert_allclose(x0.quantile([0.1, 0.5, 0.9]), stats.norm(-4, 2).ppf([0.1, 0.5, 0.9]),
                             atol=0.02)  # fmt: skip


# Guidance.


@pytest.fixture(scope="module")
def methods():
  return {method.title: method for method in guidance.methods()}


@pytest.mark.parametrize("title", ["CFG, scale 5", "exactly tilted, scale 5"])
def test_guidance_of_the_page_is_measured_again(methods, title):
  found = guidance.figures(methods[title], guidance.samples(methods[title]))
  shown = rows(section("Guidance"))[title][-3:]
  np.testing.assert_allclose(shown, (found.agreement, found.spread, found.off), atol=0.011)


def test_cfg_is_not_the_tilted_distribution_on_the_page():
  shown = rows(section("Guidance"))
  for scale in (2, 5):
    off, floor = (shown[f"{name}, scale {scale}"][-1] for name in ("CFG", "exactly tilted"))
    assert off > 10 * floor


def test_every_panel_is_a_row_of_the_page(methods):
  assert list(methods) == list(rows(section("Guidance")))[1:]
  written = " ".join(method.config for method in methods.values())
  assert all(re.search(rf"\b{name}\b", written) for name in set(GUIDANCE) - {"pag", "slg"})


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_exact_samples_are_of_the_tilted_density(scale):
  """Their mean and p(A | x) against sums of the density over a grid."""
  points = guidance.exact_samples(scale, jax.random.key(3))
  axis = np.linspace(-5, 5, 301)
  grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), jnp.float32)
  own = log_posterior(guidance.FLAT, grid)[:, guidance.A]
  density = np.exp(np.asarray(log_density(guidance.FLAT, grid) + scale * own, np.float64))
  share = density / density.sum()
  np.testing.assert_allclose(points.mean(0), share @ np.asarray(grid), atol=0.05)
  agreement = np.exp(log_posterior(guidance.FLAT, jnp.asarray(points))[:, guidance.A]).mean()
  assert agreement == pytest.approx(share @ np.exp(np.asarray(own)), abs=0.01)


def test_the_plane_keeps_lengths_and_rows_have_mean_zero():
  x = np.array([[3.0, 4.0]]) @ guidance.PLANE
  assert np.linalg.norm(x) == pytest.approx(5) and x.sum() == pytest.approx(0)
  laid, flat = guidance.laid_out(guidance.FLAT), guidance.FLAT
  points, time = jnp.array([[0.3, 1.2], [-1.0, 0.4]]), PROCESSES["flow"]().at(jnp.asarray(0.4))
  inside = denoiser(laid)(points @ guidance.PLANE, time).value @ guidance.PLANE.T
  np.testing.assert_allclose(inside, denoiser(flat)(points, time).value, atol=1e-5)


def test_the_sheet_puts_points_where_they_belong():
  """The middle of the first panel's tick labels is 0: a heap of points lies in its colour there."""
  from benchmarks.proofs import choosing_sheet as s

  points = np.tile([[1.0, 2.0]], (50, 1))
  image = sheet([Panel("t", "c", points, np.zeros(50, int))], guidance.FLAT, "h", columns=1)
  pixels = np.asarray(image)[s.HEAD + s.TOP :, s.LEFT :][: s.SIDE, : s.SIDE].astype(float)
  blue = (pixels[..., 2] - pixels[..., 0] > 100).nonzero()
  x = blue[1].mean() / s.SIDE * 2 * s.RANGE - s.RANGE + s.CENTRE[0]
  y = s.RANGE - blue[0].mean() / s.SIDE * 2 * s.RANGE + s.CENTRE[1]
  assert (x, y) == pytest.approx((1.0, 2.0), abs=0.05)


def test_levels_hold_their_share_of_the_mass():
  from benchmarks.proofs.choosing_sheet import _levels

  axis = np.linspace(-5, 5, 401)
  square = np.add.outer(axis**2, axis**2)
  for share, level in zip((0.5, 0.9), _levels(-square / 2, (0.5, 0.9)), strict=True):
    assert -2 * level == pytest.approx(stats.chi2(2).ppf(share), rel=0.02)


def test_solvers_are_drawn_once():
  names = [text.split("(")[0] for text in itertools.chain(solvers.ODE, solvers.SDE, solvers.SAME)]
  assert set(names) == set(SOLVERS)
