//! Against the definition in f64.

use super::*;
use crate::arch::Isa;

/// Numbers without a pattern.
fn numbers(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 1.7 + seed).sin()).collect()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: AttentionShape,
    is_causal: bool,
    /// Every third key is hidden, of odd sequences all are.
    hides: bool,
}

fn cases() -> Vec<Case> {
    let sizes = [
        [1, 1, 1, 1, 0],
        [2, 3, 2, 7, 0],
        [2, 2, 5, 3, 4],
        [1, 2, 36, 128, 0],
        [2, 1, 17, 131, 0],
        [1, 1, 4, 257, 31],
        [3, 2, 64, 1, 40],
        [0, 2, 4, 3, 0],
        [2, 2, 4, 0, 3],
    ];
    let shape = |[batch_size, num_heads, head_size, seq_len, past_len]: [usize; 5]| AttentionShape {
        batch_size,
        num_heads,
        head_size,
        seq_len,
        past_len,
    };
    let kinds = [(true, false), (false, false), (true, true), (false, true)];
    sizes
        .into_iter()
        .flat_map(|sizes| kinds.map(|(is_causal, hides)| Case { shape: shape(sizes), is_causal, hides }))
        .collect()
}

/// What a case reads, and the gradient of its output.
struct Data {
    projected: Vec<f32>,
    past: [Vec<f32>; 2],
    hidden: Option<Vec<bool>>,
    incoming: Vec<f32>,
}

impl Data {
    fn new(case: &Case) -> Self {
        let shape = &case.shape;
        let keys = shape.batch_size * shape.key_len();
        let hidden = |at: usize| at % 3 == 1 || at / shape.key_len() % 2 == 1;
        Self {
            projected: numbers(3 * shape.num_outputs(), 0.3).iter().map(|number| 2.0 * number).collect(),
            past: [numbers(shape.num_past(), 0.7), numbers(shape.num_past(), 0.9)],
            hidden: case.hides.then(|| (0..keys).map(hidden).collect()),
            incoming: numbers(shape.num_outputs(), 1.1),
        }
    }

