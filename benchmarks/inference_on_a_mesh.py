"""Sampling what no chip can hold: docs/inference_on_a_mesh.md.

    python -m benchmarks.inference_on_a_mesh

FLUX.1-dev at full width, cut to 1 + 2 blocks, is sampled on eight virtual devices over fsdp; the
whole model's sampler is compiled for TPUs that are not here. A weight that the rules shard and that
does not lie in equal parts ends it. Needs the package libtpu and no TPU.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pages import DOCS, run_of, table, write
from t2i_jax.config import load_config
from t2i_jax.parallel import make_mesh
from t2i_jax.parallel import shardings as shardings_of
from t2i_jax.plan import memory_of
from t2i_jax.plan.describe import GIB, system_of
from t2i_jax.plan.pod import compile_sampler, topology_devices, total_bytes
from t2i_jax.systems.draw import Drawing
from t2i_jax.training.state import abstract_params

CONFIG = "configs/flux1.py:dev"
CUT = {
  "model.double_blocks": "1", "model.single_blocks": "2", "data.image_size": "(16, 16)",
  "text.tokenizer": "bytes", "text.length": "16", "sampling.steps": "2", "sampling.batch": "8",
}  # fmt: skip
TOPOLOGY, CHIPS = "v5p:2x2x1", 4
WHOLE = {"model.attention": "splash", "mesh.data": "1", "mesh.fsdp": "4", "sampling.batch": "4"}


def shares(params: Any, mesh: jax.sharding.Mesh, axes: Any) -> list[tuple[str, int, int]]:
  """Path, bytes and parts of every weight; ends where a device holds another share."""
  specs = jax.tree.leaves(shardings_of(axes, mesh))
  found = []
  for (path, leaf), sharding in zip(jax.tree.leaves_with_path(params), specs, strict=True):
    parts = leaf.size // int(np.prod(sharding.shard_shape(leaf.shape)))
    held = {shard.data.nbytes for shard in leaf.addressable_shards}
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if held != {leaf.nbytes // parts}:
      raise SystemExit(f"{name}: {leaf.nbytes} bytes in {parts} parts, but devices hold {held}")
    found.append((name, leaf.nbytes, parts))
  return found


def as_bfloat16(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)


def random_shards(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Normal numbers of deviation 0.02, a shard at a time: eight devices share this host's memory."""
  rng = np.random.default_rng(0)

  def shard(index: tuple[slice, ...]) -> np.ndarray:
    sizes = [len(range(*at.indices(n))) for at, n in zip(index, leaf.shape, strict=True)]
    return (0.02 * rng.standard_normal(sizes, np.float32)).astype(leaf.dtype)

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, shard)


def sampled() -> dict[str, Any]:
  """The cut model, sampled over eight devices."""
  config, mesh = load_config(CONFIG, CUT), make_mesh(1, 8)
  system = system_of(config)
  abstract = jax.tree.map(as_bfloat16, abstract_params(system, mesh))
  params = jax.tree.map(random_shards, abstract)
  drawing = Drawing(system, config.sampling, mesh)
  latents = drawing.draw(params, ["a red circle"], [0])
  if not np.isfinite(latents).all():
    raise SystemExit("the sampled latents are not finite")
  held = shares(params, mesh, system.axes)
  memory = memory_of(drawing.lower(abstract).compile())
  return {
    "count": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "bytes": total_bytes(abstract),
    "sharded": sum(size for _, size, parts in held if parts > 1),
    "whole": [(name, size) for name, size, parts in held if parts == 1],
    "parts": {parts for _, _, parts in held} - {1},
    "arguments": memory.arguments,
    "shape": latents.shape[1:],
  }


def compiled() -> dict[str, Any]:
  """The whole model's sampler, compiled for a slice."""
  config = load_config(CONFIG, WHOLE)
  mesh = make_mesh(1, CHIPS, devices=topology_devices(TOPOLOGY))
  program, params = compile_sampler(config, mesh)
  memory = memory_of(program)
  return {
    "count": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "bytes": total_bytes(params),
    "a_chip": total_bytes(params, a_device=True),
    "arguments": memory.arguments,
    "peak": memory.peak,
    "steps": config.sampling.steps,
  }


def main() -> None:
  cut = sampled()
  whole = compiled()
  if cut["parts"] != {8}:
    raise SystemExit(f"weights lie in {cut['parts']} parts, not 8")
  largest = max(cut["whole"], key=lambda pair: pair[1])
  gib = lambda size: f"{size / GIB:.3f}"
  rows = [
    ("model", "1 + 2 blocks, full width", "19 + 38 blocks"),
    ("devices, over fsdp", "8 virtual CPU devices, sampled", f"{TOPOLOGY}, compiled"),
    ("parameters", f"{cut['count']:,}", f"{whole['count']:,}"),
    ("weights, GiB", gib(cut["bytes"]), gib(whole["bytes"])),
    ("arguments of a device, GiB", gib(cut["arguments"]), gib(whole["arguments"])),
    ("the same, of all weights", f"1 / {cut['bytes'] / cut['arguments']:.2f}",
     f"1 / {whole['bytes'] / whole['arguments']:.2f}"),
    ("peak of a device, GiB", "not measured", gib(whole["peak"])),
  ]  # fmt: skip
  text = f"""# Sampling on a mesh

Parameters are read or created as shards and stay so while sampling: a layer's weights are gathered
when it runs. Made by `python -m benchmarks.inference_on_a_mesh`; random weights, of the cut model
in bfloat16 (eight devices share one host's memory), of the whole one in float32, each with the
config's own small text encoder.

{table(("", "FLUX.1, cut", "FLUX.1-dev"), rows)}

Of the cut model every weight that the rules shard lies in 8 equal parts ({gib(cut["sharded"])} of
{gib(cut["bytes"])} GiB); {len(cut["whole"])} small ones are whole on every device, the largest of
them {largest[0]} with {largest[1] / 1e6:.2f} MB. It was sampled in 2 steps, latents of
{" x ".join(map(str, cut["shape"]))}, all finite. The whole model's sampler has {whole["steps"]}
steps at 1024 pixels, 4 images a batch.
"""
  write(DOCS / "inference_on_a_mesh.md", text, run_of("python -m benchmarks.inference_on_a_mesh"))
  print(text)


if __name__ == "__main__":
  main()
