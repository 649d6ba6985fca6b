"""Documents of text and images, packed into rows of one length for a model over both.

A row is a sequence of positions. At each stands a token or one patch of an image:

    BOS a red circle BOI p p p p EOI make it blue BOI p p p p EOI EOS | BOS BOI p p p p EOI ...

BOI and EOI are the two ids after the tokenizer's own. Two integers a position are the attention
mask (models.attention): tokens attend to what comes before them in their document, patches of an
image also to each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from t2i_jax.data.batch import Batch, Rows
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import fit_image
from t2i_jax.errors import ConfigError, DataError, PromptError

NO_DOCUMENT = -1  # of padding
POSITIONS = ("grid", "centred", "sequence")


class Text(NamedTuple):
  """Tokens [n].

  predict  counted in the loss; False = prompt
  hidden   bool [n], tokens that later positions cannot read; None = none
  """

  ids: np.ndarray
  predict: bool = True
  hidden: np.ndarray | None = None


class Image(NamedTuple):
  """An image [H, W, C].

  max_t    the largest t it is mixed with noise at; 0 = clean conditioning image, not in the loss
  predict  whether the BOI before it counts in the loss
  """

  image: np.ndarray
  max_t: float = 1.0
  predict: bool = True


Document = Sequence[Text | Image]


class Markers(NamedTuple):
  """Ids of the special tokens."""

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
  """Positions of patches from where the image begins, and the distance to the text after it.

  grid      (i, j); the text goes on after the longer side [2409.12191 sec. 2.1]
  centred   (i, j) around the middle of the positions of the image in the sequence
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
  images       most images
  rows, cols   patches of an image
  positions    a rule of `patch_positions`
  ids          of markers
  """

  length: int
  images: int
  rows: int
  cols: int
  positions: str
  ids: Markers

  @property
  def patches(self) -> int:
    return self.rows * self.cols

  def size(self, document: Document) -> int:
    """Positions that a document takes."""
    inner = (len(p.ids) if isinstance(p, Text) else self.patches + 2 for p in document)
    return 2 + sum(inner)

  def pack(self, documents: Sequence[Document], image_shape: tuple[int, ...]) -> Batch:
    """The row of the documents that fit, in their order; one that does not is left out.

    Raises DataError for a BOI or EOI in a text: it would have no image, or no other end.
    """
    row = _Row(self, image_shape)
    left_out = sum(not row.add(document) for document in documents)
    rows = row.rows._replace(left_out=np.float32(left_out))
    return Batch(row.images, row.image_weight, row.max_t, {}, rows, row.text_weight)


class _Row:
  """A row while it is filled."""

  def __init__(self, layout: Layout, image_shape: tuple[int, ...]):
    length, n = layout.length, layout.images
    self.layout = layout
    self.used = self.count = self.documents = 0
    self.position = 0  # in the document
    self.rows = Rows(
      tokens=np.full(length, layout.ids.pad, np.int32),
      hidden=np.zeros(length, bool),
      patch=np.full(length, -1, np.int32),
      doc=np.full(length, NO_DOCUMENT, np.int32),
      end=np.arange(length, dtype=np.int32),
      positions=np.zeros((length, 2), np.float32),
      starts=np.zeros(n, np.int32),
      left_out=np.float32(0),
    )
    self.images = np.zeros((n, *image_shape), np.uint8 if image_shape[2] == 3 else np.float32)
    self.max_t, self.image_weight = np.ones(n, np.float32), np.zeros(n, np.float32)
    self.text_weight = np.zeros(length, np.float32)

  def add(self, document: Document) -> bool:
    """Appends a document; False where there is no space for it."""
    images = [part for part in document if isinstance(part, Image)]
    space = self.layout.length - self.used, self.layout.images - self.count
    if self.layout.size(document) > space[0] or len(images) > space[1]:
      return False
    ids = self.layout.ids
    for text in document:
      if isinstance(text, Text) and np.isin(text.ids, (ids.boi, ids.eoi)).any():
        raise DataError(
          f"the text {text.ids.tolist()} holds BOI ({ids.boi}) or EOI ({ids.eoi}), which stand "
          "around images only. Give the image as a part of the document."
        )
    self.position = 0
    self._token(ids.bos, predict=False)
    for part in document:
      if isinstance(part, Text):
        begin = self.used
        for token in part.ids:
          self._token(int(token), part.predict)
        if part.hidden is not None:
          self.rows.hidden[begin : self.used] = part.hidden
      else:
        self._token(ids.boi, part.predict)
        self._image(part)
        self._token(ids.eoi, predict=False)
    self._token(ids.eos, predict=True)
    self.documents += 1
    return True

  def _token(self, token: int, predict: bool) -> None:
    at, r = self.used, self.rows
    r.tokens[at], r.doc[at], r.positions[at] = token, self.documents, self.position
    if predict:
      self.text_weight[at - 1] = 1
    self.used, self.position = at + 1, self.position + 1

  def _image(self, image: Image) -> None:
    layout, r, n = self.layout, self.rows, self.count
    at = slice(self.used, self.used + layout.patches)
    offsets, distance = patch_positions(layout.positions, layout.rows, layout.cols)
    r.patch[at] = n * layout.patches + np.arange(layout.patches)
    r.doc[at], r.end[at] = self.documents, at.stop - 1
    r.positions[at] = self.position + offsets
    r.starts[n], self.images[n] = at.start, image.image
    self.max_t[n], self.image_weight[n] = image.max_t, image.max_t > 0
    self.used, self.position, self.count = at.stop, self.position + distance, n + 1


class Packed(NamedTuple):
  """config.rows: how records become rows of documents.

  length       positions of a row
  images       most images of a row
  window       records that a row is made of, consecutive in the global order
  positions    of patches: `patch_positions`
  image_first  share of documents that are an image and then its caption
  text_only    share that is a caption alone
  interleaved  share that joins two records
  edited       share that continues with a random number of a record's edit turns; half of these
               begin with the image. The rest is captions with their images after them
  drop         share of documents that lose their texts, for classifier-free guidance
  max_t        largest t of an image that text or another image follows [2408.11039 sec. 3.3];
               0: a clean conditioning image, which is not in the loss [2505.14683]
  prompt_loss  whether captions before their images count in the loss as well
  word_dropout share of the tokens of a caption after its image that later positions cannot read, so
               that these are predicted from the image [1511.06349 sec. 3.1]
  """

  length: int = 256
  images: int = 4
  window: int = 4
  positions: str = "grid"
  image_first: float = 0.2
  text_only: float = 0.0
  interleaved: float = 0.0
  edited: float = 0.0
  drop: float = 0.1
  max_t: float = 0.5
  prompt_loss: bool = True
  word_dropout: float = 0.0


def layout_of(
  packed: Packed, image_size: tuple[int, int], patch: int, tokenizer: Tokenizer
) -> Layout:
  """Raises ConfigError where a row cannot hold one image."""
  rows, cols = image_size[0] // patch, image_size[1] // patch
  if packed.positions not in POSITIONS:
    raise ConfigError(
      f"rows.positions = {packed.positions!r} is not one of {', '.join(POSITIONS)}."
    )
  if packed.length < rows * cols + 4:
    raise ConfigError(
      f"rows.length = {packed.length} holds no image of {rows} x {cols} patches with its markers. "
      f"Use {rows * cols + 4} or more."
    )
  shares = (packed.image_first, packed.text_only, packed.interleaved, packed.edited)
  if min(shares) < 0 or sum(shares) > 1:
    raise ConfigError(
      f"rows: image_first, text_only, interleaved and edited = {shares} are not parts of 1."
    )
  return Layout(packed.length, packed.images, rows, cols, packed.positions, Markers.of(tokenizer))


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

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
    return self.layout.pack(list(self.documents(records, rng)), self.image_shape)

  def documents(self, records: Sequence[Record], rng: np.random.Generator) -> list[Document]:
    """The documents of a window."""
    c, left = self.packed, list(records)
    ends = np.cumsum([c.image_first, c.text_only, c.interleaved, c.edited])
    found: list[Document] = []
    while left:
      record, kind = left.pop(0), int(np.searchsorted(ends, rng.random(), side="right"))
      caption = self._caption(record, rng)
      prompt = self._prompt(caption)
      document: Document
      if kind == 0:
        hidden = rng.random(len(caption.ids)) < c.word_dropout if c.word_dropout else None
        clean = self._image(record, record.image, max_t=c.max_t)
        document = [clean, caption._replace(hidden=hidden)]
      elif kind == 1:
        document = [caption]
      elif kind == 2 and left:
        other = left.pop(0)
        pair = [self._image(one, one.image) for one in (record, other)]
        document = [prompt, pair[0], self._prompt(self._caption(other, rng)), pair[1]]
      elif kind == 3 and record.then:
        document = self._edited(record, rng, [prompt] if rng.random() < 0.5 else [])
      else:
        document = [prompt, self._image(record, record.image)]
      found.append(_without_texts(document) if rng.random() < c.drop else document)
    return found

  def _edited(
    self, record: Record, rng: np.random.Generator, texts: list[Text]
  ) -> list[Text | Image]:
    """An image and some of the turns after it: instructions, which are prompts, and images."""
    turns = record.then[: rng.integers(1, len(record.then) + 1)]
    parts: list[Text | Image] = [*texts, self._image(record, record.image)]
    for text, image in turns:
      parts += [self._text(record, text, predict=False), self._image(record, image)]
    clean = [p._replace(max_t=self.packed.max_t) if isinstance(p, Image) else p for p in parts]
    return [*clean[:-1], parts[-1]]

  def _prompt(self, caption: Text) -> Text:
    return caption._replace(predict=self.packed.prompt_loss)

  def _caption(self, record: Record, rng: np.random.Generator) -> Text:
    return self._text(record, record.captions[rng.integers(len(record.captions))])

  def _text(self, record: Record, text: str, predict: bool = True) -> Text:
    try:
      ids, mask = self.tokenizer.encode([text], self.length)
    except PromptError as error:
      raise DataError(f"record {record.key!r}: its text {error}") from error
    return Text(ids[0][mask[0]][1:-1], predict)

  def _image(self, record: Record, image: bytes, **how: Any) -> Image:
    try:
      pixels = fit_image(image, self.image_shape[:2])
    except DataError as error:
      raise DataError(f"record {record.key!r}: {error}") from error
    return Image(pixels, **how)


def _without_texts(document: Document) -> Document:
  """The images alone, if there are any: the null of guidance.

  A BOI that follows no text counts in the loss only where a document begins.
  """
  images = [part for part in document if isinstance(part, Image)]
  return [p._replace(predict=i == 0) for i, p in enumerate(images)] or document
