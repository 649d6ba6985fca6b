"""Exported models, opened and drawn by diffusers."""

import numpy as np
import pytest
from toys import saved

pytest.importorskip("diffusers")
parity = pytest.importorskip("benchmarks.pipeline_parity")

import diffusers  # noqa: E402
import torch  # noqa: E402

from t2i_jax.config import fill  # noqa: E402
from t2i_jax.inference.export import export_folder, export_run  # noqa: E402
from t2i_jax.inference.folder import folder_config  # noqa: E402

STEPS = 1
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A tiny FLUX.1 in float32, saved by diffusers."""
  folder = tmp_path_factory.mktemp("flux")
  parity.saved("flux", folder)
  return folder / "model"


def opened(folder):
  pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
  pipe.set_progress_bar_config(disable=True)
  return pipe


def drawn(pipe):
  """Images of fixed noise, in float32 arithmetic, so that weights alone make a difference."""
  pipe.to(torch.float32)
  noise = np.random.default_rng(0).standard_normal((2, 16, 16, 4)).astype(np.float32)
  patched = noise.reshape(2, 8, 2, 8, 2, 4).transpose(0, 1, 3, 5, 2, 4).reshape(2, 64, 16)
  return pipe(
    list(parity.PROMPTS),
    latents=torch.from_numpy(patched),
    height=parity.SIDE,
    width=parity.SIDE,
    num_inference_steps=STEPS,
    output_type="np",
  ).images


def test_bfloat16_draws_as_the_source_in_bfloat16(model, tmp_path):
  export_folder(model, tmp_path / "half", "bfloat16")
  source = opened(model)
  whole = drawn(source)
  expected = drawn(source.to(torch.bfloat16))
  np.testing.assert_array_equal(drawn(opened(tmp_path / "half")), expected)
  assert np.abs(whole - expected).max() > 1e-4


def test_a_run_opens_with_the_weights_that_changed(model, tmp_path):
  config = folder_config(model, (parity.SIDE, parity.SIDE)).copy_and_resolve_references()
  with config.unlocked():
    for name, part in config.parts.items():
      part.train = "all" if name in ("backbone", "text_encoder") else "none"
    config.train.update(optimizer="adamw", lr=1e-3, vector_lr=1e-3, schedule="constant", steps=2)
    config.train.update(batch=8, ema=0.9, caption_dropout={})
    config.checkpoint = {}
    fill(config, "the test")
  _, state = saved(tmp_path / "run", config, step=2)
  export_run(tmp_path / "run", tmp_path / "out")
  before, after = opened(model), opened(tmp_path / "out")
  weights = lambda pipe, part: getattr(pipe, part).state_dict()
  for part in ("transformer", "text_encoder", "text_encoder_2", "vae"):
    same = [
      torch.equal(value, weights(after, part)[key]) for key, value in weights(before, part).items()
    ]
    assert not any(same) if part in ("transformer", "text_encoder") else all(same)
  kernel = np.asarray(state.ema["backbone"]["patch_in"]["kernel"])
  theirs = after.transformer.x_embedder.weight.detach().numpy()
  np.testing.assert_array_equal(np.sort(theirs.ravel()), np.sort(kernel.ravel()))
  assert after.scheduler.config == before.scheduler.config
  assert np.isfinite(drawn(after)).all()
