"""What the solvers are worth, measured: writes docs/orders.md and docs/cases.md.

    python -m benchmarks.proofs.solver_orders [--to docs]

The orders of convergence against exact answers (`ode_orders`, `weak_orders`), and what becomes of
the cases at the ends (`solver_cases`). The pages are the same on every run.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.progress import track

from benchmarks.pages import made_by, table, write
from benchmarks.proofs.ode_orders import (
  COUNTS,
  DDPM_COUNTS,
  DETERMINISTIC,
  ENDS,
  START_COUNTS,
  interior_order,
  whole_order,
)
from benchmarks.proofs.solver_cases import cases_page
from benchmarks.proofs.weak_orders import (
  EXACT,
  STOCHASTIC,
  WEAK_COUNTS,
  weak_orders,
  weak_whole_order,
)
from t2i_jax.process import PROCESSES

COMMAND = "python -m benchmarks.proofs.solver_orders"

PAGE = """# The orders of the solvers

Made by `python -m benchmarks.proofs.solver_orders`, in float64, with exact denoisers.

An order p says that twice the steps divide the error by 2^p. It is read off as the slope of log
error against log steps over four step counts. Theory and measurement agree within 0.2; a test
measures again.

## Deterministic solvers

The error is the distance from the exact answer of the probability-flow ODE of a two-dimensional
mixture of three Gaussians.

- **Interior**: from sigma / alpha = {high:g} to {low:g} in {counts} steps that are even in the
  solver's own variable. A multistep solver is given its history exactly, at moments before the
  interval, so that nothing but the method itself is measured; its fall to lower orders over the
  last steps is off.
- **Own start**: the same interval in {starts} steps, but the solver starts as published,
  with what history it has. One step of order q at the start costs an error of order q + 1, once:
  DPM-Solver++ of order 3 starts with Euler's step and is of order 2, UniPC of order 3 (which has
  order 4) falls to 3.
- **Whole**: as published, over the trailing grid from t = 1 to t = 0, with {counts} steps
  of the flow and {ddpm} of DDPM. The step that ends at sigma = 0 is of first order in
  every solver but `pndm`: it jumps to x0_hat and is wrong by the square of the sigma it starts
  from. On the flow that sigma is 1 / steps, and order 2 is the most that can be had; on DDPM sigma
  goes like the root of t there, so that the end itself is of order 1. `pndm` goes on extrapolating,
  which pays where its outputs are smooth in t (velocity of the flow) and does harm where they go
  like that root (eps of DDPM). The slopes of these columns are those of these step counts, not
  limits: where errors of opposite sign or of different order are of one size, they are no order.

{deterministic}

What is less than its name says, and why:

- `dpmpp(order=3)` is of order 2. The published code takes the second divided difference for the
  second derivative, which is twice that. `published=False` has the factor, and order 3.
- `unipc(order=p)` has order p + 1: the corrector adds one [2302.04867 sec. 3].
- `pndm` puts Adams-Bashforth weights, which belong to even steps in t, on outputs that are
  integrated against another variable. Where the two are the same (velocity of the flow) it is of
  order 4, started by PLMS of order 3. With eps on a curved process it is of order 2, as its paper
  says [2202.09778 sec. 3]. With v it is of order 1: v turns with t, so that the v of an earlier
  step is no estimate of this one's to first order. The published sampler does the same.

## Stochastic solvers

Weak orders: of the errors of mean and covariance of the result, for Gaussian data of full
covariance. Steps are then affine, and both are computed exactly from the numbers of the steps, with
no sampling. In the interior, {weak} steps; `exact` is an error below 1e-12 at every
step count. The mean starts off by one from the exact one, since on the flow every solver keeps an
exact mean; those of the reverse process keep a wrong one exactly as the SDE does, because
E[x0 | x_t] is constant along it on average.

{stochastic}

- `dpmpp_sde` of order 2 reaches 2 for a linear denoiser, as here; its multistep estimate of the
  slope of x0_hat holds the noise of the step before in place of that of the step taken, and the two
  have one covariance. Order 3 reaches no more, published or not.
- `edm` with churn: as much noise is added as is then removed by Heun's rule, hence order 2 for the
  covariance. How much is added in all depends on the number of steps to first order, and so does
  what is left of a wrong mean.
- `consistency` is exact with an exact consistency function. With a denoiser in its place its
  results have too little variance at any number of steps.
- `ddpm_learned` is measured with a learned variance half-way between the two ends, in logarithms.
"""


def figure(order: float) -> str:
  return "exact" if order == EXACT else f"{order:.2f}"


def deterministic_rows() -> Iterator[list[str]]:
  flow, ddpm = PROCESSES["flow"](), PROCESSES["ddpm_linear"]()
  for row in DETERMINISTIC:
    interior = PROCESSES[row.process]()
    # eps has no x0 where the flow starts.
    no_start = "eps" in (row.kind, row.args.get("kind"))
    whole = "refused" if no_start else figure(whole_order(row, flow))
    yield [
      f"`{row.label}`",
      f"{row.kind}, {row.process}",
      row.spacing,
      str(row.theory),
      figure(interior_order(row, interior)),
      str(row.start),
      figure(interior_order(row, interior, exact_history=False)),
      whole,
      figure(whole_order(row, ddpm)),
      str(row.solver().calls),
    ]


def stochastic_rows() -> Iterator[list[str]]:
  flow, ddpm = PROCESSES["flow"](), PROCESSES["ddpm_linear"]()
  for row in STOCHASTIC:
    mean, covariance = weak_orders(row, flow)
    exact = row.covariance == EXACT
    yield [
      f"`{row.label}`",
      row.spacing,
      figure(row.mean) if row.mean == EXACT else str(row.mean),
      figure(mean),
      "exact" if exact else str(row.covariance),
      figure(covariance),
      "exact" if exact else figure(weak_whole_order(row, flow)),
      "exact" if exact else figure(weak_whole_order(row, ddpm)),
      str(row.solver().calls),
    ]


def orders_page() -> str:
  counts = lambda numbers: ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
  head = ["solver", "network", "even in", "theory", "interior", "theory, own start", "own start"]
  head += ["whole, flow", "whole, DDPM", "calls a step"]
  rows = list(track(deterministic_rows(), "orders", len(DETERMINISTIC), transient=True))
  weak_head = ["solver", "even in", "theory, mean", "mean", "theory, covariance", "covariance"]
  weak_head += ["covariance, whole flow", "covariance, whole DDPM", "calls a step"]
  weak_rows = list(track(stochastic_rows(), "weak orders", len(STOCHASTIC), transient=True))
  return PAGE.format(
    high=ENDS[0],
    low=ENDS[1],
    counts=counts(COUNTS),
    starts=counts(START_COUNTS),
    ddpm=counts(DDPM_COUNTS),
    weak=counts(WEAK_COUNTS),
    deterministic=table(head, rows),
    stochastic=table(weak_head, weak_rows),
  )


def main() -> None:
  parser = argparse.ArgumentParser(description="Writes orders.md and cases.md.")
  parser.add_argument("--to", type=Path, default=Path("docs"), help="folder to write to")
  to = parser.parse_args().to
  line = made_by(COMMAND, "benchmarks/proofs/solver_orders.py")
  with jax.enable_x64(True):
    write(to / "orders.md", orders_page(), line)
  write(to / "cases.md", cases_page(), line)
  print(f"wrote {to / 'orders.md'} and {to / 'cases.md'}")


if __name__ == "__main__":
  main()
