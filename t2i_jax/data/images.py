"""Image files to upright 8-bit RGB, for building and training alike."""

import io

import numpy as np
from PIL import Image, ImageOps

from t2i_jax.errors import DataError

NPY_MAGIC = b"\x93NUMPY"
KEPT_FORMATS = ("PNG", "JPEG", "MPO", "WEBP")  # MPO: a JPEG with further images appended
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
JPEG_QUALITY = 95
ORIENTATION = 0x0112  # EXIF tag
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def is_latent(data: bytes) -> bool:
  """Whether bytes are a .npy file."""
  return data.startswith(NPY_MAGIC)


def read_latent(data: bytes) -> np.ndarray:
  """A .npy file as float32 [H, W, C]. Raises DataError on another type, rank or a NaN."""
  try:
    x = np.load(io.BytesIO(data), allow_pickle=False)
  except (ValueError, EOFError, OSError) as error:
    raise DataError(f"cannot be decoded: {error}") from error
  if x.ndim != 3 or x.dtype.kind != "f":
    raise DataError(f"not latents: {x.dtype} {list(x.shape)} instead of float [H, W, C]")
  if not np.isfinite(x).all():
    raise DataError("not latents: NaN or infinite values")
  return x.astype(np.float32)


def open_image(data: bytes) -> Image.Image:
  """Decodes an image file. Raises DataError where PIL cannot decode it or it is too large."""
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise DataError(f"too many pixels: {error}") from error
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
    text = "not an image format that PIL supports" if "cannot identify" in str(error) else error
    raise DataError(f"cannot be decoded: {text}") from error
  return image


def upright_rgb(image: Image.Image) -> Image.Image:
  """EXIF orientation applied, alpha composited on white, 16 bits scaled to 8, any mode to RGB."""
  image = ImageOps.exif_transpose(image)
  if image.mode in _SIXTEEN_BIT:
    return _from_sixteen_bit(image)
  if image.mode == "F":
    raise DataError("float pixels, whose range is unknown")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
  x = np.asarray(image).astype(np.int64)
  if x.min() < 0 or x.max() > 65535:
    raise DataError(f"integer pixels from {x.min()} to {x.max()}: beyond 16 bits")
  return Image.fromarray(((x * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def decode(data: bytes) -> Image.Image:
  """An image file as an upright RGB image. Raises DataError."""
  return upright_rgb(open_image(data))


def normalize(data: bytes, max_size: int | None = None) -> bytes:
  """An image file as upright 8-bit RGB.

  Files that already are (PNG, JPEG, WEBP) are returned unchanged. Others are encoded again, as JPEG
  of quality 95 without chroma subsampling if the original was lossy, else as PNG: lossless images
  stay lossless, and photographs stay small.

  max_size  maximum of the longer side in pixels; a larger image is downscaled
  Raises DataError.
  """
  image = open_image(data)
  rgb = upright_rgb(image)
  if max_size and max(rgb.size) > max_size:
    rgb.thumbnail((max_size, max_size), Image.Resampling.LANCZOS, reducing_gap=None)
  elif (
    image.format in KEPT_FORMATS
    and image.mode == "RGB"
    and image.getexif().get(ORIENTATION, 1) == 1
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
