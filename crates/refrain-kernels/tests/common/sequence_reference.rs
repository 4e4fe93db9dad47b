//! The recurrent cells in plain loops over f64.

use super::{Noise, wide};
use refrain_kernels::{
    Cell, Direction, Dropped, SequenceInputs, SequenceOptions, SequenceShape, SequenceVariant, Zoneout,
};
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
    pub grad_hidden: Vec<f32>,
    pub grad_cell: Vec<f32>,
    pub lengths: Option<Vec<usize>>,
    pub direction: Direction,
    pub options: Options,
    /// Of an LSTM, `[hidden_size, hidden_size]`. The reference knows none but the one that changes nothing.
    pub projection: Option<Vec<f32>>,
}

/// What [`SequenceOptions`] borrows.
#[derive(Clone, Default)]
pub struct Options {
    pub candidate_dropout: Option<Vec<u32>>,
    pub hidden_dropout: Option<Vec<u32>>,
    pub zoneout_hidden: Option<Kept>,
    pub zoneout_cell: Option<Kept>,
    pub peepholes: Option<Vec<f32>>,
}

#[derive(Clone)]
pub enum Kept {
    Sampled(Vec<u32>),
    Expected(f32),
}

impl Kept {
    fn borrow(&self) -> Zoneout<'_> {
        match self {
            Self::Sampled(events) => Zoneout::Sampled(events),
            Self::Expected(part) => Zoneout::Expected(*part),
        }
    }
}

/// What stays when a third is dropped.
const SCALE: f32 = 1.5;

fn event(events: &[u32], row: usize, unit: usize, hidden_size: usize) -> bool {
    events[row * hidden_size.div_ceil(32) + unit / 32] >> (unit % 32) & 1 == 1
}

