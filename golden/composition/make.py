#!/usr/bin/env python3
"""Make `composition.safetensors`: two layers in both directions, forward and backward, as PyTorch computes them.

Made with torch 2.15.0, seed 1997, by `pip install torch numpy safetensors && python make.py`.

Inputs are rounded to float32 before anything is computed; everything after that is float64, rounded to float32 once, when it
is stored.

For each case CELL (lengths in no order, packed) and CELL-whole (all sequences as long as the input), with CELL one of lstm, gru,
rnn (B batch, T steps, I input size, H hidden size, GH rows of the gates):

    input [B, T, I]    lengths [B]    output [B, T, 2H], zeros after a sequence's end    grad_output, d_input

and for each layer and direction, `l0`, `l0_reverse`, `l1`, `l1_reverse`, after a dot

    weight_ih [GH, I or 2H]    weight_hh [GH, H]    bias, as in `../recurrent`    d_weight_ih, d_weight_hh, d_bias
    hidden [B, H], the initial state    last_hidden    grad_last_hidden    d_hidden
    cell_state [B, H] (of the lstm)    last_cell_state    grad_last_cell_state    d_cell_state
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SEED = 1997
B, T, I, H = 5, 7, 3, 6
LENGTHS = [3, 6, 1, 5, 2]
MODULES = {"lstm": (torch.nn.LSTM, 4), "gru": (torch.nn.GRU, 3), "rnn": (torch.nn.RNN, 1)}
PLACES = ["l0", "l0_reverse", "l1", "l1_reverse"]


def make_case(cell, lengths, generator):
    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    kind, gates = MODULES[cell]
    rows = gates * H
    module = kind(I, H, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    parts = ["hidden", "cell_state"] if cell == "lstm" else ["hidden"]
    inputs = normal(B, T, I).requires_grad_()
    states = {part: normal(len(PLACES), B, H, std=0.5).requires_grad_() for part in parts}
    tensors = {"input": inputs, "lengths": torch.tensor(lengths)}
    with torch.no_grad():
        for place in PLACES:
            for name in ("weight_ih", "weight_hh"):
                parameter = getattr(module, f"{name}_{place}")
                parameter.copy_(normal(*parameter.shape, std=0.5))
                tensors[f"{place}.{name}"] = parameter
            # One bias, but for the second one of a GRU's candidate.
            bias = normal(rows + H if cell == "gru" else rows, std=0.5)
            getattr(module, f"bias_ih_{place}").copy_(bias[:rows])
            getattr(module, f"bias_hh_{place}").zero_()
            if cell == "gru":
                getattr(module, f"bias_hh_{place}")[2 * H :] = bias[rows:]
            tensors[f"{place}.bias"] = bias

    packed = pack_padded_sequence(inputs, tensors["lengths"], batch_first=True, enforce_sorted=False)
    given = tuple(states.values()) if cell == "lstm" else states["hidden"]
    packed_output, last = module(packed, given)
    output, _ = pad_packed_sequence(packed_output, batch_first=True, total_length=T)
    last = dict(zip(parts, last if cell == "lstm" else [last]))
    upstream = {"output": normal(B, T, 2 * H)} | {part: normal(len(PLACES), B, H) for part in parts}
    torch.autograd.backward([output, *last.values()], list(upstream.values()))

    tensors |= {"output": output, "grad_output": upstream["output"], "d_input": inputs.grad}
    for index, place in enumerate(PLACES):
        for part in parts:
            tensors[f"{place}.{part}"] = states[part][index]
            tensors[f"{place}.last_{part}"] = last[part][index]
            tensors[f"{place}.grad_last_{part}"] = upstream[part][index]
            tensors[f"{place}.d_{part}"] = states[part].grad[index]
        for name in ("weight_ih", "weight_hh"):
            tensors[f"{place}.d_{name}"] = getattr(module, f"{name}_{place}").grad
        bias = getattr(module, f"bias_ih_{place}").grad
        if cell == "gru":
            bias = torch.cat([bias, getattr(module, f"bias_hh_{place}").grad[2 * H :]])
        tensors[f"{place}.d_bias"] = bias
    return tensors


def main():
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        f"{name}.{part}": tensor
        for cell in MODULES
        for name, lengths in ((cell, LENGTHS), (f"{cell}-whole", [T] * B))
        for part, tensor in make_case(cell, lengths, generator).items()
    }
    tensors = {
        name: tensor.detach().to(torch.int64 if name.endswith("lengths") else torch.float32).contiguous().clone()
        for name, tensor in tensors.items()
    }
    save_file(tensors, Path(__file__).with_name("composition.safetensors"))


if __name__ == "__main__":
    main()
