"""Every way a folder can be wrong is named, before anything is returned."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_published import CONFIGS, random_params

from t2i_jax.errors import RestoreError
from t2i_jax.pretrained import load, save

ONE = "diffusion_pytorch_model.safetensors"
INDEX = f"{ONE}.index.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """Folders of one and of several files. Do not change them."""
  root = tmp_path_factory.mktemp("good")
  names = ("flux", "class_dit", "sd3_dual", "z_image", "qwen_image", "pixart", "unet_sdxl")
  for name in (*names, "controlnet", "sd3_controlnet", "flux_controlnet"):
    params = random_params(CONFIGS[name])
    save(root / name, CONFIGS[name], params)
    save(root / f"{name}_several", CONFIGS[name], params, shard_bytes=60_000)
  return root


@pytest.fixture
def spoil(good, tmp_path):
  """spoil(name, change) -> the message: change(folder) is done to a copy that is then loaded."""

  def message(name, change):
    folder = tmp_path / name
    shutil.copytree(good / name, folder)
    change(folder)
    with pytest.raises(RestoreError) as caught:
      load(folder)
    return str(caught.value)

  return message


def with_config(**keys):
  def change(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))

  return change


def with_tensors(edit):
  def change(folder):
    tensors = load_file(folder / ONE)
    edit(tensors)
    save_file(tensors, folder / ONE)

  return change


def test_no_folder(tmp_path):
  with pytest.raises(RestoreError, match="nothing is not a folder"):
    load(tmp_path / "nothing")


@pytest.mark.parametrize(
  "name, keys, words",
  [
    ("flux", {"_class_name": "UNet3DConditionModel"}, ["UNet3DConditionModel", "FluxTransf"]),
    ("flux", {"_class_name": None}, ["_class_name = None"]),
    ("flux", {"new_option": 3}, ["new_option = 3", "not known"]),
    ("flux", {"patch_size": 2}, ["patch_size = 2", "only 1"]),
    ("flux", {"in_channels": 18}, ["in_channels = 18", "4 does not divide"]),
    ("flux", {"axes_dims_rope": [2, 4, 4]}, ["rope_axes = (2, 4, 4)"]),
    ("flux", {"num_attention_heads": "x"}, ["does not make a FluxTransformer2DModel"]),
    ("qwen_image", {"zero_cond_t": True, "use_additional_t_cond": True},
     ["zero_cond_t = True", "use_additional_t_cond = True"]),
    ("z_image", {"siglip_feat_dim": 1152}, ["siglip_feat_dim = 1152"]),
    ("z_image", {"n_kv_heads": 2}, ["n_kv_heads = 2", "n_heads = 4"]),
    ("z_image", {"all_patch_size": [2, 4]}, ["all_patch_size = (2, 4)"]),
    ("sd3_dual", {"dual_attention_layers": [1]}, ["dual_attention_layers = (1,)"]),
    ("sd3_dual", {"qk_norm": "layer_norm"}, ["qk_norm = 'layer_norm'"]),
    ("sd3_dual", {"caption_projection_dim": 32}, ["caption_projection_dim = 32", "48"]),
    ("sd3_dual", {"pos_embed_max_size": None}, ["pos_embed_max_size = None"]),
    ("pixart", {"cross_attention_dim": 1152}, ["cross_attention_dim = 1152", "48"]),
    ("pixart", {"caption_channels": None}, ["caption_channels = None"]),
    ("unet_sdxl", {"up_block_types": ["UpBlock2D"] * 2}, ["must be ['CrossAttnUpBlock2D', 'UpB"]),
    ("unet_sdxl", {"addition_embed_type": "image"}, ["'image', not 'text_time'"]),
    ("unet_sdxl", {"class_embed_type": "timestep"}, ["class_embed_type = 'timestep'"]),
    ("unet_sdxl", {"out_channels": 5}, ["out_channels = 5 of in_channels = 4"]),
    ("controlnet", {"controlnet_conditioning_channel_order": "gbr"}, ["'gbr', not 'rgb' or 'bgr'"]),
    ("controlnet", {"conditioning_channels": 4}, ["conditioning_channels = 4", "only 3"]),
    ("controlnet", {"conditioning_embedding_out_channels": []}, ["must be a list of widths"]),
    ("sd3_controlnet", {"use_pos_embed": False}, ["use_pos_embed = False", "only True"]),
    ("sd3_controlnet", {"joint_attention_dim": None}, ["one of single-stream blocks"]),
    ("flux_controlnet", {"num_mode": 10}, ["num_mode = 10", "only None"]),
    ("flux_controlnet", {"conditioning_embedding_channels": 16}, ["channels = 16", "only None"]),
    ("class_dit", {"norm_elementwise_affine": True, "dropout": 0.1},
     ["norm_elementwise_affine = True", "dropout = 0.1"]),
  ],
)  # fmt: skip
def test_configs_that_are_not_supported(spoil, name, keys, words):
  message = spoil(name, with_config(**keys))
  for word in [*words, "config.json"]:
    assert word in message


def test_config_that_cannot_be_read(spoil):
  assert "has no config.json" in spoil("flux", lambda f: (f / "config.json").unlink())
  assert "cannot be read" in spoil("qwen_image", lambda f: (f / "config.json").write_text("{"))
  assert "not a JSON object" in spoil("z_image", lambda f: (f / "config.json").write_text("[]"))


def test_all_faults_of_tensors_are_named_at_once(spoil):
  def edit(tensors):
    del tensors["x_embedder.bias"]
    del tensors["transformer_blocks.1.attn.to_q.weight"]
    tensors["lora.weight"] = np.zeros(3, np.float32)
    tensors["proj_out.bias"] = np.zeros(5, np.float32)
    tensors["context_embedder.bias"] = np.zeros(48, np.int32)

  message = spoil("flux", with_tensors(edit))
  assert "missing: transformer_blocks.1.attn.to_q.weight, x_embedder.bias;" in message
  assert "not expected: lora.weight;" in message
  assert "misshapen: proj_out.bias is 5 and should be 16;" in message
  assert "none of F32/F16/BF16: context_embedder.bias is I32" in message


def test_more_names_than_fit_are_counted(spoil):
  message = spoil("flux", with_config(num_layers=4))
  assert "transformer_blocks.2.attn.add_k_proj.bias" in message and "and 54 more" in message


def test_not_finite(spoil):
  def edit(tensors):
    tensors["proj_out.bias"][3] = np.nan
    tensors["single_transformer_blocks.2.attn.to_v.weight"][0, 1] = -np.inf

  message = spoil("flux", with_tensors(edit))
  names = "proj_out.bias, single_transformer_blocks.2.attn.to_v.weight"
  assert f"NaN or infinity, as float32, in {names}." in message

  def every(tensors):
    for name, tensor in tensors.items():
      tensors[name] = np.full_like(tensor, np.nan, dtype=ml_dtypes.bfloat16)

  message = spoil("qwen_image", with_tensors(every))
  assert message.count("weight") + message.count("bias") == 10 and "more. Copy" in message


def test_copies_that_differ(spoil):
  name = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"

  def edit(tensors):
    tensors[name][4, 4] += 1

  message = spoil("class_dit", with_tensors(edit))
  assert f"copies that differ from the first block's: {name}." in message


def test_positions_of_its_own(spoil):
  def edit(tensors):
    tensors["pos_embed.pos_embed"] *= 0.5

  message = spoil("sd3_dual", with_tensors(edit))
  assert "pos_embed.pos_embed is 0.5 off what is computed" in message


def test_positions_may_be_left_out(good, tmp_path):
  folder = tmp_path / "sd3"
  shutil.copytree(good / "sd3_dual", folder)
  with_tensors(lambda tensors: tensors.pop("pos_embed.pos_embed"))(folder)
  load(folder)


def test_files_that_are_missing_or_cut_short(spoil, good):
  files = sorted(path.name for path in (good / "flux_several").glob("*.safetensors"))

  def change(folder):
    (folder / files[1]).unlink()
    whole = (folder / files[2]).read_bytes()
    (folder / files[2]).write_bytes(whole[:-100])
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["nonesuch"] = files[0]
    (folder / INDEX).write_text(json.dumps(index))

  message = spoil("flux_several", change)
  size = (good / "flux_several" / files[2]).stat().st_size
  assert f"{files[1]}, which the index names, is missing" in message
  assert (
    f"{files[2]} is incomplete or not safetensors: it has {size - 100} bytes of {size}" in message
  )
  assert f"{files[0]} lacks tensors of the index: nonesuch" in message
  assert "missing: " not in message  # what was in those files is not named again


def test_an_only_file_that_is_cut_short(spoil):
  def change(folder):
    (folder / ONE).write_bytes((folder / ONE).read_bytes()[:50])

  assert "50 bytes and no header" in spoil("flux", change)
  assert "0 bytes" in spoil("qwen_image", lambda f: (f / ONE).write_bytes(b""))


def test_index_that_cannot_be_read(spoil):
  message = spoil("flux_several", lambda f: (f / INDEX).write_text('{"weight_map": 3}'))
  assert INDEX in message and "cannot be read" in message


def test_pickles_only(spoil):
  change = lambda f: (f / ONE).rename(f / "diffusion_pytorch_model.bin")
  message = spoil("flux", change)
  assert "diffusion_pytorch_model.bin" in message and "safetensors" in message
  assert "fp16" in spoil("z_image", lambda f: (f / ONE).rename(f / "x.fp16.safetensors"))
  assert "no other weights" in spoil("qwen_image", lambda f: (f / ONE).unlink())
