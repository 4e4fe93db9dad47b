#!/usr/bin/env python3
"""Make `language_model.safetensors`: a two-layer LSTM language model, its loss and every gradient.

Made with torch 2.15.0, seed 1951, by `pip install torch numpy safetensors && python make.py`.

Shapes: B 3 streams, T 11 steps, V 13 tokens, E 6 embedding size, H 10 hidden size; gates in the order
input, forget, candidate, output.

    tokens, targets [B, T] int64   targets are the tokens one step later
    embedding [V, E]
    layer0.weight_ih [4H, E]   layer1.weight_ih [4H, H]   layerN.weight_hh [4H, H]   layerN.bias [4H]
    layerN.hidden, layerN.cell_state [B, H]               the initial state
    head.weight [V, H]   head.bias [V]                    logits = output . weight^T + bias
    logits [B, T, V]   loss [1]                           mean cross entropy over B * T, in nats
    layerN.last_hidden, layerN.last_cell_state [B, H]
    d_embedding   layerN.d_weight_ih, d_weight_hh, d_bias, d_hidden, d_cell_state   head.d_weight, d_bias

Inputs are rounded to float32 before anything is computed; the rest is float64, rounded when stored.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 1951
BATCH_SIZE, SEQ_LEN, VOCAB_SIZE, EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS = 3, 11, 13, 6, 10, 2


def main():
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape, std=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * std
        return values.float().double()

    text = torch.randint(VOCAB_SIZE, (BATCH_SIZE, SEQ_LEN + 1), generator=generator)
    tokens, targets = text[:, :-1], text[:, 1:]
    hidden = normal(NUM_LAYERS, BATCH_SIZE, HIDDEN_SIZE, std=0.5).requires_grad_()
    cell_state = normal(NUM_LAYERS, BATCH_SIZE, HIDDEN_SIZE).requires_grad_()

    embedding = torch.nn.Embedding(VOCAB_SIZE, EMBEDDING_SIZE, dtype=torch.float64)
    lstm = torch.nn.LSTM(EMBEDDING_SIZE, HIDDEN_SIZE, NUM_LAYERS, batch_first=True, dtype=torch.float64)
    head = torch.nn.Linear(HIDDEN_SIZE, VOCAB_SIZE, dtype=torch.float64)
    parameters = {"embedding": embedding.weight, "head.weight": head.weight, "head.bias": head.bias}
    for layer in range(NUM_LAYERS):
        parameters[f"layer{layer}.weight_ih"] = getattr(lstm, f"weight_ih_l{layer}")
        parameters[f"layer{layer}.weight_hh"] = getattr(lstm, f"weight_hh_l{layer}")
        parameters[f"layer{layer}.bias"] = getattr(lstm, f"bias_ih_l{layer}")
    with torch.no_grad():
        for layer in range(NUM_LAYERS):
            getattr(lstm, f"bias_hh_l{layer}").zero_()
        for parameter in parameters.values():
            parameter.copy_(normal(*parameter.shape, std=0.4))

    output, (last_hidden, last_cell_state) = lstm(embedding(tokens), (hidden, cell_state))
    logits = head(output)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()

    def gradient_name(name):
        module, _, last = name.rpartition(".")
        return f"{module}.d_{last}" if module else f"d_{last}"

    tensors = {"logits": logits, "loss": loss.reshape(1)}
    tensors |= parameters
    tensors |= {gradient_name(name): parameter.grad for name, parameter in parameters.items()}
    for layer in range(NUM_LAYERS):
        tensors[f"layer{layer}.hidden"] = hidden[layer]
        tensors[f"layer{layer}.cell_state"] = cell_state[layer]
        tensors[f"layer{layer}.d_hidden"] = hidden.grad[layer]
        tensors[f"layer{layer}.d_cell_state"] = cell_state.grad[layer]
        tensors[f"layer{layer}.last_hidden"] = last_hidden[layer]
        tensors[f"layer{layer}.last_cell_state"] = last_cell_state[layer]
    stored = {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}
    stored |= {"tokens": tokens.contiguous().clone(), "targets": targets.contiguous().clone()}
    save_file(stored, Path(__file__).with_name("language_model.safetensors"))


if __name__ == "__main__":
    main()
