//! Layers on top of each other and in both directions, with what goes around and between them: against PyTorch, against the
//! equations, and against themselves. `golden/composition/make.py` made the fixture.

mod support;

use std::collections::BTreeMap;

use burn::backend::Dispatch;
use burn::module::Param;
use burn::tensor::{Device, Tensor, activation};
use refrain::nn::fused::FusedOps;
use refrain::nn::{
    Bidirectional, BidirectionalConfig, BidirectionalState, Cell, Connection, Detach, Direction, Gru, GruConfig,
    Initializer, InputGate, Layer, LayerConfig, Lstm, LstmConfig, Merge, Nonlinearity, Precision, RecurrentOptions,
    RecurrentState, ResetGate, Rnn, RnnConfig, Stack, StackConfig, Wiring,
};
use support::{Golden, assert_close, assert_same_bits, numbers, values};

const TOLERANCE: f32 = 1e-5;

/// Layer and direction, in the order of PyTorch's states and of ours.
const PLACES: [&str; 4] = ["l0", "l0_reverse", "l1", "l1_reverse"];

type Results = BTreeMap<String, Vec<f32>>;

/// Two layers in both directions, what they read, and the gradients handed in from above.
struct Case {
    module: Bidirectional,
    input: Tensor<3>,
    lengths: Vec<usize>,
    states: Vec<RecurrentState>,
    grad_output: Tensor<3>,
    grad_states: Vec<RecurrentState>,
}

impl Case {
    fn golden(golden: &Golden, name: &str, cell: Cell, device: &Device) -> Self {
        let key = |part: &str| format!("{name}.{part}");
        let state = |prefix: &str, place: &str| {
            let part = |part: &str| golden.tensor::<2>(&key(&format!("{place}.{prefix}{part}")), device);
            RecurrentState { hidden: part("hidden"), cell_state: cell.has_cell_state().then(|| part("cell_state")) }
        };
        let layer = |place: &str| {
            let weight = |part: &str| Param::from_tensor(golden.tensor(&key(&format!("{place}.{part}")), device));
            let bias = Param::from_tensor(golden.tensor(&key(&format!("{place}.bias")), device));
            layer_of(cell, weight("weight_ih"), weight("weight_hh"), bias)
        };
        let layers = vec![["l0", "l0_reverse"].map(layer), ["l1", "l1_reverse"].map(layer)];
        Self {
            module: Bidirectional::from_layers(layers, Merge::Concat, 0.0),
            input: golden.tensor(&key("input"), device),
            lengths: golden.values(&key("lengths")).iter().map(|&length| length as usize).collect(),
            states: PLACES.map(|place| state("", place)).into(),
            grad_output: golden.tensor(&key("grad_output"), device),
            grad_states: PLACES.map(|place| state("grad_last_", place)).into(),
        }
    }

    /// The case with a sequence of length 0 before the others.
    fn after_an_empty_sequence(self) -> Self {
        fn before<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
            let one = tensor.clone().narrow(0, 0, 1).dims();
            Tensor::cat(vec![numbers(one, 17, &tensor.device()), tensor], 0)
        }
        let states = |states: Vec<RecurrentState>| {
            let state = |RecurrentState { hidden, cell_state }| RecurrentState {
                hidden: before(hidden),
                cell_state: cell_state.map(before),
            };
            states.into_iter().map(state).collect()
        };
        Self {
            input: before(self.input),
            lengths: [&[0], &self.lengths[..]].concat(),
            states: states(self.states),
            grad_output: before(self.grad_output),
            grad_states: states(self.grad_states),
            module: self.module,
        }
    }

    /// Outputs, states and all gradients, by the names of the fixture.
    fn run(&self, lengths: Option<&[usize]>) -> Results {
        let input = self.input.clone().require_grad();
        let states: Vec<RecurrentState> = self.states.iter().cloned().map(tracked).collect();
        let (output, last) = self.module.forward(input.clone(), lengths, Some(in_blocks(&states)), None);
        let last: Vec<RecurrentState> = last.into_iter().flatten().flatten().collect();
        let mut results = Results::from([("output".to_owned(), values(output.clone().inner()))]);
        let mut objective = (output * self.grad_output.clone()).sum();
        for ((place, state), grad) in PLACES.iter().zip(last).zip(&self.grad_states) {
            results.insert(format!("{place}.last_hidden"), values(state.hidden.clone().inner()));
            objective = objective + (state.hidden * grad.hidden.clone()).sum();
            if let (Some(cell_state), Some(grad)) = (state.cell_state, &grad.cell_state) {
                results.insert(format!("{place}.last_cell_state"), values(cell_state.clone().inner()));
                objective = objective + (cell_state * grad.clone()).sum();
            }
        }
        let gradients = objective.backward();
        results.insert("d_input".to_owned(), values(input.grad(&gradients).expect("tracked")));
        let blocks = self.module.blocks.iter().flat_map(|block| [&block.forward, &block.backward]);
        for ((place, stack), state) in PLACES.iter().zip(blocks).zip(states) {
            let [weight_ih, weight_hh] = weights(&stack.layers[0]).map(|weight| weight.grad(&gradients));
            results.insert(format!("{place}.d_weight_ih"), values(weight_ih.expect("tracked")));
            results.insert(format!("{place}.d_weight_hh"), values(weight_hh.expect("tracked")));
            let bias = bias(&stack.layers[0]).grad(&gradients);
            results.insert(format!("{place}.d_bias"), values(bias.expect("tracked")));
            results.insert(format!("{place}.d_hidden"), values(state.hidden.grad(&gradients).expect("tracked")));
            if let Some(cell_state) = state.cell_state {
                results.insert(format!("{place}.d_cell_state"), values(cell_state.grad(&gradients).expect("tracked")));
            }
        }
        results
    }
}

