"""Files of low-rank adapters as people have them: peft's folders, diffusers' and kohya's files.

    peft       a folder with adapter_config.json; base_model.model.X.lora_A.weight
    diffusers  unet.X or transformer.X .lora_A.weight, older .lora.down.weight; alphas in a header
    kohya      lora_unet_X_with_underscores.lora_down.weight, and .alpha

X is the name of a linear layer of the published network: pretrained.lora knows those. Here a file
is only taken apart into the matrices of each name, and put together.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.pretrained.single_file import check_file
from t2i_jax.pretrained.tensors import Tensors, some, write_file

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"  # of diffusers' header
PEFT_PREFIX = "base_model.model."
# The end of a tensor's name -> which matrix of its layer it is.
ENDS = {
  ".lora_A.weight": "down",
  ".lora_B.weight": "up",
  ".lora_down.weight": "down",
  ".lora_up.weight": "up",
  ".lora.down.weight": "down",
  ".lora.up.weight": "up",
  ".lora_linear_layer.down.weight": "down",
  ".lora_linear_layer.up.weight": "up",
  ".lora_magnitude_vector.weight": "magnitude",
  ".lora_magnitude_vector": "magnitude",
  ".dora_scale": "magnitude",
  ".alpha": "alpha",
}
# diffusers before version 0.22 named the layers of an attention by their processor.
PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$")
FORMATS = ("peft", "diffusers", "kohya")


class Matrices(NamedTuple):
  """Of one linear layer: y + scale (x down^T) up^T.

  down [rank, inputs], up [outputs, rank] float32;   magnitude: of DoRA [outputs], or None
  ones  axes of size 1 that both have in a file, of a layer that is a 1 x 1 convolution there
  """

  down: np.ndarray
  up: np.ndarray
  scale: float
  magnitude: np.ndarray | None = None
  ones: int = 0

  def stored(self) -> tuple[np.ndarray, np.ndarray]:
    """down and up as a file has them."""
    shaped = lambda x: np.ascontiguousarray(x.reshape(*x.shape, *[1] * self.ones))
    return shaped(self.down), shaped(self.up)

  @property
  def rank(self) -> int:
    return self.down.shape[0]


def read_matrices(path: str | Path) -> dict[str, Matrices]:
  """The matrices of a file or folder by the name of their layer, with its prefix.

  Raises RestoreError for a file that is damaged, and for adapters of another kind, by name.
  """
  file, settings = _opened(Path(path))
  with Tensors() as tensors:
    tensors.add(file)
    read = {
      name: tensors.read(name, (slice(None),) * len(at.shape)).astype(np.float32)
      for name, at in tensors.stored.items()
    }
  layers: dict[str, dict[str, np.ndarray]] = {}
  other = []
  for name, value in read.items():
    layer, kind = _part_of(name)
    if not kind:
      other.append(name)
    layers.setdefault(layer, {})[kind] = value
  if other:
    raise RestoreError(
      f"{path} has {some(other)}: no matrices of LoRA. LoHa, LoKr, differences of whole weights "
      "and the like are not supported."
    )
  if not layers:
    raise RestoreError(f"{path} holds no adapter.")
  return {
    layer: _matrices(f"{path}: {layer}", found, settings, layer) for layer, found in layers.items()
  }


def _opened(path: Path) -> tuple[Path, Mapping[str, Any]]:
  """The file of the weights, and what it says of alphas and ranks."""
  if path.is_dir():
    if (path / PEFT_CONFIG).exists():
      config = _json((path / PEFT_CONFIG).read_text(), str(path / PEFT_CONFIG))
      return check_file(path / PEFT_WEIGHTS), {"": config}
    names = (DIFFUSERS_WEIGHTS, *(p.name for p in sorted(path.glob("*.safetensors"))))
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
      raise RestoreError(f"{path} has no {PEFT_CONFIG} and no .safetensors file.")
    path = found
  check_file(path)
  try:
    with safe_open(path, framework="numpy") as opened:
      header = dict(opened.metadata() or {})
  except Exception:  # Tensors.add names what is wrong with it
    return path, {}
  given = _json(header[METADATA], f"{path}: {METADATA}") if METADATA in header else {}
  parts: dict[str, dict[str, Any]] = {}
  for key, value in given.items():
    part, _, field = key.partition(".")
    parts.setdefault(part, {})[field] = value
  return path, parts


def _json(text: str, where: str) -> dict[str, Any]:
  try:
    found = json.loads(text)
  except ValueError as error:
    raise RestoreError(f"{where} is not JSON: {error}.") from error
  if not isinstance(found, dict):
    raise RestoreError(f"{where} is no record.")
  return found


def _part_of(name: str) -> tuple[str, str]:
  """The layer and the kind of a tensor; kind "" for one that is none of ours."""
  old = PROCESSOR.search(name)
  if old:
    layer = old[1].replace("to_out", "to_out.0")
    return f"{name[: old.start()]}.{layer}", old[2]
  for end, kind in ENDS.items():
    if name.endswith(end):
      return name.removesuffix(end), kind
  return name, ""


def _matrices(
  where: str, found: Mapping[str, np.ndarray], settings: Mapping[str, Any], layer: str
) -> Matrices:
  if "down" not in found or "up" not in found:
    raise RestoreError(f"{where} has {', '.join(found)}, and needs both matrices.")
  down, up = (_matrix(found[kind], where) for kind in ("down", "up"))
  if down.shape[0] != up.shape[1] or not down.shape[0]:
    raise RestoreError(f"{where}: {up.shape} and {down.shape} do not multiply.")
  rank = down.shape[0]
  scale = _said(settings, layer, rank)
  if "alpha" in found:
    scale = float(found["alpha"].reshape(())) / rank
  if not np.isfinite(scale):
    raise RestoreError(f"{where}: its alpha is not finite.")
  magnitude = found.get("magnitude")
  return Matrices(down, up, scale, None if magnitude is None else magnitude.reshape(-1))


def _matrix(x: np.ndarray, where: str) -> np.ndarray:
  if x.ndim > 2 and x.shape[2:] == (1,) * (x.ndim - 2):
    x = x.reshape(x.shape[:2])
  if x.ndim != 2:
    raise RestoreError(
      f"{where} is of a convolution of {x.shape[2:]}: only linear layers are supported."
    )
  return x


def _said(settings: Mapping[str, Any], layer: str, rank: int) -> float:
  """The scale that the settings of the layer's part give it; 1 without any."""
  part, _, rest = layer.partition(".")
  own, name = (settings[part], rest) if part in settings else (settings.get(""), layer)
  if not own or "lora_alpha" not in own:
    return 1.0
  name = name.removeprefix(PEFT_PREFIX)
  alpha = _patterned(own.get("alpha_pattern"), name, own["lora_alpha"])
  return float(alpha) / (rank**0.5 if own.get("use_rslora") else rank)


