"""Pairs of edits as text: filtered, killed and gone on with; the models are stand-ins that compile
nothing."""

import hashlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from toys import saved

from t2i_jax.config import load_config
from t2i_jax.data.drawn import Drawn, drawn_of
from t2i_jax.data.edit_texts import EditTriple, scene_texts, write_edit_texts
from t2i_jax.data.images import decode
from t2i_jax.data.scenes import render
from t2i_jax.data.source import ShardSource
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.edit.drawn_pairs import WRONG_EDIT, WRONG_SOURCE, judged, pairs
from t2i_jax.edit.image_encoders import ImageEncoder, open_encoder
from t2i_jax.edit.pair_drawing import DRAWS, EXACT, Candidates, How, candidates_of
from t2i_jax.errors import ConfigError, DataError, WorkdirError
from t2i_jax.evaluation.agreement import Thresholds
from t2i_jax.inference import open_model

pytestmark = pytest.mark.newest
SAMPLING = {
  "solver": "euler", "grid": "trailing", "steps": 2, "guidance": "cfg", "cfg": 2.0, "negative": "",
  "batch": 4,
}  # fmt: skip


def noise_of(text, seed):
  number = int.from_bytes(hashlib.sha256(f"{text}/{seed}".encode()).digest()[:8], "big")
  return np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)


class Model(SimpleNamespace):
  """Noise of the prompt and the seed;   left: drawings until it is killed"""

  def __init__(self, left=10**9, size=8):
    super().__init__(
      config=ConfigDict({"sampling": SAMPLING, "data": {"image_size": (size, size)}}),
      system=SimpleNamespace(check_captions=lambda texts: None),
      tokenizer=Tokenizer.bytes(), params={}, left=left,
      where="--workdir=stand-in", step=3, data="01",
    )  # fmt: skip

  def need(self, task):
    assert task == "draw"

  def draw(self, texts, seeds):
    self.left -= len(texts)
    if self.left < 0:
      raise KeyboardInterrupt
    return np.stack([noise_of(text, seed) for text, seed in zip(texts, seeds, strict=True)])


def encoder(texts=True):
  """Mean colours of images, and letters of texts."""
  of = lambda text: [text.count("r") + 1.0, text.count("e") + 1.0, text.count("a") + 1.0]
  return ImageEncoder(
    lambda images: images.astype(float).mean((1, 2)),
    (lambda texts: np.array([of(text) for text in texts])) if texts else None,
    {"encoder": "letters"},
  )


@pytest.fixture
def edits(tmp_path):
  path = tmp_path / "edits.jsonl"
  write_edit_texts(path, {}, [
    EditTriple(f"a red circle {i}", f"make it blue {i}", f"a blue circle {i}") for i in range(40)
  ])  # fmt: skip
  return path


def files(folder):
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


HOW = How(
  "seed", candidates=4, keep=2, seed=7, thresholds=Thresholds(-1, 0.3, -1), val_fraction=0.2
)


def test_killed_and_gone_on_with_is_the_same_to_the_byte(edits, tmp_path):
  whole = pairs(Model(), edits, tmp_path / "a", HOW, encoder())
  with pytest.raises(KeyboardInterrupt):
    pairs(Model(left=200), edits, tmp_path / "b", HOW, encoder())
  drawn = tmp_path / "b.drawn"
  assert len(list(drawn.glob("*.msgpack"))) == 1 and not (tmp_path / "b").exists()
  with pytest.raises(WorkdirError, match="pairs of another seed: 7 there, 8 here"):
    pairs(Model(), edits, tmp_path / "b", HOW._replace(seed=8), encoder())
  pairs(Model(left=320 - 128), edits, tmp_path / "b", HOW, encoder())
  assert not drawn.exists()
  first, second = files(tmp_path / "a"), files(tmp_path / "b")
  for found in (first, second):  # the name of the folder is in it
    found["manifest.json"] = found["manifest.json"].replace(b"b.drawn", b"a.drawn")
  assert first == second
  account = whole["account"]["items"]
  assert account["found"] == 160 == account["used"] + sum(account["rejected"].values())
  assert set(account["rejected"]) == {
    "directional similarity below 0.3", "not among the best of its edit",
  }  # fmt: skip
  with pytest.raises(DataError, match="is not empty"):
    pairs(Model(), edits, tmp_path / "a", HOW, encoder())


