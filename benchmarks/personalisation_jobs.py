"""Parts of a benchmark as processes beside each other."""

import argparse
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.quickstart import KEEP_MEMORY


def add_run_flags(parser: argparse.ArgumentParser) -> None:
  """Of the data, and of what is trained on them from scratch."""
  parser.add_argument("--data", default="runs/data/scenes_planted")
  parser.add_argument("--count", type=int, default=237_056, help="records of the data")
  parser.add_argument(
    "--steps", type=int, default=3704, help="of a run that is trained from scratch"
  )
  parser.add_argument("--every", type=int, default=463, help="steps from checkpoint to checkpoint")


def names_of(
  parser: argparse.ArgumentParser, flag: str, text: str | None, known: Collection[str]
) -> list[str]:
  """The names of a flag NAME[,NAME], all where it is not given; exits where one is unknown."""
  given = [*known] if text is None else text.split(",")
  if unknown := set(given) - set(known):
    parser.error(f"--{flag}={','.join(sorted(unknown))}: there are {', '.join(known)}.")
  return given


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
