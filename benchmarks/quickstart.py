"""From nothing to a scored model: builds data, trains, samples, scores, prints the report's path.

  make quickstart               scenes: an exact judge scores the samples (about 10 minutes)
  make quickstart DATA=emoji    real images in two artists' styles (about 30 minutes)
  make quickstart MINUTES=5     as many training steps as fit into 5 minutes in all

Times are of two cores without a GPU. On any machine it measures some training steps first, then
prints how long the whole will take. MINUTES fits the number of steps and the learning rate's
schedule to the time; after fewer steps the scores are lower. Run again, it goes on from where it
stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from t2i_jax.config import load_config
from t2i_jax.data.scenes import LEVELS, prompts, render
from t2i_jax.evaluation.judge import judge

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

RECORDS = 52_000  # that --from=scenes builds: train, val, heldout
FEW, MORE = 200, 1_800  # records of the two small builds that measure the rate
LOGGED, LINES = 4, 5  # training steps between log lines, and lines, of the measurement
LEAST = 100  # training steps that MINUTES must leave
PER_CELL, GALLERY = 250, 3 * 24  # samples that `t2i eval` scores a cell, or shows


def verb(*args: str) -> list[str]:
  """The command of `t2i ARGS`."""
  return [sys.executable, "-m", "t2i_jax.cli.main", *args]


def t2i(*args: str, **extra: str) -> float:
  """Runs a verb as a user would; returns its seconds. Exits with its code where it fails.

  extra  environment variables; the user's own have precedence
  """
  print(f"\n$ t2i {' '.join(args)}", flush=True)
  began = time.perf_counter()
  code = subprocess.run(verb(*args), env=KEEP_MEMORY | extra | os.environ).returncode
  if code:
    sys.exit(code)
  return time.perf_counter() - began


@dataclass(frozen=True)
class Seconds:
  """Of this machine.

  data   building what is missing
  start  from a command to its first training step, compilation included
  step   a training step
  judge  rendering a scene, and judging it as often as a score does
  """

  data: float
  start: float
  step: float
  judge: float

  def train(self, c: Any, steps: int) -> float:
    """All of `t2i train`: its compilations, steps, validations and samples."""
    every = ceil(steps / c.sampling.every)
    aside = self.call(c) * c.eval.rows + self.draw(c)
    return 1.5 * self.start + steps * self.step + every * aside

  def call(self, c: Any) -> float:
    """A network call on one image: a training step is three of each."""
    return self.step / (3 * c.train.batch)

  def draw(self, c: Any) -> float:
    """One batch of samples, under classifier-free guidance."""
    return 2 * c.sampling.steps * c.sampling.batch * self.call(c)

  def sample(self, c: Any) -> float:
    return 0.7 * self.start + self.draw(c)

  def evaluate(self, c: Any) -> float:
    level = c.score.level
    n = 2 * PER_CELL * len(LEVELS[level].categories) if level else GALLERY
    judged = self.judge * n if level else 0
    return 0.7 * self.start + ceil(n / c.sampling.batch) * self.draw(c) + judged

  def other(self, c: Any) -> float:
    """All but the training steps and what goes with them."""
    return self.data + self.train(c, 0) + self.sample(c) + self.evaluate(c)


def measure_build(build: list[str], folder: Path) -> tuple[Path, float]:
  """A small folder of scenes, and the seconds that building all of them will take."""
  taken = []
  for records in (FEW, MORE):
    count = [f"--count={records - 20}", "--val-count=10", "--heldout-count=10"]
    began = time.perf_counter()
    command = verb("data", "build", *build, *count, f"--to={folder}/{records}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken.append(time.perf_counter() - began)
  each = max(taken[1] - taken[0], 0.0) / (MORE - FEW)
  return folder / str(MORE), taken[0] + each * (RECORDS - FEW)


def measure_judge(level: str, size: int) -> float:
  """Seconds of a sample's score: rendered once, judged three times."""
  scenes = [s for name in LEVELS[level].categories for s in prompts(level, name, False, 8, 0)]
  began = time.perf_counter()
  for scene in scenes:
    image = render(scene, size)
    for _ in range(3):
      judge(image, scene.facts)
  return (time.perf_counter() - began) / len(scenes)


