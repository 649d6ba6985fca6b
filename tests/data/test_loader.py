import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from t2i_jax.data.batch import Batch
from t2i_jax.data.loader import Loader, validation_batches
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform
from t2i_jax.errors import DataError


class Numbers:
  """A source of n records whose image's first byte is the index."""

  def __init__(self, n):
    self.n = n

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    return Record(bytes([index]), ("a", "b", "c"), str(index))


class Tell:
  """A transform that shows which records and caption a row is."""

  def __init__(self, window=1):
    self.window = window

  def __call__(self, records, rng):
    index = np.int32([record.image[0] for record in records])
    one = np.ones(1, np.float32)
    return Batch(index, one, one, {"text": np.int32(rng.integers(3))})


def index(batch):
  """Numbers of the records of each row, [n] or [n, window]."""
  return np.squeeze(batch.images, 1) if batch.images.shape[1] == 1 else batch.images


def caption(batch):
  return batch.text["text"]


def weight(batch):
  return batch.image_weight[:, 0]


tell = Tell()


def take(source, steps, *, start=0, batch=8, rows=None, transform=tell, workers=0, seed=0):
  rows = np.arange(batch) if rows is None else rows
  loader = Loader(
    source, transform, seed=seed, global_batch=batch, rows=rows, workers=workers, prefetch=3
  )
  return list(itertools.islice(loader.batches(start), steps))


def test_a_row_of_several_records_takes_the_next_ones_of_the_order():
  singles = np.concatenate([index(b) for b in take(Numbers(50), 6, batch=4)])
  windows = np.concatenate([index(b) for b in take(Numbers(50), 2, batch=4, transform=Tell(3))])
  assert windows.reshape(-1).tolist() == singles.tolist()
  later = take(Numbers(50), 1, start=1, batch=4, transform=Tell(3), rows=np.array([1, 3]))
  assert index(later[0]).tolist() == windows[[5, 7]].tolist()


def join(parts, field):
  return np.concatenate([field(part) for part in parts])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_reads_the_same_global_batches(processes):
  whole = take(Numbers(50), 20)
  shares = [
    take(Numbers(50), 20, rows=np.array(rows)) for rows in np.array_split(range(8), processes)
  ]
  for step in range(20):
    parts = [share[step] for share in shares]
    for field in (index, caption):
      np.testing.assert_array_equal(join(parts, field), field(whole[step]))


def test_rows_need_not_be_neighbours():
  whole, odd = take(Numbers(50), 5), take(Numbers(50), 5, rows=np.array([1, 3, 7]))
  for a, b in zip(whole, odd, strict=True):
    np.testing.assert_array_equal(index(a)[[1, 3, 7]], index(b))


