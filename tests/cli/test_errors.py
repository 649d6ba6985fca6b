"""What a user can get wrong: named, with the way out, before anything compiles; nothing is lost."""

import resource
import shutil
import time

import jax
import numpy as np
import pytest

from t2i_jax.cli.main import main
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import WorkdirError
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import make_system
from t2i_jax.training import begin, loop, save
from t2i_jax.training.checkpoint import Checkpoints, Meta
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.restore import restore_state
from t2i_jax.training.save import Saver
from t2i_jax.training.state import abstract_state


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
  """Building the state or the step fails the test: errors must come before."""

  def reached(*_, **__):
    pytest.fail("the error came too late: the run was being built")

  monkeypatch.setattr(begin, "create_state", reached)
  monkeypatch.setattr(loop, "jit_train_step", reached)


@pytest.fixture
def refused(capsys):
  """refused(args, *words) runs `t2i`: exit code 2, one message with all the words, no traceback."""

  def run(args, *words):
    assert main(list(map(str, args))) == 2
    error = capsys.readouterr().err
    assert error.count("Error: ") == 1 and "Traceback" not in error
    for word in words:
      assert word in error, error

  return run


def some_state(config, step):
  """A state of a config and all that a checkpoint of it needs; no program is compiled."""
  tokenizer = Tokenizer.load(config.data.dir, config.text.tokenizer)
  system = make_system(config, tokenizer)
  optimizers = make_optimizers(config.train, system)
  abstract = abstract_state(system, optimizers, make_mesh())
  put = lambda leaf: jax.device_put(np.full(leaf.shape, step, leaf.dtype), leaf.sharding)
  meta = Meta(config, tokenizer, step * config.train.batch, {}, ())
  return jax.tree.map(put, abstract), system, meta


