"""Documents of words and pictures, packed into rows of one length for a model that reads both.

A row is a sequence of positions. At each stands a token or one patch of a picture:

    BOS a red circle BOI p p p p EOI make it blue BOI p p p p EOI EOS | BOS BOI p p p p EOI ...

BOI and EOI are the two ids after the tokenizer's own. Who sees whom is said by two integers a
position, as for the one attention: tokens see what comes before them in their document, patches of
a picture also each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import fit_picture
from t2i_jax.errors import ConfigError, DataError, PromptError

NOBODY = -1  # the document of padding
POSITIONS = ("grid", "centred", "sequence")


class Words(NamedTuple):
  """Tokens [n] of a text.

  learned  whether the model is to write them, or is only given them
  dropped  bool [n], which of them are hidden from what comes after; None = none
  """

  ids: np.ndarray
  learned: bool = True
  dropped: np.ndarray | None = None


class Picture(NamedTuple):
  """A picture [H, W, C].

  most     the largest t it is mixed with noise at; 0: it is shown as it is, and not to be drawn
  learned  whether the BOI before it is to be written
  """

  image: np.ndarray
  most: float = 1.0
  learned: bool = True


Document = Sequence[Words | Picture]


class Markers(NamedTuple):
  """Ids of the tokens that stand for no word."""

  pad: int
  bos: int
  eos: int
  boi: int
  eoi: int

  @classmethod
  def of(cls, tokenizer: Tokenizer) -> "Markers":
    own = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    return cls(*own, tokenizer.vocab, tokenizer.vocab + 1)


def patch_positions(rule: str, rows: int, cols: int) -> tuple[np.ndarray, int]:
  """Where patches stand from where the picture begins, and how far on the text after it does.

  grid      (i, j); the text goes on after the longer side [2409.12191 sec. 2.1]
  centred   (i, j) around the middle of the places that the picture takes in the sequence
            [github.com/Tencent-Hunyuan/HunyuanImage-3.0]
  sequence  one after the other, as tokens [2408.11039]
  Returns (row, column) float32 [rows cols, 2] and the distance.
  """
  count = rows * cols
  if rule == "sequence":
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 2, axis=1), count
  grid = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1).reshape(-1, 2)
  if rule == "grid":
    return grid.astype(np.float32), max(rows, cols)
  middle = (count - np.array([rows, cols])) // 2
  return (grid + middle).astype(np.float32), count


@dataclass(frozen=True)
class Layout:
  """The shape of a row.

  length       positions
  pictures     most pictures
  rows, cols   patches of a picture
  positions    a rule of `patch_positions`
  ids          of markers
  """

  length: int
  pictures: int
  rows: int
  cols: int
  positions: str
  ids: Markers

  @property
  def patches(self) -> int:
    return self.rows * self.cols

  def size(self, document: Document) -> int:
    """Positions that a document takes."""
    inner = (len(p.ids) if isinstance(p, Words) else self.patches + 2 for p in document)
    return 2 + sum(inner)

  def pack(self, documents: Sequence[Document], image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The row of the documents that fit, in their order; one that does not is left out.

    tokens     int32 [L], pad where a patch or nothing stands
    patch      int32 [L], number of the patch among the row's pictures x patches; -1 at tokens
    doc, end   int32 [L]: t2i_jax.models.attention
    positions  float32 [L, 2], (row, column); of a token twice its place in its document
    learn      float32 [L], 1 where the token after this position is to be learned
    dropped    bool [L], where a token is not shown but in its place pad
    starts     int32 [N], position of each picture's first patch
    image      [N, H, W, C];   most  float32 [N]
    weight     float32 [N], 1 where there is a picture to be drawn
    left_out   float32 [], documents that did not fit
    Raises DataError for a BOI or EOI among words: it would have no picture, or no other end.
    """
    row = _Row(self, image_shape)
    left_out = sum(not row.add(document) for document in documents)
    return row.arrays | {"left_out": np.float32(left_out)}


