"""What to choose, measured with exact denoisers: writes docs/choosing.md and its figures.

    python -m benchmarks.proofs.choosing [--to docs]

Solvers, timestep distributions, weightings and guidance, on data with closed forms. The page is
the same on every run, but for the last digits of another machine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from rich.progress import track

from benchmarks.pages import made_by, table, write
from benchmarks.proofs import choosing_guidance as guidance
from benchmarks.proofs import choosing_solvers as solvers
from benchmarks.proofs import choosing_training as training
from benchmarks.proofs.choosing_sheet import Panel, sheet
from t2i_jax.process import TIMESTEP_DISTRIBUTIONS, WEIGHTINGS

FEW, MANY = 8, 32  # network calls of the table of noise

PAGE = """# What to choose

Made by `python -m benchmarks.proofs.choosing`, which also draws the figures. The data are
two-dimensional Gaussian mixtures, whose perfect denoiser is a formula: what is wrong here is the
solver's or the method's own. A trained network adds its own error, and images have more
dimensions: take from this page how methods differ, and not how many steps an image needs.
Choices are written as in a config.

## Solvers of the ODE: error against network calls

![Error against network calls](choosing_solvers.svg)

The data are five narrow blades (deviations {wide:.2f} and {long:.2f}) of unit covariance. The error
is the root mean square distance between where a solver and where the ODE itself ends, from the same
{rows} noises; the ODE by an eighth-order integrator. Calls are counted as they are made: Heun's two
a step and one at the last. Network calls until the error stays below 0.01:

{calls}

- From about 10 calls on take a multistep solver of order 2 (`unipc`, `dpmpp`). Heun needs one and
  a half times to twice as many calls, Euler many times as many. Order 3 gains little or nothing,
  and below 8 calls all are close.
- The last step decides. It jumps to x0_hat from the last sigma of the grid, and no solver repairs
  that: on DDPM with trailing steps all lie within a factor of two of Euler, and with karras all
  stop at the error of the jump from the first training step.
- The shift by 3 spends steps in the noise, where these data have little to decide, and its last
  jump is longer: it costs accuracy here. It is made for large images, whose neighbouring pixels
  show the layout through much more noise (arXiv 2403.03206).
- `ddim` is `euler`. `edm` without churn is Heun on sigma / alpha and `heun` is Heun on the flow's
  t, which stands few karras steps where `edm` does not. `pndm` extrapolates what the network
  predicts, here x0.

## Solvers that add noise: distance from the data

![Distance from the data](choosing_noise.svg)

Fresh noise has no path to be held against, so that the distance is that of distributions: how far
mass has to move along a line (sliced Wasserstein-1), {draws} samples against exact quantiles. The
band is what {draws} exact samples have: from {low:.3f} to {high:.3f} in eight sets. Two solvers of
the ODE stand beside for comparison. Distances at {few} and at {many} network calls:

{noise}

- With an exact denoiser noise buys next to nothing: `unipc`, without any, is the first at the
  floor on three of the grids. On DDPM with trailing steps, whose last jump to a mean is long, some
  solvers with noise are a little ahead. What noise is for, errors that a network made on the way,
  is not in this figure.
- `ddpm` with its small variance is worse than `euler` at few steps, and with the large one better.
  `ddpm_learned` (here with the exactly right variance) is near the better of the two on every grid:
  learned variances pay at few steps.
- `dpmpp_sde` is better than `ddpm` from 8 calls on; its order 3 is unstable at 8 karras steps.
- `consistency` is for networks trained to jump along the ODE. Given a denoiser, which answers
  with a mean, it stops at an error that no number of steps removes.
- `ddpm`, `ddim(eta=1)` and `euler_ancestral` are the same step.

## Timestep distributions

![Densities of the timestep distributions](choosing_timesteps.svg)

Densities from the inverse distribution functions. `edm` is of its own process, shown at the flow's
t of the same sigma / alpha. Share of the draws by t, and the median:

{timesteps}

- `logit_normal` has almost no mass at both ends; `uniform` and `cosmap` have. A weight does not
  replace draws: large weights on few draws are a noisy estimate.
