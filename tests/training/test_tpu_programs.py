"""The programs of docs/tpu_programs.md: the small one again, held against what is recorded."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "docs/tpu_programs.json").read_text())
SMALL = "flux 2+2 v5p:2x2x1 1x4x1 attention"
FULL = "flux v5p:2x2x1 1x4x1 attention"


@pytest.fixture(scope="module")
def small():
  """FLUX.1-dev at its full width with 2 blocks of each kind, compiled for four chips (minutes)."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("no TPU compiler here: pip install 't2i_jax[tpu]'")
  command = [sys.executable, "benchmarks/flux_on_tpu.py", "--print", f"--rows={re.escape(SMALL)}"]
  # Without the flags that the tests give to their CPU compiler.
  env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  env |= {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout)[SMALL]
  print(found)
  return found


@pytest.mark.slow
def test_blocks_send_weights_and_gradients_and_nothing_else(small):
  """Collectives in the loops over blocks, by kind, as recorded: one an array that is gathered."""
  inside = lambda of: {kind: sent[3] for kind, sent in of["sent"].items() if sent[3]}
  assert inside(small) == inside(RECORDED[SMALL]) == inside(RECORDED[FULL])
  assert "all-to-all" not in inside(small)


@pytest.mark.slow
def test_no_attention_is_run_twice(small):
  assert (small["forward"], small["backward"]) == (2, 2)  # one of each kind of block


@pytest.mark.slow
def test_memory_and_traffic_are_what_was_recorded(small):
  for key in ("peak", "temporary", "traffic"):
    assert small[key] == pytest.approx(RECORDED[SMALL][key], rel=0.05), key
