"""Images that are given, by every editor at its own strengths: done against kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmarks import personalisation_imagic as imagic
from benchmarks.editing_bench import (
  DIFFERENCE,
  MEASURES,
  SHOWN,
  Bench,
  Rows,
  Task,
  counts_of,
  difference,
  keep,
  kept,
  rates,
  rows_of,
  tasks_of,
)
from benchmarks.pages import table
from benchmarks.personalisation_world import shown
from t2i_jax.data.sheet import grid
from t2i_jax.edit.inversions import Edict, FlowEdit, Ilvr, NegativePrompt, NullText, RFInversion
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.structure import Pix2PixZero, PlugAndPlay
from t2i_jax.evaluation.chart import PALETTE, Series, line_chart, panels
from t2i_jax.evaluation.done_kept import DoneKept, done_kept
from t2i_jax.evaluation.paired import Paired
from t2i_jax.evaluation.planted_reader import read_all
from t2i_jax.evaluation.stats import Rate
from t2i_jax.systems.tasks import Start

KINDS = ("recolor", "reshape", "add", "remove")
SHARED = ("recolor", "reshape")  # with Imagic
CHOOSE = imagic.TURNS  # images of a kind that are Imagic's; strengths are chosen on the others


class Editor(NamedTuple):
  """method: None: redrawn;   strengths: of the least change first;   unit: what they are

  traced  whether one program draws all of them
  """

  title: str
  method: Any
  strengths: tuple[float, ...]
  unit: str
  kinds: tuple[str, ...] = KINDS
  traced: bool = False


LEVELS = "noise level t"
CROSS = "share of steps with the image's attention to the text"
EDITORS = {
  "scratch": Editor("the prompt alone", None, (1.0,), "drawn from noise"),
  "sdedit": Editor("SDEdit", None, (0.5, 0.7, 0.8, 0.9, 0.95), LEVELS),
  "p2p": Editor("Prompt-to-Prompt", PromptToPrompt(inside=0.4), (1.0, 0.6, 0.3, 0.0), CROSS),
  "p2p_blend": Editor(
    "Prompt-to-Prompt, blended", PromptToPrompt(inside=0.4), (1.0, 0.6, 0.3, 0.0), CROSS, SHARED
  ),
  "null_text": Editor("null-text inversion", NullText(rate=0.1), (0.6, 0.8, 1.0), LEVELS),
  "negative_prompt": Editor(
    "negative-prompt inversion", NegativePrompt(), (0.5, 0.7, 0.8, 0.9, 1.0), LEVELS
  ),
  "edict": Editor("EDICT", Edict(), (0.5, 0.7, 0.8, 0.9, 1.0), LEVELS),
  "rf_inversion": Editor(
    "RF-Inversion", RFInversion(), (1.0, 0.9, 0.7, 0.5, 0.3), "eta", traced=True
  ),
  "flow_edit": Editor("FlowEdit", FlowEdit(), (0.5, 0.7, 0.8, 0.9, 1.0), LEVELS),
  "ilvr": Editor("ILVR", Ilvr(), (2.0, 4.0, 8.0, 16.0), "factor"),
  "pnp": Editor(
    "Plug-and-Play", PlugAndPlay(), (1.0, 0.7, 0.4, 0.1), "share of steps with features",
    traced=True,
  ),
  "pix2pix_zero": Editor(
    "pix2pix-zero", Pix2PixZero(), (100.0, 10.0, 1.0, 0.0), "weight", traced=True
  ),
}  # fmt: skip


def path_of(folder: Path, name: str, strength: float) -> Path:
  return folder / f"{name}_{strength:g}.json"


def make(bench: Bench, folder: Path, count: int, names: Sequence[str]) -> None:
  """Edits by the editors of these names; what is there is kept."""
  for name in names:
    editor = EDITORS[name]
    tasks = tasks_of(editor.kinds, count)
    for strength in editor.strengths:
      path = path_of(folder, name, strength)
      if not path.is_file():
        images = edited(bench, name, tasks, strength)
        off = difference(images, np.stack([task.image for task in tasks]))
        keep(path, images, counts_of(tasks), off)


def edited(bench: Bench, name: str, tasks: Sequence[Task], strength: float) -> np.ndarray:
  """uint8 [n, H, W, 3]. The noise of a row is the same for every editor that draws one."""
  editor, rows = EDITORS[name], rows_of(tasks)
  if name == "scratch":
    return bench.model.draw(rows.targets, rows.seeds)
  if editor.method is None:
    return redrawn(bench, rows, strength)
  if isinstance(editor.method, PromptToPrompt):
    blends = [task.phrases if name == "p2p_blend" else "" for task in tasks]
    return bench.pairs(
      [replace(editor.method, cross=strength, blend=blend) for blend in blends], rows
    ).after
  return bench.edit(editor.method, rows, strength, editor.traced)


def redrawn(bench: Bench, rows: Rows, strength: float) -> np.ndarray:
  """SDEdit."""
  assert rows.images is not None
  return bench.model.redraw(rows.targets, rows.seeds, Start(rows.images, strength=strength))


class Point(NamedTuple):
  """An editor at a setting: of each kind a verdict of each image.

  off  of the kinds that are shared, the mean difference from the images, of 255
  """

  title: str
  setting: str
  verdicts: dict[str, list[DoneKept]]
  off: float = 0.0

  def of(self, *kinds: str) -> list[DoneKept]:
    return [v for kind in kinds for v in self.verdicts.get(kind, [])]

  def part(self, first: int, last: int | None) -> "Point":
    """Of images first to last of each kind."""
    return self._replace(verdicts={k: v[first:last] for k, v in self.verdicts.items()})

  def rate(self, measure: str, *kinds: str) -> Rate:
    return Rate.of(map(MEASURES[measure], self.of(*kinds)))


def points(folder: Path, count: int) -> dict[str, list[Point]]:
  """By editor, of each strength; without those that have not been run."""
  found: dict[str, list[Point]] = {}
  turns = {kind: [t.turn for t in tasks_of((kind,), count)] for kind in KINDS}
  for name, editor in EDITORS.items():
    for strength in editor.strengths:
      cell = kept(path_of(folder, name, strength))
      if cell is None:
        continue
      verdicts = {
        kind: [done_kept(t.edit, r.objects) for t, r in zip(turns[kind], readings, strict=True)]
        for kind, readings in cell.readings.items()
      }
      off = fmean(cell.about[DIFFERENCE][: len(SHARED) * count])
      found.setdefault(name, []).append(Point(editor.title, f"{strength:g}", verdicts, off))
  return found


def corners(count: int) -> list[Point]:
  """The image as it is, and the exact render of the edited scene."""
  tasks, found = tasks_of(KINDS, count), []
  for title, of in (("unchanged", "image"), ("exact render", "truth")):
    readings = read_all(np.stack([getattr(task, of) for task in tasks]))
    verdicts: dict[str, list[DoneKept]] = {}
    for task, reading in zip(tasks, readings, strict=True):
      verdicts.setdefault(task.kind, []).append(done_kept(task.turn.edit, reading.objects))
    found.append(Point(title, "", verdicts))
  return found


def imagic_points(folder: Path) -> dict[str, list[Point]]:
  """Of benchmarks.personalisation_more, its first noise, by way; nothing where it has not run."""
  found: dict[str, list[Point]] = {}
  every = imagic.jobs(False)
  for point in imagic.points(folder):
    if point.name not in imagic.WAYS:
      continue
    verdicts: dict[str, list[DoneKept]] = {}
    for job, row in zip(every, point.verdicts, strict=True):
      verdicts.setdefault(job.turn.edit.kind, []).append(row[0])
    title = {"embedding": "Imagic, embedding alone", "weights": "Imagic, adapters alone"}
    named = title.get(point.name, "Imagic")
    found.setdefault(point.name, []).append(Point(named, point.setting, verdicts))
  return found


def chart(every: dict[str, list[Point]], ends: Sequence[Point]) -> str:
  """Done against kept: a panel for each kind that Imagic has too, a curve for each editor."""
  charts = []
  for kind in SHARED:
    lines = []
    for i, some in enumerate([*every.values(), *([end] for end in ends)]):
      drawn = [point for point in some if point.of(kind)]
      if not drawn:
        continue
      x, y = ([p.rate(of, kind).rate for p in drawn] for of in ("kept", "done"))
      dash = None if i < len(PALETTE) else "5 3"
      lines.append(Series(some[0].title, x, y, color=PALETTE[i % len(PALETTE)], dash=dash))
    given: dict[str, Any] = {"x_limits": (0.0, 1.0), "y_limits": (0.0, 1.0), "percent": True}
    charts.append(
      line_chart(lines, title=kind, x_label="all else kept", y_label="done", width=720, height=440,
                 **given)
    )  # fmt: skip
  return panels(charts, 1)


def chosen(some: Sequence[Point]) -> Point:
  """The setting with the highest rate of done and kept on images that are not Imagic's; of several
  the one with the strongest change."""
  rate = lambda point: point.part(CHOOSE, None).rate("done and kept", *SHARED).rate
  return max(reversed(some), key=rate)


def comparison(every: dict[str, list[Point]], of_imagic: dict[str, list[Point]],
               eta: dict[str, str], ends: Sequence[Point]) -> list[list[Any]]:  # fmt: skip
  """Rows: each editor at what was chosen for it, on Imagic's images, and against SDEdit on them.

  eta  chosen, by way
  """
  picked = [chosen(some) for some in every.values() if len(some[0].of(*SHARED)) > 2 * CHOOSE]
  for way, some in of_imagic.items():
    picked += [point for point in some if point.setting == eta.get(way)]
  plain = chosen(every["sdedit"]).part(0, CHOOSE) if "sdedit" in every else None
  rows = []
  for point in [*ends, *picked]:
    given = point.part(0, CHOOSE)
    each = [given.rate("done and kept", kind).percent() for kind in SHARED]
    against = "" if plain is None else beside(plain, given)
    rows.append([point.title, point.setting, *rates(given.of(*SHARED)), *each, against])
  return sorted(rows, key=lambda row: -float(row[4].split("%")[0]))


def beside(plain: Point, point: Point) -> str:
  """Images that a point alone has right, that the plain one alone has, and McNemar's p."""
  right = lambda of: [v.correct for v in of.of(*SHARED)]
  pair = Paired.of(right(plain), right(point))
  return f"+{pair.won} -{pair.lost}, p = {pair.p_value:.2g}"


