#!/usr/bin/env python3
"""Writes tiny random checkpoints with reference logits for model families and rope scalings without a fixture of their own.

    pip install torch transformers safetensors numpy
    scripts/make_fixtures.py crates/knapsack-testkit/fixtures/generated

The results are kept in the repository, so neither building nor testing needs this. For each model: `hf/` (config.json and bf16
weights), `logits.safetensors` (transformers, float32) and `<format>.dequant_logits.safetensors` (the same model with its
weights quantized and dequantized: `logits_i` with exact products, `logits_f16deq_i` with each product rounded to f16). Seeds
are fixed; logits may differ in the last bits between versions of torch.
"""

import json
import math
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

VOCAB = 256
LENGTHS = (5, 17, 80)
FORMATS = {"q4f16_1": (4, 32), "q3f16_1": (3, 40)}

COMMON = dict(vocab_size=VOCAB, max_position_embeddings=256, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
# A head size and widths that are no multiples of a quantization group.
SMALL = dict(COMMON, hidden_size=72, intermediate_size=184, num_attention_heads=3, num_key_value_heads=1)
ROUND = dict(COMMON, hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2)
EVEN = dict(COMMON, hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=4)


def rope(kind="default", theta=10000.0, **more):
    """transformers 5's form; `as_version_4` turns it into the older one."""
    return {"rope_type": kind, "rope_theta": theta, **more}


def longrope(original, **more):
    pairs = 8
    return rope(
        "longrope",
        short_factor=[1.0 + 0.05 * i for i in range(pairs)],
        long_factor=[1.0 + 0.7 * i for i in range(pairs)],
        original_max_position_embeddings=original,
        **more,
    )


# name: (configuration class, model class, configuration, options)
# options: formats, lengths, version (of transformers whose configuration form is written), context (to compile with)
MODELS = {
    "smollm-tied": (LlamaConfig, LlamaForCausalLM, dict(SMALL, tie_word_embeddings=True), dict(formats=("q4f16_1", "q3f16_1"))),
    "smollm-untied": (LlamaConfig, LlamaForCausalLM, dict(SMALL, tie_word_embeddings=False, rope_parameters=rope(theta=100000.0)), {}),
    "llama-linear": (LlamaConfig, LlamaForCausalLM, dict(ROUND, rope_parameters=rope("linear", factor=4.0)), {}),
    "llama-dynamic": (
        LlamaConfig,
        LlamaForCausalLM,
        dict(ROUND, max_position_embeddings=64, rope_parameters=rope("dynamic", factor=2.0)),
        # One sequence only: the base depends on its length.
        dict(lengths=(80,), context=80),
    ),
    "llama-yarn": (
        LlamaConfig,
        LlamaForCausalLM,
        dict(ROUND, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
        dict(version=5),
    ),
    "llama-bias": (LlamaConfig, LlamaForCausalLM, dict(ROUND, attention_bias=True, mlp_bias=True), {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(ROUND, tie_word_embeddings=False, rope_parameters=rope(theta=1e6)), {}),
    "qwen2-window": (
        Qwen2Config,
        Qwen2ForCausalLM,
        dict(ROUND, tie_word_embeddings=True, use_sliding_window=True, sliding_window=24, max_window_layers=1),
        {},
    ),
    "gemma": (GemmaConfig, GemmaForCausalLM, dict(ROUND, head_dim=32, num_key_value_heads=1, tie_word_embeddings=True), {}),
    "gemma3_text": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        dict(
            ROUND,
            num_hidden_layers=7,
            head_dim=32,
            num_key_value_heads=1,
            sliding_window=24,
            query_pre_attn_scalar=48,
            tie_word_embeddings=True,
            rope_parameters={"full_attention": rope("linear", theta=1e6, factor=8.0), "sliding_attention": rope(theta=10000.0)},
        ),
        dict(version=5),
    ),
    "phi": (PhiConfig, PhiForCausalLM, dict(EVEN, tie_word_embeddings=False, partial_rotary_factor=0.5), {}),
    "stablelm": (
        StableLmConfig,
        StableLmForCausalLM,
        dict(EVEN, use_qkv_bias=True, partial_rotary_factor=0.25, tie_word_embeddings=False),
        {},
    ),
    "stablelm-parallel": (
        StableLmConfig,
        StableLmForCausalLM,
        dict(ROUND, qk_layernorm=True, use_parallel_residual=True, partial_rotary_factor=0.5, tie_word_embeddings=False),
        {},
    ),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, dict(EVEN, rotary_pct=0.25, use_parallel_residual=True, tie_word_embeddings=False), {}),
    "gpt_neox-sequential": (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        dict(EVEN, rotary_pct=1.0, use_parallel_residual=False, tie_word_embeddings=False),
        {},
    ),
    "phi3-longrope": (
        Phi3Config,
        Phi3ForCausalLM,
        # Every sequence is longer than the original context. The factor that follows from so short a context would be 2.
        dict(
            EVEN,
            original_max_position_embeddings=4,
            tie_word_embeddings=False,
            sliding_window=None,
            rope_parameters=longrope(4, attention_factor=1.19),
        ),
        {},
    ),
    "phi3-longrope-short": (
        Phi3Config,
        Phi3ForCausalLM,
        dict(EVEN, original_max_position_embeddings=128, tie_word_embeddings=False, sliding_window=None, rope_parameters=longrope(128)),
        dict(context=128),
    ),
}


def randomize(model, seed):
    """Random weights, rounded to bf16, large enough that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    plus_one = "Gemma" in type(model).__name__
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                centre = 1.0 if name.endswith("weight") and not plus_one else 0.0
                value = centre + 0.1 * noise
            else:
                value = noise / math.sqrt(parameter.shape[1])
                if "embed" in name:
                    value = value * 4
            parameter.copy_(value.to(torch.bfloat16).float())


def quantize(weight, bits, group):
    """The codes minus their middle, and the scales, every step rounded to f16 (formats of MLC)."""
    largest_code = 2 ** (bits - 1) - 1
    rows, columns = weight.shape
    groups = -(-columns // group)
    padded = torch.zeros(rows, groups * group)
    padded[:, :columns] = weight.half().float()
    padded = padded.reshape(rows, groups, group)
    scale = (padded.abs().amax(dim=2, keepdim=True) / largest_code).half().float()
    quotient = (padded / scale).half().float().nan_to_num(nan=-largest_code)
    codes = (quotient + largest_code).half().float().round().clamp(0, 2 * largest_code) - largest_code
    return codes, scale, (rows, groups, group, columns)


def dequantized(model, bits, group, rounded):
    """The model's parameters as a converted folder holds them, in float32."""
    plus_one = "Gemma" in type(model).__name__
    result = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.dim() == 2:
            codes, scale, (rows, groups, length, columns) = quantize(weight, bits, group)
            product = codes * scale
            if rounded:
                product = product.half().float()
            result[name] = product.reshape(rows, groups * length)[:, :columns].contiguous()
        elif plus_one:
            stored = (weight.to(torch.bfloat16) + 1).half().float()
            result[name] = stored - 1
        else:
            result[name] = weight.half().float()
    return result


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens[None], use_cache=False).logits[0].float().contiguous()


