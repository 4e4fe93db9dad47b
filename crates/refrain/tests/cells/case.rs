//! A layer, what it reads, and the gradients handed in from above.

use std::collections::BTreeMap;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, backend_extension};
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use refrain::nn::fused::{RecurrentSequence, composed};
use refrain::nn::{
    Cell, Direction, DropoutSchedule, Gru, InputGate, Layer, LayerNorms, Lstm, Memory, MinGru, Nonlinearity, Precision,
    RecurrentOptions, RecurrentState, ResetGate, Rnn,
};

use crate::support::{Golden, numbers, values};

/// The same operation without an override anywhere, so that every backend runs the default body.
#[backend_extension(Flex, Autodiff)]
trait ComposedLayer: burn::backend::Backend {
    fn composed_layer(
        #[extension_type] sequence: RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        composed::recurrent_sequence::<Self>(sequence)
    }
}

impl ComposedLayer for Flex {}
impl<C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> ComposedLayer for Autodiff<Flex, C> {}

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) cell: Cell,
    pub(crate) precision: Precision,
    pub(crate) options: RecurrentOptions,
    pub(crate) direction: Direction,
    pub(crate) lengths: Option<Vec<usize>>,
    pub(crate) schedule: Option<DropoutSchedule>,
    pub(crate) peepholes: Option<Param<Tensor<1>>>,
    pub(crate) norms: Option<LayerNorms>,
    pub(crate) projection: Option<Param<Tensor<2>>>,
    pub(crate) reset: ResetGate,
    pub(crate) input: Tensor<3>,
    pub(crate) weight_ih: Param<Tensor<2>>,
    pub(crate) weight_hh: Param<Tensor<2>>,
    pub(crate) bias: Param<Tensor<1>>,
    pub(crate) state: RecurrentState,
    pub(crate) grad_output: Tensor<3>,
    pub(crate) grad_hidden: Tensor<2>,
    pub(crate) grad_cell_state: Option<Tensor<2>>,
}

pub(crate) type Results = BTreeMap<&'static str, Vec<f32>>;

impl Case {
    pub(crate) fn random(
        cell: Cell,
        [batch_size, seq_len, input_size, hidden_size]: [usize; 4],
        device: &Device,
    ) -> Self {
        let param = |shape, seed| Param::from_tensor(numbers(shape, seed, device) * 0.5);
        let (gates, biases) = (cell.num_gates() * hidden_size, cell.num_biases() * hidden_size);
        let of_cell_state = |seed| cell.has_cell_state().then(|| numbers([batch_size, hidden_size], seed, device));
        Self {
            cell,
            precision: Precision::F32,
            options: RecurrentOptions::default(),
            direction: Direction::Forward,
            lengths: None,
            schedule: None,
            peepholes: None,
            norms: None,
            projection: None,
            reset: ResetGate::AfterProduct,
            input: numbers([batch_size, seq_len, input_size], 1, device).require_grad(),
            weight_ih: param([gates, input_size], 2),
            weight_hh: param([cell.num_recurrent_gates() * hidden_size, hidden_size], 3),
            bias: Param::from_tensor(numbers([biases], 4, device)),
            state: RecurrentState {
                hidden: numbers([batch_size, hidden_size], 5, device).require_grad(),
                cell_state: of_cell_state(6).map(Tensor::require_grad),
            },
            grad_output: numbers([batch_size, seq_len, hidden_size], 7, device),
            grad_hidden: numbers([batch_size, hidden_size], 8, device),
            grad_cell_state: of_cell_state(9),
        }
    }

