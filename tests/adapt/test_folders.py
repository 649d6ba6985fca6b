"""Methods that adapt tiny published folders: each trains, and goes on bit for bit."""

import shutil

import jax
import numpy as np
import pytest
from golden_folders import build_images, write_golden

from t2i_jax.adapt.subject import AnchorImages, SubjectImages
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.inference import open_model
from t2i_jax.training import train
from tests.adapt.personalised import ROOT, train_classifier

SMALL = {
  "train.steps": "2", "train.batch": "6", "model.dtype": "float32", "model.remat": "none",
  "sampling.steps": "2", "sampling.batch": "2", "eval.every": "0", "eval.rows": "2",
  "text.too_long": "truncate", "checkpoint.every": "1", "mesh.fsdp": "1", "mesh.data": "-1",
}  # fmt: skip
PROMPTS = "prompt='image 3 4', class_prompt='image 3'"
OBJECTIVES = {
  "comfusion": f"comfusion({PROMPTS}, scenes=('5', '6'), visual=1.0, textual=1.0, "
  "features='run:{classifier}', reader='run:{classifier}', denoise_steps=1)",
  "domain_gallery": f"domain_gallery({PROMPTS}, erase_steps=1, denoise_steps=2)",
  "ablation": "ablation(regularisation=0.2)",
  "esd": "esd(denoise_steps=2)",
}
FORGETTING = ("ablation", "esd")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, easy_data, one_device):
  return train_classifier(tmp_path_factory.mktemp("classifier") / "run", easy_data)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """root/subject and root/pairs, images of two roles. Do not change it."""
  root = tmp_path_factory.mktemp("folders")
  build_images(root)
  splits = {"instance": range(3), "prior": range(3, 8), "val": range(8, 12)}
  files = tuple(
    (split, str(root / f"in/{i}.png"), "image 3 4" if split == "instance" else "image 3")
    for split, each in splits.items()
    for i in each
  )
  build(SubjectImages(files), root / "subject", workers=1, progress=False)
  pairs = {"anchor": range(3), "target": range(3), "val": range(8, 12)}
  files = tuple(
    (split, str(root / f"in/{i}.png"), "image 3 4" if split == "target" else "image 3")
    for split, each in pairs.items()
    for i in each
  )
  build(AnchorImages(files), root / "pairs", workers=1, progress=False)
  return root


each = [(model, method) for model in ("sd1", "sdxl", "flux") for method in OBJECTIVES]
QUICK = (("flux", "domain_gallery"), ("flux", "ablation"))


@pytest.mark.parametrize(
  "model, method",
  [one if one in QUICK else pytest.param(*one, marks=pytest.mark.proof) for one in each],
)
def test_a_published_model(root, classifier, tmp_path, one_device, model, method):
  write_golden(root, model)
  where = f"{ROOT}/configs/{method}.py:{root / model}:32x32"
  given = SMALL | {
    "data.dir": str(root / ("pairs" if method in FORGETTING else "subject")),
    "train.objective": OBJECTIVES[method].format(classifier=classifier),
  }
  train(load_config(where, given), tmp_path)
  whole = open_model(tmp_path)
  shutil.rmtree(tmp_path / "checkpoints/2")
  train(load_config(where, given), tmp_path)
  again = open_model(tmp_path)
  assert whole.step == again.step == 2
  jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
