"""Tiny published pipelines of every family, trained by configs/finetune.py: pixels and latents."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("benchmarks.pipeline_parity")

from benchmarks.pipeline_parity import PIPELINES, saved
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.loader import Loader
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.systems import Draws, merge_params
from t2i_jax.systems.folder import folder_config
from t2i_jax.towers.published import PUBLISHED, NullText
from t2i_jax.training.as_published import check_published
from t2i_jax.training.cached import check_weights
from t2i_jax.training.checksum import fingerprint
from t2i_jax.training.encode import encode
from t2i_jax.training.loop import on_devices
from t2i_jax.training.restore import load_starts
from t2i_jax.training.setup import set_up
from t2i_jax.training.state import abstract_params, create_state
from t2i_jax.training.step import jit_train_step

CONFIG = Path(__file__).parents[2] / "configs/finetune.py"
SMALL = {
  "train.steps": "8", "train.batch": "8", "train.lr": "3e-3", "train.vector_lr": "3e-3",
  "model.dtype": "float32", "model.remat": "none", "text.too_long": "truncate",
}  # fmt: skip
# Tokens of a text encoder in place of the published number, with their templates.
LENGTHS = {"text_encoder_2": 16, "text_encoder_3": 16}
OF_FAMILY = {"flux": 0, "dit": 0, "sd3": 0, "pixart_alpha": 16, "flux2": 240, "qwen_image": 300}
OF_FAMILY |= {"z_image": 120, "sd1": 0, "sdxl": 0}
LIVE = ("flux", "dit")


def shorter(towers, name):
  """Text encoders of fewer tokens, which compile and run sooner; with the layers that there are."""
  found = {}
  for part, text in towers.items():
    length = LENGTHS.get(part, OF_FAMILY[name]) if not text.endswith("('label')") else 0
    own = [f"length={length}"] if length and "part='" in text and "clip" not in text else []
    own = own if name not in ("sd3", "sdxl") or part == "text_encoder_3" else []
    own += [f"layers={PIPELINES[name].layers}"] if PIPELINES[name].layers else []
    found[f"text.towers.{part}"] = text.removesuffix(")") + "".join(f", {o}" for o in own)
    found[f"text.towers.{part}"] += ")" if text.endswith(")") else ""
  return found


def images(folder, labels):
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(12):
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    small.resize((32, 32)).save(folder / f"{i}.png")
    (folder / f"{i}.txt").write_text(f"{i}" if labels else f"image {i}")


class Case:
  """A saved pipeline, images and their latents, and the config that trains it on either."""

  def __init__(self, name, folder):
    saved(name, folder)
    self.model, tiny = folder / "model", PIPELINES[name]
    images(folder / "in", tiny.labels)
    self.pixels, self.latents = folder / "D", folder / "E"
    build(Folder(str(folder / "in"), val_fraction=0.2), self.pixels, workers=1, progress=False)
    encode(self.pixels, self.model, self.latents, batch=8, progress=False)
    towers = folder_config(self.model, (32, 32)).text.towers
    self.settings = SMALL | shorter(towers, name)
    if tiny.labels:
      self.settings["sampling.prompts"] = "('1', '2')"

  def config(self, data, **changes):
    given = self.settings | {"data.dir": str(data)} | changes
    return load_config(f"{CONFIG}:{self.model}:32x32", given)


@pytest.fixture(scope="module", params=LIVE)
def case(request, tmp_path_factory, one_device):
  return Case(request.param, tmp_path_factory.mktemp(request.param))


def started(config):
  """A run, and its state with the folder's weights."""
  run = set_up(config)
  starts = load_starts(run.system, abstract_params(run.system, run.mesh))
  return run, create_state(run.system, run.optimizers, run.abstract, jax.random.key(0), starts)


def batches_of(config, run, steps):
  batch = config.train.batch
  loader = Loader(
    run.source, run.row_maker, seed=0, global_batch=batch, rows=run.rows, workers=0, prefetch=1
  )
  local = itertools.islice(loader.batches(0), steps)
  return on_devices(local, run.mesh, batch, ahead=0)


