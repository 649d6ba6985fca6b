import dataclasses
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data.images import decode, is_latent, normalize, read_latent, upright_size
from t2i_jax.data.record import Record
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform, crop_sizes, fit
from t2i_jax.errors import DataError

ORIENTATION = 0x0112
# What undoes each EXIF orientation, by the standard's table, in numpy.
UNDO = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
  8: lambda x: np.rot90(x),
}


def oriented(orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(noise, saved, orientation):
  x = noise(12, 20)
  data = saved(x, exif=oriented(orientation))
  np.testing.assert_array_equal(np.asarray(decode(data)), UNDO[orientation](x))
  assert upright_size(data) == UNDO[orientation](x).shape[:2]
  again = normalize(data)
  assert (again == data) == (orientation == 1)
  np.testing.assert_array_equal(np.asarray(decode(again)), UNDO[orientation](x))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_needs_no_change_keeps_its_bytes(noise, saved, kind):
  data = saved(noise(20, 30), kind)
  assert normalize(data) == data


def test_alpha_is_laid_on_white(saved):
  x = np.zeros((2, 2, 4), np.uint8)
  x[..., 0] = 200
  x[0, 0, 3], x[0, 1, 3], x[1, 0, 3] = 255, 128, 0
  out = np.asarray(decode(normalize(saved(x))))
  assert out[0, 0].tolist() == [200, 0, 0]
  assert out[1, 0].tolist() == [255, 255, 255]
  a = 128 / 255
  np.testing.assert_allclose(out[0, 1], np.array([200, 0, 0]) * a + 255 * (1 - a), atol=1)


def test_palette_grey_and_bilevel(saved):
  x = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
  grey = np.repeat(x[..., None], 3, axis=2)
  np.testing.assert_array_equal(np.asarray(decode(normalize(saved(x)))), grey)
  palette = Image.fromarray(x).convert("P")
  np.testing.assert_array_equal(np.asarray(decode(normalize(saved(palette, "GIF")))), grey)
  bilevel = Image.fromarray(x > 100)
  assert set(np.unique(np.asarray(decode(saved(bilevel))))) == {0, 255}


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_becomes_white(saved, mode):
  image = Image.new(mode, (4, 4), 0)
  key = (0, 0, 0) if mode == "RGB" else 0
  data = saved(image, transparency=key)
  assert normalize(data) != data
  assert np.asarray(decode(normalize(data))).min() == 255


def test_grey_with_alpha(saved):
  x = np.dstack([np.full((3, 3), 10, np.uint8), np.zeros((3, 3), np.uint8)])
  assert np.asarray(decode(saved(Image.fromarray(x, "LA")))).min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(saved, kind):
  x = np.array([[0, 128, 257], [32768, 65407, 65535]], np.uint16)
  out = np.asarray(decode(normalize(saved(x, kind))))
  np.testing.assert_array_equal(out[..., 0], np.round(x / 257).astype(np.uint8))
  assert (out == out[..., :1]).all()


def test_pixels_beyond_sixteen_bits_are_refused(saved):
  with pytest.raises(DataError, match="beyond 16 bits"):
    decode(saved(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))
  with pytest.raises(DataError, match="float pixels"):
    decode(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_cmyk(noise, saved):
  x = noise(16, 16)
  cmyk = Image.fromarray(x).convert("CMYK")
  for kind, tolerance in (("TIFF", 1), ("JPEG", 12)):
    out = np.asarray(
      decode(normalize(saved(cmyk, kind, **({"quality": 98} if kind == "JPEG" else {}))))
    )
    assert np.abs(out.astype(int) - x).mean() < tolerance


def test_lossy_stays_jpeg_and_lossless_becomes_png(noise, saved):
  turned = saved(noise(40, 30), "JPEG", exif=oriented(6), quality=95)
  assert Image.open(io.BytesIO(normalize(turned))).format == "JPEG"
  assert Image.open(io.BytesIO(normalize(saved(noise(40, 30), "BMP")))).format == "PNG"


def test_max_size_shrinks_the_longer_side_only_if_larger(noise, saved):
  data = saved(noise(40, 100))
  assert decode(normalize(data, 50)).size == (50, 20)
  assert normalize(data, 100) == data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_images(noise, saved, kind):
  data = saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
  with pytest.raises(DataError, match="cannot be decoded"):
    decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_bytes_that_are_no_image(data):
  with pytest.raises(DataError, match="cannot be decoded: not an image format"):
    decode(data)


def test_a_decompression_bomb(saved, monkeypatch):
  data = saved(np.zeros((100, 100, 3), np.uint8))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)  # PIL refuses above twice of it
  with pytest.raises(DataError, match="too many pixels"):
    decode(data)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # and warns above it
  with warnings.catch_warnings():
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    with pytest.raises(DataError, match="too many pixels"):
      decode(data)


def npy(x):
  buffer = io.BytesIO()
  np.save(buffer, x)
  return buffer.getvalue()


def test_latents(saved):
  x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float16)
  assert is_latent(npy(x)) and not is_latent(saved(np.zeros((2, 2, 3), np.uint8)))
  np.testing.assert_array_equal(read_latent(npy(x)), x.astype(np.float32))


