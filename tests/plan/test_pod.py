"""`t2i plan`: errors that name the way out, and a small train step through the TPU compiler."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.parallel import make_mesh
from t2i_jax.plan.describe import parameters, system_of
from t2i_jax.plan.pod import out_of_memory

ROOT = Path(__file__).parents[2]
# Runs `t2i` with each list of arguments; then a function that needs more memory than a chip has,
# and a convolution over one row a chip.
PROGRAM = """
import contextlib, io, json, sys
from t2i_jax.cli.main import main
found = []
for args in json.loads(sys.argv[1]):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    found.append((main(args), out, err))
import jax, jax.numpy as jnp
from t2i_jax.plan.pod import topology_devices
chip = jax.sharding.SingleDeviceSharding(topology_devices("v5e:2x2")[0])
x = jax.ShapeDtypeStruct((4, 2**18), jnp.float32, sharding=chip)
try:
  jax.jit(lambda x: jnp.sort(x[:, :, None] * jnp.arange(2**14), axis=1).sum()).lower(x).compile()
  over = ""
except jax.errors.JaxRuntimeError as error:
  over = str(error)
from t2i_jax.parallel import batch_sharding, compiler_options, make_mesh
from t2i_jax.plan import Program
mesh = make_mesh(devices=topology_devices("v5e:2x2"))
x = jax.ShapeDtypeStruct((4, 32, 32, 128), jnp.bfloat16, sharding=batch_sharding(mesh))
k = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))
conv = lambda x, k: jax.lax.conv_general_dilated(
  x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
program = jax.jit(conv, compiler_options=compiler_options(mesh)).lower(x, k).compile().as_text()
ops = [op for ops in Program(program).computations.values() for op in ops]
convs = [op.shape.split("{")[0] for op in ops if op.kind == "convolution"]
found = [(code, out.getvalue(), err.getvalue()) for code, out, err in found]
print(json.dumps([found, over, convs]))
"""
PLAN = ["plan", "--config=configs/dit.py:S/8"]
SMALL = {
  "model.width": "128", "model.heads": "1", "model.depth": "2", "train.batch": "8",
  "mesh.data": "2", "mesh.fsdp": "2",
}  # fmt: skip
FLAGS = [f"--config.{key}={value}" for key, value in SMALL.items()]
CALLS = {
  "a small step": [*PLAN, *FLAGS, "--topology=v5e:2x2"],
  "no such form": [*PLAN, *FLAGS, "--topology=v5p-8"],
  "no such slice": [*PLAN, *FLAGS, "--topology=v5p:3x3x3"],
  "no such generation": [*PLAN, *FLAGS, "--topology=v9:2x2"],
  "other mesh": [*PLAN, *FLAGS, "--topology=v5e:4x4"],
  "other batch": [*PLAN, *FLAGS, "--config.train.batch=15", "--topology=v5e:2x2"],
}


@pytest.fixture(scope="module")
def compiled():
  """(answers by name of the call, what the compiler says where memory runs out, convolutions)."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("no TPU compiler here: pip install 't2i_jax[tpu]'")
  # Without the flags that the tests give to their CPU compiler.
  env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  command = [sys.executable, "-c", PROGRAM, json.dumps(list(CALLS.values()))]
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr[-2000:]
  answers, *others = json.loads(done.stdout)
  return dict(zip(CALLS, answers, strict=True)), *others


@pytest.mark.slow
def test_a_small_step_is_compiled_and_read(compiled):
  code, out, err = compiled[0]["a small step"]
  assert (code, err) == (0, "")
  said = {name.strip(): value for name, value in (line.split("  ", 1) for line in out.splitlines())}
  said = {name: value.strip() for name, value in said.items()}
  mesh = {"data": 2, "fsdp": 2, "tensor": 1, "context": 1, "expert": 1}
  assert said["chips"] == f"4 x TPU v5 lite, mesh {mesh}"
  config = load_config(ROOT / "configs/dit.py:S/8", SMALL)
  assert said["parameters"] == f"{sum(parameters(system_of(config)).values()):,}"
  gib = {name.removesuffix(", GiB"): float(v) for name, v in said.items() if name.endswith(", GiB")}
  assert gib["state a chip"] < 0.6 * gib["state, whole"]
  assert gib["arguments a chip, with padding"] >= gib["state a chip"] - 1e-3
  assert 0 < gib["peak a chip"] < 0.1
  sent = {name.split(":")[0]: v.split(" / ") for name, v in said.items() if "static" in name}
  # Weights are gathered, and in the loop over two blocks twice for one instruction.
  static, run, _ = sent["all-gather"]
  assert 0 < int(static) < int(run)
  assert int(sent["reduce-scatter"][0]) > 0


@pytest.mark.slow
def test_a_convolution_over_few_rows_stays_one(compiled):
  """By default it is one over 8 parts of the image, 32 x 5."""
  assert compiled[2] == ["bf16[1,32,32,128]"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "call, words",
  [
    ("no such form", ["'v5p-8' does not exist", "v5e:16x16", "v5p:8x8x4"]),
    ("no such slice", ["'v5p:3x3x3' does not exist", "not divisible", "v5p:8x8x4"]),
    ("no such generation", ["'v9:2x2' does not exist", "Write the generation and the sides"]),
    ("other mesh", ["data 2 x fsdp 2 x tensor 1 x context 1 x expert 1 needs 4 devices", "16"]),
    ("other batch", ["batch 15 is not a multiple of data x fsdp = 2 x 2 = 4. Use 16."]),
  ],
)
def test_what_cannot_be_compiled_is_named(compiled, call, words):
  code, out, err = compiled[0][call]
  assert (code, out) == (2, "") and err.count("Error: ") == 1 and "Traceback" not in err
  for word in words:
    assert word in err, err


@pytest.mark.slow
def test_the_compilers_sentence_about_memory_is_read(compiled):
  error = out_of_memory(compiled[1], load_config(ROOT / "configs/dit.py:S/8"), make_mesh(1, 1, -1))
  need, have = re.search(r"needs ([\d.]+) GiB of HBM, .* has ([\d.]+) GiB", str(error)).groups()
  assert float(need) >= 64  # one array of it: 4 * 2^18 * 2^14 float32
  assert 14 < float(have) < 16  # a v5e chip


@pytest.mark.parametrize(
  "message",
  [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(32.00G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 32.00G of 15.75G hbm. Exceeded hbm capacity by 16.25G.\n\nTotal hbm usage >= 32.25G:",
  ],
)
def test_too_much_memory_says_what_to_change(message):
  config = load_config(ROOT / "configs/latents_dit_xl2_flow.py", {"train.batch": "64"})
  mesh = make_mesh(1, -1, 1)
  said = str(out_of_memory(message, config, mesh))
  chip = jax.devices()[0].device_kind
  assert f"latents_dit_xl2_flow needs 32.00 GiB of HBM, a {chip} chip has 15.75 GiB" in said
  for word in ("model.remat to full (now none)", "train.accumulate (now 1)"):
    assert word in said
  for word in ("train.batch (now 64)", f"mesh.fsdp (now {jax.device_count()})"):
    assert word in said


def test_memory_without_sizes_and_other_failures():
  config, mesh = load_config(ROOT / "configs/dit.py"), make_mesh(-1, 1, 1)
  assert "CompileTimeHbmOom: x" in str(out_of_memory("CompileTimeHbmOom: x\ny", config, mesh))
  assert out_of_memory("INTERNAL: x", config, mesh) is None


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
  find = importlib.util.find_spec
  absent = lambda name, *more: None if name == "libtpu" else find(name, *more)
  monkeypatch.setattr(importlib.util, "find_spec", absent)
  monkeypatch.chdir(ROOT)
  assert main([*PLAN, "--topology=v5e:2x2"]) == 2
  assert "pip install 't2i_jax[tpu]'" in capsys.readouterr().err
