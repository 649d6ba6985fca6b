"""Folders written and read again, onto one device and onto eight; slices only."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tiny_published import CONFIGS, random_params

from t2i_jax.errors import ConfigError, MeshError, RestoreError, WorkdirError
from t2i_jax.models.dit import DiTConfig
from t2i_jax.models.params import axes_of
from t2i_jax.parallel import make_mesh, shardings
from t2i_jax.pretrained import load, open_folder, save
from t2i_jax.pretrained.fill import Faults, read_shard
from t2i_jax.pretrained.known import spec_for
from t2i_jax.pretrained.spec import flat, make_of
from t2i_jax.pretrained.tensors import Tensors, open_tensors

SHARD_BYTES = 60_000


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_sharded_from_several_files(name, tmp_path):
  config = CONFIGS[name]
  params = random_params(config)
  save(tmp_path / "new", config, params, shard_bytes=SHARD_BYTES)
  files = sorted(path.name for path in (tmp_path / "new").iterdir())
  assert len(files) > 3 and [path.name for path in tmp_path.iterdir()] == ["new"]
  mesh = make_mesh(2, 2, 2)
  module, again, read = load(tmp_path / "new", mesh)
  assert module is spec_for(config).module and again == config
  same(params, read)
  onto = shardings(axes_of(make_of(module, config)), mesh)
  jax.tree.map(lambda x, where: x.sharding.is_equivalent_to(where, x.ndim) or 1 / 0, read, onto)
  save(tmp_path / "again", config, read)  # from eight devices, into one file
  same(params, load(tmp_path / "again", onto)[2])


@pytest.mark.parametrize("name", ["class_dit", "sd3_dual", "flux2"])
def test_bfloat16_and_float16_values_are_exact(name, tmp_path):
  config = CONFIGS[name]
  for dtype in ("bfloat16", "float16"):
    params = random_params(config, dtype=jnp.dtype(dtype))
    save(tmp_path / dtype, config, params, dtype=dtype)
    same(params, load(tmp_path / dtype)[2])
    narrow = load(tmp_path / dtype, dtype=jnp.dtype(dtype))[2]
    assert {x.dtype.name for x in jax.tree.leaves(narrow)} == {dtype}
    same(params, jax.tree.map(lambda x: np.asarray(x, np.float32), narrow))


def test_what_is_too_large_for_float16_is_named(tmp_path):
  config = CONFIGS["qwen_image"]
  params = random_params(config)
  params["text_in"]["bias"][3] = 1e6
  save(tmp_path / "new", config, params)
  with pytest.raises(RestoreError, match=r"infinity, as float16, in txt_in\.bias\."):
    load(tmp_path / "new", dtype=np.float16)
  load(tmp_path / "new", dtype=jnp.bfloat16)


def test_float32_is_rounded_to_the_nearest_bfloat16(tmp_path):
  config = CONFIGS["qwen_image"]
  params = random_params(config)
  save(tmp_path / "new", config, params, dtype="bfloat16")
  near = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params)
  same(near, load(tmp_path / "new")[2])


def test_what_runs_may_be_changed(tmp_path):
  config = CONFIGS["flux_guided"]
  save(tmp_path / "new", config, random_params(config))
  spec, same_config = open_folder(tmp_path / "new")
  assert spec.hf_class == "FluxTransformer2DModel" and same_config == config
  _, changed, _ = load(tmp_path / "new", remat="full", guidance=2.0)
  assert (changed.remat, changed.guidance) == ("full", 2.0)
  with pytest.raises(ConfigError, match=r"width cannot be changed.*remat"):
    load(tmp_path / "new", width=64)
  with pytest.raises(ConfigError, match="remat = 'nonesuch'"):
    load(tmp_path / "new", remat="nonesuch")


def test_old_folders_of_dit_and_pixart(tmp_path):
  for name in ("class_dit", "pixart"):
    config = CONFIGS[name]
    save(tmp_path / name, config, random_params(config))
    path = tmp_path / name / "config.json"
    content = json.loads(path.read_text())
    content |= {"_class_name": "Transformer2DModel", "num_vector_embeds": None}
    path.write_text(json.dumps(content | {"use_linear_projection": False}))
    assert open_folder(tmp_path / name)[1] == config


@pytest.fixture
def count_bytes(monkeypatch):
  read, sizes = Tensors.read, []

  def counting(self, name, slices):
    found = read(self, name, slices)
    sizes.append(found.nbytes)
    return found

  monkeypatch.setattr(Tensors, "read", counting)
  return sizes


@pytest.mark.newest
@pytest.mark.parametrize("name", ["flux", "flux2", "pixart_sizes", "qwen_image", "z_image"])
@pytest.mark.parametrize("sides", [(1, 8, 1), (1, 2, 4), (2, 4, 1)])
def test_devices_read_their_slices_only(name, sides, count_bytes, tmp_path):
  """All shards together read each number once, those on several devices too."""
  config = CONFIGS[name]
  params = random_params(config)
  save(tmp_path / "new", config, params)
  total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  count_bytes.clear()
  read = load(tmp_path / "new", make_mesh(*sides))[2]
  same(params, read)
  assert sum(count_bytes) == total
  largest = max(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(read))
  assert max(count_bytes) <= largest


def test_one_device_of_eight_reads_an_eighth(count_bytes, tmp_path):
  """What a process with one device would read."""
  config = CONFIGS["flux"]
  params = random_params(config)
  save(tmp_path / "new", config, params)
  mesh = make_mesh(1, 8, 1)
  onto = flat(shardings(axes_of(make_of(spec_for(config).module, config)), mesh))
  own = 0
  for path, leaf in flat(params).items():
    index = onto[path].addressable_devices_indices_map(leaf.shape)[mesh.devices.flat[3]]
    own += leaf[index].nbytes
  count_bytes.clear()
  spec, shapes = spec_for(config), {path: leaf.shape for path, leaf in flat(params).items()}
  with open_tensors(tmp_path / "new").tensors as tensors:
    for entry in spec.entries(config):
      shape = shapes[entry.path]
      index = onto[entry.path].addressable_devices_indices_map(shape)[mesh.devices.flat[3]]
      bounds = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
      shard = read_shard(entry, shape, bounds, np.float32, tensors, Faults())
      np.testing.assert_array_equal(shard, flat(params)[entry.path][index])
  assert sum(count_bytes) == own < 0.2 * sum(leaf.nbytes for leaf in flat(params).values())


def test_a_mesh_that_does_not_divide(tmp_path):
  config = CONFIGS["flux"]
  save(tmp_path / "new", config, random_params(config))
  with pytest.raises(MeshError, match="heads = 4"):
    load(tmp_path / "new", make_mesh(1, 1, 8))


def test_save_refuses(tmp_path):
  config = CONFIGS["flux"]
  params = random_params(config)
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "a").touch()
  with pytest.raises(WorkdirError, match="full is not empty"):
    save(tmp_path / "full", config, params)
  (tmp_path / "file").touch()
  with pytest.raises(WorkdirError, match="not empty"):
    save(tmp_path / "file", config, params)
  with pytest.raises(WorkdirError, match="cannot be written"):
    save(tmp_path / "file" / "under", config, params)
  with pytest.raises(ConfigError, match="dtype = 'float64'"):
    save(tmp_path / "new", config, params, dtype="float64")
  with pytest.raises(ConfigError, match="a DiTConfig has no published layout"):
    save(tmp_path / "new", DiTConfig.__new__(DiTConfig), params)
  with pytest.raises(ConfigError, match="patch_in/kernel is missing"):
    save(tmp_path / "new", config, {k: v for k, v in params.items() if k != "patch_in"})
  other = random_params(CONFIGS["flux_guided"])
  with pytest.raises(ConfigError, match=r"is \(1, .* and should be \(2, "):
    save(tmp_path / "new", config, other)
  with pytest.raises(ConfigError, match="attend_padding = False cannot be written"):
    save(tmp_path / "new", dataclasses.replace(config, attend_padding=False), params)
  params["head"]["bias"][0] = np.nan
  with pytest.raises(RestoreError, match=r"NaN or infinity, as float32, in proj_out\.bias"):
    save(tmp_path / "new", config, params, shard_bytes=SHARD_BYTES)
  params["head"]["bias"][0] = 1e6
  with pytest.raises(RestoreError, match=r"as float16, in proj_out\.bias.*dtype='float32'"):
    save(tmp_path / "new", config, params, dtype="float16")
  assert {path.name for path in tmp_path.iterdir()} == {"full", "file"}


def test_save_fills_an_empty_folder(tmp_path):
  config = CONFIGS["flux"]
  (tmp_path / "new").mkdir()
  save(tmp_path / "new", config, random_params(config))
  assert open_folder(tmp_path / "new")[1] == config
