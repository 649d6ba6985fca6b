"""The report of a run: one HTML file that needs nothing beside it.

Sections, in order: what was trained and where, the fixed prompts over training time, the loss
curves, judged samples, the score table, the commands. A section whose source is missing says so.
"""

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from math import isfinite
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from t2i_jax.errors import WorkdirError
from t2i_jax.evaluation.chart import loss_charts
from t2i_jax.evaluation.score import Cell, Sample, Score
from t2i_jax.evaluation.stats import Rate

Section = tuple[str, str, Sequence[tuple[str, np.ndarray]]]  # title, note, (caption, picture)s

_STRIP_ROWS = 10
_EMBEDDED = 256  # pixels; larger pictures are reduced before they are embedded
# Keys of the context in the heading's order, and what it calls those that do not name themselves.
_KEYS = ("config", "data", "parameters", "steps", "images", "minutes", "sampling", "machine", "jax")
_LABELS = {"images": "images seen", "minutes": "minutes of training"}
_SEPARATE = {"run", "commands", "attribution"}  # keys of the context with a place of their own

_CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1c1f24;--soft:#5d6470;
--line:#e1e4e9;--track:#e8ebf0;--seen:#2a78d6;--held:#e0662b;--good:#17815d;--bad:#c23b4b}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--card:#1d2026;--ink:#eceef2;--soft:#a2a9b5;
--line:#31353d;--track:#31353d;--seen:#4c93ec;--held:#ee7c43;--good:#3dbb8c;--bad:#f0707e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 56px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}h2{font-size:19px;margin:0 0 4px}
h3{font-size:14px;margin:20px 0 8px;color:var(--soft);font-weight:600}
p{margin:0 0 12px;max-width:78ch}.soft{color:var(--soft)}
.missing{color:var(--soft);font-style:italic;margin:8px 0 0}
section,.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px}
section{padding:20px 24px;margin-top:20px}.scroll{overflow-x:auto}
dl{display:flex;flex-wrap:wrap;gap:14px 40px;margin:20px 0 0}dt{font-size:12px;color:var(--soft)}
dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:24px 0}
.tiles div{padding:12px 16px;font-size:13px;color:var(--soft);line-height:1.45}
.tiles b{display:block;font-size:30px;line-height:1.15;color:var(--ink)}
img{display:block;border-radius:3px}img.px{image-rendering:pixelated}
.strip{border-spacing:8px;margin:0 -8px;table-layout:fixed;width:100%}
.strip th{font-weight:400;font-size:13px;line-height:1.3;vertical-align:bottom;text-align:left}
.strip tr>th:first-child{width:92px;vertical-align:middle}
figure:has(.good) img{box-shadow:0 0 0 2px var(--good)}
figure:has(.bad) img{box-shadow:0 0 0 2px var(--bad)}.charts{display:flex;flex-wrap:wrap;gap:20px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:20px 16px}
.cards.long{grid-template-columns:repeat(auto-fill,minmax(440px,1fr))}
figure{margin:0;font-size:13px;line-height:1.35}figcaption{margin-top:6px}
.long figure{display:flex;gap:14px;align-items:flex-start}.long img{flex:none}
.long figcaption{margin:0}figcaption div{color:var(--soft);margin-top:2px}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.score{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.score th{font-size:12px;color:var(--soft);text-align:left;font-weight:600;padding:6px 16px 6px 0}
.score td{padding:9px 16px 9px 0;border-top:1px solid var(--line);vertical-align:top}
.score tr.detail td{border:0;padding-top:0;font-size:13px;color:var(--soft)}
.score small{color:var(--soft);font-size:12px;white-space:nowrap}.two{font-size:14px}
.bar{position:relative;width:200px;height:10px;border-radius:3px;background:var(--track);
margin-top:5px}.bar i{position:absolute;inset:0 auto 0 0;border-radius:3px}
.bar u{position:absolute;top:4px;height:2px;background:var(--ink)}
.bar b{position:absolute;top:-3px;width:2px;height:16px;background:var(--soft)}
.seen i{background:var(--seen)}.held i{background:var(--held)}
.detail .bar{height:5px;margin:3px 0 0}.detail .bar i{opacity:.55}.detail .bar u{top:1.5px}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:12px 16px;
overflow-x:auto;font:13px/1.6 ui-monospace,Menlo,Consolas,monospace;margin:12px 0 0}
footer{color:var(--soft);font-size:13px;margin-top:24px;white-space:pre-line}
"""


def write_report(
  workdir: str | Path, score: Score, pictures: Sequence[Sample], context: Mapping[str, Any]
) -> Path:
  """Writes eval/score.json and eval/report.html for a run on scenes.

  pictures  the judged pictures to show, usually score.samples
  context   what the work directory does not say, every key optional: run (name), config, data,
            parameters, steps, images, minutes, sampling, machine (processor and cores), jax,
            commands (list of lines), attribution. Another key is shown under its own name.
            steps default to the last of metrics.jsonl, minutes to those it notes at steps.
  Returns the path of report.html.  Raises WorkdirError when the folder cannot be written.
  """
  folder = Path(workdir)
  metrics, trouble = read_metrics(folder / "metrics.jsonl")
  body = [
    _heading(folder, context, metrics),
    _tiles(score),
    _strip(folder / "samples", metrics),
    _losses(metrics, trouble),
    _judged(score, pictures),
    _score_table(score),
    _commands(context),
  ]
  _write(folder / "eval" / "score.json", json.dumps(score.to_json(), indent=1))
  return _write_page(folder, body, context)


def write_gallery_report(
  workdir: str | Path, sections: Sequence[Section], context: Mapping[str, Any]
) -> Path:
  """Writes eval/report.html for a run that has pictures to look at but no exact judge.

  sections  (title, note, [(caption, uint8 picture [H, W, 3])]), shown in this order
  context   as in write_report; attribution stands in the footer
  Returns the path of report.html.  Raises WorkdirError when the folder cannot be written.
  """
  folder = Path(workdir)
  metrics, trouble = read_metrics(folder / "metrics.jsonl")
  body = [_heading(folder, context, metrics), _strip(folder / "samples", metrics)]
  for title, note, pairs in sections:
    cards = _cards([(caption, picture, "") for caption, picture in pairs])
    body.append(_section(title, note, cards if pairs else _missing("No pictures were drawn.")))
  body += [_losses(metrics, trouble), _commands(context)]
  return _write_page(folder, body, context)


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], str]:
  """Reads metrics.jsonl as far as it can be read.

  Returns the lines that are JSON objects with a step, and a sentence on what was left out or
  missing ("" when nothing was): a run that was killed may end in half a line.
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


