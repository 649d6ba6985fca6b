"""Random values and texts in configs: each is built, or refused by a message that names its key.

  python -m benchmarks.proofs.fuzz_config --count=20000 [--seed=0] [--to=fuzz_config.json]

A mutation sets one to three keys of a shipped config: numbers at and beyond ends of ranges, values
of other types, choices with random arguments, and choices with characters changed. What loads is
built without a network: processes, timestep distributions, weightings, schedules, grids, plans of
solvers, tables of objectives; all of them must be finite. A traceback, a number that is not finite,
a message without the key, or more than SECONDS fails. About 20 minutes of one core.
"""

import argparse
import inspect
import json
import random
import signal
import string
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.pages import table
from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.config import build, leaves, load_config
from t2i_jax.errors import MeshError, T2IError
from t2i_jax.parallel.rules import MESH_AXES, overridden
from t2i_jax.plan.describe import system_of
from t2i_jax.process import PENALTIES, PROCESSES, SHIFTS, TIMESTEP_DISTRIBUTIONS, WEIGHTINGS
from t2i_jax.sampling import GRIDS, GUIDANCE, GUIDANCE_OF_PROMPTS, SOLVERS
from t2i_jax.sampling.solver import Linear
from t2i_jax.systems.drawing import OBJECTIVES
from t2i_jax.systems.few_step import Consistency
from t2i_jax.systems.generate import Choice
from t2i_jax.systems.make import OUTPUTS
from t2i_jax.systems.parts import TRAINED, split_start
from t2i_jax.systems.sampler import checked_plan, make_sampler
from t2i_jax.systems.system import Noise, System
from t2i_jax.towers import TOWERS
from t2i_jax.training.optimizer import OPTIMIZERS, SCHEDULES

SECONDS = 30  # of one mutation
CONFIGS = (
  "configs/scenes_dit_flow.py",
  "configs/scenes_dit_ddpm.py",
  "configs/scenes_consistency.py",
  "configs/scenes_classifier.py",
  "configs/transfusion_scenes.py",
  "configs/dit.py:S/8",
  "configs/sd3.py:3-medium",
)
QUICK = {"text.towers.text": "bag_of_words(width=64)"}  # to trace, where it is not what changes
# Keys whose text is a choice of one of these, and how many arguments `build` gives first.
CHOICES: dict[str, tuple[Mapping[str, Callable[..., Any]], int]] = {
  "process.kind": (PROCESSES, 0),
  "process.prediction": (OUTPUTS, 0),
  "process.weighting": (WEIGHTINGS, 0),
  "process.penalty": (PENALTIES, 0),
  "process.timesteps": (TIMESTEP_DISTRIBUTIONS, 0),
  "process.shift": (SHIFTS, 0),
  "process.noise": ({"gaussian": Noise}, 0),
  "autoencoder": (AUTOENCODERS, 1),
  "text.towers.text": (TOWERS, 1),
  "parts.text.train": (TRAINED, 0),
  "train.objective": (OBJECTIVES, 0),
  "train.optimizer": (OPTIMIZERS, 3),
  "train.schedule": (SCHEDULES, 2),
  "sampling.solver": (SOLVERS, 0),
  "sampling.grid": (GRIDS, 2),
  "sampling.guidance": (GUIDANCE_OF_PROMPTS, 0),
  "sampling.words": ({"sample": Choice}, 0),
}
NUMBERS = ("0", "1", "2", "3", "7", "12", "100", "999", "1000", "1001", "65536", "2**31")
NUMBERS += ("-1", "-5", "0.0", "-0.0", "0.5", "1.0", "1.5", "0.999", "0.99999999", "1e-3", "1e-8")
NUMBERS += ("1e-50", "1e3", "1e6", "1e30", "1e300", "1e999", "-1e999", "-1e-9", "2147483648")
NUMBERS += ("4294967296", "9" * 30, "9" * 400)
OTHERS = ("", " ", "x", "None", "True", "False", "nan", "inf", "()", "(1,)", "(0, 0)", "(1, 2, 3)")
OTHERS += (
  "('a',)",
  "(1e999,)",
  "(0.5, 'x')",
  "[1]",
  "{}",
  "{[]: 1}",
  "1j",
  "b'1'",
  "'x'",
  "1,",
  "\0",
)
OTHERS += ("(" * 300 + ")" * 300, "lambda: 0", "__import__('os')", "é", "1_0", "0x10", "- 1", "~1")


class Failure(Exception):
  """A mutation that was neither built nor refused by its key."""


def draw_mutation(rng: random.Random) -> tuple[str, dict[str, str]]:
  """A config and overrides of one to three of its keys."""
  path = rng.choice(CONFIGS)
  keys = _keys(path)
  chosen = rng.sample([key for key in keys if key not in ("name", "data.dir")], rng.randint(1, 3))
  quick = QUICK if "text.towers.text" in keys else {}
  return path, quick | {key: _value(rng, key, keys[key]) for key in chosen}


@cache
def _keys(path: str) -> dict[str, Any]:
  return leaves(load_config(path))


def _value(rng: random.Random, key: str, now: Any) -> str:
  if key in CHOICES and rng.random() < 0.8:
    return _choice(rng, *CHOICES[key])
  if isinstance(now, str) and rng.random() < 0.7:
    return _changed(rng, now)
  return rng.choice(NUMBERS if rng.random() < 0.7 else OTHERS)