def as_version_4(config):
    """`rope_parameters` in the form that transformers 4 wrote and most checkpoints have."""
    parameters = config.pop("rope_parameters", None)
    if parameters:
        parameters = dict(parameters)
        config["rope_theta"] = parameters.pop("rope_theta", 10000.0)
        partial = parameters.pop("partial_rotary_factor", None)
        if partial is not None:
            config["partial_rotary_factor"] = partial
        if config["model_type"] == "gpt_neox":
            config["rotary_emb_base"] = int(config.pop("rope_theta"))
            config["rotary_pct"] = config.pop("partial_rotary_factor", 0.25)
        parameters.pop("original_max_position_embeddings", None) if parameters.get("rope_type") == "longrope" else None
        config["rope_scaling"] = None if parameters.get("rope_type") == "default" else parameters
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config


def write_config(model, folder, version):
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    config["dtype"] = "bfloat16"
    dropped = (
        *("_name_or_path", "_attn_implementation_autoset", "_attn_implementation", "output_hidden_states", "return_dict"),
        *("chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type", "output_attentions"),
    )
    config = {key: value for key, value in config.items() if key not in dropped}
    if version == 4:
        config = as_version_4(config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def make(name, root, seed):
    config_class, model_class, values, options = MODELS[name]
    config = config_class(**values)
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    randomize(model, seed)
    folder = root / name
    write_config(model, folder / "hf", options.get("version", 4))
    tied = config.tie_word_embeddings
    weights = {key: value.detach().to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    weights = {key: value for key, value in weights.items() if not (tied and key in ("lm_head.weight", "embed_out.weight"))}
    if config.model_type == "gpt_neox":
        # What checkpoints call it; transformers 5 renames it when loading.
        weights["embed_out.weight"] = weights.pop("lm_head.weight")
    save_file(dict(sorted(weights.items())), folder / "hf" / "model.safetensors", metadata={"format": "pt"})
    generator = torch.Generator().manual_seed(1000 + seed)
    sequences = [torch.randint(3, VOCAB, (length,), generator=generator) for length in options.get("lengths", LENGTHS)]
    reference = {}
    for index, tokens in enumerate(sequences):
        reference[f"tokens_{index}"] = tokens.int()
        reference[f"logits_{index}"] = logits(model, tokens)
    save_file(reference, folder / "logits.safetensors")
    original = {key: value.detach().clone() for key, value in model.named_parameters()}
    for quantization in options.get("formats", ("q4f16_1",)):
        result = {f"tokens_{index}": tokens.int() for index, tokens in enumerate(sequences)}
        for prefix, rounded in (("logits", False), ("logits_f16deq", True)):
            with torch.no_grad():
                for key, value in model.named_parameters():
                    value.copy_(original[key])
                values = dequantized(model, *FORMATS[quantization], rounded)
                for key, value in model.named_parameters():
                    value.copy_(values[key])
            for index, tokens in enumerate(sequences):
                result[f"{prefix}_{index}"] = logits(model, tokens)
        save_file(result, folder / f"{quantization}.dequant_logits.safetensors")
    spread = reference[f"logits_{len(sequences) - 1}"].std().item()
    print(f"{name}: logits spread {spread:.2f}")


def main():
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for seed, name in enumerate(MODELS):
        make(name, root, seed)


if __name__ == "__main__":
    main()
