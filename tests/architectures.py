"""Tiny models of many architectures, with random weights large enough that no two tokens are equally likely."""

import torch
import transformers

VOCABULARY = 120
SIZE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)
WINDOW = {"sliding_window": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = dict(
    linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8
)
# Name of the class without its ending, name of the config where it is another, and what the config gets.
ARCHITECTURES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "mistral, window": ("Mistral", WINDOW),
    "gemma 2, window and soft cap": ("Gemma2", {**WINDOW, "final_logit_softcapping": 0.5}),
    "gemma 3, window": (
        "Gemma3",
        {**WINDOW, "config": "Gemma3Text", "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt-oss, window and experts": ("GptOss", {**WINDOW, **EXPERTS}),
    "llama 4, chunks and experts": (
        "Llama4",
        {**EXPERTS, "config": "Llama4Text", "attention_chunk_size": 16, "intermediate_size_mlp": 48},
    ),
    "granite, scaled logits": ("Granite", {"logits_scaling": 8.0}),
    "cohere, scaled logits": ("Cohere", {"logit_scale": 0.25}),
    "phi 3": ("Phi3", {}),
    "qwen 3.5, linear attention": (
        "Qwen3_5",
        {**LINEAR, "config": "Qwen3_5Text", "layer_types": ["linear_attention", "full_attention"]},
    ),
    "lfm 2, convolutions": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    "granite hybrid": (
        "GraniteMoeHybrid",
        {**EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"], "shared_expert_intermediate_size": 32},
    ),
    "falcon h1": ("FalconH1", {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5}),
    "mamba": ("Mamba", {"state_size": 8}),
    "gpt 2, learned positions": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "opt, projected states": ("OPT", {"word_embed_proj_dim": 16, "ffn_dim": 48}),
    "falcon, linear layers of its own": (
        "Falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "phi moe, a router of its own": ("Phimoe", EXPERTS),
    "minimax": (
        "MiniMax",
        {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    ),
    "recurrent gemma": ("RecurrentGemma", {"attention_window_size": 16, "lru_width": 32}),
}


def build(name, dtype=torch.float32):
    """A model of one of the architectures, the same whenever it is built."""
    kind, given = ARCHITECTURES[name]
    given = dict(given)
    config = getattr(transformers, f"{given.pop('config', kind)}Config")
    ending = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    known = {} if kind in ("GPT2", "Falcon") else SIZE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind + ending)(config(**{**known, "vocab_size": VOCABULARY, **given}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model.eval().to(dtype)
