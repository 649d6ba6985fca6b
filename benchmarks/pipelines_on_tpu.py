"""What whole published pipelines need of TPUs that are not here: docs/pipelines_on_tpu.md.

python -m benchmarks.pipelines_on_tpu

Folders with the published config.json of every part and no weights are opened as by `t2i sample
--from`, in bfloat16, and their three programs compiled for a slice. Needs the package libtpu and no
TPU. Nothing is allocated or run, so there is no time of a sample.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import tiny_tokenizers
from benchmarks.pages import made_by, table, write
from t2i_jax.autoencoders import Flux2KLConfig, KLConfig
from t2i_jax.inference.folder import Prepared, prepare
from t2i_jax.models import matmul_flops
from t2i_jax.models.flux import Flux2Config, FluxConfig
from t2i_jax.parallel import overridden
from t2i_jax.plan import Program, memory_of
from t2i_jax.plan.describe import GIB
from t2i_jax.plan.pod import topology_devices, total_bytes
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.spec import write_config
from t2i_jax.systems.draw import Drawing
from t2i_jax.towers import ClipConfig, T5Config

PAGE = Path(__file__).parents[1] / "docs/pipelines_on_tpu.md"
TOPOLOGY = "v6e:2x2"
# cloud.google.com/tpu/docs/v6e: bfloat16 FLOP/s, bytes/s of HBM, bytes of HBM, of a chip.
PEAK, BANDWIDTH, HBM = 918e12, 1640e9, 32e9
BATCH = 4

# A language model's config.json is read and not written here: Qwen3-4B's, as published.
QWEN3_4B = {
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936,
  "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
  "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip
DYNAMIC = {
  "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True,
}  # fmt: skip
FLUX_VAE = KLConfig(16, scale=0.3611, shift=0.1159, quant=False, post_quant=False, sample_size=1024)


class Model(NamedTuple):
  """One published model.

  index      class of the pipeline, and class by subfolder besides scheduler and tokenizers
  parts      our config, or config.json, by subfolder
  tokenizers  tiny_tokenizers.KINDS by subfolder: programs do not depend on their ids
  published  seconds of four images on this slice, and where that is said
  """

  name: str
  index: str
  parts: dict[str, Any]
  tokenizers: dict[str, str]
  steps: int
  overrides: dict[str, str]
  published: str


MODELS = (
  Model(
    "FLUX.1-dev",
    "FluxPipeline",
    {
      "transformer": FluxConfig(
        3072, 19, 38, 24, 2, 16, 16, 4096, (16, 56, 56), pooled_width=768, guidance=3.5
      ),
      "vae": FLUX_VAE,
      "text_encoder": ClipConfig(49408, 77, 768, 12, 12, 3072, eos=2),
      "text_encoder_2": T5Config(32128, 4096, 24, 64, 64, 10240),
    },
    {"tokenizer": "clip", "tokenizer_2": "t5"},
    28,
    {},
    "5.5 s (maxdiffusion's README)",
  ),
  Model(
    "FLUX.2-klein-4B",
    "Flux2KleinPipeline",
    {
      "transformer": Flux2Config(3072, 5, 20, 24, 1, 128, 128, 7680, (32, 32, 32, 32)),
      "vae": Flux2KLConfig(),
      "text_encoder": QWEN3_4B,
    },
    {"tokenizer": "qwen"},
    4,
    {"sampling.cfg": "1.0"},  # distilled
    "3.65 s (maxdiffusion's README)",
  ),
)


def folder_of(model: Model, root: Path) -> Path:
  """A folder with the model's configs and tokenizers."""
  classes: dict[str, Any] = {"_class_name": model.index}
  for name, config in model.parts.items():
    content = config
    if not isinstance(config, dict):
      spec = spec_for(config)
      content = spec.header | write_config(spec, config)
    (root / name).mkdir(parents=True)
    (root / name / "config.json").write_text(json.dumps(content))
    classes[name] = ["", content.get("_class_name") or content["architectures"][0]]
  (root / "scheduler").mkdir()
  (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(DYNAMIC))
  for name, kind in model.tokenizers.items():
    tiny_tokenizers.KINDS[kind](root / name)
    classes[name] = ["", kind]
  classes["scheduler"] = ["", DYNAMIC["_class_name"]]
  (root / "model_index.json").write_text(json.dumps(classes))
  return root


