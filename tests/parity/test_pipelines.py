"""A whole pipeline of each class, drawn here and by diffusers from the same noise."""

import inspect

import pytest

from t2i_jax.pretrained.pipelines import PIPELINES, SAME

diffusers = pytest.importorskip("diffusers")
parity = pytest.importorskip("benchmarks.pipeline_parity")


# Of two classes that share their code one is live, the other in `make proof`.
LESS = {"sd3 without T5", "pixart_sigma", "flux2, shown two images", "qwen_image_edit_plus"}
LESS |= {"sd1", "sd2", "sd_turbo", "sdxl_lcm", "sd_controlnet", "sd_controlnet, two"}
LESS |= {"sd_controlnet, guess", "sd_controlnet_inpaint"}
LESS |= {"sd_controlnet_inpaint, plain"}
LESS |= {"sd3_controlnet, two", "flux_controlnet, two"}
# Their ControlNets' have all of them, and residuals.
LESS |= {"sdxl", "sd3", "flux"}


@pytest.mark.parametrize("name", [name for name in SAME if "Inpaint" not in name])
def test_the_strength_is_that_of_the_class_that_takes_images(name):
  call = inspect.signature(getattr(diffusers, name).__call__).parameters
  assert PIPELINES[SAME[name]].strength == call["strength"].default


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=[pytest.mark.proof] * (name in LESS)) for name in parity.PIPELINES],
)
def test_it_draws_what_the_reference_draws(name, tmp_path, one_device):
  pipe = parity.saved(name, tmp_path)
  found = parity.compare(name, pipe, tmp_path / "model", steps=4)
  assert found.latents < parity.LATENTS
  assert found.pixels > parity.PIXELS
