"""Tars in the WebDataset format: consecutive members with one key are an item."""

import dataclasses
import glob
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from t2i_jax.data.account import Account
from t2i_jax.data.captions import caption_fields, caption_lines
from t2i_jax.data.files import MAX_BYTES, MAX_TEXT, check_size, open_regular
from t2i_jax.data.images import is_image_name
from t2i_jax.data.provenance import described
from t2i_jax.data.tars import Member, members_of
from t2i_jax.data.user_images import UserImages, printable, reason_of
from t2i_jax.errors import DataError

IMAGE_FIELDS = ("npy", "png", "webp", "jpeg", "jpg")
CAPTION_FIELDS = ("txt", "json")
TARS = (".tar.gz", ".tar", ".tgz")
OTHER_FIELD = "of another field"


@dataclasses.dataclass
class Item:
  """The members of one key: field name (what follows the last dot) to bytes.

  kind  "items", or "tars" for one that is damaged
  """

  key: str
  fields: dict[str, bytes] = dataclasses.field(default_factory=dict)
  problem: str = ""
  kind: str = "items"

  @property
  def is_whole(self) -> bool:
    """Whether it has an image and captions."""
    found = self.fields.keys()
    return not found.isdisjoint(IMAGE_FIELDS) and not found.isdisjoint(CAPTION_FIELDS)


@dataclasses.dataclass(frozen=True)
class WebDataset(UserImages):
  """Tars with KEY.jpg (jpeg, png, webp, or npy: encoded latents) beside KEY.txt or KEY.json.

  A txt has one caption per line, a json has "text", "caption" or "captions". A key may have dots:
  a.b.jpg and a.b.txt are the item a.b. Beside a.jpg and a.txt, a.b.jpg is a further field of a, as
  WebDataset has it, unless there is an a.b.txt, too.

  path  a tar, a folder of tars or a glob; tars are only read
  """

  def _tars(self) -> list[str]:
    if os.path.isdir(self.path):
      names = [os.path.join(self.path, name) for name in os.listdir(self.path)]
      return sorted(name for name in names if name.endswith(TARS))
    return sorted(glob.glob(self.path, recursive=True))

  def total(self) -> None:
    self.check_arguments()
    try:
      tars = self._tars()
    except OSError as error:
      raise DataError(f"--path={self.path} cannot be read: {error.strerror}.") from error
    if not tars:
      raise DataError(f"--path={self.path}: no tar found. Use a tar, a folder or a quoted glob.")

  def size_of(self, item: Item) -> int:
    return sum(map(len, item.fields.values()))

  def items(self) -> Iterator[Item | Account]:
    """Members are read here, sequentially, as a tar requires; workers decode them."""
    tars = self._tars()
    if os.path.isdir(self.path):
      account = Account()
      others = len(os.listdir(self.path)) - len(tars)
      account.find("files", others)
      account.reject("files", "not a tar", others)
      yield account
    for path, name in zip(tars, names_of(tars), strict=True):
      account = Account()
      yield from _Reader(path, name, account).items()
      yield account

  def captions_of(self, item: Item) -> Sequence[Any] | None:
    found: list[Any] | None = caption_lines(item.fields["txt"]) if "txt" in item.fields else None
    if "json" in item.fields:
      try:
        more = caption_fields(json.loads(item.fields["json"].decode("utf-8-sig")))
      except (ValueError, RecursionError) as error:
        raise DataError(f"json cannot be read: {error}") from error
      found = found if more is None else [*(found or []), *more]
    return found

  def meta_of(self, item: Item) -> dict[str, Any]:
    if "json" not in item.fields:
      return {}
    return dict(described(json.loads(item.fields["json"].decode("utf-8-sig"))))

  def image_of(self, item: Item) -> bytes:
    image = next((item.fields[f] for f in IMAGE_FIELDS if f in item.fields), None)
    if image is None:
      raise DataError("no image")
    return image


def names_of(paths: Sequence[str], suffixes: Sequence[str] = TARS) -> list[str]:
  """The first part of the keys of each file: its name without suffix, or where two have the same,
  its path under the folder that has all of them.
  """
  names = []
  for path in paths:
    name = os.path.basename(path)
    names.append(name.removesuffix(next((s for s in suffixes if name.endswith(s)), "")))
  if len(set(names)) == len(names):
    return names
  root = os.path.commonpath([os.path.dirname(path) for path in paths])
  return [os.path.relpath(path, root or ".") for path in paths]


class _Reader:
  """The items of one tar.   name: the first part of their keys"""

  def __init__(self, path: str, name: str, account: Account):
    self._path, self._name, self._account = path, name, account
    # Items whose members may still come, each a further field of the one before it: a, a.b.
    self._open: list[tuple[str, Item]] = []

  def items(self) -> Iterator[Item]:
    """In the order of the tar; a damaged one is named, and what was read before it is kept."""
    self._account.find("tars")
    try:
      with open_regular(self._path) as file:
        for member in members_of(file):
          self._account.find("members")
          yield from self._take(member)
    except Exception as error:
      yield from self._close_until("")
      problem = f"tar is damaged: {reason_of(error)}"
      yield Item(printable(self._path), problem=problem, kind="tars")
      return
    yield from self._close_until("")
    self._account.use("tars")

  def _take(self, member: Member) -> Iterator[Item]:
    """Adds a member to its item; yields the items that this ends."""
    place = posixpath.normpath(member.header.name)
    name, dot, field = place.rpartition(".")
    field = field.lower()
    if not member.header.isfile():
      self._account.reject("members", "not a regular file")
    elif posixpath.basename(place).startswith("."):
      self._account.reject("members", "name begins with a dot")
    elif not dot or "/" in field or field not in IMAGE_FIELDS + CAPTION_FIELDS:
      other = "format is not read" if is_image_name(place) else OTHER_FIELD
      self._account.reject("members", other)
    else:
      yield from self._close_until(name)
      if not self._open or self._open[-1][0] != name:
        self._open.append((name, Item(printable(f"{self._name}/{name}"))))
      self._read(member, field, self._open[-1][1])

  def _read(self, member: Member, field: str, item: Item) -> None:
    try:
      check_size(member.header.size, MAX_TEXT if field in CAPTION_FIELDS else MAX_BYTES)
    except DataError as error:
      item.problem = str(error)
      self._account.reject("members", item.problem)
      return
    try:
      data = member.read()
    except Exception:
      self._account.reject("members", "damaged")
      raise
    if field in item.fields:
      self._account.reject("members", "replaced by a later one of its name")
    item.fields[field] = data

  def _close_until(self, name: str) -> Iterator[Item]:
    """Ends the items that a member of the key `name` is not of."""
    while self._open:
      key, item = self._open[-1]
      if name and (name == key or name.startswith(key + ".")):
        return
      self._open.pop()
      if not item.fields and not item.problem:  # its member is damaged: the tar is named
        continue
      inside = bool(self._open) or (bool(name) and key.startswith(name + "."))
      if inside and not item.is_whole and not item.problem:
        self._account.reject("members", OTHER_FIELD, len(item.fields))
      else:
        self._account.use("members", len(item.fields))
        yield item
