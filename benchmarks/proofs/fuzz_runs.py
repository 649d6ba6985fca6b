"""Runs under attack: bits that flip in checkpoints, and readers beside a trainer that saves.

    python -m benchmarks.proofs.fuzz_runs flips --count=200 [--to=FILE]
    python -m benchmarks.proofs.fuzz_runs readers --readers=20 --seconds=120 [--to=FILE]
    python -m benchmarks.proofs.fuzz_runs speed --mib=512 [--to=FILE]

`flips` changes one bit of a checkpoint and restores it, as inference and as training do: what is
read is what was saved, or an error, or the step before with a warning that names the damaged one.
Every second bit is one of all bits of the step, the others first draw a file, so that small files
are hit as well. `readers` starts processes that open a run again and again while another saves each
second and keeps three steps: nothing of the run is lost, and whatever is opened is whole. `speed`
times the checksums that saving and restoring compute.
"""

import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pages import ROOT
from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import T2IError
from t2i_jax.inference import kept_steps, open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import make_system
from t2i_jax.training.checkpoint import Checkpoints, Meta
from t2i_jax.training.checksum import checksums
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.restore import restore_params, restore_state
from t2i_jax.training.save import Saver
from t2i_jax.training.state import TrainState, abstract_state

CONFIG = ROOT / "configs/scenes_dit_flow.py"
SMALL = {
  "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
  "text.length": "16", "text.towers.text": "transformer(width=32, depth=1, heads=2)",
  "model.width": "64", "model.heads": "2", "model.depth": "2", "model.patch": "4",
  "train.batch": "8", "train.schedule": "constant", "sampling.batch": "8",
}  # fmt: skip
KEEP = 3  # steps
ROUNDS = 5  # of timing
READERS = ("inference", "training")


class Case(NamedTuple):
  """A small model without data: what its checkpoints are made of."""

  config: Any
  tokenizer: Tokenizer
  system: Any
  abstract: TrainState

  @classmethod
  def make(cls) -> "Case":
    config, tokenizer = load_config(CONFIG, SMALL), Tokenizer.bytes()
    system = make_system(config, tokenizer)
    mesh = make_mesh(devices=jax.devices()[:1])
    abstract = abstract_state(system, make_optimizers(config.train, system), mesh)
    return cls(config, tokenizer, system, abstract)

  def state(self, step: int) -> TrainState:
    """Numbers that only this step has."""
    rng = np.random.default_rng(step)

    def fill(leaf: Any) -> jax.Array:
      host = rng.standard_normal(leaf.shape).astype(np.float32) / 8 + step
      return jax.device_put(host.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(fill, self.abstract)._replace(step=jnp.int32(step))

  def save(self, saver: Saver, step: int) -> TrainState:
    state = self.state(step)
    saver.save(state, Meta(self.config, self.tokenizer, step * 8, {}, (), "0" * 64))
    return state


def equal(a: Any, b: Any) -> bool:
  same = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
  return all(jax.tree.leaves(same))


def flips(count: int, seed: int = 0, alternate: bool = False) -> Counter:
  """What happened after each of `count` flips: (what, who read) -> how often.

  alternate  each flip is read as one of inference and training; otherwise as both
  """
  case, rng, found = Case.make(), random.Random(seed), Counter()
  with tempfile.TemporaryDirectory() as folder:
    with closing(Saver(folder, KEEP)) as saver:
      states = {step: case.save(saver, step) for step in (4, 8)}
    files = sorted(p for p in Path(folder, "checkpoints/8").rglob("*") if p.is_file())
    files = [path for path in files if path.stat().st_size]
    for i in range(count):
      weights = [1 if i % 2 else path.stat().st_size for path in files]
      path = rng.choices(files, weights)[0]
      before = path.read_bytes()
      bit = rng.randrange(8 * len(before))
      after = bytearray(before)
      after[bit // 8] ^= 1 << bit % 8
      path.write_bytes(after)
      for reader in READERS[i % 2 : i % 2 + 1] if alternate else READERS:
        what = outcome(case, folder, states, reader)
        found[what, reader] += 1
        if what.startswith("WRONG"):
          print(f"{what}, {reader}: bit {bit} of {path.relative_to(folder)}", flush=True)
      path.write_bytes(before)
      if i % 50 == 49:
        print(f"{i + 1} of {count} flips", file=sys.stderr, flush=True)
  return found


def outcome(case: Case, folder: str, states: dict[int, TrainState], reader: str) -> str:
  """What one way to read the newest step does."""
  said = io.StringIO()
  with closing(Checkpoints(folder)) as checkpoints, contextlib.redirect_stderr(said):

    def read(step: int) -> tuple[Any, Any]:
      meta = checkpoints.meta(step)
      expected = states[step]
      same_meta = meta.config.to_dict() == case.config.to_dict() and meta.position == step * 8
      if reader == "inference":
        mesh = make_mesh(devices=jax.devices()[:1])
        params = restore_params(checkpoints, step, meta, case.system, mesh)
        return equal(params, expected.ema), same_meta
      state = restore_state(checkpoints, step, meta, case.system, case.abstract)
      return equal(state, expected), same_meta

    try:
      step, right = checkpoints.newest(read)
    except T2IError:
      return "refused by name"
  if right != (True, True):
    return "WRONG values"
  if step == 8:
    return "what was saved"
  named = "WARNING" in said.getvalue() and "checkpoints/8 " in said.getvalue()
  return "the step before, with a warning" if named else "WRONG step without a word"


def read_often(workdir: str, seconds: float, pause: float = 0.0) -> dict[str, Any]:
  """Opens a run again and again, as every reader does; in a process of its own."""
  case, opened, until = Case.make(), Counter(), time.monotonic() + seconds
  problems = []
  while time.monotonic() < until:
    try:
      model = open_model(workdir)
      expected = case.state(model.step).ema
      if not equal(model.params, expected):
        problems.append(f"step {model.step} has other weights")
      if model.step > max(kept_steps(workdir)):
        problems.append(f"step {model.step} is not listed")
      opened[model.step] += 1
    except Exception as error:  # counted and shown
      problems.append(f"{type(error).__name__}: {error}")
    time.sleep(pause)
  return {"opened": sum(opened.values()), "steps": len(opened), "problems": problems}


def as_processes(count: int, *args: Any) -> Callable[[], list[dict[str, Any]]]:
  """Starts `read_often`, each a process; () -> what they found, as soon as all have ended."""
  command = [sys.executable, "-m", "benchmarks.proofs.fuzz_runs", "read", *map(str, args)]
  started = [
    subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)
  ]

  def ended() -> list[dict[str, Any]]:
    if any(process.poll() is None for process in started):
      return []
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]

  return ended


