//! One step of a layer at a time, for one stream or many, from weights that are prepared once.
//!
//! Each weight is read once a step, so memory is the limit: weights are kept in rows, in f32, bfloat16 or eight bits, and
//! widened to f32 on their way into the sums. A stream's numbers do not depend on how many are beside it: every sum is of one
//! stream and one row of weights, always added up in the same order.

use std::marker::PhantomData;

use super::cell::Step;
use super::lanes::Lanes;
use super::{Cell, gru, lstm, rnn, with_cell};
use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::format::{Encode, EncodeBf16};
use crate::row_dot::{MAX_INPUT_ROWS, RowDot, WEIGHT_ROWS, Weight};
use crate::shape::elements;
use crate::shared::SharedSlice;

/// Units that a member works on at a time.
const UNITS: usize = 16;
/// The greatest magnitude of eight bits.
const INT8_MAX: f32 = 127.0;

/// In what a [`RowMatrix`] keeps its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// Four bytes.
    #[default]
    F32,
    /// Two bytes, eight bits of them the number's.
    Bf16,
    /// One byte, and for each row the size of its step: its greatest weight is 127 of them.
    Int8,
}

/// A matrix kept by rows, for products with few vectors.
#[derive(Clone, Debug)]
pub struct RowMatrix {
    rows: usize,
    cols: usize,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Int8 { steps: Vec<i8>, scales: Vec<f32> },
}

impl RowMatrix {
    /// `data`, `[rows, cols]`, in another format.
    ///
    /// # Panics
    ///
    /// When `data` does not hold `rows * cols` floats.
    pub fn new(format: WeightFormat, data: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), elements(&[rows, cols]), "a matrix [{rows}, {cols}] over {} floats", data.len());
        let weights = match format {
            WeightFormat::F32 => Weights::F32(data.to_vec()),
            WeightFormat::Bf16 => {
                Weights::Bf16(data.iter().map(|&weight| EncodeBf16::term(EncodeBf16::take(&mut { weight }))).collect())
            }
            WeightFormat::Int8 => {
                let scales: Vec<f32> = data
                    .chunks_exact(cols.max(1))
                    .map(|row| row.iter().fold(0.0f32, |most, weight| most.max(weight.abs())) / INT8_MAX)
                    .collect();
                let step = |(index, weight): (usize, &f32)| {
                    let scale = scales[index / cols];
                    if scale > 0.0 { (weight / scale).round() as i8 } else { 0 }
                };
                let steps = data.iter().enumerate().map(step).collect();
                Weights::Int8 { steps, scales }
            }
        };
        Self { rows, cols, weights }
    }

    /// Rows, the length of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the length of a vector.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `out[n] = matrix · vectors[n] + bias`.
    ///
    /// # Shapes
    ///
    /// `vectors` `[n, cols]`, `bias` `[rows]`, `out` `[n, rows]`.
    ///
    /// # Panics
    ///
    /// When a slice does not have its shape.
    pub fn product(&self, engine: &Engine, vectors: &[f32], bias: &[f32], out: &mut [f32]) {
        let count = out.len().checked_div(self.rows).unwrap_or(0);
        assert_eq!(Some(vectors.len()), elements(&[count, self.cols]), "vectors for [{count}, {}]", self.rows);
        assert!(out.len() == count * self.rows && bias.len() == self.rows, "a product [{count}, {}]", self.rows);
        let members = engine.members_for_flops(2 * count * self.rows * self.cols);
        let out = SharedSlice::new(out);
        engine.run(members, |member| {
            for group in member.share(self.rows.div_ceil(WEIGHT_ROWS)) {
                let first = group * WEIGHT_ROWS;
                let present = WEIGHT_ROWS.min(self.rows - first);
                for first_vector in (0..count).step_by(MAX_INPUT_ROWS) {
                    let vector = |i: usize| &vectors[(first_vector + i).min(count - 1) * self.cols..][..self.cols];
                    let inputs: [&[f32]; MAX_INPUT_ROWS] = std::array::from_fn(vector);
                    let rows = MAX_INPUT_ROWS.min(count - first_vector);
                    let dots = self.dots(engine, &inputs[..rows], first);
                    for (i, dots) in dots.iter().enumerate().take(rows) {
                        // SAFETY: each group of rows belongs to one member.
                        let out = unsafe { out.part_mut((first_vector + i) * self.rows + first, present) };
                        for ((out, dot), bias) in out.iter_mut().zip(dots).zip(&bias[first..]) {
                            *out = dot + bias;
                        }
                    }
                }
            }
        });
    }

    /// The products of some vectors with four rows from `first` on; beyond the last row that one again.
    #[inline]
    fn dots(&self, engine: &Engine, inputs: &[&[f32]], first: usize) -> [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS] {
        match &self.weights {
            Weights::F32(weights) => self.dots_of(engine, weights, inputs, first),
            Weights::Bf16(weights) => self.dots_of(engine, weights, inputs, first),
            Weights::Int8 { steps, scales } => {
                let mut dots = self.dots_of(engine, steps, inputs, first);
                for dots in &mut dots {
                    for (i, dot) in dots.iter_mut().enumerate() {
                        *dot *= scales[(first + i).min(self.rows - 1)];
                    }
                }
                dots
            }
        }
    }

    fn dots_of<T: Weight>(
        &self,
        engine: &Engine,
        weights: &[T],
        inputs: &[&[f32]],
        first: usize,
    ) -> [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS] {
        let row = |i: usize| &weights[(first + i).min(self.rows - 1) * self.cols..][..self.cols];
        engine.kernel(RowDot { inputs, weights: std::array::from_fn(row) })
    }
}

