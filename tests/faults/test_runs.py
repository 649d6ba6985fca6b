"""Faults of runs from public reports, each a small input with its right value.

Rules: readers never write; one writer a work directory; what is saved is finite, and what is read
is what was saved; a run is of its data; logs say what happened.
"""

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
from t2i_jax.errors import ConfigError, NotFinite, RestoreError, WorkdirError
from t2i_jax.inference import kept_steps, open_model
from t2i_jax.parallel import make_mesh
from t2i_jax.training import lock, loop, save, train
from t2i_jax.training.checksum import checksums, differing
from t2i_jax.training.lock import Lock
from t2i_jax.training.restore import load_starts
from t2i_jax.training.state import abstract_params

ROOT = Path(__file__).parents[2]
FAST = {"train.steps": "8", "log.every": "10", "eval.every": "0", "sampling.every": "0"}
FAST |= {"checkpoint.every": "4", "checkpoint.keep": "2", "eval.rows": "8"}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  register(monkeypatch)


@pytest.fixture
def config(easy_data):
  """config(**changes) of a toy that trains in a second; `__` for the dot of a key."""

  def of(**changes):
    changed = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return config_of(FAST | {"data.dir": str(easy_data)} | changed)

  return of


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
  found = fuzz_runs.readers(3, 5.0, every=0.5, start=fuzz_runs.as_threads)
  assert found["problems of readers"] == [] and found["saves lost"] == []
  assert found["as expected"] and found["fewest opened by a reader"] > 0


