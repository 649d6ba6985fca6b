"""Keys of a published scheduler_config.json as our process, solver and grid, class by class."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from t2i_jax.errors import RestoreError


class Sampling(NamedTuple):
  """Values of config.process.kind and .prediction, config.sampling.solver and .grid."""

  process: str
  prediction: str
  solver: str
  grid: str


class How(NamedTuple):
  """What a pipeline decides besides its scheduler.

  tokens    of an image, by which a dynamic shift is chosen
  even      whether the pipeline gives the scheduler times evenly spaced from 1 to 1 / steps
  by_steps  whether the shift depends on the number of steps, as that of FLUX.2 does
  """

  tokens: int
  even: bool = False
  by_steps: bool = False


Keys = dict[str, Any]


def call(name: str, **arguments: Any) -> str:
  """ "name" or "name(a=1)" as a config has it, without the arguments that are None."""
  given = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if value is not None)
  return f"{name}({given})" if given else name


TABLES = {
  "linear": "ddpm_linear",
  "scaled_linear": "ddpm_scaled_linear",
  "squaredcos_cap_v2": "ddpm_cosine",
}
PREDICTIONS = {
  "epsilon": "eps",
  "sample": "x0",
  "v_prediction": "v",
  "flow_prediction": "velocity",
}
TABLE: Keys = {
  "beta_start": 1e-4,
  "beta_end": 0.02,
  "beta_schedule": "linear",
  "prediction_type": "epsilon",
  "rescale_betas_zero_snr": False,
}
SPACES: Keys = {"timestep_spacing": "linspace", "steps_offset": 0}
RATIOS: Keys = {
  "use_karras_sigmas": False,
  "use_exponential_sigmas": False,
  "use_beta_sigmas": False,
}
FIXED: Keys = {"num_train_timesteps": 1000, "trained_betas": None}
UNCLIPPED: Keys = {"clip_sample": False, "thresholding": False}


def chosen(k: Keys, key: str, choices: Mapping[str, Any]) -> Any:
  if k[key] not in choices:
    raise RestoreError(f"{key} = {k[key]!r}, which is not one of {', '.join(choices)}.")
  return choices[k[key]]


def process(k: Keys, between: str | None = None, scaled: bool = False) -> tuple[str, str]:
  """config.process.kind and .prediction.

  between  what is linear between two steps;   scaled: the prior, as that of Euler on some grids
  """
  name = chosen(k, "beta_schedule", TABLES)
  zero = True if k["rescale_betas_zero_snr"] else None
  own = {} if name == "ddpm_cosine" else {"beta_start": k["beta_start"], "beta_end": k["beta_end"]}
  kind = call(
    name,
    **own,
    published=True,
    zero_terminal_snr=zero,
    between=("angle" if zero else None) if between is None else between,
    scaled_prior=True if scaled else None,
  )
  return kind, chosen(k, "prediction_type", PREDICTIONS)


def never_zero(k: Keys) -> None:
  if k["rescale_betas_zero_snr"]:
    raise RestoreError(
      "rescale_betas_zero_snr = True, with which this scheduler ends at a signal of 2^-24. Use "
      "DDIMScheduler or DDPMScheduler, which end at zero."
    )


def whole_grid(k: Keys, **leading: Any) -> str:
  """Times at training steps.   leading: more arguments of that grid"""
  spacings = {
    "leading": call("leading", offset=k["steps_offset"], **leading),
    "trailing": call("trailing", to_zero=leading.get("to_zero")),
    "linspace": call("linspace", rounded=True, to_zero=leading.get("to_zero")),
  }
  return chosen(k, "timestep_spacing", spacings)


def ratio_grid(k: Keys, rounded: bool | None = None) -> str | None:
  """The grid in sigma / alpha that a flag chooses, or None.   rounded: the network's times"""
  grids = {
    "use_karras_sigmas": call("karras", rounded=rounded),
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": call("beta", of="s", keep_lowest=True),
  }
  return next((grid for flag, grid in grids.items() if k[flag]), None)


