"""BERT's encoder: what is pooled and taken, what padding does; a sentence encoder in a config."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.errors import ConfigError, RestoreError
from t2i_jax.models import with_params
from t2i_jax.models.params import abstract_of
from t2i_jax.pretrained import save
from t2i_jax.systems import published
from t2i_jax.towers import BertConfig

CONFIG = BertConfig(20, 8, 16, 2, 4, 24, masked=True)
IDS = np.array([[2, 7, 5, 3, 0, 0, 0, 0], [2, 9, 6, 7, 8, 4, 3, 0]], np.int32)
MASK = IDS > 0
PARAMS = random_weights(abstract_of(CONFIG.make))
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "fox", "cat", "##s", "a", "é")


@functools.cache
def compiled(config):
  return jax.jit(lambda params, ids, mask: with_params(config.make)(params)(ids, mask))


def encode(ids=IDS, mask=MASK, **changes):
  return compiled(dataclasses.replace(CONFIG, **changes))(PARAMS, ids, mask)


def test_the_mean_is_of_tokens_that_are_no_padding():
  found = encode(pooled="mean")
  want = [row[kept].mean(axis=0) for row, kept in zip(np.asarray(found.tokens), MASK, strict=True)]
  np.testing.assert_allclose(found.pooled, want, rtol=1e-5, atol=1e-5)
  inner = encode(pooled="mean", layer=-2)  # the pooled vector stays that of the last layer
  np.testing.assert_allclose(inner.pooled, found.pooled, rtol=1e-5, atol=1e-5)
  assert np.abs(inner.tokens - found.tokens).max() > 1e-2


def test_padding_is_seen_where_it_is_not_masked():
  other = np.where(MASK, IDS, 4)
  seen, masked = (
    np.abs(encode(masked=m).tokens - encode(other, masked=m).tokens)[MASK] for m in (False, True)
  )
  assert seen.max() > 1e-3 and masked.max() == 0


@pytest.fixture
def folder(tmp_path):
  """Of sentence-transformers: one folder, of the network and of its WordPiece tokenizer."""
  path = tmp_path / "encoder"
  save(path, CONFIG, PARAMS)
  about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "pad_token": "[PAD]"}
  (path / "tokenizer_config.json").write_text(json.dumps(about))
  (path / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
  return path


def test_a_sentence_encoder_of_a_config(folder):
  made = published.text_encoder(None, system="sentence_bert", folder=str(folder), length=6)
  assert made.config == dataclasses.replace(CONFIG, pooled="mean")
  assert made.widths == {"text_width": 16, "pooled_width": 16}
  ids, mask = made.encode(["Red foxs", "a dog"])
  np.testing.assert_array_equal(ids, [[2, 4, 5, 7, 3, 0], [2, 8, 1, 3, 0, 0]])
  np.testing.assert_array_equal(mask, ids > 0)
  np.testing.assert_array_equal(made.null[0], [[2, 3, 0, 0, 0, 0]])
  tower = made.after(compiled(made.config)(PARAMS, ids, mask))
  np.testing.assert_array_equal(tower.mask, mask)  # cross-attention sees no padding


def test_a_tokenizer_of_another_model(folder):
  (folder / "vocab.txt").write_text("\n".join((*WORDS, *"bcdefghijklm")), "utf-8")
  with pytest.raises(ConfigError, match=r"has 23 ids, and .* embeddings of 20"):
    published.text_encoder(None, system="sentence_bert", folder=str(folder))
  (folder / "vocab.txt").unlink()
  with pytest.raises(RestoreError, match=r"no tokenizer\.json, nor vocab\.txt"):
    published.text_encoder(None, system="sentence_bert", folder=str(folder))


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"heads": 3}, "width = 16 is not a multiple of heads = 3"),
    ({"pooled": "eos"}, "pooled = 'eos' is not one of first, mean"),
    ({"layer": -4}, "layer = -4 of 2 layers"),
  ],
)
def test_configs_that_do_not_fit(changes, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(CONFIG, **changes)


def test_captions_longer_than_its_positions():
  with pytest.raises(ConfigError, match="captions of 9 tokens, and positions for 8"):
    encode(np.ones((1, 9), np.int32), np.ones((1, 9), bool))
