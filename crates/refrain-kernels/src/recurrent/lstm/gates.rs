//! The gate equations of one step, over a block of units.

use crate::activation::{sigmoid_lane, tanh_lane};
use crate::arch::{Kernel, MAX_ROWS, MAX_WIDTH, MulAdd};

/// Units of the largest tile: its rows times a quarter of its columns.
pub(super) const MAX_UNITS: usize = MAX_ROWS * MAX_WIDTH / 4;

/// Units of some rows, one after the other, so that every vector is full whatever a tile's shape.
pub(super) struct GateBlock {
    /// i, f, g, o: the sums before the activations, then the gates.
    pub(super) gates: [[f32; MAX_UNITS]; 4],
    /// The cell state, before the step and after it.
    pub(super) cell_state: [f32; MAX_UNITS],
    /// The hidden state after the step.
    pub(super) hidden: [f32; MAX_UNITS],
}

impl GateBlock {
    pub(super) fn new() -> Self {
        Self { gates: [[0.0; MAX_UNITS]; 4], cell_state: [0.0; MAX_UNITS], hidden: [0.0; MAX_UNITS] }
    }

    /// One step of the first `count` units.
    #[inline(always)]
    pub(super) fn step<O: MulAdd>(&mut self, count: usize) {
        let [input, forget, candidate, output] = &mut self.gates;
        for u in 0..count {
            let i = sigmoid_lane::<O>(input[u]);
            let f = sigmoid_lane::<O>(forget[u]);
            let g = tanh_lane::<O>(candidate[u]);
            let o = sigmoid_lane::<O>(output[u]);
            let c = O::mul_add(f, self.cell_state[u], i * g);
            (input[u], forget[u], candidate[u], output[u]) = (i, f, g, o);
            self.cell_state[u] = c;
            self.hidden[u] = o * tanh_lane::<O>(c);
        }
    }
}

/// [`GateBlock::step`] by itself, where no tile comes before it.
pub(super) struct StepUnits<'a> {
    pub(super) block: &'a mut GateBlock,
    pub(super) count: usize,
}

impl Kernel for StepUnits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        self.block.step::<O>(self.count);
    }
}