def as_threads(count: int, *args: Any) -> Callable[[], list[dict[str, Any]]]:
  """The same in threads of this process, which saves the start of an interpreter each."""
  pool = ThreadPoolExecutor(count)
  started = [pool.submit(read_often, *args) for _ in range(count)]
  return lambda: [one.result() for one in started] if all(one.done() for one in started) else []


def readers(
  count: int,
  seconds: float,
  every: float = 1.0,
  pause: float = 0.0,
  start: Callable[..., Any] = as_processes,
) -> dict[str, Any]:
  """`count` readers beside a trainer that saves; what was saved, read and lost.

  every  seconds from save to save;   pause: of a reader from one opening to the next
  """
  case = Case.make()
  with tempfile.TemporaryDirectory() as folder:
    lost, step = [], 1
    with closing(Saver(folder, KEEP)) as saver:
      case.save(saver, step)
      saver.wait()
      ended = start(count, folder, seconds, pause)
      while not (outs := ended()):
        began = time.monotonic()
        step += 1
        case.save(saver, step)
        saver.wait()
        if step not in saver.steps():
          lost.append(step)
        time.sleep(max(0.0, every - (time.monotonic() - began)))
    left = kept_steps(folder)
    expected = list(range(max(1, step - KEEP + 1), step + 1))
    same = [equal(open_model(folder, step=s).params, case.state(s).ema) for s in left]
    tree = {path.name for path in Path(folder, "checkpoints").iterdir()}
  return {
    "readers": count,
    "seconds": seconds,
    "saved": step,
    "opened": sum(out["opened"] for out in outs),
    "fewest opened by a reader": min(out["opened"] for out in outs),
    "problems of readers": [text for out in outs for text in out["problems"]],
    "saves lost": lost,
    "kept at the end": left,
    "as expected": left == expected and all(same) and tree == set(map(str, expected)),
  }


def speed(mib: int) -> dict[str, Any]:
  """Seconds that the checksums of so many MiB of float32 take, compiled before."""
  one = make_mesh(devices=jax.devices()[:1])
  place = jax.NamedSharding(one, jax.P())
  arrays = [jax.device_put(np.full((1024, 4096), i, np.float32), place) for i in range(mib // 16)]
  checksums(arrays)
  taken = []
  for _ in range(ROUNDS):
    began = time.perf_counter()
    checksums(arrays)
    taken.append(time.perf_counter() - began)
  return {"mib": len(arrays) * 16, "seconds": median(taken)}


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  verbs = parser.add_subparsers(dest="verb", required=True)
  flip, many, fast, one = (verbs.add_parser(name) for name in ("flips", "readers", "speed", "read"))
  flip.add_argument("--count", type=int, default=200)
  flip.add_argument("--seed", type=int, default=0)
  many.add_argument("--readers", type=int, default=20)
  many.add_argument("--seconds", type=float, default=120)
  fast.add_argument("--mib", type=int, default=512)
  for verb in (flip, many, fast):
    verb.add_argument("--to", type=Path, help="a JSON file of the result")
  one.add_argument("workdir")
  one.add_argument("seconds", type=float)
  one.add_argument("pause", type=float)
  args = parser.parse_args()
  if args.verb == "read":
    print(json.dumps(read_often(args.workdir, args.seconds, args.pause)))
    return 0
  if args.verb == "flips":
    counts = flips(args.count, args.seed)
    result: dict[str, Any] = {f"{what} ({reader})": n for (what, reader), n in counts.items()}
    wrong = any("WRONG" in what for what, _ in counts)
  elif args.verb == "speed":
    result, wrong = speed(args.mib), False
  else:
    result = readers(args.readers, args.seconds)
    wrong = bool(result["problems of readers"] or result["saves lost"] or not result["as expected"])
  for name, value in sorted(result.items()):
    print(f"{name:48} {value}")
  if args.to:
    args.to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
  return int(wrong)


if __name__ == "__main__":
  sys.exit(main())
