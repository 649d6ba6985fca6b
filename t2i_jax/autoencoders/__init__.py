"""Between pictures and what is diffused. Every autoencoder has encode, decode, channels, factor.

encode(image [B, H, W, 3] in [-1, 1]) -> x0 [B, H / factor, W / factor, channels]
decode(x0) -> image [B, H, W, 3] in [-1, 1]
"""

from t2i_jax.autoencoders.identity import Identity

__all__ = ["Identity"]
