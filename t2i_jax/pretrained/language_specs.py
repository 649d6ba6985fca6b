"""Specs of language models: transformers' LlamaForCausalLM and Qwen3ForCausalLM.

They are the token embedding, the blocks, the final norm and the head of models.transfusion. Its
image layers are neither read nor written: text alone does not use them.
"""

from functools import partial
from typing import Any

from flax import nnx

from t2i_jax.errors import ConfigError
from t2i_jax.models.transfusion import Transfusion, TransfusionConfig
from t2i_jax.pretrained.names import Entry, Part, dense, gain, heads, heads_out, matrix
from t2i_jax.pretrained.spec import Spec, refuse

BLOCK, TABLE, HEAD = "model.layers.{i}", "model.embed_tokens.weight", "lm_head.weight"
FINAL_GAIN = "model.norm.weight"
IMAGE_LAYERS = ("patches", "time_in", "adaln")

COUNTS = (
  "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
)  # fmt: skip
# Keys of rope_scaling, which transformers 5 renamed to rope_parameters.
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def text_decoder(c: TransfusionConfig, rngs: nnx.Rngs) -> nnx.Module:
  """A Transfusion without its image layers."""
  model = Transfusion(c, rngs)
  for name in IMAGE_LAYERS:
    if hasattr(model, name):
      delattr(model, name)
  return model


def block_entries(qk_norm: bool, qkv_bias: bool = False) -> list[Entry]:
  """The blocks of a language model: models.decoder.DecoderBlock, stacked."""
  attn, mlp = f"{BLOCK}.self_attn", f"{BLOCK}.mlp"
  norms = (f"{attn}.q_norm.weight", f"{attn}.k_norm.weight") if qk_norm else None
  gate = matrix(f"{mlp}.gate_proj", "f d -> d 1 f", (1, 0, 1))
  up = matrix(f"{mlp}.up_proj", "f d -> d 1 f", (1, 1, 2))
  return [
    *heads(
      "blocks/attn", f"{attn}.q_proj", f"{attn}.k_proj", f"{attn}.v_proj",
      norms, rope=False, bias=qkv_bias,
    ),
    *heads_out("blocks/attn/out", f"{attn}.o_proj", bias=False),
    Entry("blocks/mlp/up/kernel", (gate, up)),
    *dense("blocks/mlp/down", f"{mlp}.down_proj", bias=False),
    *gain("blocks/attn_gain", f"{BLOCK}.input_layernorm.weight"),
    *gain("blocks/mlp_gain", f"{BLOCK}.post_attention_layernorm.weight"),
  ]  # fmt: skip


def entries(c: TransfusionConfig, vocab: int = 0) -> list[Entry]:
  """vocab: rows of the published embedding, if fewer than ours; the others take their mean"""
  vocab = vocab or c.vocab
  table = Part(TABLE, "v d -> v d", target=(0, 0, vocab))
  head = Part(HEAD, "v d -> d v", target=(1, 0, vocab))
  return [
    Entry("table", (table,), mean=True),
    *block_entries(c.qk_norm),
    *gain("gain", FINAL_GAIN),
    *([] if c.tied else [Entry("head", (head,), mean=True)]),
  ]


def _rope(k: dict[str, Any]) -> tuple[float, tuple[float, ...]]:
  """Our rope_theta and rope_scaling. Where both keys are given, rope_scaling is used."""
  key = "rope_scaling" if k["rope_scaling"] else "rope_parameters"
  rope = dict(k[key] or {})
  theta = float(rope.pop("rope_theta", k["rope_theta"]))
  older = rope.pop("type", "default")
  kind = rope.pop("rope_type", older)
  names = LLAMA3 if kind == "llama3" else ()
  if kind not in ("default", "llama3") or rope.keys() != set(names):
    raise refuse(f"{key} = {k[key]!r}, of which 'default' and 'llama3' are supported")
  return theta, tuple(float(rope[name]) for name in names)


