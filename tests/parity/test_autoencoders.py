"""Autoencoders beside diffusers': encoded and decoded, folders both ways, published sizes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2i_jax.autoencoders import Flux2KLConfig, KLConfig
from t2i_jax.autoencoders.tiling import Ratio, tiled
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import SPECS, load, save
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of
from t2i_jax.pretrained.tensors import STEM

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BOUND = 1e-4  # relative to the largest value
BLOCKS = {
  "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
  "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "sample_size": 16,
}  # fmt: skip
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
STATISTICS = {"latents_mean": [0.5, -1.0, 0.25, 2.0], "latents_std": [0.5, 2.0, 1.5, 3.0]}
THREE = {
  "block_out_channels": (8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
  "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip
CASES = {
  "sd": ("AutoencoderKL", BLOCKS | {"layers_per_block": 2}),
  "sdxl": ("AutoencoderKL", BLOCKS | STATISTICS | {"scaling_factor": 0.13025}),
  "sd3": (
    "AutoencoderKL",
    BLOCKS | NO_QUANT | THREE
    | {"latent_channels": 6, "scaling_factor": 1.5305, "shift_factor": 0.0609},
  ),
  "no attention": ("AutoencoderKL", BLOCKS | {"mid_block_add_attention": False}),
  "flux2": (
    "AutoencoderKLFlux2",
    BLOCKS | {"latent_channels": 3, "decoder_block_out_channels": (12, 8)},
  ),
}  # fmt: skip


def distance(a, b):
  return float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b))))


@functools.cache
def build(name):
  """The model of diffusers, every weight and statistic off its initial value."""
  kind, keys = CASES[name]
  torch.manual_seed(0)
  model = getattr(diffusers, kind)(**keys).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for key, buffer in model.named_buffers():
      if buffer.is_floating_point():
        buffer.copy_(torch.rand_like(buffer) + 0.5)
  return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("autoencoders")

  @functools.cache
  def saved(name):
    build(name).save_pretrained(root / name)
    return root / name

  return saved


def opened(folder, **changes):
  module, config, params = load(folder, **changes)
  return with_params(make_of(module, config))(params), config, params


def image_of(height, width, channels=3):
  return np.random.default_rng(height).uniform(-1, 1, (2, height, width, channels)).astype("f4")


def theirs(x):
  """[B, H, W, C] to torch's order."""
  return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def ours(x):
  return x.permute(0, 2, 3, 1).numpy()


def their_z(model, x):
  """What their pipelines make of latents."""
  c = model.config
  if isinstance(model, diffusers.AutoencoderKLFlux2):
    x = diffusers.Flux2Pipeline._patchify_latents(x)
    mean, var = (v.view(1, -1, 1, 1) for v in (model.bn.running_mean, model.bn.running_var))
    return (x - mean) / torch.sqrt(var + c.batch_norm_eps)
  if c.latents_mean is not None:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (c.latents_mean, c.latents_std))
    return (x - mean) * c.scaling_factor / std
  return (x - (c.shift_factor or 0)) * c.scaling_factor


@pytest.mark.parametrize("name", CASES)
def test_encoded_and_decoded_as_there(name, folder):
  model = build(name)
  own, config, _ = opened(folder(name))
  image = image_of(16, 24)
  with torch.no_grad():
    posterior = model.encode(theirs(image)).latent_dist
    z = their_z(model, posterior.mean)
    decoded = model.decode(posterior.mean).sample
  (mean, logvar), found, back = jax.jit(
    lambda image, z: (own.moments(image), own.encode(image), own.decode(z))
  )(image, ours(z))
  assert distance(mean, ours(posterior.mean)) < BOUND
  assert distance(logvar, ours(posterior.logvar)) < BOUND
  assert found.shape[1:] == config.latent_shape(config.image_shape(16, 24))
  assert distance(found, ours(z)) < BOUND
  assert distance(back, ours(decoded)) < BOUND


@pytest.mark.parametrize("name", ["sd3"])
def test_sides_that_the_factor_does_not_divide(name, folder):
  """The ends of the image are lost there, and here; a config refuses such a size."""
  own, _, _ = opened(folder(name))
  image = image_of(19, 21)
  with torch.no_grad():
    want = build(name).encode(theirs(image)).latent_dist.mean
  assert distance(jax.jit(own.moments)(image)[0], ours(want)) < BOUND


def test_a_sample_of_the_posterior(folder):
  own, config, _ = opened(folder("sd"))
  image, key = image_of(16, 16), jax.random.key(3)
  with torch.no_grad():
    posterior = build("sd").encode(theirs(image)).latent_dist
  x = ours(posterior.mean + posterior.std * theirs(jax.random.normal(key, (2, 8, 8, 4))))
  assert distance(jax.jit(own.encode)(image, key), config.scale * x) < BOUND


@pytest.mark.parametrize("name", CASES)
def test_folders_come_back(name, folder, tmp_path):
  kind, model = CASES[name][0], build(name)
  _, config, params = load(folder(name))
  for many in (5 * 10**9, 100_000) if name == "flux2" else (5 * 10**9,):
    save(tmp_path / f"{many}", config, params, shard_bytes=many)
    back, info = getattr(diffusers, kind).from_pretrained(
      tmp_path / f"{many}", output_loading_info=True
    )
    assert not any(info.values()), info
    state, new = model.state_dict(), back.state_dict()
    assert state.keys() == new.keys() and all(torch.equal(state[n], new[n]) for n in state)
    plain = lambda c: {k: json.dumps(v) for k, v in dict(c).items() if not k.startswith("_")}
    assert plain(back.config) == plain(model.config)


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
  if up:
    made = x.repeat(2, 1).repeat(2, 2)
  else:
    made = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
  return made.mean(-1, keepdims=True) + x.mean((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("height, width", [(44, 20), (16, 17), (26, 40)])
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
    found = tiled("diffusers", function, jnp.asarray(x), Ratio(*ratio), 8)
    assert distance(found[..., :1], want[..., :1]) < 1e-6
    assert distance(function(x), want[..., :1]) > 0.01


SIZES = {
  "SD 1.5": (KLConfig(), 83_653_863),
  "SDXL": (KLConfig(scale=0.13025, sample_size=1024), 83_653_863),
  "SD3": (KLConfig(16, scale=1.5305, shift=0.0609, quant=False, post_quant=False), 83_819_683),
  "FLUX.1": (KLConfig(16, scale=0.3611, shift=0.1159, quant=False, post_quant=False), 83_819_683),
  "FLUX.2": (Flux2KLConfig(), 84_046_115),
}
BUFFERS = {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}


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
  assert stored == {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  own = {key: shape for key, shape in stored.items() if key not in BUFFERS}
  assert sum(int(np.prod(shape)) for shape in own.values()) == count


@pytest.mark.parametrize("name", ["sd"])
def test_bfloat16_activations_are_near(name, folder):
  own, _, _ = opened(folder(name))
  narrow, _, _ = opened(folder(name), activations="bfloat16")
  z = image_of(8, 8, 4)
  found, want = jax.jit(lambda z: (narrow.decode(z), own.decode(z)))(z)
  assert found.dtype == jnp.float32 and 1e-4 < distance(found, want) < 0.1
