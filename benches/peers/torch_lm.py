#!/usr/bin/env python3
"""Train a recipe of Refrain in PyTorch: the peer for loss against wall time.

    pip install torch numpy
    refrain train recipes/ptb-medium-tied.toml --dump-config --json | python torch_lm.py --threads 4

The complete recipe is read from stdin: an LSTM language model of characters or words by AdamW or SGD. A
recipe with anything that is not here is refused, by the name of its key. Same task, in the same order, as
`refrain train`:

  * the training file, or the first part of it where there is no validation file, trains; the vocabulary is
    of it alone, or of both with `closed-vocabulary`, with one entry for all others; the end of a line is a
    word;
  * the training text is cut into `batch-size` contiguous streams, read side by side in windows of
    `seq-len`; the last, shorter window is kept; state is carried from window to window, gradients are not
    (truncated back-propagation through time); every epoch starts from a zero state;
  * validation reads `eval-batch-size` contiguous streams with carried state and averages over every token;
  * recurrent weights orthogonal and input weights Xavier uniform, gate by gate, or all in ±`init-range`;
    biases 0 but the forget gate's; one bias per gate (PyTorch's second one is held at 0); embedding
    standard normal and head uniform in ±1/sqrt(units), both so where they are tied, or in
    ±`embedding-init-range`;
  * gradients clipped by their global norm, summed row by row: PyTorch's own function sums all in f32, which loses
    the fourth digit of big matrices, and adds 1e-6. A steep recipe (ptb-small's) makes percents of that.

With --model it goes on where a model file of Refrain was written, so that two programs can be compared from
one point on: with its weights, its numbers of the tokens, and the windows after the steps it has taken, the
state zero and the dropout PyTorch's own. It takes `pip install safetensors` and, but for a file of no steps,
an optimiser that remembers nothing, for a model file keeps nothing of it.

`precision = "bf16"` is left to --autocast, which runs forward passes under torch.autocast; without it all
is f32. One JSON line per evaluation goes to stdout: `seconds` is training time alone, `eval_seconds` the
time spent in evaluation up to then; losses are in nats per token, `train_loss` the mean since the line
before. For a fair peer, also try the allocator settings

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592

under which PyTorch spends less of its time in page faults.
"""

import argparse
import json
import math
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from torch import nn

UNKNOWN = 0
BUILT_IN = {"builtin:shakespeare": Path(__file__).resolve().parents[2] / "crates/refrain/data/shakespeare.txt"}
# Keys that say nothing of the result, or what only other values of other keys read.
OF_NO_ACCOUNT = {
    *("train.log-every", "train.checkpoint-every", "train.sample-every", "train.floor", "train.gradient-noise-gamma"),
    *("data.encoding", "model.memory", "model.precision"),
}
# What the rest must be, where it is in the recipe.
ONLY = {
    "task": "language-model",
    "model.cell": "lstm",
    "model.normalization": "none",
    "data.min-count": 1,
    "data.segment": "whitespace",
    "data.end-of-sentence": True,
    "train.state": "carry",
    "train.accumulate": 1,
    "teacher-forcing.name": "constant",
    "teacher-forcing.probability": 1.0,
    "teacher-forcing.choice": "sampled",
}


