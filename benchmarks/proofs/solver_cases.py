"""What becomes of the cases at the ends: the tables of docs/cases.md, in float32 as users run.

The data is a Gaussian, so that every answer is known: a sampler's whole run is an affine map of
what it starts from and of its noise, whose law is held against that of the data.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pages import table
from benchmarks.proofs.closed_form import denoiser, tilted
from benchmarks.proofs.ode_orders import MIXED, NORMAL, part
from benchmarks.proofs.weak_orders import Stochastic, affine, carried, moments
from t2i_jax.errors import T2IError
from t2i_jax.process import KINDS, PROCESSES, Process, convert
from t2i_jax.process.prediction import check_prediction, undefined
from t2i_jax.sampling import GRIDS, GUIDANCE, SOLVERS, Guided, guide, make_plan, row_noise, sample

# Beyond each solver as it comes.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
  ("ddim", {"eta": 1.0}),
  ("ddpm", {"variance": "large"}),
  ("dpmpp", {"order": 3}),
  ("dpmpp_sde", {"order": 3}),
  ("unipc", {"order": 3}),
  ("pndm", {"runge_kutta": True}),
  ("heun", {"frame": "sigma"}),
  ("edm", {"churn": 10.0}),
)
SAMPLERS = tuple(Stochastic(n, a, "t", 0, 0) for n, a in [*((n, {}) for n in SOLVERS), *VARIANTS])
ENDLESS: dict[str, Process] = {  # processes without signal at t = 1
  "flow": PROCESSES["flow"](),
  "trigonometric": PROCESSES["trigonometric"](),
  "ddpm_sigmoid": PROCESSES["ddpm_sigmoid"](),
  "ddpm_linear, zero SNR": PROCESSES["ddpm_linear"](zero_terminal_snr=True, between="angle"),
}
ALL: dict[str, Process] = ENDLESS | {n: f() for n, f in PROCESSES.items() if n not in ENDLESS}
NO_SIGNAL = (("x0", "trigonometric"), ("v", "ddpm_sigmoid"), ("velocity", "flow"))
STEPS = 64


@lru_cache
def _read(sampler_index: int, kind: str):
  """The affine reader of a sampler's steps under a prediction of this kind."""
  sampler = SAMPLERS[sampler_index]
  perfect = sampler.denoise()
  turned = lambda x, time, cond: convert(perfect(x, time, cond), kind, x, time)
  return affine(sampler.solver(), turned)


def law_error(sampler_index: int, kind: str, process: Process, steps: int = STEPS) -> float:
  """How far the covariance of a whole run's results is from the data's, relative to it."""
  solver, times = SAMPLERS[sampler_index].solver(), GRIDS["trailing"](process, steps)
  mean, covariance = carried(_read(sampler_index, kind), solver, process, times)
  exact_mean, exact = moments(part(times, -1))
  error = np.linalg.norm(covariance - exact) / np.linalg.norm(exact)
  return float(max(error, np.max(np.abs(mean - exact_mean))))


def one_step_error(sampler_index: int, kind: str, process: Process) -> float:
  """One step from t = 1: the greatest distance from E[x0 | x_1], for x_1 of one at a time."""
  solver = SAMPLERS[sampler_index].solver()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 1))
  a = _read(sampler_index, kind)(jax.tree.map(lambda f: f[0], plan))
  now = part(process.at(np.array([1.0])), 0)
  x = jnp.asarray(np.vstack([np.zeros(2), np.eye(2)]) * process.prior_std, jnp.float32)
  wanted = SAMPLERS[sampler_index].denoise()(x, jax.tree.map(jnp.float32, now), None).value
  got = np.asarray(x) @ a.matrix[:2, :2].T + a.shift[:2]
  return float(np.max(np.abs(got - wanted)) + np.max(np.abs(a.spread[:2])))


def allowed(kind: str, process: Process) -> bool:
  return not (kind in ("eps", "score") and process.zero_terminal_snr)


