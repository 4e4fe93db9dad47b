//! What a layer's rows hold, and where the rows of its steps lie.

use std::ops::Range;

use super::super::batch::Batch;
use super::super::cell::Step;
use super::super::{ResetGate, SequenceInputs, SequenceShape};
use crate::arch::Arch;
use crate::engine::Engine;
use crate::format::{Format, Precision};
use crate::tile::TileShape;

/// What the phases of a step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A product, then the gates.
    Gates,
    /// And then the product with the projection.
    Projected,
    /// The product of the gates r and z, then that of the candidate.
    ResetBefore,
}

/// The sizes of a layer.
#[derive(Clone, Copy)]
pub(in super::super) struct Layout {
    pub(super) arch: Arch,
    pub(super) format: Format,
    pub(super) tile: TileShape,
    pub(super) shape: SequenceShape,
    pub(super) kind: Kind,
    /// Units of the hidden state.
    pub(super) state_size: usize,
    /// Gates of the first recurrent product.
    pub(super) recurrent_gates: usize,
    /// What is kept of a step for each unit.
    pub(super) gates: usize,
    pub(super) has_norms: bool,
    pub(super) has_cell_norm: bool,
    pub(super) has_peepholes: bool,
}

/// The parts of a record of the forward pass.
pub(super) const GATES: usize = 0;
/// The sums of the input, normalised where they are.
pub(super) const INPUT: usize = 1;
/// The normalised sums of the state.
pub(super) const RECURRENT: usize = 2;
/// The cell state before what zones out, where it is normalised on its way out.
pub(super) const CELL: usize = 3;
/// What is projected.
pub(super) const INNER: usize = 4;
/// The cell state after the step.
pub(super) const STATE: usize = 5;
/// What the sums of the input and of the state were multiplied with.
pub(super) const FACTORS: usize = 6;

/// The parts of a record of the backward pass: the gradients of the input's sums, which are those of all sums where none are
/// normalised,
pub(super) const OF_INPUT: usize = 0;
/// of the state's sums before they were normalised,
pub(super) const OF_RECURRENT: usize = 1;
/// of the hidden state;
pub(super) const OF_HIDDEN: usize = 2;
/// and what the products had read: the input, the hidden state before the step, and where it comes before the product that
/// state times the reset gate.
pub(super) const FEATURES: usize = 3;
pub(super) const BEFORE: usize = 4;
pub(super) const RESET: usize = 5;

/// The parts of what is added up over rows: the gradients of the biases,
pub(super) const OF_BIAS: usize = 0;
/// of the gains of the input's and of the state's sums,
pub(super) const OF_GAIN_INPUT: usize = 1;
pub(super) const OF_GAIN_HIDDEN: usize = 2;
/// of gain and bias of the cell state,
pub(super) const OF_CELL_GAIN: usize = 3;
pub(super) const OF_CELL_BIAS: usize = 4;
/// and of the peepholes.
pub(super) const OF_PEEPHOLES: usize = 5;

/// Sequences whose sums over rows are one: it is always the same ones, whoever works on them.
pub(super) const GROUP: usize = 4;

impl Layout {
    pub(in super::super) fn new<C: Step>(
        engine: &Engine,
        precision: Precision,
        shape: SequenceShape,
        inputs: &SequenceInputs,
    ) -> Self {
        let arch = engine.arch();
        let variant = &inputs.variant;
        let kind = match (variant.reset, variant.projection) {
            (ResetGate::BeforeProduct, _) => Kind::ResetBefore,
            (_, Some(_)) => Kind::Projected,
            _ => Kind::Gates,
        };
        Self {
            arch,
            format: Format::new(arch, precision),
            tile: TileShape::new(arch, 2),
            shape,
            kind,
            state_size: variant.state_size(shape.hidden_size),
            recurrent_gates: if kind == Kind::ResetBefore { 2 } else { shape.cell.num_recurrent_gates() },
            gates: if kind == Kind::ResetBefore { 3 } else { C::SUMS },
            has_norms: variant.norms.is_some(),
            has_cell_norm: variant.norms.is_some_and(|norms| norms.cell_state.is_some()),
            has_peepholes: inputs.options.peepholes.is_some(),
        }
    }

