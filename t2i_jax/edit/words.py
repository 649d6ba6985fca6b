"""Words of prompts and their tokens, and the alignment of two prompts' tokens. On the host.

    replace   word by word, of prompts with equally many words; where a word is divided into another
              number of tokens, each target token has 1/n of the sum of the source's, n of them
    refine    Needleman-Wunsch over token ids: gap 0, match 1, mismatch -1; tokens without a
              counterpart keep their own map
Source: [2208.01626 sec. 3.2], and its code (seq_aligner.py).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t2i_jax.errors import PromptError

KINDS = ("replace", "refine")
AROUND = ".,;:!?\"'()[]"  # punctuation that is not part of a word


class Span(NamedTuple):
  """Places [first, last) in the encoder's sequence."""

  first: int
  last: int


class Word(NamedTuple):
  """text: without punctuation around it;   span: its tokens;   whole: with the punctuation"""

  text: str
  span: Span
  whole: Span


class Tokenized(NamedTuple):
  """A prompt as an encoder reads it.

  ids     [L] int, padding included;   first, last: the tokens that are no padding
  words   in order
  length  L
  """

  prompt: str
  ids: np.ndarray
  first: int
  last: int
  words: tuple[Word, ...]

  @property
  def length(self) -> int:
    return len(self.ids)

  def spans(self, word: str) -> list[Span]:
    """Where a word is, or several words next to each other. Raises PromptError where it is not."""
    parts = [part.strip(AROUND) or part for part in word.split()]
    texts = [w.text for w in self.words]
    count = len(parts)
    at = [i for i in range(len(texts) - count + 1) if texts[i : i + count] == parts]
    if not at or not parts:
      raise PromptError(
        f"{word!r} is no word of {self.prompt!r}. Its words are {', '.join(texts) or 'none'}."
      )
    return [Span(self.words[i].span.first, self.words[i + count - 1].span.last) for i in at]


def tokenized(tokenizer: Any, prompt: str, length: int) -> Tokenized:
  """A prompt's tokens, and those of its words.

  tokenizer  of a text encoder: encode(texts, length) and lengths(texts)
  Word boundaries are found by encoding the beginnings of the prompt, so that any tokenizer does
  that reads words apart. Raises PromptError where this one does not, or where a word was cut off.
  """
  if getattr(tokenizer, "kind", "") == "labels":
    raise PromptError(f"{prompt!r} is a class of this model, whose prompts have no words.")
  if getattr(tokenizer, "too_long", "") == "chunk" and length > tokenizer.window:
    raise PromptError("--too-long=chunk: words are edited in one window. Shorten the prompts.")
  pieces = [found.span() for found in re.finditer(r"\S+", prompt)]
  ends = []  # of text, without the space before a word
  for start, end in pieces:
    core = prompt[start:end]
    left = len(core) - len(core.lstrip(AROUND)) if core.strip(AROUND) else 0
    right = len(core.rstrip(AROUND)) if core.strip(AROUND) else len(core)
    ends += [start, start + left, start + right, end]
  beginnings = [prompt[:end].rstrip() for end in ends]
  ids, mask = (x[0] for x in tokenizer.encode([prompt], length))
  real = np.flatnonzero(mask)
  read = ids[real]
  empty, *counts = tokenizer.lengths(["", *beginnings])
  before = _common(read, _of("", tokenizer, length))
  end_of_text = len(read) - (empty - before)
  places = [min(before + count - empty, end_of_text) for count in counts]
  words = []
  for k, (start, end) in enumerate(pieces):
    outer, first, last, final = places[4 * k : 4 * k + 4]
    core = prompt[start:end].strip(AROUND) or prompt[start:end]
    if last <= first:
      raise PromptError(
        f"{core!r} is beyond the {length} tokens that the text encoder reads of {prompt[:60]!r}. "
        "Shorten the prompt."
      )
    same = _of(beginnings[4 * k + 2], tokenizer, length)[:last]
    if not np.array_equal(same, read[: len(same)]):
      raise PromptError(
        f"the tokenizer reads {core!r} of {prompt[:60]!r} together with what follows it. Put a "
        "space around it."
      )
    at = int(real[0])
    words.append(Word(core, Span(at + first, at + last), Span(at + outer, at + final)))
  return Tokenized(prompt, ids, int(real[0]), int(real[-1]) + 1, tuple(words))


def _of(text: str, tokenizer: Any, length: int) -> np.ndarray:
  ids, mask = (x[0] for x in tokenizer.encode([text], length))
  return ids[mask]


