//! Sequences of every cell against plain loops in f64, and those against finite differences.

mod common;

use common::sequence::{NAMES, backward_after, forward, forward_keeping, forward_traced, full_gradient, with_options};
use common::sequence_reference::{Problem, Reference};
use common::{Noise, PRECISIONS, assert_close_at_scale, bits, engines};
use refrain_kernels::{Cell, Engine, Memory, Precision, SequenceShape};

const BATCH_SIZES: [usize; 5] = [1, 3, 20, 33, 64];
const SIZES: [usize; 10] = [1, 2, 3, 5, 17, 31, 64, 65, 97, 130];
const SEQ_LENS: [usize; 5] = [0, 1, 2, 7, 33];

/// The error allowed per largest expected value.
///
/// In f32, rounding adds up over the steps like a random walk. In a single step a gradient is already a sum of several hundred
/// terms, whose rounding alone comes to 1.2e-6 when they are added one after the other; so short sequences get 2e-6.
fn tolerance(precision: Precision, seq_len: usize) -> f64 {
    match precision {
        Precision::F32 => (1e-6 * (seq_len as f64).sqrt()).max(2e-6),
        Precision::Bf16 => 1e-2,
    }
}

/// The largest expected value is taken to be at least this.
///
/// Rounding errors are as large as the terms of a sum. Among many elements some sum is as large too, but where there are few, or
/// few units behind them, the terms of all may happen to cancel: to those applies half of what sums with random signs come to.
fn least_scale(shape: SequenceShape, what: &str, len: usize) -> f64 {
    let SequenceShape { batch_size, seq_len, input_size, hidden_size, .. } = shape;
    if hidden_size >= 8 && len >= 64 {
        return 0.0;
    }
    let terms = match what {
        "weight_ih" | "weight_hh" | "bias" => (batch_size * seq_len) as f64,
        "input" => hidden_size as f64 / input_size.max(1) as f64,
        _ => 1.0,
    };
    0.5 * terms.sqrt()
}

fn check(engines: &[Engine], problem: &Problem) {
    let shape = problem.shape;
    let reference = Reference::new(problem, &problem.wide());
    let mut active: Vec<bool> = reference.sums().map(|sum| sum > 0.0).collect();
    let mut gradients = reference.backward(problem, &active);
    for engine in engines {
        for precision in PRECISIONS {
            let name = |what: &str| format!("{what} of {shape:?} in {precision:?} on {}", engine.isa());
            let close = |what, found: &[f32], expected: &[f64]| {
                let least_scale = least_scale(shape, what, expected.len());
                assert_close_at_scale(&name(what), found, expected, tolerance(precision, shape.seq_len), least_scale);
            };
            let (written, trace) = forward_traced(engine, precision, problem);
            close("output", &written.output, &reference.output);
            close("last_hidden", &written.last_hidden, &reference.last_hidden);
            close("last_cell_state", &written.last_cell_state, &reference.last_cell_state);
            let untraced = forward(engine, precision, problem);
            assert!(untraced.bits() == written.bits(), "{}", name("the untraced pass"));
            // The output is close, so the rectifier can only differ on sums close to zero.
            let rectified = problem.rectified(&written.output);
            if shape.cell == Cell::RnnRelu && rectified != active {
                gradients = reference.backward(problem, &rectified);
                active = rectified;
            }
            let found = backward_after(engine, precision, problem, (&written, &trace), full_gradient(problem));
            for ((found, expected), what) in found.iter().zip(&gradients).zip(NAMES) {
                close(what, found, expected);
            }
            let several =
                if shape.seq_len > 2 { &[Memory::Every(1), Memory::Every(9), Memory::SquareRoot][..] } else { &[] };
            for &memory in several {
                let (written, trace) = forward_keeping(engine, precision, problem, memory);
                assert!(untraced.bits() == written.bits(), "{}", name("the pass that keeps little"));
                let again = backward_after(engine, precision, problem, (&written, &trace), full_gradient(problem));
                for ((found, again), what) in found.iter().zip(&again).zip(NAMES) {
                    assert!(bits(found) == bits(again), "{} with {memory:?}", name(what));
                }
            }
        }
    }
}

