"""Tokens of words, and alignments beside brute force and the definitions of the reference code."""

import itertools

import numpy as np
import pytest

from t2i_jax.data.tokenize import Tokenizer, train_bpe
from t2i_jax.edit.words import (
  align,
  columns,
  equalizer,
  needleman_wunsch,
  tokenized,
)
from t2i_jax.errors import PromptError

CAPTIONS = ["a red circle left of a blue square", "a green triangle above a red square"] * 9
BPE = Tokenizer.bpe(train_bpe(CAPTIONS, 300))
LENGTH = 24


def read(prompt, tokenizer=BPE, length=LENGTH):
  return tokenized(tokenizer, prompt, length)


@pytest.mark.parametrize("tokenizer", [BPE, Tokenizer.bytes()], ids=["bpe", "bytes"])
def test_the_tokens_of_a_word_are_its_text(tokenizer):
  prompt = 'a red circle, left of a "blue" square.'
  found = read(prompt, tokenizer, 60)
  assert " ".join(word.text for word in found.words) == "a red circle left of a blue square"
  for word in found.words:
    decoded = tokenizer.decode(found.ids[slice(*word.span)])
    assert decoded.strip() == word.text
    assert word.text in tokenizer.decode(found.ids[slice(*word.whole)])
  for one, then in itertools.pairwise(found.words):
    assert one.whole.last == then.whole.first
  ends = (found.first, found.words[0].whole.first, found.words[-1].whole.last + 1)
  assert ends == (0, 1, found.last)


def test_words_that_are_there_twice_and_next_to_each_other():
  found = read("a red circle left of a red square")
  assert len(found.spans("red")) == 2 and found.spans("red square")[0].last == (
    found.spans("square")[0].last
  )
  factors = equalizer(found, {"red": -2.0, "square": 3.0})
  chosen = columns(found, ["red", "square", "of a"])
  assert chosen.shape == (LENGTH, 3)
  np.testing.assert_array_equal(factors, 1 - 3 * chosen[:, 0] + 2 * chosen[:, 1])
  with pytest.raises(PromptError, match=r"'blue' is no word of .*a, red, circle"):
    found.spans("blue")


def test_what_has_no_words_or_not_so_many():
  with pytest.raises(PromptError, match="is a class"):
    read("3", Tokenizer.labels(10))
  with pytest.raises(PromptError, match="tokens"):
    read("a red circle", Tokenizer.bytes(), 8)


def test_the_same_prompt_is_the_identity():
  one = read("a red circle")
  for kind in ("replace", "refine"):
    mapper, own = align(one, one, kind)
    np.testing.assert_array_equal(mapper, np.eye(LENGTH))
    assert not own.any()


def test_a_replaced_word_is_divided():
  """By hand: "circle" has one token, "xyz" several: each has 1/n of it; what follows is shifted."""
  source, target = read("a circle red"), read("a xyz red")
  mapper, own = align(source, target)
  (old,), (new,) = source.spans("circle"), target.spans("xyz")
  n = new.last - new.first
  assert old.last - old.first == 1 and n == 4
  wants = np.zeros((LENGTH, LENGTH))
  for i in range(old.first):
    wants[i, i] = 1
  wants[new.first : new.last, old.first] = 1 / n
  for i in range(new.last, LENGTH):
    wants[i, i - n + 1] = 1
  np.testing.assert_allclose(mapper, wants, rtol=1e-6)
  assert not own.any()
  np.testing.assert_allclose(mapper.sum(0)[: source.last], 1, rtol=1e-6)  # no attention is lost
  # Back: one token has the sum of four, and padding without a counterpart is its own.
  mapper, own = align(target, source)
  np.testing.assert_allclose(mapper[old.first, slice(*new)], 1)
  assert own.sum() == n - 1 and not own[: source.last].any()


def test_replacing_goes_word_by_word():
  with pytest.raises(PromptError, match=r"has 3 words .* has 4: .* --kind=refine"):
    align(read("a red circle"), read("a large red circle"), "replace")


def brute_force(x, y):
  """The largest number of pairs of equal items that rise in both, by trying all."""
  for n in range(min(len(x), len(y)), 0, -1):
    parts = {tuple(x[i] for i in some) for some in itertools.combinations(range(len(x)), n)}
    if any(tuple(y[j] for j in some) in parts for some in itertools.combinations(range(len(y)), n)):
      return n
  return 0


def test_needleman_wunsch_is_as_good_as_trying_all():
  """Gaps are free and a mismatch is not, so that the score is the number of matches."""
  rng = np.random.default_rng(0)
  for _ in range(60):
    x, y = (rng.integers(0, 4, rng.integers(0, 8)).tolist() for _ in range(2))
    pairs = needleman_wunsch(x, y)
    assert all(x[i] == y[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
    assert len(pairs) == brute_force(x, y)


def test_refining_keeps_new_tokens_their_own():
  source, target = read("a red circle"), read("a red circle left of a square")
  mapper, own = align(source, target)
  new = np.zeros(LENGTH, bool)
  for word in target.words[3:]:
    new[slice(*word.span)] = True
  np.testing.assert_array_equal(own[: target.last], new[: target.last])
  assert set(mapper.sum(1)) == {0, 1}
  ids = np.where(own == 0)[0]
  np.testing.assert_array_equal(target.ids[ids], source.ids[mapper[ids].argmax(1)])
