"""One recipe per category: draws objects, a layout, the caption and its facts.

A recipe returns None where its draw fails; the caller draws again.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

from t2i_jax.data.scenes import captions as say
from t2i_jax.data.scenes.facts import Fact, Object, Scene, Spec
from t2i_jax.data.scenes.heldout import HELDOUT_COLORS, heldout_pair, heldout_triple
from t2i_jax.data.scenes.layout import place
from t2i_jax.data.scenes.vocabulary import COLORS, OUTER_SHAPES, SIZES, Level

DIRECTIONS = ("left of", "right of", "above", "below")
_PALETTE = tuple(COLORS)


@dataclasses.dataclass
class Draw:
  """The state of one draw.

  pair    whether the caption must have a held-out colour of a shape
  triple  whether it must have a held-out relation of shapes in colours that are not held out
  """

  rng: random.Random
  level: Level
  category: str
  pair: bool = False
  triple: bool = False

  @property
  def heldout(self) -> bool:
    return self.pair or self.triple

  def specs(self, n: int, *, apart: bool = False, colors_apart: bool = False) -> list[Spec]:
    """n different coloured shapes; one of them is held out where `pair` requires it.

    apart         all shapes and all colours different
    colors_apart  all colours different
    """
    while True:
      shapes = (
        self.rng.sample(self.level.shapes, n)
        if apart
        else [self.rng.choice(self.level.shapes) for _ in range(n)]
      )
      colors = (
        self.rng.sample(_PALETTE, n)
        if apart or colors_apart
        else [self.rng.choice(_PALETTE) for _ in range(n)]
      )
      if self.pair:
        k = self.rng.randrange(n)
        colors[k] = HELDOUT_COLORS[shapes[k]]
      heldout = sum(heldout_pair(c, s) for c, s in zip(colors, shapes, strict=True))
      distinct = len(set(zip(colors, shapes, strict=True))) == n
      distinct &= not (apart or colors_apart) or len(set(colors)) == n
      if distinct and heldout == self.pair:
        return [Spec(c, s) for c, s in zip(colors, shapes, strict=True)]

  def seen(self, *, color: str | None = None, shape: str | None = None) -> Spec:
    """A coloured shape that is not held out, with the given attributes."""
    while True:
      spec = Spec(color or self.rng.choice(_PALETTE), shape or self.rng.choice(self.level.shapes))
      if not heldout_pair(spec.color, spec.shape):
        return spec

  def sized(self, specs: Sequence[Spec]) -> list[Spec]:
    """The same with sizes, in levels that have them; among many at most one is large."""
    if not self.level.sizes:
      return list(specs)
    few = len(specs) <= 2
    names = [self.rng.choice(tuple(SIZES) if few else ("small", "medium")) for _ in specs]
    if len(specs) in (3, 4) and self.rng.random() < 0.4:
      names[self.rng.randrange(len(names))] = "large"
    return [dataclasses.replace(s, size=n) for s, n in zip(specs, names, strict=True)]

  def stated(self, specs: Sequence[Spec]) -> list[Spec]:
    """The descriptions in the caption: with sizes, or (equally often) without."""
    if self.rng.random() < 0.5:
      return list(specs)
    return [dataclasses.replace(s, size=None) for s in specs]

  def wordings(self, *captions: str) -> tuple[str, ...]:
    """All wordings in levels with varied wording, otherwise the first."""
    return tuple(dict.fromkeys(captions)) if self.level.sizes else captions[:1]

  def scene(
    self, objects: tuple[Object, ...] | None, facts: list[Fact], captions: tuple[str, ...]
  ) -> Scene | None:
    if objects is None:
      return None
    return Scene(objects, tuple(facts), captions, self.category, self.level.name, self.heldout)


def single(d: Draw) -> Scene | None:
  specs = d.sized(d.specs(1))
  (a,) = d.stated(specs)
  text = say.one(a)
  return d.scene(
    place(d.rng, specs, d.level, seen_only=not d.heldout),
    [Fact("exists", a), Fact("total", n=1)],
    d.wordings(text, f"there is {text}", f"a picture of {text}"),
  )


def binding(d: Draw) -> Scene | None:
  most = min(4, d.level.max_objects, len(d.level.shapes))
  specs = d.sized(d.specs(d.rng.randint(2, most), apart=True))
  named = d.stated(specs)
  phrases = [say.one(s) for s in named]
  text = say.listed(phrases)
  return d.scene(
    place(d.rng, specs, d.level, seen_only=not d.heldout),
    [*(Fact("exists", s) for s in named), Fact("total", n=len(specs))],
    d.wordings(text, f"there is {text}", say.listed(phrases[::-1])),
  )


def count(d: Draw) -> Scene | None:
  most = d.level.max_objects
  form = d.rng.choice(("same", "two") if d.pair else ("same", "two", "shape", "color"))
  if form == "two":
    first = d.rng.randint(1, most - 1)
    numbers = [first, d.rng.randint(1, most - first)]
    named = d.specs(2)
    groups = [s for s, n in zip(named, numbers, strict=True) for _ in range(n)]
  else:
    numbers = [d.rng.randint(2, most)]
    (base,) = d.specs(1)
    if form == "same":
      named, groups = [base], [base] * numbers[0]
    else:
      fixed = {form: getattr(base, form)}
      named, groups = [Spec(**fixed)], [d.seen(**fixed) for _ in range(numbers[0])]
  text = say.listed([say.several(s, n) for s, n in zip(named, numbers, strict=True)])
  verb = "is" if numbers[0] == 1 else "are"
  return d.scene(
    place(d.rng, d.sized(groups), d.level, seen_only=not d.heldout),
    [
      *(Fact("count", s, n=n) for s, n in zip(named, numbers, strict=True)),
      Fact("total", n=len(groups)),
    ],
    d.wordings(text, f"there {verb} {text}", f"a picture of exactly {text}"),
  )


def relation(d: Draw) -> Scene | None:
  n = 3 if d.level.sizes and d.rng.random() < 0.3 else 2
  specs = d.specs(n)
  rels = [d.rng.choice(DIRECTIONS) for _ in range(n - 1)]
  stated = zip(rels, specs[1:], strict=True)
  if d.triple and not any(heldout_triple(specs[0], rel, s) for rel, s in stated):
    return None
  specs = d.sized(specs)
  named = d.stated(specs)
  texts = say.related(named[0], rels[0], named[1])
  if n == 3:
    tail = f"{say.WORDINGS[rels[1]][0]} {say.one(named[2])}"
    other = f"{say.WORDINGS[rels[1]][1]} {say.one(named[2])}"
    texts = (f"{texts[0]} and {tail}", f"{texts[1]} and {other}")
  links = [(0, rel, i) for i, rel in enumerate(rels, 1)]
  return d.scene(
    place(d.rng, specs, d.level, links=links, seen_only=not d.heldout),
    [
      *(Fact("exists", s) for s in named),
      *(Fact("relation", named[0], rel, named[i]) for _, rel, i in links),
      Fact("total", n=n),
    ],
    d.wordings(*texts),
  )


def negation(d: Draw) -> Scene | None:
  forms = (
    ("no color", "but no") if d.pair else ("no color", "but no", "without shape", "none color")
  )
  form = d.rng.choice(forms)
  facts: list[Fact] = []
  main: list[Spec] = []
  if form in ("no color", "but no"):
    main = d.specs(1)
    facts.append(Fact("exists", main[0]))
  n = d.rng.randint(1 if main else 2, 4)
  other = d.seen()
  if form == "without shape":
    none = Spec(shape=other.shape)
    texts = (
      f"{say.several(Spec(), n)} without {say.noun(none, 2)}",
      f"{say.several(Spec(), n)}, but no {say.noun(none, 2)}",
    )
  elif form == "none color":
    none = Spec(color=other.color)
    texts = (
      f"{say.several(Spec(), n)}, none of them {none.color}",
      f"{say.several(Spec(), n)} but nothing {none.color}",
    )
  else:
    none = Spec(color=other.color) if form == "no color" else other
    word = "and" if form == "no color" else "but"
    texts = (
      f"{say.one(main[0])} {word} no {say.noun(none, 2)}",
      f"there are no {say.noun(none, 2)}, but there is {say.one(main[0])}",
    )
  facts.append(Fact("absent", none))
  if not main:
    facts.append(Fact("total", n=n))
  specs = main + [d.seen() for _ in range(n - len(main))]
  if any(none.fits(Object(s.shape or "", s.color or "", "", 0, 0, 0)) for s in specs):
    return None
  return d.scene(
    place(d.rng, d.sized(specs), d.level, seen_only=not d.heldout), facts, d.wordings(*texts)
  )


def surrounding(d: Draw) -> Scene | None:
  third = d.rng.random() < 0.3
  outer, inner, *rest = d.specs(3 if third else 2, colors_apart=True)
  if outer.shape not in OUTER_SHAPES or (d.triple and not heldout_triple(inner, "inside", outer)):
    return None
  outer, inner = dataclasses.replace(outer, size="large"), dataclasses.replace(inner, size="small")
  rest = [dataclasses.replace(s, size=d.rng.choice(("small", "medium"))) for s in rest]
  named_outer, named_inner, *named_rest = d.stated([outer, inner, *rest])
  tail = "".join(f", plus {say.one(s)}" for s in named_rest)
  a, rel, b = named_inner, "inside", named_outer
  if d.rng.random() < 0.5:
    a, rel, b = named_outer, "surrounding", named_inner
  return d.scene(
    place(d.rng, [outer, inner, *rest], d.level, nested=(0, 1), seen_only=not d.heldout),
    [
      *(Fact("exists", s) for s in (a, b, *named_rest)),
      Fact("relation", a, rel, b),
      Fact("total", n=2 + len(rest)),
    ],
    d.wordings(*say.related(a, rel, b, tail)),
  )


RECIPES: dict[str, Callable[[Draw], Scene | None]] = {
  "single": single,
  "binding": binding,
  "count": count,
  "relation": relation,
  "surrounding": surrounding,
  "negation": negation,
}
