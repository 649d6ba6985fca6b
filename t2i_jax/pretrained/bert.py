"""BERT's encoder as transformers' BertModel, with its pooler: sentence encoders, bert-base."""

from typing import Any

from t2i_jax.pretrained.names import Entry, Part, dense, heads, heads_out, layer_norm, mlp
from t2i_jax.pretrained.spec import Spec, check_counts
from t2i_jax.towers.bert import EPS, Bert, BertConfig

PREFIX = "bert."  # of folders written by a class with a head
BLOCK = "encoder.layer.{i}"
COUNTS = (
  "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
  "max_position_embeddings", "type_vocab_size",
)  # fmt: skip
OLD_NORM = {"gamma": "weight", "beta": "bias"}  # names in files from TensorFlow


def _table(path: str, of: str) -> Entry:
  return Entry(path, (Part(f"embeddings.{of}_embeddings.weight", "n d -> n d"),))


def entries(c: BertConfig) -> list[Entry]:
  attn = f"{BLOCK}.attention"
  q, k, v = (f"{attn}.self.{x}" for x in ("query", "key", "value"))
  return [
    _table("embedding", "word"),
    _table("place", "position"),
    _table("type", "token_type"),
    *layer_norm("norm", "embeddings.LayerNorm"),
    *heads("blocks/attn", q, k, v, None, rope=False),
    *heads_out("blocks/attn/out", f"{attn}.output.dense"),
    *layer_norm("blocks/attn_norm", f"{attn}.output.LayerNorm"),
    *mlp("blocks/mlp", f"{BLOCK}.intermediate.dense", f"{BLOCK}.output.dense"),
    *layer_norm("blocks/mlp_norm", f"{BLOCK}.output.LayerNorm"),
    *dense("pooler", "pooler.dense"),
  ]


def renamed(name: str) -> str | None:
  """Without the prefix. Position ids, 0 to length - 1, are in older files; heads are not read."""
  bare = name.removeprefix(PREFIX)
  if name.startswith("cls.") or bare.endswith("embeddings.position_ids"):
    return None
  stem, _, last = bare.rpartition(".")
  return f"{stem}.{OLD_NORM.get(last, last)}" if stem.endswith("LayerNorm") else bare


def read(k: dict[str, Any]) -> BertConfig:
  check_counts(k, COUNTS)
  return BertConfig(
    vocab=k["vocab_size"],
    length=k["max_position_embeddings"],
    width=k["hidden_size"],
    depth=k["num_hidden_layers"],
    heads=k["num_attention_heads"],
    hidden=k["intermediate_size"],
    types=k["type_vocab_size"],
  )


def write(c: BertConfig) -> dict[str, Any]:
  """What is taken from the network is not written, for which the class has no key."""
  return {
    "vocab_size": c.vocab,
    "max_position_embeddings": c.length,
    "hidden_size": c.width,
    "num_hidden_layers": c.depth,
    "num_attention_heads": c.heads,
    "intermediate_size": c.hidden,
    "type_vocab_size": c.types,
  }


BERT = Spec(
  hf_class="BertModel",
  module=Bert,
  config=BertConfig,
  keys={
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "type_vocab_size": 2,
  },
  fixed={
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
    "is_decoder": False,
    "add_cross_attention": False,
  },
  legacy={"position_embedding_type": "absolute"},
  ignored={
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "use_cache": True,
    "tie_word_embeddings": True,  # of the embedding and a head
    "dtype": "float32",
    "torch_dtype": "float32",  # its name before transformers 5
  },
  entries=entries,
  read=read,
  write=write,
  stem="model",
  library="transformers",
  renamed=renamed,
  dropped=("gradient_checkpointing",),
  runs=("layer", "pooled", "masked"),
)
