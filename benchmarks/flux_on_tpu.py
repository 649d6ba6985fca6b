"""What a train step of published models needs of TPUs that are not here: docs/tpu_programs.md.

python -m benchmarks.flux_on_tpu [--rows='flux v5p:2x2x1 .*']

Compiles the row of 2 + 2 blocks (minutes), holds it against what docs/tpu_programs.json records of
it and of the whole model, and writes the page; a figure that is off ends it and is named. With
--rows, compiles the rows that match first and records them. Needs the package libtpu and no TPU.
Nothing is allocated or run, so there is no step time.
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from benchmarks import finetune_on_tpu
from benchmarks.pages import made_by, table, write
from t2i_jax.autoencoders import IdentityConfig
from t2i_jax.config import load_config
from t2i_jax.data.batch import Batch
from t2i_jax.models import BACKBONES, Conditioning, Tower
from t2i_jax.parallel import make_mesh
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import abstract_batch, topology_devices
from t2i_jax.process import PROCESSES, WEIGHTINGS, Prediction, denoising_loss
from t2i_jax.systems import Draws, Part, System
from t2i_jax.systems.make import make_mixing
from t2i_jax.systems.system import DRAW_T, flat_images, row_keys
from t2i_jax.training.optimizer import make_optimizers
from t2i_jax.training.state import TrainState, abstract_state
from t2i_jax.training.step import jit_train_step

ROOT = Path(__file__).parents[1]
FOUND, PAGE = ROOT / "docs/tpu_programs.json", ROOT / "docs/tpu_programs.md"
CONFIG = ROOT / "configs/latents_dit_xl2_flow.py"  # whose process and averages are taken
SOURCES = (
  "benchmarks/flux_on_tpu.py",
  "benchmarks/flux_on_tpu.md",
  "configs/finetune.py",
  "configs/latents_dit_xl2_flow.py",
)

# github.com/AI-Hypercomputer/maxdiffusion at 7cfb880 (2026-08-21), FLUX.1-dev, its tokamax_flash
# and its default remat, compiled in November 2026 with the same compiler: batch 2 a chip, weights
# and both moments of AdamW in bfloat16, FSDP over all chips. Its estimate of HBM traffic is by the
# same rules as ours (plan.program), but not by the same code.
MAXDIFFUSION: dict[str, dict[str, Any]] = {
  "v5p:2x2x1": {
    "peak": 31.80, "arguments": 16.79, "temporary": 20.48,
    "all-gather": (65, 938, 46.9), "reduce-scatter": (15, 343, 22.1), "all-reduce": (7, 117, 0.03),
    "all-to-all": (17, 218, None), "forward": 4, "backward": 2, "traffic": 1240,
    "fusions": (483, 8890), "blocks": (6.7, 5.7, 13.7, 16.8), "outside": 58,
  },
  "v5p:4x4x4": {
    "peak": 14.13, "arguments": 1.25, "temporary": 15.60,
    "all-gather": (0, 0, 0.0), "reduce-scatter": (0, 0, 0.0), "all-reduce": (41, 880, 69.3),
    "all-to-all": (17, 218, None), "forward": 4, "backward": 2, "traffic": 1258,
    "fusions": (488, 8859),
  },
}  # fmt: skip

# Of the first row, GiB of HBM traffic, when rotary positions still cut heads into halves.
HALVES = 840

TEXT = {"flux": (512, 4096), "sd3": (333, 4096), "qwen_image": (1024, 3584), "flux2": (512, 15360)}
SIZES: dict[str, dict[str, Any]] = {
  "flux": {
    "width": 3072, "double_blocks": 19, "single_blocks": 38, "heads": 24, "patch": 2,
    "channels": 16, "pooled_width": 768, "rope_axes": (16, 56, 56), "guidance": 3.5,
  },
  "sd3": {
    "width": 2432, "depth": 38, "heads": 38, "patch": 2, "channels": 16, "pooled_width": 2048,
    "side": 128, "max_side": 192,
  },
  "qwen_image": {
    "width": 3072, "depth": 60, "heads": 24, "patch": 2, "channels": 16,
    "rope_axes": (16, 56, 56),
  },
  "flux2": {
    "width": 6144, "double_blocks": 8, "single_blocks": 48, "heads": 48, "hidden": 18432,
    "patch": 1, "channels": 128, "rope_axes": (32, 32, 32, 32), "guidance": 3.5,
  },
}  # fmt: skip
NAMES = {
  "flux": "FLUX.1-dev",
  "sd3": "SD3.5-large",
  "qwen_image": "Qwen-Image",
  "flux2": "FLUX.2-dev",
}


@dataclass(frozen=True)
class Row:
  """One program.

  mesh      data, fsdp, tensor
  remat     of the model's config
  float32   weights, moments and their average in float32, by the train step of `t2i train`; else
            weights and moments in bfloat16 and no average, as maxdiffusion has it
  blocks    double and single ones, where they are fewer
  """

  model: str
  topology: str
  mesh: tuple[int, int, int]
  remat: str
  rows_a_chip: int = 2
  float32: bool = False
  blocks: tuple[int, int] | None = None

  @property
  def name(self) -> str:
    blocks = "" if self.blocks is None else f" {self.blocks[0]}+{self.blocks[1]}"
    sizes = "x".join(map(str, self.mesh))
    return f"{self.model}{blocks} {self.topology} {sizes} {self.remat}"


ROWS = [
  Row("flux", "v5p:2x2x1", (1, 4, 1), "full"),
  Row("flux", "v5p:2x2x1", (1, 4, 1), "full, single=qkv"),  # what maxdiffusion keeps
  Row("flux", "v5p:2x2x1", (1, 4, 1), "attention"),
  Row("flux", "v5p:2x2x1", (1, 4, 1), "qkv"),
  Row("flux", "v5p:4x4x4", (1, 64, 1), "full, single=qkv"),
  Row("flux", "v5p:4x4x4", (1, 64, 1), "attention"),
  Row("flux", "v5p:4x4x4", (4, 16, 1), "attention"),
  Row("flux", "v5p:2x2x1", (1, 4, 1), "attention", blocks=(2, 2)),  # compiled for every page
  Row("sd3", "v5p:4x4x4", (4, 16, 1), "attention", 2, float32=True),
  Row("qwen_image", "v5p:4x4x4", (4, 16, 1), "attention", 2, float32=True),
  Row("flux2", "v5p:8x8x16", (16, 64, 1), "attention", 1, float32=True),
]


SMALL = next(row for row in ROWS if row.blocks)
WHOLE = replace(SMALL, blocks=None)
NEAR = 0.05  # how far a figure may be from what is recorded


@dataclass(frozen=True)
class Published(System):
  """A published backbone on its text's features: text encoders and autoencoder are outside."""

  text_length: int
  text_width: int
  pooled_width: int

  def rows(self, n):
    """Latents and the features of texts, as they come from a data set that holds both."""
    of = jax.ShapeDtypeStruct
    text = Tower(
      of((n, self.text_length, self.text_width), jnp.bfloat16),
      of((n, self.text_length), jnp.bool_),
      of((n, self.pooled_width), jnp.bfloat16),
    )
    one = of((n, 1), jnp.float32)
    return Batch(of((n, 1, *self.x_shape), jnp.float32), one, one, {"text": text})

  def losses(self, params, batch, draws):
    m = self.mix(self.encode(params, flat_images(batch), draws.key, draws.rows), draws)
    model, cond = self.module(params, "backbone"), Conditioning(batch.text, {})
    value = model(m.seen.astype(self.dtype), m.time.model_time, cond).value
    found = Prediction(value, "velocity", None)
    return {"image": denoising_loss(found, m.x0, m.eps, m.time, WEIGHTINGS["velocity"]())}


