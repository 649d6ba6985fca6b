"""The base of sources of a user's images: arguments, the guard of an item, keys, splits."""

import dataclasses
import hashlib
import importlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from PIL import Image

from t2i_jax.data.account import Account
from t2i_jax.data.captions import EMPTY, REPEATED, Sorted, sort_captions
from t2i_jax.data.images import is_latent, normalize, read_latent
from t2i_jax.data.items import Made, Result, Skipped, in_chunks, made
from t2i_jax.data.record import Record
from t2i_jax.errors import DataError

LONGEST_REASON = 300  # characters
UNUSED = "of an item that is not used"


@dataclasses.dataclass(frozen=True)
class UserImages:
  """A source whose items have a `key`, a `kind` of the account, and a `problem`.

  problem of an item: the reason to skip it that is known before it is opened, or ""

  path                  of the images; it is only read
  max_size              maximum of the longer side in pixels; None: no limit
  val_fraction          share of the items held out as "val", by hash of the key; at least one item
  licence, attribution  of the images, for the manifest
  """

  path: str
  max_size: int | None = None
  val_fraction: float = 0.02
  licence: str = "not stated"
  attribution: str = ""

  splits: ClassVar = ("train", "val")
  vocab: ClassVar = 4096
  holds_out: ClassVar = True

  def items(self) -> Iterator[Any]:
    """The items, and accounts of what is neither an item nor to be named, in a fixed order."""
    raise NotImplementedError

  def captions_of(self, item: Any) -> Sequence[Any] | None:
    """The captions, None where there are none. Raises any exception: the item is skipped."""
    raise NotImplementedError

  def image_of(self, item: Any) -> bytes:
    """The image's file. Raises any exception: the item is skipped."""
    raise NotImplementedError

  def meta_of(self, item: Any) -> dict[str, Any]:
    """What its record holds besides."""
    return {}

  def size_of(self, item: Any) -> int:
    """The bytes of an item's files."""
    raise NotImplementedError

  def check_arguments(self) -> None:
    """Raises DataError."""
    if not 0 <= self.val_fraction < 1:
      raise DataError(f"--val-fraction={self.val_fraction} is not in [0, 1).")
    if self.max_size is not None and self.max_size < 1:
      raise DataError(f"--max-size={self.max_size} must be at least 1.")

  def tasks(self) -> Iterator[list[Any]]:
    return in_chunks(with_found(self.items()), weigh=self._weigh)

  def _weigh(self, item: Any) -> int:
    return 0 if isinstance(item, Account) or item.problem else self.size_of(item)

  def make(self, task: list[Any]) -> list[Result]:
    account = Account()
    results: list[Result] = []
    with warnings.catch_warnings():
      # Of broken metadata, without the file's name; pixels that are broken are an error.
      warnings.filterwarnings("ignore", module="PIL")
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      for item in task:
        if isinstance(item, Account):
          account.add(item)
        else:
          results += self._make(item, account)
    return [*results, account]

  def _make(self, item: Any, account: Account) -> list[Result]:
    """The record of an item with what is named beside it, or why there is none."""
    texts = Sorted((), ())
    try:
      if item.problem:
        raise DataError(item.problem)
      texts = sort_captions(self.captions_of(item))
      if not texts.kept:
        raise DataError(texts.rejected[0] if texts.rejected else EMPTY)
      original = self.image_of(item)
      image = stored_image(original, self.max_size, account)
      record = Record(image, texts.kept, item.key, self.meta_of(item))
      result: Made | Skipped = made(split_of(item.key, self.val_fraction), record, original)
    except Exception as error:  # whatever is wrong with one item is this item's
      result = Skipped(item.key, reason_of(error), item.kind)
    account.find("captions", len(texts.kept) + len(texts.rejected))
    if isinstance(result, Skipped):
      account.reject("captions", UNUSED, len(texts.kept))
    else:
      account.use("captions", len(texts.kept))
    named: list[Result] = []
    for reason in texts.rejected:
      if isinstance(result, Made) and reason not in (EMPTY, REPEATED):
        named.append(Skipped(item.key, reason, "captions"))
      else:
        account.reject("captions", reason)
    return [result, *named]

  def lost(self, item: Any, why: str) -> list[Result]:
    """The results of an item whose worker process ended.   parallel_map.ordered_map"""
    if isinstance(item, Account):
      return [item]
    return [Skipped(item.key, f"cannot be used: {why}", item.kind)]


def needed(module: str, extra: str) -> Any:
  """A package that only one source needs. Raises DataError naming what to install."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    name = module.partition(".")[0]
    raise DataError(
      f"this source needs the package {name}, which cannot be imported ({error}). Install it: "
      f"pip install 't2i_jax[{extra}]'"
    ) from error


def with_found(items: Iterable[Any]) -> Iterator[Any]:
  """The items, and at the end an account of how many there were."""
  account = Account()
  for item in items:
    if not isinstance(item, Account) and item.kind == "items":
      account.find("items")
    yield item
  yield account


def reason_of(error: Exception) -> str:
  """Why an item is skipped: "kind: detail"."""
  if isinstance(error, DataError):
    reason = str(error)
  elif isinstance(error, OSError) and error.strerror:
    reason = f"cannot be read: {error.strerror}"
  else:
    reason = f"cannot be used: {type(error).__name__} {error}"
  return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."


def stored_image(data: bytes, max_size: int | None, account: Account) -> bytes:
  """A user's image or latents as records hold them. Raises DataError."""
  if is_latent(data):
    read_latent(data)
    return data
  return normalize(data, max_size, account)


def split_of(key: str, val_fraction: float) -> str:
  """ "val" for a share of all keys, "train" for the others, by hash, independent of the order."""
  value = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")
  return "val" if value < val_fraction * 2**64 else "train"


def printable(name: str) -> str:
  """A file name as UTF-8 text; invalid bytes are written as \\udcxx."""
  return name.encode("utf-8", "backslashreplace").decode("utf-8")
