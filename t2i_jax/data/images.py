"""Image files to upright 8-bit sRGB, for building and training alike.

Whatever a decoder raises is a DataError here: no list of exceptions covers all formats.
"""

import io
import math
import mimetypes
import os
import threading
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from t2i_jax.data.account import Account
from t2i_jax.data.colour import Profile, profile_of
from t2i_jax.errors import DataError

NPY_MAGIC = b"\x93NUMPY"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # others are not opened, whatever the name
KEPT_FORMATS = ("PNG", "JPEG", "MPO", "WEBP")  # MPO: a JPEG with further images appended
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
JPEG_QUALITY = 95
ORIENTATION = 0x0112  # EXIF tag
# By the value of that tag: what turns the image upright.
UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [UPRIGHT[orientation] for orientation in (5, 6, 7, 8)]
PROFILES = "colour profiles to sRGB"  # in an account; one that is sRGB is not counted
UNKNOWN_TO_PYTHON = (".avif", ".heic", ".heif", ".jxl")  # to the tables of version 3.11
# What a mode's values are, for a colour profile.
_PLAIN = {"1": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB"}
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@cache
def _suffixes_of_pil() -> frozenset[str]:
  known = Image.registered_extensions()
  return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN)


def is_image_name(name: str) -> bool:
  """Whether a file's suffix is that of an image, of FORMATS or of any other that is known."""
  suffix = os.path.splitext(name)[1].lower()
  kind = mimetypes.types_map.get(suffix, "")
  return kind.startswith("image/") or suffix in UNKNOWN_TO_PYTHON or suffix in _suffixes_of_pil()


def is_latent(data: bytes) -> bool:
  """Whether bytes are a .npy file."""
  return data.startswith(NPY_MAGIC)


def read_latent(data: bytes) -> np.ndarray:
  """A .npy file as float32 [H, W, C]. Raises DataError on another type, rank or a NaN."""
  try:
    header, start = _npy_header(data)
    (shape, columns_first, dtype), size = header, math.prod(header[0])
    if min(shape, default=0) < 0 or size * dtype.itemsize > len(data) - start:
      there = f"the file has {len(data) - start:,}"
      raise ValueError(f"{dtype} {list(shape)} takes {size * dtype.itemsize:,} bytes, {there}")
    x = np.frombuffer(data, dtype, size, start).reshape(shape, order="F" if columns_first else "C")
  except Exception as error:
    raise DataError(f"cannot be decoded: {error}") from error
  if len(shape) != 3 or dtype.kind != "f" or not x.size:
    raise DataError(f"not latents: {dtype} {list(shape)} instead of float [H, W, C]")
  with np.errstate(over="ignore"):
    x = x.astype(np.float32, order="C")
  if not np.isfinite(x).all():
    raise DataError("not latents: NaN or infinite values")
  return x


# Numpy parses a header with `ast`, which in Python 3.11 fails at times where threads do so at once.
PARSING = threading.Lock()


def _npy_header(data: bytes) -> tuple[tuple[tuple[int, ...], bool, np.dtype], int]:
  """Shape, whether columns come first, and type of a .npy file; and where its numbers begin."""
  version = np.lib.format.read_magic(io.BytesIO(data))
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f"version {version} of the format is not read")
  start = 10 if version == (1, 0) else 12
  start += int.from_bytes(data[8:start], "little")
  with PARSING:
    return _parsed(data[:start]), start


@lru_cache(maxsize=64)
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
  file = io.BytesIO(header)
  first = np.lib.format.read_magic(file) == (1, 0)
  reads = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
  return reads(file)


def open_image(data: bytes) -> Image.Image:
  """Decodes an image file. Raises DataError where it is none of FORMATS, damaged or too large."""
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()
    _scale_transparency(image, data)
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise DataError(f"too many pixels: {error}") from error
  except Image.UnidentifiedImageError as error:
    text = f"not an image format that is read ({', '.join(FORMATS)})"
    raise DataError(f"cannot be decoded: {text}") from error
  except Exception as error:
    raise _undecodable(error) from error
  return image


def _undecodable(error: Exception) -> DataError:
  return DataError(f"cannot be decoded: {type(error).__name__}: {error}")


def _scale_transparency(image: Image.Image, data: bytes) -> None:
  """A PNG's transparent colour is stored at the file's depth; PIL scales the pixels alone."""
  colour = image.info.get("transparency")
  if image.format != "PNG" or colour is None or image.mode not in ("L", "RGB"):
    return
  depth = data[24]  # of IHDR, which is first
  if image.mode == "RGB" and depth == 16:
    image.info["transparency"] = tuple(value >> 8 for value in colour)
  elif image.mode == "L" and depth < 8:
    image.info["transparency"] = colour * 255 // (2**depth - 1)


