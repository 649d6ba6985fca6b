"""Every config: loads, is traced at full size, runs shrunk, learns, has no unread key."""

import ast
import importlib.util
import inspect
import io
import json
import math
import re
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from t2i_jax.cli import evaluate
from t2i_jax.config import DEFAULTS, leaves, load_config, to_json
from t2i_jax.data.batch import Batch, Tokens
from t2i_jax.data.build import build
from t2i_jax.data.documents import Packed
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.from_webdataset import WebDataset
from t2i_jax.data.scenes import make_scene, prompts
from t2i_jax.data.tokenize import Tokenizer, train_bpe
from t2i_jax.errors import ConfigError
from t2i_jax.parallel import MESH_AXES, make_mesh
from t2i_jax.plan.describe import system_of
from t2i_jax.plan.pod import abstract_batch, total_bytes
from t2i_jax.training import train
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import abstract_state, create_state
from t2i_jax.training.step import jit_train_step, make_train_step
from tests.config_files import ALONE, FILES


def of_latents(config):
  """Whether it is trained on records that are latents."""
  return config.autoencoder == "identity" and config.model.channels != 3


LATENTS = [path for path in ALONE if of_latents(load_config(path))]
# Keys that training does not read -> who reads them.
READ_ELSEWHERE = {"score.level": evaluate}
SHRUNK = {
  "text.towers.text": "bag_of_words(width=16)", "text.vocab": "600",
  "text.length": "24",
  "model.width": "32", "model.depth": "2", "model.heads": "2",
  "train.batch": "8", "train.steps": "2", "train.optimizer": "adamw",
  "train.schedule": "cosine(warmup=1)", "log.every": "1",
  "eval.rows": "8", "sampling.steps": "2", "sampling.batch": "8",
  "sampling.prompts": "('a red circle', 'a blue square')",
  "data.val_split": "val", "data.workers": "0", "data.image_size": "(16, 16)",
  "model.double_blocks": "1", "model.single_blocks": "1", "model.rope_axes": "(4, 4, 8)",
}  # fmt: skip
# By what a model needs besides: heads of another width, four axes, labels.
OF_LATENTS = {"data.image_size": "(8, 8)", "model.channels": "4"}
LABELS = {
  "text.towers.label": "label", "text.length": "1", "text.vocab": "1001",
  "sampling.prompts": "('1', '2')",
}  # fmt: skip
OF_KIND = {
  "pixart": {"model.width": "48"},
  "flux2": {"model.rope_axes": "(4, 4, 4, 4)"},
  "class_dit": LABELS,
  "unet": {"model.widths": "(8, 8, 8, 8)", "model.heads": "(2, 2, 2, 2)"},
  "transfusion": {
    "model.kv_heads": "2", "rows.length": "120", "rows.images": "3", "rows.window": "2",
  },
}  # fmt: skip
# What learns four latents by heart in a minute.
LEARNS = {
  "model.width": "64", "model.single_blocks": "2", "model.rope_axes": "(8, 12, 12)",
  "model.side": "8", "model.max_side": "4", "text.length": "6", "train.batch": "32",
  "train.steps": "200", "train.optimizer": "muon(b2=0.99)", "train.lr": "2e-2",
  "train.vector_lr": "1e-2", "train.schedule": "cosine(warmup=10)", "model.dtype": "float32",
}  # fmt: skip
LEARNS_OF_KIND = {
  "pixart": {"model.width": "48"},
  "flux2": {"model.rope_axes": "(8, 8, 8, 8)", "train.batch": "64"},  # the slowest to learn
  "class_dit": LABELS,
}


def variants_of(path):
  """The names by which a config of a file can be asked for."""
  found = re.search(r"^VARIANTS", path.read_text(), re.MULTILINE)
  return [f"{path}:{v}" for v in config_module(path).VARIANTS] if found else [str(path)]


