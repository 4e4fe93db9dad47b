#!/usr/bin/env python3
"""Make the files of weights that `crates/refrain/tests/interop.rs` reads, and what PyTorch makes of them.

Made with torch 2.15.0, seed 1990, by `pip install torch numpy safetensors && python make.py`. A second run gives the same
bytes, but for `refused-legacy.pt`, in which PyTorch puts addresses.

`interop.safetensors` has for each module NAME below

    NAME.input [B, T, I]    NAME.output [B, T, D * H]
    NAME.last_hidden [L * D, B, H]    NAME.last_cell_state (of LSTMs)

computed in float32 from zero states, and for each tensor NAME of `tensors.pt` its values in float32 as `tensors.NAME`.
The weights of a module are in `NAME.pt` and, where SAFETENSORS says so, also in `NAME.safetensors`.

`ours/` is not made here: it is what the tests here hold our own writer against. `check.py` has PyTorch read it.
"""

import collections
from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 1990
HERE = Path(__file__).parent

B, T, I, H, P = 2, 5, 3, 4, 2

# name: module, options
MODULES = {
    "lstm": (torch.nn.LSTM, {}),
    "lstm-deep": (torch.nn.LSTM, {"num_layers": 3, "bias": False}),
    "lstm-projected": (torch.nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": P}),
    "gru": (torch.nn.GRU, {}),
    "gru-bidirectional": (torch.nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "gru-no-bias": (torch.nn.GRU, {"bias": False}),
    "rnn": (torch.nn.RNN, {"num_layers": 2}),
    "rnn-relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}
SAFETENSORS = {"lstm", "gru-bidirectional", "rnn-relu"}


def run(module, generator):
    """Random weights, larger than PyTorch's own so that every gate counts; then inputs and outputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
        inputs = torch.randn(B, T, I, generator=generator)
        output, state = module(inputs)
    states = dict(zip(["last_hidden", "last_cell_state"], state if isinstance(state, tuple) else [state]))
    return {"input": inputs, "output": output} | states


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, I)
        self.rnn = torch.nn.GRU(I, H, num_layers=2, batch_first=True)
        self.norm = torch.nn.BatchNorm1d(H)


def save_with_checksums_off(value, path):
    before = torch.utils.serialization.config.save.compute_crc32
    torch.utils.serialization.config.save.compute_crc32 = False
    torch.save(value, path)
    torch.utils.serialization.config.save.compute_crc32 = before


def main():
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    golden = {}
    for name, (module, options) in MODULES.items():
        module = module(I, H, batch_first=True, **options)
        golden |= {f"{name}.{part}": tensor for part, tensor in run(module, generator).items()}
        torch.save(module.state_dict(), HERE / f"{name}.pt")
        if name in SAFETENSORS:
            save_file(module.state_dict(), HERE / f"{name}.safetensors")

    # What a training script keeps: a model inside a dictionary, an optimiser with numbers beside its tensors.
    encoder = Encoder()
    golden |= {f"checkpoint.{part}": tensor for part, tensor in run(encoder.rnn, generator).items()}
    optimizer = torch.optim.Adam(encoder.parameters())
    encoder.rnn(golden["checkpoint.input"])[0].sum().backward()
    optimizer.step()
    with torch.no_grad():
        golden |= {"checkpoint.output": encoder.rnn(golden["checkpoint.input"])[0]}
    del golden["checkpoint.last_hidden"]
    checkpoint = {"model": encoder.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": 1.5, "tags": ["a", None]}
    torch.save(checkpoint, HERE / "checkpoint.pt")
    torch.save(checkpoint, HERE / "checkpoint-protocol-4.pt", pickle_protocol=4)

    # One LSTM in every floating-point type; the numbers to read are those after rounding.
    lstm = torch.nn.LSTM(I, H)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        rounded = {name: tensor.to(dtype) for name, tensor in lstm.state_dict().items()}
        short = str(dtype).removeprefix("torch.")
        torch.save(rounded, HERE / f"{short}.pt")
        save_file(rounded, HERE / f"{short}.safetensors")
        golden |= {f"{short}.{name}": tensor.float() for name, tensor in rounded.items()}

    # Views of one storage: transposed, cut out, repeated; and what stands around tensors.
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": base,
        "transposed": base.t(),
        "window": base[1:3, 2:5],
        "every-other": base[::2, 1::3],
        "row": base[2],
        "column": base[:, 5],
        "repeated": base[0].expand(3, 6),
        "one-place": base[3:4, 5:6],
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "permuted": torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(base[1]),
        "reversed-layout": torch.randn(2, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
    }
    others = {"counts": torch.tensor([1, 2]), "mask": torch.tensor([True]), "complex": torch.tensor([1j])}
    torch.save(collections.OrderedDict(tensors | others), HERE / "tensors.pt")
    golden |= {f"tensors.{name}": tensor.detach().contiguous().clone() for name, tensor in tensors.items()}

    save_with_checksums_off({"whole": base}, HERE / "no-checksums.pt")

    # What is refused: code, and the format before PyTorch 1.6.
    torch.save(torch.nn.Linear(1, 1), HERE / "refused-module.pt")
    torch.save({"state": {"weight": base}, "device": torch.device("cpu")}, HERE / "refused-device.pt")
    torch.save({"weight": base}, HERE / "refused-legacy.pt", _use_new_zipfile_serialization=False)

    save_file({name: tensor.contiguous().clone() for name, tensor in golden.items()}, HERE / "interop.safetensors")


if __name__ == "__main__":
    main()