/// All sizes of the state with each other, and those of the input in turn.
fn check_all_sizes(cell: Cell) {
    let engines = engines(2);
    for (n, &hidden_size) in SIZES.iter().enumerate() {
        for (m, &batch_size) in BATCH_SIZES.iter().enumerate() {
            for (k, &seq_len) in SEQ_LENS.iter().enumerate() {
                let input_size = SIZES[(3 * n + 7 * m + 2 * k) % SIZES.len()];
                check(&engines, &Problem::new(cell, batch_size, seq_len, input_size, hidden_size));
            }
        }
    }
}

#[test]
fn lstm_layers_match_plain_loops() {
    check_all_sizes(Cell::Lstm);
}

#[test]
fn coupled_lstm_layers_match_plain_loops() {
    check_all_sizes(Cell::CoupledLstm);
}

#[test]
fn gru_layers_match_plain_loops() {
    check_all_sizes(Cell::Gru);
}

#[test]
fn minimal_gru_layers_match_plain_loops() {
    check_all_sizes(Cell::MinGru);
}

#[test]
fn tanh_layers_match_plain_loops() {
    check_all_sizes(Cell::RnnTanh);
}

#[test]
fn rectified_layers_match_plain_loops() {
    check_all_sizes(Cell::RnnRelu);
}

#[test]
fn long_sequences_and_many_blocks_match_plain_loops() {
    let engines = engines(2);
    for cell in Cell::ALL {
        for (b, t, i, h) in [(1, 6, 128, 256), (2, 4, 61, 250), (3, 200, 4, 20), (1, 40, 1, 16), (40, 7, 150, 200)] {
            check(&engines, &Problem::new(cell, b, t, i, h));
        }
    }
}

#[test]
fn minimal_grus_cut_into_segments_match_plain_loops() {
    let engines = engines(3);
    for (b, t, i, h) in [(1, 257, 3, 7), (3, 320, 5, 16), (8, 321, 2, 13), (2, 1000, 4, 20)] {
        let plain = Problem::new(Cell::MinGru, b, t, i, h);
        for problem in [vec![plain.clone()], with_options(&plain)].concat() {
            check(&engines, &problem);
            check(&engines, &problem.clone().backward_in_time());
            check(&engines, &problem.clone().ragged());
            check(&engines, &problem.ragged().backward_in_time());
        }
        // At the edge of a segment, inside the first one, and none.
        let lengths = |row: usize| [256, 64, 0, 65, t, 10, 128, 1][row % 8];
        check(&engines, &Problem { lengths: Some((0..b).map(lengths).collect()), ..plain });
    }
}

#[test]
fn layers_without_sequences_inputs_or_units_are_no_special_case() {
    let engines = engines(2);
    for cell in Cell::ALL {
        for (b, t, i, h) in [(3, 4, 0, 5), (3, 4, 5, 0), (3, 4, 0, 0), (0, 3, 4, 5), (0, 0, 4, 5)] {
            check(&engines, &Problem::new(cell, b, t, i, h));
        }
    }
}

#[test]
fn a_random_walk_over_shapes_matches_plain_loops() {
    let engines = engines(3);
    let mut noise = Noise::new(99);
    for _ in 0..40 {
        let cell = Cell::ALL[noise.pick(&[0, 1, 2, 3, 4, 5])];
        let problem = Problem::new(
            cell,
            noise.pick(&[1, 4, 6, 11, 20]),
            noise.pick(&[1, 2, 7, 12]),
            noise.pick(&[1, 10, 64]),
            noise.pick(&[4, 15, 16, 48, 66]),
        );
        check(&engines, &problem);
    }
}

