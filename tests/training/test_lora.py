"""Adapters trained on a tiny model by configs/lora.py: what learns, what is written and drawn."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden_folders import build_images, write_golden

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.inference import open_model, open_pipeline
from t2i_jax.inference.adapters import export_adapter
from t2i_jax.systems.parts import split_params
from t2i_jax.training import train
from t2i_jax.training.setup import set_up

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
  "train.steps": "4", "train.batch": "8", "train.lr": "3e-2", "train.vector_lr": "3e-2",
  "model.dtype": "float32", "model.remat": "none", "sampling.steps": "2", "eval.rows": "8",
  "text.too_long": "truncate", "eval.every": "4", "checkpoint.every": "4", "mesh.fsdp": "1",
  "mesh.data": "-1", "sampling.every": "0", "sampling.batch": "2", "train.ema": "0.0",
}  # fmt: skip
PROMPT, SEED = ["image 3"], [5]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder of Stable Diffusion, and a data set. Do not change them."""
  root = tmp_path_factory.mktemp("lora")
  write_golden(root, "sd1")
  build_images(root)
  return root


def config_of(root, **changes):
  given = SMALL | {"data.dir": str(root / "data")} | changes
  return load_config(f"{ROOT}/configs/lora.py:{root / 'sd1'}:32x32", given)


@pytest.fixture(scope="module")
def run(root):
  """A run of four steps."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    train(config_of(root), root / "run")
  return root / "run"


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def test_adapters_alone_are_trained(root, one_device):
  """With moments of theirs alone; the others are stored as starts."""
  made = set_up(config_of(root))
  trainable, frozen = split_params(made.system.abstract, made.system.parts)
  assert list(trainable) == ["lora"] and set(frozen) == {"backbone", "text_encoder", "vae"}
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  moments = [leaf for leaf in jax.tree.leaves(made.abstract.opt) if leaf.ndim]
  assert size(moments) == 2 * size(trainable) < 0.1 * size(frozen)


def test_a_run_draws_merged_as_its_file_does(root, run, tmp_path, one_device):
  """Of the run itself, with the file of its adapters, and from the folder they are merged into."""
  sampling = {"sampling.batch": "1", "sampling.steps": "2"}
  size = (32, 32)
  base = open_pipeline(root / "sd1", sampling, size)
  model = open_model(run, sampling)
  plain, drawn = base.draw(PROMPT, SEED, decode=False), model.draw(PROMPT, SEED, decode=False)
  scale = np.abs(plain).max()
  assert np.abs(plain - drawn).max() > 0.01 * scale
  changed = {
    path
    for path, leaf in flat(model.params["backbone"]).items()
    if not np.array_equal(leaf, flat(base.params["backbone"])[path])
  }
  assert {path.rsplit("/", 2)[-2] for path in changed} == {"q", "kv", "out"}

  file = export_adapter(run, tmp_path / "mine.safetensors", "lora")
  given = open_pipeline(root / "sd1", sampling, size, loras=[(str(file), 1.0)])
  assert np.abs(given.draw(PROMPT, SEED, decode=False) - drawn).max() < 1e-5 * scale
  none = open_pipeline(root / "sd1", sampling, size, loras=[(str(file), 1.0), (str(file), -1.0)])
  assert np.abs(none.draw(PROMPT, SEED, decode=False) - plain).max() < 1e-4 * scale
  to = tmp_path / "merged"
  assert main(["merge", f"--from={root / 'sd1'}", f"--lora={file}", f"--to={to}"]) == 0
  merged = open_pipeline(to, sampling, size)
  assert np.abs(merged.draw(PROMPT, SEED, decode=False) - drawn).max() < 1e-5 * scale


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"adapters.lora": "lora(rank=0)"}, "rank = 0 is not in"),
    ({"adapters.lora": "lora(targets=('*/nowhere',))"}, "fit no projection. There are"),
    ({"adapters.lora": "lora(of='head')"}, "'head' is not one of the parts"),
    ({"adapters.lora": "lora(targets=('*/q=many',))"}, "no pattern=RANK"),
  ],
)
def test_wrong_choices_are_named(root, one_device, changes, words):
  with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
    set_up(config_of(root, **changes))


def test_an_adapter_of_another_model_is_refused_before_weights_are_read(root, run, tmp_path):
  file = export_adapter(run, tmp_path / "mine.safetensors", "lora", "kohya")
  write_golden(tmp_path, "flux")
  for shard in (tmp_path / "flux").rglob("*.safetensors"):
    shard.unlink()
  with pytest.raises(RestoreError, match="is the adapter of another model: lora_unet_"):
    open_pipeline(tmp_path / "flux", {}, loras=[(str(file), 1.0)])
  with pytest.raises(RestoreError, match=r"notes.safetensors is not a file"):
    open_pipeline(root / "sd1", {}, loras=[(str(tmp_path / "notes.safetensors"), 1.0)])