    pub(crate) fn golden(cell: Cell, golden: &Golden, name: &str, device: &Device) -> Self {
        let key = |part: &str| format!("{name}.{part}");
        let of_cell_state = |part| cell.has_cell_state().then(|| golden.tensor(&key(part), device));
        Self {
            input: golden.tensor(&key("input"), device).require_grad(),
            weight_ih: Param::from_tensor(golden.tensor(&key("weight_ih"), device)),
            weight_hh: Param::from_tensor(golden.tensor(&key("weight_hh"), device)),
            bias: Param::from_tensor(golden.tensor(&key("bias"), device)),
            state: RecurrentState {
                hidden: golden.tensor(&key("hidden"), device).require_grad(),
                cell_state: of_cell_state("cell_state").map(Tensor::require_grad),
            },
            grad_output: golden.tensor(&key("grad_output"), device),
            grad_hidden: golden.tensor(&key("grad_last_hidden"), device),
            grad_cell_state: of_cell_state("grad_last_cell_state"),
            ..Self::random(cell, [1; 4], device)
        }
    }

    /// A number that reads every output, the last hidden and the last cell state.
    fn objective(&self, output: Tensor<3>, state: RecurrentState) -> Tensor<1> {
        let objective = (output * self.grad_output.clone()).sum() + (state.hidden * self.grad_hidden.clone()).sum();
        match (state.cell_state, &self.grad_cell_state) {
            (Some(cell_state), Some(grad)) => objective + (cell_state * grad.clone()).sum(),
            _ => objective,
        }
    }

    /// [`Case::objective`], summed in f64: a difference of two sums in f32 has few digits left.
    pub(crate) fn objective_in_f64(&self, output: Tensor<3>, state: RecurrentState) -> f64 {
        fn dot<const D: usize>(left: Tensor<D>, right: &Tensor<D>) -> f64 {
            let [left, right] = [left, right.clone()].map(|tensor| values(tensor.inner()));
            left.into_iter().zip(right).map(|(l, r)| f64::from(l) * f64::from(r)).sum()
        }
        let objective = dot(output, &self.grad_output) + dot(state.hidden, &self.grad_hidden);
        match (state.cell_state, &self.grad_cell_state) {
            (Some(cell_state), Some(grad)) => objective + dot(cell_state, grad),
            _ => objective,
        }
    }

