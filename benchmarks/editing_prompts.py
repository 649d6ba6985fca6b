"""Prompt-to-Prompt on the model's own drawings: which attention is copied, and for how long."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.editing_bench import (
  DIFFERENCE,
  LEVEL,
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
)
from benchmarks.pages import table
from benchmarks.personalisation_world import shown
from t2i_jax.data.scenes import edit_prompts
from t2i_jax.data.scenes.edit_captions import EditText, drawn_edit, edit_text
from t2i_jax.data.sheet import grid
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.evaluation.chart import Series, line_chart, panels
from t2i_jax.evaluation.done_kept import DoneKept, done_kept
from t2i_jax.evaluation.stats import Rate

KINDS = ("recolor", "reshape")
SEED = 2  # of the edits: others than those of images
TAUS = (0.2, 0.4, 0.6, 0.8, 1.0)
BEFORE = "before"


class Way(NamedTuple):
  """What is the source's in the first tau of the steps."""

  title: str
  cross: bool
  inside: bool
  blends: bool = False


WAYS = {
  "cross": Way("attention to the text", True, False),
  "both": Way("both", True, True),
  "blend": Way("both, and only the word's region changes", True, True, True),
  "self": Way("self-attention", False, True),
}
NOTHING = "nothing"


def given(count: int) -> list[tuple[Task, EditText]]:
  """Edits whose captions differ by one word each."""
  found = []
  for kind in KINDS:
    for turn in edit_prompts(LEVEL, kind, False, count, SEED):
      text = edit_text(turn)
      assert not isinstance(text, str), text
      found.append((Task(kind, turn, text.caption, text.edited), text))
  return found


def path_of(folder: Path, way: str, tau: float) -> Path:
  return folder / f"{way}_{tau:g}.json"


def settings() -> list[tuple[str, float]]:
  """Ways and taus; the first is the same noise alone, and blending at 0 is blending alone."""
  return [(NOTHING, 0.0), ("blend", 0.0), *((way, tau) for way in WAYS for tau in TAUS)]


def make(bench: Bench, folder: Path, count: int) -> None:
  """Drawings of both prompts; what is there is kept."""
  tasks = [task for task, _ in given(count)]
  rows = Rows([t.source for t in tasks], [t.target for t in tasks], None, list(range(len(tasks))))
  for name, tau in settings():
    path = path_of(folder, name, tau)
    if path.is_file():
      continue
    way = WAYS.get(name, Way("", False, False))
    methods = [
      PromptToPrompt(
        cross=tau * way.cross, inside=tau * way.inside, blend=task.phrases if way.blends else ""
      )
      for task in tasks
    ]
    drawn = bench.pairs(methods, rows)
    if name == NOTHING:
      keep(folder / f"{BEFORE}.json", drawn.before, counts_of(tasks))
    keep(path, drawn.after, counts_of(tasks), difference(drawn.after, drawn.before))


class Found(NamedTuple):
  """drawn: how many sources were;   rejected: those that are not their caption;
  verdicts: of the others, by (way, tau) and kind;   off: their mean difference from the source"""

  drawn: int
  rejected: int
  verdicts: dict[tuple[str, float], dict[str, list[DoneKept]]]
  off: dict[tuple[str, float], float]


def found_in(folder: Path, count: int) -> Found | None:
  """Verdicts by what was read of each source's own drawing. None: not run."""
  before = kept(folder / f"{BEFORE}.json")
  if before is None:
    return None
  tasks = given(count)
  edits = [
    drawn_edit(task.turn, text, reading.objects)
    for (task, text), reading in zip(
      tasks, [r for kind in KINDS for r in before.readings[kind]], strict=True
    )
  ]
  verdicts: dict[tuple[str, float], dict[str, list[DoneKept]]] = {}
  off: dict[tuple[str, float], float] = {}
  for setting in settings():
    cell = kept(path_of(folder, *setting))
    if cell is None:
      continue
    after = [r for kind in KINDS for r in cell.readings[kind]]
    of_kind: dict[str, list[DoneKept]] = {kind: [] for kind in KINDS}
    for (task, _), edit, reading in zip(tasks, edits, after, strict=True):
      if edit is not None:
        of_kind[task.kind].append(done_kept(edit, reading.objects))
    verdicts[setting] = of_kind
    pairs = zip(edits, cell.about[DIFFERENCE], strict=True)
    off[setting] = float(np.mean([one for edit, one in pairs if edit is not None]))
  return Found(len(edits), sum(edit is None for edit in edits), verdicts, off)


