"""Sheets of images: every image is where it belongs, whole; captions are wrapped and complete."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from t2i_jax.data.contact_sheet import contact_sheet, record_image
from t2i_jax.data.sheet import GAP, LINE, MAX_LINES, TILE, Band, captioned, fitted, grid, wrap
from t2i_jax.errors import DataError


def images(n, height=3, width=4):
  return np.random.default_rng(n).integers(0, 255, (n, height, width, 3), np.uint8)


def test_a_grid_is_rows_with_white_around_each_image():
  a, b, c = images(3)
  sheet = np.asarray(grid([[a, b], [c]]))
  edged = [np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=255) for x in (a, b, c)]
  blank = np.full_like(edged[0], 255)
  wanted = np.concatenate([np.concatenate(edged[:2], 1), np.concatenate([edged[2], blank], 1)])
  np.testing.assert_array_equal(sheet, wanted)
  np.testing.assert_array_equal(np.asarray(grid([[a, b]], edge=0)), np.concatenate([a, b], 1))
  larger = np.asarray(grid([[a, b], [c]], scale=3))
  np.testing.assert_array_equal(larger, wanted.repeat(3, 0).repeat(3, 1))


def test_blocks_and_bands_stand_apart():
  a = images(4)
  sheet = np.asarray(grid([[*a], [*a], [*a]], edge=0, block=2, band=1))
  assert sheet.shape == (3 * 3 + 2 * 4, 4 * 4 + 4, 3)
  np.testing.assert_array_equal(sheet[14:, 12:16], a[2])
  assert (sheet[3:7] == 255).all() and (sheet[:, 8:12] == 255).all()


def test_captions_beside_their_images():
  a, b = map(Image.fromarray, images(2, 32, 32))
  bands = [Band("one", [(a, "x"), (b, "y")], 2), Band("two", [(b, "word " * 99)], 2, True)]
  pixels, tile = np.asarray(captioned(bands)), np.asarray(fitted(b))
  left, second = pixels[:, GAP : GAP + TILE], GAP + TILE + GAP
  (top,) = (y for y in range(len(left) - TILE) if (left[y : y + TILE] == tile).all())
  assert (pixels[top : top + TILE, second : second + TILE] < 128).any()  # its caption
  assert len(pixels) - top >= LINE * len(wrap("word " * 99, ImageFont.load_default(13), TILE))


def test_a_contact_sheet_has_the_images_in_their_tiles(scenes_dir):
  sheet = contact_sheet(scenes_dir, "val", n=7, columns=3)
  assert sheet.width == 10 + 3 * (TILE + 10)
  pixels = np.asarray(sheet)
  paper = (pixels == 255).all(-1)
  assert 0.3 < paper.mean() < 0.7
  tile = np.asarray(fitted(record_image(first_image(scenes_dir))))  # 32 pixels, five times enlarged
  assert tile.shape == (TILE, TILE, 3)
  top = next(
    y for y in range(LINE, 60) if np.array_equal(pixels[y : y + TILE, 10 : 10 + TILE], tile)
  )
  ink = pixels[top + TILE + 3 : top + TILE + 3 + LINE, 10 : 10 + TILE]
  assert (ink < 128).any()  # the caption


def first_image(folder):
  from t2i_jax.data.source import ShardSource

  return ShardSource(folder, "val")[0].image


def test_a_sheet_of_more_than_there_are(scenes_dir):
  assert contact_sheet(scenes_dir, "heldout", n=1000, columns=50).width == 10 + 8 * (TILE + 10)
  with pytest.raises(DataError, match="no split"):
    contact_sheet(scenes_dir, "test")


def test_wrapped_lines_fit_and_lose_nothing():
  font = ImageFont.load_default(13)
  text = "a very long caption " * 6 + "x" * 80 + " end"
  lines = wrap(text, font, 160)
  assert all(font.getlength(line) <= 160 for line in lines)
  assert "".join(lines).replace(" ", "") == text.replace(" ", "")
  endless = wrap("word " * 2000, font, 160)
  assert len(endless) == MAX_LINES and endless[-1] == "..."


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_latents_are_shown(channels):
  import io

  buffer = io.BytesIO()
  np.save(buffer, np.random.default_rng(0).normal(size=(4, 4, channels)))
  assert record_image(buffer.getvalue()).size == (4, 4)


def test_images_are_scaled_into_the_tile(saved, noise):
  assert fitted(record_image(saved(noise(400, 200)))).size == (80, 160)
  assert fitted(record_image(saved(noise(50, 70)))).size == (140, 100)


def test_a_split_is_spread_evenly(scenes_dir):
  from t2i_jax.data.source import ShardSource

  source = ShardSource(scenes_dir, "val")
  n = len(source)
  assert [r.key for r in source.spread(2)] == [source[0].key, source[n // 2].key]
  assert [r.key for r in source.spread(10 * n)] == [source[i].key for i in range(n)]
