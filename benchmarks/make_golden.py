"""Answers of diffusers at tiny sizes, for tests that have no torch: tests/golden/<case>.npz.

python -m benchmarks.make_golden --to tests/golden

A file holds the folder's config.json, the inputs and the answer. The weights are not in it: they
follow from the names of the tensors (model_cases.formula_weights), which are loaded strictly here.
tests/parity asks diffusers again.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from benchmarks.model_cases import CASES, GOLDEN, as_arrays, formula_weights, given
from benchmarks.model_parity import theirs


def golden_model(name: str) -> Any:
  """The model of diffusers with the weights of the formula."""
  case = CASES[name]
  model = getattr(diffusers, case.theirs)(**case.config).eval()
  weights = {key: torch.tensor(leaf) for key, leaf in formula_weights(case).items()}
  buffers = {key: leaf for key, leaf in model.state_dict().items() if key == "pos_embed.pos_embed"}
  model.load_state_dict(weights | buffers, strict=True)
  return model


def made(name: str) -> dict[str, np.ndarray]:
  """The arrays of a file."""
  case, model = CASES[name], golden_model(name)
  content = {key: value for key, value in model.config.items() if not key.startswith("_use")}
  content["_class_name"] = case.theirs
  inputs = given(case)
  told = {"config": np.array(json.dumps(content)), "answer": theirs(case, model, inputs)}
  return told | as_arrays(inputs)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", default="tests/golden", help="folder of the files")
  args = parser.parse_args()
  logging.disable(logging.WARNING)
  Path(args.to).mkdir(parents=True, exist_ok=True)
  for name in GOLDEN:
    path = Path(args.to) / f"{name}.npz"
    np.savez_compressed(path, **made(name))
    print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
  main()
