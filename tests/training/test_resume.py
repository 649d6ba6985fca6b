"""Kill, resume, compare: a resumed run is, bit for bit, the run that was never stopped.

Every run is a real process. `make test` compiles with the flags of the other tests, `make proof`
as a user's run is compiled too: 80 s of CPU for a first run instead of 25 s.
"""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from t2i_jax.cli.main import main

# Options of start_t2i.
COMPILED = [
  pytest.param({}, id="quick"),
  pytest.param({"flags": ""}, id="as users do", marks=pytest.mark.proof),
]
MUON = {"train.optimizer": "muon"}  # of the runs that are compiled as users do
# Runs `t2i` and sends itself a signal some seconds after a progress line.
AFTER_LINE = """
import os, sys, threading
from t2i_jax.cli.main import main
from t2i_jax.training.log import Log
number, wanted, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
write_line = Log.train
def and_signal(self, step, metrics):
  write_line(self, step, metrics)
  if step == wanted:
    send = lambda: os.kill(os.getpid(), number)
    threading.Timer(seconds, send).start() if seconds else send()
Log.train = and_signal
sys.exit(main(sys.argv[4:]))
"""
# Runs `t2i` and kills it as it begins an operation (mkdir, rename) on a path.
AT_OPERATION = """
import os, re, signal, sys
wanted, pattern = sys.argv[1:3]
def kill(event, args):
  if event == wanted and re.search(pattern, str(args[0])):
    os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
from t2i_jax.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module", params=COMPILED)
def how(request):
  return request.param


@pytest.fixture(scope="module")
def run_args(how, train_args):
  """run_args(workdir, changes) -> the arguments of the tiny run."""
  own = MUON if how else {}
  return lambda workdir, changes=None: train_args(workdir, own | (changes or {}))


@pytest.fixture(scope="module")
def start(start_t2i, run_args, how):
  """start(workdir, **of start_t2i) -> the tiny run, started or going on there."""
  return lambda workdir, **options: start_t2i(
    run_args(workdir, options.pop("changes", None)), **how, **options
  )


@pytest.fixture(scope="module")
def reference(start, tmp_path_factory):
  """The work directory of the run that was never stopped."""
  workdir = tmp_path_factory.mktemp("runs") / "reference"
  finish(start(workdir))
  return workdir


def finish(process):
  """The output of a process that must succeed."""
  out, _ = process.communicate(timeout=1200)
  assert process.returncode == 0, out
  return out


def newest(workdir):
  """The newest complete checkpoint, by the names of folders alone."""
  return max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def arrays(workdir, step):
  """Every array of a checkpoint: path -> numpy."""
  items = {name: ocp.args.StandardRestore() for name in ("params", "ema", "opt")}
  with ocp.CheckpointManager(workdir / "checkpoints") as manager:
    saved = manager.restore(step, args=ocp.args.Composite(**items))
  trees = {name: saved[name] for name in items}
  return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree.leaves_with_path(trees)}


def metrics(workdir):
  """metrics.jsonl without what depends on the clock."""
  entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{key: value for key, value in e.items() if key != "perf"} for e in entries]


def contents(folder):
  """Relative path -> bytes of every file under a folder."""
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same(workdir, reference):
  """Checkpoint, metrics and images are equal bit for bit."""
  assert metrics(workdir) == metrics(reference)
  assert contents(workdir / "samples") == contents(reference / "samples")
  assert newest(workdir) == newest(reference) == 24
  ours, theirs = arrays(workdir, 24), arrays(reference, 24)
  assert ours.keys() == theirs.keys()
  assert any("opt" in path for path in ours) and any("ema" in path for path in ours)
  for path, array in theirs.items():
    assert ours[path].dtype == array.dtype and ours[path].tobytes() == array.tobytes(), path


@pytest.mark.slow
def test_the_reference_logs_what_it_was_asked_to(reference):
  found = [(entry["step"], entry["kind"]) for entry in metrics(reference)]
  train = [(step, "train") for step in range(2, 25, 2)]
  assert sorted(found) == sorted([*train, *((step, "val") for step in range(6, 25, 6))])
  images = {f"step_{step:08d}.png" for step in (12, 24)}
  assert set(contents(reference / "samples")) == {"prompts.json", *images}
  assert not np.array_equal(arrays(reference, 18)["['ema']['backbone']['head']['kernel']"], 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  "event, pattern",
  [
    pytest.param(
      "os.mkdir",
      r"checkpoints/12\.[^/]*/opt",
      id="while items are written",
      marks=pytest.mark.proof,
    ),
    pytest.param("os.rename", r"checkpoints/12\.[^/]*$", id="before the last rename"),
  ],
)
def test_ended_three_times_it_is_the_run_that_was_never_stopped(
  start, reference, tmp_path, event, pattern
):
  """One run: SIGTERM, then kill -9 in the middle of a save, then in the middle of a step.

  SIGTERM saves a step at which an undisturbed run writes no line: 9, of every 2. At last the
  programs are compiled anew, not read from the cache as before.
  """

  def kill(*program):
    process = start(tmp_path, program=("-c", *program))
    out, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, out
    assert "from step 9\n" in out
    return out

  out = finish(start(tmp_path, program=("-c", AFTER_LINE, signal.SIGTERM.value, 8, 0)))
  assert "SIGTERM: saving step 9 and ending" in out
  assert newest(tmp_path) == 9
  kill(AT_OPERATION, event, pattern)
  left = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert "9" in left and "12" not in left and any(re.match(r"12\.", name) for name in left)
  # A step takes about 20 ms; the next line is due at step 16, the next checkpoint at 18.
  out = kill(AFTER_LINE, signal.SIGKILL.value, 14, 0.01)
  assert "step 14/24" in out and "step 24/24" not in out
  at = newest(tmp_path)
  assert at in (9, 12, 18)  # the last save may still have been under way
  out = finish(start(tmp_path, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}))
  assert f"from step {at}\n" in out
  assert_same(tmp_path, reference)
  assert not any(re.match(r"12\.", p.name) for p in (tmp_path / "checkpoints").iterdir())


@pytest.mark.proof
@pytest.mark.slow
def test_resumed_on_another_mesh(start, reference, tmp_path):
  """Float32 sums in another order, nothing else.

  Other rows or other noise would show: losses of neighbouring steps differ by factors.
  """
  workdir = shutil.copytree(reference, tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints" / "24")
  changes = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
  out = finish(start(workdir, devices=8, changes=changes))
  assert "mesh.fsdp was 1 in the checkpoint, is 2 now" in out
  ours, theirs = metrics(workdir), metrics(reference)
  assert [(e["step"], e["kind"]) for e in ours] == [(e["step"], e["kind"]) for e in theirs]
  for a, b in zip(ours, theirs, strict=True):
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4), a["step"]
  worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours, theirs, strict=True))
  print(f"largest relative difference of a loss: {worst:.1e}")
  assert ours != theirs  # or the mesh was not another one


def truncate_largest(folder):
  largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


DAMAGE = {
  "largest file cut": truncate_largest,
  "ema gone": lambda folder: shutil.rmtree(folder / "ema"),
  "meta cut": lambda folder: (folder / "meta" / "metadata").write_text('{"config": "'),
  "meta gone": lambda folder: shutil.rmtree(folder / "meta"),
  "manifest of opt gone": lambda folder: (folder / "opt" / "manifest.ocdbt").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_where_all_checkpoints_are_damaged_the_newest_is_named_and_all_are_left(
  reference, run_args, tmp_path, capsys, damage
):
  workdir = shutil.copytree(reference, tmp_path / "run")
  for step in (18, 24):
    damage(workdir / "checkpoints" / str(step))
  before = contents(workdir)
  began = time.monotonic()
  assert main(run_args(workdir)) == 2
  error = capsys.readouterr().err
  assert f"RestoreError: {workdir}/checkpoints/24 " in error
  assert "None of the 2 newest steps can be used" in error and "Traceback" not in error
  assert contents(workdir) == before
  assert time.monotonic() - began < 60


@pytest.mark.slow
def test_the_step_before_a_damaged_one_is_used_and_the_damaged_one_kept(start, reference, tmp_path):
  workdir = shutil.copytree(reference, tmp_path / "run")
  truncate_largest(workdir / "checkpoints" / "24")
  damaged = contents(workdir / "checkpoints" / "24")
  out = finish(start(workdir))
  assert f"WARNING: {workdir}/checkpoints/24 cannot be" in out and "Step 18 is used" in out
  assert "from step 18\n" in out
  assert_same(workdir, reference)
  assert contents(workdir / "damaged" / "24") == damaged


@pytest.mark.slow
@pytest.mark.proof
@pytest.mark.parametrize("compiled", COMPILED)
def test_a_joint_model_resumes_bit_for_bit_with_its_rows_packed(
  start_t2i, joint_args, tmp_path, compiled
):
  changes = {"checkpoint.every": 2, "train.steps": 6}
  run = lambda workdir, **how: start_t2i(joint_args(workdir, changes), **compiled, **how)
  finish(run(tmp_path / "whole"))
  killed = run(tmp_path / "killed", program=("-c", AFTER_LINE, signal.SIGKILL.value, 5, 0))
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL and newest(tmp_path / "killed") in (2, 4)
  finish(run(tmp_path / "killed"))
  assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
  ours, theirs = (arrays(tmp_path / name, 6) for name in ("killed", "whole"))
  assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)
  assert {"padding", "images", "drawn", "left_out"} < set(metrics(tmp_path / "whole")[0])


@pytest.mark.slow
@pytest.mark.proof
@pytest.mark.parametrize("compiled", COMPILED)
def test_two_players_and_a_codebook_resume_bit_for_bit(start_t2i, easy_data, tmp_path, compiled):
  changes = {
    "data.dir": easy_data,
    "data.image_size": (16, 16),
    "autoencoder": "vq(codes=16, widths=(4, 8), layers=1, groups=2, measured=True)",
    "model.discriminator": "patch(width=4, layers=1, groups=2)",
    "train.objective": "reconstruction(commitment=0.25, adversarial=0.5, start=2)",
    "train.steps": 6,
    "train.batch": 8,
    "train.schedule": "cosine(warmup=1)",
    "log.every": 1,
    "eval.every": 3,
    "eval.rows": 8,
    "checkpoint.every": 2,
  }
  flags = [f"--config.{key}={value}" for key, value in changes.items()]
  args = lambda workdir: ["train", "--config=configs/vq.py:vq", f"--workdir={workdir}", *flags]
  run = lambda workdir, **how: start_t2i(args(workdir), **compiled, **how)
  finish(run(tmp_path / "whole"))
  killed = run(tmp_path / "killed", program=("-c", AFTER_LINE, signal.SIGKILL.value, 5, 0))
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL and newest(tmp_path / "killed") in (2, 4)
  finish(run(tmp_path / "killed"))
  assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
  assert contents(tmp_path / "killed/samples") == contents(tmp_path / "whole/samples")
  ours, theirs = (arrays(tmp_path / name, 6) for name in ("killed", "whole"))
  assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)
  for name in ("'discriminator'", "codebook", "sizes", "latents"):
    assert any(name in path for path in theirs)
  assert {"psnr", "perplexity", "loss_discriminator"} < set(metrics(tmp_path / "whole")[0])
