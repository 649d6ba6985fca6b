"""Text encoders: token ids of captions -> towers of a Conditioning."""

from collections.abc import Callable

from t2i_jax.ranges import Count, Depth, Whole, Width
from t2i_jax.towers.bag_of_words import BagOfWords, BagOfWordsConfig
from t2i_jax.towers.bert import Bert, BertConfig
from t2i_jax.towers.clip import Clip, ClipConfig
from t2i_jax.towers.encoder import Own, TextEncoder
from t2i_jax.towers.label import Label, LabelConfig
from t2i_jax.towers.language_model import LanguageModel, LanguageModelConfig
from t2i_jax.towers.nothing import NothingConfig, NoTokens
from t2i_jax.towers.published import PUBLISHED
from t2i_jax.towers.t5 import T5, T5Config
from t2i_jax.towers.text import TextTower, TextTowerConfig
from t2i_jax.towers.tokenizers import FolderTokenizer


def transformer(
  own: Own, width: Width, depth: Depth, heads: Count, tokens: Whole = 0, pooled: Whole = 0
) -> TextEncoder:
  return own.encoder(TextTowerConfig(own.vocab, own.length, width, depth, heads, tokens, pooled))


def bag_of_words(own: Own, width: Width) -> TextEncoder:
  return own.encoder(BagOfWordsConfig(own.vocab, own.length, width))


def nothing(own: Own, width: Width, length: Count) -> TextEncoder:
  config = NothingConfig(width, length)
  return TextEncoder(config.make, config, config.widths, NoTokens(), 1)


def label(own: Own) -> TextEncoder:
  return own.encoder(LabelConfig(own.vocab, own.length))


# By name in config.text.towers; the first argument has the tokenizer, vocabulary and length.
TOWERS: dict[str, Callable[..., TextEncoder]] = {
  "transformer": transformer,
  "bag_of_words": bag_of_words,
  "label": label,
  "nothing": nothing,
}

__all__ = [
  "PUBLISHED",
  "T5",
  "TOWERS",
  "BagOfWords",
  "BagOfWordsConfig",
  "Bert",
  "BertConfig",
  "Clip",
  "ClipConfig",
  "FolderTokenizer",
  "Label",
  "LabelConfig",
  "LanguageModel",
  "LanguageModelConfig",
  "Own",
  "T5Config",
  "TextEncoder",
  "TextTower",
  "TextTowerConfig",
]
