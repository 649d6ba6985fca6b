"""A ControlNet trained on a tiny Stable Diffusion by configs/controlnet.py, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from golden_folders import build_images, write_golden
from PIL import Image

from t2i_jax.cli.main import main
from t2i_jax.config import compared_with, load_config
from t2i_jax.data.source import ShardSource
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model, open_pipeline
from t2i_jax.models.controlnet import ControlNetConfig
from t2i_jax.pretrained import load
from t2i_jax.systems import make_system
from t2i_jax.systems.tasks import ControlImages
from t2i_jax.training import train
from t2i_jax.training.restore import load_starts
from t2i_jax.training.setup import set_up
from t2i_jax.training.state import abstract_params

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
  "train.steps": "6", "train.batch": "8", "train.lr": "3e-3", "train.vector_lr": "3e-3",
  "model.dtype": "float32", "model.remat": "none", "sampling.steps": "2", "eval.rows": "8",
  "text.too_long": "truncate", "eval.every": "6", "checkpoint.every": "6", "mesh.fsdp": "1",
  "mesh.data": "-1", "sampling.every": "6", "sampling.batch": "8",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder of Stable Diffusion, one with a ControlNet, and a data set. Do not change them."""
  root = tmp_path_factory.mktemp("controlnet")
  write_golden(root, "sd1", "sd_controlnet")
  build_images(root)
  return root


def config_of(root, model="sd1", file="controlnet", **changes):
  given = SMALL | {"data.dir": str(root / "data")} | changes
  return load_config(f"{ROOT}/configs/{file}.py:{root / model}:32x32", given)


def starts_of(config):
  run = set_up(config)
  return run, load_starts(run.system, abstract_params(run.system, run.mesh))


def test_it_starts_as_a_copy_of_the_way_down_and_adds_nothing(root, one_device):
  config = config_of(root)
  assert set(config.train.caption_dropout.values()) == {0.5}
  name, other = compared_with(f"{ROOT}/configs/controlnet.py:{root / 'sd1'}:32x32")
  assert name == "finetune_sd1" and "controlnets" not in other
  run, starts = starts_of(config)
  assert {n for n, part in run.system.parts.items() if part.train == "all"} == {"controlnet"}
  flat = {n: traverse_util.flatten_dict(tree, sep="/") for n, tree in starts.items()}
  copied = flat["controlnet"]
  own = set(traverse_util.flatten_dict(run.system.abstract["controlnet"], sep="/"))
  new = {p.split("/")[0] for p in own - copied.keys()}
  assert new == {"embedding", "after_middle", *(f"skip{i}" for i in range(4))}
  for path, leaf in copied.items():
    np.testing.assert_array_equal(leaf, flat["backbone"][path])


@pytest.mark.parametrize("model", ["flux", "sd3"])
def test_a_transformer_s_starts_as_its_first_blocks(root, tmp_path, one_device, model):
  """And, with matrices of zeros after them, adds nothing."""
  write_golden(root, model)
  run, starts = starts_of(config_of(root, model=model))
  flat = {n: traverse_util.flatten_dict(tree, sep="/") for n, tree in starts.items()}
  own = traverse_util.flatten_dict(run.system.abstract["controlnet"], sep="/")
  new = {path.split("/")[0] for path in own.keys() - flat["controlnet"].keys()}
  assert new == ({"hint_in", "double_residual"} if model == "flux" else {"hint_in", "residual"})
  for path, leaf in flat["controlnet"].items():
    np.testing.assert_array_equal(leaf, flat["backbone"][path][: len(leaf)])


def test_what_is_refused(root, one_device):
  with pytest.raises(ConfigError, match=r"parts\.backbone\.start='folder:PATH' or 'run:PATH'"):
    starts_of(config_of(root, **{"parts.backbone.start": ""}))
  with pytest.raises(ConfigError, match="only a ControlNet starts as a copy of the backbone"):
    set_up(config_of(root, **{"parts.vae.start": "base"}))
  with pytest.raises(ConfigError, match="'sharp' is not one of edges, grey, blurred"):
    set_up(config_of(root, **{"controlnets.controlnet": "of_backbone(condition='sharp')"}))
  with pytest.raises(ConfigError, match="7 does not divide 32 x 32 pixels"):
    choice = "of_backbone(condition='blurred(factor=7)')"
    set_up(config_of(root, **{"controlnets.controlnet": choice}))
  found = f"folder(path='{root / 'sd_controlnet/controlnet'}')"
  run = set_up(config_of(root, **{"controlnets.controlnet": found}))
  with pytest.raises(ConfigError, match="training does not know its condition images"):
    run.system.losses({}, run.system.rows(8), None)


def test_a_pipeline_with_a_controlnet_is_trained_without_it(root, one_device):
  config = config_of(root, model="sd_controlnet", file="finetune")
  assert "controlnets" not in config and "controlnet" not in config.parts
  assert not make_system(config, set_up(config).tokenizer).controlnets


@pytest.mark.proof
@pytest.mark.parametrize("model", ["flux", "sd3"])
def test_a_transformer_s_is_trained_and_written(root, tmp_path, one_device, model):
  run, net = tmp_path / "run", tmp_path / "net"
  write_golden(root, model)
  train(config_of(root, model=model), run)
  assert main(["export", f"--workdir={run}", "--part=controlnet", f"--to={net}"]) == 0
  settings = {"sampling.steps": "2", "sampling.batch": "8"}
  model, other = open_model(run), open_pipeline(root / model, settings, (32, 32), controlnets=[net])
  given = model.system.condition_images([ShardSource(root / "data", "val")[0]])
  one, two = (m.draw(["image 1"], [0], controls=given, decode=False) for m in (model, other))
  np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())
  plain = other.draw(["image 1"], [0], controls=given._replace(scales=(0.0,)), decode=False)
  assert np.abs(one - plain).max() > 1e-4 * np.abs(one).max()


@pytest.mark.proof
def test_it_is_trained_written_and_drawn_with(root, tmp_path, one_device):
  """From a run and from the folder that it is exported to, the same image."""
  run, net = tmp_path / "run", tmp_path / "net"
  train(config_of(root), run)
  assert (run / "samples").is_dir() and any((run / "samples").glob("*.png"))
  assert main(["export", f"--workdir={run}", "--part=controlnet", f"--to={net}"]) == 0
  _, config, params = load(net)
  assert isinstance(config, ControlNetConfig) and np.abs(params["after_middle"]["kernel"]).max() > 0
  model = open_model(run)
  base = load(root / "sd1/unet")[2]
  np.testing.assert_array_equal(
    model.params["backbone"]["conv_in"]["kernel"], base["conv_in"]["kernel"]
  )
  settings = {"sampling.steps": "2", "sampling.batch": "8"}
  other = open_pipeline(root / "sd1", settings, (32, 32), controlnets=[net])
  given = model.system.condition_images([ShardSource(root / "data", "val")[0]])
  assert isinstance(given, ControlImages)
  one, two = (m.draw(["image 1"], [0], controls=given, decode=False) for m in (model, other))
  np.testing.assert_allclose(one, two, atol=1e-4 * np.abs(one).max())
  plain = other.draw(["image 1"], [0], controls=given._replace(scales=(0.0,)), decode=False)
  assert np.abs(one - plain).max() > 1e-3 * np.abs(one).max()
  Image.fromarray(given.images[0][0]).save(tmp_path / "edges.png")
  args = ["sample", f"--workdir={run}", f"--control={tmp_path / 'edges.png'}", "--prompt=image 1"]
  assert main([*args, f"--out={tmp_path / 'drawn'}"]) == 0
