"""Every name of docs/glossary.md stands in the code, every term has one row, and expressions that
readers of papers stumble over do not come back.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
  [cell.strip() for cell in line.strip("|").split("|")]
  for line in (ROOT / "docs/glossary.md").read_text().splitlines()
  if line.startswith("| ") and not line.startswith(("| term", "|---"))
]
CODE = {path: path.read_text() for path in (ROOT / "t2i_jax").rglob("*.py")}
PAGES = ("index", "pretrain", "on_a_pod", "sample_and_score", "extending", "glossary")  # by hand
TEXTS = CODE | {
  path: path.read_text() for path in (ROOT / "README.md", *(ROOT / f"docs/{p}.md" for p in PAGES))
}
# Personification, private metaphors, and invented terms whose usual name is in the glossary.
FORBIDDEN = (
  r"(is|are|was|were|be|been|being) (asked|told)",
  r"(model|network|encoder|process|solver|judge|mesh|loop|step)s? (knows?|wants?|asks?)",
  r"(house|guests?|rooms?)",
  r"gone",
  r"sittings?",
  r"laws? of t",
  r"drawing models?",
  r"pictures",
  r"\w+_pictures?",
  r"pictures?_\w+",
)


def test_names_of_the_glossary_are_those_of_the_code():
  identifiers = set(re.findall(r"[A-Za-z_]\w*", "\n".join(CODE.values())))
  names = [name for _, cell, _ in ROWS for name in re.findall(r"`(\w+)`", cell)]
  assert names and not [name for name in names if name not in identifiers]


def test_each_term_has_one_row():
  terms = [term for term, _, _ in ROWS]
  assert len(terms) == len(set(terms)) > 30


@pytest.mark.parametrize("expression", FORBIDDEN)
def test_expressions_that_do_not_come_back(expression):
  pattern = re.compile(rf"\b{expression}\b".replace(" ", r"\s+"), re.IGNORECASE)
  found = [
    f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}: {match[0]!r}"
    for path, text in TEXTS.items()
    for match in pattern.finditer(text)
  ]
  assert not found
