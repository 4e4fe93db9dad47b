//! Gradients of every cell that are missing, unwanted or trivial.

mod common;

use common::sequence::{NAMES, backward, backward_after, everywhere, forward_traced, full_gradient};
use common::sequence_reference::Problem;
use common::{bits, refusal};
use refrain_kernels::{Cell, Engine, Isa, OutputGradients, Precision, Rows, SequenceGradients, sequence_backward};

const SHAPES: [(usize, usize, usize, usize); 5] =
    [(1, 3, 4, 20), (5, 4, 3, 18), (3, 1, 17, 64), (20, 2, 1, 33), (40, 3, 65, 31)];

fn slots<'a, 'b>(out: &'b mut SequenceGradients<'a>) -> [&'b mut Option<&'a mut [f32]>; 6] {
    [&mut out.input, &mut out.weight_ih, &mut out.weight_hh, &mut out.bias, &mut out.hidden, &mut out.cell_state]
}

/// The gradients that a cell has.
fn wanted(cell: Cell) -> std::ops::Range<usize> {
    if cell.has_cell_state() { 0..6 } else { 0..5 }
}

fn all_bits(gradients: &[Vec<f32>; 7]) -> [Vec<u32>; 7] {
    gradients.each_ref().map(|values| bits(values))
}

#[test]
fn unwanted_gradients_leave_the_others_as_they_are() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in SHAPES {
            let problem = Problem::new(cell, b, t, i, h);
            let (written, trace) = forward_traced(engine, precision, &problem);
            let all = backward_after(engine, precision, &problem, (&written, &trace), full_gradient(&problem));
            let run = |chosen: &[usize]| {
                let mut found = chosen.iter().map(|&slot| vec![f32::NAN; all[slot].len()]).collect::<Vec<_>>();
                let mut out = SequenceGradients::default();
                for (found, &slot) in found.iter_mut().zip(chosen) {
                    *slots(&mut out)[slot] = Some(found);
                }
                let (inputs, grad) = (problem.inputs(), full_gradient(&problem));
                sequence_backward(engine, precision, problem.shape, inputs, &written.output, &trace, grad, out);
                for (found, &slot) in found.iter().zip(chosen) {
                    let name = NAMES[slot];
                    let place = format!("{:?} in {precision:?} on {}", problem.shape, engine.isa());
                    assert!(bits(found) == bits(&all[slot]), "{name} among {chosen:?} of {place}");
                }
            };
            run(&[]);
            for slot in wanted(cell) {
                run(&[slot]);
                run(&wanted(cell).filter(|&other| other != slot).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn missing_gradients_count_as_zero() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in SHAPES {
            let mut problem = Problem::new(cell, b, t, i, h);
            let zeros = backward(engine, precision, &problem, OutputGradients::default());
            assert!(zeros.iter().flatten().all(|&value| value == 0.0), "{:?}", problem.shape);
            let only_cell = OutputGradients { output: None, last_hidden: None, ..full_gradient(&problem) };
            let found = backward(engine, precision, &problem, only_cell);
            let without = Problem {
                grad_output: vec![0.0; problem.grad_output.len()],
                grad_hidden: vec![0.0; problem.grad_hidden.len()],
                ..problem.clone()
            };
            assert!(found == backward(engine, precision, &without, full_gradient(&without)), "{:?}", problem.shape);
            problem.grad_cell.fill(0.0);
            problem.grad_hidden.fill(0.0);
            let only_output = OutputGradients { last_hidden: None, last_cell_state: None, ..full_gradient(&problem) };
            let found = backward(engine, precision, &problem, only_output);
            assert!(found == backward(engine, precision, &problem, full_gradient(&problem)), "{:?}", problem.shape);
        }
    });
}

#[test]
fn the_gradient_of_the_output_may_be_a_part_of_wider_rows() {
    everywhere(2, |engine, precision, cell| {
        for (b, t, i, h) in SHAPES {
            let problem = Problem::new(cell, b, t, i, h);
            let dense = backward(engine, precision, &problem, full_gradient(&problem));
            for (before, after) in [(0, 3), (5, 0)] {
                let rows = problem.grad_output.chunks_exact(h.max(1));
                let wide: Vec<f32> =
                    rows.flat_map(|row| [&vec![f32::NAN; before], row, &vec![f32::NAN; after]].concat()).collect();
                let values = wide.get(before..).unwrap_or_default();
                let output = Some(Rows { values, stride: before + h + after });
                let found =
                    backward(engine, precision, &problem, OutputGradients { output, ..full_gradient(&problem) });
                assert!(all_bits(&found) == all_bits(&dense), "{:?}", problem.shape);
            }
        }
    });
}

