"""The keys that config.json of DiT and of PixArt share."""

from typing import Any

# Their default values.
SIZES = {
  "num_attention_heads": 16,
  "attention_head_dim": 72,
  "in_channels": 4,
  "num_layers": 28,
  "patch_size": 2,
}
# Keys of which only this value is supported.
FIXED = {
  "dropout": 0.0,
  "attention_bias": True,
  "activation_fn": "gelu-approximate",
  "norm_elementwise_affine": False,
}


def read_sizes(k: dict[str, Any]) -> dict[str, Any]:
  """The fields of our configs that SIZES and out_channels decide."""
  return {
    "width": k["num_attention_heads"] * k["attention_head_dim"],
    "depth": k["num_layers"],
    "heads": k["num_attention_heads"],
    "patch": k["patch_size"],
    "channels": k["in_channels"],
    "out": k["in_channels"] if k["out_channels"] is None else k["out_channels"],
  }


def write_sizes(c: Any) -> dict[str, Any]:
  """The inverse of `read_sizes`."""
  return {
    "num_attention_heads": c.heads,
    "attention_head_dim": c.width // c.heads,
    "num_layers": c.depth,
    "patch_size": c.patch,
    "in_channels": c.channels,
    "out_channels": c.out,
  }
