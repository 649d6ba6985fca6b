"""Parts of a benchmark as processes beside each other."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.quickstart import KEEP_MEMORY


def threads(jobs: int) -> dict[str, str]:
  """Environment variables with which `jobs` processes share the processors evenly: NPROC is how
  many threads XLA starts."""
  return {"NPROC": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}


def each_by_itself(commands: Sequence[Sequence[str]], jobs: int, runs: Path) -> None:
  """Runs `python -m MODULE FLAG...` of each, `jobs` at a time, in their order; exits where one
  fails, once all others have ended. Compiled programs are shared, in RUNS."""
  compiled = {"JAX_COMPILATION_CACHE_DIR": str((runs / "compiled").resolve())}
  env = KEEP_MEMORY | threads(jobs) | compiled | os.environ

  def run(command: Sequence[str]) -> int:
    print(f"$ python -m {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], env=env).returncode

  with ThreadPoolExecutor(jobs) as pool:
    codes = list(pool.map(run, commands))
  if any(codes):
    sys.exit(next(code for code in codes if code))
