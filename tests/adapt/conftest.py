"""A tiny run of scenes and images of a subject, which the tests of this folder adapt it to."""

from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
  "model.width": "64", "model.heads": "2", "model.depth": "2", "train.steps": "4",
  "train.batch": "8", "train.schedule": "constant", "train.optimizer": "adamw",
  "text.towers.text": "bag_of_words(width=32)", "eval.rows": "8", "eval.every": "0",
  "checkpoint.every": "4", "sampling.every": "0", "sampling.steps": "2", "sampling.batch": "8",
}  # fmt: skip


@pytest.fixture(scope="session")
def base(tmp_path_factory, easy_data):
  """ "base", a run of four steps, and "in", three images of a subject. Do not change them."""
  import jax

  from t2i_jax.config import load_config
  from t2i_jax.training import train

  root = tmp_path_factory.mktemp("personalise")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    given = SMALL | {"data.dir": str(easy_data)}
    train(load_config(f"{ROOT}/configs/scenes_dit_flow.py", given), root / "base")
  (root / "in").mkdir()
  for i in range(3):
    Image.new("RGB", (32, 32), (200, 60 * i, 20)).save(root / "in" / f"{i}.png")
  return root
