"""Inversion of exact renders, and the way back under guidance, by the image's own caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.editing_bench import Bench, Rows, Task, counts_of, keep, kept, rows_of, tasks_of
from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_world import shown
from t2i_jax.autoencoders.quality import psnr
from t2i_jax.data.scenes import Edit, Object
from t2i_jax.data.sheet import grid
from t2i_jax.edit.inversions import DDIM, Edict, NegativePrompt, NullText, inverted
from t2i_jax.edit.session import Given, Run, Session
from t2i_jax.evaluation.done_kept import done_kept
from t2i_jax.evaluation.stats import Rate
from t2i_jax.models.params import Params
from t2i_jax.sampling import Guided, Solver, make_plan, sample
from t2i_jax.sampling.inversion import ddim_inverse, midpoint

KINDS = ("recolor", "reshape")  # whose images before are inverted
LEVEL = 1.0  # noise level t to which they are


@dataclass(frozen=True)
class Inverted:
  """Up by one solver under the caption, down by another under guidance by the null.

  solvers  "ddim_inverse": with DDIM down; "midpoint": both ways
  own      whether the caption is the null
  """

  solvers: str
  own: bool

  def sampler(self, session: Session, level: float) -> Run:
    up, down = SOLVERS[self.solvers]
    times = session.times_from(level)

    def run(params: Params, given: Given) -> Any:
      x = inverted(session, params, times, given, up())[0]
      cond = Guided(given.target, given.source if self.own else given.null)
      solver = down()
      return sample(session.guided(params), solver, make_plan(solver, session.process, times), x,
                    cond)[0]  # fmt: skip

    return run


SOLVERS: dict[str, tuple[Callable[[], Solver], Callable[[], Solver]]] = {
  "ddim_inverse": (ddim_inverse, lambda: DDIM),
  "midpoint": (midpoint, midpoint),
}


class Way(NamedTuple):
  """up: how it is inverted;   null: of guidance down"""

  up: str
  null: str
  method: Any


EMPTY, OWN = "empty", "the caption"
WAYS = {
  "ddim": Way("DDIM", EMPTY, NullText(steps=0)),
  "null_text": Way("DDIM", "learned, rate 0.01", NullText()),
  "null_text_fast": Way("DDIM", "learned, rate 0.1", NullText(rate=0.1)),
  "ddim_own": Way("DDIM", OWN, NegativePrompt(iterations=0)),
  "fixed_point": Way("ddim_inverse", EMPTY, Inverted("ddim_inverse", False)),
  "fixed_point_own": Way("ddim_inverse", OWN, NegativePrompt()),
  "midpoint": Way("midpoint", EMPTY, Inverted("midpoint", False)),
  "midpoint_own": Way("midpoint", OWN, Inverted("midpoint", True)),
  "edict": Way("EDICT, guided both ways", EMPTY, Edict()),
}


def same(tasks: Sequence[Task]) -> Rows:
  """The images before, both prompts their own."""
  rows = rows_of(tasks)
  return rows._replace(targets=rows.sources)


def make(bench: Bench, folder: Path, count: int) -> None:
  """Images that were inverted and drawn again; what is there is kept."""
  tasks = tasks_of(KINDS, count)
  rows = same(tasks)
  for name, way in WAYS.items():
    path = folder / f"{name}.json"
    if not path.is_file():
      images = bench.edit(way.method, rows, LEVEL)
      assert rows.images is not None
      unit = lambda pixels: pixels.astype(np.float32) / 127.5 - 1
      found = np.asarray(psnr(unit(images), unit(rows.images)))
      keep(path, images, counts_of(tasks), {"psnr": [round(float(one), 2) for one in found]})


def unchanged(objects: Sequence[Object]) -> Edit:
  """The edit that changes nothing: kept is whether the image is read as it was."""
  return Edit("none", "", (), (), tuple(objects), (), heldout=False)


def section(folder: Path, to: Path, count: int, cfg: float) -> list[str]:
  """Of the page, with its images in `to`."""
  rows, strips, names, missing = [], [], [], []
  tasks = tasks_of(KINDS, count)
  for name, way in WAYS.items():
    cell = kept(folder / f"{name}.json")
    title = f"{way.up}, null: {way.null}"
    if cell is None:
      missing.append(title)
      continue
    readings = [reading for kind in KINDS for reading in cell.readings[kind]]
    right = Rate.of(
      done_kept(unchanged(task.turn.before.objects), reading.objects).kept
      for task, reading in zip(tasks, readings, strict=True)
    )
    decibels = np.array(cell.about["psnr"])
    low, middle = np.percentile(decibels, (10, 50))
    rows.append([way.up, way.null, percent(right), f"{middle:.1f}", f"{low:.1f}"])
    strips.append(shown((folder / f"{name}.json").with_suffix(".png")))
    names.append(title)
  lines = ["## Inversion", ""]
  if not rows:
    return [*lines, "Not run.", ""]
  lines += [
    f"{len(tasks)} exact renders are inverted to t = {LEVEL:g} under their caption at scale 1, and",
    f"drawn again under it at scale {cfg:g}. Right: each object is read with its attributes, place",
    "and radius, and there is no other. With the caption for the null guidance does nothing, so",
    "that what is left is the error of the inversion.",
    "",
    table(["inverted by", "null", "right", "PSNR, dB: median", "a tenth is below"], rows),
    "",
  ]
  if missing:
    lines += [f"Not run: {'; '.join(missing)}.", ""]
  few = len(strips[0])
  given = [t.image for kind in KINDS for t in tasks_of((kind,), count)[: few // len(KINDS)]]
  grid([given, *strips], 3).save(to / "editing_inversion.png")
  return [
    *lines,
    "![Images that were inverted](editing_inversion.png)",
    "",
    f"The first images, then by row: {'; '.join(names)}.",
    "",
  ]
