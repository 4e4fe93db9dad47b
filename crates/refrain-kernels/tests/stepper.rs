//! Single steps from prepared weights: the numbers of a pass over the sequence, alone and beside others.

mod common;

use common::sequence_reference::Problem;
use common::{Noise, assert_close, bits, engines, wide};
use refrain_kernels::{
    Cell, Engine, Precision, SequenceOutputs, SequenceShape, StepInput, StepMatrix, StepWeights, WeightFormat,
    sequence_forward,
};

const FORMATS: [(WeightFormat, f64); 3] =
    [(WeightFormat::F32, 2e-6), (WeightFormat::Bf16, 1e-2), (WeightFormat::Int8, 2e-2)];

/// The hidden states of a problem, one step at a time, `[batch_size, seq_len, hidden_size]`.
fn stepped(engine: &Engine, format: WeightFormat, problem: &Problem, sequences: std::ops::Range<usize>) -> Vec<f32> {
    let SequenceShape { cell, seq_len, input_size, hidden_size, .. } = problem.shape;
    let weights = [&problem.weight_ih[..], &problem.weight_hh, &problem.bias];
    let weights = StepWeights::new(engine, format, cell, weights, hidden_size);
    let states = sequences.start * hidden_size..sequences.end * hidden_size;
    let mut hidden = problem.hidden[states.clone()].to_vec();
    let mut cell_state = if cell.has_cell_state() { problem.cell_state[states].to_vec() } else { Vec::new() };
    let mut output = vec![f32::NAN; sequences.len() * seq_len * hidden_size];
    for step in 0..seq_len {
        let row = |sequence: usize| &problem.input[(sequence * seq_len + step) * input_size..][..input_size];
        let input: Vec<f32> = sequences.clone().flat_map(row).copied().collect();
        weights.step(engine, StepInput::Features(&input), &mut hidden, &mut cell_state);
        for (sequence, hidden) in hidden.chunks(hidden_size).enumerate() {
            output[(sequence * seq_len + step) * hidden_size..][..hidden_size].copy_from_slice(hidden);
        }
    }
    output
}

#[test]
fn steps_give_the_states_of_the_sequence() {
    for cell in Cell::ALL {
        for (b, t, i, h) in [(1, 5, 3, 1), (3, 4, 1, 17), (7, 6, 20, 33), (40, 3, 33, 50)] {
            let problem = Problem::new(cell, b, t, i, h);
            for engine in engines(2) {
                let mut output = vec![f32::NAN; b * t * h];
                let mut last = vec![f32::NAN; problem.cell_state.len()];
                let mut hidden = problem.hidden.clone();
                let outputs =
                    SequenceOutputs { output: &mut output, last_hidden: &mut hidden, last_cell_state: &mut last };
                sequence_forward(&engine, Precision::F32, problem.shape, problem.inputs(), outputs);
                for (format, tolerance) in FORMATS {
                    let name = format!("{:?} in {format:?} on {}", problem.shape, engine.isa());
                    assert_close(&name, &stepped(&engine, format, &problem, 0..b), &wide(&output), tolerance);
                }
            }
        }
    }
}

#[test]
fn a_stream_has_the_same_bits_alone_and_beside_others_on_any_number_of_threads() {
    for cell in Cell::ALL {
        let problem = Problem::new(cell, 37, 3, 19, 45);
        for (one, four) in engines(1).into_iter().zip(engines(4)) {
            for (format, _) in FORMATS {
                let all = stepped(&one, format, &problem, 0..37);
                assert_eq!(bits(&all), bits(&stepped(&four, format, &problem, 0..37)), "{cell:?} {format:?} threads");
                for sequence in [0, 11, 36] {
                    let alone = stepped(&four, format, &problem, sequence..sequence + 1);
                    let beside = &all[sequence * 3 * 45..(sequence + 1) * 3 * 45];
                    assert_eq!(bits(&alone), bits(beside), "{cell:?} {format:?} on {}", one.isa());
                }
            }
        }
    }
}

