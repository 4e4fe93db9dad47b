"""What the peers' speed is measured on: the cases, how they are timed, and the JSON line that reports one.

`refrain bench` names its cases alike and writes the same line, so lines of both can be set side by side.
Standard library alone: each peer's script brings its own.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

# glibc settings that spare a peer which allocates its tensors anew in every step most of its page faults.
TUNED = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592"
NUM_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TRANSFORMER = "transformer"  # causal, pre-norm, rotary positions, GELU, four times as many units
NUM_HEADS = 4
GENERATED_TOKENS = 400

EPILOG = f"""\
Each case prints one JSON line: the median seconds of its repeats, after warm-up, and the rates that
follow. Floating-point operations are those of the matrix products, two per multiply-add; a backward
pass counts as two forward ones.

"Tuned" figures are those under the environment setting

  GLIBC_TUNABLES={TUNED}

which saves much of what the larger shapes lose in page faults: report both. Shared machines drift: run
peer and subject in turn, several times, and compare medians.
"""


class Network(NamedTuple):
    """Embedding, layers, linear head. The embedding is as wide as the state of one direction."""

    cell: str  # a key of NUM_GATES, or TRANSFORMER
    vocab_size: int  # 0 for the recurrent layers alone
    hidden_size: int
    num_layers: int
    num_directions: int = 1

    def flops(self, num_tokens):
        """Operations of one forward pass."""
        output_size = self.num_directions * self.hidden_size
        if self.cell == TRANSFORMER:
            blocks = self.num_layers * 12 * self.hidden_size**2
            return 2 * num_tokens * (blocks + output_size * self.vocab_size)
        layer_inputs = self.hidden_size + (self.num_layers - 1) * output_size
        gate_rows = self.num_directions * NUM_GATES[self.cell] * self.hidden_size
        recurrent = gate_rows * (layer_inputs + self.num_layers * self.hidden_size)
        return 2 * num_tokens * (recurrent + output_size * self.vocab_size)


class Case(NamedTuple):
    name: str
    network: Network
    batch_size: int
    seq_len: int

    @property
    def num_tokens(self):
        return self.batch_size * self.seq_len


TRAIN = [
    Case("lstm-h128", Network("LSTM", 96, 128, 2), 32, 64),
    Case("lstm-h512", Network("LSTM", 96, 512, 2), 64, 128),
    Case("lstm-h1024", Network("LSTM", 96, 1024, 1), 64, 128),
    Case("gru-h128", Network("GRU", 96, 128, 2), 32, 64),
    Case("gru-h512", Network("GRU", 96, 512, 2), 64, 128),
    Case("rnn-h128", Network("RNN", 96, 128, 2), 32, 64),
    Case("rnn-h512", Network("RNN", 96, 512, 2), 64, 128),
    Case("transformer-h256", Network(TRANSFORMER, 96, 256, 6), 32, 128),
    Case("bilstm-h256", Network("LSTM", 96, 256, 2, num_directions=2), 32, 64),
    Case("ptb-small", Network("LSTM", 10_000, 200, 2), 20, 20),
    Case("ptb-medium", Network("LSTM", 10_000, 650, 2), 20, 35),
    Case("wikitext2-650", Network("LSTM", 33_278, 650, 2), 20, 35),
]
LAYER_SHAPES = [(128, 32, 64), (256, 64, 100), (512, 64, 128), (650, 20, 35), (1024, 16, 100)]
LAYER = [
    Case(
        f"{cell.lower()}-h{hidden_size}-b{batch_size}-t{seq_len}", Network(cell, 0, hidden_size, 1), batch_size, seq_len
    )
    for cell in NUM_GATES
    for hidden_size, batch_size, seq_len in LAYER_SHAPES
]
GENERATE = {
    "lstm-h512": Network("LSTM", 96, 512, 2),
    "lstm-h1024": Network("LSTM", 96, 1024, 2),
    "gru-h512": Network("GRU", 96, 512, 2),
    "lstm-h650-v10k": Network("LSTM", 10_000, 650, 2),
}


def cases_of(kind, streams=1):
    """Inference reads the windows that training does; several streams at once are cases of their own name."""
    if kind == "generate":
        suffix = f"-b{streams}" if streams > 1 else ""
        return [Case(name + suffix, network, streams, GENERATED_TOKENS) for name, network in GENERATE.items()]
    return LAYER if kind == "layer" else TRAIN


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def arguments(description, kinds, dtypes):
    """The command line of a peer that has these kinds and dtypes, with the chosen `cases` and `dtypes`."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--only", metavar="TEXT", default="", help="the cases whose name holds TEXT")
    parser.add_argument("--exact", metavar="NAME", help="the case of this name alone")
    parser.add_argument(
        "--threads", metavar="N", type=int, default=0, help="default: PyTorch's own choice; all for ONNX Runtime"
    )
    parser.add_argument("--repeats", metavar="N", type=positive, default=5, help="timed runs of a case; default 5")
    parser.add_argument("--dtype", choices=[*dtypes, "both"] if len(dtypes) > 1 else dtypes, default="f32")
    parser.add_argument(
        "--streams",
        metavar="N",
        type=positive,
        default=1,
        help="of generate: N texts at once, as the cases NAME-bN (lstm-h512-b64 for 64); default 1",
    )
    args = parser.parse_args()
    if args.streams > 1 and args.kind != "generate":
        parser.error("--streams is of generate alone")
    offered = cases_of(args.kind, args.streams)
    args.cases = [case for case in offered if args.only in case.name and args.exact in (None, case.name)]
    if not args.cases:
        parser.error(f"no such case of {args.kind}; there are {', '.join(case.name for case in offered)}")
    args.dtypes = dtypes if args.dtype == "both" else [args.dtype]
    return args


def median_seconds(kind, step, repeats):
    """Of `repeats` runs, after two that do not count; one is enough where a run is hundreds of small steps."""
    for _ in range(1 if kind == "generate" else 2):
        step()
    return median(seconds_of(step) for _ in range(repeats))


def seconds_of(step):
    since = time.perf_counter()
    step()
    return time.perf_counter() - since


def report(peer, kind, case, dtype, threads, seconds):
    passes = 3 if kind in ("train", "layer") else 1
    line = {
        "peer": peer,
        "kind": kind,
        "case": case.name,
        "dtype": dtype,
        "threads": threads,
        "seconds": round(seconds, 6),
        "tokens_per_second": round(case.num_tokens / seconds, 1),
        "gflops_per_second": round(passes * case.network.flops(case.num_tokens) / seconds / 1e9, 1),
    }
    if kind == "train":
        line["peak_bytes"] = peak_bytes()
    print(json.dumps(line), flush=True)


def peak_bytes():
    """The most memory this process has held so far.

    Linux has it as VmHWM; `ru_maxrss` there may be that of the program that started this one.
    """
    status = Path("/proc/self/status")
    for entry in status.read_text().splitlines() if status.exists() else []:
        if entry.startswith("VmHWM:"):
            return int(entry.split()[1]) * 1024
    import resource  # which not every system has

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
