"""A published scheduler_config.json as our process, prediction, solver and time grid.

What diffusers calls a scheduler is four choices here, written as a config has them. docs/parity.md
compares every pair of a scheduler and its solver; tests/parity/test_pipelines.py those of files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t2i_jax.errors import RestoreError
from t2i_jax.pretrained.scheduler_keys import (
  FIXED,
  FLOW,
  RATIOS,
  SPACES,
  TABLE,
  UNCLIPPED,
  How,
  Keys,
  Sampling,
  ancestral,
  ddim,
  ddpm,
  dpm,
  euler,
  flow_euler,
  flow_heun,
  heun,
  lcm,
  pndm,
  unipc,
)


@dataclass(frozen=True)
class Scheduler:
  """One published class.

  keys   that are read, with their default values
  fixed  keys of which one value is supported, by default that of the class
  wrong  defaults of `fixed` keys that are another value in the class: they must be given
  make   (keys, how) -> Sampling, raising RestoreError
  """

  make: Callable[[Keys, How], Sampling]
  keys: Keys
  fixed: Keys = field(default_factory=dict)
  wrong: Keys = field(default_factory=dict)


NO_SIGMAS: Keys = {"sigma_min": None, "sigma_max": None}
SD_BETAS: Keys = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLIPS: Keys = {"clip_sample": True}
SCHEDULERS: dict[str, Scheduler] = {
  "DDPMScheduler": Scheduler(
    ddpm,
    TABLE | SPACES | {"timestep_spacing": "leading", "variance_type": "fixed_small"},
    FIXED | UNCLIPPED,
    CLIPS,
  ),
  "DDIMScheduler": Scheduler(
    ddim,
    TABLE | SPACES | {"timestep_spacing": "leading", "set_alpha_to_one": True},
    FIXED | UNCLIPPED,
    CLIPS,
  ),
  "PNDMScheduler": Scheduler(
    pndm,
    TABLE
    | SPACES
    | {"timestep_spacing": "leading", "set_alpha_to_one": False, "skip_prk_steps": False},
    FIXED,
  ),
  "LCMScheduler": Scheduler(
    lcm,
    TABLE | SD_BETAS | {"original_inference_steps": 50},
    FIXED | UNCLIPPED | {"timestep_scaling": 10.0},
  ),
  "EulerDiscreteScheduler": Scheduler(
    euler,
    TABLE | SPACES | RATIOS | {"final_sigmas_type": "zero"},
    FIXED | NO_SIGMAS | {"interpolation_type": "linear", "timestep_type": "discrete"},
  ),
  "EulerAncestralDiscreteScheduler": Scheduler(
    ancestral, TABLE | SPACES | RATIOS | {"final_sigmas_type": "zero"}, FIXED
  ),
  "HeunDiscreteScheduler": Scheduler(
    heun,
    TABLE
    | SPACES
    | RATIOS
    | {"beta_start": 0.00085, "beta_end": 0.012, "final_sigmas_type": "zero"},
    FIXED | {"clip_sample": False},
  ),
  "DPMSolverMultistepScheduler": Scheduler(
    dpm,
    TABLE
    | SPACES
    | RATIOS
    | {
      "solver_order": 2,
      "algorithm_type": "dpmsolver++",
      "solver_type": "midpoint",
      "lower_order_final": True,
      "use_flow_sigmas": False,
      "flow_shift": 1.0,
      "final_sigmas_type": "zero",
    },
    FIXED
    | {
      "thresholding": False,
      "euler_at_final": False,
      "use_lu_lambdas": False,
      "use_dynamic_shifting": False,
      "lambda_min_clipped": float("-inf"),
    },
  ),
  "UniPCMultistepScheduler": Scheduler(
    unipc,
    TABLE
    | SPACES
    | RATIOS
    | {
      "solver_order": 2,
      "solver_type": "bh2",
      "predict_x0": True,
      "lower_order_final": True,
      "use_flow_sigmas": False,
      "flow_shift": 1.0,
      "final_sigmas_type": "zero",
    },
    FIXED
    | NO_SIGMAS
    | {
      "thresholding": False,
      "disable_corrector": [],
      "solver_p": None,
      "use_dynamic_shifting": False,
      "shift_terminal": None,
    },
  ),
  "FlowMatchEulerDiscreteScheduler": Scheduler(
    flow_euler, FLOW, {"num_train_timesteps": 1000, "invert_sigmas": False}
  ),
  "FlowMatchHeunDiscreteScheduler": Scheduler(
    flow_heun, {"shift": 1.0}, {"num_train_timesteps": 1000}
  ),
}
# Keys that change nothing: those of other classes, which diffusers leaves out, and these.
NO_EFFECT = {
  "variance_type",
  "dynamic_thresholding_ratio",
  "clip_sample_range",
  "sample_max_value",
}


def read_scheduler(content: Mapping[str, Any], where: str, how: How) -> Sampling:
  """scheduler_config.json as values of a config. Raises RestoreError naming what has no equal."""
  name = content.get("_class_name")
  if name not in SCHEDULERS:
    raise RestoreError(
      f"{where}: _class_name = {name!r} is not one of {', '.join(SCHEDULERS)}. Choose one that is: "
      "save another scheduler there, as pipe.scheduler = DDIMScheduler.from_config(...)."
    )
  scheduler = SCHEDULERS[name]
  known = {key for one in SCHEDULERS.values() for key in (*one.keys, *one.fixed)} | NO_EFFECT
  problems = []
  for key, value in content.items():
    if key not in known and not key.startswith("_") and value is not None and value is not False:
      problems.append(f"{key} = {value!r}, which is not known")
  for key, only in scheduler.fixed.items():
    value = content.get(key, scheduler.wrong.get(key, only))
    if value != only and str(value) != str(only):  # "-inf" is a text in JSON
      problems.append(f"{key} = {value!r}, of which only {only!r} is supported")
  if problems:
    raise RestoreError(f"{where}: a {name} with {'; '.join(problems)}.")
  try:
    return scheduler.make(
      scheduler.keys | {k: content[k] for k in scheduler.keys if k in content}, how
    )
  except RestoreError as error:
    raise RestoreError(f"{where}: a {name} with {error}") from error