/// A layer's weights, for one step at a time.
#[derive(Clone, Debug)]
pub struct StepWeights {
    cell: Cell,
    weight_ih: RowMatrix,
    weight_hh: RowMatrix,
    bias: Vec<f32>,
}

impl StepWeights {
    /// The weights of a layer.
    ///
    /// # Shapes
    ///
    /// `weight_ih` `[num_gates * hidden_size, input_size]`, `weight_hh` `[num_gates * hidden_size, hidden_size]`, `bias`
    /// `[num_biases * hidden_size]`.
    ///
    /// # Panics
    ///
    /// When these do not fit together.
    pub fn new(cell: Cell, weight_ih: RowMatrix, weight_hh: RowMatrix, bias: Vec<f32>) -> Self {
        let hidden_size = weight_hh.cols;
        let gates = cell.num_gates() * hidden_size;
        assert!(
            weight_ih.rows == gates && weight_hh.rows == gates && bias.len() == cell.num_biases() * hidden_size,
            "{cell:?} weights [{}, {}] and [{}, {hidden_size}] with a bias of {}",
            weight_ih.rows,
            weight_ih.cols,
            weight_hh.rows,
            bias.len()
        );
        Self { cell, weight_ih, weight_hh, bias }
    }

    /// The cell.
    pub fn cell(&self) -> Cell {
        self.cell
    }

    /// Features of the input.
    pub fn input_size(&self) -> usize {
        self.weight_ih.cols
    }

    /// Hidden units.
    pub fn hidden_size(&self) -> usize {
        self.weight_hh.cols
    }

    /// One step of some streams, whose states are overwritten.
    ///
    /// # Shapes
    ///
    /// `input` `[streams, input_size]`, `hidden` `[streams, hidden_size]`, `cell_state` the same for the LSTM, else empty.
    ///
    /// # Panics
    ///
    /// When a slice does not have its shape.
    pub fn step(&self, engine: &Engine, input: &[f32], hidden: &mut [f32], cell_state: &mut [f32]) {
        let (input_size, hidden_size) = (self.input_size(), self.hidden_size());
        let streams = hidden.len().checked_div(hidden_size).unwrap_or(0);
        assert_eq!(hidden.len(), streams * hidden_size, "a hidden state of {} for {hidden_size} units", hidden.len());
        assert_eq!(input.len(), streams * input_size, "input for {streams} streams of {input_size}");
        let cells = if self.cell.has_cell_state() { hidden.len() } else { 0 };
        assert_eq!(cell_state.len(), cells, "a cell state for {streams} streams of {hidden_size} units");
        with_cell!(self.cell, C => self.step_of::<C>(engine, streams, input, hidden, cell_state));
    }

