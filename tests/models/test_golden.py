"""What diffusers answered, kept in tests/golden: our models answer it too, without torch."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2i_jax.pretrained import SPECS, load
from t2i_jax.pretrained.tensors import STEM

ROOT = Path(__file__).resolve().parents[2]

from benchmarks.model_cases import CASES, GOLDEN, answer, distance, formula_weights, from_arrays  # noqa: E402


@pytest.mark.newest(all_cases=True)
@pytest.mark.parametrize("name", GOLDEN)
def test_the_folder_answers_as_diffusers_did(name, tmp_path):
  with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
    kept = dict(file)
  (tmp_path / "config.json").write_text(str(kept["config"]))
  save_file(formula_weights(CASES[name]), tmp_path / f"{STEM}.safetensors")
  module, config, params = load(tmp_path)
  assert distance(answer(module, config, params, from_arrays(kept)), kept["answer"]) < 1e-4


def test_every_backbone_has_a_small_file():
  named = ("Transformer", "UNet", "ControlNet")
  backbones = {kind for kind in SPECS if any(name in kind for name in named)}
  assert {CASES[name].theirs for name in GOLDEN} == backbones
  files = list((ROOT / "tests" / "golden").iterdir())
  assert {path.name for path in files} == {f"{name}.npz" for name in GOLDEN}
  assert max(path.stat().st_size for path in files) < 60_000
