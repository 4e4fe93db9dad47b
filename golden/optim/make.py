#!/usr/bin/env python3
"""Make `optim.safetensors`: five steps of each optimiser, as `torch.optim` takes them.

Made with torch 2.15.0, seed 2014, by `pip install torch numpy safetensors && python make.py`.

    parameter [7]                 the starting point, the same for every optimiser
    gradients [5, 7]              the gradient handed in at each step
    <optimiser>.parameters [5, 7] the parameter after each step

Inputs are rounded to float32 before anything is computed; the steps are taken in float64 and rounded
when stored. The settings of each optimiser are in OPTIMISERS below.
One gradient is zero throughout and one is tiny, so that epsilon counts.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 2014
STEPS = 5
SIZE = 7

OPTIMISERS = {
    "adam": (torch.optim.Adam, {"lr": 0.002, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.002, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.01}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.002, "alpha": 0.95, "eps": 1e-8}),
    "sgd_momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
}


def walk(optimiser, settings, parameter, gradients):
    parameter = parameter.clone().requires_grad_()
    optimiser = optimiser([parameter], **settings)
    after = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
        after.append(parameter.detach().clone())
    return torch.stack(after)


def main():
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).float().double()

    parameter = normal(SIZE)
    gradients = normal(STEPS, SIZE)
    gradients[:, 3] = 0.0
    gradients[:, 5] = (gradients[:, 5] * 1e-8).float().double()

    tensors = {"parameter": parameter, "gradients": gradients}
    for name, (optimiser, settings) in OPTIMISERS.items():
        tensors[f"{name}.parameters"] = walk(optimiser, settings, parameter, gradients)
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).with_name("optim.safetensors"))


if __name__ == "__main__":
    main()
