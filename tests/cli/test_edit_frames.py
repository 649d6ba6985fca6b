"""t2i edit --frames: which flags go together, the frames in order, what is written."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from t2i_jax.cli import edit_frames
from t2i_jax.errors import ConfigError, DataError

IMAGES = np.random.default_rng(0).integers(0, 99, (3, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
  for name, image in zip(("c", "a", "b"), IMAGES, strict=True):
    Image.fromarray(image).save(tmp_path / f"{name}.png")
  (tmp_path / "note.txt").write_text("no image")
  return tmp_path


def parsed(*flags):
  parser = argparse.ArgumentParser()
  for flag in ("--method", "--image", "--mask", "--strengths", "--seeds"):
    parser.add_argument(flag, default="sdedit" if flag == "--method" else None)
  edit_frames.add_flags(parser)
  args = parser.parse_args(flags)
  edit_frames.check(args)
  return args


def brighter(prompts, seeds, start):
  assert prompts == ["a circle"] * len(prompts) and set(seeds) == {4}
  return start.images + 10


MODEL = SimpleNamespace(
  system=SimpleNamespace(x_shape=(8, 8, 3)),
  config=SimpleNamespace(data=SimpleNamespace(image_size=(8, 8))),
  redraw=brighter,
)


def test_frames_are_drawn_in_order_and_written_by_name(folder):
  np.save(folder / "motion.npy", np.zeros((3, 2)))
  for more in ((), ("--noise=moved", f"--motion={folder / 'motion.npy'}")):
    args = parsed(f"--frames={folder}", "--seeds=4", *more)
    *paths, sheet = edit_frames.run(args, MODEL, "a circle", folder / "out")
    assert [path.name for path in paths] == ["a.png", "b.png", "c.png"]
    for path, image in zip(paths, IMAGES[[1, 2, 0]], strict=True):
      np.testing.assert_array_equal(np.asarray(Image.open(path)), image + 10)
    assert sheet.is_file()


def test_refusals(folder, tmp_path):
  with pytest.raises(ConfigError, match="--noise: only with --frames"):
    parsed("--noise=shared")
  with pytest.raises(ConfigError, match="--method=edict edits one --image"):
    parsed("--frames=x", "--method=edict")
  with pytest.raises(ConfigError, match="--image: the images are those of --frames"):
    parsed("--frames=x", "--image=y")
  with pytest.raises(ConfigError, match="one of --strengths"):
    edit_frames.run(parsed("--frames=x", "--strengths=0.2,0.4"), MODEL, "", tmp_path)
  with pytest.raises(DataError, match="is not a folder"):
    edit_frames.read(str(folder / "none"), (8, 8))
  (folder / "empty").mkdir()
  with pytest.raises(DataError, match="has no images"):
    edit_frames.read(str(folder / "empty"), (8, 8))
  with pytest.raises(DataError, match="cannot be read"):
    edit_frames.read_motion(str(folder / "a.png"))
