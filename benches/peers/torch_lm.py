#!/usr/bin/env python3
"""Train Refrain's character language model in PyTorch: the peer for loss against wall time.

    pip install torch numpy
    python torch_lm.py --corpus shakespeare.txt --hidden-size 256 --epochs 10 --threads 4

Same task, in the same order, as `refrain train`:

  * the first part of the corpus trains, the last `--valid-fraction` validates; the vocabulary is the
    characters of the training part and one entry for all others;
  * the training part is cut into `--batch-size` contiguous streams, read side by side in windows of
    `--seq-len`; the last, shorter window is kept; state is carried from window to window, gradients are
    not (truncated back-propagation through time); every epoch starts from a zero state;
  * validation reads `--eval-batch-size` contiguous streams with carried state and averages over every
    character;
  * recurrent weights orthogonal and input weights Xavier uniform, gate by gate; forget bias 1, other
    biases 0; one bias per gate (PyTorch's second one is held at 0); embedding standard normal and head
    weights uniform in ±1/sqrt(hidden size), which are PyTorch's defaults;
  * AdamW on every parameter, gradients clipped by their global norm, linear warm-up, then a cosine from
    the learning rate to `--min-factor` of it at the last step.

One JSON line per evaluation goes to stdout: `seconds` is training time alone, `eval_seconds` the time
spent in evaluation up to then; losses are in nats per character, `train_loss` the mean since the line
before. For a fair peer, also try the allocator settings

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592

under which PyTorch spends less of its time in page faults.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import nn

UNKNOWN = 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--valid-fraction", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--eval-batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--embedding-size", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0, help="between layers")
    parser.add_argument("--embedding-dropout", type=float, default=0.0)
    parser.add_argument("--output-dropout", type=float, default=0.0, help="before the head")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--min-factor", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=20, help="also the length of the cosine")
    parser.add_argument("--max-steps", type=int, default=0, help="shorter run and cosine; 0 for none")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="of training time")
    parser.add_argument("--eval-every", type=int, default=0, help="in steps; 0 for once an epoch")
    parser.add_argument("--threads", type=int, default=0, help="0 for PyTorch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class LanguageModel(nn.Module):
    def __init__(self, vocab_size, args):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, args.embedding_size)
        self.embedding_dropout = nn.Dropout(args.embedding_dropout)
        between = args.dropout if args.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(args.embedding_size, args.hidden_size, args.num_layers, dropout=between)
        self.output_dropout = nn.Dropout(args.output_dropout)
        self.head = nn.Linear(args.hidden_size, vocab_size)
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        hidden_size = self.lstm.hidden_size
        for layer in range(self.lstm.num_layers):
            for gate in getattr(self.lstm, f"weight_ih_l{layer}").split(hidden_size):
                nn.init.xavier_uniform_(gate)
            for gate in getattr(self.lstm, f"weight_hh_l{layer}").split(hidden_size):
                nn.init.orthogonal_(gate)
            bias = getattr(self.lstm, f"bias_ih_l{layer}").zero_()
            bias[hidden_size : 2 * hidden_size] = 1.0
            getattr(self.lstm, f"bias_hh_l{layer}").zero_().requires_grad_(False)
        self.head.bias.zero_()

    def forward(self, tokens, state):
        """tokens [seq_len, batch_size] -> logits [seq_len, batch_size, vocab_size], state"""
        output, state = self.lstm(self.embedding_dropout(self.embedding(tokens)), state)
        return self.head(self.output_dropout(output)), state


def read_corpus(path, valid_fraction):
    text = path.read_text(encoding="utf-8")
    cut = int(len(text) * (1.0 - valid_fraction))
    characters = {character: index for index, character in enumerate(sorted(set(text[:cut])), UNKNOWN + 1)}
    tokens = torch.tensor([characters.get(character, UNKNOWN) for character in text])
    return tokens[:cut], tokens[cut:], len(characters) + 1


class Streams:
    """`tokens` as contiguous streams side by side: windows of (inputs, targets), each [steps, streams]."""

    def __init__(self, tokens, num_streams, seq_len):
        num_streams = min(num_streams, len(tokens) - 1)
        length = (len(tokens) - 1) // num_streams
        used = num_streams * length
        self.inputs = tokens[:used].view(num_streams, length).t().contiguous()
        self.targets = tokens[1 : used + 1].view(num_streams, length).t().contiguous()
        self.seq_len = seq_len

    def __len__(self):
        return -(-len(self.inputs) // self.seq_len)

    def __iter__(self):
        return zip(self.inputs.split(self.seq_len), self.targets.split(self.seq_len))


def loss_of(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model, streams):
    model.eval()
    state, total = None, 0.0
    for inputs, targets in streams:
        logits, state = model(inputs, state)
        total += loss_of(logits, targets).item() * targets.numel()
    model.train()
    return total / streams.targets.numel()


def learning_rate(step, num_steps, args):
    """The rate of the step numbered `step`, counted from 0."""
    if step < args.warmup_steps:
        return args.learning_rate * (step + 1) / args.warmup_steps
    progress = (step - args.warmup_steps) / max(1, num_steps - args.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return args.learning_rate * (args.min_factor + (1.0 - args.min_factor) * cosine)


class Clock:
    """Training time and evaluation time, kept apart."""

    def __init__(self):
        self.train_seconds, self.eval_seconds, self.since = 0.0, 0.0, time.perf_counter()

    def lap(self):
        now = time.perf_counter()
        passed, self.since = now - self.since, now
        return passed


def train(args):
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    train_tokens, valid_tokens, vocab_size = read_corpus(args.corpus, args.valid_fraction)
    train_streams = Streams(train_tokens, args.batch_size, args.seq_len)
    valid_streams = Streams(valid_tokens, args.eval_batch_size, args.seq_len)
    model = LanguageModel(vocab_size, args)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=args.learning_rate, betas=(0.9, args.beta2), weight_decay=args.weight_decay
    )
    num_steps = args.epochs * len(train_streams)
    if args.max_steps:
        num_steps = min(num_steps, args.max_steps)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, vocabulary {vocab_size}, "
        f"{sum(parameter.numel() for parameter in parameters)} parameters, {num_steps} steps",
        file=sys.stderr,
    )

    step, loss_sum, tokens_seen, reported_at = 0, 0.0, 0, 0.0
    clock = Clock()

    def report(epoch):
        nonlocal loss_sum, tokens_seen, reported_at
        valid_loss = evaluate(model, valid_streams)
        clock.eval_seconds += clock.lap()
        line = {
            "seconds": round(clock.train_seconds, 3),
            "eval_seconds": round(clock.eval_seconds, 3),
            "step": step,
            "epoch": epoch,
            "train_loss": round(loss_sum / tokens_seen, 5),
            "valid_loss": round(valid_loss, 5),
            "tokens_per_second": round(tokens_seen / (clock.train_seconds - reported_at), 1),
        }
        print(json.dumps(line), flush=True)
        loss_sum, tokens_seen, reported_at = 0.0, 0, clock.train_seconds

    for epoch in range(1, args.epochs + 1):
        state = None
        for inputs, targets in train_streams:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, args)
            optimizer.zero_grad(set_to_none=True)
            logits, state = model(inputs, state)
            state = tuple(part.detach() for part in state)
            loss = loss_of(logits, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, args.clip_norm)
            optimizer.step()
            step += 1
            loss_sum += loss.item() * targets.numel()
            tokens_seen += targets.numel()
            clock.train_seconds += clock.lap()
            if step == num_steps or clock.train_seconds >= args.max_seconds:
                return report(epoch)
            if args.eval_every and step % args.eval_every == 0:
                report(epoch)
        if not args.eval_every:
            report(epoch)


if __name__ == "__main__":
    train(arguments())
