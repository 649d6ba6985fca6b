"""Text encoders from folders of transformers' language models.

Qwen3ForCausalLM and Qwen3Model, and the language models of Qwen2_5_VLForConditionalGeneration and
Mistral3ForConditionalGeneration. Heads, vision towers and the layers after the last one taken are
not read, so these folders are never written: their weights are in part those of the source.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from t2i_jax.pretrained.language_specs import BLOCK, FINAL_GAIN, QWEN3, TABLE, block_entries, read
from t2i_jax.pretrained.names import Entry, Part, gain
from t2i_jax.pretrained.spec import Spec, read_config, refuse
from t2i_jax.towers.language_model import LanguageModel, LanguageModelConfig

# Keys of a vision-language model that its text does not use; absent or of any value.
VISION = (
  "vision_config", "image_token_id", "video_token_id", "vision_start_token_id",
  "vision_end_token_id", "vision_token_id", "image_token_index", "projector_hidden_act",
  "vision_feature_layer", "multimodal_projector_bias", "spatial_merge_size",
)  # fmt: skip
# Beginnings of tensor names: what follows the second is after "model." in `entries`.
PREFIXES = ("language_model.model.", "model.language_model.", "model.", "")
BARE = ("layers.", "embed_tokens.", "norm.")
HEADS = ("lm_head.", "language_model.lm_head.")
VISUAL = ("visual.", "vision_tower.", "multi_modal_projector.")


def entries(c: LanguageModelConfig) -> list[Entry]:
  return [
    Entry("table", (Part(TABLE, "v d -> v d"),)),
    *block_entries(c.qk_norm, c.qkv_bias),
    *(gain("gain", FINAL_GAIN) if c.run == c.depth else []),
  ]


def unused(c: LanguageModelConfig) -> Callable[[str], bool]:
  """The tensors of blocks, and of the norm, after the last layer that is taken."""
  later = tuple(f"{BLOCK.format(i=i)}." for i in range(c.run, c.depth))
  return lambda name: name.startswith(later) or (c.run < c.depth and name == FINAL_GAIN)


def renamed(name: str) -> str | None:
  """A stored name as `entries` has it; None for heads, vision and rotary frequencies."""
  bare = name.removeprefix("model.")
  if name.startswith(HEADS) or bare.startswith(VISUAL) or name.endswith(".rotary_emb.inv_freq"):
    return None
  for prefix in PREFIXES:
    rest = name.removeprefix(prefix)
    if name.startswith(prefix) and rest.startswith(BARE):
      return f"model.{rest}"
  return name


def _config(k: dict[str, Any], qk_norm: bool, qkv_bias: bool = False) -> LanguageModelConfig:
  """Our config; of multimodal positions (mrope) the text alone has the plain ones."""
  k, sections = dict(k), ()
  for key in ("rope_scaling", "rope_parameters"):
    rope = dict(k[key] or {})
    if "mrope_section" in rope:
      sections = tuple(rope.pop("mrope_section"))
      for name in ("type", "rope_type"):
        if rope.get(name) == "mrope":
          rope[name] = "default"
      k[key] = rope
  window = k.pop("sliding_window", None)
  fields = read(k, qk_norm)
  del fields["tied"]  # no head is read
  if fields.pop("rope_scaling"):
    raise refuse("rope_type = 'llama3', of which only 'default' is supported for text encoders")
  return LanguageModelConfig(
    **fields, qkv_bias=qkv_bias, window=window or 0, rope_sections=sections
  )


UNWRITTEN = (
  "a text encoder holds a part of its folder's weights, and heads, vision towers and later layers "
  "were not read. Copy the folder that it was loaded from."
)


def _text(hf_class: str, kind: str, **keys: Any) -> Spec:
  """The spec of a class whose config.json is that of its language model.

  kind  model_type;   keys  defaults that differ from those of Qwen3
  """
  qwen3, qwen2 = kind == "qwen3", kind.startswith("qwen2")
  window = {} if "qwen" in kind else {"sliding_window": 4096}
  ignored = {**QWEN3.ignored, **dict.fromkeys(() if qwen3 else VISION)}
  return replace(
    QWEN3,
    hf_class=hf_class,
    module=LanguageModel,
    config=LanguageModelConfig,
    keys={**QWEN3.keys, **keys, **window},
    fixed={**QWEN3.fixed, "model_type": kind},
    ignored={key: value for key, value in ignored.items() if key not in window},
    read=partial(_config, qk_norm=qwen3, qkv_bias=qwen2),
    write=lambda config: {},
    unwritten=UNWRITTEN,
    entries=entries,
    renamed=renamed,
    unused=unused,
    runs=("layers",),
  )


def _nested(hf_class: str, kind: str, text: Spec, *, flat: bool) -> Spec:
  """A class whose language model is under text_config, or also, if `flat`, at the top level."""

  def read_either(k: dict[str, Any]) -> LanguageModelConfig:
    of_text = k.pop("text_config")
    if of_text is None and not flat:
      raise refuse("no text_config")
    return text.read(k) if of_text is None else read_config(text, of_text, "text_config")

  return replace(
    text,
    hf_class=hf_class,
    keys={**(text.keys if flat else {}), "text_config": None},
    fixed={**(text.fixed if flat else {}), "model_type": kind},
    ignored=text.ignored if flat else {**text.ignored, "tie_word_embeddings": False},
    read=read_either,
  )


QWEN3_TEXT = (_text("Qwen3ForCausalLM", "qwen3"), _text("Qwen3Model", "qwen3"))
QWEN2_5_VL = _nested(
  "Qwen2_5_VLForConditionalGeneration",
  "qwen2_5_vl",
  _text(
    "Qwen2_5_VLTextModel", "qwen2_5_vl_text",
    vocab_size=152064, hidden_size=8192, intermediate_size=29568, num_hidden_layers=80,
    num_attention_heads=64, num_key_value_heads=8, head_dim=None, rms_norm_eps=1e-5,
    rope_theta=1e6,
  ),
  flat=True,
)  # fmt: skip
MISTRAL3 = _nested(
  "Mistral3ForConditionalGeneration",
  "mistral3",
  _text(
    "MistralModel", "mistral",
    vocab_size=32000, intermediate_size=14336, num_key_value_heads=8, head_dim=None,
  ),
  flat=False,
)  # fmt: skip
TEXT_MODELS = (*QWEN3_TEXT, QWEN2_5_VL, MISTRAL3)