- `mode` at its default is a narrow peak at t = 1/2.
- The shift by s moves log SNR by -2 ln s and nothing else: every curve keeps its form on that axis.
  Distribution and shift are two choices; compare distributions at equal shift.

## Weightings: how much an error counts

![Weight of the x0 error](choosing_weights.svg)

As a weight of |x0_hat - x0|^2 on the flow. Weights are equal but for a factor where lines are
parallel. Beyond log SNR 6 they are held, since sigma is not let below 0.05 there.

![Weight times density](choosing_emphasis.svg)

Emphasis of training: the weight of the eps error times the density of log SNR, area 1. In these
units the variational bound is a flat line. log SNR below which 10, 50 and 90 percent of it lie:

{weights}

- `x0`, `v`, `truncated_snr` and `edm` weigh the noisy end, the layout of an image; `score` its
  details; `eps`, `min_snr`, `soft_min_snr`, `p2` and `sigmoid` the middle. Weights are not to be
  compared without the distribution: `edm` belongs to its own, which draws less noise than these.
- Plain errors of v and x0 on DDPM's uniform steps put most of their weight below log SNR -4.
  `min_snr` and its kin bring it back to where a plain eps error has it, or a little noisier, and
  differ little from each other.
- `sigma_sqrt` with logit-normal t is the flattest: the nearest to the bound.
- `velocity`, `sigma_sqrt` and `cosmap` weigh the flow's velocity, and are left out on DDPM.

## Guidance

![Guidance methods side by side](choosing_guidance.png)

Three classes that overlap; class A, at the top, is asked for, by Heun in {heun} steps of the flow
with the exact denoiser. Lines enclose half and nine tenths of the density that is meant,
p(x) p(A | x)^scale, which for autoguidance is the class itself. "off" is the sliced Wasserstein-1
distance from exact samples of it, "spread" the deviation in units of the class's own.

{guidance}

- **CFG does not sample the tilted distribution.** At every single t it follows the score of that
  density, but noise does not lead from one of these densities to the next. It overshoots, away
  from the other classes and past the bulk of its own, and leaves out what the exact tilt keeps.
- Classifier guidance with the exact classifier is CFG: the same field, but for the first step,
  where x_t is noise alone and no classifier can say anything.
- An interval keeps the agreement and halves the damage. `rescale` and `cfg_zero` shorten the push;
  `cfg_norm` keeps the length of the conditional velocity. `apg` takes away what is parallel to
  x0_hat, which in two dimensions is half of all directions: it hardly guides here, and this sheet
  does not judge it.
- Autoguidance, away from a denoiser of the same class with variances twice as large, concentrates
  within the class instead of pushing away from other classes. `pag` and `slg` make their worse
  denoiser out of the network itself; a formula has no layers, so that they are not drawn.
- AND finds where both are likely. NOT has no density to sample as soon as 1 / p(B | x) grows
  faster than p(x) falls (here at weight 0.5): samples run away. Keep its weight small.
