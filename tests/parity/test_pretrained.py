"""Published folders, written by diffusers: read, and written so that diffusers reads them again.

What they answer is in test_models.
"""

import copy
import inspect
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_published import in_the_authors_layout

from t2i_jax.pretrained import SPECS, load, load_file, save
from t2i_jax.pretrained.flux_original import FLUX_ORIGINAL
from t2i_jax.pretrained.names import stored_shapes
from t2i_jax.pretrained.positions import sincos_rows
from t2i_jax.pretrained.sd3_original import SD3_ORIGINAL
from t2i_jax.pretrained.single_file import PREFIX
from t2i_jax.pretrained.spec import abstract_params, read_config, shapes_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


from benchmarks.model_parity import CASES, SIZES, build, read  # noqa: E402
from benchmarks.model_sizes import config_of  # noqa: E402

# Cases that differ in their folders, not only in what the model is called on.
FOLDERS = [
  "class_dit", "class_dit_patch4", "pixart", "pixart_sizes", "sd3", "sd3_dual", "sd3_all_dual",
  "flux", "flux_guided", "flux2", "flux2_unguided", "qwen_image", "z_image",
  "controlnet_odd", "controlnet_sdxl", "sd3_controlnet", "flux_controlnet",
  "flux_controlnet_double",
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_one_file_or_several_are_the_same_and_come_back(name, tmp_path):
  kind, model = CASES[name].theirs, build(name)
  model.save_pretrained(tmp_path / "several", max_shard_size="40KB")
  assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
  module, config, params = read(name)
  again = load(tmp_path / "several")
  assert module is SPECS[kind].module and again[1] == config
  jax.tree.map(np.testing.assert_array_equal, params, again[2])

  save(tmp_path / "ours", config, params, shard_bytes=100_000)
  back, info = getattr(diffusers, kind).from_pretrained(
    tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
  )
  assert not any(info.values()), info
  state, new = model.state_dict(), back.state_dict()
  assert state.keys() == new.keys()
  assert [n for n in state if not torch.equal(state[n], new[n])] == []
  want, have = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("several", "ours"))
  assert want.keys() - have.keys() == set()


@pytest.mark.parametrize("name", ["sd3_dual", "flux"])
def test_half_precision_folders(name, tmp_path):
  """bfloat16 of theirs is read as it is; ours is theirs again."""
  kind = CASES[name].theirs
  model = copy.deepcopy(build(name)).to(torch.bfloat16)
  model.save_pretrained(tmp_path / "theirs")
  _, config, params = load(tmp_path / "theirs")
  save(tmp_path / "ours", config, params, dtype="bfloat16")
  back = getattr(diffusers, kind).from_pretrained(tmp_path / "ours", torch_dtype=torch.bfloat16)
  state, new = model.state_dict(), back.state_dict()
  assert [n for n in state if not torch.equal(state[n], new[n])] == []


@pytest.mark.parametrize("interpolation", [1, 2])
def test_positions_digit_for_digit(interpolation):
  """Of a table whose places are no round numbers, as Stable Diffusion 3 has it."""
  from diffusers.models.embeddings import get_2d_sincos_pos_embed

  theirs = get_2d_sincos_pos_embed(96, 48, base_size=17, interpolation_scale=interpolation)
  ours = sincos_rows(96, 48, 17, interpolation, np.arange(48**2))
  np.testing.assert_array_equal(ours, theirs.float().numpy())


@pytest.mark.parametrize("name", ["flux", "flux_guided", "sd3", "sd3_dual"])
def test_original_files_as_diffusers_converts_them(name, tmp_path):
  """Random tensors in the authors' layout: by diffusers into a folder that is read, or by us."""
  from diffusers.loaders import single_file_utils as theirs

  model = copy.deepcopy(build(name))
  _, config, params = read(name)
  original = FLUX_ORIGINAL if name.startswith("flux") else SD3_ORIGINAL
  rng = np.random.default_rng(2)
  file = in_the_authors_layout(original, config, params)
  file = {key: rng.standard_normal(leaf.shape, np.float32) for key, leaf in file.items()}
  if original is FLUX_ORIGINAL:
    # The width is written into it as a number.
    source = inspect.getsource(theirs.convert_flux_transformer_checkpoint_to_diffusers)
    space = dict(vars(theirs))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {config.width}"), space)
    convert = space["convert_flux_transformer_checkpoint_to_diffusers"]
    changes, prefix = {"rope_axes": config.rope_axes}, ""
  else:
    convert, prefix = theirs.convert_sd3_transformer_checkpoint_to_diffusers, PREFIX
    file["pos_embed"] = model.state_dict()["pos_embed.pos_embed"].numpy()
    changes = {"side": config.side, "heads": config.heads}
  others = {"first_stage_model.x": np.zeros(3, np.float32)} if prefix else {}
  stored = {prefix + key: leaf for key, leaf in file.items()} | others
  save_file(stored, tmp_path / "original.safetensors")
  converted = convert({key: torch.tensor(leaf) for key, leaf in file.items()})
  model.load_state_dict(converted, strict=True)
  model.save_pretrained(tmp_path / "converted")

  module, inferred, ours = load_file(tmp_path / "original.safetensors", **changes)
  assert module is CASES[name].spec.module and inferred == config
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "converted")[2], ours)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_these_tensors(name):
  """Without a weight: names and shapes of the whole model on both sides, and how many there are."""
  size = SIZES[name]
  config = config_of(size)
  spec = next(spec for spec in SPECS.values() if spec.config is type(config))
  with torch.device("meta"):
    model = getattr(diffusers, spec.hf_class)(**size.theirs)
  assert sum(parameter.numel() for parameter in model.parameters()) == size.stored
  assert read_config(spec, dict(model.config), name) == config
  theirs = {key: tuple(leaf.shape) for key, leaf in model.state_dict().items()}
  ours = stored_shapes(spec.entries(config), shapes_of(abstract_params(spec.module, config)))
  ours |= {key: b.shape for key, b in spec.buffers(config).items() if b.saved}
  assert ours == theirs


@pytest.mark.parametrize("kind", [k for k, spec in SPECS.items() if spec.library == "diffusers"])
def test_every_key_of_the_config_is_known_with_its_default(kind):
  spec = SPECS[kind]
  parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
  defaults = {key: p.default for key, p in parameters.items() if key != "self"}
  known = {**spec.keys, **spec.fixed, **spec.ignored}
  plain = lambda value: tuple(value) if isinstance(value, list) else value
  assert {key: plain(v) for key, v in defaults.items()} == {k: plain(v) for k, v in known.items()}
