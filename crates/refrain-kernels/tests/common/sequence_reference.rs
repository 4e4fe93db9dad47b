//! The recurrent cells in plain loops over f64.

use super::{Noise, wide};
use refrain_kernels::{Cell, SequenceInputs, SequenceShape};
use std::ops::Range;

#[derive(Clone)]
pub struct Problem {
    pub shape: SequenceShape,
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
    /// Weights shrink with the number of terms of their sums, those of few units a little more, so that states and gradients
    /// neither grow nor vanish over the steps.
    pub fn new(cell: Cell, batch_size: usize, seq_len: usize, input_size: usize, hidden_size: usize) -> Self {
        let shape = SequenceShape { cell, batch_size, seq_len, input_size, hidden_size };
        let mut noise = Noise::new((batch_size * 131 + seq_len * 17 + input_size * 7 + hidden_size) as u64);
        let scale = |terms: usize| 1.0 / (terms as f32).sqrt();
        let gates = cell.num_gates() * hidden_size;
        let states = batch_size * hidden_size;
        let cells = if cell.has_cell_state() { states } else { 0 };
        Self {
            shape,
            input: noise.floats(batch_size * seq_len * input_size),
            weight_ih: noise.scaled(gates * input_size, scale(input_size.max(1))),
            weight_hh: noise.scaled(gates * hidden_size, scale(hidden_size + 8)),
            bias: noise.floats(cell.num_biases() * hidden_size),
            hidden: noise.floats(states),
            cell_state: noise.floats(cells),
            grad_output: noise.floats(states * seq_len),
            grad_cell: noise.floats(cells),
        }
    }

    pub fn inputs(&self) -> SequenceInputs<'_> {
        SequenceInputs {
            input: &self.input,
            weight_ih: &self.weight_ih,
            weight_hh: &self.weight_hh,
            bias: &self.bias,
            hidden: &self.hidden,
            cell_state: &self.cell_state,
        }
    }

    /// Everything the layer reads, in the order of [`SequenceInputs`].
    pub fn wide(&self) -> [Vec<f64>; 6] {
        [&self.input, &self.weight_ih, &self.weight_hh, &self.bias, &self.hidden, &self.cell_state]
            .map(|values| wide(values))
    }

    /// The steps from `range` of all sequences, after the given states.
    pub fn steps(&self, range: Range<usize>, hidden: &[f32], cell_state: &[f32]) -> Self {
        let shape = SequenceShape { seq_len: range.len(), ..self.shape };
        let cut = |values: &[f32], width: usize| -> Vec<f32> {
            let sequences = (0..shape.batch_size).map(|b| b * self.shape.seq_len);
            sequences.flat_map(|at| &values[(at + range.start) * width..(at + range.end) * width]).copied().collect()
        };
        Self {
            shape,
            input: cut(&self.input, shape.input_size),
            hidden: hidden.to_vec(),
            cell_state: cell_state.to_vec(),
            grad_output: cut(&self.grad_output, shape.hidden_size),
            ..self.clone()
        }
    }

    /// The sequences from `range` alone.
    pub fn sequences(&self, range: Range<usize>) -> Self {
        let SequenceShape { cell, seq_len, input_size, hidden_size, .. } = self.shape;
        let cut = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
        let cells = if cell.has_cell_state() { hidden_size } else { 0 };
        Self {
            shape: SequenceShape { batch_size: range.len(), ..self.shape },
            input: cut(&self.input, seq_len * input_size),
            hidden: cut(&self.hidden, hidden_size),
            cell_state: cut(&self.cell_state, cells),
            grad_output: cut(&self.grad_output, seq_len * hidden_size),
            grad_cell: cut(&self.grad_cell, cells),
            ..self.clone()
        }
    }

    /// The scalar whose gradients the layer is asked for.
    pub fn loss(&self, inputs: &[Vec<f64>; 6]) -> f64 {
        let reference = Reference::new(self.shape, inputs);
        dot(&reference.output, &wide(&self.grad_output)) + dot(&reference.last_cell_state, &wide(&self.grad_cell))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One unit in one step: the gates' sums over the input and over the hidden state, and the states before the step. The bias
/// belongs to the input's sums; only that of `U_n h` in the GRU belongs to the hidden state's.
///
/// Gradients take the same form.
#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    input: [f64; 4],
    hidden: [f64; 4],
    h: f64,
    c: f64,
}

