#!/usr/bin/env python3
"""Make `recurrent.safetensors`: one layer of each other cell, forward and backward, as PyTorch computes it.

Made with torch 2.15.0, seed 2014, by `pip install torch numpy safetensors && python make.py`. The LSTM has a
fixture of its own, in `../lstm`.

Inputs are rounded to float32 before anything is computed; everything after that is float64, rounded
to float32 once, when it is stored. So a float32 implementation is compared with the exact answer for
exactly its own inputs.

For each case `CELLN`, with CELL one of gru, rnn, rnn-relu (shapes: B batch, T steps, I input size, H hidden
size, G gates, 3 of the GRU in the order reset, update, candidate, 1 of the others):

    input [B, T, I]    weight_ih [GH, I]    weight_hh [GH, H]    hidden [B, H], the initial state
    bias [GH] (= b_ih + b_hh); of the GRU [4H]: the sums of reset and update, the candidate's b_ih, then its b_hh
    output [B, T, H]    last_hidden [B, H]                       the results
    grad_output, grad_last_hidden                                the gradients handed in from above
    d_input, d_weight_ih, d_weight_hh, d_bias, d_hidden          the gradients that must come out

`last_hidden` equals the last step of `output`, and each has its own upstream gradient: a correct
backward adds the two.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 2014

LAYERS = {
    "gru": torch.nn.GRU,
    "rnn": torch.nn.RNN,
    "rnn-relu": lambda *sizes, **options: torch.nn.RNN(*sizes, nonlinearity="relu", **options),
}

# (batch, steps, input size, hidden size, factor on the weights)
CASES = [
    (1, 1, 1, 1, 1.0),  # every size 1
    (2, 5, 3, 7, 1.0),  # all sizes odd and below a vector's width
    (3, 7, 9, 17, 1.0),  # one past a vector's width
    (17, 4, 8, 16, 1.0),  # more rows than a register tile holds; sizes that fill vectors exactly
    (5, 6, 4, 9, 4.0),  # half-saturated gates: the tails of exp and tanh
]


def make_case(cell, batch_size, seq_len, input_size, hidden_size, factor, generator):
    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    gates, biases = (3 * hidden_size, 4 * hidden_size) if cell == "gru" else (hidden_size, hidden_size)
    std = factor / hidden_size**0.5
    given = {
        "input": normal(batch_size, seq_len, input_size),
        "weight_ih": normal(gates, input_size, std=std),
        "weight_hh": normal(gates, hidden_size, std=std),
        "bias": normal(biases, std=0.5),
        "hidden": normal(batch_size, hidden_size, std=0.5),
    }
    upstream = {
        "grad_output": normal(batch_size, seq_len, hidden_size),
        "grad_last_hidden": normal(batch_size, hidden_size),
    }

    layer = LAYERS[cell](input_size, hidden_size, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(given["weight_ih"])
        layer.weight_hh_l0.copy_(given["weight_hh"])
        layer.bias_ih_l0.copy_(given["bias"][:gates])
        layer.bias_hh_l0.zero_()
        if cell == "gru":
            layer.bias_hh_l0[2 * hidden_size :] = given["bias"][gates:]
    leaves = {name: given[name].clone().requires_grad_() for name in ("input", "hidden")}
    output, hidden = layer(leaves["input"], leaves["hidden"][None])
    results = {"output": output, "last_hidden": hidden[0]}
    torch.autograd.backward(list(results.values()), list(upstream.values()))

    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    gradients["d_weight_ih"] = layer.weight_ih_l0.grad
    gradients["d_weight_hh"] = layer.weight_hh_l0.grad
    gradients["d_bias"] = layer.bias_ih_l0.grad
    if cell == "gru":
        gradients["d_bias"] = torch.cat([layer.bias_ih_l0.grad, layer.bias_hh_l0.grad[2 * hidden_size :]])
    return given | results | upstream | gradients


def main():
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        f"{cell}{index}.{name}": tensor.detach().float().contiguous().clone()
        for cell in LAYERS
        for index, case in enumerate(CASES)
        for name, tensor in make_case(cell, *case, generator).items()
    }
    save_file(tensors, Path(__file__).with_name("recurrent.safetensors"))


if __name__ == "__main__":
    main()
