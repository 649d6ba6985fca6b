"""SDXL's base and refiner in turn, drawn here and by diffusers' two pipelines."""

import pytest

diffusers = pytest.importorskip("diffusers")
parity = pytest.importorskip("benchmarks.refiner_parity")

from benchmarks.pipeline_parity import LATENTS  # noqa: E402
from benchmarks.tiny_unets import BETAS  # noqa: E402

SCHEDULERS = {
  "of the folders": None,
  "linspace": diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace"),
  "ddim": diffusers.DDIMScheduler(**BETAS, clip_sample=False),
  "dpm": diffusers.DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing"),
}


CASES = [("linspace", 5, 0.7), ("ddim", 6, 0.5), ("dpm", 7, 0.8), ("of the folders", 20, 0.8)]
MORE = [pytest.param(*case, marks=pytest.mark.proof) for case in CASES]


@pytest.mark.parametrize("scheduler, steps, end", [("of the folders", 5, 0.8), *MORE])
def test_the_second_stage_is_theirs(scheduler, steps, end, tmp_path, one_device):
  pipes = parity.saved(tmp_path, SCHEDULERS[scheduler])
  off = parity.compare(pipes, tmp_path, steps, end)
  print(scheduler, steps, end, off)
  assert off < LATENTS


@pytest.mark.proof
def test_the_first_stage_has_a_controlnet(tmp_path, one_device):
  """Between fractions of the steps of both stages: 2 to 7 of 10, of which the first has 8."""
  pipes = parity.saved(tmp_path, base="sdxl_controlnet")
  assert parity.compare(pipes, tmp_path, steps=10, end=0.8, control=(0.2, 0.7)) < LATENTS
