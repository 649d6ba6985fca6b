"""Level "planted": scenes of level easy with individuals, artists and copied images among them,
so that personalisation, editing and forgetting can be judged exactly.

Individuals are objects with a mark, under invented names: "a grum circle". Artists are renderings
of whole images: "a red circle, by outl". A copied image is the same pixels and the same caption
in 1 to 1,024 records. One mark and one rendering are in no record; they can be drawn, as what a
model has not seen. A folder can be built without some of it (`without`): all other records are the
same.
"""

from t2i_jax.data.scenes.planted.generate import (
  CATEGORIES,
  PlantedScene,
  artist_scene,
  copied_records,
  copied_scene,
  corpus,
  make_planted,
  planted_prompts,
  subject_scene,
)
from t2i_jax.data.scenes.planted.render import DARK, FLOOR, draw
from t2i_jax.data.scenes.planted.world import (
  ALL_MARKS,
  ARTISTS,
  EXPOSURES,
  INDIVIDUALS,
  LEVEL,
  MARKS,
  PLAIN,
  RENDERINGS,
  UNSEEN_MARK,
  UNSEEN_RENDERING,
  Copy,
  Look,
  Thing,
  copies,
  look_of,
  parse_without,
  unused_codes,
)

__all__ = [
  "ALL_MARKS",
  "ARTISTS",
  "CATEGORIES",
  "DARK",
  "EXPOSURES",
  "FLOOR",
  "INDIVIDUALS",
  "LEVEL",
  "MARKS",
  "PLAIN",
  "RENDERINGS",
  "UNSEEN_MARK",
  "UNSEEN_RENDERING",
  "Copy",
  "Look",
  "PlantedScene",
  "Thing",
  "artist_scene",
  "copied_records",
  "copied_scene",
  "copies",
  "corpus",
  "draw",
  "look_of",
  "make_planted",
  "parse_without",
  "planted_prompts",
  "subject_scene",
  "unused_codes",
]