def grid_result(name: str, process: Process, steps: int) -> float:
  """Distance of one Euler run on a grid from E[x0 | x_t] at its first moment (steps = 1)."""
  args = {"t": tuple(np.linspace(1, 0, steps + 1))} if name == "times" else {}
  times = GRIDS[name](process, steps, **args)
  x = jnp.asarray([[0.3, -0.8]]) * process.prior_std
  perfect, solver = denoiser(NORMAL), SOLVERS["euler"]()
  plan = make_plan(solver, process, times)
  first = jax.tree.map(lambda f: f[0], plan.now)
  wanted = perfect(x, first, None).value
  if times.sigma[-1] > 0:  # training step 0 is the end: what is left is x_s, not x0
    eps = convert(perfect(x, first, None), "eps", x, first).value
    wanted = plan.to.alpha[-1] * wanted + plan.to.sigma[-1] * eps
  return float(jnp.max(jnp.abs(sample(perfect, solver, plan, x, None)[0] - wanted)))


def guided_error(kind: str, scale: float, solver: str = "euler") -> float:
  """Guided sampling against sampling the null (scale 0), the class (1) or the tilted field."""
  process, made = ALL["vp"], SOLVERS[solver]()
  plan = make_plan(made, process, GRIDS["trailing"](process, 8))
  x = process.prior(jax.random.split(jax.random.key(0), 6), (2,))
  label, null = jnp.array([0, 1, 2, 0, 1, 2]), jnp.full(6, -1)
  noise = row_noise(jax.random.split(jax.random.key(1), 6), (2,))
  run = lambda denoise, cond: sample(denoise, made, plan, x, cond, noise)[0]
  perfect = denoiser(MIXED, kind)
  got = run(guide(perfect, GUIDANCE["cfg"](), scale), Guided(label, null))
  plain = {0.0: (perfect, null), 1.0: (perfect, label)}
  wanted = run(*plain.get(scale, (tilted(MIXED, scale, kind), label)))
  return float(jnp.max(jnp.abs(got - wanted)))


def refusal(ask: Callable[[], Any]) -> str:
  """The message with which something is refused."""
  try:
    ask()
  except (T2IError, ValueError) as error:
    return str(error)
  return "not refused"


def _noiseless() -> Any:
  process, solver = ALL["flow"], SOLVERS["ddpm"]()
  plan = make_plan(solver, process, GRIDS["trailing"](process, 1))
  return sample(denoiser(NORMAL), solver, plan, jnp.zeros((1, 2)), None)


REFUSED: dict[str, Callable[[], Any]] = {
  "eps on the flow": lambda: check_prediction(ALL["flow"], "eps"),
  "score on ddpm_sigmoid": lambda: check_prediction(ALL["ddpm_sigmoid"], "score"),
  "a prediction that does not exist": lambda: check_prediction(ALL["flow"], "noise"),
  "zero SNR with sigma / alpha between steps": lambda: PROCESSES["ddpm_linear"](
    zero_terminal_snr=True
  ),
  "no steps": lambda: GRIDS["trailing"](ALL["flow"], 0),
  "more steps than DDPM has": lambda: GRIDS["linspace"](ALL["ddpm_linear"], 1001),
  "leading steps of the flow": lambda: GRIDS["leading"](ALL["flow"], 4),
  "an offset beyond DDPM's last step": lambda: GRIDS["leading"](ALL["ddpm_linear"], 1000),
  "a grid that rises": lambda: GRIDS["times"](ALL["flow"], 2, t=(0.5, 0.7, 0.0)),
  "a grid that starts at t = 0": lambda: GRIDS["times"](ALL["flow"], 1, t=(0.0, 0.0)),
  "times of another number of steps": lambda: GRIDS["times"](ALL["flow"], 3, t=(1.0, 0.0)),
  "one step stretched to a terminal time": lambda: GRIDS["shifted"](ALL["flow"], 1, terminal=0.02),
  "UniPC on eps from noise alone": lambda: make_plan(
    SOLVERS["unipc"](kind="eps"), ALL["flow"], GRIDS["trailing"](ALL["flow"], 4)
  ),
  "a stochastic solver without noise": _noiseless,
}