def measure_training(config: str, data: Path, workdir: Path, **extra: str) -> tuple[float, float]:
  """(start, step) of `Seconds`, by a training run that is ended after some log lines.

  extra  environment variables
  """
  flags = [f"--workdir={workdir}", f"--config.data.dir={data}", f"--config.log.every={LOGGED}"]
  began = time.perf_counter()
  command, quiet = verb("train", f"--config={config}", *flags), subprocess.DEVNULL
  run = subprocess.Popen(command, env=KEEP_MEMORY | extra | os.environ, stdout=quiet)
  first, lines, log = 0.0, [], workdir / "metrics.jsonl"
  while len(lines) < LINES:
    time.sleep(0.05)
    if run.poll() is not None:
      sys.exit(run.returncode or "the training run that measures the speed ended too early")
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    first = first or (time.perf_counter() - began if lines else 0.0)
  run.kill()
  run.wait()
  speeds = [json.loads(line)["perf"]["images_per_s"] for line in lines[1:LINES]]
  batch = json.loads((workdir / "config.json").read_text())["train"]["batch"]
  step = batch / median(speeds)
  return max(first - LOGGED * step, 0.0), step


def fitted(seconds: Seconds, c: Any, minutes: float) -> int:
  """Training steps that fit into minutes, at most the config's. Exits where they are too few."""
  fits = lambda steps: seconds.other(c) + seconds.train(c, steps) - seconds.train(c, 0)
  steps = next((n for n in range(c.train.steps, LEAST - 1, -10) if fits(n) <= 60 * minutes), None)
  if steps is None:
    sys.exit(
      f"MINUTES={minutes:g} is too short for this machine: {LEAST} training steps with all before "
      f"and after them take {fits(LEAST) / 60:.1f} minutes. Use MINUTES={ceil(fits(LEAST) / 60)} "
      "or more."
    )
  return steps


def statement(seconds: Seconds, c: Any, steps: int) -> str:
  """How long each part will take."""
  parts = {
    "data": seconds.data,
    "training": seconds.train(c, steps),
    "samples": seconds.sample(c),
    "score and report": seconds.evaluate(c),
  }
  speed = c.train.batch / seconds.step
  whole = "" if steps == c.train.steps else f" of {c.train.steps}: the scores will be lower"
  return (
    f"\nthis machine trains {speed:.0f} images/s; {steps} training steps{whole}\n"
    f"minutes expected: {', '.join(f'{name} {s / 60:.1f}' for name, s in parts.items())}; "
    f"{sum(parts.values()) / 60:.1f} in all. MINUTES=N fits the training to N minutes in all."
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", choices=PLANS, default="scenes")
  parser.add_argument("--runs", default="runs", help="where data and runs go")
  parser.add_argument("--minutes", type=float, default=0, help="in all; 0: the config's steps")
  args = parser.parse_args()
  plan = PLANS[args.data]
  config = plan["config"][0]
  c = load_config(config)
  data = Path(args.runs, "data", f"{args.data}_quickstart")
  limit = f"_{args.minutes:g}_minutes" if args.minutes else ""
  workdir = Path(args.runs, f"{Path(config).stem}{limit}")
  # What one command compiles, the next ones read.
  compiled = {"JAX_COMPILATION_CACHE_DIR": str(Path(args.runs, "compiled").resolve())}

  seconds = {"data": 0.0}
  build = lambda: t2i("data", "build", *plan["build"], f"--to={data}")
  made = Path(data, "manifest.json").exists
  flags: list[str] = []
  if not Path(workdir, "config.json").exists():
    print("measuring this machine", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
      folder, needed, judging = Path(temporary), 0.0, 0.0
      small = data
      if not made() and args.data == "scenes":
        small, needed = measure_build(plan["build"], folder)
      elif not made():
        seconds["data"] = build()
      if c.score.level:
        judging = measure_judge(c.score.level, c.data.image_size[0])
      start, step = measure_training(config, small, folder / "run", **compiled)
    machine = Seconds(needed, start, step, judging)
    steps = c.train.steps
    if args.minutes:
      steps = fitted(machine, c, args.minutes - seconds["data"] / 60)
      flags = [f"--config.train.steps={steps}"]
    print(statement(machine, c, steps), flush=True)
  elif limit:  # goes on as it began
    steps = json.loads(Path(workdir, "config.json").read_text())["train"]["steps"]
    flags = [f"--config.train.steps={steps}"]

  if not made():
    seconds["data"] = build()
    t2i("data", "show", str(data))
  run = [f"--workdir={workdir}"]
  where = [f"--config.data.dir={data}"]
  seconds["training"] = t2i("train", f"--config={config}", *run, *where, *flags, **compiled)
  draw = [f"--prompt={prompt}" for prompt in plan["prompts"]]
  seconds["samples"] = t2i("sample", *run, *draw, "--num=4", **compiled)
  seconds["score and report"] = t2i("eval", *run, **compiled)

  times = ", ".join(f"{name} {taken / 60:.1f}" for name, taken in seconds.items())
  print(f"\nminutes: {times}; {sum(seconds.values()) / 60:.1f} in all")
  print(f"the report: {Path(workdir, 'eval', 'report.html').resolve()}")


if __name__ == "__main__":
  main()