    /// The case with each option that its cell has, in training and outside, with all of them, and each of these with
    /// sequences of any lengths and backward.
    pub(crate) fn with_every_option(&self) -> Vec<(String, Self)> {
        let all = RecurrentOptions {
            input_dropout: 0.3,
            hidden_dropout: if self.cell.num_recurrent_gates() > 0 { 0.25 } else { 0.0 },
            recurrent_dropout: if self.cell.has_candidate() { 0.2 } else { 0.0 },
            zoneout_hidden: 0.4,
            zoneout_cell: if self.cell.has_cell_state() { 0.35 } else { 0.0 },
            weight_drop: if self.cell.num_recurrent_gates() > 0 { 0.3 } else { 0.0 },
            memory: Memory::SquareRoot,
        };
        let none = RecurrentOptions::default;
        let [batch_size, seq_len, _] = self.input.dims();
        let [_, hidden_size] = self.state.hidden.dims();
        let device = self.input.device();
        let peepholes = Param::from_tensor(numbers([3 * hidden_size], 10, &device));
        let peepholes = self.cell.has_cell_state().then_some(peepholes);
        let options = [
            ("input dropout", RecurrentOptions { input_dropout: all.input_dropout, ..none() }, None),
            ("hidden dropout", RecurrentOptions { hidden_dropout: all.hidden_dropout, ..none() }, None),
            ("recurrent dropout", RecurrentOptions { recurrent_dropout: all.recurrent_dropout, ..none() }, None),
            ("zoneout of h", RecurrentOptions { zoneout_hidden: all.zoneout_hidden, ..none() }, None),
            ("zoneout of c", RecurrentOptions { zoneout_cell: all.zoneout_cell, ..none() }, None),
            ("weight drop", RecurrentOptions { weight_drop: all.weight_drop, ..none() }, None),
            ("every third step kept", RecurrentOptions { memory: Memory::Every(3), ..none() }, None),
            ("peepholes", none(), peepholes.clone()),
            ("everything", all, peepholes),
        ];
        let lengths: Vec<usize> = (0..batch_size).map(|row| (row * 7 + seq_len) % (seq_len + 1)).collect();
        let mut variants: Vec<(String, Self)> = Vec::new();
        for (name, options, peepholes) in options {
            variants.push((name.to_owned(), Self { options, peepholes, ..self.clone() }));
        }
        // What changes the products, plainly and with all that goes with it.
        let plainly = [
            ("norms", self.cell.num_recurrent_gates() > 0, self.normalised()),
            ("projection", self.cell.has_cell_state(), self.projected(hidden_size / 2 + 1)),
            ("norms and projection", self.cell.has_cell_state(), self.projected(hidden_size + 2).normalised()),
            (
                "reset before the product",
                self.cell == Cell::Gru,
                Self { reset: ResetGate::BeforeProduct, ..self.clone() },
            ),
        ];
        for (name, _, variant) in plainly.into_iter().filter(|(_, has, _)| *has) {
            let everything = Self {
                options: all,
                peepholes: variants.last().and_then(|(_, case)| case.peepholes.clone()),
                ..variant.clone()
            };
            variants.push((name.to_owned(), variant));
            variants.push((format!("{name} with everything"), everything));
        }
        let mut cases = Vec::new();
        for (name, variant) in variants {
            for (way, direction, lengths) in [
                ("whole", Direction::Forward, None),
                ("of any length", Direction::Forward, Some(lengths.clone())),
                ("backward", Direction::Backward, Some(lengths.clone())),
            ] {
                let drawn = Some(DropoutSchedule::new(3, 5));
                for (mode, schedule) in [("training", drawn), ("inference", None)] {
                    let case = Self { direction, lengths: lengths.clone(), schedule, ..variant.clone() };
                    cases.push((format!("{:?}, {name}, {way}, in {mode}", self.cell), case));
                }
            }
        }
        cases
    }

    /// The case with normalised sums.
    fn normalised(&self) -> Self {
        let device = self.input.device();
        let [biases] = self.bias.dims();
        let hidden_size = biases / self.cell.num_biases();
        let gains = |count: usize, seed| Param::from_tensor(numbers([count * hidden_size], seed, &device) + 1.0);
        let norms = LayerNorms {
            gain_ih: gains(self.cell.num_gates(), 11),
            gain_hh: gains(self.cell.num_recurrent_gates(), 12),
            cell_state: self.cell.has_cell_state().then(|| gains(2, 13)),
        };
        Self { norms: Some(norms), ..self.clone() }
    }

    /// The case with a projection to so many units.
    fn projected(&self, projection_size: usize) -> Self {
        let device = self.input.device();
        let ([batch_size, seq_len, _], [width, hidden_size]) = (self.input.dims(), self.weight_hh.dims());
        let param = |shape, seed| Param::from_tensor(numbers(shape, seed, &device) * 0.5);
        Self {
            projection: Some(param([projection_size, hidden_size], 14)),
            weight_hh: param([width, projection_size], 3),
            state: RecurrentState {
                hidden: numbers([batch_size, projection_size], 5, &device).require_grad(),
                cell_state: self.state.cell_state.clone(),
            },
            grad_output: numbers([batch_size, seq_len, projection_size], 7, &device),
            grad_hidden: numbers([batch_size, projection_size], 8, &device),
            ..self.clone()
        }
    }

