"""Latents on disk: the same bits however they were made, never stale, and what training reads."""

import dataclasses
import io
import json
import shutil
import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_published import random_params

from t2i_jax import pretrained
from t2i_jax.autoencoders import Flux2KLConfig, KLConfig, VQConfig
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.data import pieces
from t2i_jax.data.build import build
from t2i_jax.data.from_folder import Folder
from t2i_jax.data.images import read_latent
from t2i_jax.data.latents import latents_of
from t2i_jax.data.source import ShardSource, manifest_hash
from t2i_jax.data.verify import verify
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.models import with_params
from t2i_jax.systems import make_system
from t2i_jax.systems.system import unit_range
from t2i_jax.training.cached import check_weights, latents_in, reading
from t2i_jax.training.encode import encode
from t2i_jax.training.encode_images import Encoder

VAE = KLConfig(widths=(8, 16), layers=1, groups=4, sample_size=32)
# Kills itself after so many pieces; its arguments are those of `t2i`.
KILLED = """
import os, signal, sys
from t2i_jax.cli.main import main
from t2i_jax.data import pieces
pieces.PIECE, write, left = 4, pieces.write_piece, [3]
def and_die(*piece):
  write(*piece)
  left[0] -= 1
  if not left[0]:
    os.kill(os.getpid(), signal.SIGKILL)
pieces.write_piece = and_die
sys.exit(main(sys.argv[1:]))
"""
WHOLE = """
import sys
from t2i_jax.cli.main import main
from t2i_jax.data import pieces
pieces.PIECE = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
  return saved_vae(tmp_path_factory.mktemp("vae") / "vae", VAE, 0)


def saved_vae(folder, config, seed):
  params = jax.tree.map(lambda x: 0.3 * x, random_params(config, seed))
  if "var" in params:
    params["var"] = np.abs(params["var"])
  pretrained.save(folder, config, params)
  return folder


def images(folder, names, size=(8, 12)):
  folder.mkdir()
  for name in names:
    rng = np.random.default_rng(name)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name:02d}.png")
    (folder / f"{name:02d}.txt").write_text(f"image {name}")


def data_of(folder, out, **how):
  build(Folder(str(folder), val_fraction=0.2), out, workers=1, progress=False, **how)
  return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("images")
  images(folder / "in", range(22))
  return data_of(folder / "in", folder / "D", shard_records=7)


@pytest.fixture(scope="module")
def encoded(vae, data, tmp_path_factory):
  """Encoded in one go, on one device, three images at once, in pieces of four."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pieces, "PIECE", 4)
    on_one(patch)
    out = tmp_path_factory.mktemp("encoded") / "E"
    encode(data, vae, out, batch=3, progress=False)
  return out


def on_one(patch):
  local = jax.local_devices()[:1]
  patch.setattr(jax, "local_devices", lambda *_: local)


def contents(folder, but=()):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in but}


def by_key(folder):
  """Latents by the key of their record, of all splits."""
  found = {}
  for split in json.loads((folder / "manifest.json").read_text())["splits"]:
    source = ShardSource(folder, split)
    found |= {source[i].key: source[i] for i in range(len(source))}
  return found


def test_the_arrays_are_mean_and_deviation_of_the_posterior(encoded, data, vae):
  latents = latents_of(encoded)
  assert latents.shape == (4, 6, 4) and latents.row_shape == (4, 6, 8)
  assert not verify(encoded, workers=1, progress=False)
  encoder = Encoder(vae, 1, False)
  module = with_params(VAE.make)(encoder.params)
  images = by_key(data)
  for key, record in list(by_key(encoded).items())[:3]:
    assert record.captions == images[key].captions and record.meta["sizes"] == [8, 12, 0, 0]
    pixels = unit_range(np.asarray(Image.open(io.BytesIO(images[key].image)))[None])
    mean, logvar = module.moments(pixels)
    expected = np.concatenate([mean * VAE.scale, np.exp(0.5 * logvar) * VAE.scale], -1)[0]
    np.testing.assert_allclose(read_latent(record.image), expected, rtol=1e-5, atol=1e-6)


def test_place_padding_and_devices_change_no_bit(encoded, vae, data, tmp_path):
  """On eight devices, in other pieces, and of a folder of fewer images in another order."""
  encode(data, vae, tmp_path / "E", batch=3, progress=False)
  assert contents(tmp_path / "E") == contents(encoded)
  images(tmp_path / "in", [17, 3, 9, 21, 5])
  few = data_of(tmp_path / "in", tmp_path / "D")
  encode(few, vae, tmp_path / "F", batch=3, progress=False)
  whole = by_key(encoded)
  found = by_key(tmp_path / "F")
  assert len(found) == 5
  assert all(record.image == whole[key].image for key, record in found.items())


def test_another_microbatch_agrees(encoded, vae, data, tmp_path, monkeypatch):
  on_one(monkeypatch)
  encode(data, vae, tmp_path / "E", batch=5, progress=False)
  a, b = (
    np.stack([read_latent(r.image) for r in by_key(folder).values()])
    for folder in (encoded, tmp_path / "E")
  )
  assert np.max(np.abs(a - b)) < 1e-5 * np.max(np.abs(a))


