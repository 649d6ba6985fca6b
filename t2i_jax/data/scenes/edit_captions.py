"""An edit of a scene as text alone: a caption, the instruction, the caption afterwards.

Captions are those of scenes: "a red circle", "a red circle left of a blue square", or with "and"
where no relation is clear. They differ in the words of the edit alone, so that a model that draws
from both changes little else. Objects are named in one order in both.
"""

import dataclasses
from collections.abc import Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.edit_plans import MOVE, Wanted, looks
from t2i_jax.data.scenes.edits import Edit, Turn
from t2i_jax.data.scenes.facts import Fact, Object
from t2i_jax.data.scenes.geometry import relation_between
from t2i_jax.data.scenes.layout import clear
from t2i_jax.data.scenes.truth import holds
from t2i_jax.data.scenes.vocabulary import Level, find_level

PLACES = ("swap", MOVE)  # kinds whose captions state where an object is


@dataclasses.dataclass(frozen=True)
class EditText:
  """A caption, an instruction, and the caption afterwards.   facts: what the caption states"""

  caption: str
  instruction: str
  edited: str
  facts: tuple[Fact, ...]


def edit_text(turn: Turn) -> EditText | str:
  """An edit as text, or why it has none: a scene of more than two objects, a place not clear."""
  level, before, after = find_level(turn.before.level), turn.before.objects, turn.after.objects
  if max(len(before), len(after)) > 2:
    return "more than two objects"
  if any(len({looks(o) for o in objects}) < len(objects) for objects in (before, after)):
    return "two equal objects"
  first, second = _relation(before, level), _relation(after, level)
  if turn.edit.kind in PLACES and not (first and second):
    return "a place that is not clear"
  if turn.edit.kind not in PLACES and len(before) == len(after) == 2 and first != second:
    first = second = ""
  facts = [Fact("exists", looks(o)) for o in before]
  facts += [Fact("relation", looks(before[0]), first, looks(before[1]))] if first else []
  return EditText(
    _caption(before, first),
    turn.edit.instruction,
    _caption(after, second),
    (*facts, Fact("total", n=len(before))),
  )


def drawn_edit(turn: Turn, text: EditText, seen: Sequence[Object]) -> Edit | None:
  """The edit of another image of its caption, with what must be there and what must not change.

  seen  the objects of that image. None where they are not those of the caption.
  """
  if not all(holds(fact, seen) for fact in text.facts):
    return None
  there = {o: next(s for s in seen if looks(o).fits(s)) for o in turn.before.objects}
  by_place = {(o.x, o.y): found for o, found in there.items()}
  by_radius = {o.r: found for o, found in there.items()}

  def moved(wanted: Wanted) -> Wanted:
    at = None if wanted.x is None or wanted.y is None else by_place[wanted.x, wanted.y]
    size = None if wanted.r is None else by_radius[wanted.r].r
    x, y = (None, None) if at is None else (at.x, at.y)
    return Wanted(wanted.spec, x, y, size)

  return dataclasses.replace(
    turn.edit,
    touched=tuple(there[o] for o in turn.edit.touched),
    kept=tuple(there[o] for o in turn.edit.kept),
    changed=tuple(map(moved, turn.edit.changed)),
  )


def _relation(objects: Sequence[Object], level: Level) -> str:
  """That of the first of two objects to the second where it is clear, else ""."""
  if len(objects) != 2:
    return ""
  relation = relation_between(*objects)
  return relation if clear(objects[0], relation, objects[1], level) else ""


def _caption(objects: Sequence[Object], relation: str) -> str:
  names = [say.one(looks(o)) for o in objects]
  return f" {relation} ".join(names) if relation else say.listed(names)
