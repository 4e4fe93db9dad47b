//! What holds to the bit, or for special values, when sequences of every cell run forward.

mod common;

use common::sequence::{
    NAMES, Written, backward_after, everywhere, forward, forward_traced, full_gradient, with_options,
};
use common::sequence_reference::Problem;
use common::{bits, refusal};
use refrain_kernels::{Cell, Engine, Isa, Precision, SequenceOutputs, SequenceShape, sequence_forward};
use std::ops::Range;

const SHAPES: [(usize, usize, usize, usize); 6] =
    [(1, 7, 5, 33), (3, 6, 64, 17), (8, 4, 1, 130), (20, 7, 31, 65), (40, 5, 9, 64), (65, 3, 2, 5)];

/// The elements of an output that belong to the steps from `range` of all sequences.
fn cut(output: &[f32], shape: SequenceShape, range: &Range<usize>) -> Vec<f32> {
    let steps = |sequence| (sequence * shape.seq_len + range.start)..(sequence * shape.seq_len + range.end);
    let width = shape.hidden_size;
    let elements = |steps: Range<usize>| &output[steps.start * width..steps.end * width];
    (0..shape.batch_size).flat_map(|sequence| elements(steps(sequence))).copied().collect()
}

/// Runs the parts one after the other, each from the state that the one before left, and compares with the whole.
fn check_parts(engine: &Engine, precision: Precision, problem: &Problem, whole: &Written, parts: &[Range<usize>]) {
    let shape = problem.shape;
    let name = format!("{parts:?} of {shape:?} in {precision:?} on {}", engine.isa());
    let (mut hidden, mut cell_state) = (problem.hidden.clone(), problem.cell_state.clone());
    for range in parts {
        let part = problem.steps(range.clone(), &hidden, &cell_state);
        let written = forward(engine, precision, &part);
        assert!(bits(&written.output) == bits(&cut(&whole.output, shape, range)), "{range:?} in {name}");
        hidden = written.last_hidden;
        cell_state = written.last_cell_state;
    }
    assert!(bits(&hidden) == bits(&whole.last_hidden), "the hidden state after {name}");
    assert!(bits(&cell_state) == bits(&whole.last_cell_state), "the cell state after {name}");
}

#[test]
fn sequences_in_parts_have_the_same_bits_as_whole_ones() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in SHAPES {
            let problem = Problem::new(cell, b, t, i, h);
            let whole = forward(engine, precision, &problem);
            for at in 0..=t {
                check_parts(engine, precision, &problem, &whole, &[0..at, at..t]);
            }
            let steps: Vec<Range<usize>> = (0..t).map(|at| at..at + 1).collect();
            check_parts(engine, precision, &problem, &whole, &steps);
        }
    });
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_beside_others() {
    everywhere(2, |engine, precision, cell| {
        for (t, i, h) in [(1, 3, 17), (1, 130, 64), (2, 1, 5), (3, 65, 130), (7, 31, 97), (33, 2, 20)] {
            let problem = Problem::new(cell, 40, t, i, h);
            let together = forward(engine, precision, &problem);
            let states = if cell.has_cell_state() { h } else { 0 };
            for range in [0..1, 39..40, 17..18, 3..5, 11..14, 0..5, 20..28, 7..24, 0..33] {
                let few = forward(engine, precision, &problem.sequences(range.clone()));
                let name = format!("{range:?} of {:?} in {precision:?} on {}", problem.shape, engine.isa());
                let output = &together.output[range.start * t * h..range.end * t * h];
                assert!(bits(&few.output) == bits(output), "{name}");
                let cell_state = &together.last_cell_state[range.start * states..range.end * states];
                assert!(bits(&few.last_cell_state) == bits(cell_state), "the cell state of {name}");
            }
        }
    });
}

#[test]
fn without_steps_the_states_stay() {
    everywhere(2, |engine, precision, cell| {
        for b in [0, 1, 3, 40] {
            let problem = Problem::new(cell, b, 0, 4, 5);
            for written in [forward(engine, precision, &problem), forward_traced(engine, precision, &problem).0] {
                assert!(written.output.is_empty());
                assert_eq!(bits(&written.last_cell_state), bits(&problem.cell_state));
                assert_eq!(bits(&written.last_hidden), bits(&problem.hidden));
            }
        }
    });
}

