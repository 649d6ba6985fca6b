"""Batches by role: shares, orders, pairs, and what is refused."""

import numpy as np
import pytest

from t2i_jax.adapt.subject import SubjectImages, image_files
from t2i_jax.data.build import build
from t2i_jax.data.loader import Loader
from t2i_jax.data.roles import Roles, check_roles, open_split
from t2i_jax.data.transforms import Transform
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.training.step import micro_batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory, image):
  """Three images of a subject, six of its class, two to validate on."""
  root = tmp_path_factory.mktemp("roles")
  files = []
  for split, count in (("instance", 3), ("prior", 6), ("val", 2)):
    for i in range(count):
      path = root / f"{split}{i}.png"
      image(path, (8, 8), 40 * i)
      files.append((split, str(path), f"{split} {i}"))
  build(SubjectImages(tuple(files)), root / "data", workers=1, progress=False)
  return root / "data"


@pytest.fixture(scope="module")
def image():
  from PIL import Image

  def made(path, size, grey):
    Image.new("RGB", size, (grey, grey, grey)).save(path)

  return made


def rows_of(folder, steps, start=0):
  source = open_split(folder, "instance+prior")
  loader = Loader(
    source, Transform((8, 8), {}), seed=1, global_batch=4, rows=np.arange(4), workers=0, prefetch=2
  )
  batches = loader.batches(start)
  return [next(batches) for _ in range(steps)]


@pytest.mark.newest
def test_every_role_has_its_share_and_an_order_of_its_own(folder):
  batches = rows_of(folder, 6)
  for batch in batches:
    np.testing.assert_array_equal(batch.role, [0, 1, 0, 1])
  greys = np.stack([batch.images[:, 0, 0, 0, 0] for batch in batches])  # [6, 4]
  instance, prior = greys[:, ::2].ravel(), greys[:, 1::2].ravel()
  for epoch in range(4):
    assert sorted(instance[3 * epoch : 3 * epoch + 3]) == [0, 40, 80]
  assert sorted(prior[:6]) == sorted(prior[6:]) == [0, 40, 80, 120, 160, 200]
  again = rows_of(folder, 2, start=4)
  np.testing.assert_array_equal(again[0].images, batches[4].images)


def test_splits_of_one_length_come_in_pairs(folder):
  pairs = Roles(folder, ("prior", "prior"))
  for turn in range(12):
    (a, first), (b, second) = (pairs.record(2 * turn + role, 5) for role in (0, 1))
    assert (a.key, first, second) == (b.key, 0, 1)


def test_a_micro_batch_has_all_roles_in_turn():
  rows = np.arange(24).reshape(12, 2)
  parts = micro_batches(rows, 3, roles=2)
  assert parts.shape == (3, 4, 2)
  np.testing.assert_array_equal(parts[..., 0] // 2 % 2, [[0, 1, 0, 1]] * 3)
  assert sorted(parts.ravel()) == list(range(24))
  np.testing.assert_array_equal(micro_batches(rows, 3)[1], rows[1::3])


def test_what_is_refused(folder, tmp_path):
  roles = open_split(folder, "instance+prior")
  with pytest.raises(ConfigError, match=r"train\.objective has no roles\. Name a split"):
    check_roles(roles, (), 4, "instance+prior")
  with pytest.raises(ConfigError, match=r"has the roles instance, prior. .* 'instance\+prior'"):
    check_roles(open_split(folder, "prior"), ("instance", "prior"), 4, "prior")
  with pytest.raises(ConfigError, match=r"train.batch = 3 does not divide into 2 roles"):
    check_roles(roles, ("instance", "prior"), 3, "instance+prior")
  with pytest.raises(ConfigError, match=r"into 2 roles in 3 micro-batches: use a multiple of 6"):
    check_roles(roles, ("instance", "prior"), 8, "instance+prior", 3)
  with pytest.raises(DataError, match="has no split 'class'"):
    open_split(folder, "instance+class")
  with pytest.raises(DataError, match="has no image: three to ten"):
    image_files(tmp_path)
  with pytest.raises(DataError, match="is not a folder"):
    image_files(tmp_path / "nowhere")
  (tmp_path / "notes.png").write_text("no image")
  source = SubjectImages((("instance", str(tmp_path / "notes.png"), "a"),))
  with pytest.raises(DataError, match=r"notes\.png cannot be used"):
    build(source, tmp_path / "data", workers=1, progress=False)
