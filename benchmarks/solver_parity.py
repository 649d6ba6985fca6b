"""Our solvers, grids and tables beside the schedulers of diffusers, step by step: docs/parity.md.

python -m benchmarks.solver_parity --to docs

Both run the same network, which is nonlinear in x and t and is written once for torch and jax, from
the same start with the same noise, and are compared after every step. tests/parity runs the same
rows. Needs torch and diffusers, which the package itself does not.
"""

import argparse
import contextlib
import functools
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.pages import made_by, table, write
from benchmarks.parity_rows import ROWS, STEPS, TABLES, Case, Grid, Row
from t2i_jax.config import build
from t2i_jax.process import Prediction, Process, Time, like
from t2i_jax.process.preconditioning import coefficients
from t2i_jax.sampling import GRIDS, SOLVERS, make_plan, sample
from t2i_jax.sampling.grids import at_times

LONGEST = max(STEPS)
BOUND = 1e-5  # of max|x| at the step
SHAPE = (2, 3, 4, 4)
NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "velocity": "flow_prediction"}
# These keep x / alpha; all others keep x.
RATIO_COORDINATES = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete")


def network(xp: Any, x: Any, n: Any) -> Any:
  """The same function under torch and jax.numpy, nonlinear in x and in the time n it is fed."""
  near = xp.roll(x, 1, -1)
  return 0.6 * xp.tanh(1.2 * x) + 0.2 * xp.cos(n / 150) * xp.sin(near / (1 + abs(near)))


def variance(xp: Any, x: Any, n: Any) -> Any:
  """The raw learned variance, in [-1, 1]."""
  return xp.tanh(x - 0.3) * xp.cos(n / 300)


@functools.cache
def draws() -> tuple[np.ndarray, np.ndarray]:
  """The start and the noise of every step."""
  random = np.random.default_rng(0)
  normal = lambda *shape: random.normal(size=shape).astype(np.float32)
  return normal(*SHAPE), normal(LONGEST, *SHAPE)


class Wide:
  """A module whose float32 is float64."""

  def __init__(self, module: Any):
    self._module = module

  def __getattr__(self, name: str) -> Any:
    return getattr(self._module, "float64" if name == "float32" else name)


@contextlib.contextmanager
def precision(scheduler: Any, module: Any, double: bool) -> Iterator[torch.dtype]:
  """The scheduler as it is, or with every operation after its float32 tables in float64."""
  if not double:
    yield torch.float32
    return
  for name, value in list(vars(scheduler).items()):
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
      setattr(scheduler, name, value.double())
  module.torch, module.np = Wide(torch), Wide(np)
  torch.set_default_dtype(torch.float64)
  try:
    yield torch.float64
  finally:
    module.torch, module.np = torch, np
    torch.set_default_dtype(torch.float32)


def calls_of(row: Row, steps: int) -> list[int]:
  """Network calls of each step of the scheduler."""
  calls = [1] * steps
  if "Heun" in row.scheduler:
    calls[:-1] = [2] * (steps - 1)
  if row.scheduler == "PNDM" and not row.config["skip_prk_steps"]:
    calls[:3] = [4] * 3
  elif row.scheduler == "PNDM" and steps > 1:
    calls[0] = 2
  return calls