fn tracked(state: RecurrentState) -> RecurrentState {
    let RecurrentState { hidden, cell_state } = state;
    RecurrentState { hidden: hidden.require_grad(), cell_state: cell_state.map(Tensor::require_grad) }
}

/// States in the order of [`PLACES`], as interleaved blocks take them.
fn in_blocks(states: &[RecurrentState]) -> BidirectionalState {
    states.chunks(2).map(|both| [vec![both[0].clone()], vec![both[1].clone()]]).collect()
}

fn layer_of(cell: Cell, weight_ih: Param<Tensor<2>>, weight_hh: Param<Tensor<2>>, bias: Param<Tensor<1>>) -> Layer {
    let (precision, options) = (Precision::default(), RecurrentOptions::default());
    let nonlinearity = Nonlinearity::Tanh;
    match cell {
        Cell::Lstm => {
            let (peepholes, projection, norms, input_gate) = (None, None, None, InputGate::Own);
            Lstm { weight_ih, weight_hh, bias, peepholes, projection, norms, input_gate, precision, options }.into()
        }
        Cell::Gru => {
            let (norms, reset) = (None, ResetGate::AfterProduct);
            Gru { weight_ih, weight_hh, bias, norms, reset, precision, options }.into()
        }
        Cell::RnnTanh => Rnn { weight_ih, weight_hh, bias, norms: None, nonlinearity, precision, options }.into(),
        Cell::CoupledLstm | Cell::MinGru | Cell::RnnRelu => unreachable!("no fixture has these"),
    }
}

fn weights(layer: &Layer) -> [Tensor<2>; 2] {
    match layer {
        Layer::Lstm(layer) => [layer.weight_ih.val(), layer.weight_hh.val()],
        Layer::Gru(layer) => [layer.weight_ih.val(), layer.weight_hh.val()],
        Layer::Rnn(layer) => [layer.weight_ih.val(), layer.weight_hh.val()],
        Layer::MinGru(_) => unreachable!("no fixture has it"),
    }
}

fn bias(layer: &Layer) -> Tensor<1> {
    match layer {
        Layer::Lstm(layer) => layer.bias.val(),
        Layer::Gru(layer) => layer.bias.val(),
        Layer::Rnn(layer) => layer.bias.val(),
        Layer::MinGru(_) => unreachable!("no fixture has it"),
    }
}

#[test]
fn two_layers_in_both_directions_are_pytorchs() {
    let (golden, device) = (Golden::read("composition"), Device::flex().autodiff());
    for (name, cell) in [("lstm", Cell::Lstm), ("gru", Cell::Gru), ("rnn", Cell::RnnTanh)] {
        for name in [name.to_owned(), format!("{name}-whole")] {
            let case = Case::golden(&golden, &name, cell, &device);
            let is_whole = case.lengths.iter().all(|&length| length == case.input.dims()[1]);
            let results = case.run(if is_whole { None } else { Some(&case.lengths) });
            assert_eq!(results.len(), if cell == Cell::Lstm { 2 + 4 * 7 } else { 2 + 4 * 5 });
            for (part, found) in results {
                let key = format!("{name}.{part}");
                assert_close(&key, &found, golden.values(&key), TOLERANCE);
            }
        }
    }
}

