"""The pod's config through the TPU compiler: it fits the chip, and each chip holds its share."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from t2i_jax.plan.program import Program

from t2i_jax.models.implementations import CHUNK

ROOT = Path(__file__).parents[2]
# Two layers of the joint model at rows of 4096, its program printed.
JOINT = """
from t2i_jax.config import load_config
from t2i_jax.parallel import make_mesh
from t2i_jax.plan.pod import compile_train_step, topology_devices
sizes = {"model.width": "512", "model.depth": "2", "model.heads": "4", "text.vocab": "1024"}
sizes |= {"train.batch": "4", "mesh.fsdp": "4", "model.attention": "splash"}
mesh = make_mesh(1, 4, 1, topology_devices("v5p:2x2x1"))
print(compile_train_step(load_config("configs/transfusion.py", sizes), mesh)[0].as_text())
"""
HBM_GIB = {"v5e:16x16": 16e9 / 2**30, "v5p:8x8x4": 95e9 / 2**30}


def printed(*arguments):
  """What Python prints that is given these, without the flags of the tests' CPU compiler."""
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("no TPU compiler here: pip install 't2i_jax[tpu]'")
  env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  command = [sys.executable, *arguments]
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:16x16"])
def test_the_pod_config_fits_the_chip(topology):
  config = "--config=configs/latents_dit_xl2_flow.py"
  out = printed("-m", "t2i_jax.plan.pod", f"--topology={topology}", config)
  print(out)
  table = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines())
  gib = {k.removesuffix(", GiB"): float(v) for k, v in table.items() if k.endswith("GiB")}
  fsdp = int(re.search(r"'fsdp': (\d+)", table["chips"])[1])
  assert gib["state a chip"] < 1.1 / fsdp * gib["state, whole"]
  # The compiler pads heads of 72 to 128 (measured: 1.28 / fsdp).
  assert gib["arguments a chip, with padding"] < 1.35 / fsdp * gib["state, whole"]
  assert gib["peak a chip"] < HBM_GIB[topology]
  assert float(table["parameters"]) > 675e6  # not less than a DiT-XL/2
  # Gradients are scattered as they are summed, and no activation changes hands in a block.
  assert int(table["reduce-scatter operations"]) > 0


@pytest.mark.slow
def test_the_joint_step_keeps_no_scores_where_it_takes_the_kernel():
  """docs/joint_on_tpu.md has the 7B step: 259 GiB of HBM traffic for 1287."""
  text = printed("-c", JOINT)
  # With remat "full": forward, forward again, backward; each once a layer.
  assert Program(text).count("custom-call", "splash_mha") == (3, 6)
  beside_keys = ",".join(re.findall(r"f32\[([\d,]+),4096\]", text))
  assert max(map(int, beside_keys.split(","))) < CHUNK  # of rope and of the log-sum-exp: no scores
