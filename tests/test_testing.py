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
