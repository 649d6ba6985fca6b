"""Memory of a joint model's train step by the length of its rows: docs/attention_memory.md.

python -m benchmarks.attention_memory [--to docs]

Compiles the gradient of one row's loss, of a two-layer decoder of width 256, at rows of 2k to 16k
positions, and reads the compiler's own account of temporary memory. Nothing is run.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.pages import made_by, table, write
from t2i_jax.config import load_config
from t2i_jax.plan import memory_of
from t2i_jax.plan.describe import system_of

COMMAND = "python -m benchmarks.attention_memory"
CONFIG = Path(__file__).parents[1] / "configs/transfusion.py"
LENGTHS = (2048, 4096, 8192, 16384)
SMALL = {"model.width": "256", "model.depth": "2", "model.heads": "4"}
SMALL |= {"model.dtype": "float32", "text.vocab": "1024"}


def temporary(attention: str, length: int) -> int:
  """Bytes that the gradient of a row needs beside its arguments and results."""
  rows = {"rows.length": str(length), "rows.images": str(length // 274)}
  changes = SMALL | rows | {"model.attention": attention, "rows.positions": "sequence"}
  system = system_of(load_config(CONFIG, changes))

  def loss(params: Any, batch: Any) -> jax.Array:
    text, answers = system.forward(params, batch)
    return jnp.mean(text) + jnp.mean(jnp.square(answers))

  params = system.abstract
  compiled = jax.jit(jax.grad(loss)).lower(params, system.rows(1)).compile()
  return memory_of(compiled).temporary


def slope(sizes: list[int]) -> float:
  """Of log(memory) over log(length), between the last two lengths."""
  return math.log2(sizes[-1] / sizes[-2]) / math.log2(LENGTHS[-1] / LENGTHS[-2])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--to", default="docs")
  args = parser.parse_args()
  lines = [
    "# Memory of attention by the length of a row",
    "",
    "Made by `python -m benchmarks.attention_memory`: temporary memory, in MiB, of the gradient of",
    "one row's loss in a two-layer decoder of width 256, float32, remat `full`, by XLA's account",
    f"for a CPU (jax {jax.__version__}). A slope of 1 is linear.",
    "",
  ]
  rows = []
  for attention in ("chunked", "xla"):
    sizes = [temporary(attention, length) for length in LENGTHS]
    cells = [f"{size / 2**20:.0f}" for size in sizes]
    rows.append([attention, *cells, f"{slope(sizes):.2f}"])
    print(*rows[-1], flush=True)
  lines.append(table(["attention", *LENGTHS, "slope at the end"], rows))
  line = made_by(COMMAND, "benchmarks/attention_memory.py", "configs/transfusion.py")
  write(Path(args.to, "attention_memory.md"), "\n".join(lines), line)


if __name__ == "__main__":
  main()
