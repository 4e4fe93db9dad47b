//! The fused LSTM against PyTorch, against the composed one, against finite differences and against itself.

mod support;

use std::sync::Mutex;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, backend_extension};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use refrain::kernels::{Engine, Isa};
use refrain::nn::fused::composed;
use refrain::nn::{Initializer, Lstm, LstmConfig, LstmState};
use support::{Golden, assert_close, numbers, values};

/// `[batch_size, seq_len, input_size, hidden_size]`: ones, primes, one past a vector.
const SIZES: [[usize; 4]; 7] =
    [[1, 1, 1, 1], [2, 3, 5, 7], [3, 13, 17, 33], [5, 2, 31, 16], [7, 4, 3, 65], [1, 29, 2, 19], [67, 3, 4, 5]];

/// The engine is the process's: tests that change it take turns.
static ENGINE: Mutex<()> = Mutex::new(());

/// The same operation without an override anywhere, so that every backend runs the default body.
#[backend_extension(Flex, Autodiff)]
trait ComposedLstm: burn::backend::Backend {
    fn composed_lstm(
        input: FloatTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::lstm_sequence::<Self>(input, weight_ih, weight_hh, bias, hidden, cell_state)
    }
}

impl ComposedLstm for Flex {}
impl<C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> ComposedLstm for Autodiff<Flex, C> {}

struct Case {
    input: Tensor<3>,
    layer: Lstm,
    state: LstmState,
    grad_output: Tensor<3>,
    grad_hidden: Tensor<2>,
    grad_cell_state: Tensor<2>,
}

impl Case {
    fn random([batch_size, seq_len, input_size, hidden_size]: [usize; 4], device: &Device) -> Self {
        let param = |shape, seed| Param::from_tensor(numbers(shape, seed, device) * 0.5);
        Self {
            input: numbers([batch_size, seq_len, input_size], 1, device).require_grad(),
            layer: Lstm {
                weight_ih: param([4 * hidden_size, input_size], 2),
                weight_hh: param([4 * hidden_size, hidden_size], 3),
                bias: Param::from_tensor(numbers([4 * hidden_size], 4, device)),
            },
            state: LstmState {
                hidden: numbers([batch_size, hidden_size], 5, device).require_grad(),
                cell_state: numbers([batch_size, hidden_size], 6, device).require_grad(),
            },
            grad_output: numbers([batch_size, seq_len, hidden_size], 7, device),
            grad_hidden: numbers([batch_size, hidden_size], 8, device),
            grad_cell_state: numbers([batch_size, hidden_size], 9, device),
        }
    }

    fn golden(golden: &Golden, name: &str, device: &Device) -> Self {
        let key = |part: &str| format!("{name}.{part}");
        Self {
            input: golden.tensor(&key("input"), device).require_grad(),
            layer: Lstm {
                weight_ih: Param::from_tensor(golden.tensor(&key("weight_ih"), device)),
                weight_hh: Param::from_tensor(golden.tensor(&key("weight_hh"), device)),
                bias: Param::from_tensor(golden.tensor(&key("bias"), device)),
            },
            state: LstmState {
                hidden: golden.tensor(&key("hidden"), device).require_grad(),
                cell_state: golden.tensor(&key("cell_state"), device).require_grad(),
            },
            grad_output: golden.tensor(&key("grad_output"), device),
            grad_hidden: golden.tensor(&key("grad_last_hidden"), device),
            grad_cell_state: golden.tensor(&key("grad_last_cell_state"), device),
        }
    }

    /// A number that reads every output, the last hidden and the last cell state.
    fn objective(&self, output: Tensor<3>, state: LstmState) -> Tensor<1> {
        (output * self.grad_output.clone()).sum()
            + (state.hidden * self.grad_hidden.clone()).sum()
            + (state.cell_state * self.grad_cell_state.clone()).sum()
    }

    fn fused(&self) -> (Tensor<3>, LstmState) {
        self.layer.forward(self.input.clone(), Some(self.state.clone()))
    }

    fn composed(&self) -> (Tensor<3>, LstmState) {
        let [batch_size, seq_len, _] = self.input.dims();
        let [_, hidden_size] = self.state.hidden.dims();
        let (output, cell_state) = <Dispatch as ComposedLstm>::composed_lstm(
            self.input.clone().into_dispatch(),
            self.layer.weight_ih.val().into_dispatch(),
            self.layer.weight_hh.val().into_dispatch(),
            self.layer.bias.val().into_dispatch(),
            self.state.hidden.clone().into_dispatch(),
            self.state.cell_state.clone().into_dispatch(),
        );
        let output = Tensor::<3>::from_dispatch(output);
        let hidden = match seq_len {
            0 => self.state.hidden.clone(),
            _ => output.clone().narrow(1, seq_len - 1, 1).reshape([batch_size, hidden_size]),
        };
        (output, LstmState { hidden, cell_state: Tensor::from_dispatch(cell_state) })
    }

