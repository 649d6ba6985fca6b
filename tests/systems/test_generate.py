"""The cache: what is read piece by piece is what the whole row gives."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_weights

from t2i_jax.config import load_config
from t2i_jax.data.documents import Image, Text
from t2i_jax.data.tokenize import BOS, EOS, PAD, Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.transfusion import Rows
from t2i_jax.parallel import make_mesh
from t2i_jax.systems import make_system
from t2i_jax.systems.chat import Chat
from t2i_jax.systems.generate import NOT_STOPPED, Choice, Generator, choose

CONFIG = Path(__file__).parents[1] / "joint_config.py"
SMALL = {
  "data.image_size": "(16, 8)", "text.vocab": "261", "text.length": "16", "text.tokenizer": "bytes",
  "model.width": "32", "model.depth": "2", "model.heads": "4", "model.patch": "4",
  "rows.length": "64", "rows.images": "3", "rows.positions": "grid",
}  # fmt: skip
RULES = ("grid", "centred", "sequence")


def live(system, scale=0.2):
  """Weights none of which is zero."""
  return random_weights(system.abstract, scale)


def make(**changes):
  config = load_config(CONFIG, SMALL | changes)
  system = make_system(config, Tokenizer.bytes())
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  return system, Generator(system, config.sampling, mesh), live(system)


def words(*ids):
  return Text(np.array(ids, np.int32))


@pytest.mark.newest
@pytest.mark.parametrize("rule, time, unet", [
  ("grid", "added", "0"), ("centred", "adaln", "0"), ("sequence", "added", "0"),
  *(pytest.param(rule, time, "0", marks=pytest.mark.proof)
    for rule, time in zip(RULES, ["adaln", "added", "adaln"], strict=True)),
  ("grid", "added", "8"), ("grid", "adaln", "8"),
])  # fmt: skip
def test_reading_piece_by_piece_gives_what_the_whole_row_gives(rule, time, unet):
  """Two rows of different lengths: words, an image, words, and another image that is drawn."""
  system, generator, params = make(
    **{"rows.positions": rule, "model.time": time, "model.kv_heads": "2", "model.unet": unet}
  )
  rng = np.random.default_rng(0)
  seen, noisy = (rng.standard_normal((2, 16, 8, 3)).astype(np.float32) for _ in range(2))
  texts = ([5, 6, 7], [9]), ([8], [5, 6, 7, 8])
  layout, model = system.layout, system.model(params)
  clean = system.process.at(system.process.on_grid(jnp.zeros(2))).model_time
  at = jnp.array([300.0, 700.0])

  cache = generator.empty(2)
  boi = layout.ids.boi
  padded = np.array([[BOS, 5, 6, 7, boi], [BOS, 8, boi, PAD, PAD]], np.int32)
  _, cache = generator.prefill(params, cache, padded, np.array([5, 3], np.int32))
  after_picture, cache = generator.prefill_image(params, cache, seen)
  padded = np.array([[9, boi, PAD, PAD, PAD], [5, 6, 7, 8, boi]], np.int32)
  _, cache = generator.prefill(params, cache, padded, np.array([2, 5], np.int32))
  answer, _ = model.prefill_image(noisy, at, cache, generator.places)

  for i, (first, second) in enumerate(texts):
    document = [words(*first), Image(seen[i]), words(*second), Image(noisy[i])]
    # Something else stands before it.
    made = layout.pack([[words(5)], document], system.image_shape)
    images = np.stack([seen[i], noisy[i], np.zeros_like(seen[i])])[None]
    row = Rows(*(getattr(made.rows, name)[None] for name in Rows._fields))
    hidden, answers = model(row, images, jnp.array([[clean[i], at[i], 0.0]])).value
    np.testing.assert_allclose(answers[0, 1], answer[i], atol=2e-5)
    eoi = int(made.rows.starts[0]) + layout.patches
    logits = model.logits(hidden[0, eoi])
    np.testing.assert_allclose(logits, after_picture[i], atol=2e-4)


def test_writing_greedily_is_what_whole_rows_say():
  """Every token is the most likely one after what stands before it, read anew each time."""
  system, generator, params = make(**{"sampling.words": "sample(temperature=0.0, most=12)"})
  ids, count = generator.tokenize(["ab", "abcde"], system.layout.ids.boi)
  count = count - 1  # without BOI
  logits, cache = generator.prefill(params, generator.empty(2), ids, count)
  keys = jax.random.split(jax.random.key(0), 2)
  written, _ = generator.decode(params, cache, logits, keys)
  model = system.model(params)
  for i in range(2):
    n, length = int(count[i]), int(written.length[i])
    tokens = [*ids[i, 1:n], *np.asarray(written.ids[i, :length])]
    made = system.layout.pack([[words(*tokens)]], system.image_shape)
    row = Rows(*(getattr(made.rows, name)[None] for name in Rows._fields))
    hidden, _ = model(row, jnp.zeros((1, 3, *system.x_shape)), jnp.zeros((1, 3))).value
    logits = (
      model.logits(hidden[0]).at[:, jnp.array([PAD, BOS, system.layout.ids.eoi])].set(-jnp.inf)
    )
    best = np.asarray(logits.argmax(axis=-1))
    assert list(best[n - 1 : n - 1 + length]) == tokens[n - 1 :]
    end = best[n - 1 + length]
    assert int(written.ended[i]) == (end if end in (EOS, system.layout.ids.boi) else NOT_STOPPED)
    assert length == 12 or end in (EOS, system.layout.ids.boi)


def test_a_drawing_depends_on_its_words_its_seed_and_not_on_its_batch():
  config = load_config(CONFIG, SMALL | {"sampling.batch": "3", "sampling.steps": "4"})
  system = make_system(config, Tokenizer.bytes())
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  draw, params = system.tasks(config.sampling, mesh).draw, live(system)
  images = draw(params, ["ab", "abcdefg", "ab", "ab"], [1, 1, 2, 1]).astype(int)
  assert images.shape == (4, 16, 8, 3)
  assert np.abs(images[0] - images[3]).max() <= 1
  assert np.abs(images[0] - images[1]).max() > 3 < np.abs(images[0] - images[2]).max()


def test_choosing():
  logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]] * 4000))
  keys = jax.random.split(jax.random.key(0), 4000)
  share = lambda **how: np.bincount(choose(logits, keys, Choice(**how)), minlength=4) / 4000
  assert np.array_equal(share(temperature=0.0), [1, 0, 0, 0])
  np.testing.assert_allclose(share(), [0.5, 0.3, 0.15, 0.05], atol=0.03)
  np.testing.assert_allclose(share(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
  np.testing.assert_allclose(share(top_p=0.9), [0.526, 0.316, 0.158, 0], atol=0.03)
  np.testing.assert_allclose(share(top_p=0.4), [1, 0, 0, 0], atol=0.001)
  warm = np.array([0.5, 0.3, 0.15, 0.05]) ** 0.5
  np.testing.assert_allclose(share(temperature=2.0), warm / warm.sum(), atol=0.03)


@pytest.mark.parametrize("cfg", ["1.0", "2.5"])
def test_edits_in_batches_are_those_of_a_conversation_that_begins_with_the_picture(cfg):
  changes = {"sampling.batch": "2", "sampling.steps": "3", "sampling.cfg": cfg}
  _, generator, params = make(**changes)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
  instructions = ["ab", "abcdef", "x"]
  edited = generator.edit(params, images, instructions, [4, 5, 6])
  for i in range(3):
    chat = Chat(generator, params, seed=4 + i)
    chat.open(images[i])
    said = chat.draw(instructions[i]).astype(int)
    assert np.abs(said - edited[i]).max() <= 1


def test_an_instruction_about_two_images():
  """As in a document that has both, in their order, before the instruction."""
  _, generator, params = make(**{"sampling.batch": "2", "sampling.steps": "3"})
  first, second = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 8, 3), dtype=np.uint8)
  edited = generator.edit(params, first, ["ab", "abcdef"], [4, 5], [second])
  boi = generator.system.layout.ids.boi
  for i, text in enumerate(["ab", "abcdef"]):
    chat = Chat(generator, params, seed=4 + i)
    chat.open(first[i])
    chat._prefill([*chat._tokens("and"), boi], [boi])
    chat._prefill_image(jnp.asarray(second[i][None]))
    assert np.abs(chat.draw(text).astype(int) - edited[i]).max() <= 1
  swapped = generator.edit(params, second, ["ab", "abcdef"], [4, 5], [first])
  assert np.abs(swapped.astype(int) - edited).max() > 1
  with pytest.raises(ConfigError, match="reads at most 3 images and was given 4"):
    generator.edit(params, first, ["a", "b"], [0, 1], [second] * 3)
