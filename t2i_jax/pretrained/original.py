"""What is known of a layout that authors published as one file: no config, only shapes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from t2i_jax.pretrained.names import Shape
from t2i_jax.pretrained.spec import Spec


@dataclass(frozen=True)
class Original:
  """One layout.

  spec   with the table of this layout
  mark   tensors by which it is told
  infer  shapes by name -> what they tell of our config
  told   keys of our config that may be said where shapes do not tell them, or tell them wrong
  """

  spec: Spec
  mark: tuple[str, ...]
  infer: Callable[[Mapping[str, Shape]], dict[str, Any]]
  told: tuple[str, ...]


def blocks(names: Iterable[str], stack: str) -> int:
  """How many blocks "stack.0.", "stack.1." ... there are."""
  return 1 + max(
    (int(name.split(".")[1]) for name in names if name.startswith(f"{stack}.")), default=-1
  )