impl Options {
    pub fn borrow(&self) -> SequenceOptions<'_> {
        fn dropped(events: Option<&Vec<u32>>) -> Option<Dropped<'_>> {
            events.map(|events| Dropped { events, scale: SCALE })
        }
        SequenceOptions {
            candidate_dropout: dropped(self.candidate_dropout.as_ref()),
            hidden_dropout: dropped(self.hidden_dropout.as_ref()),
            zoneout_hidden: self.zoneout_hidden.as_ref().map(Kept::borrow),
            zoneout_cell: self.zoneout_cell.as_ref().map(Kept::borrow),
            peepholes: self.peepholes.as_deref(),
        }
    }
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
            weight_hh: noise.scaled(cell.num_recurrent_gates() * hidden_size * hidden_size, scale(hidden_size + 8)),
            bias: noise.floats(cell.num_biases() * hidden_size),
            hidden: noise.floats(states),
            cell_state: noise.floats(cells),
            grad_output: noise.floats(states * seq_len),
            grad_hidden: noise.floats(states),
            grad_cell: noise.floats(cells),
            lengths: None,
            direction: Direction::Forward,
            options: Options::default(),
            projection: None,
        }
    }

    /// The same with lengths: some whole, some empty, in no order.
    pub fn ragged(mut self) -> Self {
        let SequenceShape { batch_size, seq_len, .. } = self.shape;
        // A single sequence would be whole.
        let first = seq_len.saturating_sub(usize::from(batch_size == 1));
        self.lengths = Some((0..batch_size).map(|row| (row * 7 + first) % (seq_len + 1)).collect());
        self
    }

    pub fn backward_in_time(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// The same with a projection that changes nothing, so that a step has several phases.
    pub fn in_phases(mut self) -> Self {
        let units = self.shape.hidden_size;
        let is_one = |at: usize| at / units == at % units;
        self.projection = Some((0..units * units).map(|at| f32::from(u8::from(is_one(at)))).collect());
        self
    }

    /// The place of a sequence's step among all.
    fn at(&self, b: usize, step: usize) -> usize {
        let step = if self.direction == Direction::Forward { step } else { self.length(b) - 1 - step };
        b * self.shape.seq_len + step
    }

    pub fn length(&self, row: usize) -> usize {
        self.lengths.as_ref().map_or(self.shape.seq_len, |lengths| lengths[row])
    }

    /// Events of a third of the units, for rows.
    pub fn events(&self, seed: u64, rows: usize) -> Vec<u32> {
        let mut noise = Noise::new(seed);
        let mut words = vec![0; rows * self.shape.hidden_size.div_ceil(32)];
        for row in 0..rows {
            for unit in 0..self.shape.hidden_size {
                let word = &mut words[row * self.shape.hidden_size.div_ceil(32) + unit / 32];
                *word |= u32::from(noise.floats(1)[0] < -1.0 / 3.0) << (unit % 32);
            }
        }
        words
    }

    fn is_event(&self, events: &[u32], row: usize, unit: usize) -> bool {
        event(events, row, unit, self.shape.hidden_size)
    }

    /// Where an output is more than what zoneout kept: where the rectifier let something through.
    pub fn rectified(&self, output: &[f32]) -> Vec<bool> {
        let SequenceShape { seq_len, hidden_size, .. } = self.shape;
        let before = |at: usize| {
            let (b, step, unit) = (at / hidden_size / seq_len, at / hidden_size % seq_len, at % hidden_size);
            match (self.direction, step) {
                (Direction::Forward, 0) => self.hidden[b * hidden_size + unit],
                (Direction::Forward, _) => output[at - hidden_size],
                (Direction::Backward, step) if step + 1 >= self.length(b) => self.hidden[b * hidden_size + unit],
                (Direction::Backward, _) => output[at + hidden_size],
            }
        };
        let kept = |at: usize| match self.options.zoneout_hidden {
            Some(Kept::Expected(part)) => part * before(at) + 1e-6,
            // What was kept whole is no rectifier's, and its side does not matter.
            _ => 0.0,
        };
        output.iter().enumerate().map(|(at, &h)| h > kept(at)).collect()
    }

    /// What the options are for a unit of a sequence at a step.
    fn extra(&self, b: usize, step: usize, unit: usize) -> Extra {
        let row = step * self.shape.batch_size + b;
        let kept = |zoneout: &Option<Kept>| match zoneout {
            None => 0.0,
            Some(Kept::Expected(part)) => f64::from(*part),
            Some(Kept::Sampled(events)) => f64::from(u8::from(self.is_event(events, row, unit))),
        };
        let dropped = |events: &Option<Vec<u32>>, row: usize| match events {
            None => 1.0,
            Some(events) if self.is_event(events, row, unit) => 0.0,
            Some(_) => f64::from(SCALE),
        };
        Extra {
            candidate: dropped(&self.options.candidate_dropout, row),
            recall: dropped(&self.options.hidden_dropout, b),
            keep_hidden: kept(&self.options.zoneout_hidden),
            keep_cell: kept(&self.options.zoneout_cell),
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
            lengths: self.lengths.as_deref(),
            direction: self.direction,
            options: self.options.borrow(),
            variant: SequenceVariant { projection: self.projection.as_deref(), ..SequenceVariant::default() },
        }
    }

    /// Everything the layer reads, in the order of [`SequenceInputs`], and the peepholes.
    pub fn wide(&self) -> [Vec<f64>; 7] {
        let peepholes = self.options.peepholes.as_deref().unwrap_or_default();
        [&self.input[..], &self.weight_ih, &self.weight_hh, &self.bias, &self.hidden, &self.cell_state, peepholes]
            .map(wide)
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
            grad_hidden: cut(&self.grad_hidden, hidden_size),
            grad_cell: cut(&self.grad_cell, cells),
            ..self.clone()
        }
    }

    /// The scalar whose gradients the layer is asked for.
    pub fn loss(&self, inputs: &[Vec<f64>; 7]) -> f64 {
        let reference = Reference::new(self, inputs);
        dot(&reference.output, &wide(&self.grad_output))
            + dot(&reference.last_hidden, &wide(&self.grad_hidden))
            + dot(&reference.last_cell_state, &wide(&self.grad_cell))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The options of a unit at a step.
#[derive(Clone, Copy, Debug, Default)]
struct Extra {
    candidate: f64,
    recall: f64,
    keep_hidden: f64,
    keep_cell: f64,
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
    peepholes: [f64; 3],
    extra: Extra,
}

/// The gates of an LSTM, and the cell state before zoneout.
struct Gates {
    i: f64,
    f: f64,
    g: f64,
    o: f64,
    c: f64,
}

impl Unit {
    fn sum(&self, gate: usize) -> f64 {
        self.input[gate] + self.hidden[gate]
    }

    fn lstm(&self, cell: Cell) -> Gates {
        let first = usize::from(cell != Cell::CoupledLstm);
        let f = sigmoid(self.sum(first) + self.peepholes[1] * self.c);
        let i = match cell {
            Cell::CoupledLstm => 1.0 - f,
            _ => sigmoid(self.sum(0) + self.peepholes[0] * self.c),
        };
        let g = self.sum(first + 1).tanh();
        let c = f * self.c + i * self.extra.candidate * g;
        Gates { i, f, g, o: sigmoid(self.sum(first + 2) + self.peepholes[2] * c), c }
    }

    /// The gates r, z, n of a GRU.
    fn gru(&self) -> [f64; 3] {
        let [r, z] = [0, 1].map(|gate| sigmoid(self.sum(gate)));
        [r, z, (self.input[2] + r * self.hidden[2]).tanh()]
    }

    /// The states after the step.
    fn forward(&self, cell: Cell) -> (f64, f64) {
        let (h, c) = match cell {
            Cell::Lstm | Cell::CoupledLstm => {
                let Gates { o, c, .. } = self.lstm(cell);
                (o * c.tanh(), c)
            }
            Cell::Gru => {
                let [_, z, n] = self.gru();
                ((1.0 - z) * self.extra.candidate * n + z * self.h, 0.0)
            }
            Cell::MinGru => {
                let z = sigmoid(self.input[0]);
                ((1.0 - z) * self.h + z * self.extra.candidate * self.input[1], 0.0)
            }
            Cell::RnnTanh => (self.sum(0).tanh(), 0.0),
            Cell::RnnRelu => (self.sum(0).max(0.0), 0.0),
        };
        let mix = |keep: f64, before: f64, after: f64| keep * before + (1.0 - keep) * after;
        (mix(self.extra.keep_hidden, self.h, h), mix(self.extra.keep_cell, self.c, c))
    }

    /// The gradients, given those of the states after the step and whether the rectifier let the unit through.
    fn backward(&self, cell: Cell, active: bool, dh: f64, dc: f64) -> Self {
        let Extra { candidate, keep_hidden, keep_cell, .. } = self.extra;
        let (kept_h, kept_c) = (keep_hidden * dh, keep_cell * dc);
        let (dh, dc) = ((1.0 - keep_hidden) * dh, (1.0 - keep_cell) * dc);
        let same = |sums: [f64; 4]| Self { input: sums, hidden: sums, h: kept_h, ..Self::default() };
        match cell {
            Cell::Lstm | Cell::CoupledLstm => {
                let Gates { i, f, g, o, c } = self.lstm(cell);
                let tanh = c.tanh();
                let d_o = dh * tanh * o * (1.0 - o);
                let dc = dc + dh * o * (1.0 - tanh * tanh) + d_o * self.peepholes[2];
                let dg = dc * i * candidate * (1.0 - g * g);
                let (di, df) = if cell == Cell::CoupledLstm {
                    (0.0, dc * (self.c - candidate * g) * f * (1.0 - f))
                } else {
                    (dc * candidate * g * i * (1.0 - i), dc * self.c * f * (1.0 - f))
                };
                let sums = if cell == Cell::CoupledLstm { [df, dg, d_o, 0.0] } else { [di, df, dg, d_o] };
                Self {
                    c: kept_c + dc * f + di * self.peepholes[0] + df * self.peepholes[1],
                    peepholes: [di * self.c, df * self.c, d_o * c],
                    ..same(sums)
                }
            }
            Cell::Gru => {
                let [r, z, n] = self.gru();
                let dz = dh * (self.h - candidate * n) * z * (1.0 - z);
                let dn = dh * (1.0 - z) * candidate * (1.0 - n * n);
                let dr = dn * self.hidden[2] * r * (1.0 - r);
                let h = kept_h + dh * z;
                Self { input: [dr, dz, dn, 0.0], hidden: [dr, dz, dn * r, 0.0], h, ..Self::default() }
            }
            Cell::MinGru => {
                let z = sigmoid(self.input[0]);
                let dz = dh * (candidate * self.input[1] - self.h) * z * (1.0 - z);
                let h = kept_h + dh * (1.0 - z);
                Self { input: [dz, dh * z * candidate, 0.0, 0.0], h, ..Self::default() }
            }
            Cell::RnnTanh => same([dh * (1.0 - self.sum(0).tanh().powi(2)), 0.0, 0.0, 0.0]),
            Cell::RnnRelu => same([if active { dh } else { 0.0 }, 0.0, 0.0, 0.0]),
        }
    }
}

/// What a layer computes.
pub struct Reference {
    shape: SequenceShape,
    units: Vec<Unit>,
    pub output: Vec<f64>,
    pub last_hidden: Vec<f64>,
    pub last_cell_state: Vec<f64>,
}

impl Reference {
    pub fn new(problem: &Problem, inputs: &[Vec<f64>; 7]) -> Self {
        let shape = problem.shape;
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = shape;
        let [input, weight_ih, weight_hh, bias, hidden, cell_state, peepholes] = inputs;
        let mut units = vec![Unit::default(); batch_size * seq_len * hidden_size];
        let mut output = vec![0.0; units.len()];
        let mut last_hidden = hidden.clone();
        let mut last_cell_state = cell_state.clone();
        for b in 0..batch_size {
            let state = b * hidden_size..(b + 1) * hidden_size;
            let mut h = hidden[state.clone()].to_vec();
            let mut c = if cell.has_cell_state() { cell_state[state.clone()].to_vec() } else { vec![0.0; hidden_size] };
            for step in 0..problem.length(b) {
                let row = problem.at(b, step);
                let x = &input[row * input_size..(row + 1) * input_size];
                let before = h.clone();
                let recalled: Vec<f64> =
                    before.iter().enumerate().map(|(u, h)| h * problem.extra(b, step, u).recall).collect();
                for u in 0..hidden_size {
                    let unit = &mut units[row * hidden_size + u];
                    (unit.h, unit.c) = (before[u], c[u]);
                    unit.extra = problem.extra(b, step, u);
                    for (gate, peephole) in unit.peepholes.iter_mut().enumerate() {
                        *peephole = peepholes.get(gate * hidden_size + u).copied().unwrap_or(0.0);
                    }
                    for gate in 0..cell.num_gates() {
                        let n = gate * hidden_size + u;
                        unit.input[gate] = bias[n] + dot(&weight_ih[n * input_size..(n + 1) * input_size], x);
                        if gate >= cell.num_recurrent_gates() {
                            continue;
                        }
                        unit.hidden[gate] = dot(&weight_hh[n * hidden_size..(n + 1) * hidden_size], &recalled);
                    }
                    if cell == Cell::Gru {
                        unit.hidden[2] += bias[3 * hidden_size + u];
                    }
                    (h[u], c[u]) = unit.forward(cell);
                }
                output[row * hidden_size..(row + 1) * hidden_size].copy_from_slice(&h);
            }
            last_hidden[state.clone()].copy_from_slice(&h);
            if cell.has_cell_state() {
                last_cell_state[state].copy_from_slice(&c);
            }
        }
        Self { shape, units, output, last_hidden, last_cell_state }
    }

    /// The sums that activations are taken of, where a cell has a single gate.
    pub fn sums(&self) -> impl Iterator<Item = f64> {
        self.units.iter().map(|unit| unit.sum(0))
    }

    /// The gradients in the order of [`SequenceInputs`], and those of the peepholes.
    ///
    /// The rectifier's derivative jumps where its sum is zero, and rounding may put a sum on either side. So `active` says, for
    /// each element of the output, on which side it was.
    pub fn backward(&self, problem: &Problem, active: &[bool]) -> [Vec<f64>; 7] {
        let SequenceShape { cell, batch_size, input_size, hidden_size, .. } = self.shape;
        let inputs = problem.wide();
        let mut out = inputs.clone().map(|values| vec![0.0; values.len()]);
        for b in 0..batch_size {
            let state = b * hidden_size..(b + 1) * hidden_size;
            let mut dh = wide(&problem.grad_hidden[state.clone()]);
            let mut dc = vec![0.0; hidden_size];
            if cell.has_cell_state() {
                dc = wide(&problem.grad_cell[state.clone()]);
            }
            for row in (0..problem.length(b)).rev().map(|step| problem.at(b, step)) {
                let units = row * hidden_size..(row + 1) * hidden_size;
                let x = row * input_size..(row + 1) * input_size;
                let recalled: Vec<f64> =
                    self.units[units.clone()].iter().map(|unit| unit.h * unit.extra.recall).collect();
                let after: Vec<f64> =
                    dh.iter().zip(&problem.grad_output[units.clone()]).map(|(dh, d)| dh + f64::from(*d)).collect();
                let mut through = vec![0.0; hidden_size];
                for (u, at) in units.clone().enumerate() {
                    let unit = self.units[at].backward(cell, active[at], after[u], dc[u]);
                    dc[u] = unit.c;
                    dh[u] = unit.h;
                    for gate in 0..cell.num_gates() {
                        let n = gate * hidden_size + u;
                        out[3][n] += unit.input[gate];
                        let row_ih = n * input_size..(n + 1) * input_size;
                        let row_hh = n * hidden_size..(n + 1) * hidden_size;
                        add_scaled(&mut out[0][x.clone()], unit.input[gate], &inputs[1][row_ih.clone()]);
                        add_scaled(&mut out[1][row_ih], unit.input[gate], &inputs[0][x.clone()]);
                        if gate >= cell.num_recurrent_gates() {
                            continue;
                        }
                        add_scaled(&mut through, unit.hidden[gate], &inputs[2][row_hh.clone()]);
                        add_scaled(&mut out[2][row_hh], unit.hidden[gate], &recalled);
                    }
                    if cell == Cell::Gru {
                        out[3][3 * hidden_size + u] += unit.hidden[2];
                    }
                    if problem.options.peepholes.is_some() {
                        for (gate, gradient) in unit.peepholes.iter().enumerate() {
                            out[6][gate * hidden_size + u] += gradient;
                        }
                    }
                }
                for ((dh, through), unit) in dh.iter_mut().zip(through).zip(&self.units[units]) {
                    *dh += through * unit.extra.recall;
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