def trained(config, steps):
  """Losses of the first steps; frozen weights are those of the folder and do not change."""
  run, state = started(config)
  before = fingerprint(state.frozen)
  check_weights(config, run.system.latents, before)
  assert set(run.abstract.trainable) == {"backbone"} and "vae" in before
  step, found = jit_train_step(run.system, run.optimizers, config, run.mesh, run.abstract), []
  with jax.set_mesh(run.mesh):
    for rows in batches_of(config, run, steps):
      state, metrics = step(state, rows)
      found.append(float(metrics["loss"]))
  assert fingerprint(state.frozen) == before
  return found


def first_losses(config, drops=False):
  """Of each image of the first batch, with the draws of a step.   drops: every third caption"""
  run, state = started(config)
  (rows,) = batches_of(config, run, 1)
  n = config.train.batch
  drop = {name: jnp.arange(n) % 3 == 0 for name in run.system.text} if drops else {}
  draws = Draws(jnp.linspace(0.1, 0.9, n), jnp.arange(n), jax.random.key(1), drop, 0)
  with jax.set_mesh(run.mesh):
    params = merge_params(state.trainable, state.frozen)
    return jax.jit(run.system.losses)(params, rows, draws)["image"]


def check(case):
  """Losses fall, and are the same of images and of their latents, whose samples are the same."""
  losses = trained(case.config(case.latents), 8)
  pixels, cached = (first_losses(case.config(data)) for data in (case.pixels, case.latents))
  print(case.model, losses[0], losses[-1], np.max(np.abs(cached / pixels - 1)))
  np.testing.assert_allclose(cached, pixels, rtol=1e-5)
  assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:2])


def test_losses_fall_and_are_the_same_of_pixels_and_of_latents(case):
  check(case)


@pytest.mark.proof
@pytest.mark.parametrize("name", sorted(set(OF_FAMILY) - set(LIVE)))
def test_of_the_other_families(name, tmp_path, one_device):
  check(Case(name, tmp_path))


def check_text(case):
  """Losses are the same of captions and of the features of all text encoders beside latents."""
  config, out = case.config(case.latents), case.latents.with_name("F")
  found = encode(case.latents, None, out, text=config, batch=8, progress=False)
  assert len(found.counts) == len(config.text.towers) and "latents" in found.manifest
  both = out.with_name("G")  # latents and features at once
  encode(case.pixels, case.model, both, text=config, batch=8, progress=False)
  shards = [path.name for path in out.glob("*.arrayrecord")]
  assert shards and all((out / n).read_bytes() == (both / n).read_bytes() for n in shards)
  cached = case.config(out)
  assert set(set_up(cached).system.cached) == set(config.text.towers)
  text, features = (first_losses(one, drops=True) for one in (config, cached))
  print(case.model, np.max(np.abs(features / text - 1)))
  np.testing.assert_allclose(features, text, rtol=1e-5)


@pytest.mark.proof
@pytest.mark.parametrize("name", sorted(set(OF_FAMILY) - {"dit"}))
def test_losses_are_the_same_of_stored_text(name, tmp_path, one_device):
  check_text(Case(name, tmp_path))


def test_what_contradicts_the_folder_is_named(case, monkeypatch):
  """Times, shift and null; and latents of another autoencoder, with both hashes."""
  flow = "flow" in case.config(case.latents).process.kind
  changes = {"process.timesteps": "logit_normal(mean=1.0)"}
  changes |= {"process.shift": "static(factor=9.0)"} if flow else {}
  with pytest.raises(ConfigError, match=r"process\.timesteps = 'logit_normal\(mean=1\.0\)'") as e:
    set_up(case.config(case.latents, **changes))
  assert ("process.shift = 'static(factor=9.0)', and it is 'dynamic" in str(e.value)) == flow
  assert str(case.model) in str(e.value)
  set_up(case.config(case.latents, **changes, **{"train.as_published": "False"}))
  if flow:
    config = case.config(case.latents)
    system = set_up(config).system
    row = PUBLISHED["flux"]._replace(null=NullText("a"))
    monkeypatch.setitem(PUBLISHED, "flux", row)
    with pytest.raises(ConfigError, match=r"text_encoder_2 = .* has another null, and it is 'a'"):
      check_published(config, system)
  with pytest.raises(DataError, match=r"weights [0-9a-f]{16} .* has 0000"):
    config = case.config(case.latents)
    check_weights(config, set_up(config).system.latents, {"vae": "0000"})
