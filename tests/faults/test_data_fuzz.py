"""Damaged files of every kind through the build: benchmarks/proofs/fuzz_data.py, 500 of them."""

import resource

from benchmarks.proofs.fuzz_data import fuzz


def test_every_damaged_file_is_used_or_named():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = fuzz(500, seed=1)
  assert found["kinds"].total() == 500
  assert len(found["outcomes"]) > 5 and found["outcomes"]["used"] > 100
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: 1 GiB
