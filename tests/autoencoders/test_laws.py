"""What holds for every autoencoder, and for images larger than a tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.autoencoders import AUTOENCODERS, Ratio, check_finite, tiled
from t2i_jax.autoencoders.layers import attend_in_chunks
from t2i_jax.autoencoders.tiling import starts, weights
from t2i_jax.config import build
from t2i_jax.errors import ConfigError, NotFinite
from t2i_jax.models.attention import attend
from t2i_jax.models.convolution import GroupNorm
from t2i_jax.models.params import abstract_of, init_params, with_params

# As in config.autoencoder, with the channels of the backbone.
TINY = {
  "kl(widths=(4, 8), layers=1, groups=2, sample_size=8)": 3,
  "kl_flux2(widths=(4, 8), layers=1, groups=2, sample_size=8)": 8,
  "qwen_image(base=4, multipliers=(1, 2), layers=1, latents_mean=(0, 1), latents_std=(2, 3),"
  " halves_time=(True,), sample_size=8)": 2,
  "vq(widths=(4, 8), layers=1, groups=2, codes=16, attends=(1,), sample_size=8)": 3,
  "fsq(levels=(4, 3), widths=(4, 8), layers=1, groups=2, sample_size=8)": 2,
  "lfq(widths=(4, 8), layers=1, groups=2, sample_size=8)": 3,
}
IDS = [text.partition("(")[0] for text in TINY]


def config_of(text, **more):
  added = "".join(f", {key}={value!r}" for key, value in more.items())
  return build(AUTOENCODERS, f"{text.rstrip(')')}{added})", "autoencoder", TINY[text])


def random(shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


FEW = [
  pytest.param(text, marks=() if name in ("kl_flux2", "vq") else pytest.mark.proof, id=name)
  for text, name in zip(TINY, IDS, strict=True)
]


@pytest.mark.parametrize("text", FEW)
def test_shapes_and_gradients(text):
  """Through encoder and decoder, by every weight: finite, and zero for statistics only."""
  c = config_of(text)
  params = init_params(c.make, jax.random.key(0))
  image = jnp.asarray(random((2, 8, 12, 3)))

  def loss(params, image):
    model = with_params(c.make)(params)
    z = model.encode(image, jax.random.key(1))
    back = model.decode(z)
    # Without limits, that a gradient passes them.
    return jnp.mean(jnp.square(back - image)), (z, back)

  (_, (z, back)), found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
    params, image
  )
  assert z.shape == (2, *c.latent_shape(c.image_shape(8, 12))) and back.shape == image.shape
  assert z.dtype == back.dtype == jnp.float32
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
  still = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, leaf in jax.tree.leaves_with_path(found[0])
    if not np.any(leaf)
  ]
  assert still == {"kl_flux2": ["mean", "var"], "vq": ["codebook"]}.get(text.partition("(")[0], [])


@pytest.mark.parametrize("text", TINY, ids=IDS)
def test_shapes_in_tiles(text):
  c = config_of(text, tiling="smooth")
  params, model = abstract_of(c.make), with_params(c.make)
  image = jax.ShapeDtypeStruct((1, 8, 20, 3), jnp.float32)
  z = jax.eval_shape(lambda params, x: model(params).encode(x), params, image)
  assert z.shape == (1, *c.latent_shape(image.shape[1:]))
  back = jax.eval_shape(lambda params, z: model(params).decode(z), params, z)
  assert back.shape == image.shape


def test_up_to_one_tile_the_program_is_the_same():
  text = next(iter(TINY))
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  programs = []
  for tiling in ("", "smooth", "diffusers"):
    c = config_of(text, tiling=tiling)
    encode = jax.jit(lambda p, x, model=c.make: with_params(model)(p).encode(x))
    programs.append(encode.lower(abstract_of(c.make), image).as_text())
  assert programs[0] == programs[1] == programs[2]


def test_sizes_that_are_refused():
  c = AUTOENCODERS["kl"](4)
  with pytest.raises(ConfigError, match=r"60 x 64 is not a multiple .* factor 8: use 56 x 64"):
    c.latent_shape((60, 64, 3))
  with pytest.raises(ConfigError, match=r"widths = \(6, 8\) must be multiples of groups = 4"):
    AUTOENCODERS["kl"](4, widths=(6, 8), groups=4)
  with pytest.raises(ConfigError, match="channels = 6 of 2 x 2 latents"):
    AUTOENCODERS["kl_flux2"](6)
  with pytest.raises(ConfigError, match=r"latents_std has 1 values; there are 4 channels"):
    AUTOENCODERS["kl"](4, latents_mean=(0.0,) * 4, latents_std=(1.0,))
  with pytest.raises(ConfigError, match=r"shift = 0\.1 cannot be used with latents_mean"):
    AUTOENCODERS["kl"](4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4, shift=0.1)
  odd = jnp.zeros((1, 12, 33, 1))
  with pytest.raises(ConfigError, match=r"12 x 33 cannot be tiled.*Crop it to 12 x 32"):
    tiled("smooth", lambda x: x, odd, Ratio(2, 1), 8)
  with pytest.raises(ConfigError, match="tiles of 6 latents"):
    tiled("smooth", lambda x: x, odd, Ratio(1, 1), 6)


@pytest.mark.parametrize("length, tile", [(8, 8), (9, 8), (17, 8), (64, 12), (100, 16)])
def test_tiles_cover_a_side_and_their_weights_add_up(length, tile):
  first = starts(length, tile)
  assert first[0] == 0 and first[-1] == length - min(tile, length)
  assert (np.diff(first) <= tile - tile // 4).all()
  total = np.zeros(length)
  for start, row in zip(first, weights(first, tile), strict=True):
    assert (row >= 0).all()
    total[start : start + tile] += row
  np.testing.assert_allclose(total, 1)


def test_context_is_wide_enough_for_what_is_local():
  """A 5 x 5 mean: equal to the whole, where diffusers' tiles have seams from their padding."""

  def blur(x):
    kernel = jnp.full((5, 5, 1, 1), 1 / 25)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)

  x = 2 + jnp.asarray(random((1, 150, 90, 1)))
  whole, error = blur(x), {}
  for how in ("smooth", "diffusers"):
    found = jax.jit(lambda x, how=how: tiled(how, blur, x, Ratio(1, 1), 64))(x)
    error[how] = float(jnp.max(jnp.abs(found - whole)))
  assert error["smooth"] < 1e-5 and error["diffusers"] > 0.1