class _Row:
  """A row while it is filled."""

  def __init__(self, layout: Layout, image_shape: tuple[int, ...]):
    length, n = layout.length, layout.pictures
    self.layout = layout
    self.used = self.pictures = self.documents = 0
    self.place = 0  # in the document
    self.arrays: dict[str, Any] = {
      "tokens": np.full(length, layout.ids.pad, np.int32),
      "patch": np.full(length, -1, np.int32),
      "doc": np.full(length, NOBODY, np.int32),
      "end": np.arange(length, dtype=np.int32),
      "positions": np.zeros((length, 2), np.float32),
      "learn": np.zeros(length, np.float32),
      "dropped": np.zeros(length, bool),
      "starts": np.zeros(n, np.int32),
      "image": np.zeros((n, *image_shape), np.uint8 if image_shape[2] == 3 else np.float32),
      "most": np.ones(n, np.float32),
      "weight": np.zeros(n, np.float32),
    }

  def add(self, document: Document) -> bool:
    """Appends a document, or says that there is no room."""
    pictures = [part for part in document if isinstance(part, Picture)]
    room = self.layout.length - self.used, self.layout.pictures - self.pictures
    if self.layout.size(document) > room[0] or len(pictures) > room[1]:
      return False
    ids = self.layout.ids
    for words in document:
      if isinstance(words, Words) and np.isin(words.ids, (ids.boi, ids.eoi)).any():
        raise DataError(
          f"the words {words.ids.tolist()} hold BOI ({ids.boi}) or EOI ({ids.eoi}), which stand "
          "around pictures only. Give the picture as a part of the document."
        )
    self.place = 0
    self._token(ids.bos, learned=False)
    for part in document:
      if isinstance(part, Words):
        begin = self.used
        for token in part.ids:
          self._token(int(token), part.learned)
        if part.dropped is not None:
          self.arrays["dropped"][begin : self.used] = part.dropped
      else:
        self._token(ids.boi, part.learned)
        self._picture(part)
        self._token(ids.eoi, learned=False)
    self._token(ids.eos, learned=True)
    self.documents += 1
    return True

  def _token(self, token: int, learned: bool) -> None:
    at, a = self.used, self.arrays
    a["tokens"][at], a["doc"][at], a["positions"][at] = token, self.documents, self.place
    if learned:
      a["learn"][at - 1] = 1
    self.used, self.place = at + 1, self.place + 1

  def _picture(self, picture: Picture) -> None:
    layout, a, n = self.layout, self.arrays, self.pictures
    at = slice(self.used, self.used + layout.patches)
    where, distance = patch_positions(layout.positions, layout.rows, layout.cols)
    a["patch"][at] = n * layout.patches + np.arange(layout.patches)
    a["doc"][at], a["end"][at] = self.documents, at.stop - 1
    a["positions"][at] = self.place + where
    a["starts"][n], a["image"][n] = at.start, picture.image
    a["most"][n], a["weight"][n] = picture.most, picture.most > 0
    self.used, self.place, self.pictures = at.stop, self.place + distance, n + 1


class Packed(NamedTuple):
  """How records become rows.

  length       positions of a row
  pictures     most pictures of a row
  window       records that a row is made of, consecutive in the global order
  positions    of patches: `patch_positions`
  absolute     whether patches are also told their place in their own picture
  image_first  share of documents that show a picture and then its caption
  text_only    share that is a caption alone
  interleaved  share that joins two records
  edited       share that goes on with a record's turns, as many as chance has it; half of these
               begin with the picture. The rest is captions with their pictures after them
  drop         share of documents that lose their texts, for classifier-free guidance
  most         largest t of a picture that something is to be said of, or made from
               [2408.11039 sec. 3.3]; 0: it is shown as it is, and not to be drawn [2505.14683]
  prompt_loss  whether the captions that pictures are drawn from are to be written as well
  word_dropout share of the words about a picture before them that the next ones do not see, so that
               these are read off the picture [1511.06349 sec. 3.1]
  """

  length: int = 256
  pictures: int = 4
  window: int = 4
  positions: str = "grid"
  absolute: bool = False
  image_first: float = 0.2
  text_only: float = 0.0
  interleaved: float = 0.0
  edited: float = 0.0
  drop: float = 0.1
  most: float = 0.5
  prompt_loss: bool = True
  word_dropout: float = 0.0


