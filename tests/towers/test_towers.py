"""Text towers: what each may know of a caption, and the tokens that labels become."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from t2i_jax.config import build
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError, PromptError
from t2i_jax.models import axes_of, init_params, with_params
from t2i_jax.towers import TOWERS, Own

IDS = jnp.array([[1, 7, 5, 9, 2, 0], [1, 9, 5, 7, 2, 0]])  # the same words in another order
MASK = IDS > 0


def made(text, length, vocab=20, tokenizer=None):
  """The encoder that a config names by this text."""
  return build(TOWERS, text, "text.towers.x", Own(tokenizer, vocab, length))


def encode(text, ids=IDS, mask=MASK, length=6):
  encoder = made(text, length)
  params = init_params(encoder.make, jax.random.key(0))
  return encoder, with_params(encoder.make)(params)(ids, mask)


def test_a_bag_of_words_does_not_know_their_order():
  """Not in its tokens, not in its pooled vector, to the last bit; but it knows which they are."""
  _, tower = encode("bag_of_words(width=8)")
  np.testing.assert_array_equal(tower.tokens[0], tower.tokens[1])
  np.testing.assert_array_equal(tower.mask[0], tower.mask[1])
  np.testing.assert_allclose(tower.pooled[0], tower.pooled[1], rtol=1e-6)
  _, other = encode("bag_of_words(width=8)", IDS.at[0, 1].set(8))
  assert float(jnp.abs(other.pooled[0] - tower.pooled[0]).max()) > 1e-2
  assert list(np.asarray(tower.mask.sum(1))) == [5, 5]


def test_a_transformer_does():
  _, tower = encode("transformer(width=16, depth=1, heads=2)")
  assert float(jnp.abs(tower.tokens[0] - tower.tokens[1]).max()) > 1e-2


@pytest.mark.newest
def test_padding_does_not_matter_to_either():
  longer = jnp.pad(IDS, ((0, 0), (0, 3)))
  for text in ("bag_of_words(width=8)", "transformer(width=16, depth=2, heads=2)"):
    make = made(text, 9).make
    bind = with_params(make)(init_params(make, jax.random.key(0)))
    short, long = bind(IDS, MASK), bind(longer, longer > 0)
    np.testing.assert_allclose(short.pooled, long.pooled, atol=1e-5)
    np.testing.assert_allclose(short.tokens[:, :5], long.tokens[:, :5], atol=1e-5)


def test_widths_are_those_of_the_outputs():
  text = "transformer(width=16, depth=1, heads=2, tokens=24, pooled=10)"
  encoder, tower = encode(text)
  assert tower.tokens.shape == (2, 6, 24) and tower.pooled.shape == (2, 10)
  assert encoder.widths == {"text_width": 24, "pooled_width": 10}


def test_labels_are_numbers_and_the_null_is_the_last_row():
  tokenizer = Tokenizer.load("nowhere", "labels:10")
  ids, mask = tokenizer.encode(["3", "0", ""], 1)
  encoder = made("label", 1, tokenizer.vocab, tokenizer)
  assert axes_of(encoder.make) == {}  # no weights: the model has the table
  labels = with_params(encoder.make)({})(jnp.asarray(ids), jnp.asarray(mask)).tokens[:, 0, 0]
  assert labels.tolist() == [3, 0, 10] and encoder.widths == {"classes": 10}
  np.testing.assert_array_equal(encoder.null[0], ids[2:])  # the null is the encoding of ""
  assert [tokenizer.decode(row) for row in ids] == ["3", "0", ""]
  assert Tokenizer.from_json(tokenizer.to_json()) == tokenizer
  for wrong in ("10", "cat", "-1"):
    with pytest.raises(PromptError, match="number below 10"):
      tokenizer.encode([wrong], 1)
  for kind in ("labels", "labels:0", "labels:x"):
    with pytest.raises(ConfigError, match="labels:N"):
      Tokenizer.load("nowhere", kind)


def test_an_encoder_that_is_not_there_gives_zeros_for_any_caption():
  encoder = TOWERS["nothing"](Own(None, 0, 0), width=6, length=3)
  ids, mask = encoder.encode(["a", "a " * 99])
  tower = encoder.make(nnx.Rngs(0))(ids, mask)
  assert tower.tokens.shape == (2, 3, 6) and not np.any(tower.tokens) and np.all(tower.mask)
  assert encoder.tokenizer.lengths(["a", "b"]) == [1, 1]
