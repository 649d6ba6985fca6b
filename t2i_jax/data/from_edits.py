"""Edits of scenes: an image, an instruction and the edited image, once or twice."""

import dataclasses

from t2i_jax.data.conditions import OBJECTS
from t2i_jax.data.from_scenes import Scenes
from t2i_jax.data.record import Record
from t2i_jax.data.scenes import facts_to_json, make_edits, objects_to_json

TURNS = (1, 2)  # edits of consecutive records: half of the records have two


@dataclasses.dataclass(frozen=True)
class Edits(Scenes):
  """Procedural images with edits by instruction and ground truth; fields as of Scenes.

  A record's captions, and the facts, objects and category in its meta, are those of the first
  image; meta["turns"] has each edit's kind and the facts of the image after it.
  """

  def _record(self, split: str, index: int) -> Record:
    turns = make_edits(index, self.level, split, self.seed, TURNS[index % len(TURNS)])
    first = turns[0].before
    meta = {
      "facts": facts_to_json(first.facts),
      OBJECTS: objects_to_json(first.objects),
      "category": first.category,
      "level": first.level,
      "heldout": any(turn.edit.heldout for turn in turns),
      "turns": [
        {"kind": turn.edit.kind, "facts": facts_to_json(turn.after.facts)} for turn in turns
      ],
    }
    then = tuple((turn.edit.instruction, self._image(turn.after)) for turn in turns)
    return Record(self._image(first), first.captions, self._key(split, index), meta, then)
