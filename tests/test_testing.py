"""docs/testing.md lists what `make test` leaves to `make proof`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_with_cases_for_make_proof_is_on_the_page():
  page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
  for path in sorted((ROOT / "tests").rglob("test_*.py")):
    named = f"| `{path.relative_to(ROOT)}`" in page
    has_some = re.search(r"mark\.proof|\bhere\(", path.read_text(encoding="utf-8")) is not None
    assert named == has_some or path == Path(__file__), path


def test_what_runs_under_the_newest_jax_reaches_every_package():
  texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
  marked = "\n".join(text for text in texts if "pytest.mark.newest" in text)
  for package in (ROOT / "t2i_jax").glob("*/__init__.py"):
    name = package.parent.name
    assert re.search(rf"(from|import) t2i_jax(\.| import .*\b){name}\b", marked), name