def all_rows(every: dict[str, list[Point]]) -> list[list[Any]]:
  rows = []
  for name, some in every.items():
    for i, point in enumerate(some):
      kinds = EDITORS[name].kinds
      each = [point.rate("done and kept", k).percent() if k in kinds else "" for k in KINDS]
      title = point.title if i == 0 else ""
      unit = EDITORS[name].unit if i == 0 else ""
      off = f"{point.off:.1f}"
      rows.append([title, unit, point.setting, *rates(point.of(*SHARED)), off, *each])
  return rows


def section(folder: Path, to: Path, count: int, imagic_runs: Path) -> list[str]:
  """Of the page, with its images in `to`."""
  every, ends = points(folder, count), corners(count)
  of_imagic = imagic_points(imagic_runs)
  said = imagic.chosen_of(imagic_runs) if of_imagic else {}
  eta = {"embedding": said.get("eta_alone", ""), "both": said.get("eta", "")}
  missing = [e.title for name, e in EDITORS.items() if len(every.get(name, [])) < len(e.strengths)]
  missing += [] if of_imagic else ["Imagic"]
  n, shared = count * len(SHARED), CHOOSE * len(SHARED)
  lines = [
    "## Images that are given",
    "",
    f"{count} exact renders of a kind of edit, one drawing each: an object is recoloured,",
    "reshaped, added or removed. Every editor is given the image, its exact caption, and the",
    "caption afterwards. The prompt alone is drawn from the same noise, without the image.",
    "",
  ]
  if missing:
    lines += [f"Not run: {', '.join(missing)}.", ""]
  if every:
    (to / "editing.svg").write_text(chart(every | of_imagic, ends), encoding="utf-8")
    head = ["editor", "at", *MEASURES, *(f"{kind}: both" for kind in SHARED), "against SDEdit"]
    lines += [
      "![Done against kept](editing.svg)",
      "",
      f"A point is one strength, over {count} images; of Imagic {CHOOSE}. Its intervals are",
      "wider than those of the tables: curves that lie near each other are not told apart.",
      "",
    ]
    if count > CHOOSE:
      lines += [
        f"At the strength that is best on {count - CHOOSE} other images of each kind (of Imagic,",
        f"on others of its own), on the {shared} images that all have in common:",
        "",
        table(head, comparison(every, of_imagic, eta, ends)),
        "",
        "Against SDEdit: images that an editor has right and SDEdit has not, the reverse, and p of",
        "McNemar's exact test, two-sided, of each row by itself.",
        "",
      ]
    head = ["editor", "strength is", "at", *MEASURES, "difference",
            *(f"{kind}: both" for kind in KINDS)]  # fmt: skip
    lines += [
      f"All strengths. The first three rates are over {n} images that are recoloured or reshaped,",
      "as is the mean difference of pixels from the image, of 255.",
      "",
      table(head, all_rows(every)),
      "",
      *sheet(folder, to, every, count),
    ]
  return lines


