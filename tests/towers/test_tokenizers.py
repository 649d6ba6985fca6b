"""Tokenizers of published folders: ids, padding, templates, prompts that are too long."""

import hashlib
import json
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tiny_tokenizers
from t2i_jax.errors import ConfigError, PromptError, RestoreError
from t2i_jax.models.conditioning import Tower
from t2i_jax.towers.published import (
  FLUX2_SYSTEM_MESSAGE,
  PUBLISHED,
  QWEN_IMAGE_EDIT_TEMPLATE,
  QWEN_IMAGE_TEMPLATE,
  tokenizer_of,
)
from t2i_jax.towers.tokenizers import Chat, FolderTokenizer, TextRule, drop_prefix


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizers")
  for name, write in tiny_tokenizers.KINDS.items():
    write(path / name)
  tiny_tokenizers.clip(path / "clip_pad", pad="!")
  return path


CAT, DOG, BOS, EOS, X = 513, 515, 516, 517, 256 + tiny_tokenizers.LETTERS.index("x")


def rows(tokenizer, text, length):
  ids, mask = tokenizer.encode([text], length)
  assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == (1, length)
  return ids[0].tolist(), int(mask.sum())


def test_clip(folders):
  tokenizer = FolderTokenizer(folders / "clip")
  assert rows(tokenizer, "Cat  DOG", 6) == ([BOS, CAT, DOG, EOS, EOS, EOS], 4)
  assert tokenizer.vocab == 518 and tokenizer.encode([], 6)[0].shape == (0, 6)
  again = pickle.loads(pickle.dumps(tokenizer))
  assert rows(again, "Cat  DOG", 6) == rows(tokenizer, "Cat  DOG", 6)


def test_the_pad_token_of_special_tokens_map_wins(folders):
  """As in SDXL's second tokenizer; the pad token inside a prompt is one, too."""
  tokenizer = FolderTokenizer(folders / "clip_pad")
  exclaimed = tokenizer.pad
  assert exclaimed == tiny_tokenizers.LETTERS.index("!")
  found, count = rows(tokenizer, "cat !", 6)
  assert found == [BOS, CAT, exclaimed, EOS, exclaimed, exclaimed] and count == 4


def test_a_prompt_that_is_too_long(folders):
  text = "cat dog cat dog cat"
  with pytest.raises(PromptError, match="has 7 tokens, of which 5 can be encoded"):
    FolderTokenizer(folders / "clip").encode(["cat", text], 5)
  cut = FolderTokenizer(folders / "clip", too_long="truncate")
  assert rows(cut, text, 5) == ([BOS, CAT, DOG, CAT, EOS], 5)
  assert rows(FolderTokenizer(folders / "t5", too_long="truncate"), "a cat", 4)[0][-1] == 1
  windows = FolderTokenizer(folders / "clip", too_long="chunk", window=4)
  want = [BOS, CAT, DOG, EOS, BOS, CAT, DOG, EOS, BOS, CAT, EOS, EOS]
  assert rows(windows, text, 12) == (want, 11)
  assert rows(windows, "x", 8) == ([BOS, X, EOS, EOS, BOS, EOS, EOS, EOS], 5)
  assert rows(windows, "", 4) == ([BOS, EOS, EOS, EOS], 2)
  with pytest.raises(PromptError, match="has 5 tokens, of which 4 can"):
    windows.encode([text], 8)
  with pytest.raises(ConfigError, match="length = 9 is not a multiple of window = 4"):
    windows.encode([text], 9)


def test_templates(folders):
  short = TextRule("<|im_start|>{}<|im_end|>")
  tokenizer = FolderTokenizer(folders / "qwen", short)
  start = 257 + 1
  ca, t = 256, tiny_tokenizers.LETTERS.index("t")
  assert rows(tokenizer, "cat", 5) == ([start, ca, t, start + 1, 257], 4)
  chat = FolderTokenizer(folders / "qwen", TextRule(Chat(thinking=False)))
  assert chat.text_of("{} cat") == (
    "<|im_start|>user\n{} cat<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
  )
  spoken = FolderTokenizer(folders / "qwen", TextRule(Chat("Be brief.", answer=False)))
  assert spoken.text_of("hi") == (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
  )


