"""Images of a subject and of its class, as a folder of data with a split for each role."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from t2i_jax.data.account import Account
from t2i_jax.data.build import build
from t2i_jax.data.drawn import Drawn
from t2i_jax.data.images import is_image_name
from t2i_jax.data.items import Made, Result, in_chunks, made
from t2i_jax.data.record import Record
from t2i_jax.data.source import MANIFEST
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.user_images import stored_image
from t2i_jax.errors import DataError, WorkdirError


def image_files(folder: str | Path) -> tuple[str, ...]:
  """The image files of a folder, sorted. Raises DataError where there is none."""
  root = Path(folder)
  if not root.is_dir():
    raise DataError(f"--images={folder} is not a folder.")
  found = tuple(str(p) for p in sorted(root.iterdir()) if p.is_file() and is_image_name(p.name))
  if not found:
    raise DataError(f"--images={folder} has no image: three to ten of the subject are needed.")
  return found


@dataclasses.dataclass(frozen=True)
class SubjectImages:
  """A source of t2i_jax.data.build.   files: (split, path, caption) of each image, in order"""

  files: tuple[tuple[str, str, str], ...]
  licence: str = "not stated"
  attribution: str = ""

  splits: ClassVar = ("instance", "prior", "val")
  vocab: ClassVar = 512
  holds_out: ClassVar = False

  def total(self) -> int:
    return len(self.files)

  def tasks(self) -> Iterator[list[tuple[str, str, str]]]:
    return in_chunks(self.files)

  def make(self, task: list[tuple[str, str, str]]) -> list[Result]:
    """Raises DataError naming an image that cannot be used: none of a few may be missing."""
    account = Account()
    found: list[Any] = [self._made(*one, account) for one in task]
    return [*found, account]

  def _made(self, split: str, path: str, caption: str, account: Account) -> Made:
    try:
      original = Path(path).read_bytes()
      image = stored_image(original, None, account)
    except Exception as error:  # of any kind, of a file that is no image
      raise DataError(f"{path} cannot be used: {error}") from error
    account.find("captions", 1)
    account.use("captions", 1)
    return made(split, Record(image, (caption,), path, {"role": split}), original)


class AnchorImages(SubjectImages):
  """Of a concept to be forgotten: those of the anchor, and the same number of the target."""

  splits: ClassVar = ("anchor", "target", "val")


def build_subject(
  source: SubjectImages, tokenizer: Tokenizer, to: Path, drawn: Drawn | None = None
) -> None:
  """The folder of data, with the tokenizer of a model; one that is there is kept.

  drawn  what drew images of it
  Raises WorkdirError where it is of other images.
  """
  if (to / MANIFEST).exists():
    made = json.loads((to / MANIFEST).read_text())["made_by"]["arguments"]["files"]
    if made == [list(file) for file in source.files]:
      return
    raise WorkdirError(f"{to} was built of other images: use another --to, or remove it.")
  own = json.loads(tokenizer.to_json())
  bpe = own["model"] if own["kind"] == "bpe" else None
  given: Any = source
  build(given, to, workers=1, progress=False, max_bad=0.0, tokenizer=bpe, drawn=drawn)
