"""Autoencoders beside diffusers': encoded and decoded, folders both ways, published sizes."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from t2i_jax.autoencoders import (
  AutoencoderKL,
  Flux2KLConfig,
  KLConfig,
  QwenImageVAEConfig,
  VQConfig,
)
from t2i_jax.autoencoders.tiling import Ratio, tiled
from t2i_jax.errors import ConfigError
from t2i_jax.models.params import with_params
from t2i_jax.pretrained import SPECS, load, save
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.spec import abstract_params, make_of, read_config, shapes_of
from t2i_jax.pretrained.tensors import STEM

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: E402

BOUND = 1e-4  # relative to the largest value
BLOCKS = {
  "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
  "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "sample_size": 16,
}  # fmt: skip
THREE = {
  "block_out_channels": (8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
  "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip
ATTENDS = {
  "layers_per_block": 2,
  "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
  "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
STATISTICS = {"latents_mean": [0.5, -1.0, 0.25, 2.0], "latents_std": [0.5, 2.0, 1.5, 3.0]}
SD3 = {"latent_channels": 6, "scaling_factor": 1.5305, "shift_factor": 0.0609}
CASES = {
  "sd": ("AutoencoderKL", BLOCKS | {"layers_per_block": 2}),
  "sd3": ("AutoencoderKL", BLOCKS | NO_QUANT | THREE | SD3),
  "flux2": (
    "AutoencoderKLFlux2",
    BLOCKS | {"latent_channels": 3, "layers_per_block": 1, "decoder_block_out_channels": (12, 8)},
  ),
  "qwen": (
    "AutoencoderKLQwenImage",
    STATISTICS | {"base_dim": 6, "z_dim": 4, "dim_mult": [1, 2], "temperal_downsample": [True]},
  ),
  "vq": (
    "VQModel",
    BLOCKS | ATTENDS | {"latent_channels": 4, "vq_embed_dim": 3, "num_vq_embeddings": 24},
  ),
}
# Other choices of the same classes, for `make proof`.
MORE = {
  "sdxl": ("AutoencoderKL", BLOCKS | STATISTICS | {"scaling_factor": 0.13025}),
  "no attention": ("AutoencoderKL", BLOCKS | {"mid_block_add_attention": False}),
  "attention in a level": ("AutoencoderKL", BLOCKS | ATTENDS),
  "flux2, equal widths": (
    "AutoencoderKLFlux2",
    BLOCKS | {"layers_per_block": 2} | NO_QUANT | {"latent_channels": 3},
  ),
  "qwen, one block": (
    "AutoencoderKLQwenImage",
    STATISTICS
    | {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1}
    | {"temperal_downsample": [False, True]},
  ),
  "vq, three levels": ("VQModel", BLOCKS | THREE | {"lookup_from_codebook": True}),
}
ALL = [*CASES, *(pytest.param(name, marks=pytest.mark.proof) for name in MORE)]
CASES |= MORE


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
    for _, buffer in model.named_buffers():
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


@torch.no_grad()
def their_latents(model, image):
  """Mean and logarithm of the variance of the posterior; the latents alone of a VQModel."""
  if isinstance(model, diffusers.VQModel):
    return (model.encode(theirs(image)).latents,)
  if isinstance(model, diffusers.AutoencoderKLQwenImage):
    posterior = model.encode(theirs(image)[:, :, None]).latent_dist
    return posterior.mean[:, :, 0], posterior.logvar[:, :, 0]
  posterior = model.encode(theirs(image)).latent_dist
  return posterior.mean, posterior.logvar


@torch.no_grad()
def their_image(model, x):
  if isinstance(model, diffusers.AutoencoderKLQwenImage):
    return model.decode(x[:, :, None]).sample[:, :, 0]
  return model.decode(x).sample


@torch.no_grad()
def their_z(model, x):
  """What their pipelines make of latents."""
  c = model.config
  column = lambda values: torch.as_tensor(values).view(1, -1, 1, 1)
  if isinstance(model, diffusers.AutoencoderKLFlux2):
    x = diffusers.Flux2Pipeline._patchify_latents(x)
    std = torch.sqrt(column(model.bn.running_var) + c.batch_norm_eps)
    return (x - column(model.bn.running_mean)) / std
  if c.get("latents_mean") is not None:
    scale = c.get("scaling_factor") or 1.0
    return (x - column(c.latents_mean)) * scale / column(c.latents_std)
  return (x - (c.get("shift_factor") or 0)) * c.scaling_factor


@pytest.mark.parametrize("name", ALL)
def test_encoded_and_decoded_as_there(name, folder):
  model = build(name)
  own, config, _ = opened(folder(name))
  odd = name == "sd3"  # the factor does not divide the sides, whose ends are lost
  image = image_of(18, 21) if odd else image_of(16, 24)
  latents = their_latents(model, image)
  z = ours(their_z(model, latents[0]))
  moments = own.moments if len(latents) > 1 else lambda image: (own.to_latents(image),)
  found, back = jax.jit(lambda image, z: (moments(image), own.decode(z)))(image, z)
  for have, want in zip(found, latents, strict=True):
    assert distance(have, ours(want)) < BOUND
  found = own.normalise(found[0])
  assert odd or found.shape[1:] == config.latent_shape(config.image_shape(16, 24))
  assert distance(found, z) < BOUND
  want = ours(their_image(model, latents[0]))
  assert distance(back, want) < BOUND and np.mean(np.abs(want) < 1) > 0.2


def test_codes_are_theirs(folder):
  model, (own, config, _) = build("vq"), opened(folder("vq"))
  z = image_of(8, 8)
  with torch.no_grad():
    x = theirs(z / config.scale)
    quantised, _, (_, _, indices) = model.quantize(x)
  found = own.indices(z)
  assert len(np.unique(found)) > 4
  np.testing.assert_array_equal(np.asarray(found).ravel(), indices.numpy())
  assert distance(own.lookup(found), config.scale * ours(quantised)) < 1e-6
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


@pytest.mark.parametrize("name", [name for name in ALL if "qwen" not in str(name)])
def test_folders_come_back(name, folder, tmp_path):
  kind, model = CASES[name][0], build(name)
  _, config, params = load(folder(name))
  for many in (5 * 10**9, 100_000) if name == "flux2" else (5 * 10**9,):
    save(tmp_path / f"{many}", config, params, shard_bytes=many)
    back, info = getattr(diffusers, kind).from_pretrained(
      tmp_path / f"{many}", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    state, new = model.state_dict(), back.state_dict()
    assert state.keys() == new.keys() and all(torch.equal(state[n], new[n]) for n in state)
    plain = lambda c: {k: json.dumps(v) for k, v in dict(c).items() if not k.startswith("_")}
    assert plain(back.config) == plain(model.config)
    jax.tree.map(np.testing.assert_array_equal, params, load(tmp_path / f"{many}")[2])


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


SIZES = {
  "SD 1.5": (KLConfig(), 83_653_863),
  "SDXL": (KLConfig(scale=0.13025, sample_size=1024), 83_653_863),
  "SD3": (KLConfig(16, scale=1.5305, shift=0.0609, quant=False, post_quant=False), 83_819_683),
  "FLUX.1": (KLConfig(16, scale=0.3611, shift=0.1159, quant=False, post_quant=False), 83_819_683),
  "FLUX.2": (Flux2KLConfig(), 84_046_115),
  "Qwen-Image": (QwenImageVAEConfig(), 126_892_531),
  "VQ f4": (VQConfig(), 55_322_782),
  "VQ f16": (VQConfig(256, (128, 128, 256, 256, 512), codes=16384, attends=(4,)), 76_073_859),
}


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
  assert read == (44_599_603 if name == "Qwen-Image" else count)


@pytest.mark.proof
@pytest.mark.parametrize("name", ["sd"])
def test_bfloat16_activations_are_near(name, folder):
  own, _, _ = opened(folder(name))
  narrow, _, _ = opened(folder(name), activations="bfloat16")
  z = image_of(8, 8, 4)
  found, want = jax.jit(lambda z: (narrow.decode(z), own.decode(z)))(z)
  assert found.dtype == jnp.float32 and 1e-4 < distance(found, want) < 0.1
