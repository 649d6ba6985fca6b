"""The stored form of a record: there and back, and what is refused."""

import msgpack
import pytest

from t2i_jax.data.record import Record, unpack
from t2i_jax.errors import DataError

EDITED = Record(
  b"one", ("a red circle",), "k", {}, (("make it blue", b"two"), ("and big", b"three"))
)


@pytest.mark.parametrize("record", [Record(b"one", ("a", "b"), "k", {"x": [1]}), EDITED])
def test_there_and_back(record):
  assert unpack(record.pack()) == record


def test_images_and_texts_in_order():
  assert EDITED.images == (b"one", b"two", b"three")
  assert EDITED.texts == ("a red circle", "make it blue", "and big")


def test_a_record_without_turns_is_stored_as_before_there_were_any():
  assert "then" not in msgpack.unpackb(Record(b"one", ("a",), "k").pack())


@pytest.mark.parametrize(
  "turn, words",
  [
    (("", b"two"), "empty instruction"),
    (("more", b""), "no image bytes"),
    (("more",), "is not a record"),
  ],
)
def test_bad_turns_are_refused(turn, words):
  bad = msgpack.packb({"image": b"1", "captions": ["a"], "key": "k", "meta": {}, "then": [turn]})
  with pytest.raises(DataError, match=words):
    unpack(bad)
