"""Prompts of each published system beside diffusers' own functions: ids, masks, embeddings.

Text encoders that are no language models are replaced by one that records what it is given.
"""

import functools
import types

import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.params import with_params
from t2i_jax.pretrained import load
from t2i_jax.pretrained.spec import make_of
from t2i_jax.towers.published import (
  FLUX2_SYSTEM_MESSAGE,
  PUBLISHED,
  QWEN_IMAGE,
  QWEN_IMAGE_EDIT,
  QWEN_IMAGE_EDIT_PLUS,
  tokenizer_of,
)
from t2i_jax.towers.tokenizers import drop_prefix

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from benchmarks import tiny_tokenizers  # noqa: E402

diffusers.utils.logging.set_verbosity_error()  # on prompts that are truncated
FORWARD = 1e-4
PROMPTS = ["a cat", "", " A red DOG, x{}! " + "na " * 400 + "end"]  # the last is truncated
TOKENIZERS = {
  "sd1": ("clip",), "sdxl": ("clip", "clip!"), "sd3": ("clip", "clip!", "t5"),
  "flux": ("clip", "t5"), "flux2": ("mistral",), "flux2_klein": ("qwen",),
  "qwen_image": ("qwen",), "z_image": ("qwen",), "pixart_alpha": ("t5",), "pixart_sigma": ("t5",),
}  # fmt: skip
SHAPE = {
  "vocab_size": 280, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
  "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


class Recorder(torch.nn.Module):
  """In place of a text encoder: records ids and masks; what it returns is not used.

  pooled_first  of its output, as with a projection
  """

  dtype, device, config = torch.float32, torch.device("cpu"), types.SimpleNamespace()

  def __init__(self):
    super().__init__()
    self.weight, self.calls = torch.nn.Parameter(torch.zeros(1)), []
    self.pooled_first = False

  def forward(self, input_ids, attention_mask=None, **_):
    self.calls.append((input_ids.numpy(), attention_mask))
    state, pooled = torch.zeros(*input_ids.shape, 8), torch.zeros(len(input_ids), 8)

    class Output(tuple):
      hidden_states, pooler_output = (state,) * 4, pooled

    return Output((pooled if self.pooled_first else state,))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """A folder with the tokenizers of a system."""

  @functools.cache
  def made(name):
    path = tmp_path_factory.mktemp(name)
    for part, kind in zip(PUBLISHED[name].parts, TOKENIZERS[name], strict=True):
      write = tiny_tokenizers.KINDS[kind.rstrip("!")]
      write(path / part.tokenizer, **({"pad": "!"} if "!" in kind else {}))
    return path

  return made


def theirs(path, system):
  """Their tokenizers and recorders by the names that a pipeline gives them."""
  named = {}
  for part in PUBLISHED[system].parts:
    named[part.tokenizer] = transformers.AutoTokenizer.from_pretrained(path / part.tokenizer)
    named[part.weights] = Recorder()
  return named


def of_class(kind, parts):
  """A pipeline that has only these parts; its scheduler and its networks are missing."""
  made = kind.__new__(kind)
  diffusers.DiffusionPipeline.__init__(made)
  for name, part in parts.items():
    object.__setattr__(made, name, part)
  return made


def sd1(parts):
  made = of_class(diffusers.StableDiffusionPipeline, parts)
  made.encode_prompt(PROMPTS, "cpu", 1, False)


def sdxl(parts):
  parts["text_encoder_2"].pooled_first = True
  made = of_class(diffusers.StableDiffusionXLPipeline, parts)
  made.register_to_config(force_zeros_for_empty_prompt=True)
  _, null, _, pooled = made.encode_prompt(PROMPTS, device="cpu")  # the null is not encoded
  assert PUBLISHED["sdxl"].null.zeros and not null.any() and not pooled.any()


def sd3(parts):
  for name in ("text_encoder", "text_encoder_2"):
    parts[name].pooled_first = True
  made = of_class(diffusers.StableDiffusion3Pipeline, parts | {"tokenizer_max_length": 77})
  for index in (0, 1):
    made._get_clip_prompt_embeds(PROMPTS, device="cpu", clip_model_index=index)
  made._get_t5_prompt_embeds(PROMPTS, device="cpu")


def flux(parts):
  made = of_class(diffusers.FluxPipeline, parts | {"tokenizer_max_length": 77})
  made.encode_prompt(PROMPTS, None, device="cpu")


def pixart(kind, parts):
  made = of_class(getattr(diffusers, kind), parts)
  made.encode_prompt(PROMPTS, False, device="cpu")


RECORDED = {
  "sd1": sd1, "sdxl": sdxl, "sd3": sd3, "flux": flux,
  "pixart_alpha": functools.partial(pixart, "PixArtAlphaPipeline"),
  "pixart_sigma": functools.partial(pixart, "PixArtSigmaPipeline"),
}  # fmt: skip


@pytest.mark.parametrize("system", RECORDED)
def test_ids_and_masks_are_theirs(system, pipeline):
  path = pipeline(system)
  parts = theirs(path, system)
  RECORDED[system](parts)
  for part in PUBLISHED[system].parts:
    ids, mask = tokenizer_of(path, part).encode(PROMPTS, part.length)
    ((want, given),) = parts[part.weights].calls
    np.testing.assert_array_equal(ids, want)
    assert mask.sum() < mask.size and (given is not None) == part.masked
    if part.masked:
      np.testing.assert_array_equal(mask, given.numpy().astype(bool))


def language_model(system):
  """A random model of transformers for a system, every weight off its initial value."""
  torch.manual_seed(0)
  if system == "flux2":
    vision = {
      "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
      "num_attention_heads": 1, "head_dim": 8, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {**SHAPE, "model_type": "mistral", "head_dim": 8}
    config = transformers.Mistral3Config(
      text_config=text, vision_config=vision, tie_word_embeddings=False
    )
    model = transformers.Mistral3ForConditionalGeneration(config)
  elif system == "qwen_image":
    vision = {
      "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 16,
      "fullatt_block_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    config = transformers.Qwen2_5_VLConfig(
      text_config={**SHAPE, "rope_parameters": rope}, vision_config=vision
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
  else:
    kind = "Qwen3Model" if system == "z_image" else "Qwen3ForCausalLM"
    model = getattr(transformers, kind)(transformers.Qwen3Config(**SHAPE, head_dim=8))
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model.eval()


def flux2(model, tokenizer, layers):
  kind = diffusers.Flux2Pipeline
  found = kind._get_mistral_3_small_prompt_embeds(
    model, tokenizer, PROMPTS, hidden_states_layers=layers
  )
  return found.numpy(), None


def klein(model, tokenizer, layers):
  kind = diffusers.Flux2KleinPipeline
  found = kind._get_qwen3_prompt_embeds(model, tokenizer, PROMPTS, hidden_states_layers=layers)
  return found.numpy(), None


def qwen_image(model, tokenizer, layers):
  made = diffusers.QwenImagePipeline(None, None, model, tokenizer, None)
  embeds, mask = made.encode_prompt(PROMPTS, device="cpu", max_sequence_length=512)
  return embeds.numpy(), mask.numpy().astype(bool)


def z_image(model, tokenizer, layers):
  made = diffusers.ZImagePipeline(None, None, model, tokenizer, None)
  rows, _ = made.encode_prompt(list(PROMPTS), "cpu", False)
  return [row.numpy() for row in rows], None


ENCODED = {
  "flux2": (flux2, (1, 2, 3)), "flux2_klein": (klein, (0, 2, 1)),
  "qwen_image": (qwen_image, (-1,)), "z_image": (z_image, (-2,)),
}  # fmt: skip


@pytest.mark.parametrize("system", ENCODED)
def test_embeddings_are_theirs(system, pipeline, tmp_path):
  """From the text on: the tokens, padding where it is passed on, the mask, what is cut."""
  path, (function, layers) = pipeline(system), ENCODED[system]
  ((part,), pads) = PUBLISHED[system].parts, PUBLISHED[system].pads
  model = language_model(system)
  model.save_pretrained(tmp_path)
  opened = transformers.AutoTokenizer.from_pretrained(path / part.tokenizer)
  with torch.no_grad():
    want, want_mask = function(model, opened, layers)
  assert part.masked and len(part.layers) == len(layers)

  ids, mask = tokenizer_of(path, part).encode(PROMPTS, part.length)
  module, config, params = load(tmp_path, layers=layers)
  tower = with_params(make_of(module, config))(params)(jnp.array(ids), jnp.array(mask))
  tower = drop_prefix(tower, part.rule)
  tokens, mask = np.asarray(tower.tokens), np.asarray(tower.mask)
  scale = max(np.abs(row).max() for row in want)
  if pads == "kept":
    assert np.abs(tokens - want).max() < FORWARD * scale
  else:
    assert mask.sum(1).tolist() == [len(row) for row in want] or pads == "masked"
    for i, row in enumerate(want):
      real = row if want_mask is None else row[want_mask[i]]
      assert np.abs(tokens[i][mask[i]] - real).max() < FORWARD * scale


def test_texts_are_those_of_the_installed_library():
  made = diffusers.QwenImagePipeline(None, None, None, None, None)
  edit = diffusers.QwenImageEditPipeline(None, None, None, None, None, None)
  plus = diffusers.QwenImageEditPlusPipeline(None, None, None, None, None, None)
  rules = (made, QWEN_IMAGE), (edit, QWEN_IMAGE_EDIT), (plus, QWEN_IMAGE_EDIT_PLUS)
  for pipe, rule in rules:
    assert pipe.prompt_template_encode == rule.template
    assert pipe.prompt_template_encode_start_idx == rule.drop
  from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

  assert SYSTEM_MESSAGE == FLUX2_SYSTEM_MESSAGE