def _common(a: np.ndarray, b: np.ndarray) -> int:
  """Length of the longest common beginning."""
  n = min(len(a), len(b))
  differ = np.flatnonzero(a[:n] != b[:n])
  return int(differ[0]) if len(differ) else n


class Alignment(NamedTuple):
  """From a source's tokens to a target's, L places each.

  mapper  [L, L] float32, target by source: what of each source token's map a target token has
  own     [L] float32, 1 where a target token has no counterpart and keeps its own map
  """

  mapper: np.ndarray
  own: np.ndarray


def align(source: Tokenized, target: Tokenized, kind: str = "") -> Alignment:
  """The alignment of a kind; "": replace where the prompts have equally many words, else refine.

  Padding has its counterpart in order. Raises PromptError where prompts cannot be replaced.
  """
  equal = len(source.words) == len(target.words)
  kind = kind or ("replace" if equal else "refine")
  if kind == "replace" and not equal:
    raise PromptError(
      f"{source.prompt!r} has {len(source.words)} words and {target.prompt!r} has "
      f"{len(target.words)}: --kind=replace goes word by word. Use --kind=refine."
    )
  mapper = np.zeros((target.length, source.length), np.float32)
  pairs = _replaced if kind == "replace" else _refined
  for to, of, share in [*pairs(source, target), *_padding(source, target)]:
    mapper[to, of] += share
  return Alignment(mapper, (mapper.sum(axis=1) == 0).astype(np.float32))


Entry = tuple[int, int, float]  # target token, source token, share


def _replaced(source: Tokenized, target: Tokenized) -> list[Entry]:
  """Words to words, and what is between them in order."""
  entries: list[Entry] = []
  i, j = source.first, target.first
  between = lambda a, b: [(j + n, i + n, 1.0) for n in range(min(a - i, b - j))]
  for old, new in zip(source.words, target.words, strict=True):
    entries += between(old.whole.first, new.whole.first)
    of, to = range(*old.whole), range(*new.whole)
    if len(of) == len(to):
      entries += [(t, s, 1.0) for t, s in zip(to, of, strict=True)]
    else:
      entries += [(t, s, 1 / len(to)) for t in to for s in of]
    i, j = old.whole.last, new.whole.last
  return [*entries, *between(source.last, target.last)]


def _refined(source: Tokenized, target: Tokenized) -> list[Entry]:
  x, y = (p.ids[p.first : p.last].tolist() for p in (source, target))
  return [(target.first + j, source.first + i, 1.0) for i, j in needleman_wunsch(x, y)]


def needleman_wunsch(x: Sequence[int], y: Sequence[int]) -> list[tuple[int, int]]:
  """Pairs (i, j) of equal items of an alignment with the highest score, rising in both.

  Gap 0, match 1, mismatch -1: a mismatch is worse than two gaps, hence never part of it.
  """
  score = np.zeros((len(x) + 1, len(y) + 1), np.int64)
  for i, a in enumerate(x):
    for j, b in enumerate(y):
      match = score[i, j] + (1 if a == b else -1)
      score[i + 1, j + 1] = max(score[i, j + 1], score[i + 1, j], match)
  pairs, i, j = [], len(x), len(y)
  while i and j:
    if score[i, j] == score[i, j - 1]:
      j -= 1
    elif score[i, j] == score[i - 1, j]:
      i -= 1
    else:
      i, j = i - 1, j - 1
      pairs.append((i, j))
  return pairs[::-1]


def _padding(source: Tokenized, target: Tokenized) -> list[Entry]:
  """Padding to padding, from the text outwards; the rest of a longer one has no counterpart."""
  right = zip(range(target.last, target.length), range(source.last, source.length), strict=False)
  left = zip(reversed(range(target.first)), reversed(range(source.first)), strict=False)
  return [(t, s, 1.0) for t, s in [*right, *left]]


def equalizer(prompt: Tokenized, scales: Mapping[str, float]) -> np.ndarray:
  """The factor of each token: that of the words in `scales`, else 1.   # [L] float32"""
  found = np.ones(prompt.length, np.float32)
  for word, scale in scales.items():
    for span in prompt.spans(word):
      found[slice(*span)] = scale
  return found


def columns(prompt: Tokenized, words: Sequence[str]) -> np.ndarray:
  """1 at the tokens of each word, or of each of several with spaces.   # [L, K] float32"""
  found = np.zeros((prompt.length, len(words)), np.float32)
  for k, word in enumerate(words):
    for span in prompt.spans(word):
      found[slice(*span), k] = 1
  return found
