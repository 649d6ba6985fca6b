"""A pod's config: a DiT-XL/2 [2212.09748 table 1] on 32 x 32 x 4 latents, text by cross-attention.

Latents are encoded beforehand: tars of KEY.npy (float [32, 32, 4], about unit variance) beside
KEY.txt. 256 chips, 8 latents a chip; launch/ has scripts for Slurm, GKE and TPU VMs.

  t2i data build --from webdataset --path 'latents/*.tar' --vocab 32768 --to runs/data/latents
  t2i plan --config=configs/latents_dit_xl2_flow.py --topology=v5p:8x8x4
  t2i train --config=configs/latents_dit_xl2_flow.py --workdir=/mnt/runs/latents_dit_xl2_flow

Memory a chip and collectives, compiled for v5e and v5p: docs/pod.md.
Result: not yet run.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import sections


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.name = "latents_dit_xl2_flow"
  c.data = {"dir": "runs/data/latents", "image_size": (32, 32), "workers": 8}
  c.text = sections.text(32768, 256, "transformer(width=768, depth=12, heads=12)")
  c.parts = sections.parts("backbone", "text")
  c.model = sections.latent_model("dit", width=1152, depth=28, heads=16, text="cross")
  c.process = {
    "kind": "flow",
    # [2403.03206 sec. 3.1]
    "prediction": "velocity",
    "weighting": "velocity",
    "timesteps": "logit_normal",
  }
  c.train = {
    "steps": 400_000,
    # 8 times the batch of [2212.09748 sec. 4]
    "batch": 2048,
    **sections.adamw(1e-4, "constant(warmup=5000)"),
    "caption_dropout": {"text": 0.1},
  }
  c.mesh = {"data": 16, "fsdp": 16}
  c.log = {"every": 100}
  c.update(sections.periods(every=5000, rows=8192, keep=3))
  c.sampling = {
    "every": 10_000,
    "solver": "euler",
    "grid": "trailing",
    "steps": 50,
    "guidance": "cfg",
    "cfg": 4.0,
    "batch": 256,
    "prompts": (
      "a red bicycle leaning on a white wall",
      "three green apples on a wooden table",
      "a lighthouse on a cliff at sunset, oil painting",
      "a street in the rain, seen from above",
    ),
  }
  c.score = {"level": ""}
  return c
