"""Text encoders: captions as token ids in, towers of a Conditioning out."""

from t2i_jax.towers.text import TextTower, TextTowerConfig, tower_flops

__all__ = ["TextTower", "TextTowerConfig", "tower_flops"]
