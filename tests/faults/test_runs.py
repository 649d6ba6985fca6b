"""Faults of runs from public reports, each a small input with its right value.

Rules: readers never write; one writer a work directory; what is saved is finite, and what is read
is what was saved; a run is of its data; logs say what happened.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import config_of, register, saved, system_of

from benchmarks.proofs import fuzz_runs
from t2i_jax.cli.main import main
from t2i_jax.cli.sample import read_prompts
from t2i_jax.config import to_json
from t2i_jax.errors import ConfigError, NotFinite, RestoreError, WorkdirError
from t2i_jax.inference import kept_steps, open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.training import checksum, lock, loop, train
from t2i_jax.training.checkpoint import Checkpoints
from t2i_jax.training.checksum import checksums, differing
from t2i_jax.training.lock import Lock
from t2i_jax.training.restore import load_starts
from t2i_jax.training.save import Saver
from t2i_jax.training.state import abstract_params
from t2i_jax.training.step import jit_train_step

ROOT = Path(__file__).parents[2]
SHORT = {
  "train.steps": "8", "log.every": "2", "eval.every": "0", "sampling.every": "0", "eval.rows": "8",
  "checkpoint.every": "4", "checkpoint.keep": "2", "text.tokenizer": "bpe", "text.vocab": "512",
  "text.length": "64", "sampling.prompts": "('a red circle',)",
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  register(monkeypatch)


@pytest.fixture(scope="module")
def config(easy_data):
  """config(**changes) of a toy that trains in a second; `__` for the dot of a key."""

  def of(**changes):
    changed = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return config_of(SHORT | {"data.dir": str(easy_data)} | changed)

  return of


STEPS = {}


def one_step(system, optimizers, config, mesh, state):
  """A step is traced once for all runs whose configs differ in folders alone."""
  key = to_json(config).replace(config.data.dir, ""), mesh
  if key not in STEPS:
    STEPS[key] = jit_train_step(system, optimizers, config, mesh, state)
  return STEPS[key]


def quick(patch):
  """Runs see one device, and share their step."""
  patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
  patch.setattr(loop, "jit_train_step", one_step)


@pytest.fixture(scope="module")
def once(config, tmp_path_factory):
  """The work directory of eight steps with checkpoints of steps 4 and 8."""
  workdir = tmp_path_factory.mktemp("runs") / "once"
  with pytest.MonkeyPatch.context() as patch:
    register(patch)
    quick(patch)
    train(config(), workdir)
  return workdir


@pytest.fixture
def run(once, tmp_path, monkeypatch):
  """A copy of it."""
  quick(monkeypatch)
  return shutil.copytree(once, tmp_path / "run")


def back_to(workdir, last):
  """Removes the checkpoints after a step."""
  for step in kept_steps(workdir):
    if step > last:
      shutil.rmtree(workdir / "checkpoints" / str(step))


def tree(folder):
  """Everything in a folder: bytes and times."""
  return {
    p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
    for p in folder.rglob("*")
  }


# Rule F: readers never write, and one trainer writes.


def test_no_reader_changes_a_run_that_is_being_written(tmp_path):
  saved(tmp_path, config_of(), step=2)
  writing = tmp_path / "checkpoints/30.orbax-checkpoint-tmp"
  writing.mkdir()
  (writing / "half").write_bytes(b"x")
  before = tree(tmp_path)
  assert open_model(tmp_path).step == 2 and kept_steps(tmp_path) == [2]
  assert open_model(tmp_path, step=2).step == 2
  other = system_of(config_of({"parts.text.start": f"run:{tmp_path}"}))
  assert list(load_starts(other, abstract_params(other, make_mesh()))) == ["text"]
  with pytest.raises(RestoreError, match="has no step 3; its steps are 2"):
    open_model(tmp_path, step=3)
  assert tree(tmp_path) == before


def test_readers_beside_a_trainer_that_saves():
  found = fuzz_runs.readers(3, 5.0, every=0.5, pause=1.0, start=fuzz_runs.as_threads)
  assert found["problems of readers"] == [] and found["saves lost"] == []
  assert found["as expected"] and found["fewest opened by a reader"] > 0


HOLD = """
import sys, time
from pathlib import Path
from t2i_jax.training.lock import Lock
from t2i_jax.training.restore import load_starts
from t2i_jax.training.save import Saver
from t2i_jax.training.state import abstract_params
held = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_trainer_is_refused_until_the_first_is_dead(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as first:
    assert first.stdout.readline() == "held\n"
    with pytest.raises(WorkdirError, match=f"by process {first.pid} on {os.uname().nodename}"):
      Lock(tmp_path)
    first.send_signal(signal.SIGSTOP)  # alive, though it does nothing
    with pytest.raises(WorkdirError, match=f"by process {first.pid} on "):
      Lock(tmp_path)
    first.kill()
  began = time.monotonic()
  Lock(tmp_path).close()
  assert time.monotonic() - began < 5


def test_a_trainer_of_another_host_is_known_by_its_signs_of_life(tmp_path, monkeypatch, capsys):
  """As on file systems where flock is each host's own, or missing."""

  def missing(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(lock.fcntl, "flock", missing)
  monkeypatch.setattr(lock, "BEAT", 0.05)
  monkeypatch.setattr(lock, "WATCH", 0.5)
  first = Lock(tmp_path)
  with pytest.raises(WorkdirError, match="is being written by process"):
    Lock(tmp_path)
  first.check()
  first.ended.set()  # it is cut off
  with closing(Lock(tmp_path)) as second:
    assert "has ended without closing it" in capsys.readouterr().out
    second.check()
    with pytest.raises(WorkdirError, match="was taken over by process"):
      first.check()
    first.close()
    second.check()


def test_train_holds_the_lock_and_lets_it_go(tmp_path, config, monkeypatch):
  with closing(Lock(tmp_path)), pytest.raises(WorkdirError, match="is being written by process"):
    train(config(), tmp_path)
  assert not (tmp_path / "checkpoints").exists()

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, "begin", interrupted)
  with pytest.raises(KeyboardInterrupt):
    train(config(), tmp_path)
  Lock(tmp_path).close()


# Rule G: what is saved is good, and known to be.


def test_weights_that_are_not_finite_are_never_saved(run, config, monkeypatch):
  """Also where the loss is finite, or not looked at."""
  back_to(run, 4)
  before, make = tree(run / "checkpoints"), loop.jit_train_step

  def spoilt(*args):
    good = make(*args)

    def step(state, batch):
      state, metrics = good(state, batch)
      ema = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), state.ema)
      return (state._replace(ema=ema) if state.step == 6 else state), metrics

    return step

  monkeypatch.setattr(loop, "jit_train_step", spoilt)
  with pytest.raises(NotFinite, match=r"step 8 is not saved: of ema, .*Step 4 is complete"):
    train(config(), run)
  assert kept_steps(run) == [4] and tree(run / "checkpoints") == before


