"""Frames of objects that move, edited by SDEdit: what the frames' noise has in common."""

import dataclasses
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.editing_bench import LEVEL, Bench, kept, listed
from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_world import SIZE, Cell, read_groups, save_cell, shown
from t2i_jax.data.scenes import Object, Turn, edit_prompts
from t2i_jax.data.scenes.geometry import box_of
from t2i_jax.data.scenes.planted import draw
from t2i_jax.data.sheet import grid
from t2i_jax.edit.frames import NOISES, edit_frames
from t2i_jax.evaluation.done_kept import DoneKept, done_kept
from t2i_jax.evaluation.planted_reader import Reading
from t2i_jax.evaluation.stats import Rate

FRAMES = 16
LEVELS = (0.6, 0.8)  # noise levels t
SEED = 11
REACH = 4 / 32  # of the path, sides, where there is room
NEAR = 0.2  # sides from the true place, within which an object is looked for
SHOWN = 8  # frames of the sheet


class Clip(NamedTuple):
  """offsets  [F, 2] of all objects from where the scene has them: x, y in sides"""

  turn: Turn
  offsets: np.ndarray

  @property
  def images(self) -> np.ndarray:
    return np.stack([draw(self.moved(self.turn.before.objects, i), SIZE) for i in range(self.n)])

  @property
  def n(self) -> int:
    return len(self.offsets)

  @property
  def motion(self) -> np.ndarray:
    """Rows and columns since the first frame, pixels.   # [F, 2]"""
    return SIZE * (self.offsets - self.offsets[0])[:, ::-1]

  def moved(self, objects: Sequence[Object], i: int) -> tuple[Object, ...]:
    x, y = self.offsets[i]
    return tuple(dataclasses.replace(o, x=o.x + x, y=o.y + y) for o in objects)

  def verdict(self, i: int, reading: Reading) -> DoneKept:
    """Of a frame: the edit of the scene where its objects are in it."""
    edit, (x, y) = self.turn.edit, self.offsets[i]
    changed = tuple(
      w if w.x is None or w.y is None else dataclasses.replace(w, x=w.x + x, y=w.y + y)
      for w in edit.changed
    )
    kept, touched = self.moved(edit.kept, i), self.moved(edit.touched, i)
    return done_kept(dataclasses.replace(edit, kept=kept, touched=touched, changed=changed),
                     reading.objects)  # fmt: skip


def clips_of(count: int, frames: int = FRAMES) -> list[Clip]:
  """Scenes that are recoloured, all of whose objects go round an ellipse that fits."""
  found = []
  for i, turn in enumerate(edit_prompts(LEVEL, "recolor", False, count, SEED)):
    rng = random.Random(f"frames/{i}")
    boxes = np.array([box_of(o) for o in turn.before.objects])  # left, top, right, bottom
    room = np.minimum(boxes[:, :2].min(0), 1 - boxes[:, 2:].max(0))
    reach = np.clip(room, 0, REACH)
    phase = rng.uniform(0, 2 * np.pi)
    angle = phase + 2 * np.pi * np.arange(frames) / frames
    found.append(Clip(turn, reach * np.stack([np.cos(angle), np.sin(angle)], 1)))
  return found


def path_of(folder: Path, noise: str, level: float) -> Path:
  return folder / f"{noise}_{level:g}.json"