#[test]
fn every_option_matches_plain_loops() {
    let engines = engines(2);
    for cell in Cell::ALL {
        for (b, t, i, h) in [(1, 5, 3, 7), (3, 9, 17, 33), (20, 7, 5, 65), (40, 4, 31, 64), (67, 12, 2, 130)] {
            for problem in with_options(&Problem::new(cell, b, t, i, h)) {
                check(&engines, &problem);
                check(&engines, &problem.clone().backward_in_time());
                check(&engines, &problem.ragged().backward_in_time());
            }
        }
    }
}

/// Normalised sums and the reset gate before the product, which have no reference here, are held against layers composed of
/// tensor operations in `refrain`.
#[test]
fn layers_in_phases_match_plain_loops() {
    let engines = engines(2);
    for cell in [Cell::Lstm, Cell::CoupledLstm] {
        for (b, t, i, h) in [(1, 3, 1, 1), (3, 5, 2, 17), (35, 4, 7, 20), (2, 2, 0, 3), (5, 3, 33, 70), (80, 31, 3, 4)]
        {
            let plain = Problem::new(cell, b, t, i, h).in_phases();
            let with_all = with_options(&plain).pop().expect("all options come last");
            for problem in [plain, with_all] {
                check(&engines, &problem);
                check(&engines, &problem.clone().ragged());
                check(&engines, &problem.ragged().backward_in_time());
            }
        }
    }
}

#[test]
fn phases_over_more_units_than_pass_through_the_lanes_at_once_match_plain_loops() {
    let plain = Problem::new(Cell::Lstm, 2, 2, 3, 1040).in_phases();
    check(&engines(2), &with_options(&plain).pop().expect("all options come last"));
}

#[test]
fn sequences_of_any_lengths_match_plain_loops() {
    let engines = engines(2);
    for cell in Cell::ALL {
        for (b, t, i, h) in
            [(1, 5, 3, 7), (2, 1, 4, 5), (3, 9, 17, 33), (20, 7, 5, 65), (64, 33, 31, 40), (67, 40, 2, 5)]
        {
            let problem = Problem::new(cell, b, t, i, h);
            check(&engines, &problem.clone().ragged());
            check(&engines, &problem.clone().ragged().backward_in_time());
            check(&engines, &Problem { lengths: Some(vec![0; b]), ..problem.clone() });
            check(&engines, &Problem { lengths: Some((0..b).map(|row| row.min(t)).collect()), ..problem.clone() });
            check(&engines, &Problem { lengths: Some(vec![t - 1; b]), ..problem });
        }
    }
}

#[test]
fn the_reference_gradients_match_finite_differences() {
    for cell in Cell::ALL {
        for (b, t, i, h) in [(2, 3, 2, 3), (1, 5, 3, 2), (3, 1, 1, 4)] {
            let plain = Problem::new(cell, b, t, i, h);
            differences_match(&plain);
            for problem in with_options(&plain) {
                differences_match(&problem.clone().ragged());
                differences_match(&problem.ragged().backward_in_time());
            }
        }
    }
}

fn differences_match(problem: &Problem) {
    const STEP: f64 = 1e-5;
    let cell = problem.shape.cell;
    let inputs = problem.wide();
    let reference = Reference::new(problem, &inputs);
    // A step must not cross the bend of the rectifier.
    let bends = cell == Cell::RnnRelu && reference.sums().any(|sum| sum != 0.0 && sum.abs() < 20.0 * STEP);
    assert!(!bends, "a sum close to zero in {:?}", problem.shape);
    let active: Vec<bool> = reference.sums().map(|sum| sum > 0.0).collect();
    let gradients = reference.backward(problem, &active);
    for slot in 0..7 {
        for e in 0..inputs[slot].len() {
            let shifted = |by: f64| {
                let mut inputs = inputs.clone();
                inputs[slot][e] += by;
                problem.loss(&inputs)
            };
            let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            let expected = gradients[slot][e];
            let error = (difference - expected).abs();
            assert!(error < 1e-8, "{}[{e}] of {cell:?}: {difference} against {expected}", NAMES[slot]);
        }
    }
}
