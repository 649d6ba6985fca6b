"""configs/transfusion_scenes.py with every choice of the joint model as a key."""

from configs import transfusion_scenes


def get_config():
  c = transfusion_scenes.get_config()
  c.name = "joint_config"
  c.model.update(kv_heads=4, tied=True, unet=0)
  c.train.balance = 5.0
  return c
