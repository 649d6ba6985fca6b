"""configs/transfusion_scenes.py with every choice of the joint model as a key, at its default."""

from t2i_jax.configs import transfusion_scenes
from t2i_jax.data.documents import Packed


def get_config():
  c = transfusion_scenes.get_config()
  c.name = "joint_config"
  c.rows = Packed()._asdict()
  c.model.update(kv_heads=4, tied=True, unet=0, absolute=False)
  c.train.balance = 5.0
  return c
