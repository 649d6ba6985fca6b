"""What all tests share: compiled programs, eight virtual devices, data, a tiny model, processes."""

import contextlib
import gc
import os
import platform
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import pytest


def programs_folder():
  """Where compiled programs are kept, outside the clone, for both workers, processes and runs.

  jax's keys name the program, the flags and its own version, but not the instructions of the
  processor, hence a folder for each kind of processor.
  """
  home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  cpu = Path("/proc/cpuinfo")
  lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
  kind = "".join(
    sorted({line for line in lines if line.startswith(("flags", "Features", "model"))})
  )
  return home / "t2i_jax" / "tests" / f"{zlib.crc32(repr(kind).encode()):08x}"


# Set before jax is imported, hence the imports inside the fixtures. The level of the code generator
# is for compile time: the tests of models, process and sampling take 92 s of CPU with it and 157 s
# without (measured, November 2026, two x86-64 cores).
FAST = "--xla_backend_optimization_level=0"
# The older fusions compile up to three times faster, and a program in one piece by a fifth; newer
# compilers do not know the first flag, and end.
if version("jaxlib").startswith("0.10."):
  FAST += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST}"
# Threads of XLA's pools. By default there are as many as devices, each program of a device waits in
# its collectives on more than one, and two that are independent of each other end in a deadlock.
os.environ["NPROC"] = "32"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs_folder()))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"  # what is worth a file
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Processes that tests start would else compile the package's 250 files each: 0.6 s of CPU.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tracing makes many small objects that live on: collecting them less often saves 4 to 7% of the CPU
# time of tests/models/test_families.py (measured as above).
gc.set_threshold(200_000, 50, 100)
MOST_BYTES = 2 * 2**30  # of compiled programs on disk; a run writes about a tenth of it
# Files that take longest, which the workers begin with so that they end together.
LONGEST = (
  "training/test_processes.py",
  "training/test_resume.py",
  "models/test_families.py",
  "test_configs.py",
  "models/test_implementations.py",
  "systems/test_transfusion.py",
  "cli/test_train_sample.py",
  "training/test_step.py",
  "training/test_mesh.py",
  "cli/test_joint.py",
)

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "scenes_dit_flow.py"

# 8 heads of width 4 and 16 rows, so that any mesh of 8 devices divides them. What the shipped
# config may come to choose otherwise is set here too.
TINY = {
  "data.image_size": (32, 32),
  "text.tokenizer": "bpe",
  "text.vocab": 512,
  "text.length": 24,
  "text.towers.text": "bag_of_words(width=32)",  # a third of the trace and compilation less
  "model.patch": 8,
  "model.text": "cross",
  "model.width": 32,
  "model.depth": 2,
  "model.heads": 8,
  "process.kind": "flow",
  "process.prediction": "x0",
  "train.optimizer": "adamw",  # compiles faster than Muon
  "train.steps": 24,
  "train.batch": 16,
  "train.schedule": "cosine(warmup=3)",
  "log.every": 2,
  "eval.every": 6,
  "eval.rows": 16,
  "checkpoint.every": 6,
  "checkpoint.keep": 2,
  "sampling.every": 12,
  "sampling.solver": "euler",
  "sampling.steps": 3,
  "sampling.batch": 8,
  "sampling.prompts": ("a red circle", "a blue square"),
}


# The same of a joint model: rows of two documents.
JOINT = {
  "data.image_size": (32, 32),
  "rows.length": 120,
  "rows.images": 4,
  "rows.window": 2,
  "rows.positions": "centred",
  "text.length": 24,
  "model.width": 32,
  "model.depth": 2,
  "model.heads": 4,
  "train.batch": 8,
  "train.optimizer": "adamw",
  "train.steps": 6,
  "train.schedule": "cosine(warmup=1)",
  "log.every": 1,
  "eval.every": 0,
  "eval.rows": 8,
  "checkpoint.every": 0,
  "sampling.every": 0,
  "sampling.steps": 2,
  "sampling.batch": 4,
  "sampling.prompts": ("a red circle",),
  "sampling.words": "sample(most=6)",
}


def pytest_configure(config):
  """Deletes the compiled programs that were not used for longest, once a run."""
  if hasattr(config, "workerinput"):
    return
  with contextlib.suppress(FileNotFoundError):  # another run deletes them, too
    found = [(path, path.stat()) for path in programs_folder().parent.rglob("*-cache")]
    held = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda pair: max(pair[1].st_atime, pair[1].st_mtime)):
      if held <= MOST_BYTES:
        break
      path.unlink()
      held -= stat.st_size