@pytest.mark.newest
def test_attention_in_chunks_is_the_whole():
  q, k, v = (jnp.asarray(random((2, 11, 1, 4), seed)) for seed in range(3))
  found = attend_in_chunks(q, k, v, size=4)
  np.testing.assert_allclose(found, attend(q, k, v), atol=1e-6)


def test_group_norm_keeps_its_digits_far_from_zero():
  """At a mean of 1000 standard deviations, where E[x^2] - E[x]^2 is lost in float32."""
  params = init_params(lambda rngs: GroupNorm(rngs, 4, groups=2), jax.random.key(0))
  x = 1000 + random((1, 8, 8, 4))
  exact = x.astype(np.float64).reshape(1, 64, 2, 2)
  exact = (exact - exact.mean((1, 3), keepdims=True)) / exact.std((1, 3), keepdims=True)
  found = with_params(_group_norm)(params)(jnp.asarray(x))
  np.testing.assert_allclose(found.reshape(exact.shape), exact, atol=1e-3)


def _group_norm(rngs):
  return GroupNorm(rngs, 4, groups=2)


def test_the_module_that_gives_nan_is_named():
  text = next(iter(TINY))
  c = config_of(text, activations="bfloat16")
  params = init_params(c.make, jax.random.key(0))
  image, z = random((1, 4, 4, 3)), random((1, 2, 2, 3))
  model = with_params(c.make)
  check_finite(model(params), "encode", image)
  with pytest.raises(NotFinite, match="decode: z has NaN or infinity"):
    check_finite(model(params), "decode", z * np.nan)
  level = params["decoder"]["level_1"]["first"]["res"]["conv1"]
  level["bias"] = level["bias"].at[0].set(jnp.inf)
  with pytest.raises(NotFinite, match=r"decode: decoder/level_1 gives .*float32.*bfloat16"):
    check_finite(model(params), "decode", z)
