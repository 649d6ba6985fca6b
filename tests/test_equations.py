"""The index of equations is the code's, and every paper cited is known."""

import re
from pathlib import Path

from benchmarks import equations

ROOT = Path(__file__).parents[1]

# Where in a paper: "eq. 6", "table 1", "app. A.1", or its code.
PLACE = re.compile(r"((eq|alg|sec|app|fig)\. |table |theorem )[0-9A-Z].*|its (training )?code|")


def test_every_citation_resolves_and_every_paper_is_cited():
  found, known = equations.all_citations(), equations.papers()
  assert {c.paper for c in found} == set(known)
  assert all(re.fullmatch(r".+ (19|20)\d\d, .+", title) for title in known.values())
  wrong = [c for c in found if not PLACE.fullmatch(c.place)]
  assert not wrong, wrong


def test_the_page_is_not_stale():
  page = equations.page(equations.all_citations(), equations.papers())
  assert (ROOT / "docs" / "equations.md").read_text() == page


def test_citations_are_found_where_they_stand(tmp_path):
  method = '  def f(self):\n    """F [2206.00364 alg. 1;\n    2010.02502]."""\n'
  text = f'"""M [2006.11239 eq. 4]."""\nclass A:\n{method}'
  path = tmp_path / "a.py"
  path.write_text(text)
  root, equations.ROOT = equations.ROOT, tmp_path
  try:
    found = equations.citations(path)
  finally:
    equations.ROOT = root
  assert [(c.paper, c.place, c.name) for c in found] == [
    ("2006.11239", "eq. 4", ""), ("2206.00364", "alg. 1", "A.f"), ("2010.02502", "", "A.f"),
  ]  # fmt: skip
