"""DomainGallery [2411.04571] by adapters: what ten images have in common, without their noun.

  t2i personalise --workdir=runs/scenes_dit_flow --images=images --class-word=circle \
    --method=domain_gallery --word=ki --to=runs/domain
  t2i sample --workdir=runs/domain --prompt="a ki square" --guidance="enhance(word='ki')" --cfg=1.5

The command draws images of the class, builds the data and trains --config=configs/domain_gallery.py
with the model after the colon, as configs/dreambooth.py. The first 40 steps erase what the word
means (--erase-steps); --weight=similarity=0 leaves a term out.

Result: docs/personalisation_more.md: 11% of circles in the rendering, 42% without its terms.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import lora as parent
from t2i_jax.configs import sections

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("lora", "domain_gallery", 1)
  c.train.update(steps=240, lr=2e-3, vector_lr=2e-3)
  sections.subject(c)
  c.train.objective = "domain_gallery(prompt='a sks face', class_prompt='a face', erase_steps=40)"
  return c
