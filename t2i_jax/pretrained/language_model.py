"""Language models of transformers' folders as the decoder of a joint model, and back."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models.params import Params
from t2i_jax.models.transfusion import TransfusionConfig
from t2i_jax.pretrained.fill import row_spans
from t2i_jax.pretrained.folder import SHARD_BYTES, config_json, read_params, write_folder
from t2i_jax.pretrained.language_specs import (
  HEAD,
  LANGUAGE_MODELS,
  LLAMA,
  QWEN3,
  TABLE,
  entries,
  fields_of,
)
from t2i_jax.pretrained.spec import Spec, read_config, write_config
from t2i_jax.pretrained.tensors import Tensors, open_tensors

DECODER = ("table", "blocks", "gain", "head")


def _open(folder: Path) -> tuple[Spec, dict[str, Any]]:
  """The class of a folder, and the fields of our config that it determines."""
  content, where = config_json(folder), str(folder / "config.json")
  names = content.get("architectures")
  for spec in LANGUAGE_MODELS.values():
    if names == [spec.hf_class]:
      break
  else:
    known = ", ".join(LANGUAGE_MODELS)
    raise ConfigError(f"{where}: architectures = {names!r} is not one of {known}.")
  try:
    return spec, read_config(spec, content, where)
  except RestoreError as error:
    raise ConfigError(str(error)) from error


def language_model_fields(folder: str | Path) -> dict[str, Any]:
  """The fields of a TransfusionConfig that a folder's config.json determines, by name.

  Raises RestoreError where config.json is missing or cannot be read; ConfigError naming every key
  that is not supported.
  """
  return _open(Path(folder))[1]


def load_language_model(
  folder: str | Path, config: TransfusionConfig, shardings: Params | Mesh | None = None
) -> Params:
  """table, blocks, gain and, unless it is tied, head of a Transfusion, float32.

  shardings  as for `load`
  Where config.vocab is larger than the folder's, each new row of the embedding and column of the
  head is the mean of the stored ones [nlp.stanford.edu/~johnhew/vocab-expansion.html].
  Raises ConfigError where the folder holds another model than the config's; else as
  `language_model_fields` and `load`.
  """
  folder = Path(folder)
  spec, stored = _open(folder)
  vocab, own = stored["vocab"], fields_of(config)
  wrong = [
    f"model.{name} = {own[name]!r} is {value!r} there"
    for name, value in stored.items()
    if name != "vocab" and own[name] != value
  ]
  if vocab > config.vocab:
    wrong.append(f"text.vocab = {config.vocab} is smaller than its {vocab} tokens")
  if wrong:
    raise ConfigError(f"{folder} is another model: {'; '.join(wrong)}.")
  spec = dataclasses.replace(spec, entries=partial(entries, vocab=vocab))
  found = open_tensors(folder, spec.stem)
  with found.tensors:
    _leave_out(found.tensors, config.tied, str(folder))
    return read_params(spec, config, found, str(folder), shardings, jnp.float32)


def _leave_out(tensors: Tensors, tied: bool, where: str) -> None:
  """Removes stored tensors that others determine: rotary frequencies, a tied head.

  Raises RestoreError for a tied head that differs from the embedding.
  """
  stored = tensors.stored
  for name in [name for name in stored if name.endswith(".rotary_emb.inv_freq")]:
    del stored[name]
  if not tied or not {TABLE, HEAD} <= stored.keys():
    return
  rows = lambda name, span: tensors.read(name, (slice(*span),))
  same = stored[TABLE].shape == stored[HEAD].shape and all(
    np.array_equal(rows(TABLE, span), rows(HEAD, span))
    for span in row_spans(stored[TABLE].shape[0])
  )
  if not same:
    raise RestoreError(
      f"{where}: {HEAD} differs from {TABLE}, though tie_word_embeddings is true. "
      "If the head is separate, set tie_word_embeddings to false in config.json."
    )
  del stored[HEAD]


def save_language_model(
  folder: str | Path,
  params: Params,
  config: TransfusionConfig,
  base: str | Path | None = None,
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a folder that transformers' AutoModelForCausalLM reads, with the config's vocabulary.

  The class is Qwen3ForCausalLM where the config has qk-norm, else LlamaForCausalLM.

  params  of the decoder, or of a whole Transfusion, whose image layers are left out
  base    the folder it was loaded from: special tokens and the longest text are copied from its
          config.json. The tokenizer's files are not copied.
  dtype, shard_bytes and errors as for `save`
  """
  spec = QWEN3 if config.qk_norm else LLAMA
  of_base = {} if base is None else config_json(Path(base))
  kept = {key: of_base[key] for key in spec.ignored if key in of_base}
  content = spec.header | write_config(spec, config) | kept
  content |= {"dtype": dtype, "torch_dtype": dtype}
  own = {name: params[name] for name in DECODER if name in params}
  write_folder(Path(folder), spec, config, own, content, dtype, shard_bytes)