def config_module(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def small_autoencoder(config):
  """Overrides: one level of 4 channels, few codes, a small discriminator that starts at step 1."""
  sizes = {"widths": "(4,)", "groups": "2", "codes": "6"}
  text, objective = config.autoencoder, config.train.objective
  for name, value in sizes.items():
    text = re.sub(rf"{name}=(\([\d, ]*\)|\d+)", f"{name}={value}", text)
  return {
    "autoencoder": text.replace("measured", "mid_attention=False, measured"),
    "train.objective": re.sub(r"start=\d+", "start=1", objective),
    "model.discriminator": "patch(width=4, layers=1, groups=2)",
  }


VARIANTS = [variant for path in ALONE for variant in variants_of(path)]
OURS = ("dit", "transfusion")
PUBLISHED = [path for path in LATENTS if load_config(path).model.kind not in OURS]
COMPARED = [v for v in VARIANTS if "/compare/text_conditioning" in v]

each_config = pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)


def test_there_are_configs_for_pictures_and_for_latents():
  assert {"scenes_dit_flow", "scenes_dit_ddpm", "emoji_dit_flow"} <= {p.stem for p in ALONE}
  assert LATENTS


below_configs = lambda path: str(path).split("configs/")[-1]


@pytest.mark.parametrize("variant", VARIANTS, ids=below_configs)
def test_loads_under_its_own_name_with_at_most_60_keys(variant):
  config = load_config(variant)
  path = Path(variant.partition(":")[0])
  plain = "".join(c if c.isalnum() else "_" for c in path.stem + variant.partition(":")[2].lower())
  bare = lambda name: name.replace("_", "")
  assert bare(config.name) == bare(plain)
  listed = config_module(path).get_config(*variant.split(":")[1:])
  assert len(leaves(listed)) <= 60
  text = path.read_text()
  assert f"--config=configs/{below_configs(path)}" in text
  assert "\nResult:" in text


@pytest.mark.parametrize("path", FILES, ids=below_configs)
def test_a_config_derives_from_one_parent_that_has_none_and_deletes_nothing(path):
  module = config_module(path)
  derived = [name for name, value in vars(module).items() if hasattr(value, "get_config")]
  assert derived in ([], ["parent"])
  if derived:
    assert not any(hasattr(value, "get_config") for value in vars(module.parent).values())
  statements = list(ast.walk(ast.parse(path.read_text())))
  assert not any(isinstance(node, ast.Delete) for node in statements)
  called = {node.attr for node in statements if isinstance(node, ast.Attribute)}
  assert not called & {"pop", "popitem", "clear", "__delitem__", "__delattr__"}


def test_defaults_of_rows_are_those_of_packed():
  rows = {key.removeprefix("rows."): d for key, d in DEFAULTS.items() if key.startswith("rows.")}
  assert rows == Packed._field_defaults


def test_keys_of_a_backbone_that_a_config_does_not_list():
  path = Path(__file__).parents[1] / "configs/transfusion_scenes.py"
  config = load_config(path, {"model.rope_theta": "500", "model.tied": "True"})
  built = system_of(config).model_config
  assert (built.rope_theta, type(built.rope_theta), built.tied) == (500.0, float, True)
  assert json.loads(to_json(config))["model"]["tied"] is True
  for overrides, words in (
    ({"model.rope_thta": "500"}, "model.kind = 'transfusion'. Nearest: model.rope_theta (now 100"),
    ({"model.lr": "1"}, "model.lr is not a key of model.kind = 'transfusion'. Nearest: train.lr"),
    ({"model.tied": "1"}, "tied = 1 is an integer; write True or False"),
    ({"model.vocab": "600"}, "has no key vocab"),  # text.vocab decides it
    ({"model.time": "later"}, "model.time = 'later' is not one of"),
  ):
    with pytest.raises(ConfigError, match=re.escape(words)):
      system_of(load_config(path, overrides))