def make(bench: Bench, folder: Path, count: int) -> None:
  """Clips that were edited; what is there is kept.   bench: with a batch of the frames of one"""
  clips = clips_of(count)
  folder.mkdir(parents=True, exist_ok=True)
  for level in LEVELS:
    for noise in NOISES:
      path = path_of(folder, noise, level)
      if path.is_file():
        continue
      drawn = [
        edit_frames(bench.model, clip.images, listed(clip.turn.after.objects), level, noise,
                    clip.motion, seed)
        for seed, clip in enumerate(clips)
      ]  # fmt: skip
      first = np.concatenate(drawn[0][:: max(1, len(drawn[0]) // SHOWN)], axis=1)
      Image.fromarray(first).save(path.with_suffix(".png"))
      counts = {str(i): len(some) for i, some in enumerate(drawn)}
      save_cell(path, Cell({}, read_groups(np.concatenate(drawn), counts)))
      print(path, flush=True)


def identities(reading: Reading) -> tuple[str, ...]:
  """What is in a frame, wherever it is."""
  return tuple(sorted(f"{o.color} {o.shape} {o.mark} {o.mark_color}" for o in reading.objects))


def flicker(readings: Sequence[Reading]) -> float:
  """Share of the frames after the first that have other objects than the frame before."""
  each = [identities(reading) for reading in readings]
  return fmean(a != b for a, b in pairwise(each))


def jitter(clip: Clip, readings: Sequence[Reading]) -> float | None:
  """Standard deviation over frames of the read place less the true one, pixels, over all objects.

  An object is the nearest one within NEAR; frames without it are left out. None: too few frames
  """
  found = []
  for k in range(len(clip.turn.before.objects)):
    off = []
    for i, reading in enumerate(readings):
      true = clip.moved(clip.turn.before.objects, i)[k]
      at = [(o.x - true.x, o.y - true.y) for o in reading.objects]
      near = min(at, key=lambda d: np.hypot(*d), default=None)
      if near is not None and np.hypot(*near) <= NEAR:
        off.append(near)
    if len(off) > 1:
      found.append(float(np.var(SIZE * np.array(off), axis=0, ddof=1).mean()) ** 0.5)
  return fmean(found) if found else None


def pm(values: Sequence[float]) -> str:
  """Mean and standard error over clips."""
  if not values:
    return "none"
  error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
  return f"{fmean(values):.2f}{error}"


def rows_of(folder: Path, count: int) -> list[list[Any]]:
  clips, rows = clips_of(count), []
  for level in LEVELS:
    for noise in NOISES:
      cell = kept(path_of(folder, noise, level))
      if cell is None:
        rows.append([f"{level:g}", noise, "not run", *[""] * 3])
        continue
      each = [cell.readings[str(i)] for i in range(len(clips))]
      verdicts = [
        clip.verdict(i, one)
        for clip, some in zip(clips, each, strict=True)
        for i, one in enumerate(some)
      ]
      jitters = [jitter(clip, some) for clip, some in zip(clips, each, strict=True)]
      rows.append([
        f"{level:g}", noise, pm([j for j in jitters if j is not None]),
        pm([flicker(some) for some in each]),
        percent(Rate.of(v.done for v in verdicts)), percent(Rate.of(v.correct for v in verdicts)),
      ])  # fmt: skip
  return rows


def section(folder: Path, to: Path, count: int) -> list[str]:
  """Of the page, with its images in `to`."""
  done = [(n, s) for s in LEVELS for n in NOISES if path_of(folder, n, s).is_file()]
  lines = ["## Frames", ""]
  if not done:
    return [*lines, "Not run.", ""]
  head = ["t", "noise", "jitter, pixels", "flicker", "done", "done and kept"]
  clip = clips_of(count)[0]
  first = [*clip.images[:: max(1, clip.n // SHOWN)]]
  strips = [shown(path_of(folder, *one).with_suffix(".png")) for one in done]
  grid([first, *strips], 3).save(to / "editing_frames.png")
  names = [f"{noise} at {level:g}" for noise, level in done]
  return [
    *lines,
    f"{count} scenes of one or two objects that go round by up to {SIZE * REACH:g} pixels in",
    f"{FRAMES} frames, one of them recoloured by SDEdit. Jitter: standard deviation over frames of",
    "the place that is read less the true one. Flicker: share of frames with other objects than",
    "the frame before. Both with their standard error over clips; rates are over frames, which are",
    "not independent, and their intervals do not count that.",
    "",
    table(head, rows_of(folder, count)),
    "",
    "![Frames of the first clip](editing_frames.png)",
    "",
    f'One frame of {max(1, clip.n // SHOWN)} of the first clip, "{clip.turn.edit.instruction}":',
    f"before, then {', '.join(names)}.",
    "",
  ]
