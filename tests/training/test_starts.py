"""Where weights start, and frozen ones that are stored as start and hash."""

import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest
from tiny_published import CONFIGS as PUBLISHED
from tiny_published import random_params
from toys import CONFIGS, config_of, register, saved, system_of

from t2i_jax import pretrained
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.inference import open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.training.checkpoint import open_checkpoints
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.restore import load_starts, restore_state
from t2i_jax.training.state import abstract_params, abstract_state

PIXART = {
  "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
  "text.length": "16", "text.towers.text": "transformer(width=16, depth=1, heads=2, tokens=24)",
  "model.width": "48", "model.depth": "2", "model.heads": "4", "model.patch": "2",
  "model.channels": "4", "model.side": "8", "model.interpolation": "1.0", "model.sizes": "False",
  "train.batch": "8", "train.schedule": "constant", "sampling.batch": "8",
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  register(monkeypatch)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def starts_of(config):
  system = system_of(config)
  return load_starts(system, abstract_params(system, make_mesh()))


def restored(workdir):
  """The state of the newest checkpoint, as a training run reads it."""

  def read(step):
    meta = checkpoints.meta(step)
    system = system_of(meta.config)
    abstract = abstract_state(system, make_optimizers(meta.config.train, system), make_mesh())
    return restore_state(checkpoints, step, meta, system, abstract)

  with closing(open_checkpoints(workdir)) as checkpoints:
    return checkpoints.newest(read)[1]


@pytest.fixture
def folder(tmp_path):
  """A folder as diffusers writes it, and its parameters."""
  params = jax.tree.map(jax.numpy.asarray, random_params(PUBLISHED["pixart"]))
  pretrained.save(tmp_path / "published", PUBLISHED["pixart"], params)
  return tmp_path / "published", params


def pixart(start, **changes):
  changes = {"parts.backbone.start": start} | changes
  return config_of(changes, f"{CONFIGS}/pixart.py", PIXART)


def test_a_backbone_starts_from_a_published_folder(folder):
  path, params = folder
  found = starts_of(pixart(f"folder:{path}"))
  assert list(found) == ["backbone"]
  same(found["backbone"], params)
  with pytest.raises(ConfigError, match=r"is another model: model.depth = 3 is 2 there"):
    starts_of(pixart(f"folder:{path}", **{"model.depth": "3"}))
  with pytest.raises(RestoreError, match="nowhere is not a folder"):
    starts_of(pixart("folder:/nowhere"))


def test_a_part_starts_from_the_averages_of_another_run(tmp_path):
  _, state = saved(tmp_path / "run", config_of(), step=3)
  found = starts_of(config_of({"parts.text.start": f"run:{tmp_path / 'run'}"}))
  assert list(found) == ["text"]
  same(found["text"], state.ema["text"])
  wider = {"text.towers.text": "bag_of_words(width=32)"}
  with pytest.raises(ConfigError, match="its weights have other shapes"):
    starts_of(config_of(wider | {"parts.text.start": f"run:{tmp_path / 'run'}"}))
  plain = {"start": "", "train": "all"}
  other = {"backbone": plain, "a": {"start": f"run:{tmp_path / 'run'}", "train": "all"}}
  renamed = config_of(
    text__towers={"a": "bag_of_words(width=16)"}, parts=other, train__caption_dropout={"a": 0.0}
  )
  with pytest.raises(ConfigError, match=r"parts.a.start = 'run:.*has the parts backbone, text"):
    starts_of(renamed)
  with pytest.raises(RestoreError, match="has no checkpoints"):
    starts_of(config_of({"parts.text.start": f"run:{tmp_path / 'none'}"}))


def test_frozen_weights_are_stored_as_start_and_hash(folder, tmp_path):
  path, params = folder
  workdir = tmp_path / "run"
  saved(workdir, pixart(f"folder:{path}", **{"parts.backbone.train": "none"}), step=4)
  meta = json.loads((workdir / "checkpoints/4/meta/metadata").read_text())
  assert meta["copied"] == [] and list(meta["frozen"]) == ["backbone"]
  items = {item.name for item in (workdir / "checkpoints/4").iterdir()}
  assert "frozen" not in items and {"params", "ema", "opt", "meta"} <= items
  state = restored(workdir)
  same(state.frozen["backbone"], params)
  assert list(state.trainable) == ["text"] and int(state.step) == 4

  shutil.rmtree(path)
  other = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-3), params)
  pretrained.save(path, PUBLISHED["pixart"], other)
  with pytest.raises(RestoreError, match=r"part 'backbone' in folder:.* are not those that step 4"):
    restored(workdir)
  shutil.rmtree(path)
  with pytest.raises(RestoreError, match="is not a folder"):
    restored(workdir)


@pytest.mark.newest
def test_a_copy_of_frozen_weights_needs_no_folder(folder, tmp_path):
  path, params = folder
  changes = {"parts.backbone.train": "none", "checkpoint.frozen": "copy"}
  saved(tmp_path / "run", pixart(f"folder:{path}", **changes), step=4)
  shutil.rmtree(path)
  same(restored(tmp_path / "run").frozen["backbone"], params)


def test_what_is_frozen_at_random_is_stored_as_it_is(tmp_path):
  frozen = {"parts.text.train": "none"}
  _, state = saved(tmp_path / "run", config_of(frozen), step=2)
  same(restored(tmp_path / "run").frozen, state.frozen)
  same(open_model(tmp_path / "run").params["text"], state.frozen["text"])
  with pytest.raises(ConfigError, match=r"checkpoint.frozen = 'hash' is not one of start, copy"):
    saved(tmp_path / "other", config_of(frozen | {"checkpoint.frozen": "hash"}))


def test_older_formats(tmp_path, capsys):
  """Format 2 is read, and that it has no checksums is said; format 1 is refused."""
  _, state = saved(tmp_path, config_of(), step=2)
  path = tmp_path / "checkpoints/2/meta/metadata"
  meta = json.loads(path.read_text())
  assert meta["format"] == 3
  without = {k: v for k, v in meta.items() if k not in ("arrays", "data", "sha256")}
  path.write_text(json.dumps(without | {"format": 2}))
  same(open_model(tmp_path).params, state.ema)
  assert capsys.readouterr().err.count("cannot be verified") == 1
  path.write_text(json.dumps(without | {"format": 1}))
  with pytest.raises(RestoreError, match=r"another version of t2i_jax \(format 1; this one reads"):
    open_model(tmp_path)
  path.write_text(json.dumps(meta | {"format": 2}))  # one changed bit, and no older format
  with pytest.raises(RestoreError, match="its meta is not what was saved"):
    open_model(tmp_path)
