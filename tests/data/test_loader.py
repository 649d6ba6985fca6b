import itertools
import subprocess
import sys

import numpy as np
import pytest

from t2i_jax.data.loader import Loader, validation_batches
from t2i_jax.data.record import Record
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Transform
from t2i_jax.errors import DataError


class Numbers:
  """A source of n records whose picture's first byte is the index."""

  def __init__(self, n):
    self.n = n

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    return Record(bytes([index]), ("a", "b", "c"), str(index))


class Tell:
  """A transform that shows which records and caption a row is."""

  def __init__(self, window=1, weight=False):
    self.window, self.weight = window, weight

  def __call__(self, records, rng):
    index = np.int32([record.image[0] for record in records])
    row = {"index": index[0] if self.window == 1 else index, "caption": np.int32(rng.integers(3))}
    return row | ({"weight": np.float32(1)} if self.weight else {})


tell = Tell()


def take(source, steps, *, start=0, batch=8, rows=None, transform=tell, workers=0, seed=0):
  rows = np.arange(batch) if rows is None else rows
  loader = Loader(
    source, transform, seed=seed, global_batch=batch, rows=rows, workers=workers, prefetch=3
  )
  return list(itertools.islice(loader.batches(start), steps))


def test_a_row_of_several_records_takes_the_next_ones_of_the_order():
  singles = np.concatenate([b["index"] for b in take(Numbers(50), 6, batch=4)])
  windows = np.concatenate([b["index"] for b in take(Numbers(50), 2, batch=4, transform=Tell(3))])
  assert windows.reshape(-1).tolist() == singles.tolist()
  later = take(Numbers(50), 1, start=1, batch=4, transform=Tell(3), rows=np.array([1, 3]))
  assert later[0]["index"].tolist() == windows[[5, 7]].tolist()


def join(parts, name):
  return np.concatenate([part[name] for part in parts])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_reads_the_same_global_batches(processes):
  whole = take(Numbers(50), 20)
  shares = [
    take(Numbers(50), 20, rows=np.array(rows)) for rows in np.array_split(range(8), processes)
  ]
  for step in range(20):
    parts = [share[step] for share in shares]
    for name in ("index", "caption"):
      np.testing.assert_array_equal(join(parts, name), whole[step][name])


def test_rows_need_not_be_neighbours():
  whole, odd = take(Numbers(50), 5), take(Numbers(50), 5, rows=np.array([1, 3, 7]))
  for a, b in zip(whole, odd, strict=True):
    np.testing.assert_array_equal(a["index"][[1, 3, 7]], b["index"])


@pytest.mark.newest
def test_starting_at_a_step_is_going_on_from_it():
  through, resumed = take(Numbers(30), 12), take(Numbers(30), 5, start=7)
  for a, b in zip(through[7:], resumed, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("size", [3, 8, 13])
def test_each_epoch_has_each_record_once(size):
  """Also with fewer records than a batch has rows, where batches run over epochs."""
  read = join(take(Numbers(size), 2 * size), "index")  # 16 whole epochs
  for epoch in range(16):
    assert sorted(read[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_another_seed_is_another_order():
  a, b = (join(take(Numbers(100), 10, seed=seed), "index") for seed in (0, 1))
  assert not np.array_equal(a, b)


@pytest.mark.newest
def test_workers_change_nothing(scenes_dir, tmp_path):
  """In a script of its own, as a run is: workers are spawned and import the script again."""
  script = tmp_path / "script.py"
  script.write_text(f"""
import itertools, numpy as np
from t2i_jax.data.loader import Loader
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Transform
from t2i_jax.errors import DataError

def take(workers, length=24):
  folder = {str(scenes_dir)!r}
  transform = Transform((32, 32), Tokenizer.load(folder, "bpe"), length)
  loader = Loader(ShardSource(folder, "train"), transform, seed=1, global_batch=16,
                  rows=np.arange(4, 12), workers=workers, prefetch=4)
  return list(itertools.islice(loader.batches(3), 10))

if __name__ == "__main__":
  for a, b in zip(take(0), take(2), strict=True):
    assert set(a) == {{"image", "tokens", "mask", "weight"}}, a.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
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
from t2i_jax.data.loader import Loader
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Transform

if __name__ == "__main__":
  transform = Transform((32, 32), Tokenizer.bytes(), 60)
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
  transform = Transform((32, 32), Tokenizer.load(scenes_dir, "bpe"), 24)
  batch = take(ShardSource(scenes_dir, "train"), 1, transform=transform)[0]
  told = {name: (x.dtype.name, x.shape) for name, x in batch.items()}
  assert told == {
    "image": ("uint8", (8, 32, 32, 3)),
    "tokens": ("int32", (8, 24)),
    "mask": ("bool", (8, 24)),
    "weight": ("float32", (8,)),
  }


def test_an_error_in_a_row_reaches_the_caller(scenes_dir):
  transform = Transform((32, 32), Tokenizer.bytes(), 10)
  with pytest.raises(DataError, match=r"record 'easy/train.*text\.length = 10"):
    take(ShardSource(scenes_dir, "train"), 1, transform=transform)


with_weight = Tell(weight=True)


def test_validation_batches_are_fixed_and_padded_with_weight_zero():
  batches = list(validation_batches(Numbers(50), with_weight, 10, 4, np.arange(4)))
  assert [b["weight"].tolist() for b in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
  np.testing.assert_array_equal(join(batches, "index")[:10], np.arange(10))
  again = list(validation_batches(Numbers(50), with_weight, 10, 4, np.arange(4)))
  np.testing.assert_array_equal(join(batches, "caption"), join(again, "caption"))
  assert len(set(join(batches, "caption").tolist())) > 1


def test_validation_over_processes_and_beyond_the_source():
  whole = list(validation_batches(Numbers(6), with_weight, 99, 4, np.arange(4)))
  assert sum(b["weight"].sum() for b in whole) == 6
  halves = [
    list(validation_batches(Numbers(6), with_weight, 99, 4, np.array(rows)))
    for rows in ([0, 1], [2, 3])
  ]
  assert [len(h) for h in halves] == [2, 2]  # all processes take part in each batch
  for step, batch in enumerate(whole):
    parts = [half[step] for half in halves]
    for name in ("index", "weight"):
      real = batch["weight"] > 0
      np.testing.assert_array_equal(join(parts, name)[real], batch[name][real])
    np.testing.assert_array_equal(join(parts, "weight"), batch["weight"])
