"""Noise along frames: what moves, what stays white, and which frame starts from what."""

from types import SimpleNamespace

import numpy as np
import pytest

from t2i_jax.edit.frames import by_cells, came_from, edit_frames, moved, noises
from t2i_jax.errors import ConfigError

SHAPE = (6, 8, 2)


def steady(*shift, frames=4):
  return np.arange(frames)[:, None] * np.array(shift, np.float32)


def test_what_moves_evenly_is_rolled():
  before, instead = np.random.default_rng(0).normal(size=(2, *SHAPE))
  found = moved(before, np.broadcast_to([2.0, -1.0], (6, 8, 2)), instead)
  np.testing.assert_array_equal(found[2:, :-1], before[:-2, 1:])
  np.testing.assert_array_equal(found[:2], instead[:2])
  np.testing.assert_array_equal(found[:, -1], instead[:, -1])


def test_no_two_places_have_one_origin():
  """Of what is enlarged four places come from one: three of them are new."""
  at = np.stack(np.mgrid[:6, :8], -1)
  index, known = came_from(at - at // 2)
  assert known.sum() == 3 * 4
  assert len(np.unique(index[known])) == known.sum()


def test_noise_of_every_kind():
  motion = np.broadcast_to(steady(2, 0)[:, None, None], (4, 12, 16, 2))  # pixels: two a cell
  alone, shared = noises("alone", 3, 4, SHAPE), noises("shared", 3, 4, SHAPE)
  follows = noises("moved", 3, 4, SHAPE, motion)
  assert np.all(shared == alone[:1])
  for i in range(4):
    np.testing.assert_array_equal(follows[i, i:], alone[0, : 6 - i])
    np.testing.assert_array_equal(follows[i, :i], alone[i, :i])
  np.testing.assert_array_equal(by_cells(motion[1], (6, 8)), np.broadcast_to([1, 0], (6, 8, 2)))


class Model:
  """Records what it is given; a frame that is drawn again is 10 brighter."""

  system = SimpleNamespace(x_shape=(12, 16, 3))

  def __init__(self):
    self.starts = []

  def redraw(self, prompts, seeds, start):
    self.starts.append(start)
    return start.images + 10


FRAMES = np.random.default_rng(1).integers(0, 99, (4, 12, 16, 3)).astype(np.uint8)


def test_frames_start_from_themselves_or_from_the_one_before():
  model = Model()
  found = edit_frames(model, FRAMES, "a circle", 0.5, "shared")
  np.testing.assert_array_equal(found, FRAMES + 10)
  assert len(model.starts) == 1 and model.starts[0].strength == 0.5
  still = np.repeat(FRAMES[:1], 4, 0)
  found = edit_frames(Model(), still, "a circle", 0.5, "previous", np.zeros((4, 2)))
  np.testing.assert_array_equal(found, still + 10 * np.arange(1, 5)[:, None, None, None])
  found = edit_frames(Model(), FRAMES, "a circle", 0.5, "previous", steady(0, 3))
  np.testing.assert_array_equal(found[1, :, 3:], FRAMES[0, :, :-3] + 20)
  np.testing.assert_array_equal(found[1, :, :3], FRAMES[1, :, :3] + 10)


def test_refusals():
  with pytest.raises(ConfigError, match="needs the motion"):
    edit_frames(Model(), FRAMES, "a", 0.5, "moved")
  with pytest.raises(ConfigError, match="not one of alone"):
    edit_frames(Model(), FRAMES, "a", 0.5, "own")
  with pytest.raises(ConfigError, match=r"for 4 frames of 12 x 16 it is \(4, 2\)"):
    edit_frames(Model(), FRAMES, "a", 0.5, "moved", np.zeros((3, 2)))
