"""What each published pipeline does with a prompt, as diffusers 0.42.1 does it; sentence encoders.

One row a system: its text encoders with their tokenizers, lengths and templates, what is taken of
their outputs, and what stands for no prompt. Files that are named are those of diffusers/pipelines.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from t2i_jax.towers.shown import ImageRule
from t2i_jax.towers.tokenizers import Chat, FolderTokenizer, TextRule

CLIP_LENGTH = 77
# How a pooled vector is made: of the last normed state at EOS, and then projected; the mean of the
# last states.
Pooled = Literal["none", "eos", "projected", "mean"]
# Of the parts' tokens: one part; CLIP parts side by side on the feature axis; those, filled with
# zeros to the width of the next part, whose tokens follow theirs.
Join = Literal["one", "features", "tokens"]
# Padding in the encoder's output: passed on unmasked; passed on with a mask; removed.
Pads = Literal["kept", "masked", "cut"]


class TextPart(NamedTuple):
  """One text encoder of a pipeline.

  weights, tokenizer  subfolders of the pipeline's folder; "": that folder itself
  length     tokens that are encoded, those of the template included; longer prompts are truncated
  layers     hidden states that are taken, 0 = the embedding: -1 is the last one, after the final
             norm; -2 and others are not normed; several are concatenated on the feature axis;
             () = none: only `pooled` is used
  masked     the encoder itself does not attend to padding (the CLIP of Stable Diffusion: only
             where its config has use_attention_mask)
  optional   the part may be missing: its tokens are zeros
  """

  weights: str
  tokenizer: str
  length: int
  layers: tuple[int, ...] = (-1,)
  pooled: Pooled = "none"
  rule: TextRule = TextRule()
  masked: bool = False
  optional: bool = False


class NullText(NamedTuple):
  """What the unconditional half of guidance is given.

  text   encoded where no negative prompt is given
  zeros  where none is given, all outputs are zeros in place of `text` (a given "" is encoded)
  given  guidance of two predictions is on only where a negative prompt is given
  """

  text: str = ""
  zeros: bool = False
  given: bool = False


class PublishedText(NamedTuple):
  """The text of one system.

  source  its file, and the functions in it
  images  what it does to those of its prompts, which have at least one; None: they have none
  """

  parts: tuple[TextPart, ...]
  source: str
  join: Join = "one"
  pads: Pads = "kept"
  null: NullText = NullText()
  images: ImageRule | None = None


# "Describe the image by ...": prompt_template_encode.
QWEN_IMAGE_TEMPLATE = (
  "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, "
  "text, spatial relationships of the objects and background:<|im_end|>\n"
  "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
QWEN_IMAGE_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_IMAGE_EDIT_PLUS_TEMPLATE = (
  "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, "
  "objects, background), then explain how the user's text instruction should alter or modify the "
  "image. Generate a new image that meets the user's requirements while maintaining consistency "
  "with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
  "{}<|im_end|>\n<|im_start|>assistant\n"
)
QWEN_IMAGE_EDIT_TEMPLATE = QWEN_IMAGE_EDIT_PLUS_TEMPLATE.replace("{}", f"{QWEN_IMAGE_MARK}{{}}")
# A newline, no space, is between "object" and "attribution".
FLUX2_SYSTEM_MESSAGE = (
  "You are an AI that reasons about image descriptions. You give structured responses focusing on "
  "object relationships, object\nattribution and actions without speculation."
)

QWEN_IMAGE = TextRule(QWEN_IMAGE_TEMPLATE, drop=34)
QWEN_IMAGE_EDIT = TextRule(QWEN_IMAGE_EDIT_TEMPLATE, drop=64)
QWEN_IMAGE_EDIT_PLUS = TextRule(QWEN_IMAGE_EDIT_PLUS_TEMPLATE, drop=64)
# The template has the begin token: the tokenizer adds none.
FLUX2 = TextRule(
  Chat(FLUX2_SYSTEM_MESSAGE, answer=False, typed=True), remove="[IMG]", special=False
)
# Without clean_caption, as the pipelines are where bs4 and ftfy are not installed.
PIXART = TextRule(lower=True)


def _clip(number: int, layer: int | None, pooled: Pooled = "none") -> TextPart:
  """text_encoder and tokenizer, or those with _2 of which the second is made."""
  end = "" if number == 1 else f"_{number}"
  layers = () if layer is None else (layer,)
  return TextPart(f"text_encoder{end}", f"tokenizer{end}", CLIP_LENGTH, layers, pooled)


def _single(length: int, layers: tuple[int, ...], rule: TextRule) -> tuple[TextPart, ...]:
  """text_encoder and tokenizer of a pipeline whose one encoder masks padding."""
  return (TextPart("text_encoder", "tokenizer", length, layers, rule=rule, masked=True),)


_SD = PublishedText((_clip(1, -1),), "stable_diffusion/pipeline_stable_diffusion.py: encode_prompt")
PUBLISHED: dict[str, PublishedText] = {
  "sd1": _SD,
  "sd2": _SD,
  "sdxl": PublishedText(
    (_clip(1, -2), _clip(2, -2, "projected")),
    "stable_diffusion_xl/pipeline_stable_diffusion_xl.py: encode_prompt",
    join="features",
    null=NullText(zeros=True),
  ),
  "sdxl_refiner": PublishedText(
    (_clip(2, -2, "projected"),),
    "stable_diffusion_xl/pipeline_stable_diffusion_xl_img2img.py: encode_prompt",
    null=NullText(zeros=True),
  ),
  "sd3": PublishedText(
    (
      _clip(1, -2, "projected"),
      _clip(2, -2, "projected"),
      TextPart("text_encoder_3", "tokenizer_3", 256, optional=True),
    ),
    "stable_diffusion_3/pipeline_stable_diffusion_3.py: encode_prompt, _get_clip_prompt_embeds, "
    "_get_t5_prompt_embeds",
    join="tokens",
  ),
  "flux": PublishedText(
    (_clip(1, None, "eos"), TextPart("text_encoder_2", "tokenizer_2", 512)),
    "flux/pipeline_flux.py: encode_prompt, _get_clip_prompt_embeds, _get_t5_prompt_embeds",
    null=NullText(given=True),
  ),
  "flux2": PublishedText(
    _single(512, (10, 20, 30), FLUX2),
    "flux2/pipeline_flux2.py: format_input, _get_mistral_3_small_prompt_embeds; "
    "flux2/system_messages.py",
  ),
  "flux2_klein": PublishedText(
    _single(512, (9, 18, 27), TextRule(Chat(thinking=False))),
    "flux2/pipeline_flux2_klein.py: _get_qwen3_prompt_embeds",
  ),
  # 512 tokens of the prompt, the default of a call; the tokenizer's own cut at 1024 is no matter,
  # because a token does not depend on later ones.
  "qwen_image": PublishedText(
    _single(512 + QWEN_IMAGE.drop, (-1,), QWEN_IMAGE),
    "qwenimage/pipeline_qwenimage.py: _get_qwen_prompt_embeds, encode_prompt",
    pads="masked",
    null=NullText(" ", given=True),
  ),
  # The one <|image_pad|> becomes as many as the image has tokens, about 1370 at 1024 x 1024, which
  # the length does not count. The pipeline truncates nothing; the length is assumed. As diffusers
  # 0.42.1 gives transformers 5 no types of tokens, images have plain positions there, not those of
  # towers.qwen_vision, with which the model was made and which transformers 4 gave them.
  "qwen_image_edit": PublishedText(
    _single(512 + QWEN_IMAGE_EDIT.drop, (-1,), QWEN_IMAGE_EDIT),
    "qwenimage/pipeline_qwenimage_edit.py: _get_qwen_prompt_embeds, encode_prompt, __call__",
    pads="masked",
    null=NullText(" ", given=True),
    images=ImageRule(),
  ),
  "qwen_image_edit_plus": PublishedText(
    _single(512 + QWEN_IMAGE_EDIT.drop, (-1,), QWEN_IMAGE_EDIT_PLUS),
    "qwenimage/pipeline_qwenimage_edit_plus.py: _get_qwen_prompt_embeds, encode_prompt, __call__",
    pads="masked",
    null=NullText(" ", given=True),
    images=ImageRule(prompt=384**2, each=f"Picture {{}}: {QWEN_IMAGE_MARK}", most=3),
  ),
  "z_image": PublishedText(
    _single(512, (-2,), TextRule(Chat(thinking=True))),
    "z_image/pipeline_z_image.py: _encode_prompt",
    pads="cut",
  ),
  "pixart_alpha": PublishedText(
    _single(120, (-1,), PIXART),
    "pixart_alpha/pipeline_pixart_alpha.py: encode_prompt, _text_preprocessing",
    pads="masked",
  ),
  "pixart_sigma": PublishedText(
    _single(300, (-1,), PIXART),
    "pixart_alpha/pipeline_pixart_sigma.py: encode_prompt, _text_preprocessing",
    pads="masked",
  ),
  # A folder of sentence-transformers, of one encoder: all-MiniLM-L6-v2 and others of BertModel
  # whose 1_Pooling/config.json has pooling_mode_mean_tokens. The length is that of its
  # sentence_bert_config.json. Its cosines are of the pooled vectors.
  "sentence_bert": PublishedText(
    (TextPart("", "", 256, pooled="mean", masked=True),),
    "sentence_transformers/models: Transformer, Pooling",
    pads="masked",
  ),
}


def tokenizer_of(folder: str | Path, part: TextPart, too_long: str = "truncate") -> FolderTokenizer:
  """The tokenizer of a part in a pipeline's folder; too_long and errors as for FolderTokenizer.

  "chunk" is for CLIP: its windows have the part's length.
  """
  window = part.length if too_long == "chunk" else 0
  where = Path(folder) / part.tokenizer
  return FolderTokenizer(where, part.rule, too_long=too_long, window=window)
