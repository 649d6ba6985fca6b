"""Gathers the sources cited in the code into docs/equations.md: python -m benchmarks.equations

A citation is [arXiv-id place], several separated by semicolons, as [2206.00364 alg. 2]. A paper
must stand in docs/papers.json; one that is cited nowhere must not.
"""

import ast
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.pages import table

ROOT = Path(__file__).resolve().parent.parent
CITED = ("t2i_jax", "benchmarks/proofs")
BRACKET = re.compile(r"\[([^\[\]]*\b\d{4}\.\d{4,5}\b[^\[\]]*)\]")
ID = re.compile(r"^\s*(\d{4}\.\d{4,5})\b[ ,]*(.*)$", re.DOTALL)
HEADER = """# Equations

Every source that the code cites, and where. Made by `python -m benchmarks.equations`; a test fails
when this page is stale or a paper is not in `papers.json`.
"""


class Citation(NamedTuple):
  """paper is an arXiv id; place as written ("eq. 6"); where is file and enclosing definition."""

  paper: str
  place: str
  file: str
  name: str


def enclosing(tree: ast.Module, line: int) -> str:
  """The dotted name of the innermost definition around a line; "" at module level."""
  names, nodes = [], list(tree.body)
  while nodes:
    inside = [
      n
      for n in nodes
      if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    if not inside:
      break
    names.append(inside[0].name)
    nodes = list(inside[0].body)
  return ".".join(names)


def citations(path: Path) -> list[Citation]:
  """All citations of a file, in order. Brackets that name no paper are not citations."""
  text = path.read_text(encoding="utf-8")
  tree = ast.parse(text)
  found = []
  for match in BRACKET.finditer(text):
    line = text.count("\n", 0, match.start()) + 1
    words = re.sub(r"\s*\n\s*#?\s*", " ", match.group(1))
    for part in words.split(";"):
      one = ID.match(part)
      if one:  # the rest of a bracket is a remark: "t reversed to run to noise"
        where = (str(path.relative_to(ROOT)), enclosing(tree, line))
        found.append(Citation(one.group(1), one.group(2).strip(), *where))
  return found


def all_citations() -> list[Citation]:
  paths = [path for folder in CITED for path in sorted((ROOT / folder).rglob("*.py"))]
  return [citation for path in paths for citation in citations(path)]


def papers() -> dict[str, str]:
  """arXiv id -> "First author et al. year, Title"."""
  return json.loads((ROOT / "docs" / "papers.json").read_text(encoding="utf-8"))


def page(found: list[Citation], known: dict[str, str]) -> str:
  """docs/equations.md. KeyError for a paper that is not known."""
  at: dict[tuple[str, str], list[str]] = defaultdict(list)
  for c in found:
    label = f"{c.file.removeprefix('t2i_jax/')} `{c.name}`" if c.name else c.file
    link = f"[{label}](../{c.file})"
    if link not in at[c.paper, c.place]:
      at[c.paper, c.place].append(link)
  rows = []
  for paper, place in sorted(at):
    title = f"[{paper}](https://arxiv.org/abs/{paper}) {known[paper]}"
    rows.append([title, place or "whole", ", ".join(at[paper, place])])
  return f"{HEADER}\n{table(['paper', 'place', 'here'], rows)}\n"


def main() -> None:
  found, known = all_citations(), papers()
  missing = sorted({c.paper for c in found} - set(known))
  if missing:
    sys.exit(f"docs/papers.json lacks {', '.join(missing)}.")
  (ROOT / "docs" / "equations.md").write_text(page(found, known), encoding="utf-8")
  print(f"docs/equations.md: {len(found)} citations of {len({c.paper for c in found})} papers")


if __name__ == "__main__":
  main()