/// PyTorch refuses to pack a sequence of length 0.
#[test]
fn a_sequence_of_length_0_keeps_its_states_and_leaves_the_others_alone() {
    let (golden, device) = (Golden::read("composition"), Device::flex().autodiff());
    for (name, cell) in [("lstm", Cell::Lstm), ("gru", Cell::Gru), ("rnn", Cell::RnnTanh)] {
        let case = Case::golden(&golden, name, cell, &device).after_an_empty_sequence();
        let kept = |states: &[RecurrentState], part: &str| {
            let (place, part) = part.split_once('.').expect("of a state");
            let state = &states[PLACES.iter().position(|other| *other == place).expect("a place")];
            let tensor = if part.ends_with("hidden") { Some(&state.hidden) } else { state.cell_state.as_ref() };
            values(tensor.expect("of this cell").clone().narrow(0, 0, 1).inner())
        };
        for (part, found) in case.run(Some(&case.lengths)) {
            let key = format!("{name}.{part}");
            let others = golden.values(&key);
            let (first, rest) = found.split_at(found.len() - others.len());
            assert_close(&key, rest, others, TOLERANCE);
            match part.as_str() {
                "output" | "d_input" => assert!(first.iter().all(|&value| value == 0.0), "{key}: {first:?}"),
                _ if part.contains(".last_") => assert_eq!(first, kept(&case.states, &part), "{key}"),
                _ if part.ends_with("d_hidden") || part.ends_with("d_cell_state") => {
                    assert_eq!(first, kept(&case.grad_states, &part), "{key}");
                }
                _ => assert!(first.is_empty(), "{key}: weights have no sequences"),
            }
        }
    }
}

fn lstm(input_size: usize, hidden_size: usize) -> LayerConfig {
    LstmConfig::new(input_size, hidden_size).into()
}

fn init<T>(device: &Device, make: impl Fn(&mut Initializer<'_>) -> T) -> T {
    make(&mut Initializer::new(1, device))
}

/// Each sequence with its valid steps from the last to the first, its padding as it was.
fn reversed(sequences: &Tensor<3>, lengths: &[usize]) -> Tensor<3> {
    let rows = lengths.iter().enumerate().map(|(row, &length)| {
        let sequence = sequences.clone().narrow(0, row, 1);
        let valid = sequence.clone().narrow(1, 0, length).flip([1]);
        Tensor::cat(vec![valid, sequence.slice([0..1, length..sequences.dims()[1]])], 1)
    });
    Tensor::cat(rows.collect(), 0)
}

const LENGTHS: [usize; 4] = [3, 5, 1, 4];

#[test]
fn independent_directions_are_two_stacks() {
    let device = Device::flex();
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device);
    for connection in [Connection::Plain, Connection::Residual, Connection::Highway] {
        let stack = StackConfig { connection, ..StackConfig::uniform(lstm(3, 6), 3) };
        let config = BidirectionalConfig { wiring: Wiring::Independent, ..BidirectionalConfig::new(stack) };
        let module = init(&device, |init| config.init(init));
        assert_eq!(module.blocks.len(), 1);
        let (output, states) = module.forward(input.clone(), Some(&LENGTHS), None, None);
        let [block] = &module.blocks[..] else { unreachable!("counted") };
        let (ahead, ahead_states) = block.forward.forward(input.clone(), Some(&LENGTHS), None, None);
        let (back, back_states) = block.backward.forward(reversed(&input, &LENGTHS), Some(&LENGTHS), None, None);
        let by_hand = Tensor::cat(vec![ahead, reversed(&back, &LENGTHS)], 2);
        assert_close("output", &values(output), &values(by_hand), TOLERANCE);
        for (found, expected) in states[0].iter().zip([ahead_states, back_states]) {
            assert_eq!((found.len(), expected.len()), (3, 3));
            for (found, expected) in found.iter().zip(expected) {
                assert_close("hidden", &values(found.hidden.clone()), &values(expected.hidden), TOLERANCE);
            }
        }
    }
}

#[test]
fn a_merge_is_of_both_directions() {
    let device = Device::flex();
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device);
    let output = |merge| {
        let config = BidirectionalConfig { merge, ..BidirectionalConfig::new(StackConfig::uniform(lstm(3, 6), 1)) };
        init(&device, |init| config.init(init)).forward(input.clone(), Some(&LENGTHS), None, None).0
    };
    let concatenated = output(Merge::Concat);
    assert_eq!(concatenated.dims(), [4, 5, 12]);
    let [ahead, back] = [0, 6].map(|begin| concatenated.clone().narrow(2, begin, 6));
    assert_same_bits("sum", &values(output(Merge::Sum)), &values(ahead.clone() + back.clone()));
    assert_same_bits("mean", &values(output(Merge::Mean)), &values((ahead + back) * 0.5));
}