def _heading(folder: Path, context: Mapping[str, Any], metrics: list[dict[str, Any]]) -> str:
  facts = dict(context)
  if metrics:
    facts.setdefault("steps", max(entry["step"] for entry in metrics))
    facts.setdefault("minutes", _minutes(metrics, facts["steps"]))
  names = [key for key in _KEYS if facts.get(key) is not None]
  names += [key for key in facts if key not in _KEYS and key not in _SEPARATE]
  rows = [
    f"<div><dt>{_text(_LABELS.get(key, key))}</dt><dd>{_text(_plain(facts[key]))}</dd></div>"
    for key in names
  ]
  written = datetime.now().strftime("%d %B %Y, %H:%M")
  return (
    f"<header><h1>{_text(_name(folder, context))}</h1>"
    f'<div class="soft">Text-to-image run, report written {written}</div>'
    f"<dl>{''.join(rows)}</dl></header>"
  )


def _tiles(score: Score) -> str:
  tiles = []
  for category in score.categories:
    seen, held = score.cell(category, False).model, score.cell(category, True).model
    tiles.append(
      f"<div>{_text(category)}<b>{seen.percent()}</b>seen {seen.interval()}<br>"
      f"held-out {held.percent()}</div>"
    )
  return f'<div class="tiles">{"".join(tiles)}</div>'


def _strip(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> str:
  title = "The same prompts over training time"
  try:
    captions = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return _section(title, "", _missing("samples/prompts.json is missing or cannot be read."))
  steps = sorted(
    (int(found[1]), path)
    for path in folder.glob("step_*.png")
    if (found := re.fullmatch(r"step_(\d+)\.png", path.name))
  )
  if not steps:
    return _section(title, "", _missing("No samples/step_*.png has been written."))
  chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _STRIP_ROWS).astype(int))]
  rows = []
  for step, path in chosen:
    minutes = _minutes(metrics, step)
    label = f"<b>step {step:,}</b>" + (f"<br>{minutes:.1f} min" if minutes is not None else "")
    rows.append(f"<tr><th>{label}</th>{_strip_cells(path, len(captions))}</tr>")
  head = "".join(
    f'<th title="{_text(c)}">{_text(shorten(c, 90, placeholder=" …"))}</th>' for c in captions
  )
  shown = "" if len(chosen) == len(steps) else f"; {len(chosen)} of {len(steps)} are shown"
  note = f"Each row is one moment of training, the earliest on top{shown}."
  least = 100 + 108 * len(captions)  # pixels, so that the pictures never overlap
  table = (
    f'<table class="strip" style="min-width:{least}px"><tr><th></th>{head}</tr>'
    f"{''.join(rows)}</table>"
  )
  return _section(title, note, f'<div class="scroll">{table}</div>')


def _strip_cells(path: Path, n: int) -> str:
  try:
    with Image.open(path) as opened:
      row = np.asarray(opened.convert("RGB"))  # [H, W, 3]
  except (OSError, SyntaxError):
    return f'<td colspan="{n}">{_missing(f"{path.name} cannot be read.")}</td>'
  edges = np.linspace(0, row.shape[1], n + 1).round().astype(int)
  tiles = [row[:, a:b] for a, b in pairwise(edges)]
  return "".join(f"<td>{_picture(tile, '', 96)}</td>" for tile in tiles)