def layout_of(
  packed: Packed, image_size: tuple[int, int], patch: int, tokenizer: Tokenizer
) -> Layout:
  """Raises ConfigError where a row cannot hold one picture."""
  rows, cols = image_size[0] // patch, image_size[1] // patch
  if packed.positions not in POSITIONS:
    raise ConfigError(
      f"data.rows: positions = {packed.positions!r} is not one of {', '.join(POSITIONS)}."
    )
  if packed.length < rows * cols + 4:
    raise ConfigError(
      f"data.rows: length = {packed.length} holds no picture of {rows} x {cols} patches with its "
      f"markers. Use {rows * cols + 4} or more."
    )
  shares = (packed.image_first, packed.text_only, packed.interleaved, packed.edited)
  if min(shares) < 0 or sum(shares) > 1:
    raise ConfigError(f"data.rows: the shares of documents, {shares}, are not parts of 1.")
  return Layout(packed.length, packed.pictures, rows, cols, packed.positions, Markers.of(tokenizer))


class Packing:
  """(records, rng) -> a row of `Layout.pack`; can be pickled.

  image_shape  [H, W, C] in pixels or latent cells
  length       tokens a text may have, its begin and end counted
  Raises DataError naming the record, as transforms.Transform does.
  """

  def __init__(
    self,
    packed: Packed,
    layout: Layout,
    image_shape: tuple[int, int, int],
    tokenizer: Tokenizer,
    length: int,
  ):
    self.packed, self.layout, self.image_shape = packed, layout, image_shape
    self.tokenizer, self.length = tokenizer, length
    self.window = packed.window

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> dict[str, Any]:
    return self.layout.pack(list(self.documents(records, rng)), self.image_shape)

  def documents(self, records: Sequence[Record], rng: np.random.Generator) -> list[Document]:
    """The documents of a window."""
    c, waiting = self.packed, list(records)
    ends = np.cumsum([c.image_first, c.text_only, c.interleaved, c.edited])
    found: list[Document] = []
    while waiting:
      record, kind = waiting.pop(0), int(np.searchsorted(ends, rng.random(), side="right"))
      caption = self._caption(record, rng)
      prompt = self._prompt(caption)
      document: Document
      if kind == 0:
        dropped = rng.random(len(caption.ids)) < c.word_dropout if c.word_dropout else None
        shown = self._picture(record, record.image, most=c.most)
        document = [shown, caption._replace(dropped=dropped)]
      elif kind == 1:
        document = [caption]
      elif kind == 2 and waiting:
        other = waiting.pop(0)
        pair = [self._picture(one, one.image) for one in (record, other)]
        document = [prompt, pair[0], self._prompt(self._caption(other, rng)), pair[1]]
      elif kind == 3 and record.then:
        document = self._edited(record, rng, [prompt] if rng.random() < 0.5 else [])
      else:
        document = [prompt, self._picture(record, record.image)]
      found.append(_without_texts(document) if rng.random() < c.drop else document)
    return found

  def _edited(
    self, record: Record, rng: np.random.Generator, words: list[Words]
  ) -> list[Words | Picture]:
    """A picture and some of the turns after it: instructions, which are given, and pictures."""
    turns = record.then[: rng.integers(1, len(record.then) + 1)]
    parts: list[Words | Picture] = [*words, self._picture(record, record.image)]
    for text, image in turns:
      parts += [self._words(record, text, learned=False), self._picture(record, image)]
    shown = [p._replace(most=self.packed.most) if isinstance(p, Picture) else p for p in parts]
    return [*shown[:-1], parts[-1]]

  def _prompt(self, caption: Words) -> Words:
    return caption._replace(learned=self.packed.prompt_loss)

  def _caption(self, record: Record, rng: np.random.Generator) -> Words:
    return self._words(record, record.captions[rng.integers(len(record.captions))])

  def _words(self, record: Record, text: str, learned: bool = True) -> Words:
    try:
      ids, mask = self.tokenizer.encode([text], self.length)
    except PromptError as error:
      raise DataError(f"record {record.key!r}: its text {error}") from error
    return Words(ids[0][mask[0]][1:-1], learned)

  def _picture(self, record: Record, image: bytes, **how: Any) -> Picture:
    try:
      pixels = fit_picture(image, self.image_shape[:2])
    except DataError as error:
      raise DataError(f"record {record.key!r}: {error}") from error
    return Picture(pixels, **how)


def _without_texts(document: Document) -> Document:
  """The pictures alone, if there are any: what guidance is held against.

  A BOI that follows no words is to be learned only where a document begins.
  """
  pictures = [part for part in document if isinstance(part, Picture)]
  return [p._replace(learned=i == 0) for i, p in enumerate(pictures)] or document
