"""Files of edits as text: an image's caption, an instruction, the caption of the image after it.

One JSON object a line:

  {"caption": "a red circle", "instruction": "make the red circle blue", "edited": "a blue circle"}

with "kind" and "scene" besides where the generator knows them. The first line may be
{"generator": {...}}: what wrote the file.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2i_jax.data.scenes import MOVE, Turn, edit_kinds, make_edit_of
from t2i_jax.data.scenes.edit_captions import edit_text
from t2i_jax.errors import ConfigError, DataError

TEXTS = ("caption", "instruction", "edited")
SCENE = {"kind": str, "index": int, "level": str, "split": str, "seed": int}
GENERATOR = "generator"


@dataclasses.dataclass(frozen=True)
class EditTriple:
  """A line of a file.

  kind   of the edit, or ""
  scene  arguments of scenes.make_edit_of, of which it is the text; or None
  """

  caption: str
  instruction: str
  edited: str
  kind: str = ""
  scene: Mapping[str, Any] | None = None

  @property
  def turn(self) -> Turn | None:
    """The edit of a scene that it is the text of."""
    return None if self.scene is None else make_edit_of(**self.scene)

  def to_json(self) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(self).items() if v}


def read_edit_texts(path: str | Path) -> tuple[dict[str, Any], list[EditTriple]]:
  """What wrote a file, {} where it does not say, and its lines.

  Raises DataError naming the file and the line.
  """
  try:
    lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"--edits={path} cannot be read as UTF-8: {error}.") from error
  about: dict[str, Any] = {}
  found: list[EditTriple] = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    fields = _object(line, f"{path}, line {number}")
    if GENERATOR in fields and not found and not about:
      about = fields[GENERATOR]
    else:
      found.append(_triple(fields, f"{path}, line {number}"))
  if not found:
    raise DataError(f"{path} has no edit. A line is {_example()}.")
  return about, found


def write_edit_texts(
  path: str | Path, about: Mapping[str, Any], triples: Sequence[EditTriple]
) -> None:
  """Writes a file at once. Raises DataError where it cannot be written, or is there."""
  to = Path(path)
  if to.exists():
    raise DataError(f"--to={path} exists. Choose another file, or remove it.")
  rows = [{GENERATOR: about}, *(triple.to_json() for triple in triples)]
  text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  part = to.with_name(f"{to.name}.part")
  try:
    to.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text, "utf-8")
    part.replace(to)
  except OSError as error:
    raise DataError(f"--to={path} cannot be written: {error.strerror}.") from error


def _example() -> str:
  return json.dumps(EditTriple("a red circle", "make it blue", "a blue circle").to_json())


def _object(line: str, where: str) -> dict[str, Any]:
  try:
    fields = json.loads(line)
  except ValueError as error:
    raise DataError(f"{where}: it is no JSON: {error}. A line is {_example()}.") from error
  if not isinstance(fields, dict):
    raise DataError(f"{where}: it is no JSON object. A line is {_example()}.")
  return fields


def _triple(fields: dict[str, Any], where: str) -> EditTriple:
  for name in TEXTS:
    if not isinstance(fields.get(name), str) or not fields[name].strip():
      raise DataError(f"{where}: {name!r} is missing or empty. A line is {_example()}.")
  known = [field.name for field in dataclasses.fields(EditTriple)]
  other = [name for name in fields if name not in known]
  if other:
    raise DataError(f"{where}: {other[0]!r} is not one of {', '.join(known)}.")
  scene = fields.get("scene")
  if scene is not None and not (
    isinstance(scene, dict)
    and scene.keys() == SCENE.keys()
    and all(isinstance(scene[name], kind) for name, kind in SCENE.items())
  ):
    raise DataError(f"{where}: 'scene' is not an object of {', '.join(SCENE)}.")
  triple = EditTriple(**fields)
  try:
    turn = triple.turn
  except ConfigError as error:
    raise DataError(f"{where}: 'scene': {error}") from error
  if turn is not None and turn.edit.instruction != triple.instruction:
    raise DataError(
      f"{where}: the instruction is {triple.instruction!r}, that of its 'scene' "
      f"{turn.edit.instruction!r}: another version wrote it. Write the file again."
    )
  return triple


def scene_texts(
  level: str, count: int, split: str = "train", seed: int = 0, kinds: Sequence[str] = ()
) -> tuple[list[EditTriple], Counter[str]]:
  """Edits of scenes as text, of all kinds in turn; and how many scenes had none, by reason.

  kinds  by default those of the level, and moves
  Raises ConfigError.
  """
  skipped: Counter[str] = Counter()
  streams = [_of_kind(kind, level, split, seed, skipped) for kind in kinds or _all(level)]
  return [next(streams[i % len(streams)]) for i in range(count)], skipped


def _all(level: str) -> tuple[str, ...]:
  """Without sizes, which captions of two objects do not name."""
  return (*(kind for kind in edit_kinds(level) if kind != "resize"), MOVE)


def _of_kind(
  kind: str, level: str, split: str, seed: int, skipped: Counter[str]
) -> Iterator[EditTriple]:
  index = 0
  while True:
    scene: dict[str, Any] = {
      "kind": kind,
      "index": index,
      "level": level,
      "split": split,
      "seed": seed,
    }
    text = edit_text(make_edit_of(**scene))
    index += 1
    if isinstance(text, str):
      skipped[text] += 1
    else:
      yield EditTriple(text.caption, text.instruction, text.edited, kind, scene)