def test_what_is_kept_are_the_most_alike_in_direction_with_where_they_came_from(edits, tmp_path):
  manifest = pairs(Model(), edits, tmp_path / "a", HOW, encoder(), count=10)
  about = manifest["made_by"]["arguments"]["about"]
  assert about["edits"] == 10 and about["thresholds"]["directional"] == 0.3
  by = Drawn(("train", "val"), "--workdir=stand-in", 3, "01")
  assert drawn_of(tmp_path / "a") == by and by.workdir == "stand-in"
  records = [
    source[i]
    for split in manifest["splits"]
    for source in [ShardSource(tmp_path / "a", split)]
    for i in range(len(source))
  ]
  splits = {}
  for split in manifest["splits"]:
    source = ShardSource(tmp_path / "a", split)
    for i in range(len(source)):
      splits.setdefault(source[i].key[:6], set()).add(split)
  assert all(len(of_edit) == 1 for of_edit in splits.values()) and len(manifest["splits"]) == 2
  assert records and max(np.unique([r.key[:6] for r in records], return_counts=True)[1]) <= 2
  for record in records:
    number, candidate = map(int, record.key.split("/"))
    seed = 7 + 4 * number + candidate
    assert record.meta["seed"] == seed and record.meta["pair"] == "seed"
    assert record.captions == (f"a red circle {number}",)
    ((instruction, after),) = record.then
    assert instruction == f"make it blue {number}"
    assert record.meta["edited"] == f"a blue circle {number}"
    np.testing.assert_array_equal(
      np.asarray(decode(record.image)), noise_of(record.captions[0], seed)
    )
    np.testing.assert_array_equal(np.asarray(decode(after)), noise_of(record.meta["edited"], seed))
    own = [candidate_direction(number, k) for k in range(4)]
    assert record.meta["directional"] == pytest.approx(own[candidate])
    assert sorted(own).index(own[candidate]) >= 2 and own[candidate] >= 0.3


def candidate_direction(number, k):
  from scipy.spatial.distance import cosine

  texts = [f"a red circle {number}", f"a blue circle {number}"]
  images = np.stack([noise_of(text, 7 + 4 * number + k) for text in texts])
  (a, b), (c, d) = encoder().images(images), encoder().texts(texts)
  return 1 - cosine(b - a, d - c)


def test_fractions_are_uniform_and_a_function_of_the_candidate():
  triples = [EditTriple("a", "b", "c")] * 500
  how = How("p2p", candidates=2, fractions=(0.1, 0.9))
  found = candidates_of(triples, 0, how)
  assert found.fractions[200:] == candidates_of(triples[:400], 100, how).fractions
  assert len(set(found.seeds)) == 1000
  from scipy.stats import kstest

  assert kstest(found.fractions, "uniform", (0.1, 0.8)).pvalue > 1e-3


def test_each_candidate_of_p2p_has_its_own_fraction(tmp_path):
  """Of none of the steps the pair is two drawings of one seed; of all the second one is another."""
  given = {
    "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
    "text.length": "40", "text.towers.text": "bag_of_words(width=16)", "model.width": "16",
    "model.heads": "2", "model.depth": "1", "model.patch": "4", "process.prediction": "velocity",
    "sampling.solver": "euler", "sampling.steps": "4", "sampling.batch": "2",
    "sampling.cfg": "3.0", "train.optimizer": "adamw",
  }  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    saved(tmp_path / "run", load_config("configs/scenes_dit_flow.py", given))
    model = open_model(tmp_path / "run")
  triple = EditTriple("a red circle", "make it blue", "a blue circle")
  drawn = {}
  for kind in ("seed", "p2p"):
    candidates = Candidates([triple] * 2, ["0", "1"], [5, 5], [0.0, 1.0])
    drawn[kind] = [images.astype(int) for images in DRAWS[kind](model)(candidates)]
  (before, after), (source, target) = drawn["seed"], drawn["p2p"]
  near = lambda a, b: np.abs(a - b).max() <= 1
  assert near(source, before) and near(target[0], after[0])
  assert not near(target[1], after[1]) and not near(target[1], source[1])