#[test]
fn layers_above_the_first_read_what_the_merge_gives() {
    let device = Device::flex();
    for (merge, features) in [(Merge::Concat, [3, 10, 14]), (Merge::Sum, [3, 5, 7]), (Merge::Mean, [3, 5, 7])] {
        let layers = vec![lstm(3, 5), GruConfig::new(1, 7).into(), RnnConfig::new(1, 4).into()];
        let stack = StackConfig { layers, ..StackConfig::uniform(lstm(3, 5), 1) };
        let module =
            init(&device, |init| BidirectionalConfig { merge, ..BidirectionalConfig::new(stack.clone()) }.init(init));
        let read = module.blocks.iter().map(|block| weights(&block.backward.layers[0])[0].dims()[1]);
        assert_eq!(read.collect::<Vec<_>>(), features, "{merge:?}");
        let (output, _) = module.forward(numbers([2, 4, 3], 1, &device), None, None, None);
        assert_eq!(output.dims(), [2, 4, merge.size(4)]);
    }
}

#[test]
fn the_mirror_image_reads_the_mirror_image() {
    let device = Device::flex();
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device);
    // Concatenated halves would change places, in the weights above too; a sum has no sides.
    let config = BidirectionalConfig {
        merge: Merge::Sum,
        ..BidirectionalConfig::new(StackConfig::uniform(GruConfig::new(3, 6), 3))
    };
    let module = init(&device, |init| config.init(init));
    let (output, states) = module.forward(input.clone(), Some(&LENGTHS), None, None);
    let mut mirror = module.clone();
    for block in &mut mirror.blocks {
        std::mem::swap(&mut block.forward, &mut block.backward);
    }
    let (mirrored, mirrored_states) = mirror.forward(reversed(&input, &LENGTHS), Some(&LENGTHS), None, None);
    assert_close("output", &values(reversed(&mirrored, &LENGTHS)), &values(output.clone()), TOLERANCE);
    for ([ahead, back], [mirrored_ahead, mirrored_back]) in states.iter().zip(&mirrored_states) {
        for (found, expected) in [(mirrored_ahead, back), (mirrored_back, ahead)] {
            let [found, expected] = [found, expected].map(|states| values(states[0].hidden.clone()));
            assert_close("hidden", &found, &expected, TOLERANCE);
        }
    }
    let (other, _) = module.forward(reversed(&input, &LENGTHS), Some(&LENGTHS), None, None);
    assert_ne!(values(reversed(&other, &LENGTHS)), values(output), "the two directions have different weights");
}

#[test]
fn connections_are_their_equations() {
    let device = Device::flex().autodiff();
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device).require_grad();
    let upstream: Tensor<3> = numbers([4, 5, 6], 2, &device);
    for connection in [Connection::Plain, Connection::Residual, Connection::Highway] {
        let layers = vec![lstm(3, 6), GruConfig::new(6, 6).into(), RnnConfig::new(6, 6).into()];
        let stack = init(&device, |init| StackConfig { layers: layers.clone(), dropout: 0.0, connection }.init(init));
        let (output, states) = stack.forward(input.clone(), Some(&LENGTHS), None, None);

        let (mut below, _) = stack.layers[0].forward(input.clone(), Some(&LENGTHS), None, None);
        for (index, layer) in stack.layers.iter().enumerate().skip(1) {
            let (above, state) = layer.forward(below.clone(), Some(&LENGTHS), None, None);
            assert_close("hidden", &values(state.hidden), &values(states[index].hidden.clone()), TOLERANCE);
            below = match connection {
                Connection::Plain => above,
                Connection::Residual => above + below,
                Connection::Highway => {
                    let gate = &stack.gates[index - 1];
                    let sums =
                        below.clone().matmul(gate.weight.val().transpose().unsqueeze()) + gate.bias.val().unsqueeze();
                    let t = activation::sigmoid(sums);
                    t.clone() * above + (-t + 1.0) * below
                }
            };
        }
        let what = format!("{connection:?}");
        assert_close(&what, &values(output.clone()), &values(below.clone()), TOLERANCE);
        // Nothing goes around a sequence's end either.
        let padding = values(output.clone().slice([2..3, 1..5, 0..6]));
        assert!(padding.iter().all(|&value| value == 0.0), "{what}: {padding:?}");

        let gradients = |output: Tensor<3>| {
            let gradients = (output * upstream.clone()).sum().backward();
            let gates = stack.gates.iter().flat_map(|gate| [gate.weight.grad(&gradients), None]);
            let gates = gates.flatten().flat_map(values).collect::<Vec<_>>();
            (values(input.grad(&gradients).expect("tracked")), gates)
        };
        let (found, expected) = (gradients(output), gradients(below));
        assert_close(&what, &found.0, &expected.0, TOLERANCE);
        assert_eq!(found.1.len(), if connection == Connection::Highway { 2 * 36 } else { 0 });
        assert_close(&what, &found.1, &expected.1, TOLERANCE);
    }
}