#[test]
fn a_trace_can_be_used_again_and_two_live_side_by_side() {
    everywhere(2, |engine, precision, cell| {
        let problems = [Problem::new(cell, 5, 4, 3, 18), Problem::new(cell, 40, 3, 7, 33)];
        let expected = problems.each_ref().map(|problem| backward(engine, precision, problem, full_gradient(problem)));
        let runs = problems.each_ref().map(|problem| forward_traced(engine, precision, problem));
        for _ in 0..2 {
            for ((problem, (written, trace)), expected) in problems.iter().zip(&runs).zip(&expected) {
                let found = backward_after(engine, precision, problem, (written, trace), full_gradient(problem));
                assert!(all_bits(&found) == all_bits(expected), "{:?}", problem.shape);
            }
        }
    });
}

#[test]
fn without_steps_the_gradients_of_the_states_pass_through() {
    everywhere(2, |engine, precision, cell| {
        for (b, t) in [(1, 0), (3, 0), (40, 0), (0, 3), (0, 0)] {
            let problem = Problem::new(cell, b, t, 4, 5);
            let found = backward(engine, precision, &problem, full_gradient(&problem));
            assert_eq!((&found[4], &found[5]), (&problem.grad_hidden, &problem.grad_cell));
            assert!(found[..4].iter().flatten().all(|&value| value == 0.0), "{:?}", problem.shape);
        }
    });
}

#[test]
fn wrong_lengths_are_refused_with_what_was_expected_and_found() {
    for (cell, gates, biases) in [(Cell::Lstm, 4, 4), (Cell::Gru, 3, 4), (Cell::RnnTanh, 1, 1), (Cell::RnnRelu, 1, 1)] {
        let problem = Problem::new(cell, 2, 3, 4, 5);
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        let (written, trace) = forward_traced(&engine, Precision::F32, &problem);
        let nothing = OutputGradients::default;
        let refusal_of = |output: &[f32], grad: OutputGradients, out: SequenceGradients| {
            let inputs = problem.inputs();
            refusal(|| sequence_backward(&engine, Precision::F32, problem.shape, inputs, output, &trace, grad, out))
        };
        let shapes = [
            "[2, 3, 4]".to_string(),
            format!("[{}, 4]", 5 * gates),
            format!("[{}, 5]", 5 * gates),
            format!("[{}]", 5 * biases),
            "[2, 5]".to_string(),
            "[2, 5]".to_string(),
        ];
        for slot in wanted(cell) {
            let mut wrong = vec![0.0; problem.wide()[slot].len() + 1];
            let found = wrong.len().to_string();
            let mut out = SequenceGradients::default();
            *slots(&mut out)[slot] = Some(&mut wrong);
            let message = refusal_of(&written.output, nothing(), out);
            let expected = format!("the gradient of {} must be {}", NAMES[slot], shapes[slot]);
            assert!(message.contains(&expected) && message.contains(&found), "{message}");
        }
        let message = refusal_of(&written.output[1..], nothing(), SequenceGradients::default());
        assert!(message.contains("output must be [2, 3, 5]") && message.contains("29"), "{message}");
        let short = OutputGradients { output: Some(Rows::dense(&problem.grad_output[1..], 5)), ..Default::default() };
        let message = refusal_of(&written.output, short, SequenceGradients::default());
        assert!(
            message.contains("the gradient of output must be 6 rows of 5") && message.contains("not 29"),
            "{message}"
        );
        let narrow = OutputGradients { output: Some(Rows { values: &[0.0; 100], stride: 4 }), ..Default::default() };
        let message = refusal_of(&written.output, narrow, SequenceGradients::default());
        assert!(message.contains("rows of 5") && message.contains("in strides of 4"), "{message}");
        let long = OutputGradients { last_cell_state: Some(&[0.0; 11]), ..Default::default() };
        let message = refusal_of(&written.output, long, SequenceGradients::default());
        assert!(message.contains("the gradient of last_cell_state must be"), "{message}");
    }
}