def flops(made: Prepared) -> dict[str, float]:
  """FLOPs of a chip in each program of a batch, by the traced program."""
  system, drawing = made.system, Drawing(made.system, made.config.sampling, made.mesh)
  of = jax.ShapeDtypeStruct
  tokens = {
    name: (of((BATCH, text.length), jnp.int32), of((BATCH, text.length), jnp.bool_))
    for name, text in system.text.items()
  }
  cond = jax.eval_shape(system.encode_text, made.abstract, tokens)
  x0 = of((BATCH, *system.x_shape), jnp.float32)
  time = system.process.at(jnp.float32(0.5))
  calls = 2 if made.config.sampling.cfg != 1 else 1
  steps = len(drawing.times.t) - 1
  once = lambda run, *args: matmul_flops(run, *args) / made.mesh.size
  network = lambda p, x, c: system.denoise(p, x, time, c).value
  return {
    "encoders": once(system.encode_text, made.abstract, tokens),
    "sampler": calls * steps * once(network, made.abstract, x0, cond),
    "decoder": once(system.decode, made.abstract, x0),
  }


def rows_of(model: Model) -> list[list[str]]:
  """A row a program."""
  devices = topology_devices(TOPOLOGY)
  settings = {"mesh.data": "1", "mesh.fsdp": "4", "sampling.batch": str(BATCH)}
  settings |= {"sampling.steps": str(model.steps), "model.attention": "splash"} | model.overrides
  with tempfile.TemporaryDirectory() as temporary:
    folder = folder_of(model, Path(temporary))
    made = prepare(folder, settings, (1024, 1024), "bfloat16", devices=devices)
    with overridden(made.config.mesh.rules):
      lowered = Drawing(made.system, made.config.sampling, made.mesh).lower(made.abstract)
      work = flops(made)
  weights = total_bytes(made.abstract, a_device=True)
  rows = []
  for name, program in lowered.items():
    began = time.process_time()
    compiled = program.compile()
    seconds = time.process_time() - began
    memory, text = memory_of(compiled), Program(compiled.as_text())
    sent = text.sent()
    gathered = ", ".join(f"{kind} {one.bytes / GIB:.1f}" for kind, one in sent.items() if one.run)
    traffic = text.traffic().bytes
    rows.append([
      model.name, name, f"{memory.arguments / GIB:.2f}", f"{memory.peak / GIB:.2f}",
      gathered or "none", f"{work[name] / 1e12:.1f}", f"{1e3 * work[name] / PEAK:.0f}",
      f"{traffic / GIB:.0f}", f"{1e3 * traffic / BANDWIDTH:.0f}", f"{seconds:.0f}",
    ])  # fmt: skip
    print(rows[-1], flush=True)
  print(f"{model.name}: all weights {weights / GIB:.2f} GiB a chip of {HBM / GIB:.1f}", flush=True)
  rows[0][1] += f"; all weights {weights / GIB:.2f} GiB"
  return rows


HEAD = [
  "model", "program", "arguments, GiB", "peak, GiB", "collectives, GiB", "TFLOP",
  "at peak, ms", "HBM traffic, GiB", "at bandwidth, ms", "compile, s of CPU",
]  # fmt: skip
TEXT = """\
# Whole pipelines on a TPU slice that is not there

The three programs of `t2i sample --from=FOLDER`, for 1024 x 1024 pixels and {batch} images at once
on {topology} (4 chips, fsdp 4), weights and activations in bfloat16, compiled from the published
config.json files; figures are of one chip and of the whole batch. FLUX.1-dev: 28 steps, one network
call a step (embedded guidance 3.5); FLUX.2-klein-4B: 4 steps without guidance. A v6e chip has
{hbm:.1f} GiB of HBM, {peak:.0f} TFLOP/s in bfloat16 and {bandwidth:.0f} GB/s.

{table}

"At peak" and "at bandwidth" are lower bounds of the time, not measurements: matmul, attention and
convolution FLOPs over the peak rate, and estimated HBM traffic (docs/tpu_programs.md says by which
rules) over the bandwidth. Published seconds of the same on this slice: {published}.
"""


def main() -> None:
  rows = [row for model in MODELS for row in rows_of(model)]
  published = "; ".join(f"{model.name} {model.published}" for model in MODELS)
  text = TEXT.format(
    batch=BATCH, topology=TOPOLOGY, hbm=HBM / GIB, peak=PEAK / 1e12, bandwidth=BANDWIDTH / 1e9,
    table=table(HEAD, rows), published=published,
  )  # fmt: skip
  write(
    PAGE, text, made_by("python -m benchmarks.pipelines_on_tpu", "benchmarks/pipelines_on_tpu.py")
  )


if __name__ == "__main__":
  main()