impl Unit {
    /// Sigmoids of all gates' sums.
    fn sigmoids(&self) -> [f64; 4] {
        std::array::from_fn(|gate| sigmoid(self.input[gate] + self.hidden[gate]))
    }

    /// The states after the step.
    fn forward(&self, cell: Cell) -> (f64, f64) {
        let sum = |gate: usize| self.input[gate] + self.hidden[gate];
        match cell {
            Cell::Lstm => {
                let [i, f, _, o] = self.sigmoids();
                let c = f * self.c + i * sum(2).tanh();
                (o * c.tanh(), c)
            }
            Cell::Gru => {
                let [r, z, ..] = self.sigmoids();
                let n = (self.input[2] + r * self.hidden[2]).tanh();
                ((1.0 - z) * n + z * self.h, 0.0)
            }
            Cell::RnnTanh => (sum(0).tanh(), 0.0),
            Cell::RnnRelu => (sum(0).max(0.0), 0.0),
        }
    }

    /// The gradients, given those of the states after the step and whether the rectifier let the unit through.
    fn backward(&self, cell: Cell, active: bool, dh: f64, dc: f64) -> Self {
        let sum = |gate: usize| self.input[gate] + self.hidden[gate];
        let same = |sums: [f64; 4]| Self { input: sums, hidden: sums, ..Self::default() };
        match cell {
            Cell::Lstm => {
                let [i, f, _, o] = self.sigmoids();
                let g = sum(2).tanh();
                let tanh = (f * self.c + i * g).tanh();
                let dc = dc + dh * o * (1.0 - tanh * tanh);
                let di = dc * g * i * (1.0 - i);
                let df = dc * self.c * f * (1.0 - f);
                let dg = dc * i * (1.0 - g * g);
                let d_o = dh * tanh * o * (1.0 - o);
                Self { c: dc * f, ..same([di, df, dg, d_o]) }
            }
            Cell::Gru => {
                let [r, z, ..] = self.sigmoids();
                let n = (self.input[2] + r * self.hidden[2]).tanh();
                let dz = dh * (self.h - n) * z * (1.0 - z);
                let dn = dh * (1.0 - z) * (1.0 - n * n);
                let dr = dn * self.hidden[2] * r * (1.0 - r);
                Self { input: [dr, dz, dn, 0.0], hidden: [dr, dz, dn * r, 0.0], h: dh * z, c: 0.0 }
            }
            Cell::RnnTanh => same([dh * (1.0 - sum(0).tanh().powi(2)), 0.0, 0.0, 0.0]),
            Cell::RnnRelu => same([if active { dh } else { 0.0 }, 0.0, 0.0, 0.0]),
        }
    }
}

/// What a layer computes.
pub struct Reference {
    shape: SequenceShape,
    units: Vec<Unit>,
    pub output: Vec<f64>,
    pub last_cell_state: Vec<f64>,
}

