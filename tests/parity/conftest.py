"""Where the comparison with torch's libraries is required, it is not left out in silence."""

import importlib
import os

if os.environ.get("T2I_REQUIRE_PARITY"):
  for name in ("torch", "diffusers", "transformers"):
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise RuntimeError(
        f"T2I_REQUIRE_PARITY is set and {name} cannot be imported ({error}): tests/parity would be "
        "skipped. Install it (pip install -e '.[parity]'), or unset T2I_REQUIRE_PARITY."
      ) from error