    /// Sums of the input.
    pub(super) fn input_cols(&self) -> usize {
        self.shape.cell.num_gates() * self.shape.hidden_size
    }

    /// Sums of the first recurrent product.
    pub(super) fn recurrent_cols(&self) -> usize {
        self.recurrent_gates * self.shape.hidden_size
    }

    /// The sizes of the parts of a record of the forward pass.
    pub(super) fn kept(&self) -> [usize; 7] {
        let hidden_size = self.shape.hidden_size;
        let some = |is_there: bool, size: usize| if is_there { size } else { 0 };
        [
            self.gates * hidden_size,
            self.input_cols(),
            some(self.has_norms, self.recurrent_cols()),
            some(self.has_cell_norm, hidden_size),
            some(self.kind == Kind::Projected, hidden_size),
            some(self.shape.cell.has_cell_state(), hidden_size),
            some(self.has_norms, 2),
        ]
    }

    /// The sizes of the parts of a record of the backward pass.
    pub(super) fn gradients(&self) -> [usize; 6] {
        let SequenceShape { input_size, hidden_size, .. } = self.shape;
        let some = |is_there: bool, size: usize| if is_there { size } else { 0 };
        [
            if self.has_norms { self.input_cols() } else { self.gates * hidden_size },
            some(self.has_norms, self.recurrent_cols()),
            some(self.kind == Kind::Projected, self.state_size),
            input_size,
            self.state_size,
            some(self.kind == Kind::ResetBefore, hidden_size),
        ]
    }

    /// The sizes of the parts of what is added up over rows.
    pub(super) fn row_sums(&self) -> [usize; 6] {
        let hidden_size = self.shape.hidden_size;
        let some = |is_there: bool, size: usize| if is_there { size } else { 0 };
        [
            self.gates * hidden_size,
            some(self.has_norms, self.input_cols()),
            some(self.has_norms, self.recurrent_cols()),
            some(self.has_cell_norm, hidden_size),
            some(self.has_cell_norm, hidden_size),
            some(self.has_peepholes, 3 * hidden_size),
        ]
    }
}

/// Floats of a record.
pub(super) fn len(sizes: &[usize]) -> usize {
    sizes.iter().sum()
}

/// Where a part of a record lies in it.
pub(super) fn part(sizes: &[usize], index: usize) -> Range<usize> {
    let start = len(&sizes[..index]);
    start..start + sizes[index]
}

/// The parts of a record.
#[inline(always)]
pub(super) fn split<const N: usize>(mut record: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (part, rest) = std::mem::take(&mut record).split_at_mut(size);
        record = rest;
        part
    })
}

/// The rows of all steps, step by step, of the sequences that run.
#[derive(Debug)]
pub(super) struct Rows {
    /// By step, and after the last.
    starts: Vec<usize>,
}

impl Rows {
    pub(super) fn new(batch: &Batch) -> Self {
        let mut starts = vec![0];
        for step in 0..batch.steps() {
            starts.push(starts[step] + batch.running(step));
        }
        Self { starts }
    }

    pub(super) fn len(&self) -> usize {
        self.of(&(0..self.starts.len() - 1)).end
    }

    /// The row of a running sequence's step.
    pub(super) fn at(&self, place: usize, step: usize) -> usize {
        self.starts[step] + place
    }

    /// The rows of some steps.
    pub(super) fn of(&self, steps: &Range<usize>) -> Range<usize> {
        self.starts[steps.start]..self.starts[steps.end]
    }

    /// The place and the step of a row.
    pub(super) fn find(&self, row: usize) -> (usize, usize) {
        let step = self.starts.partition_point(|&start| start <= row) - 1;
        (row - self.starts[step], step)
    }

    /// Chunks of consecutive steps, of so many rows at most where a step alone has no more.
    pub(super) fn chunks(&self, steps: Range<usize>, most: usize) -> Vec<Range<usize>> {
        let mut chunks: Vec<Range<usize>> = Vec::new();
        for step in steps {
            match chunks.last_mut() {
                Some(chunk) if self.of(&(chunk.start..step + 1)).len() <= most => chunk.end = step + 1,
                _ => chunks.push(step..step + 1),
            }
        }
        chunks
    }
}