#[test]
fn highways_begin_nearly_shut() {
    let device = Device::flex();
    let config = StackConfig { connection: Connection::Highway, ..StackConfig::uniform(lstm(6, 6), 3) };
    let stack = init(&device, |init| config.init(init));
    assert_eq!(stack.gates.len(), 2);
    for gate in &stack.gates {
        assert_eq!(values(gate.bias.val()), [-2.0; 6]);
    }
}

#[test]
fn layers_of_different_cells_and_sizes_read_each_other() {
    let device = Device::flex();
    // What layers above the first say about their input does not count.
    let layers = vec![lstm(3, 5), GruConfig::new(99, 7).into(), RnnConfig::new(0, 4).into()];
    let config = StackConfig { layers, ..StackConfig::uniform(lstm(3, 5), 1) };
    let stack = init(&device, |init| config.init(init));
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device);
    let (output, states) = stack.forward(input.clone(), None, None, None);
    assert_eq!(states.iter().map(|state| state.hidden.dims()[1]).collect::<Vec<_>>(), [5, 7, 4]);
    assert_eq!(states.iter().map(|state| state.cell_state.is_some()).collect::<Vec<_>>(), [true, false, false]);
    let by_hand = stack.layers.iter().fold(input.clone(), |input, layer| layer.forward(input, None, None, None).0);
    assert_same_bits("output", &values(output.clone()), &values(by_hand));
    // The same in two windows, the states carried.
    let (first, states) = stack.forward(input.clone().narrow(1, 0, 2), None, None, None);
    let (second, _) = stack.forward(input.narrow(1, 2, 3), None, Some(states), None);
    assert_close("windows", &values(Tensor::cat(vec![first, second], 1)), &values(output), TOLERANCE);
}

#[test]
fn stacks_read_no_steps_and_no_sequences() {
    let device = Device::flex();
    for connection in [Connection::Plain, Connection::Residual, Connection::Highway] {
        let config = StackConfig { connection, ..StackConfig::uniform(lstm(3, 6), 2) };
        let wiring = Wiring::Independent;
        let both = BidirectionalConfig { wiring, ..BidirectionalConfig::new(config) };
        let module = init(&device, |init| both.init(init));
        for [batch_size, seq_len] in [[0, 4], [2, 0]] {
            let input = Tensor::zeros([batch_size, seq_len, 3], &device);
            let (output, states) = module.forward(input, None, None, None);
            assert_eq!(output.dims(), [batch_size, seq_len, 12], "{connection:?}");
            assert_eq!(states[0][1][1].hidden.dims(), [batch_size, 6], "{connection:?}");
        }
    }
}

#[test]
#[should_panic(expected = "layer 2 has 7 units but reads 6: a Residual connection needs as many")]
fn a_connection_around_a_layer_of_another_size_is_refused() {
    let layers = vec![lstm(3, 6), lstm(6, 6), lstm(6, 7)];
    let config = StackConfig { layers, dropout: 0.0, connection: Connection::Residual };
    init(&Device::flex(), |init| config.init(init));
}

#[test]
#[should_panic(expected = "the state is of 1 layers but the stack has 2")]
fn a_state_of_fewer_layers_is_refused() {
    let device = Device::flex();
    let stack = init(&device, |init| StackConfig::uniform(lstm(3, 6), 2).init(init));
    let state = vec![stack.layers[0].zero_state(1, &device)];
    stack.forward(Tensor::zeros([1, 2, 3], &device), None, Some(state), None);
}

