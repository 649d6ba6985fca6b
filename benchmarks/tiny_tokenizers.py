"""Small tokenizers of the kinds that published pipelines have, written as folders."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
START, END = "<|startoftext|>", "<|endoftext|>"
CHATML = (
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n"
  "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
  "{% endif %}{% endif %}"
)
MISTRAL = (
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
  "[SYSTEM_PROMPT]{{ m.content[0].text }}[/SYSTEM_PROMPT]"
  "{% else %}[INST]{{ m.content[0].text }}[/INST]{% endif %}{% endfor %}"
)
CLIP_VOCAB, T5_VOCAB = 518, 32


def clip(folder, pad=END):
  """Files as published before tokenizer.json; pad: that of special_tokens_map.json, which wins."""
  folder.mkdir(parents=True)
  merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
  words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, merges), START, END]
  special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
  about = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
  text = "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"
  (folder / "merges.txt").write_text(text)
  for name, content in (
    ("vocab.json", {word: i for i, word in enumerate(words)}),
    ("tokenizer_config.json", about),
    ("special_tokens_map.json", special | {"pad_token": pad}),
  ):
    (folder / name).write_text(json.dumps(content))


def t5(folder):
  letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
  pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0), *letters]
  T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)


def qwen(folder):
  made = Qwen2Tokenizer(
    vocab={word: i for i, word in enumerate([*LETTERS, "ca"])}, merges=[("c", "a")]
  )
  names = ("im_start", "im_end", "vision_start", "image_pad", "vision_end", "video_pad")
  made.add_tokens([END, *(f"<|{name}|>" for name in names)], special_tokens=True)
  made.chat_template = CHATML
  made.save_pretrained(folder)


def mistral(folder):
  """Bytes, padding on the left; of a class that is read from tokenizer.json alone."""
  names = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
  vocab = {word: i for i, word in enumerate([*names, "<pad>", "[IMG]", *LETTERS])}
  model = Tokenizer(models.BPE(vocab=vocab, merges=[]))
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made = PreTrainedTokenizerFast(
    tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    pad_token="<pad>", padding_side="left", chat_template=MISTRAL,
    extra_special_tokens=[*names[3:], "[IMG]"],
  )  # fmt: skip
  made.save_pretrained(folder)


KINDS = {"clip": clip, "t5": t5, "qwen": qwen, "mistral": mistral}
