//! The products of a chunk: from its gradients of sums to those of the input and of the weights.

use super::TimeLoop;
use crate::arch::{Kernel, MulAdd, Tiles};
use crate::dropout::Product;
use crate::format::Encode;
use crate::gemm::{Start, StoreTile};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::recurrent::backward_plan::Chunk;
use crate::recurrent::cell::Step;
use crate::tile::{Sums, TileProduct};

/// Terms of a pass over the gradients for that of the input.
const PASS_TERMS: usize = 512;
/// Tiles of features that stay in the second cache while the columns of gradients pass.
const FEATURE_GROUP: usize = 8;

/// Hidden states of terms, `len` units of each, times factors; zeros where a term is of no sequence.
struct Recall<'a, S, F> {
    of_term: S,
    factors: F,
    to: &'a mut [f32],
    len: usize,
}

impl<'a, S: Fn(usize) -> &'a [f32], F: Fn(usize) -> &'a [f32]> Kernel for Recall<'_, S, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for (term, output) in self.to.chunks_exact_mut(self.len).enumerate() {
            match (self.of_term)(term) {
                [] => output.fill(0.0),
                input => Product { factors: (self.factors)(term), input, output }.run::<W, O>(),
            }
        }
    }
}

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    /// Packs a member's share of what the weights were multiplied with in a chunk: the input, and the hidden states before
    /// each step as the recurrent products read them, which `recalled` is room for.
    pub(super) fn pack_features(&self, member: Member, recalled: &mut Vec<f32>, chunk: &Chunk) {
        let Self { plan, source, batch, .. } = self;
        let packing = plan.feature_rows(chunk.terms);
        for (index, weight) in self.weights.iter().enumerate() {
            let Some(weight) = weight else { continue };
            let size = weight.size;
            let own = member.share(size.div_ceil(plan.features.rows));
            if own.is_empty() {
                continue;
            }
            // Once for all tiles: to find a term takes longer than to copy its features of a tile.
            let terms: Vec<&[f32]> = (0..chunk.terms)
                .map(|term| {
                    let (step, place) = chunk.term(term);
                    if place >= batch.running(step) {
                        return &[][..];
                    }
                    let (from, row) = match (index, step) {
                        (0, _) => (source.inputs.input, batch.at(place, step)),
                        (_, 0) => (source.inputs.hidden, batch.row(place)),
                        _ => (source.output, batch.at(place, step - 1)),
                    };
                    &from[row * size..][..size]
                })
                .collect();
            for block in own {
                let features = block * plan.features.rows..((block + 1) * plan.features.rows).min(size);
                // SAFETY: each block belongs to one member until the barrier; who read it in the last chunk has since
                // passed the barrier at its end.
                let to = unsafe { weight.features.part_mut(block * packing.len(), packing.len()) };
                let of_term = |term: usize| terms[term].get(features.clone()).unwrap_or(&[]);
                match source.recall_factors.as_deref().filter(|_| index > 0) {
                    None => packing.contiguous_lines(to, of_term),
                    Some(factors) => {
                        recalled.resize(chunk.terms * features.len(), 0.0);
                        let factors = |term: usize| {
                            let (_, place) = chunk.term(term);
                            &factors[batch.row(place) * size..][features.clone()]
                        };
                        plan.forward.arch.run(Recall { of_term, factors, to: recalled, len: features.len() });
                        packing.contiguous_lines(to, |term| &recalled[term * features.len()..][..features.len()]);
                    }
                }
            }
        }
    }

    /// Clears the last block of a member's share of the columns, where a chunk does not fill it.
    pub(super) fn pad_columns(&self, member: Member, chunk: &Chunk) {
        let plan = &self.plan;
        let packing = plan.columns(chunk.terms);
        let block_len = plan.forward.format.block_len(packing.lines);
        if !packing.terms.is_multiple_of(plan.forward.format.block_terms()) {
            for panel in member.share(plan.gradients * plan.panels) {
                // SAFETY: each panel belongs to one member until the barrier.
                unsafe { self.columns.part_mut((panel + 1) * packing.len() - block_len, block_len) }.fill(0);
            }
        }
    }

    /// The gradient of a chunk's input, for a member's share of its rows.
    pub(super) fn input_gradient(&self, member: Member, tiles: &Tiles, sums: &mut Sums, index: usize) {
        let Some(out) = self.out_input else { return };
        let plan = &self.plan;
        let input_size = plan.forward.shape.input_size;
        let format = plan.forward.format;
        let (blocks, pass) = (format.blocks(plan.input_gradients * plan.padded), format.blocks(PASS_TERMS));
        let packing = plan.right(plan.input_gradients);
        let own = &self.chunks[index].row_blocks[member.share(self.chunks[index].row_blocks.len())];
        for first in (0..blocks).step_by(pass) {
            for panel in 0..input_size.div_ceil(plan.tile.width) {
                let col = panel * plan.tile.width;
                for &(step, row_block) in own {
                    let places = self.batch.running_of(&plan.forward.rows(row_block), step);
                    let product = TileProduct {
                        format,
                        shape: plan.tile,
                        rows: places.len(),
                        blocks: pass.min(blocks - first),
                        left: self
                            .rows_of(index, step, row_block)
                            .wrapping_add(first * format.block_len(plan.tile.rows)),
                        right: self
                            .packed_ih
                            .pointer(panel * packing.len() + first * format.block_len(plan.tile.width)),
                    };
                    let (cols, out) = (plan.tile.width.min(input_size - col), out.pointer(col));
                    let row = |r: usize| self.batch.at(places.start + r, step);
                    for r in 0..places.len() {
                        prefetch_run(out.wrapping_add(row(r) * input_size), cols);
                    }
                    // SAFETY: the weights are packed, and the gradients of the chunk complete, since the last barrier.
                    unsafe { tiles.multiply(&product, sums) };
                    plan.forward.arch.run(StoreTile {
                        sums,
                        width: plan.tile.width,
                        rows: places.len(),
                        cols,
                        start: if first == 0 { Start::Zero } else { Start::Output },
                        out,
                        stride: input_size,
                        row,
                    });
                }
            }
        }
    }

    /// Adds a chunk to the gradients of the weights, for a member's share of the gates.
    pub(super) fn weight_gradients(&self, member: Member, tiles: &Tiles, sums: &mut Sums, index: usize) {
        let plan = &self.plan;
        let is_first = index + 1 == self.chunks.len();
        let terms = self.chunks[index].terms;
        let (features, columns) = (plan.feature_rows(terms), plan.columns(terms));
        for weight in self.weights.iter().flatten() {
            let panels = weight.gates.len() * plan.panels;
            let own = member.share(panels);
            let feature_tiles = weight.size.div_ceil(plan.features.rows);
            for group in (0..feature_tiles).step_by(FEATURE_GROUP) {
                for panel in own.clone() {
                    for block in group..(group + FEATURE_GROUP).min(feature_tiles) {
                        let product = TileProduct {
                            format: plan.forward.format,
                            shape: plan.features,
                            rows: plan.features.rows.min(weight.size - block * plan.features.rows),
                            blocks: plan.forward.format.blocks(columns.terms),
                            left: weight.features.pointer(block * features.len()),
                            right: self.columns.pointer((weight.first_gradient * plan.panels + panel) * columns.len()),
                        };
                        let out = weight.sums.pointer((block * panels + panel) * plan.feature_tile());
                        prefetch_run(out, product.rows * plan.features.width);
                        // SAFETY: features and columns are complete since the last barrier.
                        unsafe { tiles.multiply(&product, sums) };
                        plan.forward.arch.run(StoreTile {
                            sums,
                            width: plan.features.width,
                            rows: product.rows,
                            cols: plan.features.width,
                            start: if is_first { Start::Zero } else { Start::Output },
                            out,
                            stride: plan.features.width,
                            row: |r| r,
                        });
                    }
                }
            }
        }
    }
}