def _choice(rng: random.Random, registry: Mapping[str, Callable[..., Any]], first: int) -> str:
  """ "name(a=.., b=..)" of a random name with some of its arguments."""
  name = rng.choice(list(registry))
  takes = list(inspect.signature(registry[name]).parameters.values())[first:]
  given = []
  for argument in takes:
    if argument.default is argument.empty or rng.random() < 0.5:
      given.append(f"{argument.name}={_argument(rng, argument.default)}")
  return (
    _changed(rng, f"{name}({', '.join(given)})")
    if rng.random() < 0.1
    else (f"{name}({', '.join(given)})")
  )


def _argument(rng: random.Random, default: Any) -> str:
  """Near its default half of the time."""
  if type(default) is float and np.isfinite(default) and rng.random() < 0.5:
    return repr(default * rng.choice((0.5, 0.9, 1.0, 1.1, 2.0, -1.0)))
  if type(default) in (bool, str) and rng.random() < 0.8:
    return repr(rng.choice((True, False)) if type(default) is bool else default)
  if type(default) is int and rng.random() < 0.5:
    return repr(default + rng.choice((-1, 0, 1)))
  return rng.choice(NUMBERS if rng.random() < 0.85 else OTHERS)


def _changed(rng: random.Random, text: str) -> str:
  """One or two characters deleted, inserted or replaced."""
  for _ in range(rng.randint(1, 2)):
    at = rng.randrange(len(text) + 1)
    text = (
      text[:at] + rng.choice(("", rng.choice(string.printable))) + text[at + rng.randint(0, 1) :]
    )
  return text


def build_light(c: ConfigDict) -> None:
  """What a run builds of its config before the first network, and that it is finite.

  Raises T2IError for what a run refuses, Failure for a number that is not finite.
  """
  rest = [f"mesh.{axis}" for axis in MESH_AXES if c.mesh[axis] == -1]
  if len(rest) > 1:
    raise MeshError(f"{' and '.join(rest)} are -1: at most one of them takes what is left.")
  with overridden(c.mesh.rules):
    system = system_of(c)
  for name, part in c.parts.items():
    split_start(part.start, f"parts.{name}.start")
    build(TRAINED, part.train, f"parts.{name}.train")
  _check_training(c, system)
  if "sampling" in c:
    methods = GUIDANCE if "words" in c.sampling else GUIDANCE_OF_PROMPTS
    sampler = make_sampler(c.sampling, system.process, methods)
    plan = checked_plan(c.sampling, sampler, system)
    numbers = plan.numbers
    if isinstance(numbers, Linear):
      numbers = numbers._replace(fix_x=None)
    _finite("plan", (plan.now, plan.to, numbers))
    if np.any(np.diff(np.asarray(sampler.times.t)) >= 0):
      raise Failure("the grid does not decrease")
    if "words" in c.sampling:
      build({"sample": Choice}, c.sampling.words, "sampling.words")


def _check_training(c: ConfigDict, system: System) -> None:
  rates = [build(SCHEDULES, c.train.schedule, "train.schedule", lr, c.train.steps)
           for lr in (c.train.lr, c.train.vector_lr)]  # fmt: skip
  build(OPTIMIZERS, c.train.optimizer, "train.optimizer", *rates, {})
  steps = (0, c.train.steps // 2, c.train.steps)
  _finite("schedule", [rate(step) for rate in rates for step in steps])
  t = system.mixing.t_of(jnp.asarray([1e-7, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-7]))
  _finite("t", t)
  if np.any(np.diff(t) < -1e-6):
    raise Failure(f"the timestep distribution does not rise: {t}")
  time = system.process.at(t)
  if hasattr(system, "weighting"):
    _finite("weighting", system.weighting(time))
    _finite("penalty", system.penalty(jnp.asarray([-2.0, 0.0, 0.1])))
  if isinstance(getattr(system, "objective", None), Consistency):
    _finite("levels", system.objective.tables(system))


def _finite(what: str, tree: Any) -> None:
  for leaf in jax.tree.leaves(tree):
    if not np.all(np.isfinite(np.asarray(leaf, np.float64))):
      raise Failure(f"{what} is not finite: {leaf}")


@contextmanager
def limited(seconds: int):
  """Raises Failure where the body takes longer."""

  def late(*_):
    raise Failure(f"more than {seconds} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(path: str, overrides: dict[str, str]) -> str:
  """ "built" or "refused". Raises Failure, or whatever else the mutation raises."""
  with limited(SECONDS):
    try:
      build_light(load_config(path, overrides))
    except T2IError as error:
      if not any(key in str(error) for key in overrides):
        raise Failure(f"no key in: {error}") from error
      return "refused"
  return "built"


def fuzz(count: int, seed: int) -> tuple[Counter, list[str]]:
  """The outcomes by number, and a line a failure."""
  found, failures, rng = Counter(), [], random.Random(seed)
  for _ in range(count):
    path, overrides = draw_mutation(rng)
    try:
      found[outcome(path, overrides)] += 1
    except Exception as error:
      found["failed"] += 1
      failures.append(f"{path} {overrides}: {type(error).__name__}: {error}")
  return found, failures


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--count", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--to", help="a JSON file of the counts")
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  began = time.perf_counter()
  found, failures = fuzz(args.count, args.seed)
  seconds = round(time.perf_counter() - began)
  head = ["mutations", "built", "refused", "failed", "seconds"]
  row = [args.count, found["built"], found["refused"], found["failed"], seconds]
  print(table(head, [row]))
  print(*failures[:50], sep="\n")
  if args.to:
    counts = {"count": args.count, "seed": args.seed, **found, "seconds": seconds}
    Path(args.to).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
  return int(bool(failures))


if __name__ == "__main__":
  raise SystemExit(main())