#[test]
fn nan_in_one_sequence_reaches_its_outputs_and_no_others() {
    everywhere(2, |engine, precision, cell| {
        for (b, t) in [(2, 2), (9, 3), (40, 2), (2, 260)] {
            let plain = Problem::new(cell, b, t, 3, 21);
            for mut problem in [vec![plain.clone()], with_options(&plain)].concat() {
                problem.input[3 * t] = f32::NAN;
                let keeps_all = problem.options.zoneout_hidden.is_some() || problem.options.candidate_dropout.is_some();
                let (written, trace) = forward_traced(engine, precision, &problem);
                let place = format!("{:?} in {precision:?} on {}", problem.shape, engine.isa());
                for (index, sequence) in written.output.chunks(t * 21).enumerate() {
                    let reached = sequence.iter().filter(|value| value.is_nan()).count();
                    // Of its own units, options may keep some what they were.
                    let expected = if index == 1 { 1..=t * 21 } else { 0..=0 };
                    assert!(expected.contains(&reached), "sequence {index} of {place}");
                    assert!(index != 1 || keeps_all || reached == t * 21, "sequence {index} of {place}");
                }
                problem.grad_output[0] = f32::NAN;
                let gradients =
                    backward_after(engine, precision, &problem, (&written, &trace), full_gradient(&problem));
                let others = gradients[0][2 * t * 3..].iter().chain(&gradients[4][2 * 21..]);
                assert!(others.into_iter().all(|value| value.is_finite()), "the gradients of {place}");
            }
        }
    });
}

#[test]
fn infinite_inputs_saturate_the_gates() {
    everywhere(1, |engine, precision, cell| {
        if cell == Cell::MinGru {
            // Its candidate has no bound, and infinity less infinity is no number.
            return;
        }
        for b in [2, 9, 40] {
            let mut problem = Problem::new(cell, b, 2, 1, 5);
            problem.weight_ih.fill(1.0);
            problem.weight_hh.fill(1.0);
            problem.input.fill(f32::INFINITY);
            problem.hidden.fill(0.5);
            problem.cell_state.fill(0.25);
            let written = forward(engine, precision, &problem);
            let place = format!("{:?} in {precision:?} on {}", problem.shape, engine.isa());
            for steps in written.output.chunks(2 * 5) {
                for (at, &found) in steps.iter().enumerate() {
                    let expected = match cell {
                        // Each step adds the candidate, one, and forgets nothing.
                        Cell::Lstm => (1.25 + (at / 5) as f32).tanh(),
                        // It lets nothing in where it forgets nothing.
                        Cell::CoupledLstm => 0.25f32.tanh(),
                        // The update gate keeps the state.
                        Cell::Gru => 0.5,
                        Cell::MinGru => unreachable!("left out above"),
                        Cell::RnnTanh => 1.0,
                        Cell::RnnRelu => f32::INFINITY,
                    };
                    let close = found.to_bits() == expected.to_bits() || (found - expected).abs() < 1e-6;
                    assert!(close, "{found} for {expected} of {place}");
                }
            }
        }
    });
}

/// The message with which buffers of these lengths are refused.
fn refusal_of(problem: &Problem, output: usize, last_cell_state: usize) -> String {
    let (mut output, mut last_cell_state) = (vec![0.0; output], vec![0.0; last_cell_state]);
    let mut last_hidden = vec![0.0; problem.hidden.len()];
    let outputs =
        SequenceOutputs { output: &mut output, last_hidden: &mut last_hidden, last_cell_state: &mut last_cell_state };
    let engine = Engine::new(Isa::Portable, 1).expect("plain loops");
    refusal(|| sequence_forward(&engine, Precision::F32, problem.shape, problem.inputs(), outputs))
}

#[test]
fn padding_is_no_number_of_anything() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in SHAPES {
            let plain = Problem::new(cell, b, t, i, h).ragged();
            for problem in [vec![plain.clone()], with_options(&plain)].concat() {
                let name = format!("{:?} in {precision:?} on {}", problem.shape, engine.isa());
                // Whatever stands there, even if it is not a number.
                let mut other = problem.clone();
                for row in 0..b {
                    other.input[(row * t + problem.length(row)) * i..(row + 1) * t * i].fill(f32::NAN);
                    other.grad_output[(row * t + problem.length(row)) * h..(row + 1) * t * h].fill(f32::NAN);
                }
                let (written, trace) = forward_traced(engine, precision, &problem);
                let (beside, trace_beside) = forward_traced(engine, precision, &other);
                assert!(written.bits() == beside.bits(), "what {name} writes");
                let expected = backward_after(engine, precision, &problem, (&written, &trace), full_gradient(&problem));
                let found = backward_after(engine, precision, &other, (&beside, &trace_beside), full_gradient(&other));
                for ((expected, found), what) in expected.iter().zip(&found).zip(NAMES) {
                    assert!(bits(expected) == bits(found), "{what} of {name}");
                }
                for row in 0..b {
                    let padding = &written.output[(row * t + problem.length(row)) * h..(row + 1) * t * h];
                    assert!(bits(padding).iter().all(|&bits| bits == 0), "the output's padding of {name}");
                    let padding = &found[0][(row * t + problem.length(row)) * i..(row + 1) * t * i];
                    assert!(bits(padding).iter().all(|&bits| bits == 0), "the input gradient's padding of {name}");
                }
            }
        }
    });
}

