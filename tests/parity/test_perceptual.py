"""VGG16 of a folder, as timm saves it, against the same layers in torch."""

import json

import numpy as np
import pytest

from t2i_jax import pretrained
from t2i_jax.autoencoders.vgg import BLOCKS
from t2i_jax.errors import RestoreError
from t2i_jax.models import with_params

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Random weights at a size that keeps the variance of activations."""
  from safetensors.torch import save_file

  out = tmp_path_factory.mktemp("vgg16")
  torch.manual_seed(0)
  tensors, inputs, number = {"head.fc.weight": torch.zeros(2, 2)}, 3, 0
  for width, layers in BLOCKS:
    for _ in range(layers):
      scale = (2 / (9 * inputs)) ** 0.5
      tensors[f"features.{number}.weight"] = scale * torch.randn(width, inputs, 3, 3)
      tensors[f"features.{number}.bias"] = 0.1 * torch.randn(width)
      inputs, number = width, number + 2
    number += 1
  save_file(tensors, out / "model.safetensors")
  (out / "config.json").write_text(json.dumps({"architecture": "vgg16", "num_classes": 1000}))
  return out, tensors


def torch_features(tensors, image):
  """image [B, 3, H, W] in [0, 1] -> features before each pooling"""
  mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
  x, number, found = (image - mean[:, None, None]) / std[:, None, None], 0, []
  for i, (_, layers) in enumerate(BLOCKS):
    x = torch.nn.functional.max_pool2d(x, 2) if i else x
    for _ in range(layers):
      weight, bias = (tensors[f"features.{number}.{which}"] for which in ("weight", "bias"))
      x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
      number += 2
    number += 1
    found.append(x)
  return found


def test_features_are_those_of_torch(folder):
  path, tensors = folder
  image = np.random.default_rng(0).uniform(size=(1, 34, 38, 3)).astype(np.float32)  # odd halves
  _, config, params = pretrained.load(path)
  found = with_params(config.make)(params).features(2 * image - 1)
  wanted = torch_features(tensors, torch.tensor(image).permute(0, 3, 1, 2))
  for ours, theirs in zip(found, wanted, strict=True):
    expected = theirs.permute(0, 2, 3, 1).numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_another_network_is_refused(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"architecture": "vgg19"}))
  with pytest.raises(RestoreError, match="architecture = 'vgg19' is not one of"):
    pretrained.load(tmp_path)
