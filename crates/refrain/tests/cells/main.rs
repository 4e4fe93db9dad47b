//! The fused layers of every cell, against PyTorch, against the composed ones, against finite differences and against themselves.

mod case;
mod options;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use case::Case;
use refrain::kernels::{Engine, Isa};
use refrain::nn::{
    Cell, Direction, GruConfig, Initializer, InputGate, Layer, LayerConfig, LstmConfig, MinGruConfig, Nonlinearity,
    Precision, RecurrentOptions, RecurrentState, RnnConfig,
};
use support::{Golden, assert_close, numbers, values};

/// `[batch_size, seq_len, input_size, hidden_size]`: ones, primes, one past a vector.
const SIZES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [2, 3, 5, 7],
    [3, 13, 17, 33],
    [5, 2, 31, 16],
    [7, 4, 3, 65],
    [1, 29, 2, 19],
    [67, 3, 4, 5],
    [2, 260, 5, 7],
];

/// The engine is the process's: tests that change it take turns.
static ENGINE: Mutex<()> = Mutex::new(());

/// An initial layer of this cell.
fn layer(cell: Cell, input_size: usize, hidden_size: usize, device: &Device) -> Layer {
    let rnn = |nonlinearity| RnnConfig { nonlinearity, ..RnnConfig::new(input_size, hidden_size) };
    let config: LayerConfig = match cell {
        Cell::Lstm => LstmConfig::new(input_size, hidden_size).into(),
        Cell::CoupledLstm => {
            LstmConfig { input_gate: InputGate::Coupled, ..LstmConfig::new(input_size, hidden_size) }.into()
        }
        Cell::Gru => GruConfig::new(input_size, hidden_size).into(),
        Cell::MinGru => MinGruConfig::new(input_size, hidden_size).into(),
        Cell::RnnTanh => rnn(Nonlinearity::Tanh).into(),
        Cell::RnnRelu => rnn(Nonlinearity::Relu).into(),
    };
    config.init(&mut Initializer::new(1, device))
}

/// Every cell's cases in the fixtures: the file, the case's name, and what is close enough.
fn golden_cases() -> impl Iterator<Item = (Cell, &'static str, String, f32)> {
    let lstm = (0..7).map(|number| {
        // Case 5 saturates its gates with weights twenty times as large, which makes it ill-conditioned:
        // PyTorch itself, in f32, is 3.1e-5 from the exact answer there and below 6e-7 everywhere else.
        (Cell::Lstm, "lstm", format!("case{number}"), if number == 5 { 1e-4 } else { 1e-5 })
    });
    let others = [(Cell::Gru, "gru"), (Cell::RnnTanh, "rnn"), (Cell::RnnRelu, "rnn-relu")].into_iter();
    lstm.chain(
        others.flat_map(|(cell, name)| (0..5).map(move |number| (cell, "recurrent", format!("{name}{number}"), 1e-5))),
    )
}

/// Runs `test` under every instruction set of this processor.
fn under_every_isa(test: impl Fn(Isa)) {
    let _turn = ENGINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for isa in Isa::supported() {
        Engine::set_current(Engine::new(isa, 2).expect("supported"));
        test(isa);
    }
    Engine::set_current(Engine::new(Isa::detect(), 2).expect("supported"));
}

#[test]
fn outputs_and_gradients_are_pytorchs() {
    let fixtures = ["lstm", "recurrent"].map(|file| (file, Golden::read(file)));
    let fixtures = BTreeMap::from(fixtures);
    under_every_isa(|isa| {
        for (cell, file, name, tolerance) in golden_cases() {
            let golden = &fixtures[file];
            let case = Case::golden(cell, golden, &name, &Device::flex().autodiff());
            for (part, found) in case.run(Case::fused) {
                let key = format!("{name}.{part}");
                assert_close(&format!("{isa} {key}"), &found, golden.values(&key), tolerance);
            }
        }
    });
}

#[test]
fn the_composed_layers_are_pytorchs() {
    for (cell, file, name, tolerance) in golden_cases().filter(|(_, _, name, _)| name.ends_with('2')) {
        let golden = Golden::read(file);
        let case = Case::golden(cell, &golden, &name, &Device::flex().autodiff());
        for (part, found) in case.run(Case::composed) {
            let key = format!("{name}.{part}");
            assert_close(&key, &found, golden.values(&key), tolerance);
        }
    }
}

#[test]
fn the_fused_layers_are_the_composed_ones() {
    under_every_isa(|isa| {
        for cell in Cell::ALL {
            for size in SIZES {
                for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
                    let case = Case::random(cell, size, &device);
                    let composed = case.run(Case::composed);
                    for (part, fused) in case.run(Case::fused) {
                        let what = format!("{isa} {cell:?} {size:?} {part}");
                        let tolerance = if part.starts_with("d_") { 1e-4 } else { 1e-5 };
                        assert_close(&what, &fused, &composed[part], tolerance);
                    }
                }
            }
        }
    });
}