def small(error: float, limit: float = 1e-4) -> str:
  return f"right to {limit:.0e}" if error <= limit else f"off by {error:.1e}"


def ends(alpha: float, sigma: float) -> list[list[str]]:
  """What each prediction says of each other where x_t has these coefficients."""
  says = lambda kind, wanted: undefined(kind, wanted, alpha, sigma) or "finite"
  return [[f"`{kind}`", *(says(kind, wanted) for wanted in KINDS)] for kind in KINDS]


def sampler_rows() -> list[list[str]]:
  rows = []
  for i, sampler in enumerate(SAMPLERS):
    laws = [law_error(i, kind, ENDLESS[name]) for kind, name in NO_SIGNAL]
    pairs = [(kind, p) for kind in KINDS for p in ALL.values() if allowed(kind, p)]
    single = max(one_step_error(i, kind, p) for kind, p in pairs if p is not ALL["ddpm_cosine"])
    weak = max(one_step_error(i, kind, ALL["ddpm_cosine"]) for kind in KINDS)
    verdict = small(single) if weak <= 1e-3 else small(weak, 1e-3)
    rows.append([f"`{sampler.label}`", *(f"{law:.3f}" for law in laws), verdict])
  return rows


def grid_rows() -> list[list[str]]:
  rows = []
  for name in GRIDS:
    errors, refused = [], []
    for title, process in ALL.items():
      try:
        errors.append(grid_result(name, process, 1))
      except T2IError:
        refused.append(title)
    rows.append([f"`{name}`", small(max(errors)), ", ".join(refused) or "-"])
  return rows


def guidance_rows() -> list[list[str]]:
  scales = (0.0, 1.0, 3.0)
  return [[f"`{k}`", *(small(guided_error(k, scale)) for scale in scales)] for k in KINDS]


PAGE = """# Cases at the ends

Made by `python -m benchmarks.proofs.solver_orders`, in float32. Every case is finite and right, or
refused with a message that says why. The data is Gaussian with a full covariance, so that the right
answer is a formula, and the denoisers are exact.

## No signal at t = 1, and one step

Trailing grids from t = 1, where alpha = 0, to t = 0. The first three columns are the relative error
of the covariance of all results of {steps} steps (`consistency` with its exact function): the
truncation that [orders.md](orders.md) is about, and no more. The last is one step, over every
process and every prediction that is not refused: the result must be E[x0 | x_1], with no noise. Its
limit is 1e-3 for the sake of ddpm_cosine, whose alpha ends at 5e-5, so that eps in float32 keeps
three digits of x0; elsewhere it is 1e-4.

{samplers}

`ddim(eta=1.0)` and `ddpm` with the small variance are one table of numbers, and so are `euler` and
`ddim`. No solver adds noise in its last step, whatever its variance.

## Grids of one step

Each grid from its first moment to its end, for every process.

{grids}

## What one prediction says of another at the ends

Rows are given, columns wanted. At t = 0, where alpha = 1 and sigma = 0:

{at_zero}

At t = 1, where alpha = 0 and sigma = 1:

{at_one}

The network is never asked at sigma = 0, and eps and score are refused where alpha = 0.

## Guidance at scale 0 and 1

Eight steps on a mixture with three classes. At 0 the result is that of the null alone, at 1 that of
the class alone, at 3 that of the tilted field in closed form.

{guidance}

## Refused

{refused}
"""


def cases_page() -> str:
  head = [f"{kind} on {name}" for kind, name in NO_SIGNAL]
  return PAGE.format(
    steps=STEPS,
    samplers=table(["solver", *head, "one step"], sampler_rows()),
    grids=table(["grid", "one step", "refused for"], grid_rows()),
    at_zero=table(["given", *KINDS], ends(1.0, 0.0)),
    at_one=table(["given", *KINDS], ends(0.0, 1.0)),
    guidance=table(["network", "scale 0", "scale 1", "scale 3"], guidance_rows()),
    refused=table(["what", "message"], [[k, refusal(ask)] for k, ask in REFUSED.items()]),
  )
