"""CLIP's text encoder as transformers' CLIPTextModel and CLIPTextModelWithProjection.

Folders are written with the prefix "text_model." in the names of both classes: transformers 5
writes CLIPTextModel without it and reads both, older versions read only names with it.
"""

from functools import partial
from typing import Any

from t2i_jax.pretrained.names import Entry, Part, dense, heads, heads_out, layer_norm, mlp
from t2i_jax.pretrained.spec import Spec, check_counts, refuse
from t2i_jax.towers.clip import ACTIVATIONS, Clip, ClipConfig

PREFIX = "text_model."
BLOCK = f"{PREFIX}encoder.layers.{{i}}"
COUNTS = (
  "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
  "max_position_embeddings", "eos_token_id",
)  # fmt: skip
RUNS = ("layer", "normed", "pooled", "masked", "eos")


def entries(c: ClipConfig) -> list[Entry]:
  attn = f"{BLOCK}.self_attn"
  of_token, of_place = (f"{PREFIX}embeddings.{x}_embedding.weight" for x in ("token", "position"))
  q, k, v = (f"{attn}.{x}_proj" for x in "qkv")
  found = [
    Entry("embedding", (Part(of_token, "v d -> v d"),)),
    Entry("place", (Part(of_place, "l d -> l d"),)),
    *layer_norm("blocks/attn_norm", f"{BLOCK}.layer_norm1"),
    *heads("blocks/attn", q, k, v, None, rope=False),
    *heads_out("blocks/attn/out", f"{attn}.out_proj"),
    *layer_norm("blocks/mlp_norm", f"{BLOCK}.layer_norm2"),
    *mlp("blocks/mlp", f"{BLOCK}.mlp.fc1", f"{BLOCK}.mlp.fc2"),
    *layer_norm("norm", f"{PREFIX}final_layer_norm"),
  ]
  return found + (dense("projection", "text_projection", bias=False) if c.projection else [])


def renamed(name: str) -> str | None:
  """With the prefix. Position ids, 0 to length - 1, are in older files."""
  if name.endswith("embeddings.position_ids"):
    return None
  return name if name.startswith((PREFIX, "text_projection.")) else PREFIX + name


def read(k: dict[str, Any], projected: bool) -> ClipConfig:
  check_counts(k, COUNTS + (("projection_dim",) if projected else ()))
  if k["hidden_act"] not in ACTIVATIONS:
    known = " and ".join(map(repr, ACTIVATIONS))
    raise refuse(f"hidden_act = {k['hidden_act']!r}, of which {known} are supported")
  return ClipConfig(
    vocab=k["vocab_size"],
    length=k["max_position_embeddings"],
    width=k["hidden_size"],
    depth=k["num_hidden_layers"],
    heads=k["num_attention_heads"],
    hidden=k["intermediate_size"],
    activation=k["hidden_act"],
    projection=k["projection_dim"] if projected else 0,
    eos=k["eos_token_id"],
    pooled="projected" if projected else "eos",
    masked=bool(k["use_attention_mask"]),
  )


def write(c: ClipConfig, projected: bool) -> dict[str, Any]:
  """What is taken from the network is not written, for which the class has no key."""
  found = {
    "vocab_size": c.vocab,
    "max_position_embeddings": c.length,
    "hidden_size": c.width,
    "num_hidden_layers": c.depth,
    "num_attention_heads": c.heads,
    "intermediate_size": c.hidden,
    "hidden_act": c.activation,
    "eos_token_id": c.eos,
    "use_attention_mask": c.masked,  # diffusers' key: CLIPTextModel itself does not read it
  }
  return found | ({"projection_dim": c.projection} if projected else {})


def _spec(projected: bool) -> Spec:
  """projection_dim belongs to CLIPTextModelWithProjection; in CLIPTextModel it is not read, and
  Stable Diffusion 2 has 512 there beside a width of 1024."""
  of_projection = {"projection_dim": 512}
  return Spec(
    hf_class="CLIPTextModelWithProjection" if projected else "CLIPTextModel",
    module=Clip,
    config=ClipConfig,
    keys={
      "vocab_size": 49408,
      "max_position_embeddings": 77,
      "hidden_size": 512,
      "num_hidden_layers": 12,
      "num_attention_heads": 8,
      "intermediate_size": 2048,
      "hidden_act": "quick_gelu",
      "eos_token_id": 49407,
      "use_attention_mask": False,
      **(of_projection if projected else {}),
    },
    fixed={"model_type": "clip_text_model", "layer_norm_eps": 1e-5},
    ignored={
      "bos_token_id": 49406,
      "pad_token_id": 1,
      "attention_dropout": 0.0,
      "initializer_range": 0.02,
      "initializer_factor": 1.0,
      "dtype": "float32",
      "torch_dtype": "float32",  # its name before transformers 5
      **({} if projected else of_projection),
    },
    read=partial(read, projected=projected),
    write=partial(write, projected=projected),
    entries=entries,
    stem="model",
    library="transformers",
    renamed=renamed,
    dropped=("dropout",),
    runs=RUNS,
    fits=lambda c: bool(c.projection) == projected,
  )


CLIP_TEXT, CLIP_PROJECTED = _spec(False), _spec(True)