def _losses(metrics: Sequence[Mapping[str, Any]], trouble: str) -> str:
  charts = loss_charts(metrics)
  if not charts:
    trouble = trouble or "metrics.jsonl holds no loss."
  note = (
    "Validation uses pictures held out of training. Bin 0 is the least noisy." if charts else ""
  )
  body = f'<div class="charts">{"".join(charts)}</div>'
  return _section("Loss", note, body + (_missing(trouble) if trouble else ""))


def _judged(score: Score, pictures: Sequence[Sample]) -> str:
  parts = []
  for cell in score.cells:
    shown = [s for s in pictures if (s.category, s.heldout) == (cell.category, cell.heldout)]
    if shown:
      kind = "held-out" if cell.heldout else "seen"
      parts.append(f"<h3>{_text(cell.category)}, {kind} compositions</h3>")
      parts.append(_cards([(s.caption, s.picture, _verdict(s)) for s in shown]))
  note = "The first pictures of each category, not chosen, with what the judge read in the pixels."
  return _section("Samples", note, "".join(parts) or _missing("No pictures were kept."))


def _verdict(sample: Sample) -> str:
  if sample.correct:
    return '<div><span class="good">✓ correct</span></div>'
  failed = "; ".join(sample.failed)
  seen = ", ".join(sample.seen) or "nothing"
  return (
    f'<div><span class="bad">✗ wrong:</span> {_text(failed)}</div><div>seen: {_text(seen)}</div>'
  )


def _score_table(score: Score) -> str:
  names = ("", "seen compositions", "held-out compositions", "shuffled", "ceiling")
  head = "".join(f"<th>{name}</th>" for name in names)
  rows = []
  for category in score.categories:
    seen, held = score.cell(category, False), score.cell(category, True)
    rows.append(
      f"<tr><td><b>{_text(category)}</b></td>{_bar(seen)}{_bar(held)}"
      f"{_pair(seen.shuffled, held.shuffled)}{_pair(seen.ceiling, held.ceiling)}</tr>"
    )
    rows += [
      f'<tr class="detail"><td>{_text(name)}</td>{_bar(seen, rate)}'
      f"{_bar(held, held.details[name])}<td></td><td></td></tr>"
      for name, rate in seen.details.items()
    ]
  note = (
    f"Level {score.level} at {score.size} pixels. A drawing is correct when every fact of its "
    "caption holds in the pixels. Held-out compositions never occur in training. "
    "Shuffled: the same drawings judged against the captions of other scenes (grey tick). "
    "Ceiling: exact renders, judged. Brackets and the thin line are 95% Wilson intervals."
  )
  table = f'<table class="score"><tr>{head}</tr>{"".join(rows)}</table>'
  return _section("Score", note, f'<div class="scroll">{table}</div>')


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
  body = f"<pre>{_text(lines)}</pre>" if lines else _missing("The commands were not recorded.")
  return _section("To reproduce", "", body)


# --- pieces of a page ---


def _section(title: str, note: str, body: str) -> str:
  note = f'<p class="soft">{_text(note)}</p>' if note else ""
  return f"<section><h2>{_text(title)}</h2>{note}{body}</section>"


def _cards(cards: Sequence[tuple[str, np.ndarray, str]]) -> str:
  """A grid of (caption, picture, HTML below the caption); long captions stand beside it."""
  long = any(len(caption) > 160 for caption, _, _ in cards)
  figures = "".join(
    f"<figure>{_picture(picture, caption, 128)}"
    f"<figcaption>{_text(caption)}{below}</figcaption></figure>"
    for caption, picture, below in cards
  )
  return f'<div class="cards{" long" if long else ""}">{figures}</div>'


def _picture(picture: np.ndarray, alt: str, width: int) -> str:
  """An <img> shown `width` wide with its pixels inside, sharp where it is a whole multiple."""
  image = Image.fromarray(np.asarray(picture, np.uint8))
  if max(image.size) > _EMBEDDED:
    image.thumbnail((_EMBEDDED, _EMBEDDED))
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  kind = ' class="px"' if width % image.width == 0 else ""
  return f'<img{kind} width="{width}" src="data:image/png;base64,{data}" alt="{_text(alt)}">'


def _write_page(folder: Path, body: Sequence[str], context: Mapping[str, Any]) -> Path:
  attribution = str(context.get("attribution", ""))
  footer = f"<footer>{_text(attribution)}</footer>" if attribution else ""
  page = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{_text(_name(folder, context))}</title><style>{_CSS}</style></head>"
    f"<body><main>{''.join(body)}{footer}</main></body></html>\n"
  )
  return _write(folder / "eval" / "report.html", page)


def _write(path: Path, text: str) -> Path:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".part")  # a full disk leaves the old file as it is
    whole.write_text(text, encoding="utf-8")
    whole.replace(path)
  except OSError as error:
    raise WorkdirError(f"cannot write {path}: {error.strerror}") from error
  return path


def _name(folder: Path, context: Mapping[str, Any]) -> str:
  return str(context.get("run") or folder.resolve().name)


def _missing(text: str) -> str:
  return f'<p class="missing">{_text(text)}</p>'


def _plain(value: Any) -> str:
  if isinstance(value, float) and isfinite(value):
    return f"{value:,.1f}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def _text(value: str) -> str:
  return html.escape(value)
