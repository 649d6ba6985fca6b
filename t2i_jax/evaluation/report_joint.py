"""Sections of a report of a joint model: captions and edits."""

from collections.abc import Sequence
from html import escape

from t2i_jax.evaluation.caption_judge import CaptionScore
from t2i_jax.evaluation.edit_judge import EditSample, EditScore
from t2i_jax.evaluation.page import card_grid, image_tag, section
from t2i_jax.evaluation.score import compositions
from t2i_jax.evaluation.stats import Rate


def captions_section(score: CaptionScore) -> str:
  """The rates of each cell beside the baselines, and the first images with their captions."""
  rows, cards = [], []
  for cell in score.cells:
    rates = (cell.model, cell.objects, cell.shuffled, cell.majority)
    rows.append([cell.category, compositions(cell.heldout), *map(_rate, rates)])
    cards += [(text, image, _mark(right)) for image, text, right in cell.samples[:4]]
  head = ("", "compositions", "correct", "objects right", "shuffled", "commonest caption")
  note = (
    "Captions of exact renders. A caption is correct when it lists exactly the objects of the "
    "image and its stated relation holds. Shuffled: the same captions judged against other "
    "images. Brackets are 95% Wilson intervals."
  )
  return section("Captions", note, _table(head, rows) + card_grid(cards))


def edits_section(score: EditScore) -> str:
  """The rates of each kind beside the baselines, and the first edits: before, after, truth."""
  rows, shown = [], list[EditSample]()
  for cell in score.cells:
    rates = (cell.model.correct, cell.model.done, cell.model.kept, cell.unchanged.correct)
    rows.append(
      [cell.kind, compositions(cell.heldout), *map(_rate, (*rates, cell.ceiling.correct))]
    )
    shown += cell.samples[:2]
  head = ("", "compositions", "correct", "done", "kept", "image unchanged", "ceiling")
  note = (
    "Edits of exact renders by instruction. Done: the instruction was followed. Kept: all else is "
    "unchanged. Correct: both. Shown: before, after, and the true scene."
  )
  figures = "".join(map(_edit, shown))
  return section("Edits", note, _table(head, rows) + f'<div class="cards long">{figures}</div>')


def _edit(sample: EditSample) -> str:
  images = (sample.before, sample.after, sample.truth)
  tags = "".join(image_tag(image, sample.instruction, 96) for image in images)
  failed = "; ".join(sample.verdict.failed)
  text = f"{escape(sample.instruction)}{_mark(sample.verdict.correct, failed)}"
  return f"<figure>{tags}<figcaption>{text}</figcaption></figure>"


def _mark(right: bool, failed: str = "") -> str:
  if right:
    return '<div><span class="good">✓ correct</span></div>'
  return f'<div><span class="bad">✗ wrong</span> {escape(failed)}</div>'


def _rate(rate: Rate) -> str:
  return f"{rate.percent()} <small>{rate.interval()}</small>" if rate.n else "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Cells are HTML."""
  first = "".join(f"<th>{name}</th>" for name in head)
  lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
  return f'<div class="scroll"><table class="score"><tr>{first}</tr>{lines}</table></div>'
