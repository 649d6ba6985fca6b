"""Every name of docs/glossary.md stands in the code, and every term has one row."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [
  [cell.strip() for cell in line.strip("|").split("|")]
  for line in (ROOT / "docs/glossary.md").read_text().splitlines()
  if line.startswith("| ") and not line.startswith(("| term", "|---"))
]


def test_names_of_the_glossary_are_those_of_the_code():
  code = "\n".join(path.read_text() for path in (ROOT / "t2i_jax").rglob("*.py"))
  identifiers = set(re.findall(r"[A-Za-z_]\w*", code))
  names = [name for _, cell, _ in ROWS for name in re.findall(r"`(\w+)`", cell)]
  assert names and not [name for name in names if name not in identifiers]


def test_each_term_has_one_row():
  terms = [term for term, _, _ in ROWS]
  assert len(terms) == len(set(terms)) > 30