def published(row: Row) -> Published:
  """The system of a row at 1024 pixels."""
  sizes = dict(SIZES[row.model])
  if row.blocks is not None:
    sizes["double_blocks"], sizes["single_blocks"] = row.blocks
  model, kind = BACKBONES[row.model]
  text = TEXT[row.model][1]
  given = {"out": sizes["channels"], "text_width": text, "remat": row.remat, "attention": "splash"}
  config = kind(**sizes, **given)
  side = 128 // 2 * sizes["patch"]  # 64 x 64 patches
  return Published(
    process=PROCESSES["flow"](),
    mixing=make_mixing(load_config(CONFIG, {}).process, 4096),
    autoencoder=IdentityConfig(sizes["channels"]),
    parts={"backbone": Part(lambda rngs: model(config, rngs), config)},
    dtype=jnp.bfloat16,
    image_shape=(side, side, sizes["channels"]),
    text={},
    text_length=TEXT[row.model][0],
    text_width=text,
    pooled_width=sizes.get("pooled_width", 1),
  )


def lean_step(system: Published, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
  """training.step without what the step of maxdiffusion has not: clipping, averages, metrics."""

  def step(count, params, opt, batch):
    key = jax.random.fold_in(jax.random.key(0), count)
    rows = jnp.arange(batch.images.shape[0])
    u = jax.vmap(jax.random.uniform)(row_keys(key, rows, DRAW_T))
    t = system.process.on_grid(system.mixing.t_of(u))
    draws = Draws(t, rows, key, {}, count)
    mean = lambda params: jnp.mean(system.losses(params, batch, draws)["image"])
    loss, grads = jax.value_and_grad(mean)(params)
    updates, opt = optimizer.update(grads, opt, params)
    return count + 1, optax.apply_updates(params, updates), opt, loss

  return step


def lowered(row: Row, system: Published, mesh: Mesh) -> tuple[Any, int]:
  """The step of a row, lowered, and its number of parameters."""
  batch = abstract_batch(system, row.rows_a_chip * mesh.size, mesh)
  if row.float32:
    config = load_config(CONFIG, {"train.optimizer": "adamw"})
    optimizers = make_optimizers(config.train, system)
    state = abstract_state(system, optimizers, mesh)
    args: tuple[Any, ...] = (state, batch)
    step = jit_train_step(system, optimizers, config, mesh, state)
  else:
    optimizer = optax.adamw(1e-5)  # moments have the dtype of the weights
    state = abstract_state(system, optimizer, mesh)
    state = TrainState(*(jax.tree.map(_as_bfloat16, part) for part in state))
    args = (state.step, state.trainable, state.opt, batch)
    put = jax.tree.map(lambda leaf: leaf.sharding, args)
    step = jax.jit(
      lean_step(system, optimizer),
      donate_argnums=(0, 1, 2),
      in_shardings=put,
      out_shardings=(*put[:3], None),
    )
  with jax.set_mesh(mesh):
    return step.lower(*args), sum(leaf.size for leaf in jax.tree.leaves(state.trainable))


def _as_bfloat16(leaf: Any) -> Any:
  dtype = jnp.bfloat16 if leaf.dtype == jnp.float32 else leaf.dtype
  return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)


