"""The config of a published model: sizes, scheduler, and how it is sampled, of its folder alone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from t2i_jax.config import fill
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models import BACKBONES
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import CONTROLNET, INDEX, Index, read_index
from t2i_jax.pretrained.scheduler import How, read_scheduler
from t2i_jax.pretrained.scheduler_keys import call, training_shift
from t2i_jax.systems.make import WIDTHS
from t2i_jax.towers import ClipConfig
from t2i_jax.towers.published import CLIP_LENGTH, PUBLISHED, TextPart, tokenizer_of


def folder_config(
  folder: str | Path,
  size: tuple[int, int] | None = None,
  too_long: str = "truncate",
  controlnets: Sequence[str | Path] | None = (),
) -> ConfigDict:
  """The config of a published model: its sizes and scheduler, and the settings it is sampled with.

  folder    with model_index.json
  size      height and width in pixels, by default those that the model was made for
  too_long  of prompts for an encoder, "truncate" or "error"; for windows of CLIP see in_windows
  controlnets  folders of ControlNets besides those of the model; None: without these, too
  Raises RestoreError for a folder that is damaged, or of a class or with a flag that has no equal
  here; ConfigError for a size that it cannot draw.
  """
  index = read_index(folder)
  published, root = index.published, index.folder
  backbone, vae = (open_folder(root / name)[1] for name in (published.backbone, "vae"))
  if size is None:
    side = vae.factor * getattr(backbone, "side", published.latents)
    size = (side, side)
  tokens = _tokens(size, _side(backbone, vae))
  how = How(tokens, published.even, published.by_steps)
  sampling = read_scheduler(index.scheduler, index.scheduler_file, how)
  kind = next(kind for kind, (_, config) in BACKBONES.items() if type(backbone) is config)
  learned = backbone.out == 2 * backbone.channels
  given = {"out", *WIDTHS}
  fields = {f.name: getattr(backbone, f.name) for f in dataclasses.fields(backbone)}
  embedded = getattr(backbone, "guidance_width", 0) > 0
  if embedded:
    fields["guidance"] = published.cfg
  if published.embedded and fields.get("guidance"):
    fields["guidance"] = published.embedded

  c = ConfigDict()
  c.name = root.resolve().name
  c.autoencoder = coder_of(root)
  c.data = {"dir": "", "image_size": size}
  c.text = _text(index, backbone, too_long)
  starts = {"backbone": published.backbone, "vae": "vae"}
  starts |= {name: name for name in c.text.towers if name in index.parts}
  c.parts = {part: {"start": f"folder:{root / sub}"} for part, sub in starts.items()}
  nets = {} if controlnets is None else controlnet_folders(index, controlnets)
  if nets:
    c.controlnets = {name: call("folder", path=str(path)) for name, path in nets.items()}
    c.parts.update({name: {"start": f"folder:{path}"} for name, path in nets.items()})
  c.model = {"kind": kind, "dtype": "float32"}
  c.model.update({name: value for name, value in fields.items() if name not in given})
  c.process = {
    "kind": sampling.process,
    "prediction": sampling.prediction + ("(learned_variance=True)" if learned else ""),
    "weighting": sampling.prediction,
    # [2403.03206 sec. 3.1] for flow matching; the others at uniform steps [2006.11239 alg. 1]
    "timesteps": "logit_normal" if sampling.process == "flow" else "uniform",
    "shift": training_shift(index.scheduler, sampling.process),
  }
  c.train = {"objective": "denoising"}
  c.mesh = {}
  c.sampling = {
    "every": 0,
    "solver": sampling.solver,
    "grid": sampling.grid,
    "steps": published.steps,
    "guidance": published.guidance,
    "cfg": 1.0 if embedded else published.cfg,
    "negative": "" if published.text == "label" else PUBLISHED[published.text].null.text,
    "batch": 1,
    "prompts": ("",),
  }
  fill(c, str(folder))
  return c.lock()


def controlnet_folders(index: Index, others: Sequence[str | Path] = ()) -> dict[str, Path]:
  """The folder of each ControlNet of a pipeline, and of others, by the name of its part."""
  own = [index.folder / name for name in index.controlnets]
  name = lambda i: f"{CONTROLNET}_{i}" if i else CONTROLNET
  return {name(i): path for i, path in enumerate([*own, *map(Path, others)])}


def nearest_size(folder: str | Path, size: tuple[int, int]) -> tuple[int, int]:
  """The height and width, in pixels, nearest to these that the model of a folder draws.

  Raises RestoreError.
  """
  index = read_index(folder)
  parts = (index.published.backbone, "vae")
  backbone, vae = (open_folder(index.folder / name)[1] for name in parts)
  return _nearest(size, _side(backbone, vae))


def _side(backbone: Any, vae: Any) -> int:
  """Of a token, in pixels."""
  return vae.factor * getattr(backbone, "patch", 1)


def _nearest(size: tuple[int, int], side: int) -> tuple[int, int]:
  """side: of a token, in pixels"""
  height, width = (max(1, round(pixels / side)) * side for pixels in size)
  return height, width


def _tokens(size: tuple[int, int], side: int) -> int:
  """Image tokens of an image.   side: of a token, in pixels. Raises ConfigError."""
  near = _nearest(size, side)
  if near != tuple(size):
    raise ConfigError(
      f"an image of {size[0]} x {size[1]} pixels: this model draws multiples of {side}. Nearest: "
      f"--size={near[0]}x{near[1]}, which --round takes."
    )
  return (size[0] // side) * (size[1] // side)


def coder_of(folder: str | Path, activations: str = "float32", tiling: str = "") -> str:
  """The key `autoencoder` of folder_config.

  activations, tiling  as in autoencoders.kl.KLConfig
  """
  given = None if activations == "float32" else activations
  path = str(Path(folder) / "vae")
  return call("folder", path=path, activations=given, tiling=tiling or None)


def in_windows(folder: str | Path, prompts: Sequence[str]) -> dict[str, str]:
  """Overrides of folder_config with which CLIP encodes long prompts in windows of its length.

  prompts  all that are drawn, and the negative one: there are as many windows as the longest needs
  Other encoders take the beginning of a prompt. Raises ConfigError for a model in which no CLIP
  gives tokens, RestoreError.
  """
  index = read_index(folder)
  own = PUBLISHED.get(index.published.text)
  rules = () if own is None else own.parts
  rules = tuple(
    rule for rule in rules if rule.weights in index.parts and _gives_windows(index, rule)
  )
  if not rules:
    raise ConfigError(
      f"too_long = 'chunk': a {index.name} takes no tokens of a CLIP, the encoder that is given "
      "windows. Use 'truncate' or 'error'."
    )
  count = max(tokenizer_of(folder, rule, "chunk").windows(prompts) for rule in rules)
  how = {"too_long": "chunk", "length": count * CLIP_LENGTH}
  return {f"text.towers.{rule.weights}": _encoder(index, rule, **how) for rule in rules}


def _gives_windows(index: Index, rule: TextPart) -> bool:
  """Whether it is a CLIP of which tokens are taken: of FLUX.1's it is the pooled vector alone."""
  return bool(rule.layers) and isinstance(open_folder(index.folder / rule.weights)[1], ClipConfig)


