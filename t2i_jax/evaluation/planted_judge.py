"""Judges images against prompts of level planted: identity, adherence, leakage, rendering, copies.

The objects come from planted_reader, from pixels alone. What a prompt asks for are the facts and
the rendering of its scene (data/scenes/planted); a subject or a rendering that no training record
has is judged in the same way.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t2i_jax.data.scenes import Fact, Object, Spec, holds
from t2i_jax.data.scenes.planted import ALL_MARKS, Look, PlantedScene, copies
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.evaluation.planted_reader import Reading, Seen, read_all
from t2i_jax.evaluation.stats import Rate

ATTRIBUTES = ("shape", "color", "mark", "mark_color")
COPY_TOLERANCE = 1 / 32  # sides: 1 pixel at 32


@dataclasses.dataclass(frozen=True)
class PlantedVerdict:
  """What of a prompt is true of an image.

  identity    whether all individuals of the prompt are there; None where it has none
  attributes  the same by attribute, of the objects most like them; all None where it has none
  adherence   whether everything else that the prompt states is true: individuals count as objects
              of their shape, other objects by shape and colour
  leakage     whether an object has a mark that the prompt does not ask for
  rendering   whether the image has the rendering of the prompt
  copied      the id of the copied image whose objects are all in their places, or None
  copying     whether that is the prompt's; None where its caption is not of a copied image
  """

  identity: bool | None
  attributes: dict[str, bool | None]
  adherence: bool
  leakage: bool
  rendering: bool
  copied: int | None
  copying: bool | None
  seen: Reading

  @property
  def correct(self) -> bool:
    """Whether the image is what the prompt asks for, and nothing else."""
    asked = self.identity is not False and self.copying is not False
    return asked and self.adherence and self.rendering and not self.leakage


def judge_planted(images: np.ndarray, scenes: Sequence[PlantedScene]) -> list[PlantedVerdict]:
  """Judges images, uint8 [n, H, H, 3], each against the prompt of a scene.

  Raises ValueError where their numbers differ, DataError as `planted_reader.read_all`.
  """
  readings = read_all(images)
  return [judge_reading(*pair) for pair in zip(readings, scenes, strict=True)]


def judge_reading(seen: Reading, scene: PlantedScene) -> PlantedVerdict:
  """Judges an image that was read against the prompt of a scene."""
  looks = [f.a for f in scene.facts if f.kind == "exists" and isinstance(f.a, Look)]
  asked = [look for look in looks if look.mark not in (None, NONE)]
  rest, most_alike = list(seen.objects), []
  for look in asked:
    alike = max(rest, key=lambda o: sum(_alike(look, o).values()), default=None)
    most_alike.append(_alike(look, alike))
    if alike is not None:
      rest.remove(alike)
  copied = next((c.number for c in copies() if same_layout(seen.objects, c.objects)), None)
  return PlantedVerdict(
    identity=all(all(each.values()) for each in most_alike) if asked else None,
    attributes={a: all(m[a] for m in most_alike) if asked else None for a in ATTRIBUTES},
    adherence=all(holds(_without_marks(fact), seen.objects) for fact in scene.facts),
    leakage=any(o.mark in ALL_MARKS[1:] for o in rest),
    rendering=seen.rendering == scene.rendering,
    copied=copied,
    copying=None if scene.copy is None else copied == scene.copy,
    seen=seen,
  )


def _alike(look: Look, o: Seen | None) -> dict[str, bool]:
  return {a: o is not None and getattr(o, a) == getattr(look, a) for a in ATTRIBUTES}


def _without_marks(fact: Fact) -> Fact:
  """The fact in which an individual is an object of its shape, and any mark will do."""

  def spec(s: Spec | None) -> Spec | None:
    marked = isinstance(s, Look) and s.mark not in (None, NONE)
    return s and Spec(None if marked else s.color, s.shape)

  return dataclasses.replace(fact, a=spec(fact.a), b=spec(fact.b))


def same_layout(
  seen: Sequence[Object], layout: Sequence[Object], tolerance: float = COPY_TOLERANCE
) -> bool:
  """Whether the objects seen are those of a layout, each with its identity and in its place.

  tolerance  distance of the centroids, sides
  """
  rest = list(seen)
  for o in layout:
    for other in rest:
      near = np.hypot(other.x - o.x, other.y - o.y) <= tolerance
      if near and _identity(other) == _identity(o):
        rest.remove(other)
        break
    else:
      return False
  return not rest


def _identity(o: Object) -> tuple[str, ...]:
  return (o.shape, o.color, getattr(o, "mark", NONE), getattr(o, "mark_color", NONE))


def rates(verdicts: Sequence[PlantedVerdict]) -> dict[str, Rate]:
  """How many are correct, and by identity, attribute, adherence, leakage, rendering and copying;
  each over the verdicts to which it applies.
  """

  def of(values: Sequence[bool | None]) -> Rate:
    return Rate.of(value for value in values if value is not None)

  names = ("correct", "identity", "adherence", "leakage", "rendering", "copying")
  found = {name: of([getattr(v, name) for v in verdicts]) for name in names}
  return found | {a: of([v.attributes[a] for v in verdicts]) for a in ATTRIBUTES}