@each_config
def test_full_size_is_traced_without_allocating(path):
  config = load_config(path)
  sizes = tuple(max(1, config.mesh[axis]) for axis in MESH_AXES)
  mesh = AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
  system = system_of(config)
  optimizers = make_optimizers(config.train, system)
  state = abstract_state(system, optimizers, mesh)
  shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
  assert total_bytes(state, a_device=True) <= 1.1 / shards * total_bytes(state)
  batch = abstract_batch(system, config.train.batch, mesh)
  after, metrics = jax.eval_shape(make_train_step(system, optimizers, config), state, batch)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(after) == shapes(state)
  assert metrics["loss"].shape == ()
  count = sum(math.prod(x.shape) for x in jax.tree.leaves((state.trainable, state.frozen)))
  print(f"{path.stem}: {count / 1e6:.2f} M parameters, {system.flops / 1e9:.2f} GFLOPs a forward")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  out = tmp_path_factory.mktemp("data") / "images"
  build(Scenes("easy", None, 32, 8, 0), out, workers=1, progress=False)
  return out


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
  """Latents [8, 8, 4] in a tar, as a user would bring them."""
  folder, rng = tmp_path_factory.mktemp("tars"), np.random.default_rng(0)
  with tarfile.open(folder / "a.tar", "w") as tar:
    for i in range(40):
      npy = io.BytesIO()
      np.save(npy, rng.standard_normal((8, 8, 4), dtype=np.float32))
      for name, data in ((f"{i}.npy", npy.getvalue()), (f"{i}.txt", str(i).encode())):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
  out = tmp_path_factory.mktemp("data") / "latents"
  build(WebDataset(str(folder), val_fraction=0.2), out, workers=1, progress=False)
  return out


def record_reads(config, monkeypatch):
  """The set of dotted keys that are read from now on, other than to write down the whole."""
  prefixes, read = {}, set()

  def walk(node, prefix):
    prefixes[id(node)] = prefix
    for key, value in node.items():
      if isinstance(value, ConfigDict):
        walk(value, f"{prefix}{key}.")

  walk(config, "")
  original, to_dict = ConfigDict.__getitem__, ConfigDict.to_dict

  def recording(self, name):  # attributes are read by it, too
    if id(self) in prefixes:
      read.add(prefixes[id(self)] + name)
    return original(self, name)

  monkeypatch.setattr(ConfigDict, "__getitem__", recording)
  written = lambda self, *rest: to_dict(self.copy_and_resolve_references(), *rest)
  monkeypatch.setattr(ConfigDict, "to_dict", written)
  return read


# One of each system, objective and kind of data; `make proof` has all.
TRAINED_HERE = ("scenes_dit_flow", "dit", "transfusion_scenes", "scenes_classifier")
TRAINED_HERE += ("scenes_meanflow", "vae_kl")
RUN = [*map(str, ALONE), COMPARED[0].partition(":")[0] + ":double_single"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "path",
  [
    path if Path(path).stem in TRAINED_HERE else pytest.param(path, marks=pytest.mark.proof)
    for path in RUN
  ],
  ids=below_configs,
)
def test_two_shrunk_steps_are_finite_and_leave_no_key_unread(
  path, images, latents, tmp_path, monkeypatch
):
  whole = load_config(path)
  on_latents = of_latents(whole)
  has = leaves(whole)
  shrunk = SHRUNK | OF_KIND.get(whole.model.kind, {}) | (OF_LATENTS if on_latents else {})
  if whole.model.kind == "autoencoder":
    shrunk |= small_autoencoder(whole)
  shrunk = {key: value for key, value in shrunk.items() if key in has}
  data = {"data.dir": str(latents if on_latents else images)}
  config = load_config(path, shrunk | data | {"mesh.data": "1", "mesh.fsdp": "1"})
  # The mesh of each config is that of the test above; meshes of eight are those of tests/models.
  monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
  read = record_reads(config, monkeypatch)
  train(config, tmp_path)
  monkeypatch.undo()
  entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(e["step"], e["kind"]) for e in entries] == [(1, "train"), (2, "train"), (2, "val")]
  assert all(np.isfinite(e["loss"]) for e in entries)
  drawn = not on_latents and whole.model.kind not in ("classifier", "image_encoder")
  assert (tmp_path / "samples/step_00000002.png").exists() == drawn
  assert set(leaves(config)) - read == set(READ_ELSEWHERE)


