"""config.json of published text encoders, with the number of their parameters."""

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
_T5_BASE = {
  "architectures": ["T5EncoderModel"], "d_ff": 3072, "d_kv": 64, "d_model": 768,
  "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
  "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
  "num_heads": 12, "num_layers": 12, "output_past": True, "pad_token_id": 0,
  "relative_attention_num_buckets": 32, "vocab_size": 32128,
}  # fmt: skip
_MINILM = {
  "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"],
  "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1, "hidden_size": 384, "initializer_range": 0.02,
  "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
  "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0,
  "position_embedding_type": "absolute", "transformers_version": "4.8.2", "type_vocab_size": 2,
  "use_cache": True, "vocab_size": 30522,
}  # fmt: skip
_H = {
  "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
  "num_hidden_layers": 23, "projection_dim": 512,
}  # fmt: skip


def _without(content, *keys):
  return {key: value for key, value in content.items() if key not in keys}


# T5-base is published with its decoder: T5EncoderModel reads the encoder of such a folder.
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
  "T5-base": (_T5_BASE, 109_628_544),
  "all-MiniLM-L6-v2": (_MINILM, 22_713_216),
}
_QWEN = {
  "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
  "initializer_range": 0.02, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
}  # fmt: skip
_QWEN3_4B = _QWEN | {
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
  "hidden_size": 2560, "intermediate_size": 9728, "max_position_embeddings": 40960,
  "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32,
  "num_hidden_layers": 36, "num_key_value_heads": 8, "rope_scaling": None, "sliding_window": None,
  "tie_word_embeddings": True, "transformers_version": "4.51.0", "vocab_size": 151936,
}  # fmt: skip
_QWEN3_8B = _QWEN3_4B | {
  "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN2_5_VL = _QWEN | {
  "architectures": ["Qwen2_5_VLForConditionalGeneration"], "hidden_size": 3584,
  "image_token_id": 151655, "intermediate_size": 18944, "max_position_embeddings": 128000,
  "max_window_layers": 28, "model_type": "qwen2_5_vl", "num_attention_heads": 28,
  "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 32768,
  "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
  "tie_word_embeddings": False, "transformers_version": "4.41.2", "video_token_id": 151656,
  "vision_config": {
    "depth": 32, "fullatt_block_indexes": [7, 15, 23, 31], "hidden_act": "silu",
    "hidden_size": 1280, "in_chans": 3, "intermediate_size": 3420, "model_type": "qwen2_5_vl",
    "num_heads": 16, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
    "spatial_patch_size": 14, "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112,
  },
  "vision_end_token_id": 151653, "vision_start_token_id": 151652, "vision_token_id": 151654,
  "vocab_size": 152064,
}  # fmt: skip
_MISTRAL = {
  "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16",
  "image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": False,
  "projector_hidden_act": "gelu", "spatial_merge_size": 2, "tie_word_embeddings": False,
  "text_config": {
    "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
    "initializer_range": 0.02, "intermediate_size": 32768, "max_position_embeddings": 131072,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0,
    "sliding_window": None, "use_cache": True, "vocab_size": 131072,
  },
  "vision_config": {
    "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024,
    "image_size": 1540, "initializer_range": 0.02, "intermediate_size": 4096,
    "model_type": "pixtral", "num_attention_heads": 16, "num_channels": 3,
    "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0,
  },
  "vision_feature_layer": -1,
}  # fmt: skip
# Language models: parameters of the whole folder, and of what is read of it, all layers taken:
# not the vision tower, and not the head, which is the embedding in the smaller Qwen3.
LANGUAGE_MODELS = {
  "Qwen2.5-VL-7B": (_QWEN2_5_VL, 8_292_166_656, 7_070_619_136),
  "Qwen3-4B": (_QWEN3_4B, 4_022_468_096, 4_022_468_096),
  "Qwen3-8B": (_QWEN3_8B, 8_190_735_360, 7_568_405_504),
  "Mistral-Small-3": (_MISTRAL, 24_011_361_280, 22_901_314_560),
}
