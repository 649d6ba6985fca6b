"""Wording of objects, relations and counts in captions."""

import random
from collections.abc import Sequence

from t2i_jax.data.scenes.facts import Fact, Spec
from t2i_jax.data.scenes.vocabulary import INVERSE

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
WORDINGS = {  # the first is the plain one
  "left of": ("left of", "to the left of", "on the left of"),
  "right of": ("right of", "to the right of", "on the right of"),
  "above": ("above", "higher up than", "over"),
  "below": ("below", "lower down than", "under"),
  "inside": ("inside", "within", "enclosed by"),
  "surrounding": ("surrounding", "around", "enclosing"),
}


def noun(spec: Spec, n: int = 1) -> str:
  """A description without article: "red circle", "large objects"."""
  shape = spec.shape or "object"
  if n != 1:
    shape += "es" if shape.endswith("s") else "s"
  return " ".join(w for w in (spec.size, spec.color, shape) if w)


def one(spec: Spec) -> str:
  """A description with its indefinite article: "an orange circle"."""
  words = noun(spec)
  return ("an " if words[0] in "aeiou" else "a ") + words


def several(spec: Spec, n: int) -> str:
  """A counted description: "three red circles", "one blue square"."""
  return f"{NUMBERS[n]} {noun(spec, n)}"


def listed(phrases: Sequence[str]) -> str:
  """Phrases joined as in "a, b and c"."""
  return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def related(a: Spec, relation: str, b: Spec, tail: str = "") -> tuple[str, ...]:
  """Three wordings of one relation; the last states the equivalent inverse relation."""
  plain, other, _ = WORDINGS[relation]
  inverse = WORDINGS[INVERSE[relation]][1]
  return (
    f"{one(a)} {plain} {one(b)}{tail}",
    f"there is {one(a)} {other} {one(b)}{tail}",
    f"{one(b)} {inverse} {one(a)}{tail}",
  )


def _sentence(text: str) -> str:
  return text[0].upper() + text[1:] + "."


def _object_sentences(specs: Sequence[Spec], style: int) -> list[str]:
  if style == 0:
    lines = [f"the {ORDINALS[i]} object is {one(s)}" for i, s in enumerate(specs)]
  else:
    openings = ("one of them is", *("there is also", "another one is") * 3)
    lines = [f"{opening} {one(s)}" for opening, s in zip(openings, specs, strict=False)]
  return [_sentence(line) for line in lines]


def _relation_sentence(fact: Fact, rng: random.Random) -> str:
  assert fact.a and fact.b and fact.rel
  words = WORDINGS[fact.rel][1 if rng.random() < 0.5 else 2]
  return _sentence(f"the {noun(fact.a)} is {words} the {noun(fact.b)}")


def long_text(facts: Sequence[Fact], rng: random.Random, style: int) -> str:
  """Several sentences that state facts of every kind, one sentence per fact.

  style  0 or 1: two wordings of the opening and of the objects
  """
  by_kind: dict[str, list[Fact]] = {}
  for fact in facts:
    by_kind.setdefault(fact.kind, []).append(fact)
  n = by_kind["total"][0].n
  assert n is not None
  opening = (
    f"this picture shows exactly {NUMBERS[n]} objects on a plain light background",
    f"on a plain light background there are {NUMBERS[n]} objects and nothing else",
  )[style]
  lines = [_sentence(opening)]
  lines += _object_sentences([f.a for f in by_kind["exists"] if f.a], style)
  lines += [_relation_sentence(f, rng) for f in by_kind["relation"]]
  for fact in by_kind["count"]:
    assert fact.a and fact.n
    verb = "is" if fact.n == 1 else "are"
    what = noun(fact.a, fact.n) if fact.a.shape else fact.a.color
    what = one(fact.a) if fact.n == 1 and fact.a.shape else what
    lines.append(_sentence(f"exactly {NUMBERS[fact.n]} of the objects {verb} {what}"))
  lines += [
    _sentence(f"there are no {noun(f.a, 2)} anywhere in the picture")
    for f in by_kind["absent"]
    if f.a
  ]
  return " ".join(lines)