@pytest.mark.proof
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_backbone_learns_four_pictures_by_heart(path):
  """Loss, smoothed over the last ten steps of random times, against that of the first.

  Seen with 64 rows each: flow 2.03 -> 0.09 to 0.14 (FLUX.2 0.52), DDPM 1.01 -> 0.07 and 0.14; with
  32, Z-Image 0.16 and FLUX.2 0.68. Noise is drawn anew each step, so that 0 is not reached.
  """
  kind = load_config(path).model.kind
  has = leaves(load_config(path))
  shrunk = SHRUNK | OF_LATENTS | LEARNS | LEARNS_OF_KIND.get(kind, {})
  config = load_config(path, {key: value for key, value in shrunk.items() if key in has})
  system, mesh = system_of(config), make_mesh(1, 1, 1, devices=jax.devices()[:1])
  optimizers = make_optimizers(config.train, system)
  abstract = abstract_state(system, optimizers, mesh)
  step = jit_train_step(system, optimizers, config, mesh, abstract)
  rows, rng = config.train.batch, np.random.default_rng(0)
  which = np.arange(rows) % 4
  images = rng.standard_normal((4, *system.x_shape), dtype=np.float32)[which]
  ((name, encoder),) = system.text.items()
  ones = np.ones((rows, 1), np.float32)
  ids = np.tile(which[:, None] + 3, (1, encoder.length)).astype(np.int32)
  text = {name: Tokens(ids, np.ones(ids.shape, bool))}
  batch = Batch(images[:, None], ones, ones, text)
  with jax.set_mesh(mesh):
    state = create_state(system, optimizers, abstract, jax.random.key(0))
    losses = []
    for _ in range(config.train.steps):
      state, metrics = step(state, batch)
      losses.append(metrics["loss"])
  first, last = np.mean(losses[0]), np.mean(losses[-10:])
  print(f"{path.stem}: {first:.2f} -> {last:.2f}")
  assert last < 0.4 * first


@pytest.mark.parametrize("key, reader", READ_ELSEWHERE.items())
def test_keys_that_training_does_not_read_are_read_elsewhere(key, reader):
  assert f"config.{key}" in inspect.getsource(reader)


def longest(captions, vocab):
  tokenizer = Tokenizer.bpe(train_bpe(captions, vocab))
  ids = (tokenizer.encode([c], 1000)[1].sum() for c in set(captions))
  return int(max(ids)), tokenizer.vocab


@pytest.mark.parametrize("name", ["scenes_dit_flow", "scenes_full_dit_flow"])
def test_captions_and_prompts_of_scenes_fit(name):
  config = load_config(Path(__file__).parents[1] / f"configs/{name}.py")
  level = config.score.level
  captions = [c for i in range(2000) for c in make_scene(i, level, "train").captions]
  tokens, vocab = longest(captions, Scenes.vocab)
  assert tokens <= config.text.length
  assert vocab <= config.text.vocab
  words = {word for caption in captions for word in caption.split()}
  assert all(word in words for prompt in config.sampling.prompts for word in prompt.split())
  score = [s.caption for s in prompts(level, "relation", True, 50)]
  assert longest(captions + score, Scenes.vocab)[0] <= config.text.length


def test_captions_of_emoji_fit_and_its_prompts_are_trained():
  pytest.importorskip("resvg_py")
  from t2i_jax.data.from_emoji import Emoji

  config = load_config(Path(__file__).parents[1] / "configs/emoji_dit_flow.py")
  found = [image for task in Emoji(32).tasks() for image in task]
  trained = {c for image in found if image.split == "train" for c in image.captions}
  tokens, vocab = longest(sorted(trained), Emoji.vocab)
  assert tokens <= config.text.length and vocab <= config.text.vocab
  assert set(config.sampling.prompts) <= trained