    fn step_of<C: Step>(
        &self,
        engine: &Engine,
        streams: usize,
        input: &[f32],
        hidden: &mut [f32],
        cell_state: &mut [f32],
    ) {
        let (input_size, hidden_size) = (self.input_size(), self.hidden_size());
        let mut before = engine.scratch(hidden.len());
        before.copy_from_slice(hidden);
        let before = &before[..];
        let (hidden, cell_state) = (SharedSlice::new(hidden), SharedSlice::new(cell_state));
        let blocks = hidden_size.div_ceil(UNITS);
        let flops = 2 * C::GATES * hidden_size * (input_size + hidden_size) * streams;
        engine.run(engine.members_for_flops(flops).min(blocks), |member| {
            let mut lanes = Lanes::new();
            for block in member.share(blocks) {
                let units = block * UNITS..((block + 1) * UNITS).min(hidden_size);
                for first in (0..streams).step_by(MAX_INPUT_ROWS) {
                    let rows = first..(first + MAX_INPUT_ROWS).min(streams);
                    let row = |size: usize, i: usize| {
                        let start = (first + i).min(streams - 1) * size;
                        start..start + size
                    };
                    let x: [&[f32]; MAX_INPUT_ROWS] = std::array::from_fn(|i| &input[row(input_size, i)]);
                    let h: [&[f32]; MAX_INPUT_ROWS] = std::array::from_fn(|i| &before[row(hidden_size, i)]);
                    for (sum, block) in lanes.sums.iter_mut().enumerate().take(C::SUMS) {
                        for (index, unit) in units.clone().enumerate() {
                            let bias = self.bias[sum * hidden_size + unit];
                            for i in 0..rows.len() {
                                block[i * UNITS + index] = bias;
                            }
                        }
                    }
                    for (gate, &sum) in C::RECURRENT_SUMS.iter().enumerate() {
                        for unit in units.clone().step_by(WEIGHT_ROWS) {
                            let present = WEIGHT_ROWS.min(units.end - unit);
                            let first_row = gate * hidden_size + unit;
                            let from_input = self.weight_ih.dots(engine, &x[..rows.len()], first_row);
                            let from_hidden = self.weight_hh.dots(engine, &h[..rows.len()], first_row);
                            for i in 0..rows.len() {
                                let at = i * UNITS + unit - units.start;
                                for w in 0..present {
                                    lanes.sums[gate][at + w] += from_input[i][w];
                                    lanes.sums[sum][at + w] += from_hidden[i][w];
                                }
                            }
                        }
                    }
                    let has_cell_state = self.cell.has_cell_state();
                    for (i, row) in rows.clone().enumerate() {
                        let start = row * hidden_size + units.start;
                        // SAFETY: each unit belongs to one member.
                        let cell_state = || unsafe { cell_state.part(start, units.len()) };
                        let state = if has_cell_state { cell_state() } else { &before[start..start + units.len()] };
                        lanes.state[i * UNITS..][..units.len()].copy_from_slice(state);
                    }
                    engine.kernel(StepLanes::<C> { lanes: &mut lanes, count: rows.len() * UNITS, cell: PhantomData });
                    for (i, row) in rows.enumerate() {
                        let start = row * hidden_size + units.start;
                        // SAFETY: as above.
                        unsafe {
                            let from = &lanes.hidden[i * UNITS..][..units.len()];
                            hidden.part_mut(start, units.len()).copy_from_slice(from);
                            if has_cell_state {
                                let from = &lanes.state[i * UNITS..][..units.len()];
                                cell_state.part_mut(start, units.len()).copy_from_slice(from);
                            }
                        }
                    }
                }
            }
        });
    }
}

/// [`Lanes::forward`] by itself, where no tile comes before it.
struct StepLanes<'a, C> {
    lanes: &'a mut Lanes,
    count: usize,
    cell: PhantomData<C>,
}

impl<C: Step> Kernel for StepLanes<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        self.lanes.forward::<C, O>(self.count);
    }
}
