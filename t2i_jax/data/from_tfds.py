"""Sets of TensorFlow Datasets in ArrayRecord files, read without TensorFlow."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from t2i_jax.data.account import Account
from t2i_jax.data.captions import CAPTION_KEYS, caption_values
from t2i_jax.data.files import MAX_BYTES, check_size
from t2i_jax.data.user_images import UserImages, needed
from t2i_jax.errors import DataError

INFO = "dataset_info.json"

tfds: Any = partial(needed, "tensorflow_datasets", "tfds")


@dataclasses.dataclass(frozen=True)
class Item:
  """A record, which is read where it is decoded."""

  key: str
  index: int
  problem: str = ""
  kind: str = "items"


@dataclasses.dataclass(frozen=True)
class Tfds(UserImages):
  """A set that tfds has built: the folder with dataset_info.json and NAME-SPLIT.array_record-*.

  A set of another format is written again by tfds itself: `tfds build NAME --file_format=
  array_record`.

  path     NAME/VERSION or NAME/CONFIG/VERSION in the data_dir of tfds; it is only read
  part     a split of it, as tfds writes it: "train", "train[:1%]", "train+test"
  image, caption  names of features, "captions/text" of one inside of another; "" finds them. Whole
           numbers may be the caption: classes, for the tokenizer labels:N
  """

  part: str = "train"
  image: str = ""
  caption: str = ""

  def total(self) -> int:
    self.check_arguments()
    return len(_opened(self.path, self.part, self.image, self.caption).records)

  def size_of(self, item: Item) -> int:
    return 0

  def items(self) -> Iterator[Item | Account]:
    opened = _opened(self.path, self.part, self.image, self.caption)
    for index in range(len(opened.records)):
      yield Item(f"{opened.name}/{self.part}/{index:08d}", index)

  def captions_of(self, item: Item) -> Sequence[Any] | None:
    opened = _opened(self.path, self.part, self.image, self.caption)
    record: Any = opened.read(item.index)
    for name in opened.caption:
      record = record[name]
    return caption_values([_plain(record)])

  def image_of(self, item: Item) -> bytes:
    opened = _opened(self.path, self.part, self.image, self.caption)
    record: Any = opened.read(item.index)
    for name in opened.image:
      record = record[name]
    check_size(len(record), MAX_BYTES)
    return record


class _Set:
  """A split that is open.   image, caption: names from the outermost on"""

  def __init__(self, name: str, records: Any, image: tuple[str, ...], caption: tuple[str, ...]):
    self.name, self.records, self.image, self.caption = name, records, image, caption
    self._last: tuple[int, Any] = (-1, None)  # captions and image of a record are read in turn

  def read(self, index: int) -> dict[str, Any]:
    if self._last[0] != index:
      self._last = (index, self.records[index])
    return self._last[1]


@cache
def _opened(path: str, part: str, image: str, caption: str) -> _Set:
  """The split, once in a process. Raises DataError."""
  package = tfds()
  if not os.path.isfile(os.path.join(path, INFO)):
    raise DataError(
      f"--path={path} has no {INFO}. Give the folder of a version, as "
      "~/tensorflow_datasets/coco_captions/2014/1.1.0."
    )
  try:
    builder = package.builder_from_directory(path)
    features = builder.info.features
  except Exception as error:
    raise DataError(f"--path={path} cannot be opened by tfds: {_first_line(error)}.") from error
  kind = str(getattr(builder.info.file_format, "value", builder.info.file_format))
  if kind != "array_record":
    raise DataError(
      f"--path={path} is in the format {kind}, which has no random access. Write it again: "
      f"tfds build {builder.info.name} --file_format=array_record"
    )
  image_at, caption_at = _features(package, features, image, caption, path)
  decoders: Any = package.decode.SkipDecoding()
  for name in reversed(image_at):
    decoders = {name: decoders}
  try:
    records = builder.as_data_source(part, decoders=decoders)
  except Exception as error:
    splits = ", ".join(builder.info.splits)
    raise DataError(
      f"--part={part} of {path} cannot be read: {_first_line(error)}. Its splits: {splits}."
    ) from error
  return _Set(builder.info.name, records, image_at, caption_at)


def _features(
  package: Any, features: Any, image: str, caption: str, path: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Where the images and the captions of a record are. Raises DataError."""
  flat = dict(_flat(features, ()))
  kinds = package.features
  names = {"/".join(at): at for at in flat}
  has = (
    f"{path} has the features {', '.join(f'{n} ({_kind(flat[at])})' for n, at in names.items())}"
  )
  images = [n for n, at in names.items() if isinstance(flat[at], kinds.Image)]
  texts = [n for n, at in names.items() if isinstance(_inner(flat[at]), kinds.Text)]
  classes = [n for n, at in names.items() if isinstance(flat[at], kinds.ClassLabel)]
  if image and image not in images:
    raise DataError(f"--image={image} is no feature of images: {has}.")
  if caption and caption not in (*texts, *classes):
    raise DataError(f"--caption={caption} is no feature of texts or classes: {has}.")
  if not image:
    if len(images) != 1:
      raise DataError(f"{has}. Say which are the images: --image=NAME.")
    (image,) = images
  if not caption:
    named = [n for n in texts if n.split("/")[0] in CAPTION_KEYS or n in CAPTION_KEYS]
    found = named or texts
    if len(found) != 1:
      raise DataError(f"{has}. Say which are the captions: --caption=NAME.")
    (caption,) = found
  return names[image], names[caption]


def _flat(features: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
  """The features of a record, those inside of others, too; (names, feature)"""
  inner = getattr(features, "feature", features)  # of a sequence
  if hasattr(inner, "items"):
    for name, feature in inner.items():
      yield from _flat(feature, (*at, name))
  else:
    yield at, features


def _inner(feature: Any) -> Any:
  return getattr(feature, "feature", feature)


def _kind(feature: Any) -> str:
  inner = _inner(feature)
  name = type(inner).__name__
  return name if inner is feature else f"list of {name}"


def _plain(value: Any) -> Any:
  """Bytes as text, arrays as lists."""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, list | tuple):
    return [_plain(one) for one in value]
  return value.tolist() if hasattr(value, "tolist") else value


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
