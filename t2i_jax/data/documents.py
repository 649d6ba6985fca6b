"""Documents of text and images, packed into rows of one length for a joint model.

A row is a sequence of positions, each a token or one patch of an image:

    BOS a red circle BOI p p p p EOI make it blue BOI p p p p EOI EOS | BOS BOI p p p p EOI ...

BOI and EOI are the two ids after the tokenizer's vocabulary. Two integers per position define the
attention mask (models.attention): causal within a document, and bidirectional among the patches of
an image [2408.11039].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from t2i_jax.data.batch import Batch, Rows
from t2i_jax.data.lengths import Limit
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import chosen_caption, fit_image
from t2i_jax.errors import ConfigError, DataError, PromptError
from t2i_jax.ranges import Range, Share

NO_DOCUMENT = -1  # of padding
POSITIONS = ("grid", "centred", "sequence")


class Text(NamedTuple):
  """Tokens [n].

  predict  counted in the loss; False = prompt
  hidden   bool [n], tokens replaced by pad in the model's input; None = none
  """

  ids: np.ndarray
  predict: bool = True
  hidden: np.ndarray | None = None


class Image(NamedTuple):
  """An image [H, W, C].

  max_t    the largest t at which noise is added; 0 = clean conditioning image, not in the loss
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
  """Positions of patches relative to the start of the image, and the offset of the text after it.

  grid      (i, j); the text continues after the longer side [2409.12191 sec. 2.1]
  centred   (i, j) around the middle of the image's positions in the sequence
            [github.com/Tencent-Hunyuan/HunyuanImage-3.0]
  sequence  consecutive, as tokens [2408.11039]
  Returns (row, column) float32 [rows cols, 2] and the offset.
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

  length       number of positions
  images       maximum number of images
  rows, cols   patches of an image
  positions    a rule of `patch_positions`
  ids          ids of the special tokens
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
    """Number of positions of a document."""
    inner = (len(p.ids) if isinstance(p, Text) else self.patches + 2 for p in document)
    return 2 + sum(inner)

  def pack(self, documents: Sequence[Document], image_shape: tuple[int, ...]) -> Batch:
    """The row of the documents that fit, in their order; others are left out.

    Raises DataError for a BOI or EOI in a text.
    """
    row = _Row(self, image_shape)
    left_out = sum(not row.add(document) for document in documents)
    rows = row.rows._replace(left_out=np.float32(left_out))
    return Batch(row.images, row.image_weight, row.max_t, {}, rows, row.text_weight)


class _Row:
  """A row under construction."""

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
    """Appends a document and returns True; returns False where it does not fit."""
    images = [part for part in document if isinstance(part, Image)]
    space = self.layout.length - self.used, self.layout.images - self.count
    if self.layout.size(document) > space[0] or len(images) > space[1]:
      return False
    ids = self.layout.ids
    for text in document:
      if isinstance(text, Text) and np.isin(text.ids, (ids.boi, ids.eoi)).any():
        raise DataError(
          f"the text {text.ids.tolist()} contains BOI ({ids.boi}) or EOI ({ids.eoi}), which are "
          "reserved for images. Give the image as a part of the document."
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


Some = Annotated[int, Range("[1, 2^16]")]


class Packed(NamedTuple):
  """config.rows: how rows of documents are made from records.

  length       positions per row
  images       maximum number of images per row
  window       records per row, consecutive in the global order
  positions    rule of patch positions: `patch_positions`
  image_first  share of documents with the image before its caption
  text_only    share with a caption only
  interleaved  share that joins two records
  edited       share with a random number of a record's edit turns; half of these begin with the
               image. The remaining documents are a caption followed by its image
  drop         share of documents without their texts, for classifier-free guidance
  max_t        largest t of an image followed by text or another image [2408.11039 sec. 3.3];
               0: a clean conditioning image, which is not in the loss [2505.14683]
  prompt_loss  whether captions before their images count in the loss
  word_dropout share of the tokens of a caption after its image that are replaced by pad in the
               input, so that later ones are predicted from the image [1511.06349 sec. 3.1]
  """

  length: Annotated[int, Range("[1, 2^20]")] = 256
  images: Some = 4
  window: Some = 4
  positions: str = "grid"
  image_first: Share = 0.2
  text_only: Share = 0.0
  interleaved: Share = 0.0
  edited: Share = 0.0
  drop: Share = 0.1
  max_t: Share = 0.5
  prompt_loss: bool = True
  word_dropout: Share = 0.0


def layout_of(
  packed: Packed, image_size: tuple[int, int], patch: int, tokenizer: Tokenizer
) -> Layout:
  """The layout of config.rows. Raises ConfigError where a row cannot contain an image."""
  rows, cols = image_size[0] // patch, image_size[1] // patch
  if packed.positions not in POSITIONS:
    raise ConfigError(
      f"rows.positions = {packed.positions!r} is not one of {', '.join(POSITIONS)}."
    )
  if packed.length < rows * cols + 4:
    raise ConfigError(
      f"rows.length = {packed.length} is too short for an image of {rows} x {cols} patches "
      f"(data.image_size over model.patch = {patch}) and 4 special tokens. Use rows.length="
      f"{rows * cols + 4} or more, or larger patches."
    )
  shares = (packed.image_first, packed.text_only, packed.interleaved, packed.edited)
  if sum(shares) > 1:
    raise ConfigError(
      f"rows.image_first, rows.text_only, rows.interleaved and rows.edited = {shares} must sum to "
      "at most 1."
    )
  return Layout(packed.length, packed.images, rows, cols, packed.positions, Markers.of(tokenizer))


class _TooLong(Exception):
  """A document is left out for a text that does not fit."""


class Packing:
  """(records, rng) -> a row of `Layout.pack`; can be pickled.

  image_shape  [H, W, C] in pixels or latent cells
  length       maximum number of tokens of a text, including BOS and EOS
  too_long     what is done with a longer text: "error", "truncate", or "skip": another caption of
               the record is used; a document with an instruction or with captions that are all too
               long is left out
  Raises DataError naming the record, as transforms.Transform does.
  """

  def __init__(
    self,
    packed: Packed,
    layout: Layout,
    image_shape: tuple[int, int, int],
    tokenizer: Tokenizer,
    length: int,
    too_long: str = "error",
  ):
    self.packed, self.layout, self.image_shape = packed, layout, image_shape
    self.tokenizer, self.length, self.too_long = tokenizer, length, too_long
    self.window = packed.window

  @property
  def limits(self) -> list[Limit]:
    """The tokens of a text."""
    return [Limit(self.tokenizer, self.length, self.packed.edited > 0)]

  def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
    return self.layout.pack(list(self.documents(records, rng)), self.image_shape)

  def documents(self, records: Sequence[Record], rng: np.random.Generator) -> list[Document]:
    """The documents of the records of a window."""
    left, found = list(records), list[Document]()
    while left:
      try:
        document = self._document(left, rng)
      except _TooLong:
        continue
      found.append(_without_texts(document) if rng.random() < self.packed.drop else document)
    return found

  def _document(self, left: list[Record], rng: np.random.Generator) -> Document:
    """The document of the first record, or of the first two, which are taken from `left`."""
    c = self.packed
    ends = np.cumsum([c.image_first, c.text_only, c.interleaved, c.edited])
    record, kind = left.pop(0), int(np.searchsorted(ends, rng.random(), side="right"))
    caption = self._caption(record, rng)
    prompt = self._prompt(caption)
    if kind == 0:
      hidden = rng.random(len(caption.ids)) < c.word_dropout if c.word_dropout else None
      clean = self._image(record, record.image, max_t=c.max_t)
      return [clean, caption._replace(hidden=hidden)]
    if kind == 1:
      return [caption]
    if kind == 2 and left:
      other = left.pop(0)
      pair = [self._image(one, one.image) for one in (record, other)]
      return [prompt, pair[0], self._prompt(self._caption(other, rng)), pair[1]]
    if kind == 3 and record.then:
      return self._edited(record, rng, [prompt] if rng.random() < 0.5 else [])
    return [prompt, self._image(record, record.image)]

  def _edited(
    self, record: Record, rng: np.random.Generator, texts: list[Text]
  ) -> list[Text | Image]:
    """An image and some of its edit turns: instructions (prompts) and images."""
    turns = record.then[: rng.integers(1, len(record.then) + 1)]
    parts: list[Text | Image] = [*texts, self._image(record, record.image)]
    for text, image in turns:
      parts += [self._text(record, text, predict=False), self._image(record, image)]
    clean = [p._replace(max_t=self.packed.max_t) if isinstance(p, Image) else p for p in parts]
    return [*clean[:-1], parts[-1]]

  def _prompt(self, caption: Text) -> Text:
    return caption._replace(predict=self.packed.prompt_loss)

  def _caption(self, record: Record, rng: np.random.Generator) -> Text:
    caption = chosen_caption(record, rng, self.limits if self.too_long == "skip" else ())
    if caption is None:
      raise _TooLong
    return self._text(record, caption)

  def _text(self, record: Record, text: str, predict: bool = True) -> Text:
    if self.too_long == "skip" and self.tokenizer.lengths([text])[0] > self.length:
      raise _TooLong
    try:
      ids, mask = self.tokenizer.encode([text], self.length, self.too_long == "truncate")
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
  """The document without texts, if it has images: the null of guidance.

  Only the first BOI counts in the loss.
  """
  images = [part for part in document if isinstance(part, Image)]
  return [p._replace(predict=i == 0) for i, p in enumerate(images)] or document
