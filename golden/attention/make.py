#!/usr/bin/env python3
"""Make `attention.safetensors`: attention over an encoder's outputs and a decoder with it, as PyTorch computes them.

Made with torch 2.15.0, seed 2015, by `pip install torch numpy safetensors && python make.py`.

Inputs are rounded to float32 before anything is computed; everything after that is float64, rounded to float32 once,
when it is stored. So a float32 implementation is compared with the exact answer for exactly its own inputs.

For each case `SCOREN`, with SCORE one of additive, dot, general, concat (shapes: B batch, Q queries, K keys, S key size, D
query size, A attention size):

    query [B, Q, D]    keys [B, K, S]    lengths [B], of the keys; beyond them keys count for nothing
    weight_query [A, D]    weight_key [A, S] ([D, S] of general)    weight_score [1, A], as far as the score has them
    context [B, Q, S]    weights [B, Q, K]                            the results
    grad_context, grad_weights                                        the gradients handed in from above
    d_query, d_keys, d_weight_query, d_weight_key, d_weight_score     the gradients that must come out

A sequence of length 0 has weights and context 0, which PyTorch's softmax does not give (NaN): it is left out there and zeros
are stored.

For each case `decoder.FEEDING.CELL`, with FEEDING attentional or context and CELL lstm or gru (shapes: I input size, H hidden
size, T steps), by `torch.nn.LSTMCell` and `GRUCell` and general scores:

    input [B, T, I]    keys [B, K, S]    lengths [B]    hidden [B, H], and of the LSTM cell_state: the initial state
    weight_ih, weight_hh, bias (as in ../lstm and ../recurrent), weight_key [H, S], weight [H, S + H], projection_bias [H]
    output [B, T, H]    weights [B, T, K]    last_hidden [B, H]       the results
    grad_output                                                       the gradient handed in from above
    d_input, d_keys, d_hidden, d_weight_ih, d_weight_hh, d_weight_key, d_weight    the gradients that must come out
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 2015

# (lengths of the keys, keys, queries, query size, key size, attention size)
CASES = [
    ([1], 1, 1, 1, 1, 1),  # every size 1
    ([3, 7, 1, 0], 7, 3, 5, 5, 4),  # any order, none at all, and a full row
    ([19, 33], 33, 2, 17, 17, 9),  # one past a vector's width
]
SIZES_OF_OTHERS = {"general": (3, 6), "additive": (6, 3), "concat": (4, 9)}


def maker(generator):
    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    return normal


def scores(score, query, keys, weights):
    """Pair by pair, straight from the papers' equations."""
    if score == "dot":
        return torch.einsum("bqd,bkd->bqk", query, keys)
    if score == "general":
        return torch.einsum("bqd,ds,bks->bqk", query, weights["weight_key"], keys)
    pairs = torch.cat(
        [
            query[:, :, None, :].expand(-1, -1, keys.shape[1], -1),
            keys[:, None, :, :].expand(-1, query.shape[1], -1, -1),
        ],
        dim=3,
    )
    matrix = torch.cat([weights["weight_query"], weights["weight_key"]], dim=1)
    return torch.tanh(pairs @ matrix.T) @ weights["weight_score"][0]


def attend(score, query, keys, lengths, weights):
    contexts, rows = [], []
    for index, length in enumerate(lengths):
        row = torch.zeros(query.shape[1], keys.shape[1], dtype=query.dtype)
        if length > 0:
            one = scores(score, query[index : index + 1], keys[index : index + 1, :length], weights)
            row = torch.nn.functional.pad(torch.softmax(one[0], dim=1), (0, keys.shape[1] - length))
        rows.append(row)
        contexts.append(row @ keys[index])
    return torch.stack(contexts), torch.stack(rows)


def attention_case(score, number, normal):
    lengths, key_len, query_len, query_size, key_size, attention_size = CASES[number]
    if number == 1 and score in SIZES_OF_OTHERS:
        query_size, key_size = SIZES_OF_OTHERS[score]
    batch_size = len(lengths)
    given = {"query": normal(batch_size, query_len, query_size), "keys": normal(batch_size, key_len, key_size)}
    if score == "general":
        given["weight_key"] = normal(query_size, key_size, std=key_size**-0.5)
    elif score != "dot":
        given["weight_query"] = normal(attention_size, query_size, std=query_size**-0.5)
        given["weight_key"] = normal(attention_size, key_size, std=key_size**-0.5)
        given["weight_score"] = normal(1, attention_size)
    upstream = {
        "grad_context": normal(batch_size, query_len, key_size),
        "grad_weights": normal(batch_size, query_len, key_len),
    }
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    context, weights = attend(score, leaves["query"], leaves["keys"], lengths, leaves)
    torch.autograd.backward([context, weights], list(upstream.values()))
    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    results = {"context": context, "weights": weights, "lengths": torch.tensor(lengths, dtype=torch.float64)}
    return given | results | upstream | gradients