def ends_at_zero(k: Keys) -> bool | None:
  """to_zero of a grid: None (it ends at t = 0) or False (at training step 0)."""
  return chosen(k, "final_sigmas_type", {"zero": None, "sigma_min": False})


def to_one(k: Keys) -> bool | None:
  return None if k["set_alpha_to_one"] else False


def ddpm(k: Keys, how: How) -> Sampling:
  variances = {
    "fixed_small": "ddpm",
    "fixed_large": "ddpm(variance='large')",
    "learned": "ddpm_learned",
    "learned_range": "ddpm_learned",
  }
  return Sampling(*process(k), chosen(k, "variance_type", variances), whole_grid(k))


def ddim(k: Keys, how: How) -> Sampling:
  return Sampling(*process(k), "ddim", whole_grid(k, to_zero=to_one(k)))


def pndm(k: Keys, how: How) -> Sampling:
  solver = call("pndm", runge_kutta=None if k["skip_prk_steps"] else True)
  return Sampling(*process(k), solver, whole_grid(k, to_zero=to_one(k)))


def lcm(k: Keys, how: How) -> Sampling:
  """c_skip, at most 7e-6 of x, is left out."""
  grid = call("trailing", distilled=k["original_inference_steps"])
  return Sampling(*process(k), "consistency", grid)


def euler(k: Keys, how: How) -> Sampling:
  never_zero(k)
  scaled = k["timestep_spacing"] != "leading"
  spaced = ratio_grid(k)
  if spaced is not None:
    if k["timestep_spacing"] != "linspace":
      raise RestoreError(
        f"timestep_spacing = {k['timestep_spacing']!r} and a grid of sigmas, whose ends it moves "
        "with the number of steps: use 'linspace', or no use_..._sigmas."
      )
    return Sampling(*process(k, "log_sigma", scaled), "euler", spaced)
  final = ends_at_zero(k)
  grids = {
    "leading": call("leading", offset=k["steps_offset"], to_zero=final),
    "trailing": call("trailing", to_zero=final),
    "linspace": call("linspace", to_zero=final),
  }
  return Sampling(*process(k, scaled=scaled), "euler", chosen(k, "timestep_spacing", grids))


def ancestral(k: Keys, how: How) -> Sampling:
  return euler(k, how)._replace(solver="euler_ancestral")


def heun(k: Keys, how: How) -> Sampling:
  return euler(k, how)._replace(solver="heun(frame='sigma')")


def multistep(k: Keys, solver: str, rounded: bool, flow: str) -> Sampling:
  """Of DPM-Solver and UniPC, which leave out the lowest of steps + 1 times.

  rounded  whether the network's times of a grid in sigma / alpha are;   flow: the grid of a flow
  """
  if k["use_flow_sigmas"]:
    return Sampling("flow", chosen(k, "prediction_type", PREDICTIONS), solver, flow)
  never_zero(k)
  spaced = ratio_grid(k, True if rounded and k["use_karras_sigmas"] else None)
  if spaced is not None:
    between = None if rounded and k["use_karras_sigmas"] else "log_sigma"
    return Sampling(*process(k, between), solver, spaced)
  final, rest = ends_at_zero(k), {"keep_lowest": False}
  grids = {
    "leading": call("leading", offset=k["steps_offset"], to_zero=final, **rest),
    "trailing": call("trailing", to_zero=final),
    "linspace": call("linspace", rounded=True, to_zero=final, **rest),
  }
  return Sampling(*process(k), solver, chosen(k, "timestep_spacing", grids))