def reference(row: Row, case: Case, times: Time, double: bool) -> tuple[np.ndarray, np.ndarray]:
  """The scheduler's trajectory in x, [S + 1, ...], and the times its network was fed, [S]."""
  cls = getattr(diffusers, f"{row.scheduler}Scheduler")
  module: Any = importlib.import_module(cls.__module__)
  config = TABLES[case.table].config | row.config | case.grid.config
  if not row.scheduler.startswith("FlowMatch"):
    config = config | {"prediction_type": NAMES[case.kind]}
  if row.scheduler in ("DDPM", "DDIM"):
    config = config | {"clip_sample": False}
  scheduler, (z, noises) = cls(**config), draws()
  drawn = module.randn_tensor if hasattr(module, "randn_tensor") else None
  more = {} if row.eta is None else {"eta": row.eta}
  with precision(scheduler, module, double) as dtype:
    scheduler.set_timesteps(**case.grid.given(case.steps))
    if hasattr(scheduler, "set_begin_index"):
      scheduler.set_begin_index(0)
    x = torch.from_numpy(z).to(dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
    trajectory, fed, moments = [x], [], iter(scheduler.timesteps)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    for i, calls in enumerate(calls_of(row, case.steps)):
      silent = i == case.steps - 1 and not row.last_noise
      noise = torch.from_numpy(noises[i] * (0 if silent else 1)).to(dtype)
      module.randn_tensor = lambda *args, noise=noise, **kwargs: noise
      for call in range(calls):
        t = next(moments)
        n = torch.as_tensor(times.model_time[i + (call > 0)]) if row.exact_time else t
        given, n = scale(x, t), n.to(dtype)
        output = network(torch, given, n)
        if row.learned:
          output = torch.cat([output, variance(torch, given, n)], dim=1)
        if call == 0:
          fed.append(float(n))
        x = scheduler.step(output, t, x, **more, return_dict=False)[0]
      trajectory.append(x)
  module.randn_tensor = drawn
  alpha = times.alpha[:, None, None, None, None] if row.scheduler in RATIO_COORDINATES else 1.0
  return np.stack([x.double().numpy() for x in trajectory]) * alpha, np.array(fed)


@functools.cache
def compiled(solver: str, kind: str, learned: bool, preconditioned: bool) -> Callable[..., Any]:
  """(plan of LONGEST steps, start, noises) -> x after each, one program for all step counts."""

  def denoise(x, time, cond):
    if preconditioned:
      c_in, c_skip, c_out = (like(c, x) for c in coefficients(time))
      x0_hat = c_skip * x + c_out * network(jnp, c_in * x, time.model_time)
      return Prediction(x0_hat, "x0")
    aux = variance(jnp, x, time.model_time) if learned else None
    return Prediction(network(jnp, x, time.model_time), kind, aux)

  def run(plan, x, noises):
    keep = lambda i, x, prediction, state: (x, state.at[i].set(x))
    after = jnp.zeros((LONGEST, *x.shape), x.dtype)
    method = build(SOLVERS, solver, "solver")
    return sample(denoise, method, plan, x, None, lambda i: noises[i], keep, after)[1]

  return jax.jit(run)


def ours(row: Row, kind: str, process: Process, times: Time, start: np.ndarray, double: bool):
  """Our trajectory, float64 [S + 1, ...] of values in float32, or in float64.

  The plan is filled up to LONGEST steps with its last, so that one program serves every step count;
  what follows the last step is cut off.
  """
  steps = len(times.t) - 1
  with jax.enable_x64(double):
    x = start.astype(np.float64 if double else np.float32)
    plan = make_plan(build(SOLVERS, row.solver, "solver"), process, times)
    fill = lambda a: np.concatenate([a, np.repeat(np.asarray(a)[-1:], LONGEST - steps, 0)])
    plan = jax.tree.map(fill, plan)._replace(index=np.arange(LONGEST))
    run = compiled(row.solver, kind, row.learned, row.scheduler.startswith("EDM"))
    after = np.asarray(run(plan, x, draws()[1]))[:steps]
  return np.concatenate([x[None], after]).astype(np.float64)


def moments(row: Row, case: Case) -> tuple[Process, Time]:
  """Our process and grid of a case."""
  process, text = TABLES[case.table].process(case.grid.between), case.grid.text(case.steps)
  spaced = case.grid.config.get("timestep_spacing") == "linspace" and "keep_lowest=F" not in text
  if spaced and case.steps == 1:  # numpy's linspace of one value is where it starts: step 0
    return process, at_times(process, [1 / 1000, 0.0])
  return process, build(GRIDS, text, "grid", process, case.steps)


def distance(a: np.ndarray, b: np.ndarray) -> float:
  """Largest over the steps of max|a - b| / max|b|."""
  axes = tuple(range(1, b.ndim))
  return float(np.max(np.abs(a - b).max(axes) / np.abs(b).max(axes)))


class Errors(NamedTuple):
  """Largest over the steps, in units of max|x|.

  single  ours against the reference in float32
  double  ours against the reference in float64
  own     the reference in float32 against itself in float64
  """

  single: float
  double: float
  own: float


def held(row: Row, case: Case) -> float:
  """The error that the bound is held to: `double` on the row's double tables, else `single`."""
  double = case.table in row.double
  process, times = moments(row, case)
  theirs, fed = reference(row, case, times, double)
  apart = np.abs(fed - times.model_time[:-1]).max()
  if apart > 2e-3:
    raise ValueError(f"{row}, {case}: the networks are fed times {apart} apart")
  wide = double and row.all_double
  return distance(ours(row, case.kind, process, times, theirs[0], wide), theirs)


def errors(row: Row, case: Case) -> Errors:
  """All three, for the page."""
  process, times = moments(row, case)
  single, double = (reference(row, case, times, wide)[0] for wide in (False, True))
  wide = row.all_double and case.table in row.double
  got = ours(row, case.kind, process, times, (double if wide else single)[0], wide)
  return Errors(distance(got, single), distance(got, double), distance(single, double))


HEAD = """# Our samplers beside those of diffusers

Made by `python -m benchmarks.solver_parity --to docs` with diffusers {diffusers}, torch {torch} and
jax {jax}, on one CPU; `tests/parity/test_schedulers.py` runs the same rows. Both sides run the same
network, nonlinear in x and in the time it is fed, from the same start with the same noise, and are
compared after **every** step at {steps} steps (what cannot be run at so few is left out).

An error is max|ours - theirs| at a step over max|theirs| there; the largest over all steps, step
counts, predictions, spacings and tables of the line is shown. The bound is 1e-5.

- **float32**: ours in float32 against theirs in float32.
- **their rounding**: theirs in float32 against theirs in float64 (their float32 tables kept, every
  operation after them in float64). Where sigma / alpha is large they subtract nearly equal numbers.
- **float64**: ours against theirs in float64. It is what the bound is held to where their own
  rounding exceeds it (**bold** is what is held). Ours stays in float32 but for lines with a *,
  where the method itself loses the digits from so much noise.
- Tables of 1000 steps are `published=True`, equal to theirs to the last bit. "zero SNR" and
  "SNR 2^-24" are SD's rescaled to end there, equal to 4e-6.

"""

COLUMNS = [
  "scheduler", "ours", "tables", "predictions", "moments", "float32", "float64", "their rounding",
]  # fmt: skip

GRID_HEAD = """
## Moments

What a scheduler is told, and `sampling.grid` here (at 5 steps, where it depends on them).

"""

NOTES = """
## What is reproduced, and what is not

Published behaviour that models are sampled with is here, as an argument with a meaning of its own:
SD's end at training step 0 (`to_zero=False`); the lowest moment left out by DPM-Solver and UniPC
(`keep_lowest=False`); fractional steps of Euler and Heun, with sigma / alpha linear between steps,
and linear in its logarithm on the Karras, exponential and beta grids (`between='log_sigma'`); order
1 at an end of sigma = 0, and orders falling over the last steps of DPM-Solver below 15
(`lower_final`); PLMS's second call at its first step; SD3's shift applied twice (`bottom`); the
static shift that a dynamic one replaces.

Left out, or compared otherwise:

1. **DDIM and PNDM on linspace**, and on trailing where the steps do not divide 1000. They move x by
   1000 // steps whatever the grid, so that x and the time that the network is fed part. Our `ddim`
   on linspace is compared with EulerDiscrete, which is the same rule.
2. **One step of linspace.** DDPM, Euler and Heun then start from training step 0 (numpy's linspace
   of one value is its start). The solvers are compared there; our `linspace` starts from noise.
   EDM's exponential grid does likewise and is compared from 4 steps.
3. **DDPM's noise at the last step.** With fixed_large and learned_range diffusers adds it unless
   the last step is training step 0. The code of [2102.09672] adds none, nor do we: it is fed as 0.
4. **Churn.** EulerDiscrete, EDMEuler and FlowMatchHeun call the network before they add the noise;
   [2206.00364 alg. 2], our `edm`, calls it after. No scheduler of diffusers is its equal.
5. **sde-dpmsolver++ of order 3.** Its factor of D2 has - 1/2 where + 1/2 belongs, and so tends to
   -alpha as the step tends to 0, where it must vanish. Ours is k-diffusion's.
6. **UniPC with bh1 or noise prediction and final sigma 0** ends in NaN (infinity times 0); compared
   to the end at training step 0. Our bh1 ends at 0 by a step of order 1.
7. **Times cut to whole steps.** DPM-Solver and UniPC cast the times of the exponential, beta and
   flow grids (and DPM-Solver those of the cosine table's Karras grid) to integers. A flow network
   was trained at any time, and a DDPM network is fed fractions by Euler and Heun: we feed the
   moment's own time, and so does the reference here. The rounding of the Karras grid to the nearest
   step, which is meant, is `karras(rounded=True)`.
8. **Zero SNR in sigma / alpha.** Euler and DPM-Solver put alpha_bar = 2^-24 for 0; compared with
   that table. On our own, `euler`, `dpmpp` and `unipc` start from alpha = 0 itself.
9. **Noise-predicting UniPC on the cosine table** is compared on SD's only: from sigma / alpha =
   2e4, eps from x0 or v has no digits left in float32.
10. **LCM at 50 steps.** Its c_skip, a part of the distilled network, is 7e-6 of x at step 19; at
    other moments it is below 2e-6 and is left out here.
11. **The start.** Both start where the scheduler does: on linspace and trailing Euler scales its
    noise by sigma / alpha, which leaves out the data's part (0.2% at SD's end), and so
    does `scaled_prior=True` of a process, which folders with such a scheduler have.
12. **Thresholding and clipping** of x0 are off.
13. **Euler's final_sigmas_type="sigma_min"** is compared on trailing; on its other grids it repeats
    the last moment.
"""


def shown(value: float, bold: bool) -> str:
  text = "not a number" if np.isnan(value) else f"{value:.1e}"
  return f"**{text}**" if bold else text


@functools.cache
def labels() -> dict[Grid, str]:
  """Every grid of the rows, by its name and a number within the name; equal ones have one label."""
  seen, counts, result = dict[str, str](), Counter[str](), {}
  for grid in (grid for row in ROWS for grid in row.grids):
    told = f"{grid.name} {grid.config} {grid.text(5)}"
    if told not in seen:
      counts[grid.name] += 1
      seen[told] = f"{grid.name} ({counts[grid.name]})"
    result[grid] = seen[told]
  return result


def line(row: Row, tables: tuple[str, ...]) -> list[str]:
  """A row on tables of one precision. Raises ValueError where the bound or `double` is wrong.

  Processors round differently: what is near the bound in float32 is over it on some of them.
  """
  double = tables == row.double
  worst = Errors(*np.max([errors(row, case) for case in row.cases(tables)], axis=0))
  if not (worst.double if double else worst.single) < BOUND:
    raise ValueError(f"{row} on {tables}: {worst} is over {BOUND}")
  if double and worst.single < BOUND / 2:
    raise ValueError(f"{row} on {tables}: {worst} holds in float32 as well")
  star = "*" if double and row.all_double else ""
  return [
    f"`{row}`",
    f"`{row.solver}`{star}",
    ", ".join(tables),
    ", ".join(row.kinds),
    ", ".join(labels()[grid] for grid in row.grids),
    shown(worst.single, not double),
    shown(worst.double, double),
    shown(worst.own, False),
  ]


def page() -> str:
  """docs/parity.md."""
  versions = {
    "diffusers": diffusers.__version__,
    "torch": torch.__version__,
    "jax": jax.__version__,
  }
  text = HEAD.format(**versions, steps=", ".join(map(str, STEPS)))
  rows, grids = [], []
  for row in ROWS:
    for tables in (tuple(t for t in row.tables if t not in row.double), row.double):
      if tables:
        rows.append(line(row, tables))
        print(*rows[-1], flush=True)
  for label, grid in {label: grid for grid, label in labels().items()}.items():
    given = grid.config | {k: v for k, v in grid.given(5).items() if k != "num_inference_steps"}
    given = ", ".join(
      f"{k}={np.round(v, 6).tolist() if k == 'sigmas' else v!r}" for k, v in given.items()
    )
    grids.append([label, f"`{given}`" if given else "", f"`{grid.text(5)}`"])
  moments = table(["moments", "scheduler's arguments", "ours"], grids)
  return f"{text}{table(COLUMNS, rows)}\n{GRID_HEAD}{moments}\n{NOTES}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", default="docs", help="folder of parity.md")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  logging.disable(logging.WARNING)
  line = made_by("python -m benchmarks.solver_parity --to docs", "benchmarks/solver_parity.py")
  write(Path(args.to) / "parity.md", page(), line)


if __name__ == "__main__":
  main()