#[test]
fn products_of_tokens_computed_beforehand_are_those_of_every_step() {
    for cell in Cell::ALL {
        for (streams, tokens, input_size, hidden_size) in [(1, 1, 1, 1), (3, 7, 5, 17), (40, 33, 70, 50)] {
            let mut noise = Noise::new(streams as u64);
            let gates = cell.num_gates() * hidden_size;
            let embedding = noise.floats(tokens * input_size);
            let weight_ih = noise.floats(gates * input_size);
            let weight_hh = noise.floats(cell.num_recurrent_gates() * hidden_size * hidden_size);
            let bias = noise.floats(cell.num_biases() * hidden_size);
            let weights = [&weight_ih[..], &weight_hh, &bias];
            let mut next = || (0..streams).map(|_| (noise.bits() % tokens as u64) as u32).collect::<Vec<u32>>();
            let written = [next(), next(), next()];
            for engine in engines(2) {
                for (format, _) in FORMATS {
                    let of_features = StepWeights::new(&engine, format, cell, weights, hidden_size);
                    let of_tokens = StepWeights::for_tokens(&engine, format, cell, weights, hidden_size, &embedding);
                    assert_eq!(of_features.num_weights() - of_tokens.num_weights(), weight_ih.len());
                    let cells = if cell.has_cell_state() { streams * hidden_size } else { 0 };
                    let mut states = [(); 2].map(|()| (vec![0.5; streams * hidden_size], vec![0.25; cells]));
                    let [(hidden, cell_state), (of_tokens_hidden, of_tokens_cell_state)] = &mut states;
                    for tokens in &written {
                        let row = |token: &u32| &embedding[*token as usize * input_size..][..input_size];
                        let features: Vec<f32> = tokens.iter().flat_map(row).copied().collect();
                        of_features.step(&engine, StepInput::Features(&features), hidden, cell_state);
                        of_tokens.step(&engine, StepInput::Tokens(tokens), of_tokens_hidden, of_tokens_cell_state);
                    }
                    let name = format!("{cell:?} of {hidden_size} in {format:?} on {}", engine.isa());
                    assert_eq!(bits(hidden), bits(of_tokens_hidden), "{name}");
                    assert_eq!(bits(cell_state), bits(of_tokens_cell_state), "{name}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "token 2 of 2")]
fn a_token_beyond_those_of_the_weights_is_a_bug() {
    let engine = &engines(1)[0];
    let weights = [&[1.0, 1.0][..], &[1.0, 1.0, 1.0, 1.0], &[0.0, 0.0]];
    let weights = StepWeights::for_tokens(engine, WeightFormat::F32, Cell::RnnTanh, weights, 2, &[1.0, 2.0]);
    weights.step(engine, StepInput::Tokens(&[2]), &mut [0.0; 2], &mut []);
}

#[test]
fn a_matrix_of_any_format_is_its_rows() {
    for (rows, cols, count) in [(1, 1, 1), (5, 0, 2), (33, 17, 3), (100, 65, 40), (7, 130, 0)] {
        let mut noise = Noise::new(rows as u64);
        let (matrix, vectors, bias) = (noise.floats(rows * cols), noise.floats(count * cols), noise.floats(rows));
        let expected: Vec<f64> = (0..count * rows)
            .map(|index| {
                let (vector, row) = (&vectors[index / rows * cols..][..cols], &matrix[index % rows * cols..][..cols]);
                let dot = vector.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                dot + f64::from(bias[index % rows])
            })
            .collect();
        for engine in engines(3) {
            for (format, tolerance) in FORMATS {
                let mut out = vec![f32::NAN; count * rows];
                StepMatrix::new(&engine, format, &matrix, rows, cols).product(&engine, &vectors, &bias, &mut out);
                let name = format!("[{rows}, {cols}] · {count} in {format:?} on {}", engine.isa());
                assert_close(&name, &out, &expected, tolerance);
            }
        }
    }
}

#[test]
fn eight_bits_add_up_to_the_same_on_every_processor_whatever_the_length() {
    for (rows, cols, count) in [(1, 1, 1), (16, 4, 4), (17, 515, 3), (33, 1030, 6), (2, 70_001, 2)] {
        let mut noise = Noise::new(cols as u64);
        let (mut matrix, mut vectors) = (noise.floats(rows * cols), noise.floats(count * cols));
        // The greatest sums that there are, of either sign.
        matrix[..cols].fill(1.0);
        vectors[..cols].fill(-1.0);
        let products = engines(2).into_iter().map(|engine| {
            let mut out = vec![f32::NAN; count * rows];
            let matrix = StepMatrix::new(&engine, WeightFormat::Int8, &matrix, rows, cols);
            matrix.product(&engine, &vectors, &vec![0.0; rows], &mut out);
            assert!((f64::from(out[0]) / -(cols as f64) - 1.0).abs() < 1e-6, "{} for {cols}", out[0]);
            bits(&out)
        });
        let products: Vec<_> = products.collect();
        assert!(products.iter().all(|product| *product == products[0]), "[{rows}, {cols}] · {count}");
    }
}

#[test]
fn vectors_of_any_size_meet_eight_bits() {
    for engine in engines(1) {
        let matrix = StepMatrix::new(&engine, WeightFormat::Int8, &[1.0, -2.0], 1, 2);
        let product = |vector: [f32; 2]| {
            let mut out = [f32::NAN];
            matrix.product(&engine, &vector, &[0.0], &mut out);
            out[0]
        };
        assert_eq!(product([0.0, 0.0]).to_bits(), 0);
        assert_eq!(product([f32::MIN_POSITIVE / 4.0, 0.0]).to_bits(), 0, "as good as zero");
        assert!(
            (product([1e30, 0.0]) / 1e30 - 1.0).abs() < 0.01 && (product([0.0, 1e-30]) / -2e-30 - 1.0).abs() < 0.01
        );
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(product([broken, 1.0]).is_nan() && product([1.0, broken]).is_nan(), "{broken}");
        }
    }
}

#[test]
fn a_weight_that_is_no_number_is_seen_in_every_format() {
    for engine in engines(1) {
        for (format, _) in FORMATS {
            let mut out = [0.0; 3];
            let matrix = [1.0, 2.0, f32::NAN, 1.0, 3.0, 4.0];
            StepMatrix::new(&engine, format, &matrix, 3, 2).product(&engine, &[1.0, 1.0], &[0.0; 3], &mut out);
            assert_eq!(out.map(f32::is_nan), [false, true, false], "{format:?} on {}", engine.isa());
        }
    }
}