def dpm(k: Keys, how: How) -> Sampling:
  names = {"dpmsolver++": "dpmpp", "sde-dpmsolver++": "dpmpp_sde"}
  given: Keys = {"order": k["solver_order"]}
  given["midpoint"] = chosen(k, "solver_type", {"midpoint": None, "heun": False})
  if k["algorithm_type"] == "dpmsolver++":
    given["lower_final"] = None if k["lower_order_final"] else False
  elif not k["lower_order_final"]:
    raise RestoreError(f"lower_order_final = False with {k['algorithm_type']!r} is not supported.")
  solver = call(chosen(k, "algorithm_type", names), **given)
  return multistep(k, solver, True, call("shifted", factor=k["flow_shift"], top=0.999))


def unipc(k: Keys, how: How) -> Sampling:
  if k["use_flow_sigmas"]:
    raise RestoreError("use_flow_sigmas = True, whose grid depends on the number of steps.")
  solver = call(
    "unipc",
    order=k["solver_order"],
    bh1=chosen(k, "solver_type", {"bh1": True, "bh2": None}),
    kind=None if k["predict_x0"] else "eps",
    lower_final=None if k["lower_order_final"] else False,
  )
  return multistep(k, solver, True, "")


def flow_euler(k: Keys, how: How) -> Sampling:
  solver = "consistency" if k["stochastic_sampling"] else "euler"
  return Sampling("flow", "velocity", solver, flow_grid(k, how))


def flow_heun(k: Keys, how: How) -> Sampling:
  return Sampling("flow", "velocity", "heun", flow_grid({**FLOW, **k}, how))


def flow_grid(k: Keys, how: How) -> str:
  """The times that FlowMatchEulerDiscreteScheduler has, as each pipeline sets them."""
  factor = float(k["shift"])
  smallest = factor * 1e-3 / (1 + (factor - 1) * 1e-3)  # of the table, which is shifted already
  spaced = ratio_grid(k)
  if spaced is not None:
    if k["use_dynamic_shifting"] or k["shift_terminal"]:
      raise RestoreError(
        "a grid of sigmas (use_karras_sigmas, ...) with use_dynamic_shifting or shift_terminal is "
        "not supported: set one of them to false."
      )
    twice = factor * smallest / (1 + (factor - 1) * smallest)
    lowest = {"keep_lowest": True} if k["use_beta_sigmas"] else {}
    name = spaced.split("(")[0]
    of = None if name == "beta" else "t"
    return call(name, of=of, bottom=twice, **lowest)
  if k["use_dynamic_shifting"]:
    if k["time_shift_type"] != "exponential":
      raise RestoreError(
        f"time_shift_type = {k['time_shift_type']!r}, of which only 'exponential' is supported."
      )
    if how.by_steps:
      return call("dynamic_by_steps", tokens=how.tokens, terminal=k["shift_terminal"])
    return call(
      "dynamic",
      tokens=how.tokens,
      base_shift=k["base_shift"],
      max_shift=k["max_shift"],
      base_tokens=k["base_image_seq_len"],
      max_tokens=k["max_image_seq_len"],
      terminal=k["shift_terminal"],
    )
  bottom = None if how.even else smallest
  return call("shifted", factor=factor, terminal=k["shift_terminal"], bottom=bottom)


FLOW: Keys = {
  "shift": 1.0,
  "use_dynamic_shifting": False,
  "base_shift": 0.5,
  "max_shift": 1.15,
  "base_image_seq_len": 256,
  "max_image_seq_len": 4096,
  "shift_terminal": None,
  "time_shift_type": "exponential",
  "stochastic_sampling": False,
  **RATIOS,
}


def training_shift(content: Mapping[str, Any], process: str) -> str:
  """config.process.shift of a scheduler's file: the shift of t in training with flow matching."""
  k = {**FLOW, "use_flow_sigmas": False, "flow_shift": 1.0, **content}
  if process != "flow":
    return call("static", factor=1.0)
  if k["use_dynamic_shifting"]:
    return call(
      "dynamic",
      base_shift=k["base_shift"],
      max_shift=k["max_shift"],
      base_tokens=k["base_image_seq_len"],
      max_tokens=k["max_image_seq_len"],
    )
  return call("static", factor=float(k["flow_shift" if k["use_flow_sigmas"] else "shift"]))
