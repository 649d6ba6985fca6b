"""Two real processes see what one sees: the same rows, the same run, the same checkpoints."""

import json
import shutil
import socket
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 8, 1), (2, 1, 4), (1, 1, 8)]
# Runs `t2i`; process 1 alone gets SIGTERM, in the log line of step 8, and must tell process 0.
# Each prints the rows of 16 that it owns on each mesh.
ONE_IS_TOLD = f"""
import json, os, signal, sys
import jax
from t2i_jax.cli.main import main
from t2i_jax.parallel import make_mesh, owned_rows
from t2i_jax.training.log import Log
write_line = Log.train
def and_signal(self, step, metrics):
  write_line(self, step, metrics)
  if step == 2:
    print("ROWS", json.dumps([owned_rows(make_mesh(*sizes), 16).tolist() for sizes in {MESHES}]))
  if step == 8 and jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGTERM)
Log.train = and_signal
sys.exit(main(sys.argv[1:]))
"""


def start_two(start_t2i, args, **options):
  """Both processes of a run, four devices each, on a port that is free now."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  shared = {"T2I_COORDINATOR": f"127.0.0.1:{port}", "T2I_PROCESSES": "2"}
  return [
    start_t2i(args, devices=4, env=shared | {"T2I_PROCESS": str(i)}, **options) for i in range(2)
  ]


def finish(*processes):
  """The output of each process; all must succeed."""
  outs = [process.communicate(timeout=1200)[0] for process in processes]
  assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outs)
  return outs


def losses(workdir):
  """(step, kind) -> loss, of all of metrics.jsonl."""
  entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found = {(entry["step"], entry["kind"]): entry["loss"] for entry in entries}
  assert len(found) == len(entries)  # one process writes
  return found


def assert_close(found, expected, what):
  """Equal but for float32 sums in another order. Losses of neighbouring steps differ by factors,
  so other rows, captions or noise would show."""
  assert found.keys() == expected.keys()
  worst = max(abs(found[at] / expected[at] - 1) for at in expected)
  print(f"{what}: largest relative difference of a loss {worst:.1e}", file=sys.stderr)
  assert worst < 1e-4


@pytest.fixture(scope="module")
def run_args(train_args):
  """run_args(workdir, changes) -> the arguments of 18 steps."""
  return lambda workdir, changes=None: train_args(workdir, {"train.steps": 18} | (changes or {}))


@pytest.fixture(scope="module")
def one(start_t2i, run_args, tmp_path_factory):
  """The work directory of one process with eight devices."""
  workdir = tmp_path_factory.mktemp("one")
  finish(start_t2i(run_args(workdir), devices=8))
  return workdir


@pytest.fixture(scope="module")
def two(start_t2i, run_args, tmp_path_factory):
  """Two processes with four devices each, stopped by SIGTERM: the work directory, the outputs."""
  workdir = tmp_path_factory.mktemp("two")
  program = ("-c", ONE_IS_TOLD)
  outs = finish(*start_two(start_t2i, run_args(workdir), program=program))
  assert "SIGTERM: saving step 10 and ending" in outs[0]  # they agree at the next line
  assert "8 x cpu" in outs[0] and "step 2/18" not in outs[1]
  return workdir, outs


def test_owned_rows_partition_the_batch(two):
  _, outs = two
  lines = [next(line for line in out.splitlines() if line.startswith("ROWS")) for out in outs]
  first, second = (json.loads(line.removeprefix("ROWS ")) for line in lines)
  for sizes, a, b in zip(MESHES, first, second, strict=True):
    assert a == sorted(set(a)) and b == sorted(set(b)), sizes
    if sizes == (1, 1, 8):  # the processes differ in tensor coordinate only
      assert a == b == list(range(16))
    else:
      assert len(a) == len(b) == 8 and sorted(a + b) == list(range(16)), sizes


@pytest.mark.proof
def test_one_device_and_eight(start_t2i, run_args, one, tmp_path):
  finish(start_t2i(run_args(tmp_path), devices=1))
  assert_close(losses(tmp_path), losses(one), "1 device, 8 devices")


def test_two_processes_and_one(one, two):
  until_10 = {at: loss for at, loss in losses(one).items() if at[0] <= 10}
  assert_close(losses(two[0]), until_10, "2 x 4 devices, 1 x 8")


def test_written_by_two_goes_on_in_one(start_t2i, run_args, one, two, tmp_path):
  workdir = shutil.copytree(two[0], tmp_path / "run")
  (out,) = finish(start_t2i(run_args(workdir), devices=8))
  assert "from step 10\n" in out
  assert_close(losses(workdir), losses(one), "2 x 4 devices to step 10, then 1 x 8")


@pytest.mark.proof
def test_written_by_one_goes_on_in_two(start_t2i, run_args, one, tmp_path):
  """On a mesh whose processes hold the same rows, split over tensor alone."""
  workdir = shutil.copytree(one, tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints" / "18")
  changes = {"mesh.data": 1, "mesh.tensor": 8}
  began = time.time()
  outs = finish(*start_two(start_t2i, run_args(workdir, changes)))
  assert "from step 12\n" in outs[0]
  assert_close(losses(workdir), losses(one), "1 x 8 devices to step 12, then 2 x 4 over tensor")
  images = [
    np.asarray(Image.open(at / "samples" / "step_00000018.png"), int) for at in (workdir, one)
  ]
  assert (workdir / "samples" / "step_00000018.png").stat().st_mtime > began  # drawn again
  assert np.mean(np.abs(images[0] - images[1]) <= 1) >= 0.999
