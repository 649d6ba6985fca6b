"""Cases of a test of which `make test` runs some, and `make proof` the others."""

import pytest

# One stack; stacks of two kinds; a stack with refiners before it. For laws of code that all share.
SHARED_CODE = ("dit_cross", "flux", "z_image")


def here(names, kept):
  """The names for parametrize: those that are not among `kept` are for `make proof`."""
  return [n if n in kept else pytest.param(n, marks=pytest.mark.proof) for n in names]
