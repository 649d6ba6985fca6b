"""Perceptual hashes: 64 bits of an image that survive scaling, recompression and small changes.

The signs of the lowest frequencies: the image in grey at 32 x 32, its cosine transform, of that the
8 x 8 lowest frequencies, each above their median or not; imagehash.phash has the same bits
[github.com/JohannesBuchner/imagehash]. Two images match where at most RADIUS bits differ. Of hashes
whose bits were independent and even a pair would match with a probability of `chance`; images of
one kind have hashes that are more alike, so that the false rate is measured on the data: see
`false_matches`.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from PIL import Image

BITS, SIDE, LOW = 64, 32, 8
RADIUS = 6  # bits of 64 in which two hashes of one image may differ
SAMPLED = 2000  # images between which the false rate is measured
BLOCK = 256  # rows of distances at once


def _cosines() -> np.ndarray:
  """The lowest rows of DCT-II without scale.   # [LOW, SIDE] float64"""
  k, n = np.arange(LOW)[:, None], np.arange(SIDE)[None]
  return 2 * np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))


COSINES = _cosines()


def perceptual_hash(image: Image.Image) -> int:
  """The hash of an upright image: 64 bits, that of the lowest frequency the highest."""
  grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
  low = COSINES @ np.asarray(grey, np.float64) @ COSINES.T  # [LOW, LOW]
  bits = (low > np.median(low)).ravel()
  return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distances(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Bits in which hashes differ.   uint64 [n], [m] -> [n, m] uint8"""
  return np.bitwise_count(hashes[:, None] ^ others[None, :])


def chance(radius: int) -> float:
  """The probability that two independent hashes of even bits differ in at most `radius` bits."""
  return sum(comb(BITS, k) for k in range(radius + 1)) / 2**BITS


def false_matches(hashes: Sequence[int], same: Sequence[str], radius: int) -> tuple[int, int]:
  """How many pairs of different images match, and of how many pairs.

  hashes  of images, of which at most SAMPLED, evenly spaced, are compared
  same    images of one text here are one image, whose pairs are left out: content hashes
  """
  chosen = np.unique(np.linspace(0, len(hashes) - 1, min(SAMPLED, len(hashes))).astype(int))
  found = np.array([hashes[i] for i in chosen], np.uint64)
  _, names = np.unique([same[i] for i in chosen], return_inverse=True)
  hits = pairs = 0
  for start in range(0, len(found), BLOCK):
    rows = slice(start, start + BLOCK)
    later = np.arange(len(found))[None, :] > np.arange(len(found))[rows, None]
    counted = later & (names[rows, None] != names[None, :])
    hits += int(np.sum(counted & (distances(found[rows], found) <= radius)))
    pairs += int(np.sum(counted))
  return hits, pairs
