//! What the gates did, read from the trace.

mod common;

use common::bits;
use common::sequence::{everywhere, forward, gates, with_options};
use common::sequence_reference::Problem;
use refrain_kernels::Cell;

/// The steps of a sequence that are there, and those after its end.
fn parts<'a>(problem: &Problem, values: &'a [f32], row: usize) -> (&'a [f32], &'a [f32]) {
    let len = problem.shape.seq_len * problem.shape.hidden_size;
    values[row * len..][..len].split_at(problem.length(row) * problem.shape.hidden_size)
}

#[test]
fn hidden_states_are_the_outputs_under_every_option_and_after_an_end_there_is_nothing() {
    everywhere(2, |engine, precision, cell| {
        let plain = Problem::new(cell, 37, 6, 5, 21);
        for problem in [vec![plain.clone()], with_options(&plain)].concat() {
            for problem in [problem.clone(), problem.clone().ragged(), problem.ragged().backward_in_time()] {
                let place = format!("{:?} in {precision:?} on {}", problem.shape, engine.isa());
                let found = gates(engine, precision, &problem);
                assert_eq!(bits(&found[0].1), bits(&forward(engine, precision, &problem).output), "{place}");
                for (name, values) in &found {
                    for row in 0..problem.shape.batch_size {
                        let (there, after) = parts(&problem, values, row);
                        assert!(there.iter().all(|value| value.is_finite()), "{name} of {place}");
                        assert!(after.iter().all(|value| value.to_bits() == 0), "{name} after the end, {place}");
                    }
                }
            }
        }
    });
}

#[test]
fn lengths_change_no_bit_of_the_steps_that_are_there() {
    everywhere(3, |engine, precision, cell| {
        for (b, t) in [(37, 6), (3, 300)] {
            let whole = Problem::new(cell, b, t, 5, 21);
            let ragged = whole.clone().ragged();
            let [of_whole, of_ragged] = [&whole, &ragged].map(|problem| gates(engine, precision, problem));
            for ((name, whole), (_, found)) in of_whole.iter().zip(&of_ragged) {
                for row in 0..ragged.shape.batch_size {
                    let [whole, found] = [whole, found].map(|values| bits(parts(&ragged, values, row).0));
                    assert!(whole == found, "{name} of sequence {row}, {cell:?} in {precision:?} on {}", engine.isa());
                }
            }
        }
    });
}

#[test]
fn gates_are_between_0_and_1_and_make_the_states() {
    everywhere(1, |engine, precision, cell| {
        let problem = Problem::new(cell, 5, 4, 3, 21);
        let found = gates(engine, precision, &problem);
        let of = |name: &str| &found.iter().find(|(of, _)| *of == name).expect("it has it").1;
        for gate in ["input", "forget", "output", "reset", "update"] {
            let values = found.iter().filter(|(name, _)| *name == gate).flat_map(|(_, values)| values);
            assert!(values.into_iter().all(|value| (0.0..=1.0).contains(value)), "{gate} of {cell:?}");
        }
        for (index, &hidden) in of("hidden").iter().enumerate() {
            let (step, before) = (index / 21 % 4, index.checked_sub(21));
            let state = |name: &str, first: &[f32]| match step {
                0 => first[index / 84 * 21 + index % 21],
                _ => of(name)[before.expect("after the first step")],
            };
            let value = |name: &str| of(name)[index];
            let expected = match cell {
                Cell::Lstm | Cell::CoupledLstm => value("output") * value("cell_state").tanh(),
                Cell::Gru => {
                    let (z, n) = (value("update"), value("candidate"));
                    (1.0 - z) * n + z * state("hidden", &problem.hidden)
                }
                Cell::MinGru => {
                    let (z, candidate) = (value("update"), value("candidate"));
                    (1.0 - z) * state("hidden", &problem.hidden) + z * candidate
                }
                Cell::RnnTanh | Cell::RnnRelu => hidden,
            };
            assert!((hidden - expected).abs() < 1e-5, "{cell:?} on {}: {hidden}, not {expected}", engine.isa());
        }
    });
}