def upright_size(data: bytes) -> tuple[int, int]:
  """Height and width of what `decode` makes of an image file, which has to be one that it takes."""
  image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header alone
  width, height = image.size
  return (width, height) if UPRIGHT.get(orientation_of(image)) in SIDEWAYS else (height, width)


def orientation_of(image: Image.Image) -> int:
  """The EXIF orientation; 1, which is upright, where there is none or it cannot be read."""
  try:
    return int(image.getexif().get(ORIENTATION, 1))
  except Exception:  # of broken EXIF, which says nothing about the pixels
    return 1


def upright_rgb(image: Image.Image, profile: Profile | None = None) -> Image.Image:
  """EXIF orientation applied, alpha composited on white, 16 bits scaled to 8, any mode to RGB.

  profile  is converted to sRGB
  Raises DataError.
  """
  if image.mode == "F":
    raise DataError("float pixels, whose range is unknown")
  turn = UPRIGHT.get(orientation_of(image))
  if turn is not None:
    image = image.transpose(turn)
  if image.mode in _SIXTEEN_BIT:
    image = _from_sixteen_bit(image)
  transparent = image.has_transparency_data
  if profile:
    image = profile.to_srgb(image.convert(_plain_mode(image) + ("A" if transparent else "")))
  if transparent:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def _plain_mode(image: Image.Image) -> str:
  """Of an image without alpha and palette, 8 bits: L, RGB, CMYK or another."""
  return "L" if image.mode in _SIXTEEN_BIT else _PLAIN.get(image.mode, image.mode)


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
  """Grey of 16 bits as L, its transparent value white."""
  x = np.asarray(image).astype(np.int32)
  if x.min() < 0 or x.max() > 65535:
    raise DataError(f"integer pixels from {x.min()} to {x.max()}: beyond 16 bits")
  x = np.where(x == image.info.get("transparency", -1), 65535, x)
  return Image.fromarray(((x * 255 + 32767) // 65535).astype(np.uint8))


def profile_to_apply(image: Image.Image, account: Account | None = None) -> Profile | None:
  """The embedded colour profile, or None where there is none, it is sRGB or cannot be applied.

  account  gets a count for a profile that is not sRGB
  """
  data = image.info.get("icc_profile")
  if not data:
    return None
  profile = profile_of(bytes(data))
  if profile.is_srgb:
    return None
  problem = profile.problem_with(_plain_mode(image))
  if account is not None:
    account.find(PROFILES)
    if problem:
      account.reject(PROFILES, problem)
    else:
      account.use(PROFILES)
  return None if problem else profile


def decode(data: bytes) -> Image.Image:
  """An image file as an upright sRGB image. Raises DataError."""
  image = open_image(data)
  try:
    return upright_rgb(image, profile_to_apply(image))
  except DataError:
    raise
  except Exception as error:
    raise _undecodable(error) from error


def normalize(data: bytes, max_size: int | None = None, account: Account | None = None) -> bytes:
  """An image file as upright 8-bit sRGB.

  Files that already are (PNG, JPEG, WEBP) are returned unchanged. Others are encoded again without
  EXIF and profile, as JPEG of quality 95 without chroma subsampling if the original was lossy, else
  as PNG: lossless images stay lossless, and photographs stay small.

  max_size  maximum of the longer side in pixels; a larger image is downscaled
  account   gets a count for a colour profile that is not sRGB
  Raises DataError.
  """
  image = open_image(data)
  try:
    return _normalized(image, data, max_size, account)
  except DataError:
    raise
  except Exception as error:
    raise _undecodable(error) from error


def _normalized(
  image: Image.Image, data: bytes, max_size: int | None, account: Account | None
) -> bytes:
  profile = profile_to_apply(image, account)
  rgb = upright_rgb(image, profile)
  if max_size and max(rgb.size) > max_size:
    rgb.thumbnail((max_size, max_size), Image.Resampling.LANCZOS, reducing_gap=None)
  elif (
    image.format in KEPT_FORMATS
    and image.mode == "RGB"
    and profile is None
    and orientation_of(image) == 1
    and not image.has_transparency_data
  ):
    return data
  if image.format in LOSSY_FORMATS:
    return encode(rgb, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
  return encode(rgb, format="PNG")


def encode(image: Image.Image, **options) -> bytes:
  """An image as the bytes of a file;   options: of PIL's save"""
  buffer = io.BytesIO()
  image.info = {}  # otherwise PIL copies the original's comment and profile
  image.save(buffer, **options)
  return buffer.getvalue()
