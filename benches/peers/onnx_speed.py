#!/usr/bin/env python3
"""Time ONNX Runtime on the inference cases of `refrain bench`, as a peer beside them.

  pip install onnx onnxruntime numpy
  python onnx_speed.py infer --only lstm-h --threads 2
  python onnx_speed.py generate --exact lstm-h512-b64 --streams 64

infer     embedding, recurrent layers and linear head over one window, from a zero state
generate  400 tokens one after another, each sampled by NumPy from the softmax of the logits before it

The graphs are built here, from ONNX's own recurrent operators and random weights: speed does not depend
on them, nor on the order of the gates. f32 alone, which is what those operators take on a processor; the
package does not train, so `train` and `layer` are missing, and no graph is built of the transformer.
"""

import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import cases

# Old enough for any ONNX Runtime of the last years, whatever the `onnx` package's own newest is.
OPSET, IR_VERSION = 17, 8


class Graph:
    """A language model in ONNX, layer by layer.

    `tokens` [seq_len, batch_size] and the states of its layers go in; `logits` [seq_len * batch_size,
    vocab_size] and the final states come out, in the order of `state_names`.
    """

    def __init__(self, case, rng):
        self.network, self.rng = case.network, rng
        self.state_shape = [case.network.num_directions, case.batch_size, case.network.hidden_size]
        self.nodes, self.weights, self.state_names = [], [], []
        network = case.network
        embedding = self.weight("embedding", network.vocab_size, network.hidden_size)
        value = self.add("Gather", [embedding, "tokens"], "embedded")
        input_size = network.hidden_size
        for layer in range(network.num_layers):
            value = self.recurrent_layer(layer, value, input_size)
            input_size = network.num_directions * network.hidden_size
        head = [self.weight("head", input_size, network.vocab_size), self.weight("head_bias", network.vocab_size)]
        self.add("Gemm", [self.reshaped(value, [-1, input_size], "features"), *head], "logits")

    def add(self, operator, inputs, *outputs, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def weight(self, name, *shape):
        scale = self.network.hidden_size**-0.5
        array = self.rng.uniform(-scale, scale, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def reshaped(self, value, shape, name):
        self.weights.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{name}_shape"))
        return self.add("Reshape", [value, f"{name}_shape"], name)

    def recurrent_layer(self, layer, value, input_size):
        network = self.network
        directions, rows = network.num_directions, cases.NUM_GATES[network.cell] * network.hidden_size
        states = [f"hidden_{layer}", f"cell_state_{layer}"][: 2 if network.cell == "LSTM" else 1]
        self.state_names += states
        attributes = {"linear_before_reset": 1} if network.cell == "GRU" else {}  # as PyTorch's
        output = self.add(
            network.cell,
            [
                value,
                self.weight(f"input_weight_{layer}", directions, rows, input_size),
                self.weight(f"recurrent_weight_{layer}", directions, rows, network.hidden_size),
                self.weight(f"bias_{layer}", directions, 2 * rows),
                "",  # every sequence is of full length
                *states,
            ],
            f"output_{layer}",
            *(f"next_{name}" for name in states),
            hidden_size=network.hidden_size,
            direction="bidirectional" if directions == 2 else "forward",
            **attributes,
        )
        # [seq_len, directions, batch_size, hidden_size] -> [seq_len, batch_size, directions * hidden_size]
        side_by_side = self.add("Transpose", [output], f"transposed_{layer}", perm=[0, 2, 1, 3])
        return self.reshaped(side_by_side, [0, 0, -1], f"flat_{layer}")

    def session(self, threads):
        def floats(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["seq_len", "batch_size"])
        inputs = [tokens, *(floats(name, self.state_shape) for name in self.state_names)]
        outputs = [floats("logits", ["rows", self.network.vocab_size])]
        outputs += [floats(f"next_{name}", self.state_shape) for name in self.state_names]
        graph = helper.make_graph(self.nodes, "language_model", inputs, outputs, self.weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def zero_state(self):
        return {name: np.zeros(self.state_shape, dtype=np.float32) for name in self.state_names}


def inference(case, threads, rng):
    graph = Graph(case, rng)
    session = graph.session(threads)
    tokens = rng.integers(case.network.vocab_size, size=(case.seq_len, case.batch_size))
    feeds = {"tokens": tokens, **graph.zero_state()}
    return lambda: session.run(["logits"], feeds)


def generation(case, threads, rng):
    graph = Graph(case, rng)
    session = graph.session(threads)

    def step():
        tokens, state = np.zeros((1, case.batch_size), dtype=np.int64), graph.zero_state()
        for _ in range(case.seq_len):
            logits, *states = session.run(None, {"tokens": tokens, **state})
            state = dict(zip(graph.state_names, states))
            tokens = sampled(logits, rng)[np.newaxis]

    return step


def sampled(logits, rng):
    """One index for each row, drawn from the row's softmax by the inverse of its cumulative sum."""
    cumulative = np.exp(logits - logits.max(axis=-1, keepdims=True)).cumsum(axis=-1)
    draws = rng.random(len(logits), dtype=np.float32) * cumulative[:, -1]
    return np.array([row.searchsorted(draw) for row, draw in zip(cumulative, draws)])


KINDS = {"infer": inference, "generate": generation}


def main():
    args = cases.arguments(__doc__, list(KINDS), dtypes=["f32"])
    # It does not tell how many it would take by itself, and a line has to.
    threads = args.threads or os.cpu_count()
    rng = np.random.default_rng(0)
    for case in args.cases:
        if case.network.cell == cases.TRANSFORMER:
            continue  # what is measured here are ONNX's recurrent operators
        seconds = cases.median_seconds(args.kind, KINDS[args.kind](case, threads, rng), args.repeats)
        cases.report(f"onnxruntime-{onnxruntime.__version__}", args.kind, case, "f32", threads, seconds)


if __name__ == "__main__":
    main()