#[test]
fn the_gates_are_those_of_the_equations() {
    let _turn = ENGINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let device = Device::flex();
    for cell in Cell::ALL {
        let layer = layer(cell, 4, 37, &device);
        let input: Tensor<3> = numbers([5, 6, 4], 1, &device);
        let lengths = [6, 0, 3, 1, 5];
        let first_step = input.clone().narrow(1, 0, 1);
        let (output, state) = layer.forward(input.clone(), Some(&lengths), None, None);
        let trace = layer.gates(input, Some(&lengths), None);
        assert_eq!(values(trace.hidden.clone()), values(output), "{cell:?}");
        let gate = |name| trace.gate(name).unwrap_or_else(|| panic!("{cell:?} has no {name} gate")).clone();
        let ended = |tensor: &Tensor<3>| values(tensor.clone().slice([2..3, 3..6, 0..37]));
        assert!(ended(&trace.hidden).iter().all(|&value| value == 0.0));
        // From a state of zeros the gates of the first step are functions of the input's sums alone.
        let parameters = layer.sequence_in(Direction::Forward, first_step.clone(), None, None, None);
        let sums = Tensor::<2>::from_dispatch(parameters.weight_ih).transpose();
        let sums = first_step.reshape([5, 4]).matmul(sums);
        let bias = Tensor::<1>::from_dispatch(parameters.bias).narrow(0, 0, cell.num_gates() * 37);
        let sums = sums + bias.unsqueeze();
        let names: &[&str] = match cell {
            Cell::Lstm => &["input", "forget", "candidate", "output"],
            Cell::CoupledLstm => &["forget", "candidate", "output"],
            Cell::Gru => &["reset", "update"],
            Cell::MinGru => &["update", "candidate"],
            Cell::RnnTanh | Cell::RnnRelu => &[],
        };
        for (index, &name) in names.iter().enumerate() {
            let sum = sums.clone().narrow(1, index * 37, 37);
            let expected = match (name, cell) {
                ("candidate", Cell::MinGru) => sum,
                ("candidate", _) => sum.tanh(),
                _ => burn::tensor::activation::sigmoid(sum),
            };
            // The second sequence has no steps.
            let rows = |of: Tensor<2>| Tensor::cat(vec![of.clone().narrow(0, 0, 1), of.narrow(0, 2, 3)], 0);
            let found = gate(name).narrow(1, 0, 1).reshape([5, 37]);
            assert_close(&format!("{cell:?} {name}"), &values(rows(found)), &values(rows(expected)), 1e-5);
        }
        match cell {
            Cell::Lstm | Cell::CoupledLstm => {
                let cell_state = trace.cell_state.clone().expect("an LSTM");
                let before =
                    Tensor::cat(vec![Tensor::zeros([5, 1, 37], &device), cell_state.clone().narrow(1, 0, 5)], 1);
                let input_gate = if cell == Cell::Lstm { gate("input") } else { -gate("forget") + 1.0 };
                let expected = gate("forget") * before + input_gate * gate("candidate");
                // Where a sequence has ended, every gate reads zero.
                let running = gate("output").greater_elem(0.0).float();
                assert_close("c", &values(cell_state.clone()), &values(expected * running), 1e-6);
                assert_close(
                    "h",
                    &values(trace.hidden.clone()),
                    &values(gate("output") * cell_state.clone().tanh()),
                    1e-6,
                );
                let last = cell_state.slice([4..5, 4..5, 0..37]);
                assert_eq!(values(last), values(state.cell_state.expect("an LSTM").slice([4..5, 0..37])));
            }
            Cell::Gru => {
                let hidden = trace.hidden.clone();
                let before = Tensor::cat(vec![Tensor::zeros([5, 1, 37], &device), hidden.clone().narrow(1, 0, 5)], 1);
                let running = gate("update").greater_elem(0.0).float();
                let expected = gate("candidate") + gate("update") * (before - gate("candidate"));
                assert_close("h", &values(hidden), &values(expected * running), 1e-6);
                assert!(values(gate("reset")).iter().all(|gate| (0.0..1.0).contains(gate)));
            }
            Cell::MinGru => {
                let hidden = trace.hidden.clone();
                let before = Tensor::cat(vec![Tensor::zeros([5, 1, 37], &device), hidden.clone().narrow(1, 0, 5)], 1);
                let expected = before.clone() + gate("update") * (gate("candidate") - before);
                let running = gate("update").greater_elem(0.0).float();
                assert_close("h", &values(hidden), &values(expected * running), 1e-6);
            }
            Cell::RnnTanh | Cell::RnnRelu => assert!(trace.gates.is_empty() && trace.cell_state.is_none()),
        }
    }
}

