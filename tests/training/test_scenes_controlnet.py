"""A ControlNet trained on a tiny model of scenes by configs/scenes_controlnet.py."""

import base64
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.loader import validation_batches
from t2i_jax.data.scenes import make_scene, outlines
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.inference import open_model
from t2i_jax.models.class_dit import ClassDiTConfig
from t2i_jax.systems.controlnet_choices import Base, of_backbone
from t2i_jax.training import train
from t2i_jax.training.restore import load_starts
from t2i_jax.training.setup import set_up
from t2i_jax.training.state import abstract_params

CONFIG = Path(__file__).resolve().parents[2] / "configs/scenes_controlnet.py"
SHORT = {
  "train.steps": 2, "train.batch": 8, "train.schedule": "constant", "eval.every": 2,
  "checkpoint.every": 2, "sampling.every": 2, "log.every": 1,
}  # fmt: skip
CHOICE = "of_backbone(condition='outlines', depth=1)"


@pytest.fixture(scope="module")
def runs(tiny, tiny_config, one_device, tmp_path_factory):
  """Work directories of a base of two blocks and of a ControlNet with one. Do not change them."""
  root = tmp_path_factory.mktemp("scenes_controlnet")
  train(tiny_config(SHORT), root / "base")
  train(of(root / "base", tiny), root / "net")
  return root


def of(base, tiny, **changes):
  given = tiny(SHORT | {"controlnets.controlnet": CHOICE} | changes)
  return load_config(f"{CONFIG}:{base}", given)


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def test_it_starts_as_the_first_blocks_and_the_model_as_its_base(runs, tiny, one_device):
  run = set_up(of(runs / "base", tiny))
  system, starts = run.system, load_starts(run.system, abstract_params(run.system, run.mesh))
  copied, base = flat(starts["controlnet"]), flat(starts["backbone"])
  own = flat(system.abstract["controlnet"])
  assert {path.split("/")[0] for path in own.keys() - copied.keys()} == {"hint_in", "outputs"}
  for path, leaf in copied.items():
    stacked = path.startswith(("blocks/", "adaln/"))
    np.testing.assert_array_equal(leaf, base[path][:1] if stacked else base[path])

  fresh = system.init(jax.random.key(0))
  net = flat(fresh["controlnet"]) | copied
  params = starts | {"controlnet": traverse_util.unflatten_dict(net, sep="/")}
  (batch,) = validation_batches(run.val_source, run.row_maker, 8, 8, np.arange(8))
  assert batch.conditions["controlnet"].any() and batch.images.shape[1:] == (1, 32, 32, 3)
  plain = set_up(of(runs / "base", tiny)).system
  object.__setattr__(plain, "controlnets", {})
  forward = lambda one: jax.jit(one.forward)(params, batch)
  np.testing.assert_array_equal(forward(system), forward(plain))


def test_only_the_controlnet_learns(runs, tiny, one_device):
  run = set_up(of(runs / "base", tiny))
  assert set(run.abstract.trainable) == {"controlnet"} == set(run.abstract.ema)
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  trained = count(run.abstract.trainable)
  assert 2 * trained <= count(run.abstract.opt) < 2.1 * trained  # AdamW's two moments
  base, net = open_model(runs / "base"), open_model(runs / "net")
  for part in ("backbone", "text"):
    jax.tree.map(np.testing.assert_array_equal, net.params[part], base.params[part])
  moved = {path.split("/")[0] for path, leaf in flat(net.params["controlnet"]).items()
           if "kernel" in path and np.abs(leaf).max() > 0}  # fmt: skip
  assert {"outputs", "hint_in"} <= moved
  assert list((runs / "net/samples").glob("*.png"))


def test_it_is_drawn_with_from_the_command_line(runs, tmp_path, capsys):
  scene = make_scene(0, "easy", "heldout")
  Image.fromarray(outlines(scene.objects, 32)).save(tmp_path / "outlines.png")
  args = ["sample", f"--workdir={runs / 'net'}", f"--prompt={scene.caption}"]
  given = [f"--control={tmp_path / 'outlines.png'}", f"--out={tmp_path / 'drawn'}"]
  assert main([*args, *given]) == 0
  assert Image.open(next((tmp_path / "drawn").glob("0000*.png"))).size == (32, 32)
  assert main(args) == 2 and "give --control=FILE" in capsys.readouterr().err
  export = ["export", f"--workdir={runs / 'net'}", "--part=controlnet", f"--to={tmp_path / 'to'}"]
  assert main(export) == 2
  assert "a DiTControlNetConfig has no published layout" in capsys.readouterr().err


def test_its_report_shows_the_condition_beside_the_drawing(runs, capsys):
  args = ["eval", f"--workdir={runs / 'net'}", "--steps=2"]
  assert main(args) == 0
  page = Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text()
  cards = [base64.b64decode(found) for found in re.findall(r"image/png;base64,([^\"]+)", page)]
  assert sum(Image.open(io.BytesIO(card)).size == (64, 32) for card in cards) >= 24
  assert main([*args, "--curve"]) == 2 and "has a ControlNet" in capsys.readouterr().err


def test_what_is_refused_before_training(runs, tiny, tmp_path, one_device):
  deep = "of_backbone(condition='outlines', depth=3)"
  with pytest.raises(ConfigError, match="depth = 3: the backbone has 2 blocks"):
    set_up(of(runs / "base", tiny, **{"controlnets.controlnet": deep}))
  wide = "of_backbone(condition='outlines', hint_widths=(16,))"
  with pytest.raises(ConfigError, match="hint_widths is not of a ControlNet of a DiTConfig"):
    set_up(of(runs / "base", tiny, **{"controlnets.controlnet": wide}))
  other = ClassDiTConfig(width=32, depth=1, heads=2, patch=2, channels=4, out=4, classes=3, side=8)
  with pytest.raises(
    ConfigError, match="of a UNet or DiT or SD3 or Flux, and this model's backbone is a Class"
  ):
    of_backbone(Base(other, 1), "outlines")

  (tmp_path / "in").mkdir()
  for i in range(20):
    Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / f"{i}.txt").write_text("a red circle")
  build(Folder(str(tmp_path / "in"), val_fraction=0.3), tmp_path / "data", workers=1,
        progress=False)  # fmt: skip
  mine = {"data.dir": str(tmp_path / "data"), "text.tokenizer": "bytes"}
  with pytest.raises(DataError, match=r"controlnets\.controlnet: record .* has no 'objects'"):
    set_up(of(runs / "base", tiny, **mine))