def test_a_noisy_classifier_compares_sets_of_words(tmp_path):
  given = {
    "data.image_size": "(16, 16)", "text.tokenizer": "bytes", "text.vocab": "264",
    "text.length": "40", "model.width": "16", "model.heads": "2", "model.depth": "1",
    "model.patch": "4", "train.optimizer": "adamw",
  }  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    saved(tmp_path / "run", load_config("configs/scenes_classifier.py", given))
    encoder = open_encoder(str(tmp_path / "run"))
  images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
  found, texts = encoder.images(images), encoder.texts(["ab ba", "ba ab", "ab"])
  assert found.shape == (70, 264) and texts.shape == (3, 264)
  np.testing.assert_allclose(encoder.images(images[66:]), found[66:], atol=1e-6)
  assert not np.any(found[:, :3]) and np.all((found[:, 3:] > 0) & (found[:, 3:] < 1))
  np.testing.assert_array_equal(texts[0], texts[1])  # a swap has no direction
  letters = [3 + ord(letter) for letter in "ab"]
  assert sorted(np.flatnonzero(texts[2])) == letters
  with pytest.raises(ConfigError, match="reads images of 16 x 16, and these are 8 x 8"):
    encoder.images(images[:, :8, :8])


def test_renders_are_judged_right_and_other_images_wrong(tmp_path):
  triples, _ = scene_texts("easy", 12)
  write_edit_texts(tmp_path / "edits.jsonl", {}, triples)
  how = How(EXACT, judge=True, val_fraction=0.1)
  manifest = pairs(Model(size=32), tmp_path / "edits.jsonl", tmp_path / "exact", how)
  assert sum(split["records"] for split in manifest["splits"].values()) == 12
  assert drawn_of(tmp_path / "exact") is None  # renders, which no model drew
  record = ShardSource(tmp_path / "exact", "train")[0]
  assert record.meta["correct"] and record.meta["kind"] and "seed" not in record.meta
  before, after = (render(scene, 32) for scene in (triples[0].turn.before, triples[0].turn.after))
  assert judged(triples[0], before, after) is None
  assert judged(triples[0], before, before) == WRONG_EDIT
  assert judged(triples[0], np.full((32, 32, 3), 240, np.uint8), after) == WRONG_SOURCE
  assert judged(EditTriple("a", "b", "c"), before, after) is None


def test_what_is_refused(edits, tmp_path):
  def refused(match, how, given=None):
    with pytest.raises(ConfigError, match=match):
      pairs(Model(), edits, tmp_path / "x", how, given)
    assert not (tmp_path / "x.drawn").exists()

  refused("--kind=other is not one of seed, p2p, exact", How("other"))
  refused("--judge needs edits of scenes, .* 'make it blue 0' is none", How(judge=True))
  refused("--kind=exact needs edits of scenes", How(EXACT))
  refused("one exact render", How(EXACT, candidates=2))
  refused("--keep=1 of --candidates=2: the best ones", How(candidates=2))
  refused("Give an --encoder of images and texts", How(candidates=2), encoder(texts=False))
  refused("write the lower one first", How(fractions=(0.5, 0.2)))
  (tmp_path / "bert").mkdir()
  (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}))
  with pytest.raises(ConfigError, match="model_type = 'bert': give the folder of a CLIP"):
    open_encoder(str(tmp_path / "bert"))
  with pytest.raises(DataError, match="cannot be read"):
    open_encoder(str(tmp_path))
