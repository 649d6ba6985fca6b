"""Facts and objects of scenes as short English phrases, for reports."""

from t2i_jax.data.scenes import Fact, Object
from t2i_jax.data.scenes.facts import KINDS, Spec
from t2i_jax.evaluation.judge import UNKNOWN


def fact_phrase(fact: Fact) -> str:
  """A fact as a short English phrase, "no green objects"."""
  match fact:
    case Fact(kind="exists", a=Spec() as a):
      return _phrase(a)
    case Fact(kind="count", a=a, n=int(n)):
      return f"exactly {n} {_phrase(a or Spec(), n)}"
    case Fact(kind="total", n=int(n)):
      return f"{n} {_phrase(Spec(), n)} in all"
    case Fact(kind="relation", a=Spec() as a, rel=rel, b=Spec() as b):
      return f"{_phrase(a)} {rel} {_phrase(b)}"
    case Fact(kind="absent", a=Spec() as a):
      return f"no {_phrase(a, 0)}"
  raise ValueError(f"{fact} is not one of the facts {KINDS}")


def object_phrase(o: Object, sizes: bool) -> str:
  """A detected object, "a red circle of unknown shape".   sizes: with its size"""
  unknown = [word for word, name in (("colour", o.color), ("shape", o.shape)) if name == UNKNOWN]
  phrase = _phrase(
    Spec(
      color=None if o.color == UNKNOWN else o.color,
      shape=None if o.shape == UNKNOWN else o.shape,
      size=o.size if sizes else None,
    )
  )
  return phrase + (f" of unknown {' and '.join(unknown)}" if unknown else "")


def _phrase(spec: Spec, n: int | None = None) -> str:
  """The described objects: with an article, or after a number."""
  noun = " ".join(word for word in (spec.size, spec.color, spec.shape or "object") if word)
  if n is None:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
  if n == 1:
    return noun
  return noun + ("es" if noun.endswith("s") else "s")
