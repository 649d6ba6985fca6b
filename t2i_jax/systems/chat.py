"""A conversation with a joint model: images by caption, edits by instruction, and captions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import PromptError
from t2i_jax.models.decoder import Cache
from t2i_jax.models.params import Params
from t2i_jax.systems.generate import Generator
from t2i_jax.systems.system import pixels


class State(NamedTuple):
  """The caches with the text and, for guidance, without it; `used` positions of a row."""

  cond: Cache
  null: Cache | None
  logits: jax.Array
  used: int


class Chat:
  """One document that grows with every turn; `begin` starts another.

  seed  of the first image; each one drawn adds 1
  """

  def __init__(self, generator: Generator, params: Params, seed: int = 0):
    self.generator, self.params, self.seed = generator, params, seed
    self.layout = generator.system.layout
    self.ids = self.layout.ids
    self.begin()

  def begin(self) -> None:
    self.state: State | None = None

  def open(self, image: np.ndarray) -> None:
    """Begins with an image, uint8 [H, W, 3]."""
    self.begin()
    self._prefill(*[[self.ids.bos, self.ids.boi]] * 2)
    self._prefill_image(jnp.asarray(image[None]))

  def draw(self, text: str) -> np.ndarray:
    """An image by a caption or an instruction, uint8 [H, W, 3]. Raises PromptError."""
    ids = self._tokens(text)
    first = [self.ids.bos] if self.state is None else []
    self._prefill([*first, *ids, self.ids.boi], [*first, self.ids.boi])
    return self._image()

  def generate(self, images: int = 4) -> list[str | np.ndarray]:
    """Text and images that the model generates until it ends, at most so many images."""
    if self.state is None:
      self._prefill([self.ids.bos], [self.ids.bos])
    parts: list[str | np.ndarray] = []
    for _ in range(images):
      state = self._state()
      keys = jax.random.key(self.seed)[None]
      generated, cond = self.generator.decode(self.params, state.cond, state.logits, keys)
      length, ended = int(generated.length[0]), int(generated.ended[0])
      if length:
        parts.append(self.generator.system.tokenizer.decode(np.asarray(generated.ids[0]).tolist()))
      self.state = state._replace(cond=cond, used=state.used + length)
      if ended != self.ids.boi:
        break
      self._prefill([self.ids.boi], [self.ids.boi])
      parts.append(self._image())
    return parts

  def describe(self, image: np.ndarray) -> str:
    """A caption of an image, without the conversation before it."""
    return self.generator.caption(self.params, image[None], [self.seed])[0]

  def _state(self) -> State:
    assert self.state is not None
    return self.state

  def _tokens(self, text: str) -> list[int]:
    ids, count = self.generator.tokenize([text], self.ids.eos)
    return ids[0, 1 : count[0] - 1].tolist()

  def _prefill(self, cond: list[int], null: list[int]) -> None:
    used = 0 if self.state is None else self.state.used
    if used + len(cond) + self.layout.patches + 1 > self.layout.length:
      raise PromptError(
        f"the conversation has {used} of {self.layout.length} positions: no space for "
        f"{len(cond)} tokens and an image. Type /new."
      )
    read = self.generator.prefill
    if self.state is None:
      empty = self.generator.empty(1)
      before = empty, None if self.generator.c.cfg == 1 else empty
    else:
      before = self.state.cond, self.state.null
    logits, first = read(self.params, before[0], *self._padded(cond))
    without = before[1] and read(self.params, before[1], *self._padded(null))[1]
    self.state = State(first, without, logits, used + len(cond))

  def _padded(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    row = np.zeros((1, self.generator.system.text_length), np.int32)
    row[0, : len(ids)] = ids
    return row, np.array([len(ids)], np.int32)

  def _image(self) -> np.ndarray:
    state, scale = self._state(), jnp.float32(self.generator.c.cfg)
    seeds = np.array([self.seed], np.uint32)
    x0 = self.generator.draw(self.params, state.cond, state.null, seeds, scale)
    image = pixels(x0)[0]
    self.seed += 1
    self._prefill_image(x0)
    return image

  def _prefill_image(self, x0: jax.Array) -> None:
    state = self._state()
    logits, cond = self.generator.prefill_image(self.params, state.cond, x0)
    null = state.null and self.generator.prefill_image(self.params, state.null, x0)[1]
    self.state = State(cond, null, logits, state.used + self.layout.patches + 1)