#[test]
#[should_panic(expected = "length 1 is 4 but the sequences have 3 steps")]
fn a_length_beyond_the_input_is_refused() {
    let case = Case { lengths: Some(vec![3, 4]), ..Case::random(Cell::Gru, [2, 3, 4, 5], &Device::flex().autodiff()) };
    case.fused();
}

#[test]
#[should_panic(expected = "zoneout_hidden is 1 but must be at least 0 and below 1")]
fn a_share_of_everything_is_refused_at_construction() {
    let options = RecurrentOptions { zoneout_hidden: 1.0, ..RecurrentOptions::default() };
    GruConfig { options, ..GruConfig::new(3, 4) }.init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
#[should_panic(expected = "zoneout_cell is 0.1 but Gru has no cell state")]
fn an_option_of_another_cell_is_refused_at_construction() {
    let options = RecurrentOptions { zoneout_cell: 0.1, ..RecurrentOptions::default() };
    GruConfig { options, ..GruConfig::new(3, 4) }.init(&mut Initializer::new(1, &Device::flex()));
}

/// The case with weights that keep the length of what goes through them, else the recurrence would enlarge every error.
fn with_short_weights(case: Case) -> Case {
    let [_, state_size] = case.weight_hh.dims();
    let scaled = case.weight_hh.val().inner() * (2.0 / (state_size as f64).sqrt());
    let weight_hh = Param::from_tensor(Tensor::from_data(scaled.into_data(), &case.input.device()));
    Case { weight_hh, ..case }
}

/// How far a part is from another, as a share of the other's length.
fn relative_error(found: &[f32], exact: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut found.iter().zip(exact).map(|(found, exact)| found - exact)) / norm(&mut exact.iter().copied())
}

#[test]
fn bf16_is_f32_but_for_the_rounding_of_factors() {
    under_every_isa(|isa| {
        for cell in Cell::ALL {
            // Few rows and many: one may be computed in place and the other over packed panels.
            for size in [[2, 3, 5, 7], [3, 9, 17, 33], [33, 5, 64, 64]] {
                let exact = with_short_weights(Case::random(cell, size, &Device::flex().autodiff()));
                let rounded = Case { precision: Precision::Bf16, ..exact.clone() };
                let exact = exact.run(Case::fused);
                // A part may have no numbers: a minimal GRU has no recurrent weights.
                for (part, found) in rounded.run(Case::fused).into_iter().filter(|(_, found)| !found.is_empty()) {
                    let error = relative_error(&found, &exact[part]);
                    // A factor is off by 2⁻⁹ at most. A unit near the rectifier's kink may end on the other side of it,
                    // where all of its gradient is another.
                    let bound = if cell == Cell::RnnRelu && part.starts_with("d_") { 0.2 } else { 0.02 };
                    assert!(error <= bound, "{isa} {cell:?} {size:?} {part}: {error}");
                    assert!(error > 0.0, "{isa} {cell:?} {size:?} {part}: nothing was rounded");
                }
            }
        }
    });
}

#[test]
fn an_empty_sequence_hands_its_state_through() {
    for cell in Cell::ALL {
        let case = Case::random(cell, [2, 0, 3, 4], &Device::flex().autodiff());
        let results = case.run(Case::fused);
        assert!(results["output"].is_empty());
        assert_eq!(results["last_hidden"], values(case.state.hidden.clone().inner()));
        assert_eq!(results["d_hidden"], values(case.grad_hidden.clone().inner()));
        if let (Some(cell_state), Some(grad)) = (case.state.cell_state, case.grad_cell_state) {
            assert_eq!(results["last_cell_state"], values(cell_state.inner()));
            assert_eq!(results["d_cell_state"], values(grad.inner()));
        }
        for name in ["d_weight_ih", "d_weight_hh", "d_bias"] {
            assert!(results[name].iter().all(|&value| value == 0.0), "{cell:?} {name}");
        }
    }
}

#[test]
fn an_empty_batch_gives_empty_outputs_and_no_gradient() {
    for cell in Cell::ALL {
        let case = Case::random(cell, [0, 3, 2, 4], &Device::flex().autodiff());
        let (output, state) = case.fused();
        assert_eq!(output.dims(), [0, 3, 4]);
        assert_eq!(state.hidden.dims(), [0, 4]);
        assert_eq!(state.cell_state.map(|tensor| tensor.dims()), cell.has_cell_state().then_some([0, 4]));
        let results = case.run(Case::fused);
        let [gates, recurrent_gates, biases] =
            [cell.num_gates(), cell.num_recurrent_gates(), cell.num_biases()].map(|count| count * 4);
        for (name, size) in [("d_weight_ih", gates * 2), ("d_weight_hh", recurrent_gates * 4), ("d_bias", biases)] {
            assert_eq!(results[name], vec![0.0; size], "{cell:?} {name}");
        }
    }
}