def _patterned(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
  """As peft reads rank_pattern and alpha_pattern: regular expressions of the end of a name."""
  for pattern, value in (patterns or {}).items():
    if re.match(rf"(.*\.)?({pattern})$", name):
      return value
  return default


def write_matrices(to: str | Path, layers: Mapping[str, Mapping[str, Matrices]], form: str) -> Path:
  """Writes adapters, by prefix and name of their layers; returns what was written.

  to      a new folder for "peft", else a file or a folder that it goes into
  layers  {"unet": {X: ...}, "text_encoder": {...}}, the names of folders of a pipeline
  form    one of FORMATS. Raises ConfigError for one that cannot hold them, OSError.
  """
  to = Path(to)
  if form == "peft":
    return _write_peft(to, layers)
  path = to if to.suffix == ".safetensors" else to / DIFFUSERS_WEIGHTS
  path.parent.mkdir(parents=True, exist_ok=True)
  tensors: dict[str, Any] = {}
  about = dict[str, str]()
  if form == "kohya":
    for part, own in layers.items():
      for name, one in own.items():
        layer = f"{kohya_prefix(part, layers)}_{name.replace('.', '_')}"
        down, up = one.stored()
        tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        tensors[f"{layer}.alpha"] = np.asarray(one.scale * one.rank, np.float32)
        if one.magnitude is not None:
          tensors[f"{layer}.dora_scale"] = one.magnitude[:, None]
  else:
    settings = dict[str, Any]()
    for part, own in layers.items():
      tensors |= _peft_tensors(own, f"{part}.")
      settings |= {f"{part}.{key}": value for key, value in _peft_config(own).items()}
    about[METADATA] = json.dumps(settings, indent=2, sort_keys=True)
  write_file(path, tensors, about)
  return path


def _write_peft(to: Path, layers: Mapping[str, Mapping[str, Matrices]]) -> Path:
  if len(layers) != 1:
    raise ConfigError(
      f"a folder of peft holds the adapter of one network, and there are {', '.join(layers)}: "
      "write --format=diffusers or kohya."
    )
  (own,) = layers.values()
  to.mkdir(parents=True, exist_ok=True)
  config = {"peft_type": "LORA", "base_model_name_or_path": None} | _peft_config(own)
  (to / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
  write_file(to / PEFT_WEIGHTS, _peft_tensors(own, PEFT_PREFIX))
  return to


def _peft_tensors(own: Mapping[str, Matrices], prefix: str) -> dict[str, np.ndarray]:
  found = dict[str, np.ndarray]()
  for name, one in own.items():
    down, up = one.stored()
    found |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    if one.magnitude is not None:
      found[f"{prefix}{name}.lora_magnitude_vector"] = one.magnitude
  return found


def _peft_config(own: Mapping[str, Matrices]) -> dict[str, Any]:
  """r and alpha of most layers, and patterns of the others."""
  ranks = {name: one.rank for name, one in own.items()}
  alphas = {name: _whole(one.scale * one.rank) for name, one in own.items()}
  rank, alpha = _most(ranks.values()), _most(alphas.values())
  return {
    "r": rank,
    "lora_alpha": alpha,
    "rank_pattern": {re.escape(n): r for n, r in ranks.items() if r != rank},
    "alpha_pattern": {re.escape(n): a for n, a in alphas.items() if a != alpha},
    "target_modules": sorted(own),
    "use_dora": any(one.magnitude is not None for one in own.values()),
    "use_rslora": False,
    "lora_dropout": 0.0,
    "bias": "none",
  }


def _whole(x: float) -> float | int:
  """alpha as a number of the file: an integer where it is one up to rounding."""
  return round(x) if abs(x - round(x)) < 1e-6 else x


def _most(values: Iterable[Any]) -> Any:
  counted = list(values)
  return max(counted, key=counted.count)


def kohya_prefix(part: str, parts: Iterable[str]) -> str:
  """lora_unet for the backbone; lora_te, or lora_te1 and lora_te2 of several text encoders."""
  if not part.startswith("text_encoder"):
    return "lora_unet"
  several = any(re.fullmatch(r"text_encoder_\d", one) for one in parts)
  number = part.removeprefix("text_encoder").removeprefix("_") or "1"
  return f"lora_te{number}" if several else "lora_te"
