#!/usr/bin/env python3
"""PyTorch reads what Refrain wrote into `ours/`, and computes with it what it computed with its own weights.

Run with torch 2.15.0 by `pip install torch numpy safetensors && python check.py`. The tests of
`crates/refrain/tests/interop.rs` hold our writer to the bytes of these files; when they are to change, copy what
`cargo test --release -p refrain --test interop` left in `target/tmp/interop` into `ours/` and run this.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

import make

HERE = Path(__file__).parent


def load(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, mmap=path.stem.endswith("deep"))


def main():
    golden = load_file(HERE / "interop.safetensors")
    checked = 0
    for path in sorted((HERE / "ours").iterdir()):
        name = path.stem
        kind, options = make.MODULES[name]
        # Our layers have a bias, zero where PyTorch had none.
        module = kind(make.I, make.H, batch_first=True, **(options | {"bias": True}))
        state_dict = load(path)
        print(path.name, *(f"{key}{list(tensor.shape)}" for key, tensor in state_dict.items()))
        module.load_state_dict(state_dict, strict=True)
        with torch.no_grad():
            output, state = module(golden[f"{name}.input"])
        torch.testing.assert_close(output, golden[f"{name}.output"], rtol=0, atol=1e-6)
        hidden = state[0] if isinstance(state, tuple) else state
        torch.testing.assert_close(hidden, golden[f"{name}.last_hidden"], rtol=0, atol=1e-6)
        checked += 1
    assert checked == 2 * len(make.MODULES), f"only {checked} files in ours/"
    print(f"PyTorch {torch.__version__} loads all {checked} files and gives the same outputs")


if __name__ == "__main__":
    main()
