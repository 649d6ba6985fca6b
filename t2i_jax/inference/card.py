"""The model card of a folder that is written: README.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from t2i_jax import __version__
from t2i_jax.config import to_json
from t2i_jax.errors import ConfigError

CARD = "README.md"
KEYS = ("license", "license_name", "license_link")  # of a card's front matter


class Licence(NamedTuple):
  """keys: lines of the front matter;   said: a sentence"""

  keys: dict[str, str]
  said: str


def licence_of(source: Path | None, given: str = "") -> Licence:
  """The licence that the card of a source folder states, else the one that is given.

  Raises ConfigError where both exist and differ.
  """
  stated = {} if source is None else _front_matter(source / CARD)
  name = stated.get("license_name") or stated.get("license", "")
  if given and name and given not in (name, stated.get("license")):
    raise ConfigError(
      f"--licence={given}: {CARD} of the source states {name!r}, which binds what is made of it. "
      "Leave out --licence."
    )
  if name:
    return Licence(stated, f"{name}, as {CARD} of the source states.")
  if given:
    return Licence({"license": given}, f"{given}, as it was given for this export.")
  return Licence({"license": "unknown"}, "unknown. The source states none, and none was given.")


def _front_matter(path: Path) -> dict[str, str]:
  """The licence's keys between the first two lines of ---; those of one line each."""
  if not path.is_file():
    return {}
  first, *lines = path.read_text("utf-8", "replace").splitlines() or [""]
  if first.strip() != "---":
    return {}
  found: dict[str, str] = {}
  for line in lines:
    if line.strip() == "---":
      return found
    key, colon, value = line.partition(":")
    if colon and key in KEYS and value.strip():
      found[key] = value.strip().strip("\"'")
  return {}


def card(
  config: ConfigDict,
  licence: Licence,
  parts: Sequence[tuple[str, str, str]],
  made: str,
  data: str = "",
) -> str:
  """The text of README.md.

  parts  subfolder, class and origin of the weights of each
  made   a sentence: what the folder was written from
  data   hash of the manifest that the run was trained on
  """
  keys = licence.keys | {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
  plain = re.compile(r"[\w.:/+-]*\w")
  shown = lambda value: value if plain.fullmatch(value) else json.dumps(value, ensure_ascii=False)
  rows = [f"| {' | '.join(row)} |" for row in (("part", "class", "weights"), ("---",) * 3, *parts)]
  trained = f"Training data: manifest.json with the SHA-256 {data}." if data else ""
  return "\n".join(
    [
      "---",
      *(f"{key}: {shown(value)}" for key, value in keys.items()),
      "---",
      "",
      f"# {config.name}",
      "",
      f"Written by t2i_jax {__version__}: {made}",
      *(["", trained] if trained else []),
      "",
      f"Licence: {licence.said}",
      "",
      *rows,
      "",
      "## Config",
      "",
      "```json",
      to_json(config),
      "```",
      "",
    ]
  )
