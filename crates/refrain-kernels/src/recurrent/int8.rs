//! Matrices in eight bits a weight.

use crate::engine::Engine;
use crate::row_dot::{MAX_INPUT_ROWS, RowDot, WEIGHT_ROWS, share_dots};
use crate::shared::SharedSlice;

/// The greatest magnitude of eight bits.
const MOST: f32 = 127.0;

/// Rows of weights as multiples of a step, each row with its own.
#[derive(Clone, Debug)]
pub(super) struct Int8Matrix {
    rows: usize,
    cols: usize,
    /// `[rows, cols]`
    multiples: Vec<i8>,
    /// `[rows]`
    steps: Vec<f32>,
}

impl Int8Matrix {
    /// The nearest multiples; a row's greatest weight is 127 steps.
    pub(super) fn new(data: &[f32], rows: usize, cols: usize) -> Self {
        // What is not a number stays so, in the step.
        let greater = |most: f32, weight: &f32| if most.is_nan() || weight.abs() <= most { most } else { weight.abs() };
        let greatest = |row: usize| data[row * cols..][..cols].iter().fold(0.0f32, greater);
        let steps: Vec<f32> = (0..rows).map(|row| greatest(row) / MOST).collect();
        let multiple = |(index, weight): (usize, &f32)| {
            let step = steps[index / cols];
            if step > 0.0 { (weight / step).round() as i8 } else { 0 }
        };
        let multiples = data.iter().enumerate().map(multiple).collect();
        Self { rows, cols, multiples, steps }
    }

    /// As [`StepMatrix::product`](super::StepMatrix::product).
    pub(super) fn product(&self, engine: &Engine, vectors: &[f32], bias: &[f32], out: &mut [f32]) {
        let count = out.len() / self.rows;
        let out = SharedSlice::new(out);
        share_dots(
            engine,
            [count, self.cols, self.rows],
            |vector| &vectors[vector * self.cols..][..self.cols],
            |inputs, first| self.dots(engine, inputs, first),
            |vector, first, dots| {
                // SAFETY: each group of rows belongs to one member.
                let out = unsafe { out.part_mut(vector * self.rows + first, dots.len()) };
                for ((out, dot), bias) in out.iter_mut().zip(dots).zip(&bias[first..]) {
                    *out = dot + bias;
                }
            },
        );
    }

    /// The products of some vectors with four rows from `first` on; beyond the last row that one again.
    pub(super) fn dots(
        &self,
        engine: &Engine,
        inputs: &[&[f32]],
        first: usize,
    ) -> [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS] {
        let index = |i: usize| (first + i).min(self.rows - 1);
        let row = |i: usize| &self.multiples[index(i) * self.cols..][..self.cols];
        let mut dots = engine.kernel(RowDot { inputs, weights: std::array::from_fn(row) });
        for dots in &mut dots {
            for (i, dot) in dots.iter_mut().enumerate() {
                *dot *= self.steps[index(i)];
            }
        }
        dots
    }
}