    /// Outputs, states and all six gradients, by name.
    fn run(&self, forward: impl Fn(&Self) -> (Tensor<3>, LstmState)) -> Vec<(&'static str, Vec<f32>)> {
        let (output, state) = forward(self);
        let mut results = vec![
            ("output", values(output.clone().inner())),
            ("last_hidden", values(state.hidden.clone().inner())),
            ("last_cell_state", values(state.cell_state.clone().inner())),
        ];
        let gradients = self.objective(output, state).backward();
        // A gradient that never formed (an empty sequence) is zero.
        macro_rules! gradient {
            ($name:literal, $tensor:expr) => {
                let tensor = $tensor;
                let zeros = tensor.clone().inner().zeros_like();
                results.push(($name, values(tensor.grad(&gradients).unwrap_or(zeros))));
            };
        }
        gradient!("d_input", self.input.clone());
        gradient!("d_weight_ih", self.layer.weight_ih.val());
        gradient!("d_weight_hh", self.layer.weight_hh.val());
        gradient!("d_bias", self.layer.bias.val());
        gradient!("d_hidden", self.state.hidden.clone());
        gradient!("d_cell_state", self.state.cell_state.clone());
        results
    }
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
    let golden = Golden::read("lstm");
    under_every_isa(|isa| {
        for name in (0..7).map(|number| format!("case{number}")) {
            let case = Case::golden(&golden, &name, &Device::flex().autodiff());
            for (part, found) in case.run(Case::fused) {
                let key = format!("{name}.{part}");
                // Case 5 saturates its gates with weights twenty times as large, which makes it ill-conditioned:
                // PyTorch itself, in f32, is 3.1e-5 from the exact answer there and below 6e-7 everywhere else.
                let tolerance = if name == "case5" { 1e-4 } else { 1e-5 };
                assert_close(&format!("{isa} {key}"), &found, golden.values(&key), tolerance);
            }
        }
    });
}

#[test]
fn the_fused_layer_is_the_composed_one() {
    under_every_isa(|isa| {
        for size in SIZES {
            for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
                let case = Case::random(size, &device);
                for ((part, fused), (_, composed)) in case.run(Case::fused).into_iter().zip(case.run(Case::composed)) {
                    assert_close(&format!("{isa} {size:?} {part}"), &fused, &composed, 1e-5);
                }
            }
        }
    });
}

#[test]
fn the_composed_layer_is_pytorchs() {
    let golden = Golden::read("lstm");
    let case = Case::golden(&golden, "case2", &Device::flex().autodiff());
    for (part, found) in case.run(Case::composed) {
        assert_close(part, &found, golden.values(&format!("case2.{part}")), 1e-5);
    }
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex().autodiff();
    let case = Case::random([2, 4, 3, 5], &device);
    let results = case.run(Case::fused);
    let gradient = |name| &results.iter().find(|(part, _)| *part == name).expect("run").1;
    let objective = |case: &Case| {
        let (output, state) = case.fused();
        f64::from(case.objective(output, state).into_scalar::<f32>())
    };
    let bump = |tensor: Tensor<2>, index: usize, by: f32| {
        let (shape, mut numbers) = (tensor.dims(), values(tensor.inner()));
        numbers[index] += by;
        Tensor::<2>::from_data(TensorData::new(numbers, shape), &device)
    };
    let step = 1e-2f32;
    let weight = case.layer.weight_hh.val();
    for index in [0, 7, 33, 49, 61, 99] {
        let at = |by| {
            let layer = Lstm { weight_hh: Param::from_tensor(bump(weight.clone(), index, by)), ..case.layer.clone() };
            objective(&Case { layer, ..Case::random([2, 4, 3, 5], &device) })
        };
        let difference = (at(step) - at(-step)) / f64::from(2.0 * step);
        let found = f64::from(gradient("d_weight_hh")[index]);
        assert!((difference - found).abs() < 2e-3, "weight_hh[{index}]: {difference} against {found}");
    }
    for index in [0, 4, 9] {
        let at = |by| {
            let mut bumped = Case::random([2, 4, 3, 5], &device);
            bumped.state.cell_state = bump(bumped.state.cell_state, index, by);
            objective(&bumped)
        };
        let difference = (at(step) - at(-step)) / f64::from(2.0 * step);
        let found = f64::from(gradient("d_cell_state")[index]);
        assert!((difference - found).abs() < 2e-3, "cell_state[{index}]: {difference} against {found}");
    }
}

