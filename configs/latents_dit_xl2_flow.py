"""A pod's config: a DiT-XL/2 [2212.09748 table 1] on 32 x 32 x 4 latents, text by cross-attention.

Latents are encoded beforehand: tars of KEY.npy (float [32, 32, 4], about unit variance) beside
KEY.txt. 256 chips, 8 latents a chip; launch/ has scripts for Slurm, GKE and TPU VMs.

  t2i data build --from webdataset --path 'latents/*.tar' --vocab 32768 --to runs/data/latents
  python -m t2i_jax.training.pod --config=configs/latents_dit_xl2_flow.py --topology=v5p:8x8x4
  t2i train --config=configs/latents_dit_xl2_flow.py --workdir=/mnt/runs/latents_dit_xl2_flow

Memory a chip and collectives, compiled for v5e and v5p: docs/pod.md.
Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "latents_dit_xl2_flow"
  c.data.dir = "runs/data/latents"
  c.data.workers = 8
  c.text.update(vocab=32768, length=256)
  c.text.tower = "transformer(width=768, depth=12, heads=12)"
  c.model.update(channels=4, patch=2, width=1152, depth=28, heads=16)
  c.model.update(dtype="bfloat16", remat="none")
  # [2403.03206 sec. 3.1]
  c.process.update(prediction="velocity", weighting="velocity", timesteps="logit_normal")
  # Optimiser and average as [2212.09748 sec. 4]; the batch is 8 times theirs.
  c.train.update(steps=400_000, batch=2048, optimizer="adamw", lr=1e-4, vector_lr=1e-4)
  c.train.update(schedule="constant(warmup=5000)", ema=0.9999)
  c.mesh.update(data=16, fsdp=16)
  c.log.every = 100
  c.eval.update(every=5000, rows=8192)
  c.checkpoint.update(every=5000, keep=3)
  c.sampling.update(every=10_000, steps=50, cfg=4.0, batch=256)
  c.sampling.prompts = (
    "a red bicycle leaning on a white wall",
    "three green apples on a wooden table",
    "a lighthouse on a cliff at sunset, oil painting",
    "a street in the rain, seen from above",
  )
  c.score.level = ""
  return c