def test_padding_on_the_left_and_text_that_is_cut_out(folders):
  rule = TextRule(Chat("s", answer=False, typed=True), remove="[IMG]", special=False)
  tokenizer = FolderTokenizer(folders / "mistral", rule)
  assert tokenizer.text_of("a[IMG]b") == "<s>[SYSTEM_PROMPT]s[/SYSTEM_PROMPT][INST]ab[/INST]"
  ids, mask = tokenizer.encode(["a[IMG]b"], 10)
  assert mask[0].tolist() == [False] * 2 + [True] * 8
  assert ids[0, :3].tolist() == [7, 7, 1] and (ids[0] == 1).sum() == 1
  right = FolderTokenizer(folders / "mistral", rule, side="right")
  assert right.encode(["a[IMG]b"], 10)[1][0].tolist() == [True] * 8 + [False] * 2


def test_captions_are_lowercased_and_stripped(folders):
  plain, lower = (FolderTokenizer(folders / "t5", TextRule(lower=low)) for low in (False, True))
  assert rows(lower, "  A CAT ", 8) == rows(plain, "a cat", 8) != rows(plain, "A CAT", 8)


def test_the_prefix_is_cut_from_the_tower():
  tower = Tower(jnp.arange(12.0).reshape(1, 6, 2), jnp.arange(6)[None] < 5, None)
  cut = drop_prefix(tower, TextRule(drop=4))
  assert cut.tokens.tolist() == [[[8, 9], [10, 11]]] and cut.mask.tolist() == [[True, False]]


def test_folders_that_cannot_be_read(folders, tmp_path):
  def refused(message, **how):
    with pytest.raises(RestoreError, match=message):
      FolderTokenizer(tmp_path / "a", **how)

  refused("is not a folder")
  (tmp_path / "a").mkdir()
  refused("no tokenizer.json")
  config = tmp_path / "a" / "tokenizer_config.json"
  for name, message in (
    ("T5TokenizerFast", "nor spiece.model"), ("CLIPTokenizer", "nor vocab.json and merges.txt"),
  ):  # fmt: skip
    config.write_text(json.dumps({"tokenizer_class": name}))
    refused(message)
  config.write_text("{")
  refused("tokenizer_config.json cannot be read")
  config.write_text("{}")
  (tmp_path / "a" / "tokenizer.json").write_text("{}")
  refused("the tokenizer cannot be read")
  with pytest.raises(RestoreError, match=r"chat_template\.jinja"):
    FolderTokenizer(folders / "t5", TextRule(Chat()))
  for how in ({"too_long": "cut"}, {"too_long": "chunk"}, {"window": 4}):
    with pytest.raises(ConfigError, match="too_long"):
      FolderTokenizer(folders / "clip", **how)


def test_torch_is_not_imported(folders):
  code = (
    "import sys; from t2i_jax.towers.tokenizers import FolderTokenizer\n"
    f"for kind in ('clip', 't5', 'qwen', 'mistral'):\n  FolderTokenizer(r'{folders}/' + kind)\n"
    "sys.exit('torch' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_published_templates_to_the_byte():
  """Prefixes of the SHA-256 of the texts in diffusers 0.42.1."""
  for text, digest in (
    (QWEN_IMAGE_TEMPLATE, "0194d360a674d2f1"),
    (QWEN_IMAGE_EDIT_TEMPLATE, "846b0a7896f4ed82"),
    (FLUX2_SYSTEM_MESSAGE, "d43d93082f24034d"),
  ):
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_every_system_has_a_tokenizer_for_each_part(tmp_path):
  tiny_tokenizers.clip(tmp_path / "tokenizer")
  chunked = tokenizer_of(tmp_path, PUBLISHED["sd1"].parts[0], "chunk")
  assert chunked.encode(["cat"], 154)[1].sum() == 5
  for text in PUBLISHED.values():
    assert len({part.weights for part in text.parts}) == len(text.parts)
    assert all(part.rule.drop < part.length for part in text.parts)
