"""Original files: the config from the shapes, the weights as from a folder, faults by name."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_published import CONFIGS, in_the_authors_layout, random_params

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.unet import UNetConfig
from t2i_jax.parallel import make_mesh
from t2i_jax.pretrained import load, load_file, save
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.single_file import ORIGINALS, PREFIX
from t2i_jax.pretrained.spec import abstract_params, shapes_of
from t2i_jax.pretrained.unet_original import UNET_ORIGINAL

NAMES = ["sd3", "sd3_dual", "sd3_all_dual", "flux", "flux_guided"]
NAMES += ["unet_sdxl"]


def original_of(config):
  return next(o for o in ORIGINALS if isinstance(config, o.spec.config))


def unsaid(config):
  return {key: getattr(config, key) for key in original_of(config).arguments}


def tensors_of_file(config, params):
  original = original_of(config)
  tensors = in_the_authors_layout(original, config, params)
  return tensors | {name: b.full() for name, b in original.spec.buffers(config).items()}


@pytest.mark.newest
@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", NAMES)
def test_original_file(name, prefix, tmp_path):
  config = CONFIGS[name]
  params = random_params(config)
  tensors = tensors_of_file(config, params)
  others = {"text_encoders.a": np.zeros(3, np.float32)} if prefix else {}
  path = tmp_path / "x.safetensors"
  save_file({prefix + key: leaf for key, leaf in tensors.items()} | others, path)
  mesh = make_mesh(1, 4, 2) if prefix else None
  module, inferred, read = load_file(path, mesh, remat="full", **unsaid(config))
  assert module is original_of(config).spec.module
  assert inferred == dataclasses.replace(config, remat="full")
  jax.tree.map(np.testing.assert_array_equal, params, read)


def test_files_that_cannot_be_used(tmp_path):
  config = CONFIGS["flux"]
  tensors = tensors_of_file(config, random_params(config))
  path = tmp_path / "x.safetensors"
  save_file(tensors, path)
  with pytest.raises(ConfigError, match=r"not determine rope_axes: use load_file\(..., rope_axes="):
    load_file(path)
  with pytest.raises(ConfigError, match="width cannot be changed"):
    load_file(path, width=3)
  with pytest.raises(RestoreError, match=r"y\.ckpt is a pickle"):
    load_file(tmp_path / "y.ckpt")
  with pytest.raises(RestoreError, match=r"y\.safetensors is not a file"):
    load_file(tmp_path / "y.safetensors")

  def message(change):
    changed = dict(tensors)
    change(changed)
    save_file(changed, path)
    with pytest.raises(RestoreError) as caught:
      load_file(path, rope_axes=config.rope_axes)
    return str(caught.value)

  assert "not a supported layout" in message(lambda t: t.pop("img_in.weight"))
  assert "missing: txt_in.weight" in message(lambda t: t.pop("txt_in.weight"))
  assert "missing: txt_in.bias" in message(lambda t: t.pop("txt_in.bias"))
  assert "not expected: extra" in message(lambda t: t.update(extra=np.zeros(2, np.float32)))
  bad = {"single_blocks.1.linear2.weight": np.zeros((48, 100), np.float32)}
  assert "is 48 x 100 and should be 48 x 240" in message(lambda t: t.update(bad))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(RestoreError, match=r"x\.safetensors is incomplete or not safetensors"):
    load_file(path, rope_axes=config.rope_axes)


def test_positions_are_those_of_the_stored_table(tmp_path):
  """A Stable Diffusion 3 whose places lie otherwise than its published size says."""
  config = dataclasses.replace(CONFIGS["sd3_dual"], step=0.25, start=-1.75)
  params = random_params(config)
  save_file(tensors_of_file(config, params), tmp_path / "x.safetensors")
  _, found, _ = load_file(tmp_path / "x.safetensors")
  assert (found.step, found.start) == (0.25, -1.75)
  save(tmp_path / "folder", config, params, dtype="bfloat16")
  _, found, _ = load(tmp_path / "folder")
  assert found == config


SD1 = UNetConfig(4, 768, out=4)
WIDE = {"widths": (320, 640, 1280), "heads": (5, 10, 20), "pooled_width": 1280, "linear": True}
SDXL = UNetConfig(
  4, 2048, out=4, depths=(0, 2, 10), middle=10, micro_conditions=6, side=128, **WIDE
)
WIDER = WIDE | {"widths": (384, 768, 1536, 1536), "heads": (6, 12, 24, 24)}
REFINER = UNetConfig(
  4, 1280, out=4, depths=(0, 4, 4, 0), middle=4, micro_conditions=5, side=128, **WIDER
)


@pytest.mark.parametrize("config", [SD1, SDXL, REFINER], ids=("sd1", "sdxl", "refiner"))
def test_published_sizes_of_the_unet_are_inferred(config):
  spec = UNET_ORIGINAL.spec
  shapes = shapes_of(abstract_params(spec.module, config))
  stored = stored_shapes(spec.entries(config), shapes)
  assert UNetConfig(**UNET_ORIGINAL.infer(stored)) == config
