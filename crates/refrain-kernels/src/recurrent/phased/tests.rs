//! A plain layer in several phases is the plain layer: options, lengths and directions.
//!
//! Of the cells, those whose recurrent products join the sums in order: the others come here with normalised sums or the reset gate
//! before the product alone.

use super::super::segments::TraceBlocks;
use super::super::{
    Cell, Direction, Dropped, Memory, OutputGradients, Rows, SequenceGradients, SequenceInputs, SequenceOptions,
    SequenceOutputs, SequenceShape, SequenceTrace, SequenceVariant, Zoneout, run, sequence_backward, with_cell,
};
use super::super::{gru, lstm, min_gru, rnn};
use crate::arch::Isa;
use crate::dropout::{DropoutKey, events};
use crate::engine::Engine;
use crate::format::Precision;

/// Numbers between -1 and 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A layer, what it reads, and the gradients that come in.
struct Problem {
    shape: SequenceShape,
    tensors: [Vec<f32>; 6],
    grads: [Vec<f32>; 3],
    lengths: Option<Vec<usize>>,
    direction: Direction,
    events: [Vec<u32>; 4],
    peepholes: Vec<f32>,
    with_options: bool,
}

/// Which of the two time loops runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loop {
    Plain,
    Phased,
}

impl Problem {
    fn new(shape: SequenceShape, ragged: bool, direction: Direction, with_options: bool) -> Self {
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = shape;
        let states = batch_size * hidden_size;
        let cells = if cell.has_cell_state() { states } else { 0 };
        let scaled = |seed, count: usize, terms: usize| {
            numbers(seed, count).iter().map(|x| x / ((terms + 8) as f32).sqrt()).collect::<Vec<f32>>()
        };
        let gates = cell.num_gates() * hidden_size;
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        let drawn = |seed, rows| events(&engine, DropoutKey { seed, stream: 1 }, 0.3, rows, hidden_size);
        Self {
            shape,
            tensors: [
                numbers(1, batch_size * seq_len * input_size),
                scaled(2, gates * input_size, input_size),
                scaled(3, cell.num_recurrent_gates() * hidden_size * hidden_size, hidden_size),
                numbers(4, cell.num_biases() * hidden_size),
                numbers(5, states),
                numbers(6, cells),
            ],
            grads: [numbers(7, states * seq_len), numbers(8, states), numbers(9, cells)],
            lengths: ragged.then(|| (0..batch_size).map(|row| (row * 7 + seq_len - 1) % (seq_len + 1)).collect()),
            direction,
            events: [
                drawn(1, seq_len * batch_size),
                drawn(2, batch_size),
                drawn(3, seq_len * batch_size),
                drawn(4, seq_len * batch_size),
            ],
            peepholes: numbers(10, 3 * hidden_size),
            with_options,
        }
    }