def measured(row: Row, hlo: Path | None = None) -> dict[str, Any]:
  """Compiles a row and reads its program; memory and bytes in GiB, for one chip."""
  mesh = make_mesh(*row.mesh, devices=topology_devices(row.topology))
  system = published(row)
  clocks = [(time.time(), time.process_time())]
  step, count = lowered(row, system, mesh)
  clocks.append((time.time(), time.process_time()))
  compiled = step.compile()
  clocks.append((time.time(), time.process_time()))
  text = compiled.as_text()
  if hlo is not None:
    (hlo / f"{re.sub('[^a-z0-9_]+', '_', row.name)}.hlo").write_text(text)
  memory, program = memory_of(compiled), Program(text)
  traffic, sent = program.traffic(), program.sent()
  return {
    "parameters": count,
    "peak": memory.peak / GIB,
    "arguments": memory.arguments / GIB,
    "temporary": memory.temporary / GIB,
    "sent": {
      kind: (found.static, found.run, found.bytes / GIB, found.in_loops)
      for kind, found in sorted(sent.items())
    },
    "forward": program.count("custom-call", "splash_mha_fwd")[0],
    "backward": program.count("custom-call", "splash_mha_d")[0],
    "traffic": traffic.bytes / GIB,
    "loops": [
      (loop.times, traffic.by_loop[loop.body] / loop.times / GIB) for loop in program.loops
    ],
    "fusions": program.count("fusion"),
    "lower": clocks[1][0] - clocks[0][0],
    "compile": clocks[2][0] - clocks[1][0],
    "compile_cpu": clocks[2][1] - clocks[1][1],
  }


