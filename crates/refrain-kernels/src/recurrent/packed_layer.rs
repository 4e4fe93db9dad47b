//! A layer's weights, rearranged for the forward pass.

use super::SequenceShape;
use super::cell::Step;
use super::plan::Plan;
use crate::scratch::{FreeList, Scratch};
use crate::shared::SharedSlice;

/// A layer's weights as they are.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) weight_ih: &'a [f32],
    pub(super) weight_hh: &'a [f32],
    pub(super) bias: &'a [f32],
}

/// Room for a layer's packed weights.
#[derive(Debug)]
pub(super) struct PackedLayer {
    /// By panel.
    weight_ih: Scratch,
    weight_hh: Scratch,
    /// By panel and sum, one float for each unit of the panel.
    bias: Scratch,
}

impl PackedLayer {
    /// The packed weights, to read.
    pub(super) fn packed(&self) -> SharedLayer<'_> {
        SharedLayer {
            weight_ih: SharedSlice::read_only(self.weight_ih.words()),
            weight_hh: SharedSlice::read_only(self.weight_hh.words()),
            bias: SharedSlice::read_only(&self.bias),
        }
    }

    /// Room for the weights of a plan, not yet packed.
    pub(super) fn new<C: Step>(plan: &Plan, home: &FreeList) -> Self {
        Self {
            weight_ih: home.scratch(plan.panels * plan.right(plan.shape.input_size).len()),
            weight_hh: home.scratch(plan.panels * plan.right(plan.recurrent_terms::<C>()).len()),
            bias: home.scratch(plan.panels * C::SUMS * plan.units),
        }
    }

    /// The room, to pack into.
    pub(super) fn shared(&mut self) -> SharedLayer<'_> {
        SharedLayer {
            weight_ih: SharedSlice::new(self.weight_ih.words_mut()),
            weight_hh: SharedSlice::new(self.weight_hh.words_mut()),
            bias: SharedSlice::new(&mut self.bias),
        }
    }
}

/// A layer's packed weights, whose panels are shared out while they are packed.
#[derive(Clone, Copy)]
pub(super) struct SharedLayer<'a> {
    pub(super) weight_ih: SharedSlice<'a, u32>,
    pub(super) weight_hh: SharedSlice<'a, u32>,
    pub(super) bias: SharedSlice<'a, f32>,
}

impl SharedLayer<'_> {
    /// Packs one panel.
    ///
    /// # Safety
    ///
    /// The panel must be the calling member's alone.
    pub(super) unsafe fn pack<C: Step>(&self, plan: &Plan, layer: Layer, panel: usize) {
        let SequenceShape { input_size, hidden_size, .. } = plan.shape;
        let units = plan.units(panel);
        let row = |column: usize| {
            let (gate, unit) = (column / plan.units, units.start + column % plan.units);
            (gate < C::GATES && unit < units.end).then_some(gate * hidden_size + unit)
        };
        for (packed, weight, terms, padded) in [
            (self.weight_ih, layer.weight_ih, input_size, input_size),
            (self.weight_hh, layer.weight_hh, hidden_size, plan.recurrent_terms::<C>()),
        ] {
            if padded == 0 {
                continue;
            }
            let packing = plan.right(padded);
            // SAFETY: by contract.
            let to = unsafe { packed.part_mut(panel * packing.len(), packing.len()) };
            packing.contiguous_terms(to, |column| row(column).map_or(&[], |row| &weight[row * terms..][..terms]));
        }
        for sum in 0..C::SUMS {
            // SAFETY: by contract.
            let to = unsafe { self.bias.part_mut((panel * C::SUMS + sum) * plan.units, plan.units) };
            to[..units.len()].copy_from_slice(&layer.bias[sum * hidden_size..][units.clone()]);
            to[units.len()..].fill(0.0);
        }
    }
}
