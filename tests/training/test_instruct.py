"""An instruction model: its start, its rows, what is dropped, a run, what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, config_of, live_params, maker
from flax import traverse_util
from golden_folders import write_golden
from PIL import Image
from weights import random_weights

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data.build import build
from t2i_jax.data.edit_rows import BEFORE, EditRows
from t2i_jax.data.from_edits import Edits
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.images import decode
from t2i_jax.data.scenes import make_edit, render
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.inference import open_model
from t2i_jax.inference.export import run_plan
from t2i_jax.models import abstract_of
from t2i_jax.models.layers import patchify
from t2i_jax.pretrained.pipelines import editor_of, read_index
from t2i_jax.systems.beside import shown
from t2i_jax.systems.instruct import Instruct
from t2i_jax.systems.system import Draws, unit_range
from t2i_jax.towers.text import TextTowerConfig
from t2i_jax.training import train
from t2i_jax.training.restore import load_starts, widened
from t2i_jax.training.setup import set_up
from t2i_jax.training.state import abstract_params
from tests.systems.toys import saved

pytestmark = pytest.mark.newest
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHORT = {
  "train.steps": 2, "train.batch": 8, "train.schedule": "constant", "eval.every": 2,
  "checkpoint.every": 2, "sampling.every": 2, "log.every": 1, "eval.rows": 8,
  "sampling.steps": 2, "text.tokenizer": "bytes", "text.length": 48,
  "sampling.prompts": ("make it blue", "make it red"),
}  # fmt: skip


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
  """A folder of edits of scenes. Do not change it."""
  out = tmp_path_factory.mktemp("instruct") / "edits"
  build(Edits("easy", None, 16, 8, 0), out, workers=1, progress=False)
  return out


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
  """The work directory of a DiT of random weights."""
  out = tmp_path_factory.mktemp("instruct_base") / "base"
  given = tiny({"text.tokenizer": "bytes", "text.length": 24, "train.batch": 8})
  saved(out, load_config(CONFIGS / "scenes_dit_flow.py", given))
  return out


@pytest.fixture(scope="module")
def of(base, tiny, edits):
  """of({"key": value}) -> the config of an instruction model that starts from the base."""

  def config(changes=None):
    given = tiny(SHORT | {"data.dir": edits} | (changes or {}))
    return load_config(f"{CONFIGS}/scenes_instruct.py:{base}", given)

  return config


@pytest.fixture(scope="module")
def run(of, tmp_path_factory, one_device):
  """A work directory after two steps. Do not change it."""
  out = tmp_path_factory.mktemp("instruct_run") / "run"
  train(of(), out)
  return out


def on_device(abstract):
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda leaf: leaf.update(sharding=one), abstract)


flat = lambda tree: traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("name", FAMILIES)
def test_zeros_for_the_channels_of_the_image_change_nothing(name):
  """Whatever the image is, the first projection gives what that of the narrow network gave."""
  config = config_of(name)
  wide = dataclasses.replace(config, beside=4)
  narrow, abstract = live_params(name, config), on_device(abstract_of(maker(name, wide)))
  found, before, target = flat(widened(narrow, abstract, wide)), flat(narrow), flat(abstract)
  assert {path: leaf.shape for path, leaf in found.items()} == {
    path: leaf.shape for path, leaf in target.items()
  }
  (path,) = (path for path in found if found[path].shape != before[path].shape)
  rng = np.random.default_rng(0)
  x, image = (jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32) for _ in range(2))
  both = jnp.concatenate([x, image], -1)
  if name == "unet":

    def project(x, kernel):
      order = ("NHWC", "HWIO", "NHWC")
      return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)
  else:
    project = lambda x, kernel: patchify(x, config.patch) @ kernel
  np.testing.assert_allclose(
    project(both, found[path]), project(x, before[path]), rtol=1e-5, atol=1e-5
  )


def test_a_row_is_the_image_after_with_the_instruction_and_the_image_before(edits):
  source, tokenizer = ShardSource(edits, "train"), Tokenizer.bytes()
  rows = EditRows(Transform((32, 32), {"text": Caption(tokenizer, 60)}))
  record = next(source[i] for i in range(len(source)) if len(source[i].then) == 2)
  seen = set()
  for seed in range(20):
    row = rows([record], np.random.default_rng(seed))
    turn = next(k for k, (text, _) in enumerate(record.then)
                if tokenizer.decode(row.text["text"].ids) == text)  # fmt: skip
    seen.add(turn)
    for found, image in ((row.conditions[BEFORE], turn), (row.images, turn + 1)):
      np.testing.assert_array_equal(found[0], np.asarray(decode(record.images[image])))
  assert seen == {0, 1}
  (limit,) = rows.limits
  assert limit.read == ("instructions",)
  with pytest.raises(DataError, match=r"has no edit: .* t2i data pairs"):
    rows([dataclasses.replace(record, then=())], np.random.default_rng(0))
  other = render(make_edit(0, "easy", "train").after, 48)
  path = edits.parent / "other.png"
  Image.fromarray(other).save(path)
  with pytest.raises(DataError, match=r"32 x 32 and 48 x 48\. An edit needs images of one size"):
    rows([dataclasses.replace(record, then=(("x", path.read_bytes()),))], np.random.default_rng(0))


def test_shares_of_rows_without_text_image_or_both():
  n = 20_000
  draws = Draws(jnp.zeros(n), jnp.arange(n), jax.random.key(0), {}, jnp.int32(1))
  text, image = map(np.asarray, Instruct(text=0.05, image=0.1, both=0.2).dropped(draws))
  for found, share in ((text & ~image, 0.05), (image & ~text, 0.1), (text & image, 0.2)):
    assert abs(found.mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
  nothing = Instruct().dropped(draws._replace(validates=True))
  assert not np.any(nothing)
  with pytest.raises(ConfigError, match="sum to more than 1"):
    Instruct(text=0.5, image=0.4, both=0.2)


def test_it_is_trained_edits_and_is_scored_from_the_command_line(run, edits, tmp_path, capsys):
  strip = np.asarray(Image.open(next((run / "samples").glob("*.png"))))
  records = ShardSource(edits, "val").spread(2)
  first = np.asarray(decode(records[0].image))
  assert strip.shape[0] >= 3 * 32 and np.array_equal(strip[1:33, 1:33], first)
  model = open_model(run)
  images = np.stack([np.asarray(decode(record.image)) for record in records])
  texts = [record.then[0][0] for record in records]
  edited = model.edit(images, texts, [3, 4])
  np.testing.assert_array_equal(edited[1:], model.edit(images[1:], texts[1:], [4]))
  assert not np.array_equal(edited[:1], model.edit(images[1:], texts[:1], [3]))

  Image.fromarray(images[0]).save(tmp_path / "image.png")
  args = ["sample", f"--workdir={run}", f"--prompt={texts[0]}", f"--out={tmp_path / 'out'}"]
  given = [f"--reference={tmp_path / 'image.png'}", "--guidance=dual(image_scale=1.5)", "--seed=3"]
  assert main([*args, *given]) == 0
  drawn = np.asarray(Image.open(next((tmp_path / "out").glob("0000*.png"))))
  assert np.abs(drawn.astype(int) - edited[0]).max() <= 1
  assert main(args) == 2 and "Give it with --reference=FILE" in capsys.readouterr().err
  assert main([*args, *given, f"--image={tmp_path / 'image.png'}"]) == 2

  assert main(["eval", f"--workdir={run}", "--per-cell=1"]) == 0
  cells = json.loads((run / "eval/edits.json").read_text())["cells"]
  assert len(cells) == 10 and all(cell["ceiling"]["correct"]["rate"] == 1 for cell in cells)
  assert "Edits of exact renders" in (run / "eval/report.html").read_text()
  assert main(["eval", f"--workdir={run}", "--curve"]) == 2


def test_the_text_encoder_reads_longer_texts():
  short, long = (TextTowerConfig(vocab=9, length=n, width=8, depth=1, heads=2) for n in (3, 5))
  before = random_weights(abstract_of(short.make))
  found = widened(before, on_device(abstract_of(long.make)), long)
  np.testing.assert_array_equal(found["place"][:3], before["place"])
  assert found["place"].shape == (5, 8) and not np.any(found["place"][3:])


def test_what_is_refused_before_training(of, tmp_path, one_device):
  with pytest.raises(ConfigError, match=r"no image input: model\.beside = 0. Use model\.beside=3"):
    set_up(of({"model.beside": 0}))
  with pytest.raises(ConfigError, match=r"train\.objective = 'instruct' gives it"):
    config = of().copy_and_resolve_references()
    with config.unlocked():
      config.train.objective, config.train.caption_dropout = "denoising", {"text": 0.1}
    set_up(config)
  config = of({"text.tokenizer": "bpe"})
  system, mesh = (found := set_up(config)).system, found.mesh
  with pytest.raises(ConfigError, match=r"tokens are others .* t2i data build --tokenizer="):
    load_starts(system, abstract_params(system, mesh))
  build(Scenes("easy", None, 4, 4, 0), tmp_path / "scenes", workers=1, progress=False)
  with pytest.raises(DataError, match=r"scenes': record .* has no edit"):
    set_up(of({"data.dir": tmp_path / "scenes"}))
  build(Edits("easy", 48, 4, 4, 0), tmp_path / "large", workers=1, progress=False)
  with pytest.raises(DataError, match=r"images of 48 x 48, and data\.image_size is 32 x 32"):
    set_up(of({"data.dir": tmp_path / "large"}))


def test_from_a_folder_of_stable_diffusion(tmp_path, edits, one_device):
  """Its first convolution gets zeros; the image's latent is the mean, without the scale."""
  write_golden(tmp_path, "sd1")
  assert read_index(tmp_path / "sd1").name == "StableDiffusionPipeline"
  given = {
    "data.dir": str(edits), "train.batch": "8", "model.dtype": "float32", "mesh.fsdp": "1",
    "text.too_long": "truncate",
  }  # fmt: skip
  config = load_config(f"{CONFIGS}/instruct.py:{tmp_path / 'sd1'}:32x32", given)
  run = set_up(config)
  starts = load_starts(run.system, abstract_params(run.system, run.mesh))
  plain = set_up(load_config(f"{CONFIGS}/finetune.py:{tmp_path / 'sd1'}:32x32", given))
  narrow = load_starts(plain.system, abstract_params(plain.system, plain.mesh))
  kernel, before = (flat(one["backbone"])["conv_in/kernel"] for one in (starts, narrow))
  np.testing.assert_array_equal(kernel[:, :, :4], before)
  assert kernel.shape[2] == 8 and not np.any(kernel[:, :, 4:])

  image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
  latent = shown(run.system, starts, jnp.asarray(image))
  mean, _ = run.system.module(starts, "vae").moments(unit_range(jnp.asarray(image)))
  np.testing.assert_allclose(latent, mean, rtol=1e-4, atol=1e-5)
  sources = {name: Path(part.start.partition(":")[2]) for name, part in run.system.parts.items()}
  plan = run_plan(run.system, config, sources, "", "mit")
  index = json.loads(plan.texts["model_index.json"])
  assert index["_class_name"] == "StableDiffusionInstructPix2PixPipeline"
  assert plan.written["backbone"].config.beside == 4
  with pytest.raises(ConfigError, match="no published class; of StableDiffusionPipeline"):
    editor_of("FluxPipeline")


def test_a_pixel_model_reads_the_image_as_it_is():
  system = SimpleNamespace(
    encode=lambda params, images: images / 2,
    parts={"backbone": SimpleNamespace(config=config_of("dit_cross", beside=4))},
  )
  np.testing.assert_array_equal(shown(system, {}, jnp.ones((1, 2, 2, 4))), 0.5)
