import json
import pickle

import numpy as np
import pytest
import tokenizers

from t2i_jax.data.tokenize import (
  BOS,
  EOS,
  PAD,
  Tokenizer,
  check_captions,
  placeholder_words,
  train_bpe,
)
from t2i_jax.errors import ConfigError, DataError, PromptError

CAPTIONS = ["a red circle", "a blue square left of a red circle", "two red circles"] * 20
TEXTS = ["a red circle", "", "Ein Bär, 熊 🐻", "[EOS] [PAD]", "tab\tnew\nline", "  spaces  "]


@pytest.fixture(params=["bpe", "bytes"])
def tokenizer(request):
  if request.param == "bytes":
    return Tokenizer.bytes()
  return Tokenizer.bpe(train_bpe(CAPTIONS, 300))


def test_any_text_begins_ends_and_comes_back(tokenizer):
  ids, mask = tokenizer.encode(TEXTS, 40)
  assert ids.dtype == np.int32 and ids.shape == mask.shape == (len(TEXTS), 40)
  assert ids.max() < tokenizer.vocab
  for text, row, real in zip(TEXTS, ids, mask, strict=True):
    n = real.sum()
    assert real[:n].all() and not real[n:].any()
    assert row[0] == BOS and row[n - 1] == EOS and (row[n:] == PAD).all()
    assert (row[1 : n - 1] > EOS).all()  # a caption cannot smuggle in a special token
    assert tokenizer.decode(row).strip() == text.strip()


def test_the_empty_text_is_begin_and_end(tokenizer):
  ids, mask = tokenizer.encode([""], 4)
  assert ids.tolist() == [[BOS, EOS, PAD, PAD]] and mask.sum() == 2


def test_bytes_are_their_values_moved_by_three():
  ids, _ = Tokenizer.bytes().encode(["Aé"], 5)
  assert ids.tolist() == [[BOS, 65 + 3, 0xC3 + 3, 0xA9 + 3, EOS]]
  assert Tokenizer.bytes().vocab == 259


def test_a_frequent_word_is_one_token_wherever_it_stands():
  tokenizer = Tokenizer.bpe(train_bpe(CAPTIONS, 400))
  ids, mask = tokenizer.encode(["red circle", "circle red"], 8)
  assert mask.sum(1).tolist() == [4, 4]
  assert ids[0, 1] == ids[1, 2] and ids[0, 2] == ids[1, 1]


def test_a_text_too_long_names_itself_its_count_and_the_limit(tokenizer):
  text = "circle " * 30
  count = tokenizer.encode([text], 1000)[1].sum()
  assert tokenizer.encode([text], count)[1].all()  # just fits
  with pytest.raises(
    PromptError, match=rf"'circle circle.*{count} tokens.*= {count - 1}\. Shorten"
  ):
    tokenizer.encode(["short", text], count - 1)


def test_it_survives_json_and_pickle(tokenizer):
  for copy in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer))):
    assert copy == tokenizer and copy.vocab == tokenizer.vocab
    np.testing.assert_array_equal(copy.encode(TEXTS, 40)[0], tokenizer.encode(TEXTS, 40)[0])


def test_training_is_repeatable_and_stays_within_the_size():
  assert train_bpe(CAPTIONS, 290) == train_bpe(CAPTIONS, 290)
  assert Tokenizer.bpe(train_bpe(CAPTIONS, 270)).vocab == 270
  saturated = Tokenizer.bpe(train_bpe(CAPTIONS, 5000)).vocab
  assert 280 < saturated < 400


def test_a_size_below_the_bytes():
  with pytest.raises(DataError, match=r"--vocab=100 is smaller than the 259"):
    train_bpe(CAPTIONS, 100)


@pytest.mark.newest
def test_loading_from_a_built_folder(scenes_dir):
  bpe = Tokenizer.load(scenes_dir, "bpe")
  assert bpe.vocab == json.loads((scenes_dir / "manifest.json").read_text())["tokenizer"]["vocab"]
  assert bpe.encode(["a red circle"], 5)[1].sum() == 5  # one token a word
  assert Tokenizer.load(scenes_dir, "bytes") == Tokenizer.bytes()
  with pytest.raises(ConfigError, match=r"text\.tokenizer = 'words' is not one of bpe, bytes"):
    Tokenizer.load(scenes_dir, "words")


def test_a_changed_or_missing_tokenizer_file(scenes_copy):
  path = scenes_copy / "tokenizer.json"
  path.write_text(path.read_text() + " ")
  with pytest.raises(DataError, match=r"tokenizer\.json has another sha256 than in the manifest"):
    Tokenizer.load(scenes_copy, "bpe")
  path.unlink()
  with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
    Tokenizer.load(scenes_copy, "bpe")