    fn inputs(&self, case: &Case) -> AttentionInputs<'_> {
        AttentionInputs {
            projected: &self.projected,
            past: [&self.past[0], &self.past[1]],
            hidden: self.hidden.as_deref(),
            is_causal: case.is_causal,
        }
    }

    /// Output, gradients of queries, keys and values, and those of past keys and values.
    fn found(&self, case: &Case, engine: &Engine) -> [Vec<f32>; 4] {
        let shape = case.shape;
        let mut output = vec![9.0; shape.num_outputs()];
        let mut log_sums = vec![9.0; shape.batch_size * shape.num_heads * shape.seq_len];
        attention(engine, shape, self.inputs(case), &mut output, &mut log_sums);
        let mut projected = vec![9.0; self.projected.len()];
        let [mut keys, mut values] = [0; 2].map(|_| vec![9.0; shape.num_past()]);
        let gradients = AttentionGradients { projected: &mut projected, past: [&mut keys, &mut values] };
        attention_backward(engine, shape, self.inputs(case), [&output, &log_sums, &self.incoming], gradients);
        [output, projected, keys, values]
    }

    /// The same by the definition.
    fn expected(&self, case: &Case) -> [Vec<f64>; 4] {
        let AttentionShape { batch_size, num_heads, head_size, seq_len, past_len } = case.shape;
        let (key_len, width) = (case.shape.key_len(), case.shape.hidden_size());
        let scale = 1.0 / (head_size as f64).sqrt();
        let mut output = vec![0.0; self.incoming.len()];
        let mut of_projected = vec![0.0; self.projected.len()];
        let mut of_past = [0, 1].map(|part| vec![0.0; self.past[part].len()]);
        for sequence in 0..batch_size {
            for head in 0..num_heads {
                let row = |step: usize| ((sequence * seq_len + step) * num_heads + head) * head_size;
                let from = |step: usize, part: usize| {
                    (sequence * seq_len + step) * 3 * width + part * width + head * head_size
                };
                let before = |step: usize| ((sequence * num_heads + head) * past_len + step) * head_size;
                // Part 1 is the keys, part 2 the values.
                let seen = |key: usize, part: usize, i: usize| {
                    f64::from(if key < past_len {
                        self.past[part - 1][before(key) + i]
                    } else {
                        self.projected[from(key - past_len, part) + i]
                    })
                };
                for query in 0..seq_len {
                    let asked = |i: usize| f64::from(self.projected[from(query, 0) + i]);
                    let incoming = |i: usize| f64::from(self.incoming[row(query) + i]);
                    let sees = |key: usize| {
                        let is_hidden = self.hidden.as_ref().is_some_and(|hidden| hidden[sequence * key_len + key]);
                        !is_hidden && (!case.is_causal || key <= past_len + query)
                    };
                    let exponentials: Vec<f64> = (0..key_len)
                        .map(|key| {
                            let score = (0..head_size).map(|i| asked(i) * seen(key, 1, i)).sum::<f64>() * scale;
                            if sees(key) { score.exp() } else { 0.0 }
                        })
                        .collect();
                    let sum: f64 = exponentials.iter().sum();
                    let weights = exponentials.iter().map(|weight| if sum > 0.0 { weight / sum } else { 0.0 });
                    let weights: Vec<f64> = weights.collect();
                    for i in 0..head_size {
                        output[row(query) + i] = (0..key_len).map(|key| weights[key] * seen(key, 2, i)).sum();
                    }
                    let of_weights: Vec<f64> =
                        (0..key_len).map(|key| (0..head_size).map(|i| incoming(i) * seen(key, 2, i)).sum()).collect();
                    let mean: f64 = weights.iter().zip(&of_weights).map(|(weight, gradient)| weight * gradient).sum();
                    for key in 0..key_len {
                        let of_score = weights[key] * (of_weights[key] - mean) * scale;
                        for i in 0..head_size {
                            of_projected[from(query, 0) + i] += of_score * seen(key, 1, i);
                            let [of_key, of_value] = [of_score * asked(i), weights[key] * incoming(i)];
                            if key < past_len {
                                of_past[0][before(key) + i] += of_key;
                                of_past[1][before(key) + i] += of_value;
                            } else {
                                of_projected[from(key - past_len, 1) + i] += of_key;
                                of_projected[from(key - past_len, 2) + i] += of_value;
                            }
                        }
                    }
                }
            }
        }
        let [keys, values] = of_past;
        [output, of_projected, keys, values]
    }
}

#[test]
fn output_and_gradients_are_those_of_the_definition() {
    for case in cases() {
        let data = Data::new(&case);
        let expected = data.expected(&case);
        for isa in Isa::supported() {
            let found = data.found(&case, &Engine::new(isa, 1).unwrap());
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error <= 2e-5, "{isa} {case:?}: part {part} [{i}] is {found}, expected {expected}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for case in cases() {
        let data = Data::new(&case);
        let found = |threads| {
            let parts = data.found(&case, &Engine::new(Isa::detect(), threads).unwrap());
            parts.map(|part| part.iter().map(|number| number.to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(found(1), found(3), "{case:?}");
    }
}

#[test]
#[should_panic(expected = "queries, keys and values of AttentionShape")]
fn lengths_must_fit() {
    let shape = AttentionShape { batch_size: 1, num_heads: 1, head_size: 2, seq_len: 3, past_len: 0 };
    let inputs = AttentionInputs { projected: &[0.0; 17], past: [&[]; 2], hidden: None, is_causal: true };
    attention(&Engine::new(Isa::Portable, 1).unwrap(), shape, inputs, &mut [0.0; 6], &mut [0.0; 3]);
}
