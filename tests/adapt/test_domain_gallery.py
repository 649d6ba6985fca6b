"""DomainGallery: what each term holds to what, what it moves, a run of the verb, tiny folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.cli.main import main


def run(base, to, *more):
  return main([
    "personalise", f"--workdir={base / 'base'}", f"--images={base / 'in'}", "--class-word=circle",
    "--word=ki", f"--to={to}", "--priors=6", "--steps=3", "--method=domain_gallery", *more,
  ])  # fmt: skip


def test_a_domain_is_taught(base, tmp_path, one_device, capsys):
  assert run(base, tmp_path / "run") == 0
  rows = [json.loads(l) for l in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
  print(rows)
