"""Files of the original layout of Stable Diffusion beside the converters of diffusers."""

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch
from diffusers.loaders import single_file_utils as judge

from benchmarks import tiny_pipelines
from benchmarks.original_files import of_folder

SD1, SD2, SDXL, REFINER = "sd1", "sd2", "sdxl", "sdxl_refiner"
ENCODERS = {
  SD1: {"text_encoder": "cond_stage_model.transformer."},
  SD2: {"text_encoder": "cond_stage_model.model."},
  SDXL: {
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
  },
  REFINER: {"text_encoder_2": "conditioner.embedders.0.model."},
}


def as_published(model, tensors):
  """Whether tensors are exactly a model's."""
  own = {name: value for name, value in model.state_dict().items() if "position_ids" not in name}
  assert own.keys() == tensors.keys()
  for name, value in own.items():
    np.testing.assert_array_equal(value.numpy(), tensors[name].numpy(), err_msg=name)


@pytest.mark.parametrize("name", ENCODERS)
def test_its_names_are_those_that_diffusers_converts(name, tmp_path):
  pipe = tiny_pipelines.PIPELINES[name].make(tmp_path / "tokenizers")
  pipe.save_pretrained(tmp_path / "model")
  tensors = of_folder(tmp_path / "model", ENCODERS[name])
  file = {key: torch.tensor(np.asarray(value)) for key, value in tensors.items()}
  as_published(pipe.unet, judge.convert_ldm_unet_checkpoint(dict(file), dict(pipe.unet.config)))
  as_published(pipe.vae, judge.convert_ldm_vae_checkpoint(dict(file), dict(pipe.vae.config)))
  for part, prefix in ENCODERS[name].items():
    model = getattr(pipe, part)
    if prefix.endswith(".model."):
      found = judge.convert_open_clip_checkpoint(model, dict(file), prefix)
    else:
      found = judge.convert_ldm_clip_checkpoint(dict(file))
    prefixed = any(key.startswith("text_model.") for key in model.state_dict())
    if not prefixed:
      found = {key.removeprefix("text_model."): value for key, value in found.items()}
    as_published(model, found)
