"""Sizes of tiny models of many architectures: with a head of their own, and without."""

from __future__ import annotations

import torch

from support.tiny_models import VOCABULARY

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
MAMBA = {
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
    "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
XLSTM = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "embedding_dim": 32, "num_heads": 4,
    "num_hidden_layers": 2, "num_blocks": 2, "output_logit_soft_cap": 2.0,
}  # fmt: skip
# A scale, a cap, a division, a layer: each done after the body, under a name of its own.
OWN = {
    "cohere": SIZES | {"logit_scale": 0.25},
    "cohere2": SIZES | {"logit_scale": 4.0},
    "gemma2": SIZES | {"final_logit_softcapping": 1.0},
    "gemma3_text": SIZES | {"final_logit_softcapping": 1.0},
    "granite": SIZES | {"logits_scaling": 3.0},
    "nanochat": SIZES,
    "modernbert-decoder": SIZES,
    "falcon_h1": SIZES | MAMBA | {"lm_head_multiplier": 0.3},
    "recurrent_gemma": SIZES
    | {"num_hidden_layers": 3, "lru_width": 32, "logits_soft_cap": 1.0, "attention_window_size": 8},
    "xlstm": XLSTM,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
PLAIN = {
    "llama": SIZES,
    "qwen2": SIZES,
    "gpt_neox": SIZES,
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "bloom": SIZES,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": VOCABULARY},
    "phi": SIZES,
    "cohere": SIZES | {"logit_scale": 1.0},
}


def saved(folder, architecture, sizes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    model.save_pretrained(folder)
    return folder
