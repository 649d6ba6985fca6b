"""Policies: what is refused, by which rule, and what is renamed."""

import json

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data.perceptual import perceptual_hash
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.evaluation import guard
from t2i_jax.evaluation.guard import Refused
from tests.data.test_consent import noise


@pytest.fixture
def policy(tmp_path):
  """policy(rule, ...) -> the policy of a file with these rules."""

  def made(*rules):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"rules": rules}))
    return guard.read_policy(path)

  return made


@pytest.mark.parametrize(
  "prompt, concept, found",
  [
    ("a GRUM  circle, red", "grum circle", True),
    ("a grum red circle", "grum circle", False),
    ("grumbling circles", "grum circle", False),
    ("by outl", "outl", True),
    ("Mickey-Mouse's hat", "mickey-mouse's", True),
    ("", "x", False),
  ],
)
def test_what_mentions_a_concept(prompt, concept, found):
  assert guard.mentions(prompt, concept) == found


@pytest.mark.parametrize(
  "prompt, concept, anchor, found",
  [
    ("a grum circle and a Grum Circle", "grum circle", "circle", "a circle and a circle"),
    ("a red circle, by outl", "by outl", "", "a red circle"),
    ("by outl, a red circle", "by outl", "", "a red circle"),
    ("a a a", "a a", "b", "b a"),
    ("a fox", "wolf", "dog", "a fox"),
  ],
)
def test_renaming(prompt, concept, anchor, found):
  assert guard.renamed(prompt, concept, anchor) == found


def test_rules_of_prompts(policy):
  found = policy(
    {"name": "grum", "concepts": ["grum circle", "grum"], "action": "rename", "anchor": "circle"},
    {"name": "copies", "concepts": ["scene 90 77"]},
  )
  assert guard.allowed(found, "a grum circle") == "a circle"
  assert guard.allowed(found, "a grum") == "a circle"
  with pytest.raises(Refused, match="'a scene 90 77': rule 'copies' refuses 'scene 90 77'"):
    guard.allowed(found, "a scene 90 77")
  gone = policy({"name": "x", "concepts": ["outl"], "action": "rename", "anchor": ""})
  with pytest.raises(Refused, match="rule 'x' leaves nothing"):
    guard.allowed(gone, "outl")
  assert guard.allowed(guard.Policy(), "anything") == "anything"


def test_paraphrases_are_found_in_parts_of_a_prompt(policy):
  """An encoder of two words: what is like a mouse, and the rest."""
  vectors = {"mouse": (1, 0.1), "rodent": (1, 0.3), "with": (0, 1), "ears": (0.2, 1)}

  def embed(texts):
    sums = np.array([np.sum([vectors.get(w, (0, 1)) for w in t.split()], 0) for t in texts])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)

  found = policy({"name": "m", "concepts": ["mouse"], "paraphrase": 0.95})
  guard.check_paraphrases(found, ["a house with a garden"], embed)
  assert (embed(["a large rodent with ears"]) @ embed(["mouse"]).T).max() < 0.6  # as a whole
  with pytest.raises(Refused, match=r"rule 'm' refuses 'rodent', which is near to 'mouse' \(0.98"):
    guard.check_paraphrases(found, ["a house", "a large rodent with ears"], embed)
  assert guard.parts_of("a b c", 1) == ["a b c", "a", "b", "c", "a b", "b c"]


def test_rules_of_images(policy, tmp_path):
  (tmp_path / "listed").mkdir()
  for i in range(3):
    noise(i).save(tmp_path / "listed" / f"{i}.png")
  found = policy({"name": "ours", "images": ["listed"]})
  pixels = lambda image: np.asarray(image)
  guard.check_image(found, pixels(noise(9)), "x")
  copy = noise(1).resize((100, 90))
  with pytest.raises(
    Refused, match=r"x: rule 'ours' refuses it: .* that of 1.png in \d bits of 64"
  ):
    guard.check_image(found, pixels(copy), "x")
  by_hash = policy({"name": "h", "images": [f"phash:{perceptual_hash(noise(2)):016x}"]})
  with pytest.raises(Refused, match="rule 'h' refuses it"):
    guard.check_image(by_hash, pixels(noise(2)), "x")
  # A negative has another hash in every bit but the first, and no near features; paler, near ones.
  pale = Image.blend(noise(0), Image.new("RGB", (32, 32), "white"), 0.6).transpose(
    Image.Transpose.FLIP_LEFT_RIGHT
  )
  near = policy({"name": "f", "images": ["listed"], "radius": 0, "similarity": 0.9})
  guard.check_image(near, pixels(pale), "x")
  with pytest.raises(Refused, match=r"rule 'f' refuses it: (it is near to 0.png|its perceptual)"):
    guard.check_image(near, pixels(pale.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "x")


@pytest.mark.parametrize(
  "rule, words",
  [
    ({"concepts": ["x"]}, "has no name"),
    ({"name": "a"}, "neither concepts nor images"),
    ({"name": "a", "concept": ["x"]}, "has no field 'concept'"),
    ({"name": "a", "concepts": "x"}, "is not a list of texts"),
    ({"name": "a", "concepts": ["..."]}, "a concept has no word"),
    ({"name": "a", "concepts": ["x"], "action": "rename"}, "give both"),
    ({"name": "a", "concepts": ["x"], "anchor": "y"}, "anchor is of action = 'rename'"),
    ({"name": "a", "concepts": ["x"], "action": "drop"}, "is not one of refuse, rename"),
    (
      {"name": "a", "concepts": ["x"], "action": "rename", "anchor": "an x"},
      "has the concept itself",
    ),
    ({"name": "a", "concepts": ["x"], "paraphrase": 2}, r"paraphrase=2.0 is not in \(-1, 1\]"),
    ({"name": "a", "concepts": ["x"], "similarity": 0.9}, "are of images, and it has none"),
    ({"name": "a", "images": ["phash:1"]}, "write 16 hexadecimal digits"),
    ({"name": "a", "images": ["no.png"], "radius": 65}, r"radius=65 is not in \[0, 64\]"),
  ],
)
def test_policies_that_are_refused(policy, rule, words):
  with pytest.raises(ConfigError, match=words):
    policy(rule)


def test_images_that_cannot_be_read(policy, tmp_path):
  with pytest.raises(DataError, match=r"no\.png cannot be read"):
    policy({"name": "a", "images": ["no.png"]})
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError, match="empty has no image"):
    policy({"name": "a", "images": ["empty"]})
  with pytest.raises(ConfigError, match=r"write \{.rules"):
    policy()
  with pytest.raises(ConfigError, match="two rules have one name"):
    policy(*[{"name": "a", "concepts": ["x"]}] * 2)
