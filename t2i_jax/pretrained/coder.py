"""Names of the encoder and the decoder that published autoencoders share (autoencoders.coder)."""

from typing import Any

from t2i_jax.autoencoders.coder import CoderConfig
from t2i_jax.pretrained.names import Entry, Part, dense, gain
from t2i_jax.pretrained.spec import refuse

# Attention of folders from before 2023, as diffusers renames it on loading.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def group_norm(path: str, name: str, first: int = 0) -> list[Entry]:
  """autoencoders.layers.GroupNorm."""
  return [
    *gain(f"{path}/gain", f"{name}.weight", first=first),
    *gain(f"{path}/bias", f"{name}.bias", first=first),
  ]


def conv(path: str, name: str, first: int = 0) -> list[Entry]:
  """autoencoders.layers.Conv."""
  return dense(path, name, "o i h w -> h w i o", first=first)


def pointwise(path: str, name: str, first: int = 0) -> list[Entry]:
  """autoencoders.layers.pointwise, published as a convolution."""
  return dense(path, name, "o i 1 1 -> i o", first=first)


def _res(path: str, name: str, widens: bool, first: int = 0) -> list[Entry]:
  found = []
  for n in (1, 2):
    found += group_norm(f"{path}/norm{n}", f"{name}.norm{n}", first)
    found += conv(f"{path}/conv{n}", f"{name}.conv{n}", first)
  return found + (pointwise(f"{path}/skip", f"{name}.conv_shortcut", first) if widens else [])


def _attention(path: str, name: str, first: int = 0) -> list[Entry]:
  """Of published q, k and v, which are one matrix here."""
  names = [f"{name}.to_{which}" for which in "qkv"]
  kernels = tuple(
    Part(f"{one}.weight", "o i -> i 1 o", target=(1, i, i + 1)) for i, one in enumerate(names)
  )
  rows = tuple(Part(f"{one}.bias", "o -> 1 o", target=(0, i, i + 1)) for i, one in enumerate(names))
  return [
    *group_norm(f"{path}/norm", f"{name}.group_norm", first),
    Entry(f"{path}/qkv/kernel", kernels, first),
    Entry(f"{path}/qkv/bias", rows, first),
    *dense(f"{path}/out", f"{name}.to_out.0", first=first),
  ]


def _level(path: str, name: str, inputs: int, width: int, count: int, attends: bool) -> list[Entry]:
  found = _res(f"{path}/first/res", f"{name}.resnets.0", inputs != width)
  if attends:
    found += _attention(f"{path}/first/attention", f"{name}.attentions.0")
  if count > 1:
    found += _res(f"{path}/rest/res", f"{name}.resnets.{{i}}", False, 1)
    if attends:
      found += _attention(f"{path}/rest/attention", f"{name}.attentions.{{i}}", 1)
  return found


def _ends(c: CoderConfig, path: str) -> list[Entry]:
  """All but the levels."""
  found = conv(f"{path}/conv_in", f"{path}.conv_in") + conv(f"{path}/conv_out", f"{path}.conv_out")
  found += group_norm(f"{path}/norm_out", f"{path}.conv_norm_out")
  mid = f"{path}.mid_block"
  found += _res(f"{path}/middle/first/res", f"{mid}.resnets.0", False)
  found += _res(f"{path}/middle/last", f"{mid}.resnets.1", False)
  if c.mid_attention:
    found += _attention(f"{path}/middle/first/attention", f"{mid}.attentions.0")
  return found


def encoder(c: CoderConfig) -> list[Entry]:
  """autoencoders.coder.Encoder at the path "encoder"."""
  found, width = _ends(c, "encoder"), c.widths[0]
  for i, out in enumerate(c.widths):
    path, name = f"encoder/level_{i}", f"encoder.down_blocks.{i}"
    found += _level(path, name, width, out, c.layers, i in c.attends)
    if i < len(c.widths) - 1:
      found += conv(f"{path}/conv", f"{name}.downsamplers.0.conv")
    width = out
  return found


def decoder(c: CoderConfig) -> list[Entry]:
  """autoencoders.coder.Decoder at the path "decoder"."""
  found, width = _ends(c, "decoder"), c.widths[-1]
  for i, level in enumerate(reversed(range(len(c.widths)))):
    path, name, out = f"decoder/level_{i}", f"decoder.up_blocks.{i}", c.widths[level]
    found += _level(path, name, width, out, c.layers + 1, level in c.attends)
    if level:
      found += conv(f"{path}/conv", f"{name}.upsamplers.0.conv")
    width = out
  return found


def new_name(name: str) -> str:
  """The name of a tensor of an older folder today."""
  *before, last, kind = name.split(".")
  if len(before) > 1 and before[-2] == "attentions" and last in OLD_ATTENTION:
    return ".".join((*before, OLD_ATTENTION[last], kind))
  return name


def is_attention_matrix(name: str) -> bool:
  """Whether it is one of the matrices that the originals have as 1 x 1 convolutions."""
  return ".attentions." in name and name.endswith(
    tuple(f".{one}.weight" for one in OLD_ATTENTION.values())
  )


def block_types(
  k: dict[str, Any], allowed: tuple[str, ...], names: tuple[str, str]
) -> tuple[int, ...]:
  """The levels with attention, from keys down_block_types and up_block_types.

  allowed  classes of a level of the encoder, without and with attention
  names    those of the decoder
  Raises RestoreError for other classes, or where the two are not the reverse of each other.
  """
  down, up, widths = k["down_block_types"], k["up_block_types"], k["block_out_channels"]
  if not len(down) == len(up) == len(widths):
    raise refuse(
      f"{len(down)} down_block_types, {len(up)} up_block_types and {len(widths)} "
      "block_out_channels, of which there must be as many"
    )
  for key, types, of in (("down_block_types", down, allowed), ("up_block_types", up, names)):
    other = [one for one in types if one not in of]
    if other:
      raise refuse(f"{key} with {other[0]!r}, of which only {' and '.join(of)} are supported")
  attends = tuple(i for i, one in enumerate(down) if one == allowed[-1] and len(allowed) > 1)
  mirrored = tuple(i for i, one in enumerate(reversed(up)) if one == names[-1] and len(names) > 1)
  if attends != mirrored:
    raise refuse(f"attention in levels {attends} of the encoder and {mirrored} of the decoder")
  return attends
