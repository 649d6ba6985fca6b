"""ComFusion [2402.11849] by adapters: a subject in scenes that are known by their texts.

  t2i personalise --workdir=runs/scenes_dit_flow --images=images --class-word=circle \
    --method=comfusion --scenes=scenes.txt --matching=runs/scenes_classifier --to=runs/fused

scenes.txt has a scene a line, "left of a blue square". The command draws images of the class in
each of them, builds the data and trains --config=configs/comfusion.py with the model after the
colon, as configs/dreambooth.py. Without --matching there is the composite stream alone.

Result: docs/personalisation_more.md: weak; of held-out scenes 17% right, 15% by DreamBooth.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import lora as parent
from t2i_jax.configs import sections

VARIANT = parent.VARIANT


def get_config(variant: str = "") -> ConfigDict:
  c = parent.get_config(variant)
  c.name = c.name.replace("lora", "comfusion", 1)
  c.train.update(steps=200, lr=2e-3, vector_lr=2e-3)
  sections.subject(c)
  c.train.objective = (
    "comfusion(prompt='a sks dog', class_prompt='a dog', scenes=('on a beach', 'in the snow'))"
  )
  return c
