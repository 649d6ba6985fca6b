"""Captions to token ids: a byte-level BPE trained on the data, plain bytes, class labels, or the
tokenizer of a language model."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from t2i_jax.data.source import read_manifest
from t2i_jax.errors import ConfigError, DataError, PromptError

SPECIAL = ("[PAD]", "[BOS]", "[EOS]")
PAD, BOS, EOS = range(3)
KINDS = ("bpe", "bytes", "labels:N", "labels:N:PATH", "folder:PATH")


class Tokenizer:
  """Text to ids: BOS, the text, EOS, then PAD. Every Unicode string can be encoded.

  vocab          number of ids
  placeholders   id -> word of those of `train_bpe`
  pad, bos, eos  ids of the special tokens: 0, 1, 2 except for a language model's
  Made by `bpe`, `bytes`, `load` or `from_json`; can be pickled.
  """

  def __init__(self, kind: str, model: str | None = None):
    self.kind, self._model = kind, model
    self.pad, self.bos, self.eos = PAD, BOS, EOS
    self._bpe = _parse(model) if kind == "bpe" and model is not None else None
    if kind == "folder":
      fields = json.loads(str(model))
      self._bpe = _opened(fields["tokenizer"])
      self.pad, self.bos, self.eos = fields["special"]
    self.vocab: int = self._bpe.get_vocab_size() if self._bpe else len(SPECIAL) + 256
    self.placeholders: dict[int, str] = {}
    if kind == "bpe" and self._bpe is not None:
      added = self._bpe.get_added_tokens_decoder().items()
      self.placeholders = {i: token.content for i, token in added if not token.special}
    self.classes: dict[str, int] = {}
    if kind == "labels":
      found = json.loads(str(model))  # a number, or a dict with the names besides
      count = found["count"] if isinstance(found, dict) else found
      self.vocab, self.classes = count + 1, found["names"] if isinstance(found, dict) else {}

  @classmethod
  def bpe(cls, text: str) -> "Tokenizer":
    """From the text of a tokenizer.json. Raises DataError where it is invalid."""
    return cls("bpe", text)

  @classmethod
  def bytes(cls) -> "Tokenizer":
    """One token per UTF-8 byte, ids 3 to 258."""
    return cls("bytes")

  @classmethod
  def labels(cls, classes: int, names: Mapping[str, int] | None = None) -> "Tokenizer":
    """Captions that are class indices below `classes`, or names: one token, label + 1; 0 for ""."""
    return cls("labels", json.dumps({"count": classes, "names": names} if names else classes))

  @classmethod
  def folder(cls, path: str | Path) -> "Tokenizer":
    """From a language model's folder: tokenizer.json and tokenizer_config.json.

    A text begins with the BOS token, or with EOS where there is none.
    Raises DataError naming the file, or the token that is missing.
    """
    texts = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
      try:
        texts.append((Path(path) / name).read_text("utf-8"))
      except OSError as error:
        raise DataError(f"{Path(path) / name} cannot be read ({error.strerror})") from error
    ids, named = _opened(texts[0]), json.loads(texts[1])
    of = lambda token: ids.token_to_id(token["content"] if isinstance(token, dict) else str(token))
    eos = of(named.get("eos_token"))
    if eos is None:
      raise DataError(
        f"{path}: eos_token in tokenizer_config.json is missing or not in the vocabulary. Set it."
      )
    bos, pad = of(named.get("bos_token")), of(named.get("pad_token"))
    special = [eos if pad is None else pad, eos if bos is None else bos, eos]
    return cls("folder", json.dumps({"tokenizer": texts[0], "special": special}))

  @classmethod
  def load(cls, folder: str | Path, kind: str) -> "Tokenizer":
    """The tokenizer of a built folder. Raises ConfigError on the kind, DataError on the file."""
    label, _, classes = kind.partition(":")
    if label == "labels":
      count, _, path = classes.partition(":")
      if count.isdecimal() and int(count) > 0:
        return cls.labels(int(count), class_names(Path(path)) if path else None)
    if label == "folder" and classes:
      return cls.folder(classes)
    if kind not in KINDS[:2]:
      raise ConfigError(f"text.tokenizer = {kind!r} is not one of {', '.join(KINDS)}.")
    if kind == "bytes":
      return cls.bytes()
    problem = file_problem(folder)
    if problem:
      raise DataError(f"{problem}. Build {folder} again, or use text.tokenizer='bytes'.")
    return cls.bpe((Path(folder) / read_manifest(folder)["tokenizer"]["file"]).read_text("utf-8"))

  def to_json(self) -> str:
    """The whole tokenizer as one string, for checkpoints."""
    return json.dumps({"kind": self.kind, "model": self._model})

  @classmethod
  def from_json(cls, text: str) -> "Tokenizer":
    """The inverse of `to_json`."""
    fields = json.loads(text)
    return cls(fields["kind"], fields["model"])

  def __getstate__(self) -> dict[str, Any]:
    return {"kind": self.kind, "model": self._model}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(**state)  # type: ignore[misc]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

  def __hash__(self) -> int:
    return hash(self.to_json())

  def _ids(self, texts: Sequence[str]) -> list[list[int]]:
    if self._bpe:
      return [e.ids for e in self._bpe.encode_batch(list(texts), add_special_tokens=False)]
    return [[b + len(SPECIAL) for b in text.encode("utf-8", "replace")] for text in texts]

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text, with BOS and EOS."""
    if self.kind == "labels":
      return [1] * len(texts)
    if self._bpe:
      found = self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)
      return [len(tokens) + 2 for tokens in found]
    return [len(text.encode("utf-8", "replace")) + 2 for text in texts]

  def encode(
    self, texts: Sequence[str], length: int, truncate: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of n texts, padded to `length` tokens.

    truncate  a text that is too long loses the tokens before EOS that do not fit
    Returns ids int32 [n, length] and mask bool [n, length], True at tokens.
    Raises PromptError where a text with its BOS and EOS does not fit.
    """
    if self.kind == "labels":
      return self._labels(texts, length)
    ids = np.full((len(texts), length), self.pad, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for row, (text, found) in enumerate(zip(texts, self._ids(texts), strict=True)):
      tokens = [self.bos, *found, self.eos]
      if truncate and len(tokens) > length:
        tokens = [*tokens[: length - 1], self.eos]
      if len(tokens) > length:
        raise PromptError(
          f"{_shorten(text)!r} has {len(tokens)} tokens with BOS and EOS, more than "
          f"text.length = {length}. Shorten it, or train with text.length={len(tokens)} or more."
        )
      ids[row, : len(tokens)] = tokens
      mask[row, : len(tokens)] = True
    return ids, mask

  def _labels(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(texts), length), np.int32)
    for row, text in enumerate(texts):
      label = int(text) if text.isdecimal() else self.classes.get(text.strip(), self.vocab)
      if text and label >= self.vocab - 1:
        raise PromptError(f"{_shorten(text)!r} is not a label: {self._expected(text)}.")
      ids[row, 0] = label + 1 if text else 0
    return ids, np.ones(ids.shape, bool)

  def _expected(self, text: str) -> str:
    """What is to be written in place of a label that does not exist."""
    number = f"write a number below {self.vocab - 1}"
    near = get_close_matches(text, self.classes, 3) or [*self.classes][:3]
    return f"{number}, or a name as {', '.join(map(repr, near))}" if near else number

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens."""
    if self.kind == "labels":
      return str(ids[0] - 1) if ids[0] else ""
    special = (self.pad, self.bos, self.eos)
    plain = [int(i) for i in ids if i not in special and i < self.vocab]
    if self._bpe:
      # A placeholder's token has the space before it, which the library does not give back.
      runs = ((word, [*run]) for word, run in groupby(plain, self.placeholders.get))
      texts = (f" {word}" * len(run) if word else self._bpe.decode(run) for word, run in runs)
      return "".join(texts).removeprefix(" ")
    return b"".join((i - len(SPECIAL)).to_bytes(1, "big") for i in plain).decode("utf-8", "replace")


def class_names(folder: Path) -> dict[str, int]:
  """Name -> class, of a folder's model_index.json, as diffusers' DiTPipeline has them.

  A class has several names, with commas between them; of two classes with one name it is the
  latter's. Raises DataError where the file cannot be read.
  """
  path = folder / "model_index.json"
  try:
    stored = json.loads(path.read_text("utf-8"))["id2label"]
    return {one.strip(): int(i) for i, names in stored.items() for one in names.split(",")}
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise DataError(f"{path}: id2label cannot be read: {error!r}. Copy it again.") from error


def _shorten(text: str, limit: int = 120) -> str:
  return text if len(text) <= limit else text[: limit - 3] + "..."


def _opened(model: str) -> tokenizers.Tokenizer:
  try:
    bpe = tokenizers.Tokenizer.from_str(model)
  except Exception as error:  # the library raises bare Exception
    raise DataError(f"tokenizer.json is not a tokenizer: {error}") from error
  bpe.encode_special_tokens = True  # "[EOS]" in a caption is encoded as five characters
  return bpe


def _parse(model: str) -> tokenizers.Tokenizer:
  bpe = _opened(model)
  found = tuple(bpe.id_to_token(i) for i in range(len(SPECIAL)))
  if found != SPECIAL:
    raise DataError(
      f"tokenizer.json begins with tokens {found} instead of {SPECIAL}. Build it again."
    )
  return bpe


def placeholder_words(n: int) -> tuple[str, ...]:
  """The words of n placeholders: "<v0>", "<v1>", .."""
  return tuple(f"<v{i}>" for i in range(n))


def check_captions(captions: Sequence[str], words: Sequence[str]) -> None:
  """Raises DataError where a caption has one of the placeholders' words."""
  for caption in captions:
    found = [word for word in words if word in caption]
    if found:
      raise DataError(
        f"the caption {_shorten(caption)!r} has {found[0]!r}, which --placeholders={len(words)} "
        "reserves for words that no caption has. Use fewer placeholders, or change the caption."
      )


def train_bpe(captions: Iterable[str], vocab: int, placeholders: int = 0) -> str:
  """Byte-level BPE of at most `vocab` tokens, as the text of a tokenizer.json.

  A space is added before the first word, so that a word has the same tokens at every position.
  placeholders  how many of the tokens are "<v0>", "<v1>", .., the last ids: each is one token
                where a text has it as a word, and none is trained
  Raises DataError where vocab is too small for these, the 256 bytes and the special tokens.
  """
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  least = len(alphabet) + len(SPECIAL) + placeholders
  if vocab < least:
    also = f" with {placeholders} placeholders" if placeholders else ""
    raise DataError(
      f"--vocab={vocab} is smaller than the {least} bytes and special tokens{also}. Use {least} "
      "or more."
    )
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab - placeholders,
    special_tokens=list(SPECIAL),
    initial_alphabet=alphabet,
    show_progress=False,
  )
  bpe.train_from_iterator(iter(captions), trainer)
  # Not "special": those are encoded as their characters, see `_opened`.
  bpe.add_tokens(
    [
      tokenizers.AddedToken(word, lstrip=True, normalized=False)
      for word in placeholder_words(placeholders)
    ]
  )
  return bpe.to_str()


def file_problem(folder: str | Path) -> str | None:
  """A problem of a built folder's tokenizer file, or None."""
  entry = read_manifest(folder)["tokenizer"]
  path = Path(folder) / entry["file"]
  try:
    data = path.read_bytes()
  except OSError as error:
    return f"{path} cannot be read ({error.strerror})"
  if hashlib.sha256(data).hexdigest() != entry["sha256"]:
    return f"{path} has another sha256 than in the manifest"
  return None