def test_killed_and_run_again_it_is_the_same_to_the_bit(
  encoded, vae, data, tmp_path, start_t2i, monkeypatch
):
  args = ["data", "encode", "--data", data, "--autoencoder", vae, "--to", tmp_path / "E"]
  killed = start_t2i([*args, "--batch", 3], program=("-c", KILLED))
  killed.communicate(timeout=300)
  assert killed.returncode == -signal.SIGKILL
  assert not (tmp_path / "E").exists()
  monkeypatch.setattr(pieces, "PIECE", 4)
  (found,) = encode(data, vae, tmp_path / "E", batch=3, progress=False).counts
  assert found.kept == 12 and found.encoded == 22 - found.kept
  assert contents(tmp_path / "E") == contents(encoded)
  assert [path.name for path in tmp_path.iterdir()] == ["E"]


@pytest.mark.proof
def test_two_processes_give_the_same_bits(encoded, vae, data, tmp_path, start_t2i):
  args = ["data", "encode", "--data", data, "--autoencoder", vae, "--to", tmp_path / "E"]
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    shared = {"T2I_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "T2I_PROCESSES": "2"}
  outs = [
    start_t2i([*args, "--batch", 3], 4, env=shared | {"T2I_PROCESS": str(i)}, program=("-c", WHOLE))
    for i in range(2)
  ]
  said = [process.communicate(timeout=300)[0] for process in outs]
  assert [process.returncode for process in outs] == [0, 0], said
  assert contents(tmp_path / "E") == contents(encoded)


def test_what_changed_is_encoded_again_and_nothing_else(encoded, vae, data, tmp_path):
  images(tmp_path / "in", range(22))
  (tmp_path / "in/04.png").write_bytes((tmp_path / "in/05.png").read_bytes())  # known already
  Image.new("RGB", (12, 8), "red").save(tmp_path / "in/07.png")
  (tmp_path / "in/08.txt").write_text("another caption")
  out = shutil.copytree(encoded, tmp_path / "E")
  changed = data_of(tmp_path / "in", tmp_path / "D")
  (again,) = encode(changed, vae, out, batch=3, progress=False).counts
  assert (again.encoded, again.kept) == (1, 21)
  before, now = by_key(encoded), by_key(out)
  assert now["08.png"].captions == ("another caption",)
  assert now["08.png"].image == before["08.png"].image
  assert now["04.png"].image == now["05.png"].image == before["05.png"].image
  assert now["07.png"].image != before["07.png"].image
  for how in ({"mode": True}, {"dtype": "float16"}, {"size": (8, 8)}):  # two images are one
    assert encode(changed, vae, out, batch=3, progress=False, **how).counts[0].kept <= 1
  other = saved_vae(tmp_path / "vae", VAE, 1)
  assert encode(changed, other, out, batch=3, progress=False).counts[0].kept <= 1


def test_what_cannot_be_encoded_is_refused(encoded, vae, data, tmp_path):
  images(tmp_path / "in", [1, 2])
  Image.new("RGB", (4, 4)).save(tmp_path / "in/01.png")
  uneven = data_of(tmp_path / "in", tmp_path / "D")
  transformer = tmp_path / "transformer"
  transformer.mkdir()
  for given, words in (
    ((encoded, vae, tmp_path / "E"), "holds latents already"),
    ((data, vae, data), "holds images, not latents"),
    ((uneven, vae, tmp_path / "E"), r"several sizes \(4x4, 8x12"),
  ):
    with pytest.raises(DataError, match=words):
      encode(*given, progress=False)
  for how, words in (
    ({"splits": ["none"]}, "has no split 'none'"),
    ({"size": (9, 12)}, "not a multiple of the autoencoder's factor 2"),
    ({"dtype": "int8"}, "--dtype=int8 is not one of"),
  ):
    with pytest.raises((DataError, ConfigError), match=words):
      encode(data, vae, tmp_path / "E", progress=False, **how)
  assert not (tmp_path / "E").exists()


# -- what training reads


def config_of(folder, vae, **changes):
  given = {
    "data.dir": str(folder), "data.image_size": "(8, 12)", "model.channels": "4",
    "model.patch": "2", "text.tokenizer": "bytes", "text.vocab": "264",
    "autoencoder": f"folder(path={str(vae)!r})",
  }  # fmt: skip
  config = load_config(Path(__file__).parents[2] / "configs/scenes_dit_flow.py", given)
  with config.unlocked():
    config.parts.vae = {"start": f"folder:{vae}", "train": "none"} | changes
  return config


def system_of(config):
  from t2i_jax.data.tokenize import Tokenizer

  return make_system(config, Tokenizer.bytes())


def test_a_sample_is_that_of_the_pixels(encoded, data, vae):
  """x0 of a step from the cache and from images, with the same key; other keys, other samples."""
  config = config_of(encoded, vae)
  system = system_of(config)
  reads = reading(system, latents_in(config), config)
  params = {"vae": Encoder(vae, 1, False).params}
  pixels, stored = ShardSource(data, "train"), ShardSource(encoded, "train")
  rng = np.random.default_rng(0)
  of = lambda one, source: np.concatenate(
    [one.row_maker("truncate")([source[i]], rng).images for i in range(4)]
  )
  images, moments = of(system, pixels), of(reads, stored)
  assert images.shape == (4, 8, 12, 3) and moments.shape == (4, 4, 6, 8)
  assert reads.rows(2).images.shape == (2, 1, 4, 6, 8)
  scale = np.abs(moments).max()
  rows = np.arange(7, 11)
  for key in (None, jax.random.key(3)):
    a, b = system.encode(params, images, key, rows), reads.encode({}, moments, key, rows)
    assert a.shape == (4, *system.x_shape)
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
  shifted = reads.encode({}, moments, jax.random.key(4), rows)
  assert np.abs(np.asarray(shifted - b)).max() > 0.01
  # An image's sample depends on its row's number alone.
  alone = reads.encode({}, moments[2:3], jax.random.key(3), rows[2:3])
  np.testing.assert_array_equal(alone[0], b[2])


def test_stale_latents_are_refused_by_name(encoded, data, vae, tmp_path):
  config, latents = config_of(encoded, vae), latents_of(encoded)
  check_weights(config, latents, {"vae": latents.weights})
  with pytest.raises(DataError, match=rf"weights {latents.weights} .* has 0123"):
    check_weights(config, latents, {"vae": "0123"})
  with config.unlocked():
    config.data.val_split = "test"
  with pytest.raises(DataError, match="no latents of the split 'test', only of train, val"):
    latents_in(config)
  folder, images_of = tmp_path / "E", tmp_path / "D"
  shutil.copytree(encoded, folder)
  shutil.copytree(data, images_of)
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["latents"]["images"] = str(images_of)
  (folder / "manifest.json").write_text(json.dumps(manifest))
  latents_in(config_of(folder, vae))
  with (images_of / "manifest.json").open("a") as file:
    file.write("\n")
  now = manifest_hash(images_of)[:12]
  with pytest.raises(DataError, match=rf"has the hash {now}, {latents.images_hash[:12]} when"):
    latents_in(config_of(folder, vae))
  shutil.rmtree(images_of)
  latents_in(config_of(folder, vae))  # they are elsewhere


def test_a_config_that_does_not_fit_the_latents(encoded, vae, tmp_path):
  config = config_of(encoded, vae)
  latents = latents_of(encoded)
  system = system_of(config)
  larger = dataclasses.replace(system, image_shape=(16, 16, 3))
  with pytest.raises(ConfigError, match=r"images of 8 x 12. Use data.image_size=\(8, 12\)"):
    reading(larger, latents, config)
  with pytest.raises(ConfigError, match="it is another autoencoder"):
    reading(system, dataclasses.replace(latents, shape=(4, 6, 16)), config)
  other = dataclasses.replace(VAE, scale=1.5, tiling="smooth")
  with pytest.raises(DataError, match=r"of a KLConfig\(.*scale=0.18215.* is a KL.*scale=1.5"):
    reading(dataclasses.replace(system, autoencoder=other), latents, config)
  with pytest.raises(ConfigError, match=r"data.crop = 'random': .* the centre of each image"):
    cropped = config_of(encoded, vae)
    cropped.data.crop = "random"
    reading(system, latents, cropped)
  with pytest.raises(ConfigError, match=r"Use parts\.vae\.train='none'"):
    reading(system, latents, config_of(encoded, vae, train="all"))


@pytest.mark.parametrize(
  "config",
  [
    Flux2KLConfig(channels=16, widths=(8, 16), layers=1, groups=4, sample_size=32),
    VQConfig(channels=4, widths=(8, 16), layers=1, groups=4, codes=8, sample_size=32),
  ],
  ids=["flux2", "vq"],
)
def test_other_autoencoders(config, data, tmp_path, monkeypatch):
  """Statistics and pairs of latents are part of what is stored; one without a posterior has one."""
  on_one(monkeypatch)
  vae = saved_vae(tmp_path / "vae", config, 0)
  encode(data, vae, tmp_path / "E", size=(8, 16), progress=False)
  latents = latents_of(tmp_path / "E")
  assert latents.stored == ("mode" if isinstance(config, VQConfig) else "moments")
  assert latents.shape == config.latent_shape((8, 16, 3))
  assert Encoder(vae, 1, True).stored == "mode"


def test_the_command_says_size_and_counts(vae, data, tmp_path, capsys):
  args = ["data", "encode", f"--data={data}", f"--autoencoder={vae}", f"--to={tmp_path / 'E'}"]
  assert main([*args, "--splits=val", "--mode", "--batch=3"]) == 0
  said = capsys.readouterr().out.splitlines()
  n = len(ShardSource(data, "val"))
  assert said[0].endswith(
    f"E: latents 4 x 6 x 4 of images 8 x 12, mean, float32: {n} of 384 bytes, "
    f"{n * 384 / 1e9:.3g} GB"
  )
  assert said[-1].endswith(f"E: val {n} records; {n} images encoded, 0 unchanged")
  assert main([*args[:-1], f"--to={data}"]) == 2
