"""Images in the prompts of Qwen2.5-VL beside transformers': vision tower, positions, states."""

import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.errors import ConfigError
from t2i_jax.models.params import abstract_of, with_params
from t2i_jax.pretrained import load
from t2i_jax.pretrained.qwen_vision import load_qwen_vision
from t2i_jax.pretrained.spec import flat, make_of
from t2i_jax.towers.qwen_vision import ImageTokens, QwenVision, QwenVisionConfig, mrope_positions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FORWARD = 1e-4
IMAGE, START, END = 90, 91, 92  # ids
ROWS, COLS, PATCH = 6, 10, 4  # of the grid of patches; windows are of 4 x 4 patches


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
  """Their model, every weight off its initial value, and its folder."""
  torch.manual_seed(0)
  text = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
  }  # fmt: skip
  vision = {
    "depth": 3, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "out_hidden_size": 32,
    "fullatt_block_indexes": [1], "patch_size": PATCH, "window_size": 4 * PATCH,
  }  # fmt: skip
  config = transformers.Qwen2_5_VLConfig(
    text_config=text, vision_config=vision, image_token_id=IMAGE, vision_start_token_id=START,
    vision_end_token_id=END,
  )  # fmt: skip
  model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  folder = tmp_path_factory.mktemp("qwen")
  model.save_pretrained(folder)
  return model, folder


def distance(a, b):
  return float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b)))


def their_patches(images):
  """As Qwen2VLImageProcessor arranges them: [B N, C T P P]."""
  b, height, width, _ = images.shape
  h, w = height // PATCH // 2, width // PATCH // 2
  x = images.reshape(b, h, 2, PATCH, w, 2, PATCH, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
  x = np.repeat(x[:, :, :, :, :, :, None], 2, axis=6)
  return torch.tensor(x.reshape(b * h * w * 4, -1))


def test_images_and_texts_are_as_theirs(theirs):
  model, folder = theirs
  rng = np.random.default_rng(0)
  images = rng.standard_normal((2, ROWS * PATCH, COLS * PATCH, 3)).astype(np.float32)
  grid = torch.tensor([[1, ROWS, COLS]] * 2)
  patches, count = their_patches(images), ROWS * COLS // 4
  config, params = load_qwen_vision(folder)
  tokens = with_params(make_of(QwenVision, config))(params)(jnp.array(images))
  with torch.no_grad():
    want = model.model.visual(patches, grid).pooler_output.numpy()
  assert tokens.shape == (2, count, 32) and distance(tokens.reshape(-1, 32), want) < FORWARD

  image = [START, *[IMAGE] * count, END]
  ids = np.array([[3, 4, *image, 5, 6, 7, 8], [9, *image, 2, 2, 0, 0, 0]], np.int32)
  mask = np.ones(ids.shape, bool)
  mask[1, -3:] = False
  index = np.where(ids == IMAGE, np.cumsum(ids == IMAGE, axis=1) - 1, -1).astype(np.int32)
  positions = mrope_positions(index, mask, [[(ROWS // 2, COLS // 2)]] * 2)
  module, of_text, weights = load(folder, layers=(1, -1))
  bound = with_params(make_of(module, of_text))(weights)
  inputs = {
    "input_ids": torch.tensor(ids.astype(np.int64)),
    "attention_mask": torch.tensor(mask.astype(np.int64)),
  }
  types = torch.tensor((ids == IMAGE).astype(np.int32))
  expected, _ = model.model.get_rope_index(
    inputs["input_ids"], types, grid, attention_mask=inputs["attention_mask"]
  )
  np.testing.assert_array_equal(positions[mask], np.moveaxis(expected.numpy(), 0, -1)[mask])
  for of_positions, how in ((positions, {"mm_token_type_ids": types}), (None, {})):
    with torch.no_grad():
      states = model(
        **inputs, pixel_values=patches, image_grid_thw=grid, output_hidden_states=True, **how
      ).hidden_states
    want = np.concatenate([states[1].numpy(), states[2].numpy()], axis=-1)
    where = None if of_positions is None else jnp.array(of_positions)
    found = bound(jnp.array(ids), jnp.array(mask), images=ImageTokens(tokens, index, where)).tokens
    assert distance(np.asarray(found)[mask], want[mask]) < FORWARD


def test_the_published_size():
  config = QwenVisionConfig(1280, 32, 16, 3420, 3584)
  leaves = flat(abstract_of(config.make)).values()
  assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == 676_550_144


def test_images_that_do_not_fill_their_tokens():
  index = np.array([[-1, 0, 1, 2, 3, -1]])
  with pytest.raises(ConfigError, match="4 tokens of images"):
    mrope_positions(index, index > -2, [[(2, 3)]])


def test_a_side_that_does_not_divide():
  config = QwenVisionConfig(16, 1, 2, 20, 32, full=(0,))
  model = with_params(config.make)(abstract_of(config.make))
  with pytest.raises(ConfigError, match="multiples of 28"):
    model(jnp.zeros((1, 30, 28, 3)))
