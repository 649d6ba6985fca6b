"""Autoencoders beside diffusers': encoded and decoded, folders both ways, published sizes."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import here
from flax import nnx
from safetensors.numpy import load_file, save_file

from benchmarks.autoencoder_cases import (
  ALL,
  BLOCKS,
  BOUND,
  CASES,
  NO_QUANT,
  QWEN_IMAGE_READ,
  SIZES,
  image_of,
)
from t2i_jax.autoencoders import AutoencoderKL, KLConfig
from t2i_jax.autoencoders.tiling import Ratio, tiled
from t2i_jax.errors import ConfigError
from t2i_jax.pretrained import SPECS, load, save
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, read_config, shapes_of
from t2i_jax.pretrained.tensors import STEM

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402

from benchmarks.autoencoder_parity import (  # noqa: E402
  OTHERS,
  ROWS,
  build,
  codes,
  distance,
  errors,
  opened,
  ours,
  round_trip,
  theirs,
  tile_errors,
)

HERE = here(ALL, CASES)  # the others are for `make proof`


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("autoencoders")

  @functools.cache
  def saved(name):
    build(name).save_pretrained(root / name)
    return root / name

  return saved


@pytest.mark.parametrize("name", HERE)
def test_encoded_and_decoded_as_there(name, folder):
  odd = name == "sd3"  # the factor does not divide the sides, whose ends are lost
  found = errors(name, folder(name), image_of(18, 21) if odd else image_of(16, 24))
  assert len(found.encoded) == (1 if name.startswith("vq") else 2)
  assert max(*found.encoded, found.z, found.decoded) < BOUND
  _, config, _ = opened(folder(name))
  assert odd or found.shape[1:] == config.latent_shape(config.image_shape(16, 24))


def test_codes_are_theirs(folder):
  own, _, _ = opened(folder("vq"))
  found, indices, quantised = codes("vq", folder("vq"), image_of(8, 8))
  assert len(np.unique(found)) > 4
  np.testing.assert_array_equal(found, indices)
  assert distance(own.lookup(found), quantised) < 1e-6
  np.testing.assert_array_equal(own.indices(own.lookup(found)), found)


def test_samples_of_the_posterior_are_theirs(monkeypatch):
  """Of variances beyond both bounds, too."""
  config, key = KLConfig(3, (4,), groups=1), jax.random.key(3)
  mean, logvar = image_of(4, 4), np.linspace(-40, 30, 96, dtype=np.float32).reshape(2, 4, 4, 3)
  monkeypatch.setattr(AutoencoderKL, "moments", lambda self, image: (mean, logvar))
  parameters = torch.cat([theirs(mean), theirs(logvar)], 1)
  posterior = DiagonalGaussianDistribution(parameters)
  x = ours(posterior.mean + posterior.std * theirs(jax.random.normal(key, mean.shape)))
  found = config.make(nnx.Rngs(0)).encode(mean, key)
  np.testing.assert_allclose(found, config.scale * x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", here([name for name in ALL if "qwen" not in name], CASES))
def test_folders_come_back(name, folder, tmp_path):
  for many in (5 * 10**9, 100_000) if name == "flux2" else (5 * 10**9,):
    back, equal = round_trip(name, folder(name), tmp_path / f"{many}", many)
    assert equal
    plain = lambda c: {k: json.dumps(v) for k, v in dict(c).items() if not k.startswith("_")}
    assert plain(back.config) == plain(build(name).config)


@pytest.mark.proof
@pytest.mark.parametrize("name", ALL)
def test_tiles_of_whole_models_are_theirs(name, folder):
  found = tile_errors(name, folder(name))
  assert (found.theirs is None) == name.startswith("vq")
  assert found.theirs is None or found.theirs < BOUND
  assert min(found.smooth, found.diffusers) > 0


def test_a_part_of_a_model_is_not_written(folder, tmp_path):
  """Weights that never act on a single frame are not read, and so cannot be written."""
  _, config, params = load(folder("qwen"))
  with pytest.raises(ConfigError, match=r"AutoencoderKLQwenImage cannot be written: .* Copy"):
    save(tmp_path / "new", config, params)
  assert not any(tmp_path.iterdir())


def test_names_and_shapes_of_older_folders(folder, tmp_path):
  """query, key, value, proj_attn; matrices of attention as 1 x 1 convolutions; few keys."""
  _, config, params = load(folder("sd"))
  content = json.loads((folder("sd") / "config.json").read_text())
  for key in ("scaling_factor", "shift_factor", "latents_mean", "force_upcast"):
    del content[key]
  content |= {"latents_std": None}
  tmp_path.joinpath("config.json").write_text(json.dumps(content))
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  tensors = load_file(folder("sd") / f"{STEM}.safetensors")
  renamed = {}
  for name, tensor in tensors.items():
    for new, before in old.items():
      if f".{new}." in name:
        name = name.replace(new, before)
        tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor
    renamed[name] = np.ascontiguousarray(tensor)
  assert renamed.keys() != tensors.keys()
  save_file(renamed, tmp_path / f"{STEM}.safetensors", metadata={"format": "pt"})
  again = load(tmp_path)
  assert again[1] == config
  jax.tree.map(np.testing.assert_array_equal, params, again[2])


class OfTile(torch.nn.Module):
  """In place of a network: resized by nearest neighbours or a mean, plus the mean of the tile."""

  def __init__(self, factor, channels):
    super().__init__()
    self.factor, self.channels = factor, channels

  def forward(self, x):
    up, down = torch.nn.functional.interpolate, torch.nn.functional.avg_pool2d
    made = up(x, scale_factor=2) if self.factor > 1 else down(x, 2)
    return made.mean(1, keepdim=True).repeat(1, self.channels, 1, 1) + x.mean((1, 2, 3), True)


def of_tile(up, x):
  b, h, w, c = x.shape
  half = lambda x: x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
  made = x.repeat(2, 1).repeat(2, 2) if up else half(x)
  return made.mean(-1, keepdims=True) + x.mean((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("height, width", [(26, 17), pytest.param(44, 40, marks=pytest.mark.proof)])
def test_tiles_are_theirs(height, width):
  """Overlap and blend of tiled_decode and tiled_encode, with slivers at the ends."""
  model = diffusers.AutoencoderKL(**BLOCKS | NO_QUANT)
  model.encoder, model.decoder = OfTile(0.5, 8), OfTile(2, 3)
  model.enable_tiling()
  image, z = image_of(2 * height, 2 * width), image_of(height, width, 4)
  with torch.no_grad():
    mean = ours(model.encode(theirs(image)).latent_dist.mean)
    decoded = ours(model.decode(theirs(z)).sample)
  for up, x, ratio, want in ((True, z, (1, 2), decoded), (False, image, (2, 1), mean)):
    function = lambda x, up=up: of_tile(up, x)
    found = jax.jit(lambda x, f=function, r=ratio: tiled("diffusers", f, x, Ratio(*r), 8))(x)
    assert distance(found[..., :1], want[..., :1]) < 1e-6
    assert distance(function(x), want[..., :1]) > 0.01


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_these_tensors(name):
  config, count = SIZES[name]
  spec = next(spec for spec in SPECS.values() if spec.config is type(config))
  with torch.device("meta"):
    model = getattr(diffusers, spec.hf_class)(**spec.write(config))
  assert sum(parameter.numel() for parameter in model.parameters()) == count
  assert read_config(spec, dict(model.config), name) == config
  shapes = shapes_of(abstract_params(spec.module, config))
  stored = stored_shapes(spec.entries(config), shapes)
  stored |= {key: value.shape for key, value in spec.constants.items()}
  state = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  assert stored == {key: shape for key, shape in state.items() if spec.renamed(key)}
  read = sum(math.prod(shape) for path, shape in shapes.items() if path not in ("mean", "var"))
  assert read == (QWEN_IMAGE_READ if name == "Qwen-Image" else count)


@pytest.mark.proof
@pytest.mark.parametrize("name", ["sd"])
def test_bfloat16_activations_are_near(name, folder):
  own, _, _ = opened(folder(name))
  narrow, _, _ = opened(folder(name), activations="bfloat16")
  z = image_of(8, 8, 4)
  found, want = jax.jit(lambda z: (narrow.decode(z), own.decode(z)))(z)
  assert found.dtype == jnp.float32 and 1e-4 < distance(found, want) < 0.1


def test_page_has_every_row():
  page = (Path(__file__).parents[2] / "docs" / "parity_autoencoders.md").read_text()
  assert ROWS.keys() == SIZES.keys()
  assert all(f"| {name} |" in page for name in (*ROWS, *OTHERS))