@pytest.mark.newest
def test_starting_at_a_step_is_going_on_from_it():
  through, resumed = take(Numbers(30), 12), take(Numbers(30), 5, start=7)
  for a, b in zip(through[7:], resumed, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("size", [3, 8, 13])
def test_each_epoch_has_each_record_once(size):
  """Also with fewer records than a batch has rows, where batches run over epochs."""
  read = join(take(Numbers(size), 2 * size), index)  # 16 whole epochs
  for epoch in range(16):
    assert sorted(read[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_another_seed_is_another_order():
  a, b = (join(take(Numbers(100), 10, seed=seed), index) for seed in (0, 1))
  assert not np.array_equal(a, b)


@pytest.mark.newest
def test_workers_change_nothing(scenes_dir, tmp_path):
  """In a script of its own, as a run is: workers are spawned and import the script again."""
  script = tmp_path / "script.py"
  script.write_text(f"""
import itertools, jax, numpy as np
from t2i_jax.data.batch import Batch, Tokens
from t2i_jax.data.batch import Batch
from t2i_jax.data.loader import Loader
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform
from t2i_jax.errors import DataError

def take(workers, length=24):
  folder = {str(scenes_dir)!r}
  captions = {{"text": Caption(Tokenizer.load(folder, "bpe"), length)}}
  transform = Transform((32, 32), captions)
  loader = Loader(ShardSource(folder, "train"), transform, seed=1, global_batch=16,
                  rows=np.arange(4, 12), workers=workers, prefetch=4)
  return list(itertools.islice(loader.batches(3), 10))

if __name__ == "__main__":
  for a, b in zip(take(0), take(2), strict=True):
    assert isinstance(a, Batch) and isinstance(a.text["text"], Tokens), a
    jax.tree.map(np.testing.assert_array_equal, a, b)
  try:
    take(2, length=4)
  except DataError as error:
    assert "text.length = 4" in str(error), error
    print("same")
""")
  done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "same"
  assert "leaked" not in done.stderr, done.stderr


def test_a_killed_run_leaves_no_worker(scenes_dir, tmp_path):
  script = tmp_path / "script.py"
  script.write_text(f"""
import numpy as np
from t2i_jax.data.batch import Batch
from t2i_jax.data.loader import Loader
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Caption, Transform

if __name__ == "__main__":
  transform = Transform((32, 32), {{"text": Caption(Tokenizer.bytes(), 60)}})
  loader = Loader(ShardSource({str(scenes_dir)!r}, "train"), transform, seed=1, global_batch=16,
                  rows=np.arange(16), workers=1, prefetch=2)
  for batch in loader.batches(0):
    print("batch", flush=True)
""")
  process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
  assert process.stdout.readline() == b"batch\n"
  process.kill()
  process.communicate(timeout=20)  # the pipe ends once no worker holds it open


def test_shapes_and_types(scenes_dir):
  captions = {"text": Caption(Tokenizer.load(scenes_dir, "bpe"), 24)}
  transform = Transform((32, 32), captions)
  batch = take(ShardSource(scenes_dir, "train"), 1, transform=transform)[0]
  found = [(x.dtype.name, x.shape) for x in (batch.images, *batch.text["text"])]
  assert found == [("uint8", (8, 1, 32, 32, 3)), ("int32", (8, 24)), ("bool", (8, 24))]
  for x in (batch.image_weight, batch.max_t):
    assert (x.dtype.name, x.shape) == ("float32", (8, 1)) and np.all(x == 1)
  assert batch.rows is None and batch.text_weight is None


def test_an_error_in_a_row_reaches_the_caller(scenes_dir):
  transform = Transform((32, 32), {"text": Caption(Tokenizer.bytes(), 10)})
  with pytest.raises(DataError, match=r"record 'easy/train.*text\.length = 10"):
    take(ShardSource(scenes_dir, "train"), 1, transform=transform)


def test_validation_batches_are_fixed_and_padded_tell_zero():
  batches = list(validation_batches(Numbers(50), tell, 10, 4, np.arange(4)))
  assert [weight(b).tolist() for b in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
  np.testing.assert_array_equal(join(batches, index)[:10], np.arange(10))
  again = list(validation_batches(Numbers(50), tell, 10, 4, np.arange(4)))
  np.testing.assert_array_equal(join(batches, caption), join(again, caption))
  assert len(set(join(batches, caption).tolist())) > 1


def test_validation_over_processes_and_beyond_the_source():
  whole = list(validation_batches(Numbers(6), tell, 99, 4, np.arange(4)))
  assert sum(weight(b).sum() for b in whole) == 6
  halves = [
    list(validation_batches(Numbers(6), tell, 99, 4, np.array(rows))) for rows in ([0, 1], [2, 3])
  ]
  assert [len(h) for h in halves] == [2, 2]  # all processes take part in each batch
  for step, batch in enumerate(whole):
    parts = [half[step] for half in halves]
    for field in (index, weight):
      real = weight(batch) > 0
      np.testing.assert_array_equal(join(parts, field)[real], field(batch)[real])
    np.testing.assert_array_equal(join(parts, weight), weight(batch))
