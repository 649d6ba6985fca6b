"""scheduler_config.json of published folders, read here and by diffusers: the same times."""

import json

import numpy as np
import pytest

from t2i_jax.config import build
from t2i_jax.errors import RestoreError
from t2i_jax.pretrained.scheduler import How, read_scheduler
from t2i_jax.process import PROCESSES
from t2i_jax.sampling import GRIDS, SOLVERS

diffusers = pytest.importorskip("diffusers")

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OFFSET = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
SD1 = SD | OFFSET | {"skip_prk_steps": True}
XL = SD1 | {"timestep_spacing": "leading", "interpolation_type": "linear", "sample_max_value": 1.0}
DIT = {"clip_sample": False, "variance_type": "learned_range"}
FLUX1 = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
QWEN = FLUX1 | {"shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
EVEN = How(1024, even=True)
# Class, what its file has, what the pipeline adds.
FILES = {
  "SD 1.5": ("PNDM", SD1, How(1024)),
  "SD 2.1": ("DDIM", SD1 | {"prediction_type": "v_prediction"}, How(1024)),
  "SDXL": ("EulerDiscrete", XL, How(1024)),
  "Euler, karras": ("EulerDiscrete", SD | {"use_karras_sigmas": True}, How(1024)),
  "SDXL Turbo": ("EulerAncestralDiscrete", SD | {"timestep_spacing": "trailing"}, How(1024)),
  "LCM": ("LCM", {"original_inference_steps": 100}, How(1024)),
  "DiT": ("DDIM", DIT, How(1024)),
  "DDPM": ("DDPM", DIT, How(1024)),
  "PixArt": ("DPMSolverMultistep", {"algorithm_type": "dpmsolver++"}, How(1024)),
  "DPM, karras": ("DPMSolverMultistep", SD | {"use_karras_sigmas": True}, How(1024)),
  "SDE": ("DPMSolverMultistep", SD | {"algorithm_type": "sde-dpmsolver++"}, How(1024)),
  "UniPC": ("UniPCMultistep", SD | {"timestep_spacing": "trailing"}, How(1024)),
  "Heun": ("HeunDiscrete", SD, How(1024)),
  "zero SNR": (
    "DDIM",
    SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False},
    How(1024),
  ),
  "SD3": ("FlowMatchEulerDiscrete", {"shift": 3.0}, How(1024)),
  "SD3, beta": ("FlowMatchEulerDiscrete", {"shift": 3.0, "use_beta_sigmas": True}, How(1024)),
  "FLUX.1-dev": ("FlowMatchEulerDiscrete", FLUX1, EVEN),
  "FLUX.1-schnell": (
    "FlowMatchEulerDiscrete", FLUX1 | {"shift": 1.0, "use_dynamic_shifting": False}, EVEN
  ),
  "FLUX.2": ("FlowMatchEulerDiscrete", FLUX1, How(1024, even=True, by_steps=True)),
  "FLUX.2, large": ("FlowMatchEulerDiscrete", FLUX1, How(5000, even=True, by_steps=True)),
  "Qwen-Image": ("FlowMatchEulerDiscrete", QWEN, EVEN),
  "Heun of a flow": ("FlowMatchHeunDiscrete", {"shift": 3.0}, How(1024)),
}  # fmt: skip


def theirs(name, config, how, steps):
  """The scheduler after set_timesteps, as the pipeline calls it."""
  from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
  from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

  scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
  given = {"num_inference_steps": steps}
  if how.even:
    given = {"sigmas": np.linspace(1, 1 / steps, steps)}
  if config.get("use_dynamic_shifting"):
    c = scheduler.config
    lengths = (c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
    mu = compute_empirical_mu(how.tokens, steps) if how.by_steps else None
    given["mu"] = calculate_shift(how.tokens, *lengths) if mu is None else mu
  scheduler.set_timesteps(**given)
  return scheduler


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("file", FILES)
def test_the_times_are_theirs(file, steps, tmp_path):
  name, config, how = FILES[file]
  cls = getattr(diffusers, f"{name}Scheduler")
  cls.from_config(config).save_pretrained(tmp_path)
  content = json.loads((tmp_path / "scheduler_config.json").read_text())
  found = read_scheduler(content, "file", how)
  assert found == read_scheduler({"_class_name": f"{name}Scheduler"} | config, "file", how)

  process = build(PROCESSES, found.process, "process.kind")
  times = build(GRIDS, found.grid, "sampling.grid", process, steps)
  build(SOLVERS, found.solver, "sampling.solver")
  scheduler = theirs(name, config, how, steps)
  fed = list(dict.fromkeys(scheduler.timesteps.numpy().tolist()))  # Heun and PNDM repeat some
  np.testing.assert_allclose(times.model_time[:-1], fed, rtol=2e-6, atol=1e-3)
  if process.name == "flow":
    sigmas = list(dict.fromkeys(scheduler.sigmas.numpy().tolist()))
    np.testing.assert_allclose(times.sigma, sigmas, rtol=1e-5, atol=1e-7)
  elif hasattr(scheduler, "sigmas"):
    sigmas = np.array(list(dict.fromkeys(scheduler.sigmas.numpy().tolist())))
    np.testing.assert_allclose(times.sigma / times.alpha, sigmas, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("content, words", [
  ({"_class_name": "DEISMultistepScheduler"}, "'DEISMultistepScheduler' is not one of DDPM"),
  ({"_class_name": "DDIMScheduler"}, "clip_sample = True, of which only False"),
  ({"_class_name": "PNDMScheduler", "wavelets": 3}, "wavelets = 3, which is not known"),
  ({"_class_name": "PNDMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
  ({"_class_name": "EulerDiscreteScheduler", "sigma_max": 9.0}, "sigma_max = 9.0"),
  (
    {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True} | XL,
    "timestep_spacing = 'leading' and a grid of sigmas",
  ),
  ({"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True}, "2\\^-24"),
])  # fmt: skip
def test_what_has_no_equal_is_named(content, words):
  with pytest.raises(RestoreError, match=words):
    read_scheduler(content, "scheduler_config.json", How(1024))
