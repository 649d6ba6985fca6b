"""Files of new words beside diffusers: what a text encoder gives of a prompt that has one."""

import numpy as np
import pytest
from golden_folders import write_golden
from safetensors.numpy import save_file

diffusers = pytest.importorskip("diffusers")

from t2i_jax.inference import open_pipeline  # noqa: E402


def test_a_word_of_three_tokens_is_diffusers_s(tmp_path):
  write_golden(tmp_path, "sd1")
  theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "sd1")
  width = theirs.text_encoder.config.hidden_size
  rows = np.random.default_rng(0).standard_normal((3, width), np.float32)
  file = tmp_path / "ki.safetensors"
  save_file({"<ki>": rows}, file)
  theirs.load_textual_inversion(tmp_path, weight_name=file.name)
  wants = theirs.encode_prompt("a <ki> cat", "cpu", 1, False)[0].detach().numpy()

  model = open_pipeline(tmp_path / "sd1", {}, (32, 32), embeddings=[(str(file), "")])
  tokens = {name: e.encode(["a <ki> cat"]) for name, e in model.system.text.items()}
  cond = model.system.encode_text(model.params, tokens)
  np.testing.assert_allclose(cond.towers["text"].tokens, wants, atol=1e-5 * np.abs(wants).max())
