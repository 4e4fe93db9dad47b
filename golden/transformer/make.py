#!/usr/bin/env python3
"""Make `transformer.safetensors`: pre-norm transformers, forward and backward, as PyTorch computes them.

Made with torch 2.15.0, seed 2017, by `pip install torch numpy safetensors && python make.py`.

Inputs are rounded to float32 before anything is computed; everything after that is float64, rounded to float32 once,
when it is stored. So a float32 implementation is compared with the exact answer for exactly its own inputs.

Learned positions with GELU are `torch.nn.TransformerEncoder`. PyTorch has no rotary positions: those are complex numbers
here, feature i of a head the real part and feature i + head_size / 2 the imaginary one, around
`scaled_dot_product_attention`.

For each case `NAME` of `CASES` (shapes: B batch, T steps, H hidden size, F feed-forward size; layers numbered L):

    input [B, T, H]    lengths [B]
    positions [M, H], where they are learned
    L.attention_norm.weight, .bias [H]        L.feed_forward_norm.weight, .bias [H]      norm.weight, norm.bias [H]
    L.attention_input.weight [3H, H], .bias   L.attention_output.weight [H, H], .bias
    L.feed_forward_input.weight [F, H] ([2F, H] of SwiGLU), .bias   L.feed_forward_output.weight [H, F], .bias
    output [B, T, H], zero beyond the lengths
    grad_output [B, T, H]                     the gradient handed in from above
    d_input and d_ before each parameter      the gradients that must come out
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

SEED = 2017

# name: (feed-forward, positions, visibility, lengths, steps, hidden size, heads, layers, feed-forward size)
CASES = {
    "one": ("gelu", "rotary", "causal", [1], 1, 2, 1, 1, 1),
    "causal": ("gelu", "rotary", "causal", [5, 2, 7], 7, 12, 3, 2, 19),
    "full": ("swiglu", "rotary", "full", [4, 9], 9, 8, 2, 2, 11),
    "learned": ("gelu", "learned", "causal", [6, 3], 6, 10, 5, 2, 17),
    "learned-full": ("gelu", "learned", "full", [3, 8, 1], 8, 34, 2, 1, 33),
    "swiglu": ("swiglu", "learned", "causal", [5, 5], 5, 6, 1, 1, 9),
}
MAX_LEN = 9
BASE = 10_000.0


def turn(heads):
    """[B, heads, T, head_size]"""
    half = heads.shape[-1] // 2
    frequencies = BASE ** (-2.0 * torch.arange(half, dtype=torch.float64) / heads.shape[-1])
    angles = torch.arange(heads.shape[2], dtype=torch.float64)[:, None] * frequencies
    turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def block(stream, weights, kind, positions, visible, num_heads):
    hidden_size = stream.shape[-1]

    def norm(name):
        return functional.layer_norm(stream, (hidden_size,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(name, value):
        return functional.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    queries, keys, values = (
        part.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for part in linear("attention_input", norm("attention_norm")).chunk(3, dim=2)
    )
    if positions == "rotary":
        queries, keys = turn(queries), turn(keys)
    context = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible[:, None])
    stream = stream + linear("attention_output", context.transpose(1, 2).flatten(2))
    units = linear("feed_forward_input", norm("feed_forward_norm"))
    if kind == "gelu":
        units = functional.gelu(units)
    else:
        gate, value = units.chunk(2, dim=2)
        units = functional.silu(gate) * value
    return stream + linear("feed_forward_output", units)


def encoder(stream, leaves, hidden_size, num_heads, num_layers, feed_forward_size, visible):
    """The same by PyTorch's own layers."""
    layer = torch.nn.TransformerEncoderLayer(
        hidden_size, num_heads, feed_forward_size, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(hidden_size, dtype=torch.float64)
    stack = torch.nn.TransformerEncoder(layer, num_layers, norm, enable_nested_tensor=False)
    names = {
        "attention_norm": "norm1",
        "feed_forward_norm": "norm2",
        "attention_output": "self_attn.out_proj",
        "feed_forward_input": "linear1",
        "feed_forward_output": "linear2",
    }
    parameters = {f"norm.{part}": leaves[f"norm.{part}"] for part in ("weight", "bias")}
    for index in range(num_layers):
        for part in ("weight", "bias"):
            for ours, theirs in names.items():
                parameters[f"layers.{index}.{theirs}.{part}"] = leaves[f"{index}.{ours}.{part}"]
            parameters[f"layers.{index}.self_attn.in_proj_{part}"] = leaves[f"{index}.attention_input.{part}"]
    mask = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, float("-inf"))
    return torch.func.functional_call(stack, parameters, (stream, mask.repeat_interleave(num_heads, dim=0)))


def make_case(kind, positions, visibility, lengths, seq_len, hidden_size, num_heads, num_layers, feed_forward_size, normal):
    given = {"input": normal(len(lengths), seq_len, hidden_size)}
    if positions == "learned":
        given["positions"] = normal(MAX_LEN, hidden_size, std=0.5)

    def linear(name, input_size, output_size):
        given[f"{name}.weight"] = normal(output_size, input_size, std=input_size**-0.5)
        given[f"{name}.bias"] = normal(output_size, std=0.5)

    def norm(name):
        given[f"{name}.weight"] = (1.0 + normal(hidden_size, std=0.3)).float().double()
        given[f"{name}.bias"] = normal(hidden_size, std=0.3)

    for index in range(num_layers):
        norm(f"{index}.attention_norm")
        linear(f"{index}.attention_input", hidden_size, 3 * hidden_size)
        linear(f"{index}.attention_output", hidden_size, hidden_size)
        norm(f"{index}.feed_forward_norm")
        linear(f"{index}.feed_forward_input", hidden_size, (2 if kind == "swiglu" else 1) * feed_forward_size)
        linear(f"{index}.feed_forward_output", feed_forward_size, hidden_size)
    norm("norm")
    grad_output = normal(len(lengths), seq_len, hidden_size)

    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    valid = torch.arange(seq_len) < torch.tensor(lengths)[:, None]  # [B, T]
    visible = valid[:, None, :].expand(-1, seq_len, -1)
    if visibility == "causal":
        visible = visible & torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
    stream = leaves["input"]
    if positions == "learned":
        stream = stream + leaves["positions"][:seq_len]
    if positions == "learned" and kind == "gelu":
        output = encoder(stream, leaves, hidden_size, num_heads, num_layers, feed_forward_size, visible)
    else:
        for index in range(num_layers):
            weights = {name.split(".", 1)[1]: leaf for name, leaf in leaves.items() if name.startswith(f"{index}.")}
            stream = block(stream, weights, kind, positions, visible, num_heads)
        output = functional.layer_norm(stream, (hidden_size,), leaves["norm.weight"], leaves["norm.bias"], 1e-5)
    output = torch.where(valid[:, :, None], output, torch.zeros_like(output))
    output.backward(grad_output)
    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    results = {"output": output, "lengths": torch.tensor(lengths, dtype=torch.float64), "grad_output": grad_output}
    return given | results | gradients


def main():
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    tensors = {
        f"{name}.{part}": tensor.detach().float().contiguous().clone()
        for name, case in CASES.items()
        for part, tensor in make_case(*case, normal).items()
    }
    save_file(tensors, Path(__file__).with_name("transformer.safetensors"))


if __name__ == "__main__":
    main()
