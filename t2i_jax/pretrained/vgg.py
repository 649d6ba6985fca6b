"""VGG16 as timm has it: the convolutions of a classifier."""

from typing import Any

from t2i_jax.autoencoders.vgg import BLOCKS, VGG16, VGG16Config
from t2i_jax.pretrained.coder import conv
from t2i_jax.pretrained.names import Entry
from t2i_jax.pretrained.spec import Spec

CLASSIFIER = ("pre_logits.", "head.", "classifier.")


def entries(c: VGG16Config) -> list[Entry]:
  """Published layers are numbered with their ReLU and the poolings."""
  found, number = [], 0
  for i, (_, layers) in enumerate(BLOCKS):
    for k in range(layers):
      found += conv(f"conv{i}_{k}", f"features.{number}")
      number += 2
    number += 1
  return found


def renamed(name: str) -> str | None:
  return None if name.startswith(CLASSIFIER) else name


def write(c: VGG16Config) -> dict[str, Any]:
  return {}


VGG = Spec(
  hf_class="vgg16",
  module=VGG16,
  config=VGG16Config,
  keys={},
  fixed={"architecture": "vgg16"},
  ignored={"num_classes": 1000, "num_features": 4096, "pretrained_cfg": {}, "model_args": {}},
  read=lambda keys: VGG16Config(),
  write=write,
  entries=entries,
  stem="model",
  library="timm",
  renamed=renamed,
  unwritten="its classifier is not read",
)
