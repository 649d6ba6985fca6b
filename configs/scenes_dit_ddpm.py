"""The quickstart's model as a DDPM: noise prediction on the cosine schedule, sampled by DDIM.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_dit_ddpm.py --workdir=runs/scenes_dit_ddpm

Result: not yet run.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "scenes_dit_ddpm"
  # Cosine: [2102.09672 eq. 17]; eps prediction with its plain squared error: [2006.11239 eq. 14].
  c.process.update(kind="ddpm_cosine", prediction="eps", loss_space="eps", timesteps="uniform")
  c.sampling.solver = "ddim"
  return c
