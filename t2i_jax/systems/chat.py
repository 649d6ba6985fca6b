"""A conversation with a joint model: it draws what is asked, changes it, and says what it sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.errors import PromptError
from t2i_jax.models.decoder import Cache
from t2i_jax.models.params import Params
from t2i_jax.systems.generate import Generator
from t2i_jax.systems.system import pixels


class Heard(NamedTuple):
  """What has been read, with the words and, for guidance, without them; `used` slots of a row."""

  cond: Cache
  null: Cache | None
  logits: jax.Array
  used: int


class Chat:
  """One document that grows with every turn; `begin` drops it.

  seed  of the first picture; each one drawn adds 1
  """

  def __init__(self, generator: Generator, params: Params, seed: int = 0):
    self.generator, self.params, self.seed = generator, params, seed
    self.layout = generator.system.layout
    self.ids = self.layout.ids
    self.begin()

  def begin(self) -> None:
    self.heard: Heard | None = None

  def open(self, picture: np.ndarray) -> None:
    """Begins with a picture, uint8 [H, W, 3]."""
    self.begin()
    self._prefill(*[[self.ids.bos, self.ids.boi]] * 2)
    self._prefill_image(jnp.asarray(picture[None]))

  def draw(self, words: str) -> np.ndarray:
    """What a caption or an instruction asks for, uint8 [H, W, 3]. Raises PromptError."""
    ids = self._words(words)
    first = [self.ids.bos] if self.heard is None else []
    self._prefill([*first, *ids, self.ids.boi], [*first, self.ids.boi])
    return self._picture()

  def go_on(self, most: int = 4) -> list[str | np.ndarray]:
    """What the model writes and draws by itself until it ends, at most so many pictures."""
    if self.heard is None:
      self._prefill([self.ids.bos], [self.ids.bos])
    parts: list[str | np.ndarray] = []
    for _ in range(most):
      heard = self._heard()
      keys = jax.random.key(self.seed)[None]
      written, cond = self.generator.decode(self.params, heard.cond, heard.logits, keys)
      length, ended = int(written.length[0]), int(written.ended[0])
      if length:
        parts.append(self.generator.system.tokenizer.decode(np.asarray(written.ids[0]).tolist()))
      self.heard = heard._replace(cond=cond, used=heard.used + length)
      if ended != self.ids.boi:
        break
      self._prefill([self.ids.boi], [self.ids.boi])
      parts.append(self._picture())
    return parts

  def describe(self, picture: np.ndarray) -> str:
    """A caption of a picture, whatever was said before."""
    return self.generator.caption(self.params, picture[None], [self.seed])[0]

  def _heard(self) -> Heard:
    assert self.heard is not None
    return self.heard

  def _words(self, words: str) -> list[int]:
    ids, count = self.generator.tokenize([words], self.ids.eos)
    return ids[0, 1 : count[0] - 1].tolist()

  def _prefill(self, cond: list[int], null: list[int]) -> None:
    used = 0 if self.heard is None else self.heard.used
    if used + len(cond) + self.layout.patches + 1 > self.layout.length:
      raise PromptError(
        f"the conversation has {used} of {self.layout.length} positions: no space for "
        f"{len(cond)} tokens and a picture. Type /new."
      )
    read = self.generator.prefill
    if self.heard is None:
      empty = self.generator.empty(1)
      before = empty, None if self.generator.c.cfg == 1 else empty
    else:
      before = self.heard.cond, self.heard.null
    logits, first = read(self.params, before[0], *self._padded(cond))
    without = before[1] and read(self.params, before[1], *self._padded(null))[1]
    self.heard = Heard(first, without, logits, used + len(cond))

  def _padded(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    row = np.zeros((1, self.generator.system.text_length), np.int32)
    row[0, : len(ids)] = ids
    return row, np.array([len(ids)], np.int32)

  def _picture(self) -> np.ndarray:
    heard, scale = self._heard(), jnp.float32(self.generator.c.cfg)
    seeds = np.array([self.seed], np.uint32)
    x0 = self.generator.draw(self.params, heard.cond, heard.null, seeds, scale)
    self.seed += 1
    self._prefill_image(x0)
    return np.asarray(pixels(x0)[0])

  def _prefill_image(self, x0: jax.Array) -> None:
    heard = self._heard()
    logits, cond = self.generator.prefill_image(self.params, heard.cond, x0)
    null = heard.null and self.generator.prefill_image(self.params, heard.null, x0)[1]
    self.heard = Heard(cond, null, logits, heard.used + self.layout.patches + 1)