class Recipe:
    """Values by dotted key. Each that is asked for is noted, so that what is left can be refused."""

    def __init__(self, tables):
        self.values = {}
        for name, table in tables.items():
            inner = {f"{name}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {name: table}
            self.values.update(inner)
        self.known = set(OF_NO_ACCOUNT)
        # First of all: a recipe of another cell has other keys besides.
        for key, only in ONLY.items():
            if key in self.values:
                self.one_of(key, only)

    def __getitem__(self, key):
        self.known.add(key)
        return self.values[key]

    def one_of(self, key, *allowed):
        value = self[key]
        if value not in allowed:
            sys.exit(f"`{key}` is {value!r}; here is only {', '.join(map(repr, allowed))}")
        return value

    def refuse_the_rest(self):
        for key, value in self.values.items():
            if key in self.known or key.startswith("sample."):
                continue
            # What is off is zero, false or nothing.
            self.one_of(key, type(value)())


class LanguageModel(nn.Module):
    def __init__(self, vocab_size, recipe):
        super().__init__()
        embedding_size, hidden_size = recipe["model.embedding-size"], recipe["model.hidden-size"]
        num_layers, dropout = recipe["model.num-layers"], recipe["model.dropout"]
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.embedding_dropout = nn.Dropout(recipe["model.embedding-dropout"])
        self.lstm = nn.LSTM(embedding_size, hidden_size, num_layers, dropout=dropout if num_layers > 1 else 0.0)
        self.output_dropout = nn.Dropout(recipe["model.output-dropout"])
        self.head = nn.Linear(hidden_size, vocab_size)
        if recipe["model.tied-embeddings"]:
            self.head.weight = self.embedding.weight
        self.initialise(recipe)

    @torch.no_grad()
    def initialise(self, recipe):
        hidden_size, bound = self.lstm.hidden_size, recipe["model.init-range"]
        for layer in range(self.lstm.num_layers):
            for name, initialise in (("weight_ih", nn.init.xavier_uniform_), ("weight_hh", nn.init.orthogonal_)):
                for gate in getattr(self.lstm, f"{name}_l{layer}").split(hidden_size):
                    gate.uniform_(-bound, bound) if bound else initialise(gate)
            bias = getattr(self.lstm, f"bias_ih_l{layer}").zero_()
            bias[hidden_size : 2 * hidden_size] = recipe["model.forget-bias"]
            getattr(self.lstm, f"bias_hh_l{layer}").zero_().requires_grad_(False)
        bound = recipe["model.embedding-init-range"]
        if bound:
            self.embedding.weight.uniform_(-bound, bound)
        # Otherwise PyTorch's defaults; tied weights have begun as the embedding's.
        if bound or recipe["model.tied-embeddings"]:
            bound = bound or 1.0 / math.sqrt(hidden_size)
            self.head.weight.uniform_(-bound, bound)
        self.head.bias.zero_()

    def forward(self, tokens, state):
        """tokens [seq_len, batch_size] -> logits [seq_len, batch_size, vocab_size], state"""
        output, state = self.lstm(self.embedding_dropout(self.embedding(tokens)), state)
        return self.head(self.output_dropout(output)), state


class ModelFile:
    """A language model that Refrain has written: `weights` as those of LanguageModel, `tokens` by number, `step`."""

    def __init__(self, path):
        from safetensors import safe_open  # pip install safetensors

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        vocabulary = json.loads(metadata["vocabulary"])
        words = ["\n", *vocabulary["words"].split(" ")] if vocabulary["unit"] == "word" else vocabulary["chars"]
        self.tokens, self.step = list(words), json.loads(metadata["provenance"])["step"]
        self.weights = {}
        for name, tensor in tensors.items():
            if name.startswith("recurrent."):
                _, _, layer, kind = name.split(".")
                if kind == "bias":
                    self.weights[f"lstm.bias_hh_l{layer}"] = torch.zeros_like(tensor)
                name = f"lstm.{'bias_ih' if kind == 'bias' else kind}_l{layer}"
            self.weights[name] = tensor
        self.weights.setdefault("head.weight", self.weights["embedding.weight"])


def read_corpus(recipe, model_file):
    """Tokens of training and validation text, and how many different ones there are."""
    train, valid, fraction = recipe["data.train"], recipe["data.valid"], recipe["data.valid-fraction"]
    texts = [Path(BUILT_IN.get(path, path)).read_text(encoding="utf-8") for path in (train, valid) if path]
    if not valid:
        cut = int(len(texts[0]) * (1.0 - fraction))
        texts = [texts[0][:cut], texts[0][cut:]]
    if recipe.one_of("data.tokens", "char", "word") == "word":
        texts = [[word for line in text.splitlines() for word in (*line.split(), "\n")] for text in texts]
    known = set(texts[0]) | (set(texts[1]) if recipe["data.closed-vocabulary"] else set())
    # The unknown word of a text is the unknown token itself.
    tokens = sorted(known - {"<unk>"})
    if model_file:
        if sorted(model_file.tokens) != tokens:
            sys.exit(f"the model's {len(model_file.tokens)} tokens are not the {len(tokens)} of the training text")
        tokens = model_file.tokens
    ids = {token: number for number, token in enumerate(tokens, UNKNOWN + 1)}
    train, valid = (torch.tensor([ids.get(token, UNKNOWN) for token in text]) for text in texts)
    return train, valid, len(ids) + 1


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
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def evaluate(model, streams):
    model.eval()
    state, total = None, 0.0
    for inputs, targets in streams:
        logits, state = model(inputs, state)
        total += loss_of(logits, targets).item() * targets.numel()
    model.train()
    return total / streams.targets.numel()


def optimizer_of(parameters, recipe):
    name = recipe.one_of("optimizer.name", "adamw", "sgd")
    rate, decay = recipe["optimizer.learning-rate"], recipe["optimizer.weight-decay"]
    if name == "adamw":
        betas, epsilon = recipe["optimizer.betas"], recipe["optimizer.epsilon"]
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=epsilon, weight_decay=decay)
    momentum, nesterov = recipe["optimizer.momentum"], recipe["optimizer.nesterov"]
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay)