def _encoder(index: Index, rule: TextPart, **how: Any) -> str:
  """A text encoder of a folder as a config has it."""
  own = {"system": index.published.text, "part": rule.weights, "folder": str(index.folder)}
  return call("published", **own, **how)


def _text(index: Index, backbone: Any, too_long: str) -> dict[str, Any]:
  """config.text: the encoders of a pipeline, each from its own subfolder."""
  if index.published.text == "label":
    classes = backbone.classes
    named = f":{index.folder}" if index.content.get("id2label") else ""
    text = {"tokenizer": f"labels:{classes}{named}", "vocab": classes + 1, "length": 1}
    return text | {"towers": {"label": "label"}}
  name, row = index.published.text, PUBLISHED[index.published.text]
  towers = {}
  for part in row.parts:
    if part.weights in index.parts:
      towers[part.weights] = _encoder(index, part, too_long=too_long)
    elif part.optional:
      towers[part.weights] = call("nothing", width=backbone.text_width, length=part.length)
    else:
      raise RestoreError(f"{index.folder / INDEX} names no {part.weights}, which {name} needs.")
  # Each encoder has a tokenizer of its own; that of the config has no use.
  none = {"tokenizer": "bytes", "vocab": Tokenizer.bytes().vocab, "length": 1}
  return none | {"towers": towers, "join": row.join}