#[test]
fn an_empty_sequence_hands_its_state_through() {
    let case = Case::random([2, 0, 3, 4], &Device::flex().autodiff());
    let results: std::collections::BTreeMap<&str, Vec<f32>> = case.run(Case::fused).into_iter().collect();
    assert!(results["output"].is_empty());
    assert_eq!(results["last_hidden"], values(case.state.hidden.clone().inner()));
    assert_eq!(results["last_cell_state"], values(case.state.cell_state.clone().inner()));
    assert_eq!(results["d_hidden"], values(case.grad_hidden.clone().inner()));
    assert_eq!(results["d_cell_state"], values(case.grad_cell_state.clone().inner()));
    for name in ["d_weight_ih", "d_weight_hh", "d_bias"] {
        assert!(results[name].iter().all(|&value| value == 0.0), "{name}");
    }
}

#[test]
fn an_empty_batch_gives_empty_outputs_and_no_gradient() {
    let case = Case::random([0, 3, 2, 4], &Device::flex().autodiff());
    let (output, state) = case.fused();
    assert_eq!(output.dims(), [0, 3, 4]);
    assert_eq!(state.hidden.dims(), [0, 4]);
    assert_eq!(state.cell_state.dims(), [0, 4]);
    let results: std::collections::BTreeMap<&str, Vec<f32>> = case.run(Case::fused).into_iter().collect();
    for (name, size) in [("d_weight_ih", 4 * 4 * 2), ("d_weight_hh", 4 * 4 * 4), ("d_bias", 4 * 4)] {
        assert_eq!(results[name], vec![0.0; size], "{name}");
    }
}

#[test]
fn windows_chained_by_their_state_are_one_long_sequence() {
    let device = Device::flex();
    let layer = LstmConfig::new(6, 11).init(&mut Initializer::new(1, &device));
    let input: Tensor<3> = numbers([3, 23, 6], 1, &device);
    let (whole, whole_state) = layer.forward(input.clone(), None);
    for window in [1, 4, 7, 22] {
        let (mut state, mut outputs, mut begin) = (None, Vec::new(), 0);
        while begin < 23 {
            let len = window.min(23 - begin);
            let (output, next) = layer.forward(input.clone().narrow(1, begin, len), state);
            outputs.push(output);
            state = Some(next);
            begin += len;
        }
        let state = state.expect("at least one window");
        assert_close("output", &values(Tensor::cat(outputs, 1)), &values(whole.clone()), 1e-5);
        assert_close("hidden", &values(state.hidden), &values(whole_state.hidden.clone()), 1e-5);
        assert_close("cell", &values(state.cell_state), &values(whole_state.cell_state.clone()), 1e-5);
    }
}

#[test]
fn a_loss_that_reads_only_the_last_cell_state_reaches_every_input() {
    let device = Device::flex().autodiff();
    let case = Case::random([2, 3, 4, 5], &device);
    let gradients_of = |(_, state): (Tensor<3>, LstmState)| {
        let gradients = (state.cell_state * case.grad_cell_state.clone()).sum().backward();
        values(case.input.grad(&gradients).expect("reached"))
    };
    assert_close("d_input", &gradients_of(case.fused()), &gradients_of(case.composed()), 1e-5);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let _turn = ENGINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for size in [[9, 13, 17, 133], [64, 5, 31, 64], [7, 9, 128, 130]] {
        let case = Case::random(size, &Device::flex().autodiff());
        let runs = [1, 2, 3, 4].map(|threads| {
            Engine::set_current(Engine::new(Isa::detect(), threads).expect("supported"));
            case.run(Case::fused)
        });
        for (run, threads) in runs[1..].iter().zip(2..) {
            for ((name, found), (_, expected)) in run.iter().zip(&runs[0]) {
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(found), bits(expected), "{size:?}: {name} of {threads} threads and 1");
            }
        }
    }
}

#[test]
fn a_short_prompt_is_its_tokens_one_after_another() {
    let device = Device::flex();
    for (input_size, hidden_size) in [(128, 256), (9, 33)] {
        let layer = LstmConfig::new(input_size, hidden_size).init(&mut Initializer::new(1, &device));
        for seq_len in [2, 3, 6, 8, 9, 15] {
            let input: Tensor<3> = numbers([1, seq_len, input_size], 1, &device);
            let (whole, whole_state) = layer.forward(input.clone(), None);
            let (mut state, mut outputs) = (None, Vec::new());
            for step in 0..seq_len {
                let (output, next) = layer.forward(input.clone().narrow(1, step, 1), state);
                outputs.push(output);
                state = Some(next);
            }
            let state = state.expect("at least one step");
            let what = format!("{hidden_size} units, {seq_len} steps");
            assert_close(&what, &values(whole), &values(Tensor::cat(outputs, 1)), 1e-5);
            assert_close(&what, &values(whole_state.hidden), &values(state.hidden), 1e-5);
            assert_close(&what, &values(whole_state.cell_state), &values(state.cell_state), 1e-5);
        }
    }
}
