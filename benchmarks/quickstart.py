"""From nothing to a scored model: builds data, trains, samples, scores, prints the report's path.

  make quickstart               scenes: an exact judge scores the drawings (about 10 minutes)
  make quickstart DATA=emoji    real pictures in two artists' styles (about 30 minutes)

Run again, it goes on from where it stopped. Times are of two cores without a GPU.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

PLANS: dict[str, dict[str, list[str]]] = {
  "scenes": {
    "config": ["configs/scenes_dit_flow.py"],
    "build": ["--from=scenes", "--level=easy", "--size=32", "--vocab=512"],
    "prompts": ["a red circle", "a blue triangle above a green square"],
  },
  "emoji": {
    "config": ["configs/emoji_dit_flow.py"],
    "build": ["--from=emoji", "--size=32"],
    "prompts": ["fox, Twemoji style", "fox, OpenMoji style"],
  },
}


# XLA on the CPU allocates a step's buffers anew each time. Kept by glibc, and in large pages,
# 73,000 page faults a step and most of 0.13 s of system time go (measured, 2 cores). What that
# saves on the clock was not measured apart from the machine's other work.
KEEP_MEMORY = {
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**36),
  "MALLOC_ARENA_MAX": "1",
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def t2i(*args: str) -> float:
  """Runs a verb as a user would; returns its seconds. Exits with its code where it fails."""
  print(f"\n$ t2i {' '.join(args)}", flush=True)
  began = time.perf_counter()
  verb = [sys.executable, "-m", "t2i_jax.cli.main", *args]
  code = subprocess.run(verb, env=KEEP_MEMORY | os.environ).returncode
  if code:
    sys.exit(code)
  return time.perf_counter() - began


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", choices=PLANS, default="scenes")
  parser.add_argument("--runs", default="runs", help="where data and runs go")
  args = parser.parse_args()
  plan = PLANS[args.data]
  config = plan["config"][0]
  data = f"{args.runs}/data/{args.data}_quickstart"
  workdir = f"{args.runs}/{Path(config).stem}"

  seconds = {"data": 0.0}
  if not Path(data, "manifest.json").exists():
    seconds["data"] = t2i("data", "build", *plan["build"], f"--to={data}")
    t2i("data", "show", data)
  train = ["train", f"--config={config}", f"--workdir={workdir}", f"--config.data.dir={data}"]
  seconds["training"] = t2i(*train)
  draw = [f"--prompt={prompt}" for prompt in plan["prompts"]]
  seconds["samples"] = t2i("sample", f"--workdir={workdir}", *draw, "--num=4")
  seconds["score and report"] = t2i("eval", f"--workdir={workdir}")

  times = ", ".join(f"{name} {taken / 60:.1f}" for name, taken in seconds.items())
  print(f"\nminutes: {times}; {sum(seconds.values()) / 60:.1f} in all")
  print(f"the report: {Path(workdir, 'eval', 'report.html').resolve()}")


if __name__ == "__main__":
  main()