    pub(crate) fn layer(&self) -> Layer {
        let Self { precision, options, .. } = *self;
        let (weight_ih, weight_hh, bias) = (self.weight_ih.clone(), self.weight_hh.clone(), self.bias.clone());
        let lstm = |input_gate| {
            let (weight_ih, weight_hh, bias) = (weight_ih.clone(), weight_hh.clone(), bias.clone());
            let peepholes = self.peepholes.clone();
            Layer::Lstm(Lstm {
                weight_ih,
                weight_hh,
                bias,
                peepholes,
                projection: self.projection.clone(),
                norms: self.norms.clone(),
                input_gate,
                precision,
                options,
            })
        };
        let rnn = |nonlinearity| {
            let (weight_ih, weight_hh, bias) = (weight_ih.clone(), weight_hh.clone(), bias.clone());
            Layer::Rnn(Rnn { weight_ih, weight_hh, bias, norms: self.norms.clone(), nonlinearity, precision, options })
        };
        match self.cell {
            Cell::Lstm => lstm(InputGate::Own),
            Cell::CoupledLstm => lstm(InputGate::Coupled),
            Cell::Gru => Layer::Gru(Gru {
                weight_ih,
                weight_hh,
                bias,
                norms: self.norms.clone(),
                reset: self.reset,
                precision,
                options,
            }),
            Cell::MinGru => Layer::MinGru(MinGru { weight_ih, bias, precision, options }),
            Cell::RnnTanh => rnn(Nonlinearity::Tanh),
            Cell::RnnRelu => rnn(Nonlinearity::Relu),
        }
    }

    pub(crate) fn fused(&self) -> (Tensor<3>, RecurrentState) {
        let (input, state) = (self.input.clone(), Some(self.state.clone()));
        self.layer().forward_in(self.direction, input, self.lengths.as_deref(), state, self.schedule)
    }

    pub(crate) fn composed(&self) -> (Tensor<3>, RecurrentState) {
        let (input, state) = (self.input.clone(), Some(self.state.clone()));
        let sequence = self.layer().sequence_in(self.direction, input, self.lengths.as_deref(), state, self.schedule);
        let (output, hidden, cell_state) = <Dispatch as ComposedLayer>::composed_layer(sequence);
        let cell_state = cell_state.map(Tensor::from_dispatch);
        (Tensor::from_dispatch(output), RecurrentState { hidden: Tensor::from_dispatch(hidden), cell_state })
    }

    /// Outputs, states and all gradients, by name.
    pub(crate) fn run(&self, forward: impl Fn(&Self) -> (Tensor<3>, RecurrentState)) -> Results {
        let (output, state) = forward(self);
        assert_eq!(state.cell_state.is_some(), self.cell.has_cell_state());
        let mut results = Results::from([
            ("output", values(output.clone().inner())),
            ("last_hidden", values(state.hidden.clone().inner())),
        ]);
        if let Some(cell_state) = state.cell_state.clone() {
            results.insert("last_cell_state", values(cell_state.inner()));
        }
        let gradients = self.objective(output, state).backward();
        // A gradient that never formed (an empty sequence) is zero.
        macro_rules! gradient {
            ($name:literal, $tensor:expr) => {
                let tensor = $tensor;
                let zeros = tensor.clone().inner().zeros_like();
                results.insert($name, values(tensor.grad(&gradients).unwrap_or(zeros)));
            };
        }
        gradient!("d_input", self.input.clone());
        gradient!("d_weight_ih", self.weight_ih.val());
        gradient!("d_weight_hh", self.weight_hh.val());
        gradient!("d_bias", self.bias.val());
        gradient!("d_hidden", self.state.hidden.clone());
        if let Some(cell_state) = self.state.cell_state.clone() {
            gradient!("d_cell_state", cell_state);
        }
        if let Some(peepholes) = &self.peepholes {
            gradient!("d_peepholes", peepholes.val());
        }
        if let Some(projection) = &self.projection {
            gradient!("d_projection", projection.val());
        }
        if let Some(norms) = &self.norms {
            gradient!("d_gain_ih", norms.gain_ih.val());
            gradient!("d_gain_hh", norms.gain_hh.val());
            if let Some(cell_state) = &norms.cell_state {
                gradient!("d_norm_cell_state", cell_state.val());
            }
        }
        results
    }
}
