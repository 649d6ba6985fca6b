"""Embedded colour profiles: images are converted to sRGB."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

# A profile is sRGB where it changes no 8-bit value of a grid of colours by more than this: those
# of different makers differ in the rounding of their curves. assumed
SAME = 2
# The colour space of a profile -> the mode of images that it describes.
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
UNREADABLE, OTHER_SPACE = "unreadable", "of another colour space than the image"


class Profile:
  """The transform of a profile to sRGB.

  mode      RGB, L or CMYK, of the images that it describes; "" where it cannot be read
  is_srgb   whether it leaves colours as they are
  """

  def __init__(self, data: bytes):
    self.mode, self.is_srgb = "", False
    try:
      profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
      mode = SPACES.get(profile.profile.xcolor_space.strip().ljust(4), "")
      if mode:
        self._transform: Any = ImageCms.buildTransform(
          profile,
          ImageCms.createProfile("sRGB"),
          mode,
          "RGB",
          ImageCms.Intent.RELATIVE_COLORIMETRIC,
          ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        self.is_srgb = mode == "RGB" and self._leaves_colours()
      self.mode = mode or profile.profile.xcolor_space
    except (ImageCms.PyCMSError, OSError, ValueError):
      self.mode = ""

  def _leaves_colours(self) -> bool:
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3)
    changed = np.asarray(self._transform.apply(Image.fromarray(grid)))
    return int(np.abs(changed.astype(int) - grid).max()) <= SAME

  def problem_with(self, mode: str) -> str:
    """Why the profile cannot be applied to an image of this mode without alpha, or ""."""
    if not self.mode:
      return UNREADABLE
    return "" if mode == self.mode else OTHER_SPACE

  def to_srgb(self, image: Image.Image) -> Image.Image:
    """An image of `mode`, or of it with alpha, as RGB or RGBA."""
    if image.mode == self.mode:
      return self._transform.apply(image)
    alpha = image.getchannel("A")
    out = self._transform.apply(image.convert(self.mode))
    out.putalpha(alpha)
    return out


@lru_cache(maxsize=32)  # a folder's images are of few cameras and programs
def profile_of(data: bytes) -> Profile:
  """The profile of the bytes of an ICC file."""
  return Profile(data)
