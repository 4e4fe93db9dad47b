//! The LSTM against plain loops in f64, and those against finite differences.

mod common;

use common::lstm_reference::{Problem, Reference};
use common::{Noise, assert_close, bits, engines};
use refrain_kernels::{
    Engine, Isa, LstmGradients, LstmOutputGradients, LstmOutputs, LstmTrace, lstm_backward, lstm_forward,
    lstm_forward_traced,
};

const SIZES: [usize; 11] = [1, 2, 3, 5, 7, 13, 17, 31, 33, 64, 65];
const NAMES: [&str; 6] = ["input", "weight_ih", "weight_hh", "bias", "hidden", "cell_state"];

struct Run {
    output: Vec<f32>,
    last_cell_state: Vec<f32>,
    trace: LstmTrace,
}

fn run(engine: &Engine, problem: &Problem) -> Run {
    let states = problem.shape.batch_size * problem.shape.hidden_size;
    let mut output = vec![f32::NAN; states * problem.shape.seq_len];
    let mut last_cell_state = vec![f32::NAN; states];
    let outputs = LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
    let trace = lstm_forward_traced(engine, problem.shape, problem.inputs(), outputs);
    Run { output, last_cell_state, trace }
}

fn backward(engine: &Engine, problem: &Problem, run: &Run, grad: LstmOutputGradients) -> [Vec<f32>; 6] {
    let mut out = problem.wide().map(|values| vec![f32::NAN; values.len()]);
    let [input, weight_ih, weight_hh, bias, hidden, cell_state] = out.each_mut();
    let gradients = LstmGradients {
        input: Some(input),
        weight_ih: Some(weight_ih),
        weight_hh: Some(weight_hh),
        bias: Some(bias),
        hidden: Some(hidden),
        cell_state: Some(cell_state),
    };
    lstm_backward(engine, problem.shape, problem.inputs(), &run.output, &run.trace, grad, gradients);
    out
}

fn full_gradient(problem: &Problem) -> LstmOutputGradients<'_> {
    LstmOutputGradients { output: Some(&problem.grad_output), last_cell_state: Some(&problem.grad_cell) }
}

fn check(engines: &[Engine], problem: &Problem) {
    let reference = Reference::new(problem.shape, &problem.wide());
    let gradients = reference.backward(problem);
    for engine in engines {
        let name = |what: &str| format!("{what} of {:?} on {}", problem.shape, engine.isa());
        let run = run(engine, problem);
        assert_close(&name("output"), &run.output, &reference.output, 1e-5);
        assert_close(&name("last_cell_state"), &run.last_cell_state, &reference.cell_state, 1e-5);
        assert_close(&name("gates"), &run.trace.gates, &reference.gates, 1e-5);
        assert_close(&name("cell_states"), &run.trace.cell_states, &reference.cell_states, 1e-5);
        for ((actual, expected), what) in
            backward(engine, problem, &run, full_gradient(problem)).iter().zip(&gradients).zip(NAMES)
        {
            assert_close(&name(what), actual, expected, 1e-5);
        }
        let mut output = vec![f32::NAN; run.output.len()];
        let mut last_cell_state = vec![f32::NAN; run.last_cell_state.len()];
        let outputs = LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
        lstm_forward(engine, problem.shape, problem.inputs(), outputs);
        assert_eq!(bits(&output), bits(&run.output), "{}", name("the untraced output"));
        assert_eq!(bits(&last_cell_state), bits(&run.last_cell_state), "{}", name("the untraced cell state"));
    }
}

#[test]
fn forward_and_backward_match_plain_loops() {
    let engines = engines(2);
    for hidden_size in SIZES {
        for batch_size in SIZES {
            let input_size = SIZES[(hidden_size + batch_size) % SIZES.len()];
            let seq_len = [1, 2, 3, 6][(hidden_size + 3 * batch_size) % 4];
            check(&engines, &Problem::new(batch_size, seq_len, input_size, hidden_size));
        }
    }
}

#[test]
fn long_sequences_and_many_blocks_match_plain_loops() {
    let engines = engines(2);
    for (b, t, i, h) in [
        (1, 6, 128, 256),
        (2, 4, 61, 250),
        (3, 200, 4, 20),
        (1, 40, 1, 16),
        (30, 20, 40, 130),
        (4, 1, 33, 70),
        (12, 1, 9, 37),
        (40, 1, 9, 37),
    ] {
        check(&engines, &Problem::new(b, t, i, h));
    }
}

