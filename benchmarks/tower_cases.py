"""Published text encoders at tiny sizes, and the captions that they are given.

Nothing of it needs torch: tower_parity has the other side. docs/parity_towers.md and tests/parity
run these same cases.
"""

from typing import Any, NamedTuple

import numpy as np

from benchmarks import model_cases

FORWARD, GRADIENT, RATIO = 1e-4, 1e-3, 1.5  # the bounds


class Case(NamedTuple):
  """kind: class in transformers;   config: keys of its config"""

  kind: str
  config: dict[str, Any]

  @property
  def config_kind(self) -> str:
    """Name of the class of its config in transformers."""
    for base in ("CLIPText", "T5", "Bert", "Qwen3", "Qwen2_5_VL", "Mistral3"):
      if self.kind.startswith(base):
        return f"{base}Config"
    raise KeyError(self.kind)


VOCAB, END, LENGTH = 99, 98, 14
CLIP = {
  "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
  "num_attention_heads": 4, "max_position_embeddings": 16, "bos_token_id": 0, "projection_dim": 12,
}  # fmt: skip
T5 = {
  "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 44, "num_layers": 3, "num_heads": 4,
}  # fmt: skip
# torch gives the embedding of the padding no gradient: without one here, all rows have theirs.
BERT = {
  "pad_token_id": None,
  "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
  "num_attention_heads": 4, "max_position_embeddings": 16,
}  # fmt: skip
CASES = {
  "CLIP of SD 1": Case("CLIPTextModel", CLIP | {"hidden_act": "quick_gelu", "eos_token_id": 2}),
  "CLIP of SD 2": Case("CLIPTextModel", CLIP | {"hidden_act": "gelu", "eos_token_id": END}),
  "CLIP of SDXL": Case(
    "CLIPTextModelWithProjection", CLIP | {"hidden_act": "gelu", "eos_token_id": END},
  ),
  "CLIP of SD 3": Case(
    "CLIPTextModelWithProjection", CLIP | {"hidden_act": "quick_gelu", "eos_token_id": 2},
  ),
  "T5 1.1": Case("T5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
  "T5": Case(
    "T5EncoderModel",
    T5 | {"feed_forward_proj": "relu", "relative_attention_num_buckets": 16,
          "relative_attention_max_distance": 10},
  ),
  "BERT": Case("BertModel", BERT),
}  # fmt: skip

LANGUAGE = {
  "vocab_size": 97, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 4,
  "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
QWEN3 = LANGUAGE | {"head_dim": 12}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
# Both classes of language models with a vision tower have one here that is not used.
LANGUAGE_CASES = {
  "qwen3": Case("Qwen3ForCausalLM", QWEN3),
  "qwen3, tied": Case("Qwen3ForCausalLM", QWEN3 | {"tie_word_embeddings": True}),
  "qwen3, no head": Case("Qwen3Model", QWEN3),
  "qwen2.5-vl": Case(
    "Qwen2_5_VLForConditionalGeneration",
    {
      "text_config": LANGUAGE | {"rope_parameters": MROPE},
      "vision_config": {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
        "out_hidden_size": 32, "fullatt_block_indexes": [0],
      },
    },
  ),
  "mistral3": Case(
    "Mistral3ForConditionalGeneration",
    {
      "text_config": LANGUAGE
      | {"model_type": "mistral", "head_dim": 12, "rope_parameters": {"rope_theta": 1e9}},
      "vision_config": {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "image_size": 28,
        "patch_size": 14,
      },
      "tie_word_embeddings": False,
    },
  ),
}  # fmt: skip
ROWS, TEXT_LENGTH = 3, 11


def captions(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """ids [3, 14], each with one end, and mask; padding is 0 or the end again."""
  ids = np.random.default_rng(seed).integers(0, END, (3, LENGTH)).astype(np.int32)
  lengths = np.array([LENGTH, 9, 3])
  place = np.arange(LENGTH)
  ids = np.where(place < lengths[:, None], ids, np.array([[0], [END], [0]]))
  ids[np.arange(3), lengths - 1] = END
  return ids.astype(np.int32), place < lengths[:, None]


def text(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """ids and mask [2 ROWS, TEXT_LENGTH]: the same rows padded on the left, then on the right."""
  ids = np.random.default_rng(seed).integers(0, LANGUAGE["vocab_size"], (ROWS, TEXT_LENGTH))
  pads, index = np.array([7, 3, 0])[:, None], np.arange(TEXT_LENGTH)
  mask = np.concatenate([index >= pads, index < TEXT_LENGTH - pads])
  return np.tile(ids.astype(np.int32), (2, 1)), mask


def distance(a: Any, b: Any) -> float:
  """max|a - b| / max|b| of arrays or tensors."""
  return model_cases.distance(np.asarray(a, np.float64), np.asarray(b, np.float64))
