"""Imagic on scenes of the planted world: exact renders that are to be recoloured and reshaped.

The embedding and adapters of many images are learned beside each other. An image is drawn from its
text by rising eta, and each drawing is judged as an edit: done, and all else kept.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks.few_step import cell as percent
from benchmarks.pages import table
from benchmarks.personalisation_bench import Base
from benchmarks.personalisation_beside import Beside, Given, in_turn
from benchmarks.personalisation_world import (
  SIZE,
  Cell,
  load_cell,
  read_groups,
  save_cell,
  shown,
)
from t2i_jax.data.scenes import Turn, edit_prompts
from t2i_jax.data.scenes.planted import draw
from t2i_jax.data.sheet import grid
from t2i_jax.evaluation.chart import Series, line_chart, panels
from t2i_jax.evaluation.done_kept import DoneKept, done_kept
from t2i_jax.evaluation.planted_reader import read_all
from t2i_jax.evaluation.stats import Rate
from t2i_jax.models.params import Params
from t2i_jax.systems.imagic import EMBEDDING, towards

KINDS = ("recolor", "reshape")
TURNS, DEV_TURNS = 16, 4  # images of a kind that are reported, and that settings are chosen on
DEV_SEED = 1  # of these turns
ETAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
SEEDS = (0, 1)
AT_ONCE = 8  # images beside each other
ROWS = 8  # of a batch: one image at as many times
EMBEDDING_RATES, WEIGHT_RATES = (5e-3, 2e-2), (1e-3, 4e-3)
EMBEDDING_STEPS, WEIGHT_STEPS = 100, (50, 150)
WAYS = {
  "embedding": "the embedding alone",
  "weights": "adapters alone",
  "both": "Imagic: both",
}
NO_ETA = "text"  # of adapters alone, which have nothing to move between


class Job(NamedTuple):
  """An image that is edited.   name: of its files"""

  name: str
  turn: Turn

  @property
  def target(self) -> str:
    return self.turn.after.caption


def jobs(dev: bool) -> list[Job]:
  count, seed = (DEV_TURNS, DEV_SEED) if dev else (TURNS, 0)
  return [
    Job(f"{kind}_{i}", turn)
    for kind in KINDS
    for i, turn in enumerate(edit_prompts("easy", kind, False, count, seed))
  ]


class Imagic:
  """Both stages on a base, each compiled once."""

  def __init__(self, base: Base):
    self.base = base
    given = {"train.batch": str(ROWS)}
    make = lambda name, finish=None: Beside(
      base.config(name, given), base.model.tokenizer, base.model.params, ROWS, AT_ONCE, finish
    )
    self.first = make("imagic", lambda params: params[EMBEDDING])
    self.second = make("imagic_lora")
    abstract = self.first.system.abstract[EMBEDDING]
    self.unmoved: Params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)

  def edit(self, folder: Path, some: Sequence[Job], rate: float, weight_rates: Sequence[float],
           steps: Sequence[int]) -> None:  # fmt: skip
    """Cells of images by all ways: see `path_of`. Those that are there are kept.

    steps  of the adapters, of both ways; adapters alone are drawn after all of WEIGHT_STEPS
    """
    missing = lambda *about: not all(path_of(folder, job, *about).is_file() for job in some)
    shifts = None
    if missing("embedding", rate, 0, 0) or any(
      missing("both", rate, b, step) for b in weight_rates for step in steps
    ):
      (found,) = self._learn(self.first, some, rate, [{}] * len(some), [EMBEDDING_STEPS])
      shifts = found.params
      print(f"imagic: embeddings, {found.seconds:.1f} s an image", flush=True)
      for job, shift in zip(some, shifts, strict=True):
        self._cell(folder, job, ("embedding", rate, 0, 0), self.base.model.params, shift)
    for b in weight_rates:
      for way, moved in (("weights", [self.unmoved] * len(some)), ("both", shifts)):
        a = rate if way == "both" else 0
        wanted = steps if way == "both" else WEIGHT_STEPS
        if moved is None or not any(missing(way, a, b, step) for step in wanted):
          continue
        own = [{EMBEDDING: jax.device_get(shift)} for shift in moved]
        for step, seconds, params in self._learn(self.second, some, b, own, wanted):
          print(f"imagic: {WAYS[way]}, step {step}, {seconds:.1f} s an image", flush=True)
          for job, one, shift in zip(some, params, moved, strict=True):
            self._cell(folder, job, (way, a, b, step), one, shift if way == "both" else None)

  def _learn(self, stage: Beside, some: Sequence[Job], rate: float, own: Sequence[Params],
             steps: Sequence[int]) -> Any:  # fmt: skip
    given = []
    for i, (job, of) in enumerate(zip(some, own, strict=True)):
      ids, mask = self.base.encode([job.target])
      image = draw(job.turn.before.objects, SIZE)[None]
      given.append(Given(image, ids, mask, np.float32(rate), np.int32(i), of))
    return stage.learn(given, in_turn([(0, 1)], ROWS), steps)

  def _cell(self, folder: Path, job: Job, about: tuple[str, float, float, int], params: Params,
            shift: Params | None) -> None:  # fmt: skip
    etas = [NO_ETA] if shift is None else [f"{eta:g}" for eta in ETAS]
    seeds, rows = [*SEEDS] * len(etas), None
    if shift is not None:
      rows = jax.device_get(towards(shift, np.repeat(np.float32(ETAS), len(SEEDS))))
    images = self.base.draw(params, [job.target] * len(seeds), seeds, shift=rows)
    path = path_of(folder, job, *about)
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate([draw(job.turn.before.objects, SIZE), *images[:: len(SEEDS)]], axis=1)
    Image.fromarray(strip).save(path.with_suffix(".png"))
    readings = read_groups(images, dict.fromkeys(etas, len(SEEDS)))
    save_cell(path, Cell({"way": about[0], "settings": about[1:]}, readings))


def path_of(folder: Path, job: Job, way: str, a: float, b: float, step: int) -> Path:
  """The cell of an image.   a, b: learning rates of embedding and adapters, 0 where none is"""
  return folder / f"{way}_{a:g}_{b:g}_{step}_{job.name}.json"


def make(base: Base, folder: Path) -> None:
  """Chooses settings on other images, and edits; what is there is kept."""
  tool = None
  for dev in (True, False):
    if dev and (folder / "chosen.json").is_file():
      continue
    a, b = EMBEDDING_RATES, WEIGHT_RATES
    steps: Sequence[int] = WEIGHT_STEPS
    if not dev:
      chosen = chosen_of(folder)
      a, b = (chosen["embedding_rate"],), (chosen["weight_rate"],)
      steps = (chosen["step"],)
    every = jobs(dev)
    tool = tool or Imagic(base)
    for rate in a:
      for start in range(0, len(every), AT_ONCE):
        tool.edit(folder / ("dev" if dev else "cells"), every[start : start + AT_ONCE], rate, b,
                  steps)  # fmt: skip
    if dev:
      choose(folder)


def verdicts(folder: Path, every: Sequence[Job], *about: Any) -> dict[str, list[list[DoneKept]]]:
  """By eta, of each image, of each seed; nothing where a cell is missing."""
  found: dict[str, list[list[DoneKept]]] = {}
  for job in every:
    path = path_of(folder, job, *about)
    if not path.is_file():
      return {}
    for eta, readings in load_cell(path).readings.items():
      row = [done_kept(job.turn.edit, one.objects) for one in readings]
      found.setdefault(eta, []).append(row)
  return found


def choose(folder: Path) -> None:
  """Rates, steps and eta by the rate of edits that are done with all else kept: chosen.json."""
  every, tried = jobs(True), []
  settings = [("embedding", a, 0, 0) for a in EMBEDDING_RATES]
  for b in WEIGHT_RATES:
    for step in WEIGHT_STEPS:
      settings += [("both", a, b, step) for a in EMBEDDING_RATES] + [("weights", 0, b, step)]
  for about in settings:
    for eta, rows in verdicts(folder / "dev", every, *about).items():
      tried.append([*about, eta, fmean(v.correct for row in rows for v in row)])
  best = max((one for one in tried if one[0] == "both"), key=lambda one: one[-1])
  _, a, b, step, eta, _ = best
  own = [one for one in tried if one[0] == "embedding" and one[1] == a]
  alone = max(own, key=lambda one: one[-1])[4]
  chosen = {"embedding_rate": a, "weight_rate": b, "step": step, "eta": eta, "eta_alone": alone}
  (folder / "chosen.json").write_text(json.dumps(chosen | {"tried": tried}, indent=1) + "\n")


def chosen_of(folder: Path) -> dict[str, Any]:
  found: dict[str, Any] = json.loads((folder / "chosen.json").read_text())
  return found


def few_jobs() -> list[Job]:
  """Those whose drawings the page shows."""
  return [job for kind in KINDS for job in jobs(False) if job.name.startswith(kind)][:: TURNS // 2]


class Point(NamedTuple):
  """An editor at one setting: drawings by turn, to be put beside other editors'."""

  name: str
  setting: str
  verdicts: list[list[DoneKept]]

  def rate(self, of: Callable[[DoneKept], bool], kind: str = "") -> Rate:
    """Of all drawings of a kind of edit, or of all kinds."""
    rows = zip(jobs(False), self.verdicts, strict=True)
    return Rate.of(of(v) for job, row in rows if job.name.startswith(kind) for v in row)