@pytest.fixture(scope="module")
def saved_once(tiny_config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "saved"
  state, _, meta = some_state(tiny_config(), 2)
  saver = Saver(workdir, keep=2)
  saver.save(state, meta)
  saver.close()
  return workdir


def files(folder):
  """Relative path -> bytes."""
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def saved(saved_once, tmp_path):
  """A work directory with a checkpoint of step 2, which must be as it was afterwards."""
  workdir = shutil.copytree(saved_once, tmp_path / "saved")
  yield workdir
  assert files(workdir / "checkpoints") == files(saved_once / "checkpoints")


CONFIG_ERRORS = {
  "misspelt key": ({"train.stepz": 4}, "train.stepz is not a key of", "Nearest: train.steps (now"),
  "key of another section": ({"model.lr": 1}, "model.lr is not a key", "Nearest: train.lr (now"),
  "text for an integer": ({"train.batch": "many"}, "train.batch = 'many' is text", "an integer"),
  "number for an integer": ({"train.steps": 1.5}, "train.steps = '1.5' is a number", "an integer"),
  "text for a number": ({"train.lr": "fast"}, "train.lr = 'fast' is text", "lr=<a number>"),
  "nothing to count": ({"train.accumulate": 0}, "train.accumulate = 0 is not in [1, 2^24]"),
  "one side of an image": ({"data.image_size": 32}, "data.image_size = (32,) has 1 of 2"),
  "a name": ({"train.optimizer": "sgd"}, "train.optimizer = 'sgd'", "adamw, muon"),
  "another name": ({"process.kind": "vpp"}, "process.kind = 'vpp'", "flow, trigonometric"),
  "trained nothing": (
    {"parts.text.train": "only(pattern='blcks/*')"}, "parts.text.train", "'blcks/*'", "begin with",
  ),
  "frozen all": (
    {"parts.text.train": "none", "parts.backbone.train": "none"}, "nothing is trained",
  ),
  "start of no kind": (
    {"parts.text.start": "/models/x"}, "parts.text.start = '/models/x'", "run:PATH",
  ),
  "rules of no axis": (
    {"mesh.rules": ("embd=fsdp",)}, "mesh.rules: 'embd=fsdp'", "the nearest logical axis is embed",
  ),
  "mesh of 3": ({"mesh.data": 3}, "needs 3 devices, this run has 8", "Set one axis to -1"),
  "mesh of 3 and the rest": ({"mesh.fsdp": 3}, "8 devices are not a multiple of 3"),
  "mesh and batch": ({"train.batch": 20}, "batch 20 is not a multiple", "8 x 1 = 8. Use 16"),
  "mesh and heads": (
    {"mesh.tensor": 8, "model.heads": 4}, "backbone/blocks", "heads = 4", "mesh.tensor = 8",
  ),
  "accumulate": (
    {"train.accumulate": 3}, "train.batch = 16", "train.accumulate = 3", "8 devices", "24 divides",
  ),
  "warm-up": (
    {"train.schedule": "cosine(warmup=24)"}, "train.schedule: warmup = 24", "train.steps = 24",
  ),
  "heads and width": ({"model.heads": 5}, "model.width = 32", "heads = 5", "Use width 20 x n"),
  "vocabulary": ({"text.vocab": 300}, "text.vocab = 300", "Use text.vocab="),
  "no data": ({"data.dir": "/nowhere"}, "/nowhere does not exist", "t2i data build"),
  "unknown split": ({"data.train_split": "trian"}, "'trian'", "it has train, val, heldout"),
  "unknown split to validate": ({"data.val_split": "test"}, "'test'", "train, val, heldout"),
  "fixed prompt too long": (
    {"sampling.prompts": ("a red circle left of " * 9,)}, "text.length = 24", "Shorten it",
  ),
  "unknown solver": ({"sampling.solver": "rk4"}, "sampling.solver = 'rk4'", "euler, ddim, ddpm"),
  "no solver steps": ({"sampling.steps": 0}, "sampling.steps = 0 is not in [1, 10000]"),
}  # fmt: skip


@pytest.mark.parametrize(
  "changes, words", [(c, w) for c, *w in CONFIG_ERRORS.values()], ids=[*CONFIG_ERRORS]
)
def test_config_mesh_and_prompts(refused, train_args, saved, changes, words):
  refused(train_args(saved, changes), *words)


def test_a_config_that_is_not_there(refused, tmp_path):
  args = ["train", "--config=configs/scenes_dit_flw.py", f"--workdir={tmp_path}"]
  refused(args, "configs/scenes_dit_flw.py does not exist", "Nearest: configs/scenes_dit_flow.py")


def test_overrides_that_are_not_for_this_verb_or_have_no_value(refused, train_args, tmp_path):
  refused([*train_args(tmp_path), "--config.seed"], "--config.seed has no value", "=<value>")
  refused(["sample", f"--workdir={tmp_path}", "--config.seed=1"], "which t2i train, describe")


def cut(path):
  path.write_bytes(path.read_bytes()[:-100])


SHARD_ERRORS = {
  "empty": (lambda path: path.write_bytes(b""), "is empty"),
  "missing": (lambda path: path.unlink(), "is missing"),
  "truncated": (cut, "is cut short"),
}


@pytest.mark.parametrize("harm, words", SHARD_ERRORS.values(), ids=SHARD_ERRORS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_shards(refused, train_args, saved, easy_data, tmp_path, split, harm, words):
  folder = shutil.copytree(easy_data, tmp_path / "data")
  shard = next(folder.glob(f"{split}-*"))
  harm(shard)
  refused(train_args(saved, {"data.dir": folder}), str(shard), words, "copy the shard again")


def test_checkpoint_of_another_config(refused, train_args, saved):
  changes = {"name": "wide", "model.width": 64, "train.batch": 32, "log.every": 5}
  refused(
    train_args(saved, changes),
    "step 2 was written by scenes_dit_flow, this run is wide",
    "model.width is 32 there, 64 here; train.batch is 16 there, 32 here",
    "Use another --workdir, or the config of the checkpoint",
  )


def test_work_directory_that_cannot_be_written(refused, train_args, tmp_path):
  (tmp_path / "file").touch()
  for workdir in (tmp_path / "file" / "run", "/proc/run"):
    refused(train_args(workdir), "WorkdirError", f"--workdir={workdir} cannot be written")


def test_full_disk_at_the_start(refused, train_args, saved, monkeypatch):
  monkeypatch.setattr(save.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
  refused(train_args(saved), "0.000 GB free, one checkpoint takes", "Free some space")


def test_full_disk_while_saving(saved, tiny_config):
  """A limit on the size of files stands for the full disk; what is saved stays as it is."""
  state, _, meta = some_state(tiny_config(), 4)
  saver = Saver(saved, keep=1)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(WorkdirError, match="Step 2 is complete and usable"):
      saver.save(state, meta)
      saver.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  expected, system, _ = some_state(tiny_config(), 2)
  reader = Checkpoints(saved)
  assert reader.steps() == [2]
  meta = reader.meta(2)
  abstract = abstract_state(system, make_optimizers(meta.config.train, system), make_mesh())
  restored = restore_state(reader, 2, meta, system, abstract)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, restored, expected)))
  reader.close()
  Saver(saved, keep=2).close()  # a run that goes on removes what the failed save has left
  deadline = time.monotonic() + 30  # in a thread of its own
  while list((saved / "checkpoints").glob("*tmp*")) and time.monotonic() < deadline:
    time.sleep(0.1)


SAMPLE_ERRORS = {
  "prompt too long": (["--prompt", "a red circle left of " * 9], "text.length = 24", "tokens"),
  "no prompt": ([], "nothing to draw", "--prompts=FILE"),
  "prompts from nowhere": (["--prompts=/nowhere"], "--prompts=/nowhere cannot be read"),
  "unknown solver": (
    ["--prompt=x", "--solver=rk4"],
    "sampling.solver = 'rk4'",
    "euler, ddim, ddpm",
  ),
  "no steps": (["--prompt=x", "--steps=0"], "sampling.steps = 0 is not in [1, 10000]"),
  "steps that are no number": (["--prompt=x", "--steps=ten"], "sampling.steps = 'ten' is text"),
  "no images": (["--prompt=x", "--num=0"], "--num=0 is not in [1, 2^20]"),
  "a negative seed": (["--prompt=x", "--seed=-1"], "--seed=-1 is not in [0, 2^32)"),
}


@pytest.mark.parametrize(
  "flags, words", [(f, w) for f, *w in SAMPLE_ERRORS.values()], ids=[*SAMPLE_ERRORS]
)
def test_sampling(refused, saved, flags, words):
  refused(["sample", f"--workdir={saved}", *flags], *words)


@pytest.mark.parametrize("verb", [["sample", "--prompt=x"], ["eval"]])
def test_work_directory_without_checkpoints(refused, tmp_path, verb):
  refused([*verb, f"--workdir={tmp_path}"], f"{tmp_path} has no checkpoints", "t2i train")
  (tmp_path / "checkpoints").mkdir()
  refused([*verb, f"--workdir={tmp_path}"], "no complete checkpoint yet")
