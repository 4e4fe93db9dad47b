#!/usr/bin/env python3
"""Make `lstm.safetensors`: one LSTM layer, forward and backward, as PyTorch computes it.

Made with torch 2.15.0, seed 1997, by `pip install torch numpy safetensors && python make.py`.

Inputs are rounded to float32 before anything is computed; everything after that is float64, rounded
to float32 once, when it is stored. So a float32 implementation is compared with the exact answer for
exactly its own inputs.

For each case `caseN` (shapes: B batch, T steps, I input size, H hidden size; gates in the order
input, forget, candidate, output):

    input [B, T, I]    weight_ih [4H, I]    weight_hh [4H, H]    bias [4H] (= b_ih + b_hh)
    hidden, cell_state [B, H]                                         the initial state
    output [B, T, H]    last_hidden, last_cell_state [B, H]           the results
    grad_output, grad_last_hidden, grad_last_cell_state               the gradients handed in from above
    d_input, d_weight_ih, d_weight_hh, d_bias, d_hidden, d_cell_state the gradients that must come out

`last_hidden` equals the last step of `output`, and each has its own upstream gradient: a correct
backward adds the two.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 1997

# (batch, steps, input size, hidden size, factor on the weights)
CASES = [
    (1, 1, 1, 1, 1.0),  # every size 1
    (2, 5, 3, 7, 1.0),  # all sizes odd and below a vector's width
    (3, 13, 17, 33, 1.0),  # one past a vector's width
    (4, 1, 16, 32, 1.0),  # a single step; sizes that fill vectors exactly
    (17, 6, 8, 16, 1.0),  # more rows than a register tile holds
    (5, 6, 4, 9, 20.0),  # saturated gates: the tails of exp and tanh
    (1, 40, 2, 5, 1.0),  # one long stream
]


def make_case(batch_size, seq_len, input_size, hidden_size, factor, generator):
    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    std = factor / hidden_size**0.5
    given = {
        "input": normal(batch_size, seq_len, input_size),
        "weight_ih": normal(4 * hidden_size, input_size, std=std),
        "weight_hh": normal(4 * hidden_size, hidden_size, std=std),
        "bias": normal(4 * hidden_size, std=0.5),
        "hidden": normal(batch_size, hidden_size, std=0.5),
        "cell_state": normal(batch_size, hidden_size),
    }
    upstream = {
        "grad_output": normal(batch_size, seq_len, hidden_size),
        "grad_last_hidden": normal(batch_size, hidden_size),
        "grad_last_cell_state": normal(batch_size, hidden_size),
    }

    lstm = torch.nn.LSTM(input_size, hidden_size, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(given["weight_ih"])
        lstm.weight_hh_l0.copy_(given["weight_hh"])
        lstm.bias_ih_l0.copy_(given["bias"])
        lstm.bias_hh_l0.zero_()
    leaves = {name: given[name].clone().requires_grad_() for name in ("input", "hidden", "cell_state")}
    output, (hidden, cell_state) = lstm(
        leaves["input"], (leaves["hidden"][None], leaves["cell_state"][None])
    )
    results = {"output": output, "last_hidden": hidden[0], "last_cell_state": cell_state[0]}
    torch.autograd.backward(list(results.values()), list(upstream.values()))

    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    gradients["d_weight_ih"] = lstm.weight_ih_l0.grad
    gradients["d_weight_hh"] = lstm.weight_hh_l0.grad
    gradients["d_bias"] = lstm.bias_ih_l0.grad
    return given | results | upstream | gradients


def main():
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        f"case{index}.{name}": tensor.detach().float().contiguous().clone()
        for index, case in enumerate(CASES)
        for name, tensor in make_case(*case, generator).items()
    }
    save_file(tensors, Path(__file__).with_name("lstm.safetensors"))


if __name__ == "__main__":
    main()