def beside(found: dict[str, Any], rows: list[Row], theirs: dict[str, Any]) -> list[list[str]]:
  """Lines of a table: maxdiffusion, then a column for each row."""
  ours = [found[row.name] for row in rows]
  gib = lambda value: "" if value is None else f"{value:.2f}"
  thrice = lambda static, run, size: (
    f"{static} / {run}" + ("" if size is None else f" / {size:.1f}")
  )
  lines = [["remat", "its default", *(row.remat for row in rows)]]
  lines.append(["mesh (data x fsdp)", "fsdp", *(f"{r.mesh[0]} x {r.mesh[1]}" for r in rows)])
  for key in ("peak", "arguments", "temporary"):
    lines.append([f"{key}, GiB", gib(theirs[key]), *(gib(one[key]) for one in ours)])
  for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all"):
    sent = [tuple(one["sent"].get(kind, (0, 0, 0.0, 0)))[:3] for one in ours]
    title = f"{kind}: static / run / GiB"
    lines.append([title, thrice(*theirs[kind]), *(thrice(*of) for of in sent)])
  inside = [str(one["sent"].get("all-to-all", (0, 0, 0, 0))[3]) for one in ours]
  lines.append(["all-to-all inside the blocks, static", "some: 17 run 218 times", *inside])
  both = lambda one: f"{one['forward']} / {one['backward']}"
  lines.append(["attention kernels, static: forward / backward", both(theirs), *map(both, ours)])
  traffic = [f"{one['traffic']:.0f}" for one in ours]
  lines.append(["HBM traffic of a step, estimated, GiB", str(theirs["traffic"]), *traffic])
  if "blocks" in theirs:
    of = "of it a double, a single block forward; a single, a double one backward"
    each = lambda one: " / ".join(f"{size:.1f}" for _, size in one["loops"])
    lines.append([of, " / ".join(map(str, theirs["blocks"])), *map(each, ours)])
    left = lambda one: one["traffic"] - sum(times * size for times, size in one["loops"])
    lines.append(
      ["of it outside the blocks", f"{theirs['outside']}", *(f"{left(o):.0f}" for o in ours)]
    )
  fused = lambda one: "{} / {}".format(*one["fusions"])
  lines.append(["fusions: static / run", fused(theirs), *map(fused, ours)])
  seconds = [
    f"{one['lower']:.0f} / {one['compile']:.0f} / {one['compile_cpu']:.0f}" for one in ours
  ]
  return [*lines, ["lower / compile / CPU of compile, s", "", *seconds]]


