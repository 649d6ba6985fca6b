"""SDEdit of frames of a sequence: which noise each frame gets, so that the edit holds along time.

alone     noise of its own for each frame
shared    one noise for all
moved     one noise that moves with what is seen; where nothing came from before, new noise
previous  one noise, and each frame starts from the result before it, moved to where it is now
"""

from typing import Any

import jax
import numpy as np

from t2i_jax.errors import ConfigError
from t2i_jax.systems.tasks import Start

NOISES = ("alone", "shared", "moved", "previous")


def came_from(motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where each place was before, to the nearest one, and whether it was anywhere.

  motion  [h, w, 2] float: rows and columns by which what is at a place has moved
  Returns (flat indices [h, w] int, bool [h, w]): False outside, and where another place has the
  same origin already, so that no two places have one. Places with an index are each other's
  permutation, which leaves white noise white.
  """
  rows, cols = motion.shape[:2]
  at = np.moveaxis(np.mgrid[:rows, :cols], 0, -1)
  y, x = np.moveaxis(np.round(at - motion).astype(int), -1, 0)
  inside = (y >= 0) & (y < rows) & (x >= 0) & (x < cols)
  index = np.where(inside, np.clip(y, 0, rows - 1) * cols + np.clip(x, 0, cols - 1), -1)
  _, first = np.unique(index, return_index=True)
  once = np.zeros(index.size, bool)
  once[first] = True
  return index, inside & once.reshape(index.shape)


def moved(before: np.ndarray, motion: np.ndarray, instead: np.ndarray) -> np.ndarray:
  """What was at [h, w, C] places before, at those of now; `instead` [h, w, C] where nothing was."""
  index, known = came_from(motion)
  return np.where(known[..., None], before.reshape(-1, before.shape[-1])[index], instead)


def by_cells(motion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A motion in pixels [H, W, 2], in cells of latents, their mean.   # [*size, 2]"""
  height, width = motion.shape[:2]
  down, across = height // size[0], width // size[1]
  cells = motion.reshape(size[0], down, size[1], across, 2).mean((1, 3))
  return cells / np.array([down, across])


def noises(
  noise: str, seed: int, frames: int, shape: tuple[int, ...], motion: np.ndarray | None = None
) -> np.ndarray:
  """Unit Gaussian of each frame.   # [F, h, w, C] float32

  motion  [F, H, W, 2], for "moved": from the first frame to each, in pixels
  """
  keys = jax.random.split(jax.random.key(seed), frames)
  each = np.asarray(jax.vmap(lambda key: jax.random.normal(key, shape))(keys))
  if noise == "alone":
    return each
  if noise != "moved":
    return np.repeat(each[:1], frames, 0)
  assert motion is not None
  cells = [by_cells(one, (shape[0], shape[1])) for one in motion]
  return np.stack([moved(each[0], one, new) for one, new in zip(cells, each, strict=True)])


def checked_motion(motion: np.ndarray | None, noise: str, shape: tuple[int, ...]) -> np.ndarray:
  """[F, H, W, 2] float32, of one that may be [F, 2]. Raises ConfigError.   shape: [F, H, W]"""
  if noise not in NOISES:
    raise ConfigError(f"noise = {noise!r} is not one of {', '.join(NOISES)}.")
  if motion is None:
    if noise in ("moved", "previous"):
      raise ConfigError(f"noise = {noise!r} needs the motion of the frames. Use 'shared'.")
    return np.zeros((*shape, 2), np.float32)
  motion = np.asarray(motion, np.float32)
  if motion.shape == (shape[0], 2):
    motion = np.broadcast_to(motion[:, None, None], (*shape, 2))
  if motion.shape != (*shape, 2):
    raise ConfigError(
      f"the motion is {motion.shape}: for {shape[0]} frames of {shape[1]} x {shape[2]} it is "
      f"{(shape[0], 2)} or {(*shape, 2)}, rows and columns from the first frame."
    )
  if not np.isfinite(motion).all():
    raise ConfigError("the motion of the frames is not finite. Use 0 where nothing is known.")
  return motion


def edit_frames(
  model: Any,
  frames: np.ndarray,
  target: str,
  strength: float,
  noise: str = "shared",
  motion: np.ndarray | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Frames drawn again under a prompt, each by SDEdit.   # uint8 [F, H, W, 3]

  model     an inference.Model;   frames: uint8 [F, H, W, 3]
  strength  noise level t of [2108.01073 alg. 1]
  noise     one of NOISES
  motion    pixels by which what a frame shows has moved since the first, rows and columns: [F, 2],
            or [F, H, W, 2] by place of the frame; for "moved" and "previous"
  Raises ConfigError, PromptError, NotFinite.
  """
  count, x_shape = len(frames), model.system.x_shape
  motion = checked_motion(motion, noise, frames.shape[:3])
  eps = noises(noise, seed, count, x_shape, motion)
  draw = lambda images, eps: model.redraw(
    [target] * len(images), [seed] * len(images), Start(images, strength=strength, noise=eps)
  )
  if noise != "previous":
    return draw(frames, eps)
  found = [draw(frames[:1], eps[:1])[0]]
  for i in range(1, count):
    start = moved(found[-1], motion[i] - motion[i - 1], frames[i])
    found.append(draw(start[None], eps[:1])[0])
  return np.stack(found)
