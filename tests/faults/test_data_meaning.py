"""Rule: what is kept is what was meant: captions, colours, transparency."""

import io
import struct
import zlib

import numpy as np
import pytest
from data_files import plain, saved
from PIL import Image, ImageCms

from t2i_jax.data.account import Account
from t2i_jax.data.captions import caption_lines, sort_captions
from t2i_jax.data.images import decode, normalize
from t2i_jax.errors import DataError

CAPTIONS = {
  "UTF-8 with mark": (b"\xef\xbb\xbfa b", ["a b"], []),
  "UTF-16 without mark": (
    "a b\nc".encode("utf-16-le"),
    [],
    ["caption has a control character"] * 2,
  ),
  "NUL": (b"a\0b", [], ["caption has a control character"]),
  "escape": (b"\x1b[31mred", [], ["caption has a control character"]),
  "delete": (b"a\x7f", [], ["caption has a control character"]),
  "one bad of two": (b"a\x01\nb", ["b"], ["caption has a control character"]),
  "zero width": ("\u200b\u2060\ufeff".encode(), [], ["caption is invisible"]),
  "filler": ("\u3164\u2800".encode(), [], ["caption is invisible"]),
  "emoji": ("\u2764\ufe0f".encode(), ["\u2764\ufe0f"], []),
  "joined": ("\u0645\u200c\u062e".encode(), ["\u0645\u200c\u062e"], []),
  "line separator": ("a\u2028b\u2029c".encode(), ["a\u2028b\u2029c"], []),
  "vertical tab, form feed, next line": ("a\vb\fc\x85d".encode(), ["a\vb\fc\x85d"], []),
  "line ends": (b"a\r\nb\rc\n", ["a", "b", "c"], []),
  "tab": (b"a\tb", ["a\tb"], []),
  "blank": (b" \n\xe3\x80\x80\n", [], ["empty caption"] * 2),
}


@pytest.mark.parametrize("data, kept, rejected", CAPTIONS.values(), ids=CAPTIONS)
def test_captions(data, kept, rejected):
  found = sort_captions(caption_lines(data))
  assert list(found.kept) == kept
  assert [reason.split(":")[0] for reason in found.rejected] == rejected


@pytest.mark.parametrize("data", [b"B\xe4r", "熊a".encode("utf-16"), b"\xff\xfea\0"])
def test_captions_of_another_encoding(data):
  with pytest.raises(DataError, match="caption is not UTF-8"):
    caption_lines(data)


@pytest.mark.parametrize("value", [3, None, ["nested"], {"a": 1}])
def test_captions_that_are_not_text(value):
  assert sort_captions([value, "a"]) == (("a",), (f"caption is not text: {type(value).__name__}",))


P3 = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0, 0.04511, 1.04394]])
SRGB = np.array(
  [[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.1192, 0.9505]]
)
D50 = np.array(
  [[1.04788, 0.02292, -0.05022], [0.02959, 0.99048, -0.01707], [-0.00925, 0.01508, 0.75168]]
)


def icc(space=b"RGB ", gamma=2.2):
  """A version 2 display profile of the primaries of P3, or of grey."""
  fixed = lambda values: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))
  curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
  text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
  tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": fixed((0.9642, 1, 0.8249))}
  if space == b"GRAY":
    tags[b"kTRC"] = curve
  else:
    for name, column in zip((b"r", b"g", b"b"), (D50 @ P3).T, strict=True):
      tags |= {name + b"XYZ": fixed(column), name + b"TRC": curve}
  table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
  for name, data in tags.items():
    data += bytes(-len(data) % 4)
    table += name + struct.pack(">2I", at + len(body), len(data))
    body += data
  size = at + len(body)
  head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
  head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
  return head + table + body


def to_srgb(values, matrix):
  """8-bit values of gamma 2.2 to 8-bit sRGB."""
  x = np.clip(np.linalg.inv(SRGB) @ matrix @ (np.asarray(values) / 255) ** 2.2, 0, 1)
  y = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
  return np.round(y * 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_colour_profile_is_converted_and_counted(kind):
  color = (200, 100, 50)
  options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
  data = plain(kind, color=color, icc_profile=icc(), **options.get(kind, {}))
  account = Account()
  kept = Image.open(io.BytesIO(normalize(data, account=account)))
  np.testing.assert_allclose(np.asarray(kept)[1, 1], to_srgb(color, P3), atol=3)
  assert "icc_profile" not in kept.info
  assert account.to_json() == {"colour profiles to sRGB": {"found": 1, "used": 1, "rejected": {}}}


def test_profiles_with_alpha_grey_and_sixteen_bits():
  alpha = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
  alpha.putpixel((0, 0), (200, 100, 50, 255))
  out = np.asarray(decode(saved(alpha, icc_profile=icc())))
  np.testing.assert_allclose(out[0, 0], to_srgb((200, 100, 50), P3), atol=1)
  assert out[1, 1].tolist() == [255, 255, 255]
  wanted = to_srgb((60, 60, 60), SRGB)[0]  # with the curve alone
  grey = icc(b"GRAY")
  for image in (
    Image.new("L", (2, 2), 60),
    Image.new("LA", (2, 2), (60, 255)),
    Image.fromarray(np.full((2, 2), 60 * 257, np.uint16)),
  ):
    out = np.asarray(decode(saved(image, icc_profile=grey)))
    np.testing.assert_allclose(out, np.full((2, 2, 3), wanted), atol=1)


def test_profiles_that_say_nothing():
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  counts = {}
  for name, profile in (("sRGB", srgb), ("cut", icc()[:300]), ("grey", icc(b"GRAY"))):
    account = Account()
    data = plain(icc_profile=profile)
    assert normalize(data, account=account) == data
    counts[name] = account.to_json().get("colour profiles to sRGB", {}).get("rejected")
  assert counts == {
    "sRGB": None,
    "cut": {"unreadable": 1},
    "grey": {"of another colour space than the image": 1},
  }


def png(depth, color, rows, transparent):
  """A PNG of one column.   color: 0 = grey, 2 = RGB; rows: packed samples of each row"""
  chunk = lambda name, data: (
    struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
  )
  head = struct.pack(">IIBBBBB", 1, len(rows), depth, color, 0, 0, 0)
  body = zlib.compress(b"".join(b"\0" + row for row in rows))
  parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", body), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
  "data, wanted",
  [
    (png(16, 0, [b"\x00\x00", b"\x80\x80"], b"\x00\x00"), [255, 128]),
    (png(16, 0, [b"\x12\x34", b"\x12\x35"], b"\x12\x34"), [255, 18]),
    (png(16, 2, [b"\x80\x80" * 3, b"\x10\x10" * 3], b"\x80\x80" * 3), [255, 16]),
    (png(8, 0, [b"\x40", b"\x41"], b"\x00\x40"), [255, 65]),
    (png(4, 0, [b"\x30", b"\x40"], b"\x00\x03"), [255, 68]),
    (png(2, 0, [b"\x40", b"\x80"], b"\x00\x01"), [255, 170]),
    (png(1, 0, [b"\x00", b"\x80"], b"\x00\x00"), [255, 255]),
  ],
  ids=["grey16", "grey16 beside it", "rgb16", "grey8", "grey4", "grey2", "grey1"],
)
def test_a_transparent_colour_of_any_depth_becomes_white(data, wanted):
  assert np.asarray(decode(normalize(data)))[:, 0, 0].tolist() == wanted
