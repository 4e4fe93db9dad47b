#!/usr/bin/env python3
"""Time PyTorch on the shapes that Refrain's own benchmarks use, as the peer beside them.

    pip install torch numpy
    python torch_speed.py                      # every case
    python torch_speed.py --only step --threads 1

`step` is a whole training step: embedding, LSTM layers, linear head, mean cross entropy, backward,
clipping by global norm, Adam. `layer` is one LSTM layer alone, forward and backward, its input's
gradient included. `generate` draws one token after another from a language model. Tensors are
time-major, which is PyTorch's faster layout.

Each case prints one JSON line with the median over its repeats, after two that do not count. Machines
that are shared drift: run peer and subject in turn, several times, and compare medians. Much of
PyTorch's time at the larger shapes goes into page faults, so report it under

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592

too.
"""

import argparse
import json
import time
from statistics import median

import torch
from torch import nn

VOCAB_SIZE = 96
# name: (kind, hidden size, layers, batch size, steps); embedding and input size equal the hidden size
CASES = {
    "lstm-h128": ("step", 128, 2, 32, 64),
    "lstm-h512": ("step", 512, 2, 64, 128),
    "layer-h128-b32-t64": ("layer", 128, 1, 32, 64),
    "layer-h256-b64-t100": ("layer", 256, 1, 64, 100),
    "layer-h512-b64-t128": ("layer", 512, 1, 64, 128),
    "layer-h650-b20-t35": ("layer", 650, 1, 20, 35),
    "layer-h1024-b16-t100": ("layer", 1024, 1, 16, 100),
    "generate-h256": ("generate", 256, 2, 1, 200),
    "generate-h512": ("generate", 512, 2, 1, 200),
}


def training_step(hidden_size, num_layers, batch_size, seq_len):
    embedding = nn.Embedding(VOCAB_SIZE, hidden_size)
    lstm = nn.LSTM(hidden_size, hidden_size, num_layers)
    head = nn.Linear(hidden_size, VOCAB_SIZE)
    parameters = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, seq_len, batch_size))

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = head(lstm(embedding(tokens))[0])
        nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

    return step


def layer_alone(hidden_size, num_layers, batch_size, seq_len):
    lstm = nn.LSTM(hidden_size, hidden_size, num_layers)
    inputs = torch.randn(seq_len, batch_size, hidden_size, requires_grad=True)
    upstream = torch.randn(seq_len, batch_size, hidden_size)

    def step():
        inputs.grad = None
        lstm.zero_grad(set_to_none=True)
        lstm(inputs)[0].backward(upstream)

    return step


def generation(hidden_size, num_layers, batch_size, num_tokens):
    embedding = nn.Embedding(VOCAB_SIZE, hidden_size)
    lstm = nn.LSTM(hidden_size, hidden_size, num_layers)
    head = nn.Linear(hidden_size, VOCAB_SIZE)

    @torch.inference_mode()
    def generate():
        token, state = torch.zeros(1, batch_size, dtype=torch.long), None
        for _ in range(num_tokens):
            output, state = lstm(embedding(token), state)
            token = torch.multinomial(torch.softmax(head(output[0]) / 0.8, dim=-1), 1).T

    return generate


KINDS = {"step": training_step, "layer": layer_alone, "generate": generation}


def seconds_of(step, repeats):
    for _ in range(2):
        step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="the cases whose name or kind holds this text")
    parser.add_argument("--threads", type=int, default=0, help="0 for PyTorch's own choice")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    for name, (kind, *sizes) in CASES.items():
        if args.only not in name and args.only not in kind:
            continue
        seconds = seconds_of(KINDS[kind](*sizes), args.repeats)
        _, _, batch_size, seq_len = sizes
        line = {
            "peer": f"torch {torch.__version__}",
            "kind": kind,
            "case": name,
            "threads": torch.get_num_threads(),
            "seconds": round(seconds, 6),
            "tokens_per_second": round(batch_size * seq_len / seconds, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
