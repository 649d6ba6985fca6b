"""The report of a run: one self-contained HTML file.

Sections, in order: what was trained and where, the fixed prompts over training time, the loss
curves, judged samples, the score table, the commands. A section without its source says so.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from t2i_jax.evaluation.caption_judge import CaptionScore
from t2i_jax.evaluation.chart import loss_charts
from t2i_jax.evaluation.edit_judge import EditScore
from t2i_jax.evaluation.page import (
  card_grid,
  document,
  heading,
  image_tag,
  missing,
  section,
  write,
)
from t2i_jax.evaluation.report_joint import captions_section, edits_section
from t2i_jax.evaluation.score import Cell, Sample, Score, compositions
from t2i_jax.evaluation.stats import Rate

Section = tuple[str, str, Sequence[tuple[str, np.ndarray]]]  # title, note, (caption, image)s

_STRIP_ROWS = 10
# Keys of the context in the order of the heading, and their labels where these differ.
_KEYS = ("config", "data", "parameters", "steps", "images", "minutes", "sampling", "machine", "jax")
_LABELS = {"images": "images seen", "minutes": "minutes of training"}
_SEPARATE = {"run", "commands", "attribution"}  # keys of the context that are shown elsewhere


def write_report(
  workdir: str | Path,
  score: Score,
  images: Sequence[Sample],
  context: Mapping[str, Any],
  captions: CaptionScore | None = None,
  edits: EditScore | None = None,
) -> Path:
  """Writes eval/report.html and eval/score.json for a run on scenes.

  images    the judged images to show, usually score.samples
  context   facts that the work directory does not contain, every key optional: run (name), config,
            data, parameters, steps, images, minutes, sampling, machine (processor and cores), jax,
            commands (list of lines), attribution. Another key is shown under its name. Defaults of
            steps and minutes are from metrics.jsonl.
  captions, edits  of a joint model, with a section and a JSON file each
  Returns the path of report.html.  Raises WorkdirError where the folder cannot be written.
  """
  folder = Path(workdir)
  metrics, trouble = read_metrics(folder / "metrics.jsonl")
  body = [
    _heading(folder, context, metrics),
    _tiles(score),
    _strip(folder / "samples", metrics),
    _losses(metrics, trouble),
    _judged(score, images),
    _score_table(score),
    "" if captions is None else captions_section(captions),
    "" if edits is None else edits_section(edits),
    _commands(context),
  ]
  for name, found in (("score", score), ("captions", captions), ("edits", edits)):
    if found is not None:
      write(folder / "eval" / f"{name}.json", json.dumps(found.to_json(), indent=1))
  return _write_page(folder, body, context)


def write_gallery_report(
  workdir: str | Path, sections: Sequence[Section], context: Mapping[str, Any]
) -> Path:
  """Writes eval/report.html for a run on images without an exact judge.

  sections  (title, note, [(caption, uint8 image [H, W, 3])]), in this order
  context   as in write_report; attribution is in the footer
  Returns the path of report.html.  Raises WorkdirError where the folder cannot be written.
  """
  folder = Path(workdir)
  metrics, trouble = read_metrics(folder / "metrics.jsonl")
  body = [_heading(folder, context, metrics), _strip(folder / "samples", metrics)]
  body += [*map(_gallery, sections), _losses(metrics, trouble), _commands(context)]
  return _write_page(folder, body, context)


def write_edits_report(workdir: str | Path, edits: EditScore, context: Mapping[str, Any]) -> Path:
  """Writes eval/report.html and eval/edits.json for a run that edits scenes.

  context  as in write_report
  Returns the path of report.html.  Raises WorkdirError where the folder cannot be written.
  """
  folder = Path(workdir)
  metrics, trouble = read_metrics(folder / "metrics.jsonl")
  write(folder / "eval" / "edits.json", json.dumps(edits.to_json(), indent=1))
  body = [_heading(folder, context, metrics), edits_section(edits)]
  return _write_page(folder, [*body, _losses(metrics, trouble), _commands(context)], context)


def write_images_report(
  path: Path, sections: Sequence[Section], context: Mapping[str, Any]
) -> Path:
  """Writes a page of images alone, which belong to no run.

  sections, context  as in write_gallery_report
  Returns the path. Raises WorkdirError where it cannot be written.
  """
  body = [_heading(path.parent, context, [], "Text-to-image edit"), *map(_gallery, sections)]
  return write(path, _page(path.parent, [*body, _commands(context)], context))


def _gallery(one: Section) -> str:
  title, note, pairs = one
  cards = card_grid([(caption, image, "") for caption, image in pairs])
  return section(title, note, cards if pairs else missing("No images were drawn."))


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], str]:
  """The valid lines of metrics.jsonl.

  Returns the lines that are JSON objects with a step, and a sentence on invalid lines or a missing
  file ("" if none): the log of a run that was killed may end in a truncated line.
  """
  try:
    text = path.read_text(encoding="utf-8", errors="replace")
  except OSError:
    return [], f"{path.name} is missing from the work directory."
  kept, dropped = [], 0
  for line in filter(str.strip, text.splitlines()):
    try:
      entry = json.loads(line)
      entry["step"] = int(entry["step"])
      kept.append(entry)
    except (ValueError, TypeError, KeyError):
      dropped += 1
  return kept, f"{dropped} lines of {path.name} could not be read." if dropped else ""


def _minutes(metrics: Sequence[Mapping[str, Any]], step: int) -> float | None:
  """Minutes of training at a step, from perf.elapsed_s, in seconds; None where not recorded."""
  found = [
    entry["perf"]["elapsed_s"] / 60
    for entry in metrics
    if entry["step"] <= step and "elapsed_s" in entry.get("perf", {})
  ]
  return max(found, default=None)


# --- sections ---


def _heading(
  folder: Path,
  context: Mapping[str, Any],
  metrics: list[dict[str, Any]],
  kind: str = "Text-to-image run",
) -> str:
  facts = dict(context)
  if metrics:
    facts.setdefault("steps", max(entry["step"] for entry in metrics))
    facts.setdefault("minutes", _minutes(metrics, facts["steps"]))
  names = [key for key in _KEYS if facts.get(key) is not None]
  names += [key for key in facts if key not in _KEYS and key not in _SEPARATE]
  written = datetime.now().strftime("%d %B %Y, %H:%M")
  about = f"{kind}, report written {written}"
  named = {_LABELS.get(key, key): facts[key] for key in names}
  return heading(_name(folder, context), about, named)


def _tiles(score: Score) -> str:
  tiles = []
  for category in score.categories:
    seen, held = score.cell(category, False).model, score.cell(category, True).model
    tiles.append(
      f"<div>{escape(category)}<b>{seen.percent()}</b>seen {seen.interval()}<br>"
      f"held-out {held.percent()}</div>"
    )
  return f'<div class="tiles">{"".join(tiles)}</div>'


def _strip(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> str:
  title = "The same prompts over training time"
  try:
    captions = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return section(title, "", missing("samples/prompts.json is missing or cannot be read."))
  steps = sorted(
    (int(found[1]), path)
    for path in folder.glob("step_*.png")
    if (found := re.fullmatch(r"step_(\d+)\.png", path.name))
  )
  if not steps:
    return section(title, "", missing("No samples/step_*.png has been written."))
  chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _STRIP_ROWS).astype(int))]
  rows = []
  for step, path in chosen:
    minutes = _minutes(metrics, step)
    label = f"<b>step {step:,}</b>" + (f"<br>{minutes:.1f} min" if minutes is not None else "")
    rows.append(f"<tr><th>{label}</th>{_strip_cells(path, len(captions))}</tr>")
  head = "".join(
    f'<th title="{escape(c)}">{escape(shorten(c, 90, placeholder=" …"))}</th>' for c in captions
  )
  shown = "" if len(chosen) == len(steps) else f"; {len(chosen)} of {len(steps)} are shown"
  note = f"Each row is one moment of training, the earliest on top{shown}."
  least = 100 + 108 * len(captions)  # pixels, so that images do not overlap
  table = (
    f'<table class="strip" style="min-width:{least}px"><tr><th></th>{head}</tr>'
    f"{''.join(rows)}</table>"
  )
  return section(title, note, f'<div class="scroll">{table}</div>')


def _strip_cells(path: Path, n: int) -> str:
  try:
    with Image.open(path) as opened:
      row = np.asarray(opened.convert("RGB"))  # [H, W, 3]
  except (OSError, SyntaxError):
    return f'<td colspan="{n}">{missing(f"{path.name} cannot be read.")}</td>'
  edges = np.linspace(0, row.shape[1], n + 1).round().astype(int)
  tiles = [row[:, a:b] for a, b in pairwise(edges)]
  return "".join(f"<td>{image_tag(tile, '', 96)}</td>" for tile in tiles)


def _losses(metrics: Sequence[Mapping[str, Any]], trouble: str) -> str:
  charts = loss_charts(metrics)
  if not charts:
    trouble = trouble or "metrics.jsonl holds no loss."
  note = (
    "Validation uses images held out from training. Bin 0 is the least noisy." if charts else ""
  )
  body = f'<div class="charts">{"".join(charts)}</div>'
  return section("Loss", note, body + (missing(trouble) if trouble else ""))


def _judged(score: Score, images: Sequence[Sample]) -> str:
  parts = []
  for cell in score.cells:
    shown = [s for s in images if (s.category, s.heldout) == (cell.category, cell.heldout)]
    if shown:
      title = f"{cell.category}, {compositions(cell.heldout)} compositions"
      parts.append(f"<h3>{escape(title)}</h3>")
      parts.append(card_grid([(s.caption, s.image, _verdict(s)) for s in shown]))
  note = "The first images of each category, not selected, with the objects that the judge found."
  return section("Samples", note, "".join(parts) or missing("No images were kept."))


def _verdict(sample: Sample) -> str:
  if sample.correct:
    return '<div><span class="good">✓ correct</span></div>'
  failed = "; ".join(sample.failed)
  seen = ", ".join(sample.seen) or "nothing"
  return (
    f'<div><span class="bad">✗ wrong:</span> {escape(failed)}</div><div>seen: {escape(seen)}</div>'
  )


def _score_table(score: Score) -> str:
  names = ("", "seen compositions", "held-out compositions", "shuffled", "ceiling")
  head = "".join(f"<th>{name}</th>" for name in names)
  rows = []
  for category in score.categories:
    seen, held = score.cell(category, False), score.cell(category, True)
    rows.append(
      f"<tr><td><b>{escape(category)}</b></td>{_bar(seen)}{_bar(held)}"
      f"{_pair(seen.shuffled, held.shuffled)}{_pair(seen.ceiling, held.ceiling)}</tr>"
    )
    rows += [
      f'<tr class="detail"><td>{escape(name)}</td>{_bar(seen, rate)}'
      f"{_bar(held, held.details[name])}<td></td><td></td></tr>"
      for name, rate in seen.details.items()
    ]
  note = (
    f"Level {score.level} at {score.size} pixels. An image is correct when every fact of its "
    "caption holds in the pixels. Held-out compositions never occur in training. "
    "Shuffled: the same images judged against the captions of other scenes (grey tick). "
    "Ceiling: exact renders, judged. Brackets and the thin line are 95% Wilson intervals."
  )
  table = f'<table class="score"><tr>{head}</tr>{"".join(rows)}</table>'
  return section("Score", note, f'<div class="scroll">{table}</div>')


def _bar(cell: Cell, detail: Rate | None = None) -> str:
  """The model's rate as a bar, marked with the shuffled rate; or the rate of one attribute."""
  rate = cell.model if detail is None else detail
  if not rate.n:
    return "<td>none</td>"
  low, high = 100 * rate.lower, 100 * rate.upper
  marked = detail is None and cell.shuffled.n
  tick = f'<b style="left:{100 * cell.shuffled.rate:.1f}%"></b>' if marked else ""
  return (
    f'<td class="{"held" if cell.heldout else "seen"}"><b>{rate.percent()}</b> '
    f"<small>{rate.interval()} n = {rate.n}</small>"
    f'<div class="bar"><i style="width:{100 * rate.rate:.1f}%"></i>'
    f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u>'
    f"{tick}</div></td>"
  )


def _pair(seen: Rate, held: Rate) -> str:
  lines = [
    f"{rate.percent()} <small>{rate.interval()} {name}</small>"
    for rate, name in ((seen, "seen"), (held, "held-out"))
  ]
  return f'<td class="two">{"<br>".join(lines)}</td>'


def _commands(context: Mapping[str, Any]) -> str:
  lines = "\n".join(context.get("commands", ()))
  body = f"<pre>{escape(lines)}</pre>" if lines else missing("The commands were not recorded.")
  return section("To reproduce", "", body)


def _write_page(folder: Path, body: Sequence[str], context: Mapping[str, Any]) -> Path:
  return write(folder / "eval" / "report.html", _page(folder, body, context))


def _page(folder: Path, body: Sequence[str], context: Mapping[str, Any]) -> str:
  attribution = str(context.get("attribution", ""))
  return document(_name(folder, context), "".join(body), attribution)


def _name(folder: Path, context: Mapping[str, Any]) -> str:
  return str(context.get("run") or folder.resolve().name)
