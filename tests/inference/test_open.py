"""Models opened from a work directory: without harm to it, on any mesh, and what they can do."""

import jax
import numpy as np
import pytest
from PIL import Image
from toys import config_of, register, saved

from t2i_jax.cli.main import main
from t2i_jax.errors import ConfigError
from t2i_jax.inference import kept_steps, open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import Tasks
from t2i_jax.systems.draw import make_draw

PROMPTS, SEEDS = ["a red circle", "a blue square"], [3, 4]


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  register(monkeypatch)


def test_a_reader_deletes_nothing_of_a_run_that_is_being_written(tmp_path):
  saved(tmp_path, config_of(), step=2)
  writing = tmp_path / "checkpoints/4.orbax-checkpoint-tmp"
  writing.mkdir()
  (writing / "half").write_bytes(b"x")
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  assert open_model(tmp_path).step == 2 and kept_steps(tmp_path) == [2]
  assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_a_system_cannot_do_is_said_with_what_can():
  able = Tasks(draw=lambda *_: None)
  assert able.need("draw", "it") is able.draw
  for task in ("caption", "edit", "chat"):
    with pytest.raises(ConfigError, match=f"--workdir=w cannot {task}: it has no image input"):
      able.need(task, "--workdir=w")
  with pytest.raises(ConfigError, match=r"cannot classify: it is no classifier. Train one with"):
    able.need("classify", "--guidance.classifier=w")
  with pytest.raises(ConfigError, match="cannot draw: a classifier draws nothing"):
    Tasks(classify=lambda *_: None).need("draw", "it")


def test_from_the_command_line_too(tmp_path, capsys):
  saved(tmp_path / "draws", config_of())
  Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
  workdir = f"--workdir={tmp_path / 'draws'}"
  guide = f"--guidance.classifier={tmp_path / 'draws'}"
  for verb in (
    ["caption", workdir, str(tmp_path / "x.png")],
    ["chat", workdir, "--say=a red circle"],
    ["sample", workdir, "--prompt=x", guide],
  ):
    assert main(verb) == 2
    said = capsys.readouterr().err
    assert said.startswith("ConfigError: --") and "(scenes_dit_flow) cannot" in said


@pytest.mark.skipif(jax.device_count() != 8, reason="needs 8 devices")
def test_a_model_opens_on_any_mesh_and_draws_the_same(tmp_path):
  saved(tmp_path, config_of(), step=2)
  whole, sharded = open_model(tmp_path), open_model(tmp_path, {"mesh.data": "1", "mesh.fsdp": "8"})
  weight = sharded.params["backbone"]["middle"]  # ("embed", "mlp")
  assert weight.sharding.shard_shape(weight.shape) == (2, 16)
  weight = whole.params["backbone"]["middle"]
  assert weight.sharding.shard_shape(weight.shape) == (16, 16)

  alone = make_mesh(devices=jax.devices()[:1])
  params = jax.device_put(jax.device_get(whole.params), jax.devices()[0])
  expected = make_draw(whole.system, whole.config.sampling, alone)(params, PROMPTS, SEEDS)
  assert expected.std() > 1
  for model in (whole, sharded):
    found = model.draw(PROMPTS, SEEDS)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_latents_are_written_as_arrays_and_not_as_images(tmp_path, capsys):
  saved(tmp_path / "run", config_of({"model.channels": "4"}), step=2)
  args = [f"--workdir={tmp_path / 'run'}", "--prompt=a red circle", "--num=2", "--seed=5"]
  assert main(["sample", *args, f"--out={tmp_path / 'out'}"]) == 0
  written = sorted((tmp_path / "out").iterdir())
  assert [path.name for path in written] == ["0000_seed5.npy", "0001_seed6.npy"]
  assert capsys.readouterr().out.split() == [str(path) for path in written]
  first, second = map(np.load, written)
  assert first.shape == (8, 8, 4) and first.dtype == np.float32
  assert not np.array_equal(first, second)
