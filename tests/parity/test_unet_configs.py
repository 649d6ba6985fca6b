"""configs/sd15.py, sd21.py and sdxl.py on tiny pipelines: they learn, and feed an image's sizes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.systems import Draws, merge_params
from t2i_jax.training.encode import encode
from tests.parity.test_finetune import Case, batches_of, started, trained

CONFIGS = Path(__file__).parents[2] / "configs"
CROP = 32  # pixels


def config_of(name, case, data, **changes):
  given = case.settings | {"data.dir": str(data), "train.schedule": "constant"} | changes
  return load_config(f"{CONFIGS / name}.py:{case.model}:{CROP}x{CROP}", given)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
  return Case("sdxl", tmp_path_factory.mktemp("sdxl"))


@pytest.mark.proof
def test_sizes_and_crops_reach_the_network(sdxl, tmp_path, one_device):
  """Of images 48 high and 80 wide, which are scaled by two thirds; of latents, the centre's."""
  (tmp_path / "in").mkdir()
  for i in range(10):
    Image.new("RGB", (80, 48), (20 * i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / f"{i}.txt").write_text(f"image {i}")
  build(Folder(str(tmp_path / "in"), val_fraction=0.2), tmp_path / "D", workers=1, progress=False)
  encode(tmp_path / "D", sdxl.model, tmp_path / "E", size=(CROP, CROP), batch=8, progress=False)
  lefts = {}
  for data, crop in (("D", "random"), ("E", "centre")):
    run, state = started(config_of("sdxl", sdxl, tmp_path / data, **{"data.crop": crop}))
    (batch,) = batches_of(run_config := config_of("sdxl", sdxl, tmp_path / data), run, 1)
    n = run_config.train.batch
    draws = Draws(jnp.full(n, 0.5), jnp.arange(n), jax.random.key(0), {}, 0)
    with jax.set_mesh(run.mesh):
      params = merge_params(state.trainable, state.frozen)
      cond = jax.jit(run.system.conditioning)(params, batch, draws)
    found = np.asarray(cond.extras["micro_conditions"])
    lefts[data] = found[:, 3].tolist()
    np.testing.assert_array_equal(found[:, [0, 1, 2, 4, 5]], [[48, 80, 0, CROP, CROP]] * n)
  assert lefts["E"] == [round((80 * 2 / 3 - CROP) / 2)] * n
  assert len(set(lefts["D"])) > 3 and 0 <= min(lefts["D"]) <= max(lefts["D"]) <= 22


@pytest.mark.proof
@pytest.mark.parametrize("name, family", [("sd15", "sd1"), ("sd21", "sd1"), ("sdxl", "sdxl")])
def test_they_learn_from_random_weights(name, family, tmp_path, one_device):
  case = Case(family, tmp_path)
  losses = trained(config_of(name, case, case.pixels), 8)
  assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:2])
