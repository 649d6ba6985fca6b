"""A folder read and written by two processes that hold half of the weights each."""

import re
import socket
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny_published import CONFIGS, random_params

from t2i_jax.pretrained import save


@pytest.mark.newest
@pytest.mark.slow
def test_two_processes(start_t2i, tmp_path):
  save(tmp_path / "one", CONFIGS["flux2"], random_params(CONFIGS["flux2"]))
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  script = Path(__file__).parent / "one_of_two.py"
  running = [
    start_t2i([port, i, tmp_path / "one", tmp_path / "two"], devices=4, program=[script])
    for i in range(2)
  ]
  for process in running:
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    # Of 8 slices each reads 4; what all devices hold is read by both.
    assert 0.5 < float(re.search(r"read ([0-9.]+)", said)[1]) < 0.55
  there = lambda name: {
    key: leaf
    for file in (tmp_path / name).glob("*.safetensors")
    for key, leaf in load_file(file).items()
  }
  one, two = there("one"), there("two")
  assert one.keys() == two.keys()
  assert all((one[key] == two[key]).all() for key in one)
  assert len(list((tmp_path / "two").glob("*.safetensors"))) > 1
