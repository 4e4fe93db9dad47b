//! The gate equations of one step, over a block of units.

use crate::activation::{sigmoid_pair, tanh_lane, tanh_sigmoid};
use crate::arch::{Kernel, MAX_ROWS, MAX_WIDTH, MulAdd};

/// Units of the largest tile: its rows times a quarter of its columns.
pub(super) const MAX_UNITS: usize = MAX_ROWS * MAX_WIDTH / 4;

/// Lanes of the widest vector.
const LANES: usize = 16;

/// One float per unit: the units of some rows, one row after the other, so that every vector is full whatever a tile's shape.
pub(super) type Units = [f32; MAX_UNITS];

/// The gates and the hidden state of a block of units.
pub(super) struct GateBlock {
    /// i, f, g, o: the sums before the activations, then the gates.
    pub(super) gates: [Units; 4],
    /// The hidden state after the step.
    pub(super) hidden: Units,
}

impl GateBlock {
    pub(super) fn new() -> Self {
        Self { gates: [[0.0; MAX_UNITS]; 4], hidden: [0.0; MAX_UNITS] }
    }

    /// One step of the first `count` units, and of some more up to whole vectors.
    #[inline(always)]
    pub(super) fn step<O: MulAdd>(&mut self, cell_state: &mut Units, count: usize) {
        let [input, forget, candidate, output] = &mut self.gates;
        for u in 0..count.next_multiple_of(LANES).min(MAX_UNITS) {
            let (i, f) = sigmoid_pair::<O>(input[u], forget[u]);
            let (g, o) = tanh_sigmoid::<O>(candidate[u], output[u]);
            let c = O::mul_add(f, cell_state[u], i * g);
            (input[u], forget[u], candidate[u], output[u]) = (i, f, g, o);
            cell_state[u] = c;
            self.hidden[u] = o * tanh_lane::<O>(c);
        }
    }
}

/// [`GateBlock::step`] by itself, where no tile comes before it.
pub(super) struct StepUnits<'a> {
    pub(super) block: &'a mut GateBlock,
    pub(super) cell_state: &'a mut Units,
    pub(super) count: usize,
}

impl Kernel for StepUnits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        self.block.step::<O>(self.cell_state, self.count);
    }
}