def decoder_case(feeding, cell, normal):
    lengths, batch_size, key_len, seq_len, input_size, hidden_size, key_size = [5, 2, 4], 3, 5, 6, 3, 7, 4
    fed_size = hidden_size if feeding == "attentional" else key_size
    gates = {"lstm": 4, "gru": 3}[cell] * hidden_size
    biases = 4 * hidden_size
    std = hidden_size**-0.5
    given = {
        "input": normal(batch_size, seq_len, input_size),
        "keys": normal(batch_size, key_len, key_size),
        "hidden": normal(batch_size, hidden_size, std=0.5),
        "weight_ih": normal(gates, input_size + fed_size, std=std),
        "weight_hh": normal(gates, hidden_size, std=std),
        "weight_key": normal(hidden_size, key_size, std=std),
        "weight": normal(hidden_size, key_size + hidden_size, std=std),
    }
    constant = {"bias": normal(biases, std=0.5), "projection_bias": normal(hidden_size, std=0.5)}
    if cell == "lstm":
        constant["cell_state"] = normal(batch_size, hidden_size, std=0.5)
    grad_output = normal(batch_size, seq_len, hidden_size)

    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    bias_ih, bias_hh = constant["bias"][:gates], torch.zeros(gates, dtype=torch.float64)
    if cell == "gru":
        bias_hh = torch.cat([torch.zeros(2 * hidden_size, dtype=torch.float64), constant["bias"][gates:]])
    layer = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell](input_size + fed_size, hidden_size).double()
    parameters = {
        "weight_ih": leaves["weight_ih"],
        "weight_hh": leaves["weight_hh"],
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
    }

    def attention(hidden):
        context, weights = attend("general", hidden[:, None], leaves["keys"], lengths, leaves)
        return context[:, 0], weights[:, 0]

    def run(inputs, state):
        result = torch.func.functional_call(layer, parameters, (inputs, state))
        return (result[0], result) if cell == "lstm" else (result, result)

    hidden = leaves["hidden"]
    state = (hidden, constant["cell_state"]) if cell == "lstm" else hidden
    attentional = torch.zeros(batch_size, hidden_size, dtype=torch.float64)
    outputs, rows = [], []
    for step in range(seq_len):
        now = leaves["input"][:, step]
        if feeding == "attentional":
            hidden, state = run(torch.cat([now, attentional], dim=1), state)
            context, weights = attention(hidden)
        else:
            context, weights = attention(hidden)
            hidden, state = run(torch.cat([now, context], dim=1), state)
        attentional = torch.tanh(torch.cat([context, hidden], dim=1) @ leaves["weight"].T + constant["projection_bias"])
        outputs.append(attentional)
        rows.append(weights)
    output = torch.stack(outputs, dim=1)
    output.backward(grad_output)
    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    results = {
        "output": output,
        "weights": torch.stack(rows, dim=1),
        "last_hidden": hidden,
        "lengths": torch.tensor(lengths, dtype=torch.float64),
        "grad_output": grad_output,
    }
    return given | constant | results | gradients


def main():
    normal = maker(torch.Generator().manual_seed(SEED))
    cases = {
        f"{score}{number}": attention_case(score, number, normal)
        for score in ("additive", "dot", "general", "concat")
        for number in range(len(CASES))
    }
    for feeding in ("attentional", "context"):
        for cell in ("lstm", "gru"):
            cases[f"decoder.{feeding}.{cell}"] = decoder_case(feeding, cell, normal)
    tensors = {
        f"{case}.{name}": tensor.detach().float().contiguous().clone()
        for case, parts in cases.items()
        for name, tensor in parts.items()
    }
    save_file(tensors, Path(__file__).with_name("attention.safetensors"))


if __name__ == "__main__":
    main()
