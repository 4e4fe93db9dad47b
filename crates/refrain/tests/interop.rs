//! Weights of PyTorch: what its files hold, what layers make of them, and what we write for it. `golden/interop/make.py` made
//! the files, and `golden/interop/check.py` has PyTorch read ours.

mod support;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use refrain::interop::{InteropError, PyTorchRnn, RnnBias, RnnDirection, RnnKind, RnnLayer, StateDict};
use refrain::models::NamedTensor;
use refrain::nn::{
    Bidirectional, BidirectionalConfig, Connection, Gru, GruConfig, Initializer, InputGate, Layer, LstmConfig, Merge,
    MinGruConfig, Nonlinearity, Normalization, Peepholes, RecurrentOptions, ResetGate, Rnn, RnnConfig, Stack,
    StackConfig, Wiring,
};
use support::{Golden, assert_close, values};

const TOLERANCE: f32 = 1e-5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/interop")
}

fn read(file: &str) -> StateDict {
    StateDict::read(&folder().join(file)).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(file: &str) -> (String, String) {
    let error = StateDict::read(&folder().join(file)).expect_err("refused");
    let message = error.to_string();
    let path = folder().join(file).display().to_string();
    let message = message.strip_prefix(&format!("{path}: ")).expect("it names the file").to_owned();
    (message, error.hint().unwrap_or_default())
}

/// Runs a module of one direction over its input, and holds outputs and states against PyTorch's.
fn assert_runs_as_in_pytorch(name: &str, rnn: &PyTorchRnn, nonlinearity: Nonlinearity) {
    let (golden, device) = (Golden::read("interop"), Device::flex());
    let stack = rnn.stack(nonlinearity, &device).expect("one direction");
    let (output, states) = stack.forward(golden.tensor(&format!("{name}.input"), &device), None, None, None);
    assert_close(name, &values(output), golden.values(&format!("{name}.output")), TOLERANCE);
    let hidden: Vec<f32> = states.iter().flat_map(|state| values(state.hidden.clone())).collect();
    assert_close(name, &hidden, golden.values(&format!("{name}.last_hidden")), TOLERANCE);
    if rnn.kind == RnnKind::Lstm {
        let cells = states.into_iter().flat_map(|state| values(state.cell_state.expect("an LSTM has one")));
        let expected = golden.values(&format!("{name}.last_cell_state"));
        assert_close(name, &cells.collect::<Vec<_>>(), expected, TOLERANCE);
    }
}

#[test]
fn modules_of_one_direction_give_pytorchs_outputs_from_pt_files() {
    let cases = [
        ("lstm", RnnKind::Lstm, 1, true),
        ("lstm-deep", RnnKind::Lstm, 3, false),
        ("gru", RnnKind::Gru, 1, true),
        ("gru-no-bias", RnnKind::Gru, 1, false),
        ("rnn", RnnKind::Rnn, 2, true),
    ];
    for (name, kind, num_layers, has_bias) in cases {
        let rnn = read(&format!("{name}.pt")).rnn().expect("a module");
        let found = (rnn.kind, rnn.num_layers(), rnn.has_bias(), rnn.input_size, rnn.hidden_size);
        assert_eq!(found, (kind, num_layers, has_bias, 3, 4), "{name}");
        assert_eq!((rnn.is_bidirectional(), rnn.projection_size), (false, None), "{name}");
        assert_runs_as_in_pytorch(name, &rnn, Nonlinearity::Tanh);
    }
}

#[test]
fn a_relu_module_gives_pytorchs_outputs_if_the_caller_says_that_it_is_one() {
    let rnn = read("rnn-relu.pt").rnn().expect("a module");
    assert_runs_as_in_pytorch("rnn-relu", &rnn, Nonlinearity::Relu);
}

#[test]
fn safetensors_and_pt_files_hold_the_same_weights() {
    for name in ["lstm", "gru-bidirectional", "rnn-relu", "float64", "float16", "bfloat16"] {
        let [pickled, safe] = ["pt", "safetensors"].map(|extension| read(&format!("{name}.{extension}")));
        assert_eq!(pickled.tensors(), safe.tensors(), "{name}");
    }
}

#[test]
fn a_single_layer_becomes_a_layer_of_its_cell_and_of_no_other() {
    let (golden, device) = (Golden::read("interop"), Device::flex());
    let input = |name: &str| golden.tensor::<3>(&format!("{name}.input"), &device);
    let expected = |name: &str| golden.values(&format!("{name}.output")).to_vec();
    let module = |name: &str| read(&format!("{name}.pt")).rnn().expect("a module");

    let (output, _) = module("lstm").lstm(&device).expect("an LSTM").forward(input("lstm"), None, None, None);
    assert_close("lstm", &values(output), &expected("lstm"), TOLERANCE);
    let (output, _) = module("gru").gru(&device).expect("a GRU").forward(input("gru"), None, None, None);
    assert_close("gru", &values(output), &expected("gru"), TOLERANCE);
    let relu = module("rnn-relu").rnn(Nonlinearity::Relu, &device).expect("an RNN");
    assert_close(
        "rnn-relu",
        &values(relu.forward(input("rnn-relu"), None, None, None).0),
        &expected("rnn-relu"),
        TOLERANCE,
    );

    let error = module("gru").lstm(&device).expect_err("a GRU");
    assert_eq!(error.to_string(), "the module is an nn.GRU, not an nn.LSTM");
    let error = module("lstm-deep").lstm(&device).expect_err("three layers");
    assert_eq!(error.to_string(), "the module has 3 layers: it does not fit into a single layer");
    let error = module("gru-bidirectional").stack(Nonlinearity::Tanh, &device).expect_err("two directions");
    assert_eq!(error.to_string(), "the module is bidirectional: it does not fit into a stack");
    let named = PyTorchRnn { name: "encoder".into(), ..module("gru-bidirectional") };
    let error = named.stack(Nonlinearity::Tanh, &device).expect_err("two directions");
    assert_eq!(error.to_string(), "module `encoder` is bidirectional: it does not fit into a stack");
}

#[test]
fn each_direction_of_a_bidirectional_module_is_there_by_itself() {
    let (golden, device) = (Golden::read("interop"), Device::flex());
    let rnn = read("gru-bidirectional.safetensors").rnn().expect("a module");
    assert!(rnn.is_bidirectional());
    let mut features = golden.tensor::<3>("gru-bidirectional.input", &device);
    for layer in &rnn.layers {
        let reverse = layer.reverse.as_ref().expect("two directions");
        let (ahead, _) = layer.forward.gru(&device).forward(features.clone(), None, None, None);
        let (back, _) = reverse.gru(&device).forward(features.flip([1]), None, None, None);
        features = Tensor::cat(vec![ahead, back.flip([1])], 2);
    }
    assert_close("both ways", &values(features), golden.values("gru-bidirectional.output"), TOLERANCE);
}

#[test]
fn a_projected_bidirectional_lstm_is_described_and_computes_pytorchs_outputs_by_the_equations() {
    let golden = Golden::read("interop");
    let rnn = read("lstm-projected.pt").rnn().expect("a module");
    assert_eq!((rnn.kind, rnn.input_size, rnn.hidden_size, rnn.projection_size), (RnnKind::Lstm, 3, 4, Some(2)));
    assert_eq!((rnn.num_layers(), rnn.is_bidirectional(), rnn.has_bias()), (2, true, true));
    // [batch_size, seq_len, features], as lists.
    let mut batch: Vec<Vec<Vec<f32>>> = golden
        .values("lstm-projected.input")
        .chunks(5 * 3)
        .map(|sequence| sequence.chunks(3).map(<[f32]>::to_vec).collect())
        .collect();
    for layer in &rnn.layers {
        for sequence in &mut batch {
            let ahead = projected_lstm(&layer.forward, sequence);
            sequence.reverse();
            let mut back = projected_lstm(layer.reverse.as_ref().expect("two directions"), sequence);
            back.reverse();
            *sequence = ahead.into_iter().zip(back).map(|(ahead, back)| [ahead, back].concat()).collect();
        }
    }
    let found: Vec<f32> = batch.into_iter().flatten().flatten().collect();
    assert_close("projected", &found, golden.values("lstm-projected.output"), TOLERANCE);
}

/// An LSTM of 4 units projected to 2, in PyTorch's equations.
fn projected_lstm(weights: &RnnDirection, sequence: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let product = |matrix: &[f32], vector: &[f32]| -> Vec<f32> {
        matrix.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
    };
    let sigmoid = |sum: f32| 1.0 / (1.0 + (-sum).exp());
    let RnnBias { ih, hh } = weights.bias.as_ref().expect("biases");
    let (mut hidden, mut cell_state) = (vec![0.0; 2], [0.0; 4]);
    let steps = sequence.iter().map(|input| {
        let (from_input, from_hidden) = (product(&weights.weight_ih, input), product(&weights.weight_hh, &hidden));
        let sums: Vec<f32> = (0..16).map(|row| from_input[row] + ih[row] + from_hidden[row] + hh[row]).collect();
        let shown: Vec<f32> = (0..4)
            .map(|unit| {
                let [i, f, g, o] = [0, 4, 8, 12].map(|gate| sums[gate + unit]);
                cell_state[unit] = sigmoid(f) * cell_state[unit] + sigmoid(i) * g.tanh();
                sigmoid(o) * cell_state[unit].tanh()
            })
            .collect();
        hidden = product(weights.weight_hr.as_ref().expect("a projection"), &shown);
        hidden.clone()
    });
    steps.collect()
}

#[test]
fn a_module_inside_a_checkpoint_is_found_whatever_stands_beside_it() {
    for file in ["checkpoint.pt", "checkpoint-protocol-4.pt"] {
        let dict = read(file);
        assert_eq!(dict.rnn_names(), ["model.rnn"]);
        let rnn = dict.rnn().expect("the only module");
        assert_eq!((rnn.name.as_str(), rnn.kind, rnn.num_layers()), ("model.rnn", RnnKind::Gru, 2));
        let (golden, device) = (Golden::read("interop"), Device::flex());
        let stack = rnn.stack(Nonlinearity::Tanh, &device).expect("one direction");
        let (output, _) = stack.forward(golden.tensor("checkpoint.input", &device), None, None, None);
        assert_close(file, &values(output), golden.values("checkpoint.output"), TOLERANCE);

        assert_eq!(dict.get("model.embedding.weight").expect("there").shape, [5, 3]);
        // The optimiser keeps its state under numbers, and PyTorch the steps of a normalisation in whole ones.
        assert_eq!(dict.get("optimizer.state.1.exp_avg").expect("there").shape, [12, 3]);
        let error = dict.get("model.norm.num_batches_tracked").expect_err("an integer");
        assert!(
            error
                .to_string()
                .ends_with("tensor `model.norm.num_batches_tracked` is of int64, not of floating-point numbers")
        );
    }
}

#[test]
fn every_floating_point_type_becomes_f32_without_another_rounding() {
    let golden = Golden::read("interop");
    for dtype in ["float64", "float16", "bfloat16"] {
        let dict = read(&format!("{dtype}.pt"));
        assert_eq!(dict.tensors().len(), 4);
        for tensor in dict.tensors() {
            assert_eq!(tensor.values, golden.values(&format!("{dtype}.{}", tensor.name)), "{dtype}: {}", tensor.name);
        }
    }
}

#[test]
fn views_with_strides_and_offsets_are_read_as_pytorch_shows_them() {
    let (golden, dict) = (Golden::read("interop"), read("tensors.pt"));
    assert_eq!(dict.tensors().len(), 13);
    for tensor in dict.tensors() {
        assert_eq!(tensor.values, golden.values(&format!("tensors.{}", tensor.name)), "{}", tensor.name);
    }
    assert_eq!(dict.get("transposed").expect("there").shape, [6, 4]);
    assert_eq!(dict.get("scalar").expect("there").shape, [0; 0]);
    for (name, dtype) in [("counts", "int64"), ("mask", "bool"), ("complex", "complex64")] {
        let error = dict.get(name).expect_err("left out");
        assert!(matches!(&error, InteropError::NotFloat { dtype: found, .. } if found == dtype), "{error}");
    }
    assert_eq!(read("no-checksums.pt").tensors()[0].values, golden.values("tensors.whole"));
}

#[test]
fn code_and_the_format_before_1_6_are_refused_with_the_way_out() {
    let (message, hint) = refusal("refused-module.pt");
    assert!(
        message.ends_with("asks for `torch.nn.modules.linear.Linear`, which is no part of a state dictionary"),
        "{message}"
    );
    assert!(hint.contains("torch.save(model.state_dict(), path)"), "{hint}");
    let (message, _) = refusal("refused-device.pt");
    assert!(message.ends_with("asks for `torch.device`, which is no part of a state dictionary"), "{message}");
    let (message, hint) = refusal("refused-legacy.pt");
    assert_eq!(message, "is a PyTorch file from before version 1.6, or another pickle");
    assert!(hint.contains("save it again"), "{hint}");
    let (message, _) = refusal("make.py");
    assert_eq!(message, "is not a safetensors file, it looks like text");
    let missing = StateDict::read(&folder().join("none.pt")).expect_err("missing");
    assert!(missing.to_string().ends_with("none.pt: no such file or folder"), "{missing}");
}

#[test]
fn a_module_is_named_where_there_are_several() {
    let (lstm, gru) = (read("lstm.pt").rnn().expect("a module"), read("gru.pt").rnn().expect("a module"));
    let mut dict = StateDict::default();
    dict.insert(NamedTensor::new("head.weight", [1, 2], vec![0.5, 0.25]));
    let error = dict.rnn().expect_err("none");
    assert_eq!(error.to_string(), "no recurrent module: no tensor is called `weight_ih_l0`");
    assert_eq!(error.hint().as_deref(), Some("it holds `head.weight`"));
    dict.insert_rnn("encoder", &lstm);
    dict.insert_rnn("decoder.rnn", &gru);
    let error = dict.rnn().expect_err("two");
    assert_eq!(error.to_string(), "2 recurrent modules: `decoder.rnn`, `encoder`");
    assert_eq!(dict.rnn_named("encoder").expect("there"), PyTorchRnn { name: "encoder".into(), ..lstm });
    assert_eq!(dict.rnn_named("decoder.rnn").expect("there"), PyTorchRnn { name: "decoder.rnn".into(), ..gru });
    let error = dict.rnn_named("decoder").expect_err("not a whole name");
    assert_eq!(error.to_string(), "no tensor `decoder.weight_ih_l0`");
}

#[test]
fn tensors_that_do_not_go_together_are_named() {
    let whole = read("lstm-deep.pt");
    let fault = |change: &dyn Fn(&mut Vec<NamedTensor>)| {
        let mut tensors = whole.tensors().to_vec();
        change(&mut tensors);
        let mut dict = StateDict::default();
        for tensor in tensors {
            dict.insert(tensor);
        }
        dict.rnn().expect_err("a fault").to_string()
    };
    let zeros = |name: &str, shape: [usize; 2]| NamedTensor::new(name, shape, vec![0.0; shape[0] * shape[1]]);
    let cases: [(&str, String); 7] = [
        ("no tensor `weight_hh_l1`", fault(&|tensors| tensors.retain(|tensor| tensor.name != "weight_hh_l1"))),
        ("no tensor `weight_hh_l0`", fault(&|tensors| tensors.retain(|tensor| tensor.name != "weight_hh_l0"))),
        (
            "tensor `weight_ih_l1` has shape [16, 3], expected [16, 4]",
            fault(&|tensors| {
                tensors.retain(|tensor| tensor.name != "weight_ih_l1");
                tensors.push(zeros("weight_ih_l1", [16, 3]));
            }),
        ),
        (
            "tensor `weight_hh_l0` has shape [16, 5], expected 1, 3 or 4 times 5 rows, as many as weight_ih with 16",
            fault(&|tensors| {
                tensors.retain(|tensor| tensor.name != "weight_hh_l0");
                tensors.push(zeros("weight_hh_l0", [16, 5]));
            }),
        ),
        (
            "tensor `bias_ih_l1` has no place in a module of 3 layers with one direction, no biases and no projection",
            fault(&|tensors| tensors.push(NamedTensor::new("bias_ih_l1", [16], vec![0.0; 16]))),
        ),
        ("no tensor `bias_hh_l0`", fault(&|tensors| tensors.push(NamedTensor::new("bias_ih_l0", [16], vec![0.0; 16])))),
        ("no tensor `weight_ih_l3`", fault(&|tensors| tensors.push(zeros("weight_ih_l9999999999999999999", [16, 4])))),
    ];
    for (expected, found) in cases {
        assert_eq!(found, expected);
    }
}

/// A file of each format with these weights, each read again.
fn written(dict: &StateDict) -> [StateDict; 2] {
    let scratch = tempfile::tempdir().expect("a folder");
    let [pt, safe] = ["weights.pt", "weights.safetensors"].map(|name| scratch.path().join(name));
    dict.write_pt(&pt).expect("written");
    dict.write_safetensors(&safe).expect("written");
    [pt, safe].map(|path| StateDict::read(&path).expect("read"))
}

#[test]
fn what_is_read_is_written_back_to_the_bit() {
    for name in ["lstm-projected", "gru-bidirectional", "tensors", "checkpoint", "lstm-deep"] {
        let dict = read(&format!("{name}.pt"));
        for again in written(&dict) {
            assert_eq!(again.tensors(), dict.tensors(), "{name}");
        }
    }
    for name in ["lstm-projected", "gru-bidirectional", "gru-no-bias", "rnn"] {
        let rnn = PyTorchRnn { name: "some.where".into(), ..read(&format!("{name}.pt")).rnn().expect("a module") };
        let mut dict = StateDict::default();
        dict.insert_rnn("some.where", &rnn);
        for again in written(&dict) {
            assert_eq!(again.rnn().expect("a module"), rnn, "{name}");
        }
    }
}

#[test]
fn layers_come_back_from_a_file_to_the_bit() {
    let device = Device::flex();
    let gru = read("gru.pt").rnn().and_then(|rnn| rnn.gru(&device)).expect("a GRU");
    let relu = read("rnn-relu.pt").rnn().and_then(|rnn| rnn.rnn(Nonlinearity::Relu, &device)).expect("an RNN");
    let numbers = |gru: &Gru| [values(gru.weight_ih.val()), values(gru.weight_hh.val()), values(gru.bias.val())];
    let rnn_numbers = |rnn: &Rnn| [values(rnn.weight_ih.val()), values(rnn.weight_hh.val()), values(rnn.bias.val())];
    let mut dict = StateDict::default();
    dict.insert_rnn("a", &PyTorchRnn::try_from(&gru).expect("plain"));
    dict.insert_rnn("b", &PyTorchRnn::try_from(&relu).expect("plain"));
    // All but the candidate's second bias stands in bias_ih.
    let [bias_ih, bias_hh] = ["a.bias_ih_l0", "a.bias_hh_l0"].map(|name| &dict.get(name).expect("there").values);
    let bias = values(gru.bias.val());
    assert_eq!((&bias_ih[..], &bias_hh[..8], &bias_hh[8..]), (&bias[..12], &[0.0; 8][..], &bias[12..]));
    for again in written(&dict) {
        let again_gru = again.rnn_named("a").and_then(|rnn| rnn.gru(&device)).expect("a GRU");
        assert_eq!(numbers(&again_gru), numbers(&gru));
        let again_relu = again.rnn_named("b").and_then(|rnn| rnn.rnn(Nonlinearity::Relu, &device)).expect("an RNN");
        assert_eq!(rnn_numbers(&again_relu), rnn_numbers(&relu));
    }
}

#[test]
fn a_stack_of_different_layers_is_no_module() {
    let device = Device::flex();
    let stack = |name: &str, nonlinearity| {
        read(&format!("{name}.pt")).rnn().and_then(|rnn| rnn.stack(nonlinearity, &device)).expect("a stack")
    };
    let mut mixed = stack("rnn", Nonlinearity::Tanh);
    let deep = stack("lstm-deep", Nonlinearity::Tanh);
    mixed.layers.push(deep.layers[1].clone());
    let error = PyTorchRnn::try_from(&mixed).expect_err("two cells");
    let expected = "layer 2 of the stack is an LSTM from 4 features to 4 units, but a PyTorch module here has an RNN of tanh \
                    from 4 features to 4 units";
    assert_eq!(error.to_string(), expected);
    mixed.layers.truncate(1);
    mixed.layers.push(stack("rnn", Nonlinearity::Relu).layers[1].clone());
    let error = PyTorchRnn::try_from(&mixed).expect_err("two nonlinearities");
    assert!(error.to_string().contains("is an RNN of relu"), "{error}");
    mixed.layers.clear();
    assert!(matches!(PyTorchRnn::try_from(&mixed), Err(InteropError::MixedStack { layer: 0, .. })));
}

#[test]
fn a_bidirectional_module_gives_pytorchs_outputs_and_comes_back() {
    let (golden, device) = (Golden::read("interop"), Device::flex());
    for file in ["gru-bidirectional.pt", "gru-bidirectional.safetensors"] {
        let rnn = read(file).rnn().expect("a module");
        let module = rnn.bidirectional(Nonlinearity::Tanh, &device).expect("two directions");
        let (output, states) = module.forward(golden.tensor("gru-bidirectional.input", &device), None, None, None);
        assert_close(file, &values(output), golden.values("gru-bidirectional.output"), TOLERANCE);
        // PyTorch's states, too, are layer by layer, forward first.
        let hidden = states.into_iter().flatten().flatten().flat_map(|state| values(state.hidden));
        let hidden = hidden.collect::<Vec<_>>();
        assert_close(file, &hidden, golden.values("gru-bidirectional.last_hidden"), TOLERANCE);

        let again = PyTorchRnn::try_from(&module).expect("interleaved and concatenated");
        assert_eq!((again.kind, again.input_size, again.hidden_size), (RnnKind::Gru, 3, 4));
        assert_eq!((again.num_layers(), again.is_bidirectional()), (2, true));
        for (layer, expected) in again.layers.iter().zip(&rnn.layers) {
            let directions =
                |layer: &RnnLayer| [Some(layer.forward.clone()), layer.reverse.clone()].map(Option::unwrap);
            for (direction, expected) in directions(layer).into_iter().zip(directions(expected)) {
                assert_eq!(direction.weight_ih, expected.weight_ih);
                assert_eq!(direction.weight_hh, expected.weight_hh);
            }
        }
        // Summed once, its biases stay as they are.
        let twice = again.bidirectional(Nonlinearity::Tanh, &device).expect("two directions");
        assert_eq!(PyTorchRnn::try_from(&twice).expect("the same again"), again);
    }
    let error = read("gru.pt").rnn().and_then(|rnn| rnn.bidirectional(Nonlinearity::Tanh, &device)).expect_err("one");
    assert_eq!(error.to_string(), "the module is of one direction: it does not fit into a bidirectional layer");
    let projected = read("lstm-projected.pt").rnn().expect("a module");
    let module = projected.bidirectional(Nonlinearity::Tanh, &device).expect("two directions");
    let (output, _) = module.forward(golden.tensor("lstm-projected.input", &device), None, None, None);
    assert_close("lstm-projected", &values(output), golden.values("lstm-projected.output"), TOLERANCE);
    let again = PyTorchRnn::try_from(&module).expect("one cell");
    assert_eq!((again.hidden_size, again.projection_size), (projected.hidden_size, projected.projection_size));
    for (layer, expected) in again.layers.iter().zip(&projected.layers) {
        assert_eq!(layer.forward.weight_hr, expected.forward.weight_hr);
        assert_eq!(layer.forward.weight_hh, expected.forward.weight_hh);
    }
}

type Change = fn(&mut LstmConfig);

#[test]
fn what_no_pytorch_module_has_is_refused_by_name() {
    let device = Device::flex();
    let lstm = |change: Change| {
        let mut config = LstmConfig::new(4, 4);
        change(&mut config);
        config.init(&mut Initializer::new(1, &device))
    };
    let changes: [(Change, &str); 5] = [
        (|config| config.input_gate = InputGate::Coupled, "coupled gates"),
        (|config| config.peepholes = Peepholes::Diagonal, "peepholes"),
        (|config| config.options.zoneout_hidden = 0.1, "zoneout"),
        (|config| config.options.zoneout_cell = 0.1, "zoneout"),
        (|config| config.normalization = Normalization::Layer, "normalised sums"),
    ];
    let refused = |error: InteropError, name: &str, what: &str| {
        assert_eq!(error.to_string(), format!("{name} has {what}, which no PyTorch module has"));
    };
    for (change, what) in changes {
        refused(PyTorchRnn::try_from(&lstm(change)).expect_err(what), "the LSTM", what);
        refused(RnnDirection::try_from(&lstm(change)).expect_err(what), "the LSTM", what);
        let stack = Stack::from_layers(vec![lstm(|_| {}).into(), lstm(change).into()], 0.0);
        refused(PyTorchRnn::try_from(&stack).expect_err(what), "layer 1 of the stack", what);
        let both = Bidirectional::from_layers(vec![[lstm(|_| {}).into(), lstm(change).into()]], Merge::Concat, 0.0);
        refused(PyTorchRnn::try_from(&both).expect_err(what), "layer 0 of the bidirectional layer", what);
    }
    let options = RecurrentOptions { zoneout_hidden: 0.1, ..RecurrentOptions::default() };
    let gru = GruConfig { options, ..GruConfig::new(4, 4) }.init(&mut Initializer::new(1, &device));
    refused(PyTorchRnn::try_from(&gru).expect_err("zoneout"), "the GRU", "zoneout");
    let rnn = RnnConfig { options, ..RnnConfig::new(4, 4) }.init(&mut Initializer::new(1, &device));
    refused(PyTorchRnn::try_from(&rnn).expect_err("zoneout"), "the RNN", "zoneout");

    let init = &mut Initializer::new(1, &device);
    let gru = GruConfig { reset: ResetGate::BeforeProduct, ..GruConfig::new(4, 4) }.init(init);
    let what = "the reset gate before the product";
    refused(PyTorchRnn::try_from(&gru).expect_err(what), "the GRU", what);
    let gru = GruConfig { normalization: Normalization::Layer, ..GruConfig::new(4, 4) }.init(init);
    refused(PyTorchRnn::try_from(&gru).expect_err("normalised"), "the GRU", "normalised sums");
    let stack = StackConfig::uniform(MinGruConfig::new(4, 4), 2).init(init);
    refused(PyTorchRnn::try_from(&stack).expect_err("minimal"), "layer 0 of the stack", "minimal GRUs");

    let plain = StackConfig::uniform(LstmConfig::new(4, 4), 2);
    for (connection, what) in
        [(Connection::Residual, "residual connections"), (Connection::Highway, "highway connections")]
    {
        let stack = StackConfig { connection, ..plain.clone() }.init(&mut Initializer::new(1, &device));
        refused(PyTorchRnn::try_from(&stack).expect_err(what), "the stack", what);
    }
    let both = BidirectionalConfig::new(plain);
    for (config, what) in [
        (BidirectionalConfig { merge: Merge::Sum, ..both.clone() }, "a sum of its directions"),
        (BidirectionalConfig { merge: Merge::Mean, ..both.clone() }, "a mean of its directions"),
        (BidirectionalConfig { wiring: Wiring::Independent, ..both }, "independent directions of several layers"),
    ] {
        let module = config.init(&mut Initializer::new(1, &device));
        refused(PyTorchRnn::try_from(&module).expect_err(what), "the bidirectional layer", what);
    }
}

#[test]
fn directions_of_different_layers_are_no_module() {
    let device = Device::flex();
    let gru = |input_size, hidden_size| -> Layer {
        GruConfig::new(input_size, hidden_size).init(&mut Initializer::new(1, &device)).into()
    };
    let both = |layers| PyTorchRnn::try_from(&Bidirectional::from_layers(layers, Merge::Concat, 0.0));
    let error = both(vec![[gru(3, 4), gru(3, 5)]]).expect_err("two sizes");
    let expected = "layer 0 of the bidirectional layer is a GRU from 3 features to 5 units, but a PyTorch module here has a GRU \
                    from 3 features to 4 units";
    assert_eq!(error.to_string(), expected);
    let error = both(vec![[gru(3, 4), gru(3, 4)], [gru(4, 4), gru(8, 4)]]).expect_err("half the features");
    assert!(error.to_string().starts_with("layer 1 of the bidirectional layer is a GRU from 4 features"), "{error}");
    assert!(both(vec![[gru(3, 4), gru(3, 4)], [gru(8, 4), gru(8, 4)]]).is_ok());
    assert!(matches!(both(Vec::new()), Err(InteropError::MixedStack { layer: 0, .. })));
}

/// What we write of our layers: PyTorch was seen to read it.
const OURS: [(&str, Nonlinearity); 8] = [
    ("lstm", Nonlinearity::Tanh),
    ("lstm-deep", Nonlinearity::Tanh),
    ("gru", Nonlinearity::Tanh),
    ("gru-no-bias", Nonlinearity::Tanh),
    ("rnn", Nonlinearity::Tanh),
    ("rnn-relu", Nonlinearity::Relu),
    ("gru-bidirectional", Nonlinearity::Tanh),
    ("lstm-projected", Nonlinearity::Tanh),
];

fn ours(name: &str, nonlinearity: Nonlinearity) -> StateDict {
    let rnn = read(&format!("{name}.pt")).rnn().expect("a module");
    let mut dict = StateDict::default();
    let device = Device::flex();
    let module = if rnn.is_bidirectional() {
        PyTorchRnn::try_from(&rnn.bidirectional(nonlinearity, &device).expect("two directions"))
    } else {
        PyTorchRnn::try_from(&rnn.stack(nonlinearity, &device).expect("one direction"))
    };
    dict.insert_rnn("", &module.expect("one cell"));
    dict
}

#[test]
fn we_write_the_bytes_that_pytorch_was_seen_to_read() {
    // It stays there, for check.py to have PyTorch read it, should the bytes have to change.
    let written = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    std::fs::create_dir_all(&written).expect("a folder");
    for (name, nonlinearity) in OURS {
        let dict = ours(name, nonlinearity);
        let [pt, safe] = ["pt", "safetensors"].map(|extension| format!("{name}.{extension}"));
        dict.write_pt(&written.join(&pt)).expect("written");
        dict.write_safetensors(&written.join(&safe)).expect("written");
        for file in [pt, safe] {
            let found = std::fs::read(written.join(&file)).expect("there");
            let expected = std::fs::read(folder().join("ours").join(&file)).expect("the fixture is in the repository");
            let where_it_is = written.display();
            assert!(found == expected, "{file} in {where_it_is} has other bytes than those that check.py has loaded");
        }
    }
}
