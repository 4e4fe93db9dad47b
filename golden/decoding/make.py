#!/usr/bin/env python3
"""Make `decoding.safetensors`: scores as each filter of the Hugging Face library leaves them.

Made with torch 2.15.0, seed 2022, by `pip install torch numpy safetensors && python make.py`.

    scores [6, 23]             the scores of a model, one row a case
    history [6, 14]            the tokens that came before
    <filter>.<n>.value [1]     the n-th value of a filter
    <filter>.<n>.filtered [6, 23]  the scores as the filter with it leaves them

The filters are those of `transformers` (`generation/logits_process.py`), from their published definitions, each function below
naming its paper; the presence and frequency penalties are those of OpenAI's interface. What is excluded has minus infinity.
Scores are rounded to float32, filtered in float64, and rounded when stored. No two scores of a row are equal: the library
keeps ties where ours ranks them by token.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 2022
CASES, VOCAB_SIZE, LENGTH = 6, 23, 14


def repetition_penalty(scores, history, penalty):
    """Keskar et al. 2019, CTRL: RepetitionPenaltyLogitsProcessor."""
    seen = torch.gather(scores, 1, history)
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return scores.scatter(1, history, seen)


def counts(history):
    return torch.nn.functional.one_hot(history, VOCAB_SIZE).sum(1)


def presence_penalty(scores, history, penalty):
    """OpenAI: mu[j] - (c[j] > 0) * alpha_presence."""
    return scores - penalty * (counts(history) > 0).double()


def frequency_penalty(scores, history, penalty):
    """OpenAI: mu[j] - c[j] * alpha_frequency."""
    return scores - penalty * counts(history).double()


def no_repeat_ngram(scores, history, size):
    """Paulus et al. 2017: NoRepeatNGramLogitsProcessor."""
    scores = scores.clone()
    for row, tokens in zip(scores, history.tolist()):
        banned = {}
        for ngram in zip(*[tokens[i:] for i in range(size)]):
            banned.setdefault(ngram[:-1], []).append(ngram[-1])
        row[banned.get(tuple(tokens[len(tokens) + 1 - size :]), [])] = -math.inf
    return scores


def temperature(scores, _history, value):
    """TemperatureLogitsWarper."""
    return scores / value


def top_k(scores, _history, k):
    """Fan et al. 2018: TopKLogitsWarper."""
    return scores.masked_fill(scores < torch.topk(scores, k)[0][..., -1, None], -math.inf)


def top_p(scores, _history, p):
    """Holtzman et al. 2020: TopPLogitsWarper, min_tokens_to_keep = 1."""
    ordered, indices = torch.sort(scores, descending=False)
    remove = ordered.softmax(-1).cumsum(-1) <= 1 - p
    remove[..., -1:] = False
    return scores.masked_fill(remove.scatter(1, indices, remove), -math.inf)


def min_p(scores, _history, share):
    """Nguyen et al. 2024: MinPLogitsWarper, min_tokens_to_keep = 1."""
    probabilities = scores.softmax(-1)
    remove = probabilities < share * probabilities.amax(-1, keepdim=True)
    indices = torch.argsort(scores, descending=True)
    ordered = torch.gather(remove, 1, indices)
    ordered[..., :1] = False
    return scores.masked_fill(ordered.scatter(1, indices, ordered), -math.inf)


def typical_p(scores, _history, mass):
    """Meister et al. 2022: TypicalLogitsWarper, min_tokens_to_keep = 1."""
    log_probabilities = scores.log_softmax(-1)
    entropy = -(log_probabilities * log_probabilities.exp()).nansum(-1, keepdim=True)
    shifted = (-log_probabilities - entropy).abs()
    ordered, indices = torch.sort(shifted, descending=False)
    cumulative = scores.gather(-1, indices).softmax(-1).cumsum(-1)
    last = (cumulative < mass).sum(-1).clamp(max=ordered.shape[-1] - 1)
    remove = ordered > ordered.gather(1, last.view(-1, 1))
    remove[..., :1] = False
    return scores.masked_fill(remove.scatter(1, indices, remove), -math.inf)


def epsilon_cutoff(scores, _history, epsilon):
    """Hewitt et al. 2022: EpsilonLogitsWarper, min_tokens_to_keep = 1."""
    remove = scores.softmax(-1) < epsilon
    remove &= scores < torch.topk(scores, 1)[0][..., -1, None]
    return scores.masked_fill(remove, -math.inf)


FILTERS = {
    "repetition-penalty": (repetition_penalty, [1.3, 0.8]),
    "presence-penalty": (presence_penalty, [0.7, -0.5]),
    "frequency-penalty": (frequency_penalty, [0.7, -0.5]),
    "no-repeat-ngram": (no_repeat_ngram, [1, 2, 3]),
    "temperature": (temperature, [0.7, 1.5]),
    "top-k": (top_k, [1, 5, 22]),
    "top-p": (top_p, [0.1, 0.5, 0.9, 0.99]),
    "min-p": (min_p, [0.02, 0.1, 0.5, 1.0]),
    "typical-p": (typical_p, [0.1, 0.5, 0.9]),
    "epsilon-cutoff": (epsilon_cutoff, [0.001, 0.02, 0.1, 0.9]),
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
