#!/usr/bin/env python3
"""Refrain's training beside PyTorch's, in turn, several times: medians and their ratios as a Markdown table.

    pip install torch numpy
    cargo build --release
    python compare.py training --threads 2 --rounds 3      # the built-in recipe, to its end
    python compare.py training recipes/ptb-medium-tied.toml --rounds 1 --set train.max-steps=1328 \\
        --set data.train=ptb.train.txt --set data.valid=ptb.valid.txt
    python compare.py training recipes/ptb-small.toml --rounds 1 --after 0 --set ...

Every round runs PyTorch (torch_lm.py) as it comes, PyTorch under the allocator settings that spare it most
of its page faults ("tuned"), and Refrain, one after the other, so that a machine whose speed drifts drifts
for all of them; with a recipe in bf16, PyTorch's forward passes in bfloat16 besides. All train the same
model on the same windows with the same optimiser, schedule and clipping; `seconds` are of training
alone, evaluation left out. With --after PyTorch goes on from the weights that Refrain has after so many steps
and a state of zero, and seconds count from there (it takes `pip install safetensors`). With 0, from the first
weights, the losses differ by rounding alone where nothing is dropped. Single steps, layers, inference and
generation are for `refrain bench` and torch_speed.py.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from cases import TUNED

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = ["torch", "torch tuned", "torch bf16 tuned"]


def run(command, subject, stdin=None):
    environment = dict(os.environ)
    if "tuned" in subject:
        environment["GLIBC_TUNABLES"] = TUNED
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr}{subject}: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


def recipe_of(args, seed, *more):
    """Arguments of `refrain train`, and the complete recipe that they make."""
    recipe = [*filter(None, [args.recipe]), *(f"--set={value}" for value in [*args.set, f"seed={seed}", *more])]
    return recipe, run([args.refrain, "train", *recipe, "--dump-config", "--json"], "refrain")


def train(recipe, run_dir, args):
    """Refrain's training in a new folder."""
    run([args.refrain, "train", *recipe, "--run-dir", run_dir, "--threads", str(args.threads)], "refrain")


def evaluations_of(subject, number, args, folder):
    """(step, seconds, validation loss) of one run; with `--after`, of the steps after those."""
    recipe, complete = recipe_of(args, number)
    if subject == "refrain":
        run_dir = folder / f"run-{number}"
        train(recipe, run_dir, args)
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        evaluations = [(e["step"], e["seconds"], e["loss_nats"]) for e in lines if e["kind"] == "eval"]
        after = args.after or 0
        since = {0: 0.0, **{step: seconds for step, seconds, _ in evaluations}}[after]
        return [(step, seconds - since, loss) for step, seconds, loss in evaluations if step > after]
    options = ["--threads", str(args.threads), *(["--autocast"] if "bf16" in subject else [])]
    if args.after is not None:
        run_dir = folder / f"first-{number}"
        if not run_dir.exists():
            # A run takes one step at least; its first weights are in the checkpoint before.
            steps = max(args.after, 1)
            train(recipe_of(args, number, f"train.max-steps={steps}", "train.floor=false")[0], run_dir, args)
        options += ["--model", run_dir / ("last" if args.after else "previous") / "model.safetensors"]
    output = run([sys.executable, HERE / "torch_lm.py", *options], subject, complete)
    return [(e["step"], e["seconds"], e["valid_loss"]) for e in map(json.loads, output.splitlines())]


def subjects_of(args):
    """What is run, and how a loss is written: words have their perplexity."""
    complete = json.loads(recipe_of(args, 1)[1])
    in_bf16 = complete["model"].get("precision") == "bf16"
    peers = [peer for peer in args.peers if in_bf16 or "bf16" not in peer]
    words = complete["data"]["tokens"] == "word"
    return ["refrain", *peers], lambda loss: f"{math.exp(loss):.2f} perplexity" if words else f"{loss:.4f} nats"


def training(args):
    results = {}
    subjects, written = subjects_of(args)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            # PyTorch first: it is the one that may not know the recipe.
            for subject in [*subjects[1:], "refrain"]:
                print(f"round {number + 1} of {args.rounds}: {subject}", file=sys.stderr)
                for step, seconds, loss in evaluations_of(subject, number + 1, args, Path(folder)):
                    results.setdefault(step, {}).setdefault(subject, []).append((seconds, loss))
    print(f"| step | {' | '.join(subjects)} | {' | '.join(f'{peer} / refrain' for peer in subjects[1:])} |")
    print("|---" * (2 * len(subjects)) + "|")
    for step, runs in results.items():
        seconds = [median(seconds for seconds, _ in runs[subject]) for subject in subjects]
        losses = [median(loss for _, loss in runs[subject]) for subject in subjects]
        cells = [f"{written(loss)}, {time:.1f} s" for time, loss in zip(seconds, losses)]
        ratios = [f"{time / seconds[0]:.2f}" for time in seconds[1:]]
        print(f"| {step} | {' | '.join([*cells, *ratios])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["training"])
    parser.add_argument("recipe", nargs="?", help="a recipe that torch_lm.py knows; the built-in one without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="those to run beside Refrain")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="round N trains with seed N")
    parser.add_argument("--refrain", type=Path, default=ROOT / "target/release/refrain", help="the built binary")
    parser.add_argument("--after", type=int, metavar="STEPS", help="of Refrain, from whose weights PyTorch begins")
    args = parser.parse_args()
    args.refrain = args.refrain.resolve()
    if not args.refrain.exists():
        parser.error(f"{args.refrain} is not there; `cargo build --release` makes it")
    if args.after:
        recipe = json.loads(recipe_of(args, 1)[1])
        every = recipe["train"]["eval-every"]
        if args.after < 0 or not every or args.after % every:
            parser.error(f"--after {args.after} is no multiple of train.eval-every = {every}")
        if recipe["schedule"]["name"] == "cosine":
            parser.error("--after needs a schedule that does not depend on the number of steps")
    training(args)


if __name__ == "__main__":
    main()
