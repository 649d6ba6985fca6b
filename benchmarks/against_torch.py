"""Our transformers beside the classes of diffusers in PyTorch, in seconds: docs/against_torch.md.

python -m benchmarks.against_torch --to docs

DiT-B/2, a FLUX.1 stack of two double and two single blocks, and a small U-Net of Stable Diffusion
1's layout, forward and train step (mean squared error, AdamW), eager and under torch.compile, on
whatever device both libraries find: on a CPU float32 with attention by head, on a GPU bfloat16,
where the stack has FLUX.1's width and number of tokens. Each of the three is a process of its own,
with glibc told to keep memory (quickstart.py); they take turns, call by call, and the medians and
their ratios are of those turns: what else the machine does strikes all alike. Needs torch and
diffusers.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import optax
import torch

from benchmarks.pages import run_of, table, write
from benchmarks.quickstart import KEEP_MEMORY
from t2i_jax.models import BACKBONES, Conditioning, Tower, init_params, with_params

COMMAND = "python -m benchmarks.against_torch --to docs"
HEAD = ("what", "ours, s", "eager, s", "torch.compile, s", "over eager", "over torch.compile")
WHO = ("ours", "eager", "compiled")
TURNS, WARM = 7, 2
READY = "ready"
LR = 1e-4
DIT_B = {
  "width": 768, "depth": 12, "heads": 12, "patch": 2, "channels": 4, "out": 8, "classes": 1000,
  "side": 32,
}  # fmt: skip


class Case(NamedTuple):
  """One model in both libraries: our kind and config, their module and what it is called with."""

  name: str
  kind: str
  config: dict[str, Any]
  module: Callable[[], torch.nn.Module]
  arguments: Callable[[torch.dtype], dict[str, Any]]
  x_shape: tuple[int, ...]
  words: int


def dit_b() -> Case:
  rows = 4
  of_class = {
    "num_attention_heads": 12, "attention_head_dim": 64, "num_layers": 12, "out_channels": 8,
  }  # fmt: skip

  def arguments(dtype: torch.dtype) -> dict[str, Any]:
    return {
      "hidden_states": torch.randn(rows, 4, 32, 32, dtype=dtype),
      "timestep": torch.linspace(10, 900, rows),
      "class_labels": torch.arange(rows),
    }

  module = lambda: diffusers.DiTTransformer2DModel(**of_class)
  return Case(
    "DiT-B/2, 4 x 256 tokens", "class_dit", DIT_B, module, arguments, (rows, 32, 32, 4), 0
  )


def flux_stack(width: int, side: int, words: int) -> Case:
  heads, rows = width // 128, 1
  config = {
    "width": width, "double_blocks": 2, "single_blocks": 2, "heads": heads, "patch": 2,
    "channels": 16, "out": 16, "text_width": 4096, "pooled_width": 768, "rope_axes": (16, 56, 56),
  }  # fmt: skip
  of_class = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": heads}

  def arguments(dtype: torch.dtype) -> dict[str, Any]:
    tokens = side // 2
    ids = torch.zeros(tokens, tokens, 3)
    ids[..., 1], ids[..., 2] = torch.arange(tokens)[:, None], torch.arange(tokens)
    return {
      "hidden_states": torch.randn(rows, tokens**2, 64, dtype=dtype),
      "encoder_hidden_states": torch.randn(rows, words, 4096, dtype=dtype),
      "pooled_projections": torch.randn(rows, 768, dtype=dtype),
      "timestep": torch.full((rows,), 0.5, dtype=dtype),
      "img_ids": ids.reshape(-1, 3),
      "txt_ids": torch.zeros(words, 3),
    }

  module = lambda: diffusers.FluxTransformer2DModel(**of_class)
  name = f"FLUX.1, 2 + 2 blocks of width {width}, {(side // 2) ** 2} + {words} tokens"
  return Case(name, "flux", config, module, arguments, (rows, side, side, 16), words)


def sd_unet() -> Case:
  rows, side, words, widths = 2, 32, 77, (64, 128, 256, 256)
  config = {"channels": 4, "out": 4, "text_width": 768, "widths": widths}
  of_class = {"block_out_channels": widths, "cross_attention_dim": 768, "attention_head_dim": 8}

  def arguments(dtype: torch.dtype) -> dict[str, Any]:
    return {
      "sample": torch.randn(rows, 4, side, side, dtype=dtype),
      "timestep": torch.linspace(10, 900, rows),
      "encoder_hidden_states": torch.randn(rows, words, 768, dtype=dtype),
    }

  module = lambda: diffusers.UNet2DConditionModel(**of_class)
  name = f"U-Net of SD 1, widths {', '.join(map(str, widths))}, {rows} x {side} x {side} latents"
  return Case(name, "unet", config, module, arguments, (rows, side, side, 4), words)


def ours_of(case: Case, train: bool, dtype: Any, attention: str) -> Callable[[], None]:
  """A call of our model, or of one step of its training, that ends when the device has ended."""
  module, config = BACKBONES[case.kind]
  make = lambda rngs: module(config(**case.config, attention=attention), rngs)
  rows = case.x_shape[0]
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], case.x_shape)
  target = jax.random.normal(keys[1], (*case.x_shape[:3], case.config["out"]))
  width = case.config.get("text_width", 4096)
  tokens = jax.random.normal(keys[2], (rows, case.words or 1, width)).astype(dtype)
  towers = {
    "text": Tower(tokens, jnp.ones(tokens.shape[:2], bool), tokens[:, 0, :768]),
    "label": Tower(jnp.arange(rows).reshape(rows, 1, 1), jnp.ones((rows, 1), bool), None),
  }
  params = jax.jit(lambda key: init_params(make, key))(jax.random.key(1))
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  bind, cond, times = with_params(make), Conditioning(towers, {}), jnp.full(rows, 500.0)
  answer = lambda params, x: bind(params)(x.astype(dtype), times, cond).value
  if not train:
    run = jax.jit(answer)
    return lambda: jax.block_until_ready(run(params, x))
  optimizer = optax.adamw(LR, weight_decay=1e-2)

  def step(state, x, target):
    params, opt = state
    loss = lambda params: jnp.mean(jnp.square(answer(params, x) - target))
    value, grads = jax.value_and_grad(loss)(params)
    updates, opt = optimizer.update(grads, opt, params)
    return (optax.apply_updates(params, updates), opt), value

  run, at = jax.jit(step, donate_argnums=0), [(params, jax.jit(optimizer.init)(params))]

  def call() -> None:
    at[0], _ = jax.block_until_ready(run(at[0], x, target))

  return call


def theirs_of(case: Case, train: bool, dtype: torch.dtype, compiled: bool) -> Callable[[], None]:
  """The same of theirs."""
  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.manual_seed(0)
  module = case.module().to(device=device, dtype=dtype).train(train)
  arguments = {name: value.to(device) for name, value in case.arguments(dtype).items()}
  run = torch.compile(module) if compiled else module
  optimizer = torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=1e-2)
  wait = torch.cuda.synchronize if device == "cuda" else lambda: None

  def call() -> None:
    if not train:
      with torch.no_grad():
        run(**arguments)
    else:
      optimizer.zero_grad(set_to_none=True)
      answer = run(**arguments).sample
      torch.nn.functional.mse_loss(answer, torch.zeros_like(answer)).backward()
      optimizer.step()
    wait()

  return call


def call_of(case: Case, who: str, train: bool) -> Callable[[], None]:
  gpu = on_gpu()
  if who == "ours":
    attention = ("cudnn" if case.kind == "flux" else "xla") if gpu else "by_head"
    return ours_of(case, train, jnp.bfloat16 if gpu else jnp.float32, attention)
  dtype = torch.bfloat16 if gpu else torch.float32
  return theirs_of(case, train, dtype, compiled=who == "compiled")


def serve(case: Case, who: str, train: bool) -> None:
  """One call for each line of stdin, its seconds to stdout."""
  call = call_of(case, who, train)
  for _ in range(WARM):
    call()
  print(READY, flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    call()
    print(time.perf_counter() - began, flush=True)


def measure(number: int, train: bool) -> dict[str, float]:
  """Median seconds of each, in turns."""
  # Three processes share a GPU: none may take its memory beforehand.
  env = KEEP_MEMORY | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
  started = {}
  for who in WHO:
    command = [sys.executable, "-m", "benchmarks.against_torch", "--serve"]
    command += [str(number), who, str(int(train))]
    one = subprocess.Popen(
      command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert one.stdin and one.stdout
    started[who] = one
    while one.stdout.readline().strip() != READY:
      if one.poll() is not None:
        sys.exit(f"{who} ended with {one.returncode}")
  found: dict[str, list[float]] = {who: [] for who in WHO}
  for _ in range(TURNS):
    for who, one in started.items():
      print(file=one.stdin, flush=True)
      found[who].append(float(one.stdout.readline()))
  for one in started.values():
    one.stdin.close()
    one.wait()
  return {who: statistics.median(times) for who, times in found.items()}


def on_gpu() -> bool:
  return jax.default_backend() == "gpu" and torch.cuda.is_available()


def cases() -> list[Case]:
  flux = flux_stack(3072, 128, 512) if on_gpu() else flux_stack(1024, 32, 64)
  return [dit_b(), flux, sd_unet()]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--to", default="docs")
  parser.add_argument("--serve", nargs=3, help="case, library, train: in this process")
  args = parser.parse_args()
  if args.serve:
    number, who, train = args.serve
    serve(cases()[int(number)], who, train == "1")
    return
  gpu = on_gpu()
  device = f"{platform.machine()}, {torch.get_num_threads()} threads"
  device = torch.cuda.get_device_name() if gpu else device
  versions = f"jax {jax.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}"
  lines = [
    "# Beside PyTorch",
    "",
    f"Made by `{COMMAND}` on",
    f"{device}: {versions};",
    f"{'bfloat16' if gpu else 'float32'}, median of {TURNS} calls in turns, each library in",
    "a process of its own. A ratio is our time over theirs: below 1 we are faster.",
    *([] if gpu else ["Ours with `model.attention = 'by_head'`. On a GPU it was not run."]),
    "",
  ]
  rows = []
  for number, case in enumerate(cases()):
    for train in (False, True):
      t = measure(number, train)
      ratios = [t["ours"] / t[other] for other in ("eager", "compiled")]
      what = f"{case.name}: {'train step' if train else 'forward'}"
      rows.append([what, *(f"{t[who]:.3f}" for who in WHO), *(f"{r:.2f}" for r in ratios)])
      print(*rows[-1], flush=True)
  lines.append(table(HEAD, rows))
  write(Path(args.to, "against_torch.md"), "\n".join(lines), run_of(COMMAND))


if __name__ == "__main__":
  main()
