//! The end of the backward pass: what was added up, and the states before the first step.

use std::ops::Range;

use super::TimeLoop;
use crate::arch::Tiles;
use crate::format::Encode;
use crate::pool::Member;
use crate::recurrent::SequenceShape;
use crate::recurrent::cell::Step;
use crate::tile::Sums;

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    /// Writes what has been added up: the gradients of weights and bias, and those of the initial states.
    pub(super) fn finish(&self, member: Member, tiles: &Tiles, sums: &mut Sums, own: &Range<usize>) {
        let plan = &self.plan;
        let hidden_size = plan.forward.shape.hidden_size;
        for weight in self.weights.iter().flatten() {
            let panels = weight.gates.len() * plan.panels;
            for panel in member.share(panels) {
                let (gate, units) = (weight.gates[panel / plan.panels], self.units(panel % plan.panels));
                for block in 0..weight.size.div_ceil(plan.features.rows) {
                    // SAFETY: the tile has been this member's all along.
                    let from = unsafe {
                        weight.sums.part((block * panels + panel) * plan.feature_tile(), plan.feature_tile())
                    };
                    let features = block * plan.features.rows..((block + 1) * plan.features.rows).min(weight.size);
                    for (c, unit) in units.clone().enumerate() {
                        let start = (gate * hidden_size + unit) * weight.size + features.start;
                        // SAFETY: each row of a gate and each feature has one writer.
                        let to = unsafe { weight.out.part_mut(start, features.len()) };
                        for (r, to) in to.iter_mut().enumerate() {
                            *to = from[r * plan.features.width + c];
                        }
                    }
                }
            }
        }
        if let Some(bias) = self.out_bias {
            for panel in member.share(plan.panels) {
                let units = self.units(panel);
                for (gradient, &sum) in C::GRADIENTS.iter().enumerate() {
                    // SAFETY: nobody writes the sums any more; each unit has one writer.
                    let to = unsafe { bias.part_mut(sum * hidden_size + units.start, units.len()) };
                    to.fill(0.0);
                    for row_block in 0..plan.forward.row_blocks {
                        let start = (row_block * plan.gradients + gradient) * plan.padded + units.start;
                        // SAFETY: as above.
                        for (to, from) in to.iter_mut().zip(unsafe { self.bias.part(start, units.len()) }) {
                            *to += from;
                        }
                    }
                }
            }
        }
        if let Some(peepholes) = self.out_peepholes {
            for panel in member.share(plan.panels) {
                for (gate, unit) in (0..3).flat_map(|gate| self.units(panel).map(move |unit| (gate, unit))) {
                    let row_blocks = 0..plan.forward.row_blocks;
                    let sums = row_blocks.map(|row_block| self.peephole_sum(panel, row_block, gate, unit));
                    // SAFETY: each unit has one writer.
                    let to = unsafe { peepholes.part_mut(gate * hidden_size + unit, 1) };
                    to.fill(sums.sum());
                }
            }
        }
        if let Some(input) = self.out_input {
            let SequenceShape { batch_size, input_size, .. } = plan.forward.shape;
            for place in member.share(batch_size) {
                let padding = self.batch.padding(place);
                // SAFETY: no step writes there, and each sequence belongs to one member.
                unsafe { input.part_mut(padding.start * input_size, padding.len() * input_size) }.fill(0.0);
            }
        }
        for tile in own.clone() {
            self.initial_states(tiles, sums, tile);
        }
    }

    /// A peephole's gradient, over the sequences of a row block.
    fn peephole_sum(&self, panel: usize, row_block: usize, gate: usize, unit: usize) -> f32 {
        let forward = &self.plan.forward;
        let tile = panel * forward.row_blocks + row_block;
        // SAFETY: nobody writes the sums any more.
        let blocks = unsafe { self.peepholes.part(tile * 3 * self.plan.state_len(), 3 * self.plan.state_len()) };
        let sub = (unit - panel * self.plan.tile.width) / forward.units;
        let block = &blocks[gate * self.plan.state_len() + sub * forward.block_len()..][..forward.block_len()];
        let rows = block.chunks_exact(forward.units).take(forward.rows(row_block).len());
        rows.map(|row| row[unit % forward.units]).sum()
    }

    /// The gradients of a tile's states before the first step.
    fn initial_states(&self, tiles: &Tiles, sums: &mut Sums, tile: usize) {
        let Self { plan, batch, source, .. } = self;
        let hidden_size = plan.forward.shape.hidden_size;
        let (panel, row_block) = plan.forward.position(tile);
        let units = self.units(panel);
        if units.is_empty() {
            return;
        }
        let places = plan.forward.rows(row_block);
        let running = batch.running_of(&places, 0);
        if self.out_hidden.is_some() && !running.is_empty() {
            // SAFETY: the gradients of the first step are complete since the last barrier.
            unsafe { tiles.multiply(&self.recurrent_product((0, 0), tile, running.len()), sums) };
        }
        // Sequences without a step: their states pass through.
        self.start_sequences(sums, tile, &(running.end..places.end));
        // SAFETY: the tile is this member's.
        let (state, carry) = unsafe { (self.state_blocks(tile), self.carried_blocks(self.carry, 1, tile)) };
        let at = |r: usize, unit: usize| {
            let (sub, u) = ((unit - units.start) / plan.forward.units, unit % plan.forward.units);
            sub * plan.forward.block_len() + r * plan.forward.units + u
        };
        let is_cell_state = plan.forward.shape.cell.has_cell_state();
        if let Some(hidden) = self.out_hidden {
            for (r, place) in places.clone().enumerate() {
                let row = batch.row(place);
                // SAFETY: each tile has one writer.
                let to = unsafe { hidden.part_mut(row * hidden_size + units.start, units.len()) };
                for ((to, sum), unit) in to.iter_mut().zip(sums.row(r, plan.tile.width)).zip(units.clone()) {
                    let recalled =
                        if r < running.len() { source.inputs.options.recall(row, unit, hidden_size) } else { 1.0 };
                    let direct = if C::STATE_IS_HIDDEN {
                        state[at(r, unit)]
                    } else {
                        carry.get(at(r, unit)).copied().unwrap_or(0.0)
                    };
                    *to = sum * recalled + direct;
                }
            }
        }
        if let Some(cell_state) = self.out_cell_state.filter(|_| is_cell_state) {
            for (r, place) in places.enumerate() {
                // SAFETY: as above.
                let to = unsafe { cell_state.part_mut(batch.row(place) * hidden_size + units.start, units.len()) };
                for (to, unit) in to.iter_mut().zip(units.clone()) {
                    *to = state[at(r, unit)];
                }
            }
        }
    }
}