def pytest_ignore_collect(collection_path, config):
  """With `-m newest`, files without a test so marked are not imported."""
  if config.option.markexpr != "newest" or not collection_path.match("test_*.py"):
    return None
  return "pytest.mark.newest" not in collection_path.read_text(encoding="utf-8") or None


@pytest.hookimpl(trylast=True)  # after -m
def pytest_collection_modifyitems(config, items):
  """The longest files first; the order within a file, and of the others, stays.

  With `-m newest`, the first case of each test alone, unless its mark says all_cases=True.
  """
  if config.option.markexpr == "newest":
    first = {}
    for item in items:
      every = item.get_closest_marker("newest").kwargs.get("all_cases")
      first.setdefault(item.nodeid if every else item.nodeid.split("[")[0], item)
    chosen = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = first.values()
  place = {str(ROOT / "tests" / name): i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: place.get(str(item.path), len(place)))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
  """Drop the compiled programs once they take too much, at the end of a module.

  Each keeps memory maps, of which a process may have 65530: a suite that keeps all its programs
  ends in a segmentation fault of the compiler. Kept, they serve the modules that come after.
  """
  yield
  if too_many_programs():
    import jax

    jax.clear_caches()
    gc.collect()


def too_many_programs():
  """Whether two fifths of the memory maps that a process may have are taken, or 4 GiB of memory."""
  if not Path("/proc/self/maps").exists():
    return True
  most = int(Path("/proc/sys/vm/max_map_count").read_text())
  maps = Path("/proc/self/maps").read_bytes().count(b"\n")
  resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  return maps > 0.4 * most or resident > 4 * 2**30


@pytest.fixture(scope="module")
def one_device():
  """Runs of this module see one of the eight devices: programs for one compile faster."""
  import jax

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    yield


@pytest.fixture(scope="session")
def easy_data(tmp_path_factory):
  """A built folder of easy scenes at 32 px: 200 train, 40 val, 20 heldout. Do not change it."""
  from t2i_jax.data.build import build
  from t2i_jax.data.from_scenes import Scenes

  out = tmp_path_factory.mktemp("data") / "easy"
  build(Scenes("easy", 32, 200, 40, 20), out, workers=1, progress=False)
  return out


@pytest.fixture(scope="session")
def tiny(easy_data):
  """tiny({"train.steps": 4}) -> overrides, dotted key to text, of a tiny model on easy_data."""

  def overrides(changes=None):
    merged = TINY | {"data.dir": easy_data} | (changes or {})
    return {key: str(value) for key, value in merged.items()}

  return overrides


@pytest.fixture(scope="session")
def tiny_config(tiny):
  """tiny_config({"train.steps": 4}) -> the locked ConfigDict of the tiny model."""
  from t2i_jax.config import load_config

  return lambda changes=None: load_config(CONFIG, tiny(changes))


@pytest.fixture(scope="session")
def train_args(tiny):
  """train_args(workdir, {"train.steps": 4}) -> arguments of `t2i` that train the tiny model."""

  def args(workdir, changes=None):
    flags = [f"--config.{key}={value}" for key, value in tiny(changes).items()]
    return ["train", f"--config={CONFIG}", f"--workdir={workdir}", *flags]

  return args


@pytest.fixture(scope="session")
def joint_args(easy_data):
  """joint_args(workdir, {"train.steps": 4}) -> arguments of `t2i` that train a tiny joint model."""

  def args(workdir, changes=None):
    merged = JOINT | {"data.dir": easy_data} | (changes or {})
    flags = [f"--config.{key}={value}" for key, value in merged.items()]
    config = ROOT / "tests/joint_config.py"
    return ["train", f"--config={config}", f"--workdir={workdir}", *flags]

  return args


@pytest.fixture(scope="module")
def start_t2i():
  """start_t2i(args, devices=1, flags=FAST, env={}, program=[...]) -> a running Popen.

  stdout and stderr are one pipe of text. What still runs after the module's tests is killed.
  """
  started = []

  def start(args, devices=1, flags=FAST, env=None, program=("-m", "t2i_jax.cli.main")):
    xla = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {flags}"}
    process = subprocess.Popen(
      [sys.executable, *map(str, program), *map(str, args)],
      cwd=ROOT,
      env=os.environ | xla | (env or {}),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()