def points(folder: Path) -> list[Point]:
  """Corners, and every way at every eta or step; without those that have not been run."""
  every = jobs(False)
  render = lambda of: [
    [done_kept(job.turn.edit, one.objects)]
    for job, one in zip(every, read_all(np.stack([draw(of(j), SIZE) for j in every])), strict=True)
  ]
  found = [
    Point("the image, unchanged", "", render(lambda job: job.turn.before.objects)),
    Point("exact render of the edited scene", "", render(lambda job: job.turn.after.objects)),
  ]
  if not (folder / "chosen.json").is_file():
    return found
  chosen = chosen_of(folder)
  a, b, cells = chosen["embedding_rate"], chosen["weight_rate"], folder / "cells"
  by_eta = {"embedding": ("embedding", a, 0, 0), "both": ("both", a, b, chosen["step"])}
  for way, about in by_eta.items():
    rows = verdicts(cells, every, *about)
    found += [Point(way, eta, row) for eta, row in rows.items()]
  for step in WEIGHT_STEPS:
    rows = verdicts(cells, every, "weights", 0, b, step)
    found += [Point("weights", f"{step} steps", row) for row in rows.values()]
  return found


def of_way(every: Sequence[Point], way: str) -> list[Point]:
  return [point for point in every if point.name == way]