#[test]
#[should_panic(expected = "the state is of 1 blocks but there are 2")]
fn a_state_of_fewer_blocks_is_refused() {
    let device = Device::flex();
    let config = BidirectionalConfig::new(StackConfig::uniform(lstm(3, 6), 2));
    let module = init(&device, |init| config.init(init));
    let zeros = || vec![module.blocks[0].forward.layers[0].zero_state(1, &device)];
    module.forward(Tensor::zeros([1, 2, 3], &device), None, Some(vec![[zeros(), zeros()]]), None);
}

#[test]
#[should_panic(expected = "interleaved layers cannot have Highway connections")]
fn a_connection_around_a_merge_is_refused() {
    let stack = StackConfig { connection: Connection::Highway, ..StackConfig::uniform(lstm(6, 6), 2) };
    init(&Device::flex(), |init| BidirectionalConfig::new(stack.clone()).init(init));
}

#[test]
#[should_panic(expected = "a stack has at least one layer")]
fn nothing_in_both_directions_is_refused() {
    let stack = StackConfig { layers: Vec::new(), dropout: 0.0, connection: Connection::Plain };
    init(&Device::flex(), |init| BidirectionalConfig::new(stack.clone()).init(init));
}

#[test]
#[should_panic(expected = "dropout is 1 but must be at least 0 and below 1")]
fn dropping_everything_is_refused() {
    Stack::from_layers(Vec::new(), 1.0);
}

#[test]
fn a_direction_of_a_stack_is_that_of_its_layers() {
    let device = Device::flex();
    let config = StackConfig { connection: Connection::Residual, ..StackConfig::uniform(lstm(3, 6), 2) };
    let stack = init(&device, |init| config.init(init));
    let input: Tensor<3> = numbers([4, 5, 3], 1, &device);
    let (output, _) = stack.forward_in(Direction::Backward, input.clone(), Some(&LENGTHS), None, None);
    let (below, _) = stack.layers[0].forward_in(Direction::Backward, input, Some(&LENGTHS), None, None);
    let (above, _) = stack.layers[1].forward_in(Direction::Backward, below.clone(), Some(&LENGTHS), None, None);
    assert_same_bits("output", &values(output), &values(above + below));
}

#[test]
fn features_side_by_side_are_as_burn_lays_them_gradients_included() {
    let device = Device::flex().autodiff();
    for [batch_size, seq_len, left_size, right_size] in [[2, 3, 4, 4], [1, 1, 1, 5], [3, 0, 2, 2], [33, 40, 31, 64]] {
        let left = numbers::<3>([batch_size, seq_len, left_size], 1, &device).require_grad();
        let right = numbers::<3>([batch_size, seq_len, right_size], 2, &device);
        for right in [right.clone().require_grad(), right.swap_dims(0, 1).swap_dims(0, 1)] {
            let fused = {
                let [left, right] = [&left, &right].map(|tensor| tensor.clone().into_dispatch());
                Tensor::<3>::from_dispatch(<Dispatch as FusedOps>::concat_features(left, right))
            };
            let [found, expected] = [fused, Tensor::cat(vec![left.clone(), right.clone()], 2)].map(|both| {
                let gradients = (both.clone() * both.clone()).sum().backward();
                let gradient = |of: &Tensor<3>| of.grad(&gradients).map(values);
                (values(both.inner()), gradient(&left), gradient(&right))
            });
            assert_eq!(found, expected, "{batch_size} × {seq_len} × ({left_size} + {right_size})");
        }
    }
}

#[test]
fn detached_states_of_both_directions_end_the_gradient() {
    let device = Device::flex().autodiff();
    let layer = LstmConfig::new(3, 4);
    let both = BidirectionalConfig::new(StackConfig::uniform(layer, 2)).init(&mut Initializer::new(1, &device));
    let reaches = |carry: fn(BidirectionalState) -> BidirectionalState| {
        let early: Tensor<3> = numbers([2, 3, 3], 1, &device).require_grad();
        let (_, state) = both.forward(early.clone(), None, None, None);
        let numbers_before: Vec<Vec<f32>> = hidden_states(state.clone());
        let carried = carry(state);
        assert_eq!(hidden_states(carried.clone()), numbers_before);
        let (output, _) = both.forward(numbers([2, 3, 3], 2, &device), None, Some(carried), None);
        early.grad(&output.sum().backward()).is_some()
    };
    assert!(reaches(|state| state));
    assert!(!reaches(Detach::detach));
}

fn hidden_states(states: BidirectionalState) -> Vec<Vec<f32>> {
    states.into_iter().flatten().flatten().map(|state| values(state.hidden.inner())).collect()
}
