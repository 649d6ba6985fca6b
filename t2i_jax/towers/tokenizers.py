"""Tokenizers of published folders, and what a pipeline does to a caption before and after them.

The tokenizers are those of transformers, whose import takes a second and is done when a folder is
opened. Its AutoTokenizer is not used: it imports torch wherever that is installed.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t2i_jax.errors import ConfigError, PromptError, RestoreError
from t2i_jax.models.conditioning import Tower

# Classes with rules of their own, by name without "Fast", and the files that do in place of
# tokenizer.json. Any other class is read from tokenizer.json alone, as ANY_CLASS.
MERGES = ("vocab.json", "merges.txt")
CLASSES = {
  "CLIPTokenizer": MERGES,
  "Qwen2Tokenizer": MERGES,
  "T5Tokenizer": ("spiece.model",),
  "BertTokenizer": ("vocab.txt",),
}
ANY_CLASS = "PreTrainedTokenizerFast"
TOO_LONG = ("error", "truncate", "chunk")
SHOWN = 40  # characters of a caption in a message


class Chat(NamedTuple):
  """The chat template of a tokenizer's folder; the caption is the user's message.

  system    system message before it; "" = none
  answer    the beginning of the assistant's answer follows (add_generation_prompt)
  thinking  enable_thinking of Qwen3's template; None: not given
  typed     contents are lists of {"type": "text"}, as for Mistral's template
  """

  system: str = ""
  answer: bool = True
  thinking: bool | None = None
  typed: bool = False

  def messages(self, caption: str) -> list[dict[str, Any]]:
    content = lambda text: [{"type": "text", "text": text}] if self.typed else text
    pairs = [("system", self.system)] if self.system else []
    return [{"role": role, "content": content(text)} for role, text in (*pairs, ("user", caption))]

  @property
  def options(self) -> dict[str, Any]:
    thinking = {} if self.thinking is None else {"enable_thinking": self.thinking}
    return {"add_generation_prompt": self.answer, **thinking}


class TextRule(NamedTuple):
  """What a pipeline does to a caption before its tokens, and to the tokens after the network.

  template  text with {} for the caption, or a chat
  remove    text that is cut out of captions
  lower     captions are lowercased and stripped of white space
  special   the tokenizer adds its own first and last tokens
  drop      tokens of the template that are cut from the beginning of the network's output
  """

  template: str | Chat = "{}"
  remove: str = ""
  lower: bool = False
  special: bool = True
  drop: int = 0


class FolderTokenizer:
  """The tokenizer of a folder: towers.encoder.Tokenizer. It can be pickled.

  rule      what is done to captions first
  side      of padding, "left" or "right"; "": as the folder has it
  too_long  what becomes of more tokens than `length`: an "error"; "truncate", as pipelines do (the
            last token is kept where the tokenizer adds one); or "chunk": `length` is several
            windows, each with its own first and last tokens
  window    length of a window for "chunk"
  vocab     number of ids
  """

  kind = "published"  # beside those of data.tokenize.Tokenizer

  def __init__(
    self,
    folder: str | Path,
    rule: TextRule = TextRule(),  # noqa: B008  immutable
    *,
    side: str = "",
    too_long: str = "error",
    window: int = 0,
  ):
    """Raises RestoreError for a folder without a tokenizer, or without what the rule needs."""
    if too_long not in TOO_LONG:
      raise ConfigError(f"too_long = {too_long!r} is not one of {', '.join(TOO_LONG)}.")
    if (too_long == "chunk") != (window > 0):
      raise ConfigError(f"window = {window} with too_long = {too_long!r}: it is for 'chunk' alone.")
    self.rule, self.too_long, self.window = rule, too_long, window
    self._opened = open_tokenizer(Path(folder))
    self.side = side or self._opened.padding_side
    self.vocab = len(self._opened)
    self.pad = self._opened.pad_token_id
    if self.pad is None:
      raise RestoreError(
        f"{folder}: the tokenizer has no pad token. Set pad_token in its tokenizer_config.json."
      )
    if isinstance(rule.template, Chat) and not self._opened.chat_template:
      raise RestoreError(
        f"{folder}: the tokenizer has no chat template. Copy its chat_template.jinja there."
      )

  def encode(
    self, texts: Sequence[str], length: int, truncate: bool = False
  ) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [n, length], mask bool [n, length] of n captions.

    truncate  whether too long ones are, whatever `too_long` is
    Raises PromptError for a caption with too many tokens, unless they are truncated; ConfigError
    for a length that is not a multiple of the window.
    """
    ids = np.full((len(texts), length), self.pad, np.int32)
    mask = np.zeros((len(texts), length), bool)
    if self.too_long == "chunk" and length % self.window:
      raise ConfigError(f"length = {length} is not a multiple of window = {self.window}.")
    for row, text in enumerate(texts):
      if self.too_long == "chunk":
        self._fill_windows(text, ids[row], mask[row])
      else:
        self._fill(self._tokens(text, length, truncate), ids[row], mask[row])
    return ids, mask

  def lengths(self, texts: Sequence[str]) -> list[int]:
    """Tokens of each caption before any are cut, its template and added tokens included."""
    return [len(self._ids(self.text_of(text))) for text in texts]

  def windows(self, texts: Sequence[str]) -> int:
    """Windows that the longest of these captions needs, at least 1;   of "chunk"."""
    size = self.window - sum(map(len, self._added()))
    longest = max(len(self._ids(self.text_of(text), special=False)) for text in texts)
    return max(1, -(-longest // size))

  def id_of(self, token: str) -> int:
    """The id of a special token. Raises RestoreError where the folder has none of that name."""
    found = self._opened.get_added_vocab().get(token)
    if found is None:
      raise RestoreError(f"the tokenizer has no {token}. Copy its folder again.")
    return int(found)

  def text_of(self, caption: str) -> str:
    """What is tokenised for a caption."""
    rule = self.rule
    if rule.remove:
      caption = caption.replace(rule.remove, "")
    if rule.lower:
      caption = caption.lower().strip()
    if isinstance(rule.template, str):
      return rule.template.replace("{}", caption)
    chat = rule.template
    messages = chat.messages(caption)
    return self._opened.apply_chat_template(messages, tokenize=False, **chat.options)

  def _ids(self, text: str, **how: Any) -> list[int]:
    special = how.pop("special", self.rule.special)
    return self._opened(text, add_special_tokens=special, verbose=False, **how)["input_ids"]

  def _tokens(self, caption: str, length: int, truncate: bool) -> list[int]:
    text = self.text_of(caption)
    if truncate or self.too_long == "truncate":
      return self._ids(text, truncation=True, max_length=length)
    found = self._ids(text)
    if len(found) > length:
      raise _too_long(caption, len(found), length)
    return found

  def _fill(self, tokens: list[int], ids: np.ndarray, mask: np.ndarray) -> None:
    """Writes tokens into a row, the padding on its side."""
    left = len(ids) - len(tokens) if self.side == "left" else 0
    ids[left : left + len(tokens)] = tokens
    mask[left : left + len(tokens)] = True

  def _fill_windows(self, caption: str, ids: np.ndarray, mask: np.ndarray) -> None:
    """Writes a caption into a row of windows; those after its end are as of ""."""
    first, last = self._added()
    size = self.window - len(first) - len(last)
    tokens = self._ids(self.text_of(caption), special=False)
    if len(tokens) > size * (len(ids) // self.window):
      raise _too_long(caption, len(tokens), size * (len(ids) // self.window))
    for i, start in enumerate(range(0, len(ids), self.window)):
      at = slice(start, start + self.window)
      self._fill([*first, *tokens[i * size : (i + 1) * size], *last], ids[at], mask[at])

  def _added(self) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer adds before and after a text."""
    inner, whole = self._ids("a", special=False), self._ids("a", special=True)
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def drop_prefix(tower: Tower, rule: TextRule) -> Tower:
  """A tower without the rule's `drop` first tokens. Its padding must be on the right."""
  return tower._replace(tokens=tower.tokens[:, rule.drop :], mask=tower.mask[:, rule.drop :])


def _too_long(caption: str, count: int, limit: int) -> PromptError:
  shown = caption if len(caption) <= SHOWN else caption[:SHOWN] + "..."
  return PromptError(
    f"{shown!r} has {count} tokens, of which {limit} can be encoded. Shorten it, or use "
    "too_long='truncate'."
  )


def open_tokenizer(folder: Path) -> Any:
  """The tokenizer of a folder, of transformers. Raises RestoreError where there is none."""
  path = folder / "tokenizer_config.json"
  if not folder.is_dir():
    raise RestoreError(f"{folder} is not a folder.")
  try:
    about = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    name = str(about.get("tokenizer_class")).removesuffix("Fast")
  except (ValueError, AttributeError) as error:
    raise RestoreError(f"{path} cannot be read: {error}. Copy it again.") from error
  # Checked here, because transformers makes a tokenizer of special tokens alone of an empty folder.
  files = CLASSES.get(name, ())
  lost = [file for file in files if not (folder / file).is_file()]
  if not (folder / "tokenizer.json").is_file():
    if lost or not files:
      also = f", nor {' and '.join(files)}" if files else ""
      raise RestoreError(
        f"{folder} has no tokenizer.json{also}: the {name} of its tokenizer_config.json cannot be "
        "read. Give the folder of the tokenizer, as FLUX.1-dev/tokenizer."
      )
    if name == "T5Tokenizer" and not find_spec("sentencepiece"):
      raise RestoreError(
        f"{folder} has spiece.model and no tokenizer.json: pip install sentencepiece to read it."
      )
  import transformers

  try:
    opened = getattr(transformers, name if files else ANY_CLASS)
    return opened.from_pretrained(str(folder), local_files_only=True)
  except Exception as error:  # transformers and its parsers raise errors of many classes
    raise RestoreError(f"{folder}: the tokenizer cannot be read: {error}") from error