def every(of_kind: dict[str, list[DoneKept]]) -> list[DoneKept]:
  return [v for kind in KINDS for v in of_kind[kind]]


def chart(found: Found) -> str:
  """Done, kept and both over tau, a curve for each way."""
  charts = []
  for title, of in MEASURES.items():
    lines = []
    for name, way in WAYS.items():
      start = (name, 0.0) if (name, 0.0) in found.verdicts else (NOTHING, 0.0)
      at = [start, *((name, tau) for tau in TAUS)]
      at = [setting for setting in at if setting in found.verdicts]
      counted = [Rate.of(map(of, every(found.verdicts[setting]))) for setting in at]
      x, y = [tau for _, tau in at], [rate.rate for rate in counted]
      low, high = [rate.lower for rate in counted], [rate.upper for rate in counted]
      lines.append(Series(way.title, x, y, low, high))
    more: dict[str, Any] = {"y_limits": (0.0, 1.0), "percent": True, "width": 700}
    charts.append(line_chart(lines, title=title, x_label="tau", y_label="drawings", **more))
  return panels(charts, 1)


def section(folder: Path, to: Path, count: int, title: str, name: str) -> list[str]:
  """Of the page, with its images in `to`.   name: of their files"""
  lines = [f"## {title}", ""]
  found = found_in(folder, count)
  if found is None:
    return [*lines, "Not run.", ""]
  rows = []
  for way, tau in found.verdicts:
    of_kind = found.verdicts[way, tau]
    each = [Rate.of(v.correct for v in of_kind[kind]).percent() for kind in KINDS]
    copied = WAYS[way].title if way in WAYS else "nothing: the same noise"
    rows.append([copied, f"{tau:g}", *rates(every(of_kind)), f"{found.off[way, tau]:.1f}", *each])
  head = ["the source's is", "tau", *MEASURES, "difference", *(f"{kind}: both" for kind in KINDS)]
  n = found.drawn - found.rejected
  lines += [
    "Captions that differ in one word, both drawn from one noise. What is to stay is what was read",
    f"of the drawing of the first caption: {found.rejected} of {found.drawn} of these are not what",
    f"it says and are left out, {n} are judged. In the first tau of the steps attention is the",
    "source's. The difference is that of pixels from the source's drawing, the mean, of 255.",
    "",
    table(head, rows),
    "",
  ]
  if len(found.verdicts) > 2:
    (to / f"{name}.svg").write_text(chart(found), encoding="utf-8")
    lines += [f"![Done and kept over tau]({name}.svg)", ""]
  return [*lines, *sheet(folder, to / f"{name}.png", found, count)]


def sheet(folder: Path, to: Path, found: Found, count: int) -> list[str]:
  """The first drawings by every way at one tau."""
  tau = 0.6
  chosen = [(NOTHING, 0.0), *((name, tau) for name in WAYS)]
  chosen = [setting for setting in chosen if setting in found.verdicts]
  strip = lambda path: shown(path.with_suffix(".png"))
  rows = [strip(folder / f"{BEFORE}.json"), *(strip(path_of(folder, *one)) for one in chosen)]
  grid(rows, 3, block=min(SHOWN, count)).save(to)
  names: Sequence[str] = [WAYS[name].title if name in WAYS else NOTHING for name, _ in chosen]
  return [
    f"![Drawings of both captions]({to.name})",
    "",
    f"The first {min(SHOWN, count)} of each kind, {' and '.join(KINDS)}, not chosen. First the",
    f"drawings of the caption before; then, at tau {tau:g}: {'; '.join(names)}.",
    "",
  ]
