"""Any architecture of transformers, as small as its configuration allows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# By value: the names that configurations have for a size. Only those that a configuration has are set.
_SIZES: Mapping[int, str] = {
    256: "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size",
    128: "context_length max_position_embeddings n_ctx n_positions",
    64: "d_ff decoder_ffn_dim dff encoder_ffn_dim encoder_hash_byte_group_vocab feed_forward_size ffn_dim "
    "ffn_hidden_size intermediate_size mamba_d_ssm n_inner",
    32: "d_model dim embedding_size hidden_size input_dim lru_width model_dim n_embd word_embed_proj_dim",
    28: "image_size",
    16: "attention_window_size chunk_size expert_ffn_hidden_size mamba_chunk_size moe_intermediate_size "
    "moe_shared_expert_intermediate_size shared_expert_intermediate_size sliding_window window_size",
    14: "patch_size",
    8: "attention_head_size d_kv head_dim hidden_size_per_layer_input kv_channels kv_lora_rank linear_key_head_dim "
    "linear_value_head_dim mamba_d_head mamba_d_state mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads "
    "pronunciation_embed_dim q_lora_rank qk_nope_head_dim qk_rope_head_dim rotary_dim shape_embed_dim ssm_state_size "
    "state_size v_head_dim",
    4: "conv_kernel decoder_attention_heads encoder_attention_heads linear_num_value_heads mamba_d_conv mamba_dt_rank "
    "moe_num_experts n_head n_heads n_routed_experts num_attention_heads num_experts num_heads num_local_experts "
    "time_step_rank",
    2: "decoder_layers encoder_layers eos_token_id linear_num_key_heads moe_k moe_top_k moe_topk n_layer n_layers "
    "num_decoder_layers num_encoder_layers num_experts_per_tok num_experts_per_token num_hidden_layers "
    "num_key_value_heads num_layers top_k_experts",
    1: "bos_token_id mamba_n_groups mamba_ngroups n_group n_groups n_mamba_heads n_shared_experts topk_group",
    0: "pad_token_id",
}

# What some families need besides, or otherwise.
_FURTHER: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {
        "linear_attn_config": {"kda_layers": [1, 3], "full_attn_layers": [2, 4], "short_conv_kernel_size": 4}
        | {"num_heads": 2, "head_dim": 8}
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False, "is_decoder": True, "attn_layers": ["local", "local"]},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1},
}


def tiny_fields(config_class: Any) -> dict[str, Any]:
    """Arguments for ``config_class``, those of the configurations that it is made of included."""
    default = config_class()
    # Where layers differ, so may what is asked here.
    default.allow_global_per_layer_attribute_access = True
    declared = inspect.signature(config_class).parameters
    fields: dict[str, Any] = {}
    for size, names in _SIZES.items():
        for name in names.split():
            present = getattr(default, name, None)
            plain = isinstance(present, int | float) and not isinstance(present, bool)
            settable = not isinstance(getattr(config_class, name, None), property)
            if settable and (plain or (present is None and name in declared) or name.endswith("token_id")):
                fields[name] = size
    if "kv_lora_rank" in fields:
        fields["num_key_value_heads"] = 4  # as many as heads
    if "num_hidden_layers" in fields and any(part in name for name in declared for part in ("layer_types", "mamba")):
        fields["num_hidden_layers"] = 4  # those that mix layers have one of each kind among four
    if getattr(default, "is_encoder_decoder", False):
        fields["is_encoder_decoder"] = False
    for name in config_class.sub_configs:
        if (part := getattr(default, name, None)) is not None:
            fields[name] = {"model_type": type(part).model_type, **tiny_fields(type(part))}
    return {**fields, **_FURTHER.get(config_class.model_type, {})}