impl Reference {
    pub fn new(shape: SequenceShape, inputs: &[Vec<f64>; 6]) -> Self {
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = shape;
        let [input, weight_ih, weight_hh, bias, hidden, cell_state] = inputs;
        let mut units = vec![Unit::default(); batch_size * seq_len * hidden_size];
        let mut output = vec![0.0; units.len()];
        let mut last_cell_state = cell_state.clone();
        for b in 0..batch_size {
            let state = b * hidden_size..(b + 1) * hidden_size;
            let mut h = hidden[state.clone()].to_vec();
            let mut c = if cell.has_cell_state() { cell_state[state.clone()].to_vec() } else { vec![0.0; hidden_size] };
            for row in b * seq_len..(b + 1) * seq_len {
                let x = &input[row * input_size..(row + 1) * input_size];
                let before = h.clone();
                for u in 0..hidden_size {
                    let unit = &mut units[row * hidden_size + u];
                    (unit.h, unit.c) = (h[u], c[u]);
                    for gate in 0..cell.num_gates() {
                        let n = gate * hidden_size + u;
                        unit.input[gate] = bias[n] + dot(&weight_ih[n * input_size..(n + 1) * input_size], x);
                        unit.hidden[gate] = dot(&weight_hh[n * hidden_size..(n + 1) * hidden_size], &before);
                    }
                    if cell == Cell::Gru {
                        unit.hidden[2] += bias[3 * hidden_size + u];
                    }
                    (h[u], c[u]) = unit.forward(cell);
                }
                output[row * hidden_size..(row + 1) * hidden_size].copy_from_slice(&h);
            }
            if cell.has_cell_state() {
                last_cell_state[state].copy_from_slice(&c);
            }
        }
        Self { shape, units, output, last_cell_state }
    }

    /// The sums that activations are taken of, where a cell has a single gate.
    pub fn sums(&self) -> impl Iterator<Item = f64> {
        self.units.iter().map(|unit| unit.input[0] + unit.hidden[0])
    }

    /// The gradients in the order of [`SequenceInputs`].
    ///
    /// The rectifier's derivative jumps where its sum is zero, and rounding may put a sum on either side. So `active` says, for
    /// each element of the output, on which side it was.
    pub fn backward(&self, problem: &Problem, active: &[bool]) -> [Vec<f64>; 6] {
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = self.shape;
        let inputs = problem.wide();
        let mut out = inputs.clone().map(|values| vec![0.0; values.len()]);
        for b in 0..batch_size {
            let state = b * hidden_size..(b + 1) * hidden_size;
            let mut dh = vec![0.0; hidden_size];
            let mut dc = vec![0.0; hidden_size];
            if cell.has_cell_state() {
                dc = wide(&problem.grad_cell[state.clone()]);
            }
            for row in (b * seq_len..(b + 1) * seq_len).rev() {
                let units = row * hidden_size..(row + 1) * hidden_size;
                let x = row * input_size..(row + 1) * input_size;
                let before: Vec<f64> = self.units[units.clone()].iter().map(|unit| unit.h).collect();
                let after: Vec<f64> =
                    dh.iter().zip(&problem.grad_output[units.clone()]).map(|(dh, d)| dh + f64::from(*d)).collect();
                dh.fill(0.0);
                for (u, at) in units.enumerate() {
                    let unit = self.units[at].backward(cell, active[at], after[u], dc[u]);
                    dc[u] = unit.c;
                    dh[u] += unit.h;
                    for gate in 0..cell.num_gates() {
                        let n = gate * hidden_size + u;
                        out[3][n] += unit.input[gate];
                        let row_ih = n * input_size..(n + 1) * input_size;
                        let row_hh = n * hidden_size..(n + 1) * hidden_size;
                        add_scaled(&mut out[0][x.clone()], unit.input[gate], &inputs[1][row_ih.clone()]);
                        add_scaled(&mut out[1][row_ih], unit.input[gate], &inputs[0][x.clone()]);
                        add_scaled(&mut dh, unit.hidden[gate], &inputs[2][row_hh.clone()]);
                        add_scaled(&mut out[2][row_hh], unit.hidden[gate], &before);
                    }
                    if cell == Cell::Gru {
                        out[3][3 * hidden_size + u] += unit.hidden[2];
                    }
                }
            }
            out[4][state.clone()].copy_from_slice(&dh);
            if cell.has_cell_state() {
                out[5][state].copy_from_slice(&dc);
            }
        }
        out
    }
}

fn add_scaled(out: &mut [f64], factor: f64, values: &[f64]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += factor * value;
    }
}