def chart(every: Sequence[Point]) -> str:
  """Done and kept over eta."""
  measures: dict[str, Callable[[DoneKept], bool]] = {
    "Done": lambda v: v.done,
    "All else kept": lambda v: v.kept,
    "Both": lambda v: v.correct,
  }
  charts = []
  for title, of in measures.items():
    lines = []
    for way in ("embedding", "both"):
      rates = [point.rate(of) for point in of_way(every, way)]
      low, high = [r.lower for r in rates], [r.upper for r in rates]
      etas = [float(point.setting) for point in of_way(every, way)]
      lines.append(Series(WAYS[way], etas, [r.rate for r in rates], low, high))
    given: dict[str, Any] = {"x_label": "eta", "y_label": "drawings", "y_limits": (0.0, 1.0)}
    charts.append(line_chart(lines, title=title, percent=True, **given))
  return panels(charts, 3)


def rows_of(every: Sequence[Point], chosen: dict[str, Any]) -> list[list[Any]]:
  """Of the table: the corners, and each way at both ends and at what was chosen for it."""
  ends = ("0", "1")
  shown_at = {"embedding": {*ends, chosen.get("eta_alone")}, "both": {*ends, chosen.get("eta")}}
  rows = []
  for point in every:
    at = shown_at.get(point.name)
    if at is not None and point.setting not in at:
      continue
    setting = f"eta {point.setting}" if at else point.setting
    each = [percent(point.rate(lambda v: v.correct, kind)) for kind in KINDS]
    done, kept = point.rate(lambda v: v.done), point.rate(lambda v: v.kept)
    whole = point.rate(lambda v: v.correct)
    name = WAYS.get(point.name, point.name)
    rows.append([name, setting, percent(done), percent(kept), percent(whole), *each, whole.n])
  missing = [way for way in WAYS if not of_way(every, way)]
  return rows + [[WAYS[way], "not run", *[""] * 6] for way in missing]


