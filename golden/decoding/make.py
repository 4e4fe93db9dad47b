#!/usr/bin/env python3
"""Make `decoding.safetensors`: scores as each filter of the Hugging Face library leaves them.

Made with transformers 5.23.0 and torch 2.15.0, seed 2022, by `pip install torch transformers safetensors && python make.py`.

    scores [6, 23]             the scores of a model, one row a case
    history [6, 14]            the tokens that came before
    <filter>.<n>.value [1]     the n-th value of a filter
    <filter>.<n>.filtered [6, 23]  the scores as the filter with it leaves them

The filters are those of the library; the presence and frequency penalties, which it does not have, are those of OpenAI's
interface. What is excluded has minus infinity. Scores are rounded to float32, filtered in float64, and rounded when stored. No two
scores of a row are equal: the library keeps ties where ours ranks them by token.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    EpsilonLogitsWarper,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

SEED = 2022
CASES, VOCAB_SIZE, LENGTH = 6, 23, 14


def library(filter_type):
    """A filter of the library, by its one value."""
    return lambda scores, history, value: filter_type(value)(history, scores.clone())


def counts(history):
    return torch.nn.functional.one_hot(history, VOCAB_SIZE).sum(1)


def presence_penalty(scores, history, penalty):
    """OpenAI: mu[j] - (c[j] > 0) * alpha_presence."""
    return scores - penalty * (counts(history) > 0).double()


def frequency_penalty(scores, history, penalty):
    """OpenAI: mu[j] - c[j] * alpha_frequency."""
    return scores - penalty * counts(history).double()


FILTERS = {
    "repetition-penalty": (library(RepetitionPenaltyLogitsProcessor), [1.3, 0.8]),
    "presence-penalty": (presence_penalty, [0.7, -0.5]),
    "frequency-penalty": (frequency_penalty, [0.7, -0.5]),
    "no-repeat-ngram": (library(NoRepeatNGramLogitsProcessor), [1, 2, 3]),
    "temperature": (library(TemperatureLogitsWarper), [0.7, 1.5]),
    "top-k": (library(TopKLogitsWarper), [1, 5, 22]),
    "top-p": (library(TopPLogitsWarper), [0.1, 0.5, 0.9, 0.99]),
    "min-p": (library(MinPLogitsWarper), [0.02, 0.1, 0.5, 1.0]),
    "typical-p": (library(TypicalLogitsWarper), [0.1, 0.5, 0.9]),
    "epsilon-cutoff": (library(EpsilonLogitsWarper), [0.001, 0.02, 0.1, 0.9]),
}


def main():
    generator = torch.Generator().manual_seed(SEED)
    scores = torch.randn(CASES, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    # From nearly flat to nearly certain.
    scores = (scores * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0])[:, None]).float().double()
    # Tokens from a few, so that n-grams come again.
    history = torch.randint(1, 5, (CASES, LENGTH), generator=generator)

    tensors = {"scores": scores, "history": history.to(torch.int64)}
    for name, (apply, values) in FILTERS.items():
        for index, value in enumerate(values):
            tensors[f"{name}.{index}.value"] = torch.tensor([float(value)])
            tensors[f"{name}.{index}.filtered"] = apply(scores, history, value)
    tensors = {
        name: (tensor if tensor.dtype == torch.int64 else tensor.float()).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(tensors, Path(__file__).with_name("decoding.safetensors"))


if __name__ == "__main__":
    main()