def test_files_that_are_no_tokenizer_of_ours():
  with pytest.raises(DataError, match="is not a tokenizer"):
    Tokenizer.bpe("{}")
  other = json.loads(train_bpe(CAPTIONS, 300))
  other["added_tokens"][0]["content"] = "<s>"
  other["model"]["vocab"] = {
    ("<s>" if token == "[PAD]" else token): i for token, i in other["model"]["vocab"].items()
  }
  with pytest.raises(DataError, match="begins with tokens"):
    Tokenizer.bpe(json.dumps(other))


def language_model_tokenizer(folder, config):
  """A byte-level tokenizer whose special tokens are its last ones, as those of published models."""
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
  bpe.train_from_iterator(CAPTIONS, trainer)
  bpe.add_special_tokens(["<pad>", "<begin>", "<end>"])
  bpe.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps(config))
  return bpe


@pytest.mark.parametrize("config, pad, bos", [
  ({"pad_token": "<pad>", "bos_token": {"content": "<begin>"}, "eos_token": "<end>"},
   "<pad>", "<begin>"),
  ({"eos_token": "<end>", "bos_token": None}, "<end>", "<end>"),
])  # fmt: skip
def test_the_tokenizer_of_a_language_model_has_its_own_special_tokens(tmp_path, config, pad, bos):
  bpe = language_model_tokenizer(tmp_path, config)
  tokenizer = Tokenizer.load("no/data", f"folder:{tmp_path}")
  assert tokenizer.vocab == bpe.get_vocab_size()
  ids, mask = tokenizer.encode(["a red circle", ""], 12)
  inner = bpe.encode("a red circle", add_special_tokens=False).ids
  begin, end = bpe.token_to_id(bos), bpe.token_to_id("<end>")
  assert ids[0, mask[0]].tolist() == [begin, *inner, end]
  assert ids[1, mask[1]].tolist() == [begin, end] and ids[1, 2] == bpe.token_to_id(pad)
  assert tokenizer.decode(ids[0]) == "a red circle"
  assert Tokenizer.from_json(tokenizer.to_json()).encode(["x"], 5)[0].tolist() == [
    tokenizer.encode(["x"], 5)[0][0].tolist()
  ]


def test_a_language_model_s_tokenizer_without_an_end_or_a_file_is_named(tmp_path):
  with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
    Tokenizer.load("", f"folder:{tmp_path}")
  language_model_tokenizer(tmp_path, {"bos_token": "<begin>"})
  with pytest.raises(DataError, match=r"eos_token in tokenizer_config\.json is missing"):
    Tokenizer.load("", f"folder:{tmp_path}")


def test_classes_have_the_names_of_a_published_folder(tmp_path):
  names = {"id2label": {"0": "tench, Tinca tinca", "1": "crane", "2": "crane, Grus"}}
  (tmp_path / "model_index.json").write_text(json.dumps(names))
  tokenizer = Tokenizer.load("", f"labels:10:{tmp_path}")
  again = Tokenizer.from_json(tokenizer.to_json())
  assert again == tokenizer and again.vocab == 11
  ids, _ = again.encode(["Tinca tinca", "crane", "7", ""], 1)
  assert ids[:, 0].tolist() == [1, 3, 8, 0]  # of two classes with a name the latter, as diffusers
  with pytest.raises(PromptError, match="below 10, or a name as 'tench'"):
    tokenizer.encode(["tensh"], 1)
  with pytest.raises(DataError, match="id2label cannot be read"):
    Tokenizer.load("", f"labels:10:{tmp_path / 'none'}")


def test_a_placeholder_is_one_token_and_comes_back():
  tokenizer = Tokenizer.bpe(train_bpe(CAPTIONS, 400, 16))
  assert list(tokenizer.placeholders.values()) == [f"<v{i}>" for i in range(16)]
  assert [*tokenizer.placeholders] == [*range(tokenizer.vocab - 16, tokenizer.vocab)]
  plain = Tokenizer.bpe(train_bpe(CAPTIONS, 384))
  assert tokenizer.vocab == plain.vocab + 16
  np.testing.assert_array_equal(tokenizer.encode(TEXTS, 40)[0], plain.encode(TEXTS, 40)[0])
  for text in ("a <v0> circle", "<v15>", "a <v1> <v10> circle, by <v2>"):
    copy = pickle.loads(pickle.dumps(tokenizer))
    ids = copy.encode([text], 20)[0][0]
    assert copy.decode(ids) == text
    assert sum(int(i) in copy.placeholders for i in ids) == text.count("<v")
  one, word = tokenizer.encode(["a <v0> circle", "a red circle"], 8)[1].sum(1)
  assert one == word
  assert "<v16>" not in tokenizer.placeholders.values()
  with pytest.raises(DataError, match=r"275 bytes and special tokens with 16 placeholders"):
    train_bpe(CAPTIONS, 270, 16)


def test_a_caption_with_a_placeholder_is_refused():
  check_captions(["a <v2> circle"], placeholder_words(2))
  with pytest.raises(DataError, match=r"'a <v1> circle' has '<v1>', which --placeholders=2"):
    check_captions(["a circle", "a <v1> circle"], placeholder_words(2))
