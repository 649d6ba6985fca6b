"""Encoders that compare pairs, and a language model that writes edits, of transformers' folders."""

import json

import numpy as np
import pytest

from benchmarks.tiny_tokenizers import CLIP_VOCAB, clip, qwen
from t2i_jax.cli.main import main
from t2i_jax.data.edit_writer import generator_of
from t2i_jax.edit.image_encoders import open_encoder
from t2i_jax.errors import DataError
from t2i_jax.evaluation.agreement import cosine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SIZES = {
  "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def test_features_of_a_clip_are_those_whose_product_is_its_logits(tmp_path):
  clip(tmp_path / "clip")
  torch.manual_seed(0)
  text = SIZES | {"vocab_size": CLIP_VOCAB, "bos_token_id": 516, "eos_token_id": 517}
  vision = SIZES | {"image_size": 16, "patch_size": 8}
  config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
  model = transformers.CLIPModel(config).eval()
  model.save_pretrained(tmp_path / "clip")
  crop = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
  processor = transformers.CLIPImageProcessor(**crop)
  processor.save_pretrained(tmp_path / "clip")

  encoder = open_encoder(str(tmp_path / "clip"))
  images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
  texts = ["cat", "dog cat", "a dog"]
  given = transformers.AutoTokenizer.from_pretrained(tmp_path / "clip")(
    texts, padding=True, return_tensors="pt"
  )
  with torch.no_grad():
    pixels = processor(list(images), return_tensors="pt")
    out = model(**given, **pixels)
    logits = out.logits_per_image / model.logit_scale.exp()
  found = cosine(encoder.images(images), encoder.texts(texts))
  np.testing.assert_allclose(found, np.diag(logits.numpy()), atol=1e-5)
  assert encoder.about == {"encoder": str(tmp_path / "clip")}


def test_a_language_model_goes_on_and_what_it_writes_is_counted(tmp_path, capsys):
  qwen(tmp_path / "llm")
  size = len(transformers.AutoTokenizer.from_pretrained(tmp_path / "llm"))
  config = transformers.LlamaConfig(**SIZES, vocab_size=size, max_position_embeddings=2048)
  torch.manual_seed(0)
  transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
  generate = generator_of(tmp_path / "llm", temperature=1.0)
  first, second = generate("a cat", 3), generate("a cat", 4)
  assert first == generate("a cat", 3) != second and not first.startswith("a cat")
  greedy = generator_of(tmp_path / "llm", temperature=0.0)
  assert greedy("a cat", 0) == greedy("a cat", 1)

  (tmp_path / "captions.txt").write_text("a cat\n\na dog\n")
  args = [f"--captions={tmp_path / 'captions.txt'}", f"--to={tmp_path / 'edits.jsonl'}"]
  assert main(["data", "edits", f"--from={tmp_path / 'llm'}", *args]) == 2
  said = capsys.readouterr().err
  assert "wrote no edit that can be read, of 2 captions; the first, of 'a cat'" in said
  (tmp_path / "other").mkdir()
  (tmp_path / "other/config.json").write_text(json.dumps({"model_type": "none"}))
  with pytest.raises(DataError, match="cannot be read as a language model"):
    generator_of(tmp_path / "other")
  with pytest.raises(DataError, match="neither 'scenes' nor the folder"):
    generator_of(tmp_path / "missing")