    fn inputs(&self) -> SequenceInputs<'_> {
        let [input, weight_ih, weight_hh, bias, hidden, cell_state] = self.tensors.each_ref().map(Vec::as_slice);
        let [candidate, recall, zone_hidden, zone_cell] = self.events.each_ref().map(Vec::as_slice);
        let cell = self.shape.cell;
        let dropped = |events| Dropped { events, scale: 1.5 };
        let options = SequenceOptions {
            candidate_dropout: cell.has_candidate().then_some(dropped(candidate)),
            hidden_dropout: (cell.num_recurrent_gates() > 0).then_some(dropped(recall)),
            zoneout_hidden: Some(Zoneout::Sampled(zone_hidden)),
            zoneout_cell: cell.has_cell_state().then_some(Zoneout::Sampled(zone_cell)),
            peepholes: cell.has_cell_state().then_some(&self.peepholes),
        };
        SequenceInputs {
            input,
            weight_ih,
            weight_hh,
            bias,
            hidden,
            cell_state,
            lengths: self.lengths.as_deref(),
            direction: self.direction,
            options: if self.with_options { options } else { SequenceOptions::default() },
            variant: SequenceVariant::default(),
        }
    }

    /// What a pass there and back gives.
    fn results(&self, engine: &Engine, precision: Precision, way: Loop, memory: Memory) -> Vec<Vec<f32>> {
        let (shape, inputs) = (self.shape, self.inputs());
        let mut written = self.grads.each_ref().map(|like| vec![f32::NAN; like.len()]);
        let mut found: Vec<Vec<f32>> = self.tensors.iter().map(|like| vec![f32::NAN; like.len()]).collect();
        let mut peepholes = vec![f32::NAN; self.peepholes.len()];
        let [output, last_hidden, last_cell_state] = &mut written;
        let outputs = SequenceOutputs { output, last_hidden, last_cell_state };
        let grad = OutputGradients {
            output: Some(Rows::dense(&self.grads[0], inputs.variant.state_size(shape.hidden_size))),
            last_hidden: Some(&self.grads[1]),
            last_cell_state: shape.cell.has_cell_state().then_some(&self.grads[2]),
        };
        let has_peepholes = inputs.options.peepholes.is_some();
        with_cell!(shape.cell, C => {
            let mut trace = SequenceTrace::new::<C>(engine, precision, shape, memory, &inputs);
            if way == Loop::Phased && memory == Memory::All {
                let len = super::kept_len::<C>(engine, precision, shape, &inputs);
                trace.blocks = TraceBlocks::records(engine, len);
            }
            match way {
                Loop::Plain => run::<C>(engine, precision, shape, &inputs, outputs, Some(&mut trace)),
                Loop::Phased => super::forward::<C>(engine, precision, shape, &inputs, outputs, Some(&mut trace)),
            }
            let mut slots = found.iter_mut().map(|values| Some(values.as_mut_slice()));
            let mut next = || slots.next().flatten();
            let mut out = SequenceGradients {
                input: next(),
                weight_ih: next(),
                weight_hh: next(),
                bias: next(),
                hidden: next(),
                cell_state: next(),
                ..SequenceGradients::default()
            };
            out.peepholes = has_peepholes.then_some(&mut peepholes);
            match way {
                Loop::Plain => sequence_backward(engine, precision, shape, inputs, &written[0], &trace, grad, out),
                Loop::Phased => {
                    let batch = super::Batch::new(shape, inputs.direction, inputs.lengths);
                    let layer = (precision, shape, &batch);
                    super::backward::<C>(engine, layer, &inputs, (&written[0], &trace), grad, out);
                }
            }
        });
        if !has_peepholes {
            peepholes.clear();
        }
        found.push(peepholes);
        found.extend(written);
        found
    }
}

const NAMES: [&str; 10] = [
    "input",
    "weight_ih",
    "weight_hh",
    "bias",
    "hidden",
    "cell_state",
    "peepholes",
    "output",
    "last_hidden",
    "last_cell_state",
];

fn check(engine: &Engine, problem: &Problem) {
    for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
        let plain = problem.results(engine, precision, Loop::Plain, Memory::All);
        let phased = problem.results(engine, precision, Loop::Phased, Memory::All);
        for ((plain, phased), name) in plain.iter().zip(&phased).zip(NAMES) {
            let scale = plain.iter().fold(1.0f32, |most, x| most.max(x.abs()));
            for (index, (a, b)) in plain.iter().zip(phased).enumerate() {
                let error = (a - b).abs() / scale;
                assert!(
                    error <= tolerance,
                    "{name}[{index}] is {b}, plainly {a}: {:?} {precision:?} on {} lengths {:?} {:?}",
                    problem.shape,
                    engine.isa(),
                    problem.lengths,
                    problem.direction
                );
            }
        }
        for memory in [Memory::Every(1), Memory::SquareRoot] {
            let again = problem.results(engine, precision, Loop::Phased, memory);
            for ((again, phased), name) in again.iter().zip(&phased).zip(NAMES) {
                let same = again.iter().zip(phased).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} with {memory:?} of {:?} in {precision:?} on {}", problem.shape, engine.isa());
            }
        }
    }
}

#[test]
fn a_plain_layer_in_phases_is_the_plain_layer() {
    for isa in Isa::supported() {
        let engine = Engine::new(isa, 2).unwrap();
        for cell in [Cell::Lstm, Cell::CoupledLstm, Cell::RnnTanh, Cell::RnnRelu] {
            for (batch_size, seq_len, input_size, hidden_size) in
                [(1, 3, 1, 1), (3, 5, 2, 17), (35, 4, 7, 20), (2, 2, 0, 3), (5, 3, 33, 70), (80, 31, 3, 4)]
            {
                let shape = SequenceShape { cell, batch_size, seq_len, input_size, hidden_size };
                for (ragged, direction, with_options) in [
                    (false, Direction::Forward, false),
                    (true, Direction::Forward, true),
                    (true, Direction::Backward, false),
                    (false, Direction::Forward, true),
                ] {
                    check(&engine, &Problem::new(shape, ragged, direction, with_options));
                }
            }
        }
        // More units than pass through the lanes at once.
        let shape = SequenceShape { cell: Cell::Lstm, batch_size: 2, seq_len: 2, input_size: 3, hidden_size: 1040 };
        check(&engine, &Problem::new(shape, false, Direction::Forward, true));
    }
}
