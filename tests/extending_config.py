"""The quickstart's config around the backbone of docs/extending.md."""

from t2i_jax.configs import scenes_dit_flow


def get_config():
  c = scenes_dit_flow.get_config()
  c.name = "extending_config"
  c.model = {
    "kind": "mixer",
    "channels": 3,
    "patch": 4,
    "width": 32,
    "depth": 2,
    "side": 8,
    "dtype": "float32",
  }
  c.parts = {"backbone": {}, "text": {}, "vae": {}}
  return c