def of_sheet(folder: Path, every: dict[str, list[Point]], count: int) -> list[tuple[Point, Path]]:
  """Every editor at the strength that was chosen for it, and the file of its first drawings."""
  found = []
  for name, some in every.items():
    point = chosen(some) if count > CHOOSE else some[0]
    found.append((point, path_of(folder, name, float(point.setting)).with_suffix(".png")))
  return found


def drawn_in(folder: Path, count: int) -> list[Path]:
  """Files that the page is made of."""
  shown_of = of_sheet(folder, points(folder, count), count)
  return [*folder.glob("*.json"), *(path for _, path in shown_of)]


def sheet(folder: Path, to: Path, every: dict[str, list[Point]], count: int) -> list[str]:
  """A few edits by every method at the strength that was chosen for it: editing.png."""
  few = [t for kind in KINDS for t in tasks_of((kind,), count)[: min(SHOWN, count)]]
  rows, names = [[t.image for t in few], [t.truth for t in few]], ["given", "exact render"]
  for point, path in of_sheet(folder, every, count):
    rows.append(shown(path))
    names.append(f"{point.title} ({point.setting})")
  grid(rows, 2, block=min(SHOWN, count), band=0).save(to / "editing.png")
  return [
    "![Edits by every editor](editing.png)",
    "",
    f"The first {min(SHOWN, count)} images of each kind, {', '.join(KINDS)}, not chosen. Rows:",
    f"{', '.join(names)}.",
    "",
  ]