@pytest.mark.parametrize(
  "data, said",
  [
    (npy(np.zeros((4, 4))), r"float64 \[4, 4\]"),
    (npy(np.zeros((4, 4, 4), int)), r"int64 \[4, 4, 4\]"),
    (npy(np.full((1, 1, 1), np.nan)), "NaN"),
    (npy(np.zeros((9, 9, 9)))[:200], "cannot be decoded"),
    (npy(np.array([{}], object)), "cannot be decoded"),
  ],
)
def test_files_that_hold_no_latents(data, said):
  with pytest.raises(DataError, match=said):
    read_latent(data)


def row(image, size, captions=("a",), length=16, seed=0):
  transform = Transform(size, {"text": Caption(Tokenizer.bytes(), length)})
  return transform([Record(image, captions, "key")], np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_image_of_the_size_asked_is_left_alone(kind, saved):
  x = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
  np.testing.assert_array_equal(row(saved(x, kind, lossless=True), (12, 8)).images[0], x)


def test_fit_keeps_the_aspect_and_the_centre():
  """A horizontal ramp: where the crop lies can be read off the values."""
  ramp = np.repeat(np.arange(0, 240, dtype=np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
  out = np.asarray(fit(Image.fromarray(ramp), (30, 30)))[..., 0].astype(float)
  want = 90 + (np.arange(30) + 0.5) * 2 - 0.5  # columns 90 to 150, two to one
  np.testing.assert_allclose(out[15], want, atol=1.5)
  tall = np.asarray(fit(Image.fromarray(ramp.transpose(1, 0, 2)), (30, 30)))[..., 0]
  np.testing.assert_allclose(tall[:, 15], want, atol=1.5)


def test_sizes_and_crop_are_those_of_the_image(saved):
  """A ramp that is cropped anywhere: the values begin where the conditions say."""
  ramp = np.broadcast_to(np.arange(0, 240, dtype=np.uint8)[None, :, None], (60, 240, 3))
  text = {"text": Caption(Tokenizer.bytes(), 16)}
  transform = Transform((30, 30), text, crop="random", sizes=True)
  lefts = set()
  for seed in range(4):
    made = transform([Record(saved(ramp), ("a",), "key")], np.random.default_rng(seed))
    (height, width, top, left), first = made.sizes[0], made.images[0, 15, 0, 0]
    assert (height, width, top) == (60, 240, 0)
    assert abs(float(first) - (2 * left + 0.5)) <= 2  # two columns to one
    lefts.add(left)
  assert len(lefts) > 2 and all(0 <= left <= 90 for left in lefts)
  again = transform([Record(saved(ramp), ("a",), "key")], np.random.default_rng(3))
  np.testing.assert_array_equal(again.images, made.images)
  assert crop_sizes((60, 240), (30, 30)).tolist() == [60, 240, 0, 45]
  assert crop_sizes((300, 100), (50, 50)).tolist() == [300, 100, 50, 0]
  assert row(saved(ramp), (30, 30)).sizes is None


def test_latents_need_stored_sizes():
  record = Record(npy(np.zeros((4, 6, 8), np.float32)), ("a",), "key")
  transform = Transform((4, 6), {"text": Caption(Tokenizer.bytes(), 16)}, sizes=True)
  with pytest.raises(DataError, match=r"'key'.*no 'sizes' in their metadata"):
    transform([record], np.random.default_rng(0))
  record = dataclasses.replace(record, meta={"sizes": [9, 8, 1, 0]})
  assert transform([record], np.random.default_rng(0)).sizes.tolist() == [[9, 8, 1, 0]]


def test_fit_is_antialiased():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  out = np.asarray(fit(Image.fromarray(stripes), (16, 16)))
  np.testing.assert_allclose(out[:, 2:-2], 127.5, atol=8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (500, 2)])
def test_fit_of_odd_shapes(shape):
  assert fit(Image.new("RGB", shape[::-1]), (16, 24)).size == (24, 16)


def test_each_caption_is_drawn_about_as_often(saved):
  image = saved(np.zeros((2, 2, 3), np.uint8))
  first = [row(image, (2, 2), ("a", "b"), seed=s).text["text"].ids[1] for s in range(300)]
  counts = np.unique(first, return_counts=True)
  assert counts[0].tolist() == [ord("a") + 3, ord("b") + 3] and counts[1].min() > 110


def test_latents_of_another_size_name_both():
  x = npy(np.zeros((4, 6, 8), np.float32))
  assert row(x, (4, 6)).images.shape == (1, 4, 6, 8)
  with pytest.raises(DataError, match=r"'key'.* 4 x 6, data\.image_size is 8 x 8"):
    row(x, (8, 8))


def test_a_caption_that_does_not_fit_names_record_and_key(saved):
  image = saved(np.zeros((2, 2, 3), np.uint8))
  with pytest.raises(DataError, match=r"record 'key'.*'abcdef' has 8 tokens.*text\.length = 7"):
    row(image, (2, 2), ("abcdef",), length=7)
  with pytest.raises(DataError, match=r"record 'key': cannot be decoded"):
    row(b"nothing", (2, 2))


def test_every_encoder_reads_the_same_caption_at_its_own_length(saved):
  captions = {"short": Caption(Tokenizer.bytes(), 6), "long": Caption(Tokenizer.bytes(), 9)}
  transform = Transform((2, 2), captions)
  record = Record(saved(np.zeros((2, 2, 3), np.uint8)), ("ab", "cd"), "key")
  for seed in range(8):
    text = transform([record], np.random.default_rng(seed)).text
    assert [text[name].ids.shape for name in ("short", "long")] == [(6,), (9,)]
    np.testing.assert_array_equal(text["long"].ids[:4], text["short"].ids[:4])
