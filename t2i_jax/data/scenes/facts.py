"""Objects, and the statements of captions about them."""

import dataclasses
from typing import Any

KINDS = ("exists", "count", "total", "relation", "absent")


@dataclasses.dataclass(frozen=True)
class Spec:
  """A description of objects in a caption; None: any value of the attribute."""

  color: str | None = None
  shape: str | None = None
  size: str | None = None

  def fits(self, o: "Object") -> bool:
    """Whether an object matches the description."""
    return (
      self.color in (None, o.color)
      and self.shape in (None, o.shape)
      and self.size in (None, o.size)
    )


@dataclasses.dataclass(frozen=True)
class Object:
  """A coloured shape in an image.

  shape, color, size  names in SHAPES, COLORS, SIZES; "unknown" where the judge finds no match
  x, y                centroid in [0, 1], y down
  r                   radius, a fraction of the side
  """

  shape: str
  color: str
  size: str
  x: float
  y: float
  r: float


@dataclasses.dataclass(frozen=True)
class Fact:
  """One statement of a caption.

  exists    at least one object matches a
  count     exactly n objects match a
  total     the image has exactly n objects
  relation  an object that matches a is in relation `rel` to another that matches b
  absent    no object matches a
  """

  kind: str
  a: Spec | None = None
  rel: str | None = None
  b: Spec | None = None
  n: int | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
  """The content of an image and its captions.

  objects   in painting order: a surrounding object comes before those inside it
  facts     all statements of the caption
  captions  1 to 3 wordings of the same facts; `caption` is the first
  heldout   whether the caption has a composition that train and val never contain
  """

  objects: tuple[Object, ...]
  facts: tuple[Fact, ...]
  captions: tuple[str, ...]
  category: str
  level: str
  heldout: bool

  @property
  def caption(self) -> str:
    """The main caption."""
    return self.captions[0]


def facts_to_json(facts: tuple[Fact, ...]) -> list[dict[str, Any]]:
  """Facts as dictionaries of JSON types; fields that are None are left out."""

  def bare(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in items if v is not None}

  return [dataclasses.asdict(f, dict_factory=bare) for f in facts]


def facts_from_json(rows: list[dict[str, Any]]) -> tuple[Fact, ...]:
  """The inverse of `facts_to_json`."""
  facts = []
  for row in rows:
    a, b = (Spec(**row[k]) if k in row else None for k in ("a", "b"))
    facts.append(Fact(row["kind"], a, row.get("rel"), b, row.get("n")))
  return tuple(facts)


def objects_to_json(objects: tuple[Object, ...]) -> list[dict[str, Any]]:
  """Objects as dictionaries of JSON types."""
  return [dataclasses.asdict(o) for o in objects]


def objects_from_json(rows: list[dict[str, Any]]) -> tuple[Object, ...]:
  """The inverse of `objects_to_json`."""
  return tuple(Object(**row) for row in rows)
