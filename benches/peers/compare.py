#!/usr/bin/env python3
"""Refrain's training beside PyTorch's, in turn, several times: medians and their ratios as a Markdown table.

    pip install torch numpy
    cargo build --release
    python compare.py training --threads 2 --rounds 3      # the built-in recipe, to its end
    python compare.py training --max-steps 60 --rounds 5   # its first steps alone: speed

Every round runs Refrain, PyTorch (torch_lm.py) as it comes, and PyTorch under the allocator settings that
spare it most of its page faults ("tuned"), one after the other, so that a machine whose speed drifts
drifts for all of them. All train the same model on the same windows with the same optimiser, schedule and
clipping; `seconds` are of training alone, evaluation left out. Single steps, layers, inference and
generation are for `refrain bench` and torch_speed.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from cases import TUNED

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUBJECTS = ("refrain", "torch", "torch tuned")
# The built-in recipe in the words of torch_lm.py.
BUILT_IN = [
    *("--batch-size", "32", "--seq-len", "128", "--hidden-size", "256", "--num-layers", "2"),
    *("--learning-rate", "4e-3", "--warmup-steps", "50", "--min-factor", "0.02", "--epochs", "5"),
]


def run(command, subject):
    environment = dict(os.environ)
    if subject == "torch tuned":
        environment["GLIBC_TUNABLES"] = TUNED
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}{subject}: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


def evaluations_of(subject, seed, args, folder):
    """(epoch, seconds, validation loss) of one run."""
    threads = ["--threads", str(args.threads)]
    if subject == "refrain":
        limits = ["--set", f"train.max-steps={args.max_steps}", "--set", "schedule.warmup-steps=20"]
        run_dir = folder / f"run-{seed}"
        command = [args.refrain, "train", "--set", f"seed={seed}", "--run-dir", run_dir, *threads]
        run([*command, *(limits if args.max_steps else [])], subject)
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        return [(e["epoch"], e["seconds"], e["loss_nats"]) for e in lines if e["kind"] == "eval"]
    corpus = ROOT / "crates/refrain/data/shakespeare.txt"
    command = [sys.executable, HERE / "torch_lm.py", "--corpus", corpus, "--seed", str(seed), *BUILT_IN, *threads]
    limits = ["--max-steps", str(args.max_steps), "--warmup-steps", "20"]
    output = run([*command, *(limits if args.max_steps else [])], subject)
    return [(e["epoch"], e["seconds"], e["valid_loss"]) for e in map(json.loads, output.splitlines())]


def training(args):
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for subject in SUBJECTS:
                print(f"round {number + 1} of {args.rounds}: {subject}", file=sys.stderr)
                for epoch, seconds, loss in evaluations_of(subject, number + 1, args, Path(folder)):
                    results.setdefault(epoch, {}).setdefault(subject, []).append((seconds, loss))
    print("| epoch | Refrain | PyTorch | tuned | PyTorch / Refrain | tuned / Refrain |")
    print("|---|---|---|---|---|---|")
    for epoch, runs in results.items():
        seconds = [median(seconds for seconds, _ in runs[subject]) for subject in SUBJECTS]
        losses = [median(loss for _, loss in runs[subject]) for subject in SUBJECTS]
        cells = " | ".join(f"{loss:.4f} nats, {time:.1f} s" for time, loss in zip(seconds, losses))
        print(f"| {epoch} | {cells} | {seconds[1] / seconds[0]:.2f} | {seconds[2] / seconds[0]:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="round N trains with seed N")
    parser.add_argument("--max-steps", type=int, default=0, help="of training; 0 for the whole recipe")
    parser.add_argument("--refrain", type=Path, default=ROOT / "target/release/refrain", help="the built binary")
    args = parser.parse_args()
    training(args)


if __name__ == "__main__":
    main()