#[test]
fn more_padding_changes_no_bit() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in [(3, 9, 5, 33), (20, 7, 31, 65), (64, 13, 3, 20), (2, 251, 3, 9), (3, 300, 2, 9)] {
            let mut long = Problem::new(cell, b, t + 6, i, h);
            long.lengths = Some((0..b).map(|row| t - row * 5 % (t + 1)).collect());
            let mut short = long.steps(0..t, &long.hidden.clone(), &long.cell_state.clone());
            short.lengths = long.lengths.clone();
            let name = format!("{:?} in {precision:?} on {}", long.shape, engine.isa());
            let runs = [&long, &short].map(|problem| forward_traced(engine, precision, problem));
            let [long_run, short_run] = &runs;
            assert!(bits(&cut(&long_run.0.output, long.shape, &(0..t))) == bits(&short_run.0.output), "{name}");
            assert!(long_run.0.bits()[1..] == short_run.0.bits()[1..], "the last states of {name}");
            let gradients = [(&long, long_run), (&short, short_run)].map(|(problem, (written, trace))| {
                backward_after(engine, precision, problem, (written, trace), full_gradient(problem))
            });
            for slot in 1..7 {
                assert!(bits(&gradients[0][slot]) == bits(&gradients[1][slot]), "{} of {name}", NAMES[slot]);
            }
        }
    });
}

#[test]
#[should_panic(expected = "sequence 1 is of 4 steps but the input has 3")]
fn a_length_beyond_the_input_is_refused() {
    let problem = Problem { lengths: Some(vec![3, 4]), ..Problem::new(Cell::Gru, 2, 3, 4, 5) };
    forward(&Engine::new(Isa::Portable, 1).unwrap(), Precision::F32, &problem);
}

#[test]
#[should_panic(expected = "Gru has no cell state for peepholes")]
fn options_of_another_cell_are_refused() {
    let mut problem = Problem::new(Cell::Gru, 2, 3, 4, 5);
    problem.options.peepholes = Some(vec![0.0; 15]);
    forward(&Engine::new(Isa::Portable, 1).unwrap(), Precision::F32, &problem);
}

#[test]
fn wrong_lengths_are_refused_with_what_was_expected_and_found() {
    for (cell, gates, biases) in [(Cell::Lstm, 4, 4), (Cell::Gru, 3, 4), (Cell::RnnTanh, 1, 1), (Cell::RnnRelu, 1, 1)] {
        let right = Problem::new(cell, 2, 3, 4, 5);
        let (output, cells) = (right.grad_output.len(), right.grad_cell.len());
        let mut slots = vec![
            ("input", "[2, 3, 4]".to_string(), (|p| &mut p.input) as fn(&mut Problem) -> &mut Vec<f32>),
            ("weight_ih", format!("[{}, 4]", 5 * gates), |p| &mut p.weight_ih),
            ("weight_hh", format!("[{}, 5]", 5 * gates), |p| &mut p.weight_hh),
            ("bias", format!("[{}]", 5 * biases), |p| &mut p.bias),
            ("hidden", "[2, 5]".to_string(), |p| &mut p.hidden),
        ];
        if cell.has_cell_state() {
            slots.push(("cell_state", "[2, 5]".to_string(), |p| &mut p.cell_state));
        }
        for (name, shape, slot) in slots {
            let mut problem = right.clone();
            slot(&mut problem).push(0.0);
            let found = slot(&mut problem).len().to_string();
            let message = refusal_of(&problem, output, cells);
            assert!(message.contains(&format!("{name} must be {shape}")) && message.contains(&found), "{message}");
        }
        let message = refusal_of(&right, output - 1, cells);
        assert!(message.contains("output must be [2, 3, 5]") && message.contains("29"), "{message}");
        let message = refusal_of(&right, output, cells + 1);
        assert!(message.contains("last_cell_state must be"), "{message}");
        if !cell.has_cell_state() {
            let message = refusal_of(&Problem { cell_state: vec![0.0; 10], ..right.clone() }, output, cells);
            assert!(message.contains("cell_state must be"), "{message}");
        }
    }
}

#[test]
#[should_panic(expected = "weight_hh must be [15, 5]")]
fn a_wrong_shape_is_refused_in_bf16_too() {
    let mut problem = Problem::new(Cell::Gru, 2, 3, 4, 5);
    problem.weight_hh.pop();
    forward_traced(&Engine::new(Isa::Portable, 1).unwrap(), Precision::Bf16, &problem);
}
