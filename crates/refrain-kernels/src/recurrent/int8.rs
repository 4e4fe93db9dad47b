//! Matrices in eight bits a weight.

use crate::shape::elements;

/// The greatest magnitude of eight bits.
const MOST: f32 = 127.0;

/// The lowest bits of an f32, which a step leaves zero. A step then has 17 significant bits, a multiple 7, and an f32 24: the
/// product of the two is exact.
const CLEARED: u32 = (1 << 7) - 1;

/// Rows of weights as multiples of a step, each row with its own.
///
/// A matrix made of the [`values`](Self::values) of another is the same, to the bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Matrix {
    rows: usize,
    cols: usize,
    /// `[rows, cols]`
    multiples: Vec<i8>,
    /// `[rows]`
    steps: Vec<f32>,
}

impl Int8Matrix {
    /// The nearest multiples of each row's step, by which its greatest weight is 127 of them. A row that holds what is not
    /// finite has a step that is not.
    ///
    /// # Shapes
    ///
    /// `data` `[rows, cols]`.
    ///
    /// # Panics
    ///
    /// When `data` does not have its shape.
    pub fn new(data: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), elements(&[rows, cols]), "weights for [{rows}, {cols}]");
        let steps: Vec<f32> = (0..rows).map(|row| step(&data[row * cols..][..cols])).collect();
        let multiples = data.iter().enumerate().map(|(index, weight)| (weight / steps[index / cols]).round() as i8);
        Self { rows, cols, multiples: multiples.collect(), steps }
    }

    /// The matrix of these multiples, which may be others than [`new`](Self::new) would choose.
    ///
    /// # Shapes
    ///
    /// `multiples` `[rows, cols]`, `steps` `[rows]`.
    ///
    /// # Panics
    ///
    /// When a slice does not have its shape.
    pub fn from_parts(multiples: Vec<i8>, steps: Vec<f32>, cols: usize) -> Self {
        let rows = steps.len();
        assert_eq!(Some(multiples.len()), elements(&[rows, cols]), "multiples for [{rows}, {cols}]");
        Self { rows, cols, multiples, steps }
    }

    /// How often the row's step goes into each weight, `[rows, cols]`.
    pub fn multiples(&self) -> &[i8] {
        &self.multiples
    }

    /// The step of each row, `[rows]`.
    pub fn steps(&self) -> &[f32] {
        &self.steps
    }

    /// The weights that it stands for, `[rows, cols]`.
    pub fn values(&self) -> Vec<f32> {
        let value = |(index, &multiple): (usize, &i8)| f32::from(multiple) * self.steps[index / self.cols];
        self.multiples.iter().enumerate().map(value).collect()
    }
}

/// A 127th of the greatest weight, cut to 17 significant bits: so little less that the greatest is still 127 steps, and a row
/// of these steps again has the same. No smaller than the smallest normal number: below it there are fewer bits to cut.
fn step(row: &[f32]) -> f32 {
    // What is not a number stays so.
    let greater = |most: f32, weight: &f32| if most.is_nan() || weight.abs() <= most { most } else { weight.abs() };
    let greatest = row.iter().fold(0.0f32, greater);
    let step = f32::from_bits((greatest / MOST).to_bits() & !CLEARED);
    if step < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { step }
}
