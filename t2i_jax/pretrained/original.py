"""The original layout of a model: one file without a config, which shapes of tensors determine."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from t2i_jax.pretrained.names import Entry, Shape
from t2i_jax.pretrained.spec import Spec


@dataclass(frozen=True)
class Original:
  """One layout.

  spec       with the table of this layout
  mark       names of tensors that identify it
  infer      shapes by name -> the fields of our config that they determine
  arguments  fields of our config that the caller may give: shapes may not determine them
  """

  spec: Spec
  mark: tuple[str, ...]
  infer: Callable[[Mapping[str, Shape]], dict[str, Any]]
  arguments: tuple[str, ...]


def blocks(names: Iterable[str], stack: str) -> int:
  """The number of blocks "stack.0.", "stack.1." ..."""
  return 1 + max(
    (int(name.split(".")[1]) for name in names if name.startswith(f"{stack}.")), default=-1
  )


def renamed_entries(found: list[Entry], name_of: Callable[[str], str]) -> list[Entry]:
  """A table with other names of tensors."""
  part = lambda one: replace(one, name=name_of(one.name))
  return [replace(entry, parts=tuple(map(part, entry.parts))) for entry in found]
