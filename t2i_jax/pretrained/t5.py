"""T5's encoder as transformers' T5EncoderModel, of version 1.1 and of the first."""

from typing import Any

from t2i_jax.pretrained.names import Entry, Part, dense, gain, heads, heads_out, matrix
from t2i_jax.pretrained.spec import Spec, check_counts, refuse
from t2i_jax.towers.t5 import EPS, T5, T5Config

TABLE = "shared.weight"
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
ATTENTION, MLP = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
COUNTS = (
  "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads",
  "relative_attention_num_buckets", "relative_attention_max_distance",
)  # fmt: skip
# feed_forward_proj -> our name, and the values of the two keys that transformers derives from it.
MLPS = {"gated-gelu": ("geglu", "gelu_new", True), "relu": ("relu", "relu", False)}


def entries(c: T5Config) -> list[Entry]:
  attn, mlp = f"{ATTENTION}.SelfAttention", f"{MLP}.DenseReluDense"
  q, k, v = (f"{attn}.{x}" for x in "qkv")
  if c.mlp == "geglu":
    gate = matrix(f"{mlp}.wi_0", "f d -> d 1 f", (1, 0, 1))
    up = matrix(f"{mlp}.wi_1", "f d -> d 1 f", (1, 1, 2))
    widening = [Entry("blocks/mlp/up/kernel", (gate, up))]
  else:
    widening = dense("blocks/mlp/up", f"{mlp}.wi", bias=False)
  return [
    Entry("embedding", (Part(TABLE, "v d -> v d"),)),
    Entry("bias_table", (Part(BIAS, "b n -> b n"),)),
    *gain("blocks/attn_gain", f"{ATTENTION}.layer_norm.weight"),
    *heads("blocks/attn", q, k, v, None, rope=False, bias=False),
    *heads_out("blocks/attn/out", f"{attn}.o", bias=False),
    *gain("blocks/mlp_gain", f"{MLP}.layer_norm.weight"),
    *widening,
    *dense("blocks/mlp/down", f"{mlp}.wo", bias=False),
    *gain("gain", "encoder.final_layer_norm.weight"),
  ]


def renamed(name: str) -> str | None:
  """Either name of the embedding, or both, may be stored. A decoder is not read."""
  if name.startswith(("decoder.", "lm_head.")):
    return None
  return TABLE if name == "encoder.embed_tokens.weight" else name


def read(k: dict[str, Any]) -> T5Config:
  check_counts(k, COUNTS)
  kind = k["feed_forward_proj"]
  if kind not in MLPS:
    known = " and ".join(map(repr, MLPS))
    raise refuse(f"feed_forward_proj = {kind!r}, of which {known} are supported")
  mlp, activation, gated = MLPS[kind]
  for key, derived in (("dense_act_fn", activation), ("is_gated_act", gated)):
    if k[key] is not None and k[key] != derived:
      raise refuse(f"{key} = {k[key]!r}, which is {derived!r} with feed_forward_proj = {kind!r}")
  return T5Config(
    vocab=k["vocab_size"],
    width=k["d_model"],
    depth=k["num_layers"],
    heads=k["num_heads"],
    head_dim=k["d_kv"],
    hidden=k["d_ff"],
    mlp=mlp,
    buckets=k["relative_attention_num_buckets"],
    max_distance=k["relative_attention_max_distance"],
  )


def write(c: T5Config) -> dict[str, Any]:
  """Whether padding is masked is not written, for which the class has no key."""
  ((kind, (_, activation, gated)),) = ((k, v) for k, v in MLPS.items() if v[0] == c.mlp)
  return {
    "vocab_size": c.vocab,
    "d_model": c.width,
    "d_kv": c.head_dim,
    "d_ff": c.hidden,
    "num_layers": c.depth,
    "num_heads": c.heads,
    "relative_attention_num_buckets": c.buckets,
    "relative_attention_max_distance": c.max_distance,
    "feed_forward_proj": kind,
    "dense_act_fn": activation,
    "is_gated_act": gated,
  }


T5_ENCODER = Spec(
  hf_class="T5EncoderModel",
  module=T5,
  config=T5Config,
  keys={
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "relu",
    "dense_act_fn": None,
    "is_gated_act": None,
  },
  fixed={"model_type": "t5", "layer_norm_epsilon": EPS, "is_decoder": False},
  ignored={
    "is_encoder_decoder": False,
    "tie_word_embeddings": True,  # of the embedding and the head, and of its two names here
    "use_cache": False,
    "dropout_rate": 0.1,
    "classifier_dropout": 0.0,
    "initializer_factor": 1.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
    "torch_dtype": "float32",  # its name before transformers 5
  },
  read=read,
  write=write,
  entries=entries,
  stem="model",
  library="transformers",
  renamed=renamed,
  # Of the decoder, and of tasks on which the first version was fine-tuned.
  dropped=(
    "num_decoder_layers", "decoder_start_token_id", "scale_decoder_outputs", "output_past",
    "n_positions", "task_specific_params", "tokenizer_class",
  ),
  runs=("masked",),
)  # fmt: skip