def section(folder: Path, to: Path) -> list[str]:
  """Of the page, with its images in `to`."""
  every = points(folder)
  chosen = chosen_of(folder) if (folder / "chosen.json").is_file() else {}
  head = ["what is learned", "at", "done", "all else kept", "done and kept",
          *(f"{kind}: done and kept" for kind in KINDS), "n"]  # fmt: skip
  lines = [
    "## Imagic",
    "",
    f"{TURNS} exact renders of scenes that are to be recoloured, and {TURNS} that are to be",
    "reshaped: an object of one or two. Of each image the embedding of the edited scene's caption",
    f"is learned ({EMBEDDING_STEPS} steps), then adapters of rank 4 at this embedding, and the",
    f"caption is drawn at each eta from {len(SEEDS)} noises. Done: the facts of the instruction",
    "hold. Kept: every other object has its place, radius and attributes, and so has the changed",
    "one in what was not to change; 1.6 pixels of 32 are allowed. The reader of the planted world",
    "judges; it is in no loss.",
    "",
    table(head, rows_of(every, chosen)),
    "",
    "Eta 1 of the embedding alone is the base's drawing of the caption, which knows nothing of",
    "the image. Adapters alone are trained under the caption itself: there is nothing to move",
    "between, and their steps are the way from text to image. Intervals are over drawings; those",
    "of one image are not independent, which they do not count.",
    "",
  ]
  if chosen and of_way(every, "both"):
    (to / "personalisation_imagic.svg").write_text(chart(every), encoding="utf-8")
    path = lambda way, job: path_of(
      folder / "cells", job, way, chosen["embedding_rate"],
      chosen["weight_rate"] if way == "both" else 0, chosen["step"] if way == "both" else 0,
    )  # fmt: skip
    few = few_jobs()
    strip = lambda way, job: shown(path(way, job).with_suffix(".png"))
    rows = [strip(way, job) for job in few for way in ("embedding", "both")]
    grid(rows, 2).save(to / "personalisation_imagic.png")
    lines += [
      "![Done and kept over eta](personalisation_imagic.svg)",
      "",
      "![Drawings by rising eta](personalisation_imagic.png)",
      "",
      f"First the image, then eta = {', '.join(f'{eta:g}' for eta in ETAS)}; two rows an image:",
      f"{WAYS['embedding']}, {WAYS['both']}. The captions:",
      f"{'; '.join(job.target for job in few)}.",
      "",
      f"Chosen on {DEV_TURNS * len(KINDS)} other images, by the rate of drawings that are done and",
      f"kept: learning rates {chosen['embedding_rate']:g} and {chosen['weight_rate']:g} (AdamW),",
      f"{chosen['step']} steps of the adapters, and the etas of the table.",
      "",
    ]
  return lines