def test_an_image_that_is_not_finite_is_an_error(tmp_path, capsys):
  _, state = saved(tmp_path / "run", config_of(), step=2)
  huge = jax.tree.map(lambda leaf: leaf + 3e38 if leaf.ndim else leaf, state.ema)
  state = state._replace(step=jnp.int32(4), ema=huge)
  meta = Checkpoints(tmp_path / "run").meta(2)
  with closing(Saver(tmp_path / "run", 3)) as saver:
    saver.save(state, meta)
  args = ["sample", f"--workdir={tmp_path / 'run'}", "--prompt=a red circle"]
  assert main([*args, f"--out={tmp_path / 'out'}"]) == 2
  assert "NotFinite: " in capsys.readouterr().err and not (tmp_path / "out").exists()
  assert main([*args, "--step=2", f"--out={tmp_path / 'out'}"]) == 0


def test_one_changed_bit_is_found():
  counts = fuzz_runs.flips(10, alternate=True)
  assert counts.total() == 10 and not any("WRONG" in what for what, _ in counts), counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_a_checksum_changes_with_any_bit_and_not_with_the_mesh(dtype, monkeypatch):
  """Nor with who computes it: numpy for small arrays, a compiled program for others."""
  rng = np.random.default_rng(0)
  host = rng.integers(0, 256, (8, 16)).astype(jnp.dtype(dtype))
  put = lambda a, spec: {"w": jax.device_put(a, jax.NamedSharding(make_mesh(), spec))}
  (one,) = checksums(put(host, jax.P())).values()
  with monkeypatch.context() as patch:
    patch.setattr(checksum, "SMALL", 0)
    compiled, spread = (checksums(put(host, spec))["['w']"] for spec in (jax.P(), jax.P("data")))
  assert one == compiled == spread and one.odd == 0
  for bit in rng.integers(0, 8 * host.nbytes, 20):
    if dtype == "bool":
      bit -= bit % 8
    changed = bytearray(host.tobytes())
    changed[bit // 8] ^= 1 << bit % 8
    other = np.frombuffer(bytes(changed), host.dtype).reshape(host.shape)
    assert differing(checksums(put(other, jax.P())), {"['w']": one.hash}) == ["['w']"]


def test_the_step_before_a_damaged_one_is_read_and_said(tmp_path, capsys):
  saved(tmp_path, config_of(), step=2)
  saved(tmp_path, config_of(), step=4, seed=1)
  largest = max((tmp_path / "checkpoints/4/ema").rglob("*"), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)
  before = tree(tmp_path)
  assert open_model(tmp_path).step == 2
  said = capsys.readouterr().err
  assert f"WARNING: {tmp_path}/checkpoints/4 " in said and "Step 2 is used" in said
  with pytest.raises(RestoreError, match=r"checkpoints/4 (is damaged|cannot be restored)"):
    open_model(tmp_path, step=4)
  assert tree(tmp_path) == before


# Rule H: a run is of its data.


def test_other_data_under_the_same_path(run, config, easy_data, tmp_path, capsys):
  """Refused by name, or taken by --new-data, with the tokenizer that the weights know."""
  data = shutil.copytree(easy_data, tmp_path / "data")
  train(config(data__dir=data), run)  # the same data elsewhere are the same
  manifest, tokens = data / "manifest.json", data / "tokenizer.json"
  old = hashlib.sha256(tokens.read_bytes()).hexdigest()
  content = json.loads(tokens.read_text())
  vocab = content["model"]["vocab"]
  vocab["r"], vocab["b"] = vocab["b"], vocab["r"]
  tokens.write_text(json.dumps(content))
  new = hashlib.sha256(tokens.read_bytes()).hexdigest()
  assert old in manifest.read_text()
  manifest.write_text(manifest.read_text().replace(old, new))
  back_to(run, 4)
  before = tree(run / "checkpoints"), (run / "config.json").read_bytes()
  refused = r"data.dir = .* is not the folder that step 4 was .* gives other ids.*--new-data"
  with pytest.raises(RestoreError, match=refused):
    train(config(data__dir=data), run)
  assert (tree(run / "checkpoints"), (run / "config.json").read_bytes()) == before
  capsys.readouterr()
  train(config(data__dir=data), run, new_data=True)
  assert "is another folder than before" in capsys.readouterr().out
  first, second = (Checkpoints(run).meta(step) for step in (4, 8))
  assert first.tokenizer == second.tokenizer and first.data != second.data


# Rule K: logs tell the truth.


def shown(workdir):
  """Steps of the loss as TensorBoard shows them."""
  events = EventAccumulator(str(workdir / "tensorboard"))
  events.Reload()
  return [event.step for event in events.Scalars("train/loss")]


def logged(workdir, name="metrics.jsonl"):
  return [json.loads(line)["step"] for line in (workdir / name).read_text().split("\n") if line]


@pytest.mark.parametrize("last", [4, 0])
def test_each_step_is_shown_once_after_a_restart(run, config, last):
  back_to(run, last)
  train(config(), run)
  assert shown(run) == [2, 4, 6, 8]
  assert logged(run) == [2, 4, 6, 8, 8]  # of training, and of validation at the end
  assert logged(run, "metrics.redone.jsonl") == [s for s in (2, 4, 6, 8, 8) if s > last]


def test_a_resume_with_no_more_steps_changes_nothing(run, config, capsys):
  keep = lambda: {path: found for path, found in tree(run).items() if path.name != lock.NAME}
  before = keep()
  with pytest.raises(ConfigError, match=r"train.steps = 6: the run in .* has done 8 steps"):
    train(config(train__steps=6), run)
  train(config(log__every=5), run)
  assert "all 8 steps are done; nothing to train" in capsys.readouterr().out
  assert keep() == before


PROMPTS = {
  "newline": (b"a\nb", ["a", "b"]),
  "carriage return and newline": (b"a\r\nb\r\n", ["a", "b"]),
  "line separator": ("a\u2028b\u2029c\n".encode(), ["a\u2028b\u2029c"]),
  "next line": ("a\x85b".encode(), ["a\x85b"]),
  "vertical tab, form feed": (b"a\x0bb\x0cc", ["a\x0bb\x0cc"]),
  "file, group, record separators": (b"a\x1cb\x1dc\x1ed", ["a\x1cb\x1dc\x1ed"]),
  "carriage return alone": (b"a\rb", ["a\rb"]),
  "blank lines, mark, spaces": ("\ufeff a \n\n\t\n b\t".encode(), ["a", "b"]),
}


@pytest.mark.parametrize("data, prompts", PROMPTS.values(), ids=PROMPTS)
def test_prompts_end_at_newlines_alone(tmp_path, data, prompts):
  (tmp_path / "prompts.txt").write_bytes(data)
  args = lambda: None
  args.prompt, args.prompts, args.num, args.seed = [], tmp_path / "prompts.txt", 1, 0
  assert read_prompts(args) == prompts


OUTS = {
  "a file": "file",
  "below a file": "file/out",
  "no folder to make": "/proc/out",
  "a link to nowhere": "link",
  "a long name": "x" * 300,
}


@pytest.mark.parametrize("name", OUTS.values(), ids=OUTS)
@pytest.mark.parametrize(
  "verb", [["sample", "--prompt=a"], ["chat", "--say=a"]], ids=lambda v: v[0]
)
def test_an_out_that_cannot_be_written_is_found_before_a_model_is_opened(
  tmp_path, monkeypatch, capsys, verb, name
):
  monkeypatch.setattr("t2i_jax.inference.open_model", lambda *_, **__: pytest.fail("opened"))
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  assert main([*verb, f"--workdir={tmp_path}", f"--out={tmp_path / name}"]) == 2
  assert f"WorkdirError: --out={tmp_path / name} cannot be written" in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
