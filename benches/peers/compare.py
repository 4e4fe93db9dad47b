#!/usr/bin/env python3
"""Refrain beside PyTorch, in turn, several times: medians and their ratios as Markdown tables.

    pip install torch numpy
    python compare.py layers   --threads 2 --rounds 5      # one LSTM layer, forward and backward
    python compare.py training --threads 2 --rounds 3      # the built-in recipe, to its end
    python compare.py training --max-steps 60 --rounds 5   # its first steps alone: speed
    python compare.py generation --threads 1 --rounds 5    # one character after another

Every round runs Refrain, PyTorch as it comes, and PyTorch under the allocator settings that spare it
most of its page faults ("tuned"), one after the other, so that a machine whose speed drifts drifts for
all of them. Both sides train the same model on the same windows with the same optimiser, schedule and
clipping; `seconds` are of training alone, evaluation left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TUNED = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592"
SUBJECTS = ("refrain", "torch", "torch tuned")
# The built-in recipe in the words of torch_lm.py.
BUILT_IN = [
    *("--batch-size", "32", "--seq-len", "128", "--hidden-size", "256", "--num-layers", "2"),
    *("--learning-rate", "4e-3", "--warmup-steps", "50", "--min-factor", "0.02", "--epochs", "5"),
]


def run(command, subject, **options):
    environment = dict(os.environ)
    if subject == "torch tuned":
        environment["GLIBC_TUNABLES"] = TUNED
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{subject}: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


def bench_program():
    """The kernels' benchmark, built."""
    lines = run(
        ["cargo", "bench", "-p", "refrain-kernels", "--bench", "lstm", "--no-run", "--message-format=json"],
        "refrain",
    )
    artifacts = (json.loads(line) for line in lines.splitlines())
    return next(a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "lstm")


def layers(args):
    """Milliseconds by case, then subject."""
    program = bench_program()
    results = {}
    for number in range(args.rounds):
        for subject in SUBJECTS:
            print(f"round {number + 1} of {args.rounds}: {subject}", file=sys.stderr)
            if subject == "refrain":
                output = run([program, "--threads", str(args.threads), "lstm h"], subject)
                pattern = r"lstm h (\d+) b (\d+) t (\d+) forward \+ backward +([\d.]+) ms"
                found = [(tuple(map(int, sizes)), float(ms)) for *sizes, ms in re.findall(pattern, output)]
            else:
                output = run(
                    [sys.executable, HERE / "torch_speed.py", "--only", "layer", "--threads", str(args.threads)],
                    subject,
                )
                lines = map(json.loads, output.splitlines())
                found = [
                    (tuple(map(int, re.findall(r"\d+", line["case"]))), line["seconds"] * 1e3) for line in lines
                ]
            for case, ms in found:
                results.setdefault(case, {}).setdefault(subject, []).append(ms)
    print("| H, B, T | Refrain, ms | PyTorch, ms | tuned, ms | PyTorch / Refrain | tuned / Refrain |")
    print("|---|---|---|---|---|---|")
    for (hidden_size, batch_size, seq_len), times in results.items():
        own, plain, tuned = (median(times[subject]) for subject in SUBJECTS)
        print(
            f"| {hidden_size}, {batch_size}, {seq_len} | {own:.1f} | {plain:.1f} | {tuned:.1f} "
            f"| {plain / own:.2f} | {tuned / own:.2f} |"
        )


def evaluations_of(subject, seed, args, folder):
    """(epoch, seconds, validation loss) of one run."""
    threads = ["--threads", str(args.threads)]
    if subject == "refrain":
        limits = ["--set", f"train.max-steps={args.max_steps}", "--set", "schedule.warmup-steps=20"]
        run_dir = folder / f"run-{seed}"
        command = [args.refrain, "train", "--set", f"seed={seed}", "--run-dir", run_dir, *threads]
        run([*command, *(limits if args.max_steps else [])], subject, stderr=subprocess.DEVNULL)
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        return [(e["epoch"], e["seconds"], e["loss_nats"]) for e in lines if e["kind"] == "eval"]
    corpus = ROOT / "crates/refrain/data/shakespeare.txt"
    command = [sys.executable, HERE / "torch_lm.py", "--corpus", corpus, "--seed", str(seed), *BUILT_IN, *threads]
    limits = ["--max-steps", str(args.max_steps), "--warmup-steps", "20"]
    output = run([*command, *(limits if args.max_steps else [])], subject, stderr=subprocess.DEVNULL)
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


def generation(args):
    """Tokens a second by hidden size: embedding as wide as the state, two layers, one text."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {hidden_size: Path(folder) / f"model-{hidden_size}" for hidden_size in (256, 512)}
        for hidden_size, model in models.items():
            sizes = [f"model.hidden-size={hidden_size}", f"model.embedding-size={hidden_size}", "train.max-steps=1"]
            settings = [word for size in [*sizes, "schedule.warmup-steps=0"] for word in ("--set", size)]
            run([args.refrain, "train", "--run-dir", model, *settings], "refrain", stderr=subprocess.DEVNULL)
        for number in range(args.rounds):
            for subject in SUBJECTS:
                print(f"round {number + 1} of {args.rounds}: {subject}", file=sys.stderr)
                threads = ["--threads", str(args.threads)]
                if subject == "refrain":
                    found = {size: refrain_tokens_per_second(args.refrain, model, threads) for size, model in models.items()}
                else:
                    command = [sys.executable, HERE / "torch_speed.py", "--only", "generate", *threads]
                    lines = map(json.loads, run(command, subject).splitlines())
                    found = {int(line["case"].split("-h")[1]): line["tokens_per_second"] for line in lines}
                for hidden_size, speed in found.items():
                    results.setdefault(hidden_size, {}).setdefault(subject, []).append(speed)
    print("| H | Refrain, tokens/s | PyTorch | tuned | Refrain / PyTorch | Refrain / tuned |")
    print("|---|---|---|---|---|---|")
    for hidden_size, speeds in results.items():
        own, plain, tuned = (median(speeds[subject]) for subject in SUBJECTS)
        print(f"| {hidden_size} | {own:,.0f} | {plain:,.0f} | {tuned:,.0f} | {own / plain:.1f} | {own / tuned:.1f} |")


def refrain_tokens_per_second(program, model, threads):
    """By the difference of a long text and a short one, so that loading the model does not count."""

    def seconds(tokens):
        start = time.perf_counter()
        run([program, "generate", model, "--tokens", str(tokens), *threads], "refrain", stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    return 4000 / (seconds(4100) - seconds(100))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["layers", "training", "generation"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="round N trains with seed N")
    parser.add_argument("--max-steps", type=int, default=0, help="of training; 0 for the whole recipe")
    parser.add_argument("--refrain", type=Path, default=ROOT / "target/release/refrain", help="the built binary")
    args = parser.parse_args()
    {"layers": layers, "training": training, "generation": generation}[args.what](args)


if __name__ == "__main__":
    main()
