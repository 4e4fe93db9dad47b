//! The long short-term memory in plain loops over f64.

use super::{Noise, wide};
use refrain_kernels::{LstmInputs, LstmShape};

pub struct Problem {
    pub shape: LstmShape,
    pub input: Vec<f32>,
    pub weight_ih: Vec<f32>,
    pub weight_hh: Vec<f32>,
    pub bias: Vec<f32>,
    pub hidden: Vec<f32>,
    pub cell_state: Vec<f32>,
    pub grad_output: Vec<f32>,
    pub grad_cell: Vec<f32>,
}

impl Problem {
    pub fn new(batch_size: usize, seq_len: usize, input_size: usize, hidden_size: usize) -> Self {
        let shape = LstmShape { batch_size, seq_len, input_size, hidden_size };
        let mut noise = Noise::new((batch_size * 131 + seq_len * 17 + input_size * 7 + hidden_size) as u64);
        let scale = 1.5 / (hidden_size.max(1) as f32).sqrt();
        let states = batch_size * hidden_size;
        Self {
            shape,
            input: noise.floats(batch_size * seq_len * input_size),
            weight_ih: noise.scaled(4 * hidden_size * input_size, scale),
            weight_hh: noise.scaled(4 * hidden_size * hidden_size, scale),
            bias: noise.floats(4 * hidden_size),
            hidden: noise.floats(states),
            cell_state: noise.floats(states),
            grad_output: noise.floats(states * seq_len),
            grad_cell: noise.floats(states),
        }
    }

    pub fn inputs(&self) -> LstmInputs<'_> {
        LstmInputs {
            input: &self.input,
            weight_ih: &self.weight_ih,
            weight_hh: &self.weight_hh,
            bias: &self.bias,
            hidden: &self.hidden,
            cell_state: &self.cell_state,
        }
    }

    /// Everything the layer reads, in the order of [`LstmInputs`].
    pub fn wide(&self) -> [Vec<f64>; 6] {
        [&self.input, &self.weight_ih, &self.weight_hh, &self.bias, &self.hidden, &self.cell_state]
            .map(|values| wide(values))
    }

    /// The scalar whose gradients the layer is asked for.
    pub fn loss(&self, inputs: &[Vec<f64>; 6]) -> f64 {
        let reference = Reference::new(self.shape, inputs);
        let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
        dot(&reference.output, &self.grad_output) + dot(&reference.cell_state, &self.grad_cell)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// What a layer computes.
pub struct Reference {
    pub output: Vec<f64>,
    pub cell_state: Vec<f64>,
    pub cell_states: Vec<f64>,
    pub gates: Vec<f64>,
}

impl Reference {
    pub fn new(shape: LstmShape, inputs: &[Vec<f64>; 6]) -> Self {
        let LstmShape { batch_size, seq_len, input_size, hidden_size } = shape;
        let [input, weight_ih, weight_hh, bias, hidden, cell_state] = inputs;
        let mut hidden = hidden.clone();
        let mut cell_state = cell_state.clone();
        let mut output = vec![0.0; batch_size * seq_len * hidden_size];
        let mut cell_states = output.clone();
        let mut gates = vec![0.0; 4 * output.len()];
        for b in 0..batch_size {
            for t in 0..seq_len {
                let row = b * seq_len + t;
                let x = &input[row * input_size..(row + 1) * input_size];
                let h = hidden[b * hidden_size..(b + 1) * hidden_size].to_vec();
                for n in 0..4 * hidden_size {
                    let dot = |w: &[f64], v: &[f64]| w.iter().zip(v).map(|(w, v)| w * v).sum::<f64>();
                    let sum = bias[n]
                        + dot(&weight_ih[n * input_size..(n + 1) * input_size], x)
                        + dot(&weight_hh[n * hidden_size..(n + 1) * hidden_size], &h);
                    gates[row * 4 * hidden_size + n] = if n / hidden_size == 2 { sum.tanh() } else { sigmoid(sum) };
                }
                for u in 0..hidden_size {
                    let gate = |g: usize| gates[(row * 4 + g) * hidden_size + u];
                    let c = gate(1) * cell_state[b * hidden_size + u] + gate(0) * gate(2);
                    cell_state[b * hidden_size + u] = c;
                    cell_states[row * hidden_size + u] = c;
                    hidden[b * hidden_size + u] = gate(3) * c.tanh();
                    output[row * hidden_size + u] = hidden[b * hidden_size + u];
                }
            }
        }
        Self { output, cell_state, cell_states, gates }
    }

    /// The gradients in the order of [`LstmInputs`].
    pub fn backward(&self, problem: &Problem) -> [Vec<f64>; 6] {
        let LstmShape { batch_size, seq_len, input_size, hidden_size } = problem.shape;
        let inputs = problem.wide();
        let mut out = inputs.clone().map(|values| vec![0.0; values.len()]);
        for b in 0..batch_size {
            let mut dh = vec![0.0; hidden_size];
            let mut dc = wide(&problem.grad_cell[b * hidden_size..(b + 1) * hidden_size]);
            for t in (0..seq_len).rev() {
                let row = b * seq_len + t;
                let mut sums = vec![0.0; 4 * hidden_size];
                for u in 0..hidden_size {
                    let gate = |g: usize| self.gates[(row * 4 + g) * hidden_size + u];
                    let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
                    let before = if t == 0 {
                        inputs[5][b * hidden_size + u]
                    } else {
                        self.cell_states[(row - 1) * hidden_size + u]
                    };
                    let tanh = self.cell_states[row * hidden_size + u].tanh();
                    let d = dh[u] + f64::from(problem.grad_output[row * hidden_size + u]);
                    let dcell = dc[u] + d * o * (1.0 - tanh * tanh);
                    sums[u] = dcell * g * i * (1.0 - i);
                    sums[hidden_size + u] = dcell * before * f * (1.0 - f);
                    sums[2 * hidden_size + u] = dcell * i * (1.0 - g * g);
                    sums[3 * hidden_size + u] = d * tanh * o * (1.0 - o);
                    dc[u] = dcell * f;
                }
                dh.fill(0.0);
                for (n, &sum) in sums.iter().enumerate() {
                    out[3][n] += sum;
                    for p in 0..input_size {
                        out[0][row * input_size + p] += sum * inputs[1][n * input_size + p];
                        out[1][n * input_size + p] += sum * inputs[0][row * input_size + p];
                    }
                    for p in 0..hidden_size {
                        let h = if t == 0 {
                            inputs[4][b * hidden_size + p]
                        } else {
                            self.output[(row - 1) * hidden_size + p]
                        };
                        dh[p] += sum * inputs[2][n * hidden_size + p];
                        out[2][n * hidden_size + p] += sum * h;
                    }
                }
            }
            out[4][b * hidden_size..(b + 1) * hidden_size].copy_from_slice(&dh);
            out[5][b * hidden_size..(b + 1) * hidden_size].copy_from_slice(&dc);
        }
        out
    }
}