#[test]
fn the_reference_gradients_match_finite_differences() {
    for (b, t, i, h) in [(2, 3, 2, 3), (1, 5, 3, 2), (3, 1, 1, 4)] {
        let problem = Problem::new(b, t, i, h);
        let inputs = problem.wide();
        let gradients = Reference::new(problem.shape, &inputs).backward(&problem);
        for slot in 0..6 {
            for e in 0..inputs[slot].len() {
                let shifted = |by: f64| {
                    let mut inputs = inputs.clone();
                    inputs[slot][e] += by;
                    problem.loss(&inputs)
                };
                let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                let error = (difference - gradients[slot][e]).abs();
                assert!(error < 1e-8, "{}[{e}]: {difference} against {}", NAMES[slot], gradients[slot][e]);
            }
        }
    }
}

#[test]
fn without_steps_the_cell_state_passes_through() {
    for (b, t) in [(3, 0), (0, 3), (0, 0)] {
        let problem = Problem::new(b, t, 4, 5);
        check(&engines(2), &problem);
        let run = run(&engines(1)[0], &problem);
        assert_eq!(run.last_cell_state, problem.cell_state);
        let gradients = backward(&engines(1)[0], &problem, &run, full_gradient(&problem));
        assert_eq!(gradients[5], problem.grad_cell);
        assert!(gradients[..5].iter().flatten().all(|&value| value == 0.0));
    }
}

#[test]
fn layers_without_inputs_or_units_are_no_special_case() {
    for (i, h) in [(0, 5), (5, 0), (0, 0)] {
        check(&engines(2), &Problem::new(3, 4, i, h));
    }
}

#[test]
fn missing_gradients_count_as_zero_and_unwanted_ones_are_skipped() {
    for engine in engines(2) {
        let mut problem = Problem::new(5, 4, 3, 18);
        problem.grad_cell.fill(0.0);
        let run = run(&engine, &problem);
        let expected = backward(&engine, &problem, &run, full_gradient(&problem));
        let only_output = LstmOutputGradients { output: Some(&problem.grad_output), last_cell_state: None };
        assert_eq!(backward(&engine, &problem, &run, only_output), expected);
        let zeros = backward(&engine, &problem, &run, LstmOutputGradients::default());
        assert!(zeros.iter().flatten().all(|&value| value == 0.0));
        for (wanted, expected) in expected.iter().enumerate() {
            let mut found = vec![f32::NAN; expected.len()];
            let mut out = LstmGradients::default();
            *[
                &mut out.input,
                &mut out.weight_ih,
                &mut out.weight_hh,
                &mut out.bias,
                &mut out.hidden,
                &mut out.cell_state,
            ][wanted] = Some(&mut found);
            lstm_backward(&engine, problem.shape, problem.inputs(), &run.output, &run.trace, only_output, out);
            assert_eq!(found, *expected, "{} alone", NAMES[wanted]);
        }
    }
}

#[test]
fn nan_in_one_sequence_reaches_its_outputs_and_no_others() {
    for engine in engines(2) {
        for (b, t) in [(2, 2), (9, 3)] {
            let mut problem = Problem::new(b, t, 3, 21);
            problem.input[3 * t] = f32::NAN;
            let run = run(&engine, &problem);
            for (index, sequence) in run.output.chunks(t * 21).enumerate() {
                assert!(sequence.iter().all(|value| value.is_nan() == (index == 1)), "sequence {index}");
            }
        }
    }
}

#[test]
fn infinite_inputs_saturate_the_gates() {
    for engine in engines(1) {
        for b in [2, 9] {
            let mut problem = Problem::new(b, 2, 1, 5);
            problem.weight_ih.fill(1.0);
            problem.input.fill(f32::INFINITY);
            let run = run(&engine, &problem);
            assert!(run.trace.gates.iter().all(|&gate| (gate - 1.0).abs() < 1e-6), "{:?}", run.trace.gates);
        }
    }
}

#[test]
fn a_random_walk_over_shapes_matches_plain_loops() {
    let engines = engines(3);
    let mut noise = Noise::new(99);
    for _ in 0..40 {
        let problem = Problem::new(
            noise.pick(&[1, 4, 6, 11, 20]),
            noise.pick(&[1, 2, 7, 12]),
            noise.pick(&[1, 10, 64]),
            noise.pick(&[4, 15, 16, 48, 66]),
        );
        check(&engines, &problem);
    }
}

#[test]
#[should_panic(expected = "weight_hh must be [20, 5]")]
fn a_wrong_shape_is_refused() {
    let mut problem = Problem::new(2, 3, 4, 5);
    problem.weight_hh.pop();
    run(&Engine::new(Isa::Portable, 1).unwrap(), &problem);
}