def page(found: dict[str, Any]) -> str:
  """The page, of the rows that were compiled."""
  done = [row for row in ROWS if row.name in found]
  text = (ROOT / "benchmarks/flux_on_tpu.md").read_text()
  for topology, theirs in MAXDIFFUSION.items():
    rows = [r for r in done if (r.model, r.topology, r.blocks) == ("flux", topology, None)]
    lines = [["", "maxdiffusion", *["ours"] * len(rows)], *beside(found, rows, theirs)]
    text = text.replace(f"{{{topology}}}", table(lines[0], lines[1:]))
  titles = "model|topology, mesh|remat|images a chip|parameters|peak, GiB|arguments"
  lines = [[*titles.split("|"), "all-gather, GiB", "reduce-scatter", "all-reduce", "compile, s"]]
  for row in (row for row in done if row.float32):
    one = found[row.name]
    size = lambda kind, one=one: f"{one['sent'].get(kind, (0, 0, 0.0))[2]:.1f}"
    where = f"{row.topology}, {row.mesh[0]} x {row.mesh[1]}"
    first = [NAMES[row.model], where, row.remat, str(row.rows_a_chip)]
    memory = [f"{one['parameters'] / 1e9:.2f} G", f"{one['peak']:.2f}", f"{one['arguments']:.2f}"]
    sent = map(size, ("all-gather", "reduce-scatter", "all-reduce"))
    lines.append([*first, *memory, *sent, f"{one['compile']:.0f}"])
  text = text.replace("{models}", table(lines[0], lines[1:]))
  head, *systems = finetune_on_tpu.lines(found)
  text = text.replace("{systems}", table(head, systems))
  lines = [["blocks", "compile, s", "CPU of it, s", "peak, GiB"]]
  for row in done:
    if row.model == "flux" and row.topology == "v5p:2x2x1" and row.remat == "attention":
      one, blocks = found[row.name], row.blocks or (19, 38)
      times = [f"{one[key]:.0f}" for key in ("compile", "compile_cpu")]
      lines.append([f"{blocks[0]} + {blocks[1]}", *times, f"{one['peak']:.2f}"])
  whole = found.get(ROWS[0].name, {"traffic": math.nan})["traffic"]
  text = text.replace("{halves}", str(HALVES)).replace("{whole}", f"{whole:.0f}")
  return text.replace("{depth}", table(lines[0], lines[1:]))


def differences(small: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
  """What the program of 2 + 2 blocks does otherwise than the page says, of it and of the whole."""
  wrong = []
  # By kind, collectives in the loops over blocks: an array gathered is one, none an activation.
  blocks = lambda one: {kind: sent[3] for kind, sent in one["sent"].items() if sent[3]}
  for row in (SMALL, WHOLE):
    if blocks(small) != blocks(recorded[row.name]):
      wrong.append(
        f"collectives in the loops over blocks: {blocks(small)}, recorded of {row.name}: "
        f"{blocks(recorded[row.name])}"
      )
  if "all-to-all" in blocks(small):
    wrong.append(
      f"all-to-all in the loops over blocks: {blocks(small)['all-to-all']}, must be none"
    )
  kernels = (small["forward"], small["backward"])
  if kernels != (2, 2):  # one of each kind of block: none is run again
    wrong.append(f"attention kernels, forward and backward: {kernels}, must be (2, 2)")
  for key in ("peak", "temporary", "traffic"):
    before = recorded[SMALL.name][key]
    if abs(small[key] - before) > NEAR * before:
      wrong.append(f"{key}: {small[key]:.2f} GiB, recorded of {SMALL.name}: {before:.2f}")
  return wrong


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", help="pattern of the names of rows to compile and record")
  parser.add_argument("--hlo", type=Path, help="folder to keep the programs in")
  args = parser.parse_args()
  found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
  anew = [row for row in ROWS if args.rows and re.fullmatch(args.rows, row.name)]
  for row in anew:
    found[row.name] = measured(row, args.hlo)
    print(json.dumps({row.name: found[row.name]}), flush=True)
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
  small = found[SMALL.name] if SMALL in anew else measured(SMALL, args.hlo)
  if wrong := differences(small, found):
    sys.exit("\n".join([*wrong, "Once that is right, record all rows again: --rows='.*'."]))
  write(PAGE, page(found), made_by("python -m benchmarks.flux_on_tpu", *SOURCES))


if __name__ == "__main__":
  main()