/// The input window by window, each of `window` steps at most, the state carried.
fn in_windows(layer: &Layer, input: &Tensor<3>, window: usize) -> (Tensor<3>, RecurrentState) {
    let [_, seq_len, _] = input.dims();
    let (mut state, mut outputs) = (None, Vec::new());
    for begin in (0..seq_len).step_by(window) {
        let part = input.clone().narrow(1, begin, window.min(seq_len - begin));
        let (output, next) = layer.forward(part, None, state, None);
        outputs.push(output);
        state = Some(next);
    }
    (Tensor::cat(outputs, 1), state.expect("at least one window"))
}

#[track_caller]
fn assert_same_run(what: &str, found: (Tensor<3>, RecurrentState), expected: (Tensor<3>, RecurrentState)) {
    assert_close(what, &values(found.0), &values(expected.0), 1e-5);
    assert_close(what, &values(found.1.hidden), &values(expected.1.hidden), 1e-5);
    if let (Some(found), Some(expected)) = (found.1.cell_state, expected.1.cell_state) {
        assert_close(what, &values(found), &values(expected), 1e-5);
    }
}

#[test]
fn windows_chained_by_their_state_are_one_long_sequence() {
    let device = Device::flex();
    for cell in Cell::ALL {
        let layer = layer(cell, 6, 11, &device);
        let input: Tensor<3> = numbers([3, 23, 6], 1, &device);
        for window in [1, 4, 7, 22] {
            let whole = layer.forward(input.clone(), None, None, None);
            assert_same_run(&format!("{cell:?} by {window}"), in_windows(&layer, &input, window), whole);
        }
    }
}

#[test]
fn a_short_prompt_is_its_tokens_one_after_another() {
    let device = Device::flex();
    for cell in Cell::ALL {
        for (input_size, hidden_size) in [(128, 256), (9, 33)] {
            let layer = layer(cell, input_size, hidden_size, &device);
            for seq_len in [2, 3, 6, 8, 9, 15] {
                let input: Tensor<3> = numbers([1, seq_len, input_size], 1, &device);
                let what = format!("{cell:?} {hidden_size} units, {seq_len} steps");
                assert_same_run(&what, in_windows(&layer, &input, 1), layer.forward(input.clone(), None, None, None));
            }
        }
    }
}

#[test]
fn a_state_that_nothing_enters_stays_in_an_initial_rectified_layer() {
    let device = Device::flex();
    let layer = layer(Cell::RnnRelu, 3, 19, &device);
    let hidden = numbers([2, 19], 1, &device).abs();
    let state = RecurrentState { hidden: hidden.clone(), cell_state: None };
    let (_, state) = layer.forward(Tensor::zeros([2, 40, 3], &device), None, Some(state), None);
    assert_eq!(values(state.hidden), values(hidden));
}

#[test]
fn a_loss_that_reads_only_the_last_cell_state_reaches_every_input() {
    let device = Device::flex().autodiff();
    let case = Case::random(Cell::Lstm, [2, 3, 4, 5], &device);
    let gradients_of = |(_, state): (Tensor<3>, RecurrentState)| {
        let (cell_state, grad) = (state.cell_state.expect("an LSTM"), case.grad_cell_state.clone().expect("an LSTM"));
        let gradients = (cell_state * grad).sum().backward();
        values(case.input.grad(&gradients).expect("reached"))
    };
    assert_close("d_input", &gradients_of(case.fused()), &gradients_of(case.composed()), 1e-5);
}

#[test]
#[should_panic(expected = "Gru state is [2, 5] with a cell state Some([2, 5]) but the layer needs [2, 5]")]
fn a_cell_state_for_a_cell_without_one_is_refused() {
    let mut case = Case::random(Cell::Gru, [2, 3, 4, 5], &Device::flex().autodiff());
    case.state.cell_state = Some(case.state.hidden.clone());
    case.fused();
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let _turn = ENGINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for cell in Cell::ALL {
        for precision in [Precision::F32, Precision::Bf16] {
            for size in [[9, 13, 17, 133], [64, 5, 31, 64], [7, 9, 128, 130]] {
                let case = Case { precision, ..Case::random(cell, size, &Device::flex().autodiff()) };
                let runs = [1, 2, 3, 4].map(|threads| {
                    Engine::set_current(Engine::new(Isa::detect(), threads).expect("supported"));
                    case.run(Case::fused)
                });
                for (run, threads) in runs[1..].iter().zip(2..) {
                    for (name, found) in run {
                        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                        let what = format!("{cell:?} {precision:?} {size:?}: {name} of {threads} threads and 1");
                        assert_eq!(bits(found), bits(&runs[0][name]), "{what}");
                    }
                }
            }
        }
    }
}