def schedule_of(recipe, steps_per_epoch, num_steps):
    """The factor of the learning rate at a step, counted from 0."""
    name, warmup = recipe.one_of("schedule.name", "constant", "cosine", "exponential"), recipe["schedule.warmup-steps"]
    least = recipe["schedule.min-factor"] if name == "cosine" else 0.0
    gamma, start = (recipe["schedule.gamma"], recipe["schedule.start-epoch"]) if name == "exponential" else (1.0, 1)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        if name == "cosine":
            progress = (step - warmup) / max(1, num_steps - warmup)
            return least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return gamma ** max(0, step // steps_per_epoch + 2 - start)

    return factor


@torch.no_grad()
def clip(parameters, max_norm):
    norm, gradients = torch.linalg.vector_norm, [parameter.grad for parameter in parameters]
    total = norm(torch.stack([norm(norm(gradient, dim=-1).double()) for gradient in gradients]))
    if total > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / total.item())


class Clock:
    """Training time and evaluation time, kept apart."""

    def __init__(self):
        self.train_seconds, self.eval_seconds, self.since = 0.0, 0.0, time.perf_counter()

    def lap(self):
        now = time.perf_counter()
        passed, self.since = now - self.since, now
        return passed


def train(recipe, args):
    torch.manual_seed(recipe["seed"])
    if args.threads:
        torch.set_num_threads(args.threads)
    model_file = ModelFile(args.model) if args.model else None
    train_tokens, valid_tokens, vocab_size = read_corpus(recipe, model_file)
    seq_len = recipe["train.seq-len"]
    train_streams = Streams(train_tokens, recipe["train.batch-size"], seq_len)
    valid_streams = Streams(valid_tokens, recipe["train.eval-batch-size"], seq_len)
    model = LanguageModel(vocab_size, recipe)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(parameters, recipe)
    if model_file:
        if model_file.step:
            recipe.one_of("optimizer.name", "sgd")
            recipe.one_of("optimizer.momentum", 0.0)
        try:
            model.load_state_dict(model_file.weights)
        except RuntimeError as error:
            # A heading and a line for every tensor that does not fit, of which the first tells enough.
            sys.exit(f"{args.model} holds another model than the recipe's: {str(error).splitlines()[1].strip()}")
    epochs, max_steps, clip_norm = recipe["train.epochs"], recipe["train.max-steps"], recipe["train.clip-norm"]
    num_steps = min(epochs * len(train_streams), max_steps or math.inf)
    factor, eval_every = schedule_of(recipe, len(train_streams), num_steps), recipe["train.eval-every"]
    recipe.refuse_the_rest()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, vocabulary {vocab_size}, "
        f"{sum(parameter.numel() for parameter in parameters)} parameters, {num_steps} steps",
        file=sys.stderr,
    )

    step, loss_sum, tokens_seen, reported_at = 0, 0.0, 0, 0.0
    if model_file:
        step = model_file.step
        if step >= num_steps:
            sys.exit(f"{args.model} has taken {step} steps, and the recipe ends at {num_steps}")
        print(f"from step {step}, validation loss {evaluate(model, valid_streams):.5f}", file=sys.stderr)
    clock = Clock()

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=args.autocast)

    def report(epoch):
        nonlocal loss_sum, tokens_seen, reported_at
        with autocast():
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

    for epoch in range(1 + step // len(train_streams), epochs + 1):
        state = None
        for inputs, targets in islice(train_streams, step % len(train_streams), None):
            for group in optimizer.param_groups:
                group["lr"] = recipe["optimizer.learning-rate"] * factor(step)
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                logits, state = model(inputs, state)
                state = tuple(part.detach() for part in state)
                loss = loss_of(logits, targets)
            loss.backward()
            if clip_norm:
                clip(parameters, clip_norm)
            optimizer.step()
            step += 1
            loss_sum += loss.item() * targets.numel()
            tokens_seen += targets.numel()
            clock.train_seconds += clock.lap()
            if step == num_steps or clock.train_seconds >= args.max_seconds:
                return report(epoch)
            if eval_every and step % eval_every == 0:
                report(epoch)
        if not eval_every:
            report(epoch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0 for PyTorch's own choice")
    parser.add_argument("--autocast", action="store_true", help="forward passes in bfloat16")
    parser.add_argument("--model", help="a model file of Refrain to go on from, weights and step")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="of training time")
    args = parser.parse_args()
    train(Recipe(json.load(sys.stdin)), args)


if __name__ == "__main__":
    main()
