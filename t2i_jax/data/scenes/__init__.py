"""Procedural captioned images with exact ground truth, an unlimited number by index.

A scene is 1 to 6 objects (shape, colour, size) on a plain light background, a caption in up to
three wordings, and the statements of the caption as facts that a judge can check in pixels.

Levels
  easy    from 32 pixels: 3 shapes, 1 or 2 objects; single, binding, relation; one short wording
  counts  from 32 pixels: 3 shapes, up to 4 objects; adds count
  full    from 48 pixels: 6 shapes, 3 sizes, up to 6 objects; all of CATEGORIES, varied wording

Number of scenes: positions and radii are real numbers, so no image repeats. Captions: easy has 21
single objects, 6 x 43 = 258 bindings and 21 x 20 x 4 x 0.9 = about 1,500 relations. full has 42
coloured shapes; three of them in two stated relations are already 42 x 41 x 40 x 4 x 4 = 1.1
million captions, and long ones do not repeat.

A caption that describes the whole image has a `total` fact. Negations ("a red circle and no green
objects") do not determine the rest of the image. "left of" means that the horizontal distance of
the centres is larger than the vertical one, by at least 4 pixels (at 32; 3 at 48) where a caption
states it.

An edit is one change of a scene ("make the red circle blue") with facts that hold after it; see
scenes/edits.py.
"""

from t2i_jax.data.scenes.edits import (
  EDITS,
  MOVE,
  Edit,
  Turn,
  Wanted,
  edit_kinds,
  edit_prompts,
  make_edit,
  make_edit_of,
  make_edits,
)
from t2i_jax.data.scenes.facts import (
  Fact,
  Object,
  Scene,
  Spec,
  facts_from_json,
  facts_to_json,
  objects_from_json,
  objects_to_json,
)
from t2i_jax.data.scenes.generate import make_scene, prompts
from t2i_jax.data.scenes.render import order, outlines, render, strokes
from t2i_jax.data.scenes.truth import CHANGES, false_facts, falsify, holds
from t2i_jax.data.scenes.vocabulary import (
  BACKGROUND,
  CATEGORIES,
  COLORS,
  LEVELS,
  RELATIONS,
  SHAPES,
  SIZES,
  SPLITS,
  Level,
)

__all__ = [
  "BACKGROUND",
  "CATEGORIES",
  "CHANGES",
  "COLORS",
  "EDITS",
  "LEVELS",
  "MOVE",
  "RELATIONS",
  "SHAPES",
  "SIZES",
  "SPLITS",
  "Edit",
  "Fact",
  "Level",
  "Object",
  "Scene",
  "Spec",
  "Turn",
  "Wanted",
  "edit_kinds",
  "edit_prompts",
  "facts_from_json",
  "facts_to_json",
  "false_facts",
  "falsify",
  "holds",
  "make_edit",
  "make_edit_of",
  "make_edits",
  "make_scene",
  "objects_from_json",
  "objects_to_json",
  "order",
  "outlines",
  "prompts",
  "render",
  "strokes",
]
