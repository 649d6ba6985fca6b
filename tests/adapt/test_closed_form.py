"""UCE beside least squares written out, its stationarity, and a run of the verb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from t2i_jax.adapt import closed_form
from t2i_jax.adapt.closed_form import (
  check_reading,
  edit_backbone,
  edit_matrix,
  edited,
  last_token,
  read_encodings,
)
from t2i_jax.cli.main import main
from t2i_jax.config import load_config
from t2i_jax.errors import ConfigError
from t2i_jax.inference import open_model
from t2i_jax.plan.describe import system_of
from tests.adapt.personalised import ROOT

RIDGE = 0.5


@pytest.fixture(scope="module")
def texts():
  """Concepts, anchors [3, 7], preserved [4, 7] and kernels of two layers [2, 7, 2, 3, 5]."""
  rng = np.random.default_rng(0)
  shapes = ((3, 7), (3, 7), (4, 7), (2, 7, 2, 3, 5))
  return tuple(rng.standard_normal(shape) for shape in shapes)


def test_it_is_the_least_squares_solution(texts):
  c, a, p, kernel = texts
  found = edited(kernel, edit_matrix(c, a, p, RIDGE), stacked=True)
  for layer, w in zip(found, kernel, strict=True):
    w0 = w.reshape(7, -1)
    left = np.concatenate([c, p, RIDGE**0.5 * np.eye(7)])
    right = np.concatenate([a @ w0, p @ w0, RIDGE**0.5 * w0])
    wanted, *_ = np.linalg.lstsq(left, right)
    np.testing.assert_allclose(layer.reshape(7, -1), wanted, rtol=1e-9, atol=1e-11)
  np.testing.assert_allclose(edited(kernel[0], edit_matrix(c, a, p, RIDGE), False), found[0])


def test_the_slope_of_what_it_minimises_is_0(texts):
  c, a, p, kernel = texts
  w0 = kernel[0].reshape(7, -1)

  def cost(w):
    square = lambda x: jnp.sum(x**2)
    return square(c @ w - a @ w0) + square(p @ w - p @ w0) + RIDGE * square(w - w0)

  slope = jax.grad(cost)
  w = edit_matrix(c, a, p, RIDGE) @ w0
  assert jnp.abs(slope(w)).max() < 1e-4 * jnp.abs(slope(w0)).max()


def test_without_concepts_nothing_changes(texts):
  c, a, p, _ = texts
  np.testing.assert_allclose(edit_matrix(c[:0], a[:0], p), np.eye(7), atol=1e-12)
  strict = edit_matrix(c, a, 1e6 * p)  # what is preserved stays, whatever is erased
  np.testing.assert_allclose(p @ strict, p, atol=1e-6)


def test_keys_and_values_of_a_run(base, tmp_path, one_device, monkeypatch, capsys):
  """A triangle is read as a square; of a circle, which is kept, keys and values stay."""
  # The bag of words sorts its tokens: the noun's, of the largest id, is the last of them.
  largest = lambda encoder, text: int(encoder.encode([text])[1].sum()) - 1
  monkeypatch.setattr(closed_form, "last_token", largest)
  how = ["forget", f"--workdir={base / 'base'}", "--method=uce", "--concept=triangle",
         "--anchor=square", "--keep=a circle", f"--to={tmp_path / 'run'}"]  # fmt: skip
  assert main(how) == 0
  before, after = open_model(base / "base"), open_model(tmp_path / "run")
  flat = [traverse_util.flatten_dict(m.params, sep="/") for m in (before, after)]
  changed = [path for path in flat[0] if not np.array_equal(*(f[path] for f in flat))]
  assert changed == ["backbone/blocks/cross/kv/kernel"]
  w0, w = (np.asarray(f[changed[0]], np.float64) for f in flat)
  c, a, p = read_encodings(before.system, before.params, ["a triangle", "a square", "a circle"])
  values = lambda x, w: np.einsum("d,ldskh->lskh", x, w)
  error = lambda x, y: np.linalg.norm(values(x, w) - values(y, w0))
  assert error(c, a) < 0.1 * np.linalg.norm(values(c, w0) - values(a, w0))
  assert error(p, p) < 0.1 * np.linalg.norm(values(p, w0))
  with pytest.raises(ConfigError, match="gives the same for both"):
    edit_backbone(before.system, before.params, ["a circle"], ["a circle"], [])
  capsys.readouterr()
  assert main(how) == 0 and "0 drawn" in capsys.readouterr().out  # what is there is used
  encoder = before.system.text["text"]
  at = lambda text: encoder.encode([text])[0][0][last_token(encoder, text)]
  assert at("a red circle") == at("a circle") != at("a square")
  assert last_token(encoder, "") == 1  # EOS


def test_it_is_refused_where_text_and_image_share_attention():
  config = load_config(f"{ROOT}/configs/scenes_dit_flow.py", {"model.text": "joint"})
  with pytest.raises(ConfigError, match="this backbone has none"):
    check_reading(system_of(config))
