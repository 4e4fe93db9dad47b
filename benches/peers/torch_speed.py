#!/usr/bin/env python3
"""Time PyTorch on the cases of `refrain bench`, as the peer beside them.

  pip install torch numpy
  python torch_speed.py train                       # every training case
  python torch_speed.py layer --only gru --threads 1
  python torch_speed.py generate --exact lstm-h512-b64 --streams 64

train     a whole step: embedding, layers, linear head, mean cross entropy, backward,
          clipping by global norm 5, Adam. `peak_bytes` is the most memory that the process has held
          so far, PyTorch itself included: run a case alone (--exact) for its own
layer     one recurrent layer alone, forward and backward, its input's gradient included
infer     the network of `train` over the same window, forward alone
generate  400 tokens one after another, each sampled from the softmax of the logits before it

Tensors are time-major, which is PyTorch's faster layout. bf16 is autocast, but in `generate`, where
autocast would convert the weights again for every token: there the model itself is bf16.
"""

import torch
from torch import nn

import cases


class LanguageModel(nn.Module):
    def __init__(self, network):
        super().__init__()
        width = network.hidden_size
        self.embedding = nn.Embedding(network.vocab_size, width)
        self.layers = layers_of(network)
        self.head = nn.Linear(network.num_directions * width, network.vocab_size)

    def forward(self, tokens, state=None):
        """tokens [seq_len, batch_size] -> logits [seq_len, batch_size, vocab_size], state"""
        output, state = self.layers(self.embedding(tokens), state)
        return self.head(output), state


def layers_of(network):
    return Transformer(network) if network.cell == cases.TRANSFORMER else recurrent_layers(network)


def recurrent_layers(network):
    kind = getattr(nn, network.cell)
    width = network.hidden_size
    return kind(width, width, network.num_layers, bidirectional=network.num_directions == 2)


class Transformer(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.blocks = nn.ModuleList(Block(network.hidden_size) for _ in range(network.num_layers))
        self.norm = nn.LayerNorm(network.hidden_size)

    def forward(self, stream, state):
        """stream [seq_len, batch_size, hidden_size] -> the same, and no state"""
        half = stream.shape[2] // cases.NUM_HEADS // 2
        frequencies = 10_000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(stream.shape[0])[:, None] * frequencies
        # Sequences first, as attention takes them.
        stream = stream.transpose(0, 1).contiguous()
        for block in self.blocks:
            stream = block(stream, angles.cos(), angles.sin())
        return self.norm(stream).transpose(0, 1), state


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_input, self.attention_output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward_input, self.feed_forward_output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream, cosines, sines):
        batch_size, seq_len, width = stream.shape
        heads = self.attention_input(self.attention_norm(stream)).unflatten(2, (3, cases.NUM_HEADS, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)

        def turned(of):
            x, y = of.chunk(2, dim=-1)
            return torch.cat([x * cosines - y * sines, y * cosines + x * sines], dim=-1)

        attend = nn.functional.scaled_dot_product_attention
        context = attend(turned(queries), turned(keys), values, is_causal=True)
        stream = stream + self.attention_output(context.transpose(1, 2).reshape(batch_size, seq_len, width))
        units = nn.functional.gelu(self.feed_forward_input(self.feed_forward_norm(stream)))
        return stream + self.feed_forward_output(units)


def precision(dtype):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16")


def training_step(case, dtype):
    model = LanguageModel(case.network)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    inputs, targets = torch.randint(case.network.vocab_size, (2, case.seq_len, case.batch_size))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with precision(dtype):
            logits = model(inputs)[0]
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, max_norm=5.0)
        optimizer.step()

    return step


def layer_alone(case, dtype):
    layers = recurrent_layers(case.network)
    inputs, upstream = torch.randn(2, case.seq_len, case.batch_size, case.network.hidden_size)
    inputs.requires_grad_()

    def step():
        inputs.grad = None
        layers.zero_grad(set_to_none=True)
        with precision(dtype):
            output = layers(inputs)[0]
        output.backward(upstream.to(output.dtype))

    return step


def inference(case, dtype):
    model = LanguageModel(case.network).eval()
    tokens = torch.randint(case.network.vocab_size, (case.seq_len, case.batch_size))

    @torch.inference_mode()
    def step():
        with precision(dtype):
            model(tokens)

    return step


def generation(case, dtype):
    model = LanguageModel(case.network).eval()
    if dtype == "bf16":
        model.bfloat16()

    @torch.inference_mode()
    def step():
        token, state = torch.zeros(1, case.batch_size, dtype=torch.long), None
        for _ in range(case.seq_len):
            logits, state = model(token, state)
            token = torch.multinomial(logits[0].float().softmax(dim=-1), num_samples=1).T

    return step


KINDS = {"train": training_step, "layer": layer_alone, "infer": inference, "generate": generation}


def main():
    args = cases.arguments(__doc__, list(KINDS), dtypes=["f32", "bf16"])
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    for case in args.cases:
        for dtype in args.dtypes:
            seconds = cases.median_seconds(args.kind, KINDS[args.kind](case, dtype), args.repeats)
            cases.report(f"torch-{torch.__version__}", args.kind, case, dtype, torch.get_num_threads(), seconds)


if __name__ == "__main__":
    main()
