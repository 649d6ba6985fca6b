"""Names of the encoder and the decoder that published autoencoders share (autoencoders.coder)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from t2i_jax.autoencoders.coder import CoderConfig
from t2i_jax.pretrained.names import Entry, Linear, Part, Rows, dense, gain, matrix, vector
from t2i_jax.pretrained.spec import refuse

# Attention of folders from before 2023, as diffusers renames it on loading.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Layer(Protocol):
  """Our path and a published name, of the layer {first} of a stack -> entries."""

  def __call__(self, path: str, name: str, first: int = 0) -> list[Entry]: ...


def conv(path: str, name: str, first: int = 0) -> list[Entry]:
  """models.convolution.Conv."""
  return dense(path, name, "o i h w -> h w i o", first=first)


def pointwise(path: str, name: str, first: int = 0) -> list[Entry]:
  """models.convolution.pointwise, published as a convolution."""
  return dense(path, name, "o i 1 1 -> i o", first=first)


def group_norm(path: str, name: str, first: int = 0) -> list[Entry]:
  """models.convolution.GroupNorm."""
  return [
    *gain(f"{path}/gain", f"{name}.weight", first=first),
    *gain(f"{path}/bias", f"{name}.bias", first=first),
  ]


def qkv(path: str, names: tuple[Linear, ...], kernel: str, first: int = 0) -> list[Entry]:
  """q, k and v, which are one matrix here;   kernel: pattern of each to a slot"""
  kernels = [matrix(one, kernel, (1, i, i + 1)) for i, one in enumerate(names)]
  rows = [vector(one, "o -> 1 o", (0, i, i + 1)) for i, one in enumerate(names)]
  return [
    Entry(f"{path}/kernel", tuple(kernels), first),
    Entry(f"{path}/bias", tuple(rows), first),
  ]


def attention(path: str, name: str, first: int = 0) -> list[Entry]:
  """autoencoders.layers.Attention."""
  q, k, v = (f"{name}.to_{which}" for which in "qkv")
  return [
    *group_norm(f"{path}/norm", f"{name}.group_norm", first),
    *qkv(f"{path}/qkv", (q, k, v), "o i -> i 1 o", first),
    *dense(f"{path}/out", f"{name}.to_out.0", first=first),
  ]


class Blocks(NamedTuple):
  """Names of the blocks of a level of the encoder.

  res, attention  with {i} for the block
  first           the {i} of the first one
  sample          the convolution that halves the size after them
  """

  res: str
  attention: str
  first: int
  sample: str


def _blocks(level: int, layers: int) -> Blocks:
  name = f"encoder.down_blocks.{level}"
  return Blocks(
    f"{name}.resnets.{{i}}", f"{name}.attentions.{{i}}", 0, f"{name}.downsamplers.0.conv"
  )


class Layout(NamedTuple):
  """How a class names and stores layers.

  conv, pointwise  of residual blocks and the ends
  norm_out         the norm before the last convolution
  blocks           (level, layers) -> those of the encoder
  double           the convolution after upsampling, in a level of the decoder
  """

  norm: Layer = group_norm
  conv: Layer = conv
  pointwise: Layer = pointwise
  attention: Layer = attention
  norm_out: str = "conv_norm_out"
  blocks: Callable[[int, int], Blocks] = _blocks
  double: str = "upsamplers.0.conv"


def res(layout: Layout, path: str, name: str, widens: bool, first: int = 0) -> list[Entry]:
  """models.convolution.ResBlock without a time."""
  found = []
  for n in (1, 2):
    found += layout.norm(f"{path}/norm{n}", f"{name}.norm{n}", first)
    found += layout.conv(f"{path}/conv{n}", f"{name}.conv{n}", first)
  return found + (
    layout.pointwise(f"{path}/skip", f"{name}.conv_shortcut", first) if widens else []
  )


def _level(
  layout: Layout, path: str, blocks: Blocks, widens: bool, count: int, attends: bool
) -> list[Entry]:
  one = blocks.res.format(i=blocks.first)
  found = res(layout, f"{path}/first/res", one, widens)
  if attends:
    one = blocks.attention.format(i=blocks.first)
    found += layout.attention(f"{path}/first/attention", one)
  if count > 1:
    found += res(layout, f"{path}/rest/res", blocks.res, False, blocks.first + 1)
    if attends:
      found += layout.attention(f"{path}/rest/attention", blocks.attention, blocks.first + 1)
  return found


def _ends(c: CoderConfig, path: str, layout: Layout) -> list[Entry]:
  """All but the levels."""
  found = layout.conv(f"{path}/conv_in", f"{path}.conv_in")
  found += layout.conv(f"{path}/conv_out", f"{path}.conv_out")
  found += layout.norm(f"{path}/norm_out", f"{path}.{layout.norm_out}")
  mid = f"{path}.mid_block"
  found += res(layout, f"{path}/middle/first/res", f"{mid}.resnets.0", False)
  found += res(layout, f"{path}/middle/last", f"{mid}.resnets.1", False)
  if c.mid_attention:
    found += layout.attention(f"{path}/middle/first/attention", f"{mid}.attentions.0")
  return found


def encoder(c: CoderConfig, layout: Layout | None = None) -> list[Entry]:
  """autoencoders.coder.Encoder at the path "encoder"."""
  layout = layout or Layout()
  found, width = _ends(c, "encoder", layout), c.widths[0]
  for i, out in enumerate(c.widths):
    path, blocks = f"encoder/level_{i}", layout.blocks(i, c.layers)
    found += _level(layout, path, blocks, width != out, c.layers, i in c.attends)
    if i < len(c.widths) - 1:
      found += conv(f"{path}/conv", blocks.sample)
    width = out
  return found


def decoder(c: CoderConfig, layout: Layout | None = None) -> list[Entry]:
  """autoencoders.coder.Decoder at the path "decoder"."""
  layout = layout or Layout()
  found, width = _ends(c, "decoder", layout), c.widths[-1]
  for i, level in enumerate(reversed(range(len(c.widths)))):
    path, name, out = f"decoder/level_{i}", f"decoder.up_blocks.{i}", c.widths[level]
    blocks = Blocks(f"{name}.resnets.{{i}}", f"{name}.attentions.{{i}}", 0, "")
    found += _level(layout, path, blocks, width != out, c.layers + 1, level in c.attends)
    if level:
      found += conv(f"{path}/conv", f"{name}.{layout.double}")
    width = out // 2 if c.halves else out
  return found


# Of a kernel [o, i, time, h, w] only the last slice in time acts on a single frame: what it is
# multiplied with before that are zeros.
LAST = (2, 2, 3)


def frame_conv(path: str, name: str, first: int = 0) -> list[Entry]:
  """models.convolution.Conv, of a causal 3 x 3 x 3 convolution."""
  kernel = Part(f"{name}.weight", "o i 1 h w -> h w i o", source=LAST)
  return [
    Entry(f"{path}/kernel", (kernel,), first),
    Entry(f"{path}/bias", (vector(name, "o -> o"),), first),
  ]


def frame_pointwise(path: str, name: str, first: int = 0) -> list[Entry]:
  """models.convolution.pointwise, of a 1 x 1 x 1 convolution."""
  return dense(path, name, "o i 1 1 1 -> i o", first=first)


def rms_norm(path: str, name: str, first: int = 0) -> list[Entry]:
  """autoencoders.layers.RMSNorm, over frames."""
  return [Entry(f"{path}/gain", (Part(f"{name}.gamma", "k 1 1 1 -> k"),), first)]


def frame_attention(width: int) -> Layer:
  """autoencoders.layers.Attention, whose q, k and v are published as one 1 x 1 convolution."""

  def entries(path: str, name: str, first: int = 0) -> list[Entry]:
    rows = tuple(Rows(f"{name}.to_qkv", i * width, (i + 1) * width) for i in range(3))
    return [
      Entry(f"{path}/norm/gain", (Part(f"{name}.norm.gamma", "k 1 1 -> k"),), first),
      *qkv(f"{path}/qkv", rows, "o i 1 1 -> i 1 o", first),
      *pointwise(f"{path}/out", f"{name}.proj", first),
    ]

  return entries


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


DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ATTENDS_DOWN, ATTENDS_UP = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"


def read_levels(k: dict[str, Any]) -> tuple[int, ...]:
  """The levels with attention, from keys down_block_types, up_block_types, block_out_channels.

  Raises RestoreError for other classes, or where the two are not the reverse of each other.
  """
  down, up, widths = k["down_block_types"], k["up_block_types"], k["block_out_channels"]
  if not len(down) == len(up) == len(widths):
    raise refuse(
      f"{len(down)} down_block_types, {len(up)} up_block_types and {len(widths)} "
      "block_out_channels, whose numbers must be equal"
    )
  known = {"down_block_types": (DOWN, ATTENDS_DOWN), "up_block_types": (UP, ATTENDS_UP)}
  for key, names in known.items():
    other = [one for one in k[key] if one not in names]
    if other:
      raise refuse(f"{key} with {other[0]!r}, of which only {' and '.join(names)} are supported")
  attends = tuple(i for i, one in enumerate(down) if one == ATTENDS_DOWN)
  if attends != tuple(i for i, one in enumerate(reversed(up)) if one == ATTENDS_UP):
    raise refuse(f"up_block_types = {up!r}, which must be those of {down!r} reversed")
  return attends


def write_levels(c: CoderConfig) -> dict[str, Any]:
  """The inverse."""
  levels = range(len(c.widths))
  return {
    "down_block_types": [ATTENDS_DOWN if i in c.attends else DOWN for i in levels],
    "up_block_types": [ATTENDS_UP if i in c.attends else UP for i in reversed(levels)],
    "block_out_channels": list(c.widths),
    "layers_per_block": c.layers,
    "mid_block_add_attention": c.mid_attention,
  }