HOLD = """
import sys, time
from pathlib import Path
from t2i_jax.training.lock import Lock
from t2i_jax.training.restore import load_starts
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
  (tmp_path / "run").mkdir()
  with closing(Lock(tmp_path / "run")), pytest.raises(WorkdirError, match="is being written by"):
    train(config(), tmp_path / "run")
  assert not (tmp_path / "run/checkpoints").exists()

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, "begin", interrupted)
  with pytest.raises(KeyboardInterrupt):
    train(config(), tmp_path / "run")
  Lock(tmp_path / "run").close()


# Rule G: what is saved is good, and known to be.


def test_weights_that_are_not_finite_are_never_saved(tmp_path, config, capsys):
  train(config(train__steps=4), tmp_path)
  before = tree(tmp_path / "checkpoints")
  with pytest.raises(NotFinite, match=r"step 8 is not saved: .*not finite.* Step 4 is complete"):
    train(config(train__lr="1e30", train__steps=12), tmp_path)
  assert kept_steps(tmp_path) == [4] and tree(tmp_path / "checkpoints") == before
  train(config(), tmp_path)
  assert kept_steps(tmp_path) == [4, 8]


def test_an_image_that_is_not_finite_is_an_error(tmp_path, capsys):
  _, state = saved(tmp_path / "run", config_of(), step=2)
  huge = jax.tree.map(lambda leaf: leaf + 3e38 if leaf.ndim else leaf, state.ema)
  state = state._replace(step=jnp.int32(4), ema=huge)
  meta = save.Checkpoints(tmp_path / "run").meta(2)
  with closing(save.Saver(tmp_path / "run", 3)) as saver:
    saver.save(state, meta)
  args = ["sample", f"--workdir={tmp_path / 'run'}", "--prompt=a red circle"]
  assert main([*args, f"--out={tmp_path / 'out'}"]) == 2
  assert "NotFinite: " in capsys.readouterr().err and not (tmp_path / "out").exists()
  assert main([*args, "--step=2", f"--out={tmp_path / 'out'}"]) == 0


def test_one_changed_bit_is_found():
  counts = fuzz_runs.flips(10)
  assert counts.total() == 20 and not any("WRONG" in what for what, _ in counts), counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_a_checksum_changes_with_any_bit_and_not_with_the_mesh(dtype):
  rng = np.random.default_rng(0)
  host = rng.integers(0, 256, (8, 16)).astype(jnp.dtype(dtype))
  put = lambda a, spec: {"w": jax.device_put(a, jax.NamedSharding(make_mesh(), spec))}
  (one,) = checksums(put(host, jax.P())).values()
  (spread,) = checksums(put(host, jax.P("data"))).values()
  assert one == spread and one.odd == 0
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


def test_other_data_under_the_same_path(tmp_path, config, easy_data, capsys):
  data = shutil.copytree(easy_data, tmp_path / "data")
  of = lambda **changes: config(data__dir=data, **changes)
  train(of(train__steps=4), tmp_path / "run")
  manifest = data / "manifest.json"
  manifest.write_text(manifest.read_text().replace("\n", "\n\n"))
  with pytest.raises(RestoreError, match=r"data.dir = .* is not the folder that step 4 .*new-data"):
    train(of(), tmp_path / "run")
  capsys.readouterr()
  train(of(), tmp_path / "run", new_data=True)
  assert "is another folder than before" in capsys.readouterr().out
  train(of(train__steps=9), tmp_path / "run")  # of which the checkpoint is now


def test_the_same_data_elsewhere_are_the_same(tmp_path, config, easy_data):
  train(config(train__steps=4), tmp_path / "run")
  train(config(data__dir=shutil.copytree(easy_data, tmp_path / "moved")), tmp_path / "run")


def test_weights_keep_the_tokenizer_that_they_know(tmp_path, config, easy_data, monkeypatch):
  of = lambda **changes: config(text__tokenizer="bpe", text__vocab=512, **changes)
  train(of(train__steps=4), tmp_path / "run")
  data = shutil.copytree(easy_data, tmp_path / "data")
  path = next(p for p in data.iterdir() if "token" in p.name)
  path.write_bytes(path.read_bytes().replace(b"red", b"rde"))
  with pytest.raises(RestoreError, match="its tokenizer gives other ids"):
    train(of(data__dir=data), tmp_path / "run")
  train(of(data__dir=data), tmp_path / "run", new_data=True)
  first, second = (open_model(tmp_path / "run", step=step).tokenizer for step in (4, 8))
  assert first == second


# Rule K: logs tell the truth.


def shown(workdir):
  """Steps of the loss as TensorBoard shows them."""
  events = EventAccumulator(str(workdir / "tensorboard"))
  events.Reload()
  return [event.step for event in events.Scalars("train/loss")]


def logged(workdir, name="metrics.jsonl"):
  return [json.loads(line)["step"] for line in (workdir / name).read_text().split("\n") if line]


def test_each_step_is_shown_once_after_a_restart(tmp_path, config):
  train(config(log__every=2), tmp_path)
  assert shown(tmp_path) == [2, 4, 6, 8]
  for kept, redone in ((4, [6, 8]), (0, [2, 4, 6, 8])):
    for step in kept_steps(tmp_path):
      if step > kept:
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    train(config(log__every=2), tmp_path)
    assert shown(tmp_path) == [2, 4, 6, 8]
    assert logged(tmp_path) == [2, 4, 6, 8, 8]  # of training, and of validation at the end
    assert set(logged(tmp_path, "metrics.redone.jsonl")) >= set(redone)


def test_a_resume_with_fewer_steps_changes_nothing(tmp_path, config, capsys):
  train(config(), tmp_path)
  before = tree(tmp_path / "checkpoints"), (tmp_path / "config.json").read_bytes(), logged(tmp_path)
  with pytest.raises(ConfigError, match=r"train.steps = 6: the run in .* has done 8 steps"):
    train(config(train__steps=6), tmp_path)
  capsys.readouterr()
  train(config(log__every=5), tmp_path)
  assert "all 8 steps are done; nothing to train" in capsys.readouterr().out
  assert before == (
    tree(tmp_path / "checkpoints"), (tmp_path / "config.json").read_bytes(), logged(tmp_path),
  )  # fmt: skip


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
