"""Captions of users: files and JSON fields to texts, each kept or rejected with a reason."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from t2i_jax.errors import DataError

CAPTION_KEYS = ("text", "caption", "captions")
EMPTY, REPEATED = "empty caption", "repeated caption"
# str.splitlines also splits at vertical tab, form feed, U+2028 and others, inside of a caption.
LINE_ENDS = re.compile(r"\r\n|\r|\n")
WHITE_CONTROLS = "\t\n\v\f\r\x85"  # control characters that Unicode counts as white space
# Drawn as nothing, besides the categories below: fillers of Hangul, a Braille pattern of no dots.
BLANK = "\u115f\u1160\u3164\uffa0\u2800"
UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me")


class Sorted(NamedTuple):
  """An item's captions: those kept, and the reason for each of the others."""

  kept: tuple[str, ...]
  rejected: tuple[str, ...]


def caption_lines(data: bytes) -> list[str]:
  """A text file's captions, one per line, UTF-8; a byte order mark is dropped.

  Lines end at LF, CR LF or CR.   Raises DataError.
  """
  try:
    lines = LINE_ENDS.split(data.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise DataError(f"caption is not UTF-8: {error.reason} at byte {error.start}") from error
  return lines if lines[-1] else lines[:-1]


def caption_fields(fields: Any) -> list[Any] | None:
  """Captions of a JSON object: its "text", "caption" and "captions"; None where it has none."""
  present = [fields[k] for k in CAPTION_KEYS if k in fields] if isinstance(fields, dict) else []
  found: list[Any] = []
  for value in present:
    found += value if isinstance(value, list) else [value]
  return found if present else None


def caption_values(values: Sequence[Any]) -> list[Any] | None:
  """Captions of columns of a table: texts, lists of them, or whole numbers, which become text.

  Returns None where all of them are missing.
  """
  found: list[Any] = []
  for value in values:
    found += value if isinstance(value, list) else [value]
  found = [value for value in found if value is not None]
  plain = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in found]
  return plain or None


def sort_captions(captions: Sequence[Any] | None) -> Sorted:
  """Captions stripped, without repetitions and those that cannot be used.

  Raises DataError where there is none at all.
  """
  if captions is None:
    raise DataError("no caption")
  kept: dict[str, None] = {}
  rejected = []
  for caption in captions:
    text = caption.strip() if isinstance(caption, str) else caption
    problem = caption_problem(text) or (REPEATED if text in kept else "")
    if problem:
      rejected.append(problem)
    else:
      kept[text] = None
  return Sorted(tuple(kept), tuple(rejected))


def caption_problem(text: Any) -> str:
  """Why a stripped caption cannot be used, or "".   "kind" or "kind: detail" """
  if not isinstance(text, str):
    return f"caption is not text: {type(text).__name__}"
  if not text:
    return EMPTY
  if text.isascii() and text.isprintable():
    return ""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
    return f"caption is not UTF-8: {error.reason}"
  kinds = [unicodedata.category(c) for c in text]
  for place, (c, kind) in enumerate(zip(text, kinds, strict=True)):
    if kind == "Cc" and c not in WHITE_CONTROLS:
      hint = ". Is it UTF-16? Write it as UTF-8" if c == "\0" else ""
      return f"caption has a control character: U+{ord(c):04X} at {place}{hint}"
  if all(kind in UNSEEN or c in BLANK for c, kind in zip(text, kinds, strict=True)):
    return "caption is invisible: " + " ".join(f"U+{ord(c):04X}" for c in text[:8])
  return ""