def read(k: dict[str, Any], qk_norm: bool) -> dict[str, Any]:
  """The fields of a TransfusionConfig that a language model determines."""
  for key in COUNTS:
    if not isinstance(k[key], int):
      raise refuse(f"{key} = {k[key]!r}, which is not an integer")
  if not {*(k["layer_types"] or ())} <= {"full_attention"}:
    raise refuse(f"layer_types = {k['layer_types']!r}, of which only full_attention is supported")
  theta, scaling = _rope(k)
  count = k["num_attention_heads"]
  return {
    "vocab": k["vocab_size"],
    "width": k["hidden_size"],
    "depth": k["num_hidden_layers"],
    "heads": count,
    "kv_heads": k["num_key_value_heads"] or count,
    "head_dim": k["head_dim"] or k["hidden_size"] // count,
    "hidden": k["intermediate_size"],
    "qk_norm": qk_norm,
    "rope_theta": theta,
    "rope_scaling": scaling,
    "norm_eps": k["rms_norm_eps"],
    "tied": k["tie_word_embeddings"],
  }


def write(c: TransfusionConfig) -> dict[str, Any]:
  """Rotary settings under both keys: transformers 4 reads only rope_scaling."""
  if not c.qk_norm and c.width % c.heads:
    raise ConfigError(
      f"model.width = {c.width} is not a multiple of model.heads = {c.heads}, which "
      "LlamaForCausalLM (without qk-norm) requires whatever model.head_dim is."
    )
  scaled: dict[str, Any] = {}
  if c.rope_scaling:
    *factors, length = c.rope_scaling
    scaled = {"rope_type": "llama3", **dict(zip(LLAMA3, (*factors, int(length)), strict=True))}
  return {
    "vocab_size": c.vocab,
    "hidden_size": c.width,
    "intermediate_size": c.block.hidden,
    "num_hidden_layers": c.depth,
    "num_attention_heads": c.heads,
    "num_key_value_heads": c.kv_heads or c.heads,
    "head_dim": c.block.head_width,
    "rms_norm_eps": c.norm_eps,
    "rope_theta": c.rope_theta,
    "rope_scaling": scaled or None,
    "rope_parameters": {"rope_type": "default", **scaled, "rope_theta": c.rope_theta},
    "tie_word_embeddings": c.tied,
  }


def fields_of(c: TransfusionConfig) -> dict[str, Any]:
  """The fields that `read` returns, of our config."""
  plain = ("vocab", "width", "depth", "heads", "qk_norm", "rope_theta", "norm_eps", "tied")
  return {name: getattr(c, name) for name in plain} | {
    "kv_heads": c.kv_heads or c.heads,
    "head_dim": c.block.head_width,
    "hidden": c.block.hidden,
    "rope_scaling": tuple(c.rope_scaling),
  }


def _spec(
  hf_class: str, kind: str, qk_norm: bool, keys: dict[str, Any], fixed: dict[str, Any], length: int
) -> Spec:
  """keys, fixed: those of this class alone;   length: default of max_position_embeddings"""
  return Spec(
    hf_class=hf_class,
    module=text_decoder,
    config=TransfusionConfig,
    keys={
      **keys,
      "hidden_size": 4096,
      "num_hidden_layers": 32,
      "num_attention_heads": 32,
      "rms_norm_eps": 1e-6,
      "rope_theta": 10_000.0,
      "rope_scaling": None,
      "rope_parameters": None,
      "layer_types": None,
      "tie_word_embeddings": False,
    },
    fixed={
      **fixed,
      "model_type": kind,
      "hidden_act": "silu",
      "attention_bias": False,
      "attention_dropout": 0.0,
    },
    ignored={
      "bos_token_id": None,
      "eos_token_id": None,
      "pad_token_id": None,
      "max_position_embeddings": length,
      "initializer_range": 0.02,
      "use_cache": True,
      "dtype": "float32",
      "torch_dtype": "float32",  # its name before transformers 5
      **({"sliding_window": None, "max_window_layers": 28} if qk_norm else {"pretraining_tp": 1}),
    },
    read=partial(read, qk_norm=qk_norm),
    write=write,
    entries=entries,
    legacy={"is_llama_config": True},
    stem="model",
    library="transformers",
  )


LLAMA = _spec(
  "LlamaForCausalLM", "llama", False,
  keys={
    "vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": None, "head_dim": None,
  },
  fixed={"mlp_bias": False},
  length=2048,
)  # fmt: skip
QWEN3 = _spec(
  "Qwen3ForCausalLM", "qwen3", True,
  keys={
    "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128,
  },
  fixed={"use_sliding_window": False},
  length=32768,
)  # fmt: skip
LANGUAGE_MODELS = {spec.hf_class: spec for spec in (LLAMA, QWEN3)}