"""


def calls_table(curves: list[solvers.Curve]) -> str:
  """Network calls of each solver until its error stays below 0.01."""
  shown = lambda calls, most: f"{calls:.0f}" if np.isfinite(calls) else f"> {most}"
  rows = []
  for name in dict.fromkeys(c.solver for c in curves):
    own = [c for c in curves if c.solver == name]
    rows.append([f"`{name}`", *(shown(solvers.calls_for(c, 0.01), c.calls[-1]) for c in own)])
  return table(["solver", *(case.title for case in solvers.CASES)], rows)


def noise_table(curves: list[solvers.Curve]) -> str:
  """Distances at FEW and at MANY network calls."""
  rows = []
  for name in dict.fromkeys(c.solver for c in curves):
    own = [c for c in curves if c.solver == name]
    cells = [" / ".join(f"{solvers.error_at(c, n):.3f}" for n in (FEW, MANY)) for c in own]
    rows.append([f"`{name}`", *cells])
  return table(["solver", *(case.title for case in solvers.CASES)], rows)


def timesteps_table() -> str:
  """Share of t below 0.1 and above 0.9, and the median, before and after the shift."""
  before, after = (training.densities(f, "t") for f in (1.0, training.SHIFT))
  rows = []
  for name in TIMESTEP_DISTRIBUTIONS:
    cells = []
    for density in (before[name], after[name]):
      low, high = density.below(0.1), 1 - density.below(0.9)
      cells += [f"{100 * low:.1f}%", f"{100 * high:.1f}%", f"{float(density.quantile(0.5)):.2f}"]
    rows.append([f"`{name}`", *cells])
  shifted = f"shift {training.SHIFT:g}: "
  heads = ["t < 0.1", "t > 0.9", "median"]
  return table(["distribution", *heads, *(shifted + head for head in heads)], rows)


def weights_table() -> str:
  """Quantiles of the emphasis of training."""
  rows = []
  for name in WEIGHTINGS:
    cells = []
    for setting in training.SETTINGS:
      if name in setting.without:
        cells.append("-")
      else:
        found = training.emphasis(name, setting).quantile([0.1, 0.5, 0.9])
        cells.append(", ".join(f"{round(value, 1) + 0.0:.1f}" for value in found))
    rows.append([f"`{name}`", *cells])
  return table(["weighting", *(setting.title for setting in training.SETTINGS)], rows)


def guidance_parts() -> tuple[list[Panel], str]:
  """The panels of the sheet, and the table."""
  panels, rows = [], []
  for method in track(guidance.methods(), "guidance"):
    points = guidance.samples(method)
    found = guidance.figures(method, points)
    caption = f"p(A | x) {found.agreement:.2f},  spread {found.spread:.2f}"
    meant = None if method.scales is None else method.meant
    panels.append(Panel(method.title, caption, points, guidance.said(points), meant))
    off = "-" if found.off is None else f"{found.off:.2f}"
    given = f"`{method.config}`" if method.run else "-"
    rows.append([method.title, given, f"{found.agreement:.3f}", f"{found.spread:.2f}", off])
  return panels, table(["method", "method at scale", "p(A &#124; x)", "spread", "off"], rows)


HEADING = (
  "Dots: samples, coloured by their most likely class.   Tints: the three classes.   "
  "Lines: half and nine tenths of what is meant, p(x) p(A | x)^scale"
)


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes choosing.md and choosing_*.svg and .png."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
  parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the page")
  folder = parser.parse_args(arguments).to
  folder.mkdir(parents=True, exist_ok=True)
  with jax.enable_x64(True):  # the errors of the ODE's solvers reach 1e-4, the densities the ends
    ode = solvers.ode_curves()
    figures = {
      "solvers": solvers.figure(ode),
      "timesteps": training.timesteps_figure(),
      "weights": training.weights_picture(),
      "emphasis": training.emphasis_picture(),
    }
    timesteps, weights = timesteps_table(), weights_table()
  floor = solvers.exact_floor(solvers.Sliced(solvers.DATA, solvers.DRAWS), solvers.DRAWS)
  sde = solvers.sde_curves()
  figures["noise"] = solvers.figure(sde, floor)
  for name, figure in figures.items():
    (folder / f"choosing_{name}.svg").write_text(figure, encoding="utf-8")
  panels, guidance_table = guidance_parts()
  image = sheet(panels, guidance.FLAT, HEADING)
  image.quantize(256).save(folder / "choosing_guidance.png", optimize=True)
  wide, long = np.sqrt(np.sort(solvers.DATA.variances[0]))
  page = PAGE.format(
    wide=wide,
    long=long,
    rows=solvers.ROWS,
    calls=calls_table(ode),
    draws=solvers.DRAWS,
    low=floor[0],
    high=floor[1],
    few=FEW,
    many=MANY,
    noise=noise_table(sde),
    timesteps=timesteps,
    weights=weights,
    heun=guidance.STEPS,
    guidance=guidance_table,
  )
  line = made_by("python -m benchmarks.proofs.choosing", "benchmarks/proofs/choosing.py")
  write(folder / "choosing.md", page, line)


if __name__ == "__main__":
  main()
