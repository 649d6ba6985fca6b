"""config.json of the text encoders in published folders, with the number of their parameters."""

_CLIP = {
  "_name_or_path": "openai/clip-vit-large-patch14", "attention_dropout": 0.0, "bos_token_id": 0,
  "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
  "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
  "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
  "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
  "torch_dtype": "float16", "transformers_version": "4.32.0.dev0", "vocab_size": 49408,
}  # fmt: skip
_T5 = {
  "_name_or_path": "google/t5-v1_1-xxl", "architectures": ["T5EncoderModel"],
  "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64, "d_model": 4096,
  "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
  "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
  "is_gated_act": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 24,
  "num_heads": 64, "num_layers": 24, "output_past": True, "pad_token_id": 0,
  "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
  "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.3",
  "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
_TEXT, _PROJECTED = (
  {"architectures": [name]} for name in ("CLIPTextModel", "CLIPTextModelWithProjection")
)
_BIG = {
  "hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
  "num_hidden_layers": 32, "projection_dim": 1280,
}  # fmt: skip
_H = {
  "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
  "num_hidden_layers": 23, "projection_dim": 512,
}  # fmt: skip


def _without(content, *keys):
  return {key: value for key, value in content.items() if key not in keys}


# The older folder has no projection_dim; that of T5 neither derived keys nor the largest distance.
PUBLISHED = {
  "Stable Diffusion 1.5": (_without(_CLIP, "projection_dim") | _TEXT, 123_060_480),
  "Stable Diffusion 2.1": (_CLIP | _TEXT | _H, 340_387_840),
  "SDXL, FLUX.1 text_encoder": (_CLIP | _TEXT, 123_060_480),
  "SD3 text_encoder": (_CLIP | _PROJECTED, 123_650_304),
  "SDXL, SD3 text_encoder_2": (_CLIP | _PROJECTED | _BIG, 694_659_840),
  "SD3 text_encoder_3, FLUX.1 text_encoder_2": (_T5, 4_762_310_656),
  "T5-v1.1-XXL": (
    _without(
      _T5, "dense_act_fn", "is_gated_act", "relative_attention_max_distance", "classifier_dropout"
    ),
    4_762_310_656,
  ),
}
