//! The backward pass: a time loop for the gradients of the gates, then large products for everything else.
//!
//! Backwards through one step, with `δ` the gradient of what follows it and `δi, δf, δg, δo` those of the sums before the
//! activations:
//!
//! ```text
//! δh = δoutput + δgates(t+1) · weight_hh      δi = δc ∘ g ∘ i ∘ (1 - i)
//! δc += δh ∘ o ∘ (1 - tanh²(c))               δf = δc ∘ c(t-1) ∘ f ∘ (1 - f)
//! δc(t-1) = δc ∘ f                            δg = δc ∘ i ∘ (1 - g²)
//!                                             δo = δh ∘ tanh(c) ∘ o ∘ (1 - o)
//! ```

use super::forward::block_rows;
use super::{LstmGradients, LstmInputs, LstmOutputGradients, LstmShape, LstmTrace, compact_stride};
use crate::activation::tanh_lane;
use crate::arch::{Arch, Kernel, MulAdd};
use crate::column_sums::column_sums;
use crate::engine::Engine;
use crate::gemm::{Beta, MatMut, MatRef, Panels, PreviousSteps, Right, Start, matmul, product};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::shared::SharedSlice;
use crate::tile::{Left, LeftRows, ProductTile, RightPanel, TileStart, accumulate, for_rows, load, store};

pub(super) fn backward(
    engine: &Engine,
    shape: LstmShape,
    inputs: &LstmInputs,
    output: &[f32],
    trace: &LstmTrace,
    grad: LstmOutputGradients,
    mut out: LstmGradients,
) {
    let LstmShape { batch_size, seq_len, input_size, hidden_size } = shape;
    if shape.states() == 0 {
        no_steps(grad, out);
        return;
    }
    let mut gate_gradients = engine.scratch(4 * shape.states());
    time_loop(engine, shape, inputs, trace, grad, &mut gate_gradients, &mut out);
    let rows = shape.rows();
    let gate_gradients = MatRef::row_major(&gate_gradients, rows, 4 * hidden_size);
    if let Some(bias) = out.bias {
        column_sums(engine, gate_gradients, bias);
    }
    if let Some(weight_ih) = out.weight_ih {
        let input = MatRef::row_major(inputs.input, rows, input_size);
        let weight_ih = MatMut::row_major(weight_ih, 4 * hidden_size, input_size);
        matmul(engine, gate_gradients.transposed(), input, Beta::Overwrite, weight_ih);
    }
    if let Some(weight_hh) = out.weight_hh {
        let previous = PreviousSteps { steps: output, first: inputs.hidden, batch_size, seq_len, width: hidden_size };
        let weight_hh = MatMut::row_major(weight_hh, 4 * hidden_size, hidden_size);
        product(engine, gate_gradients.transposed(), Right::PreviousSteps(previous), Start::Zero, weight_hh);
    }
    if let Some(input) = out.input {
        let weight_ih = MatRef::row_major(inputs.weight_ih, 4 * hidden_size, input_size);
        matmul(engine, gate_gradients, weight_ih, Beta::Overwrite, MatMut::row_major(input, rows, input_size));
    }
}

/// Without steps the cell state passes through and nothing else matters.
fn no_steps(grad: LstmOutputGradients, out: LstmGradients) {
    for zero in [out.input, out.weight_ih, out.weight_hh, out.bias, out.hidden].into_iter().flatten() {
        zero.fill(0.0);
    }
    if let Some(cell_state) = out.cell_state {
        match grad.last_cell_state {
            Some(last_cell_state) => cell_state.copy_from_slice(last_cell_state),
            None => cell_state.fill(0.0),
        }
    }
}

/// Fills `gate_gradients`, and the gradients of the initial states.
fn time_loop(
    engine: &Engine,
    shape: LstmShape,
    inputs: &LstmInputs,
    trace: &LstmTrace,
    grad: LstmOutputGradients,
    gate_gradients: &mut [f32],
    out: &mut LstmGradients,
) {
    let LstmShape { batch_size, hidden_size, .. } = shape;
    let arch = engine.arch();
    let panels = Panels::new(arch, hidden_size);
    let row_blocks = batch_size.div_ceil(arch.rows());
    let stride = compact_stride(4 * hidden_size);
    let cell_stride = compact_stride(hidden_size);
    let mut packed = engine.scratch(4 * hidden_size * hidden_size.next_multiple_of(arch.width()));
    let mut current = engine.scratch(2 * batch_size * stride);
    let mut cell_gradient = engine.scratch(batch_size * cell_stride);
    let time_loop = TimeLoop {
        arch,
        shape,
        panels,
        row_blocks,
        stride,
        cell_stride,
        inputs,
        trace,
        grad,
        packed: SharedSlice::new(&mut packed),
        current: SharedSlice::new(&mut current),
        cell_gradient: SharedSlice::new(&mut cell_gradient),
        gate_gradients: SharedSlice::new(gate_gradients),
        hidden: out.hidden.as_deref_mut().map(SharedSlice::new),
        cell_state: out.cell_state.as_deref_mut().map(SharedSlice::new),
    };
    let step_flops = 8 * batch_size * hidden_size * hidden_size;
    let members = engine.members_for_flops(step_flops).min(panels.count() * row_blocks);
    engine.run(members, |member| time_loop.run(member));
}

struct TimeLoop<'a> {
    arch: Arch,
    shape: LstmShape,
    panels: Panels,
    row_blocks: usize,
    /// Row stride of `current`.
    stride: usize,
    /// Row stride of `cell_gradient`.
    cell_stride: usize,
    inputs: &'a LstmInputs<'a>,
    trace: &'a LstmTrace,
    grad: LstmOutputGradients<'a>,
    /// `weight_hh` by panels of units.
    packed: SharedSlice<'a, f32>,
    /// The gradients of the gates of the later step and of this one: `[2, batch_size, stride]`.
    current: SharedSlice<'a, f32>,
    /// δc, `[batch_size, cell_stride]`.
    cell_gradient: SharedSlice<'a, f32>,
    /// `[batch_size, seq_len, 4 * hidden_size]`
    gate_gradients: SharedSlice<'a, f32>,
    hidden: Option<SharedSlice<'a, f32>>,
    cell_state: Option<SharedSlice<'a, f32>>,
}

impl TimeLoop<'_> {
    fn run(&self, member: Member) {
        let LstmShape { batch_size, seq_len, hidden_size, .. } = self.shape;
        let share = member.share(self.panels.count());
        if !share.is_empty() {
            let cols = self.panels.cols(share.start).start..self.panels.cols(share.end - 1).end;
            let terms = 4 * hidden_size;
            // SAFETY: each panel is packed by one member, before the barrier.
            let to = unsafe { self.packed.part_mut(cols.start * terms, self.panels.packed_widths(&share) * terms) };
            self.panels.pack_rows(to, terms, |k| &self.inputs.weight_hh[k * hidden_size..][cols.clone()]);
        }
        for row in member.share(batch_size) {
            // SAFETY: each row belongs to one member until the barrier.
            let to = unsafe { self.cell_gradient.part_mut(row * self.cell_stride, hidden_size) };
            match self.grad.last_cell_state {
                Some(grad) => to.copy_from_slice(&grad[row * hidden_size..(row + 1) * hidden_size]),
                None => to.fill(0.0),
            }
        }
        member.barrier();
        let tiles = member.share(self.panels.count() * self.row_blocks);
        for step in (0..seq_len).rev() {
            for offset in 0..tiles.len() {
                // There and back: what the last step used last is still in the cache.
                let tile = if step % 2 == 0 { tiles.start + offset } else { tiles.end - 1 - offset };
                self.tile(step, tile / self.row_blocks, tile % self.row_blocks);
            }
            member.barrier();
        }
        if let Some(hidden) = self.hidden {
            for tile in tiles {
                self.initial_hidden_tile(hidden, tile / self.row_blocks, tile % self.row_blocks);
            }
        }
        if let Some(cell_state) = self.cell_state {
            for row in member.share(batch_size) {
                // SAFETY: nobody writes δc after the last barrier, and each row has one writer.
                unsafe {
                    let from = self.cell_gradient.part(row * self.cell_stride, hidden_size);
                    cell_state.part_mut(row * hidden_size, hidden_size).copy_from_slice(from);
                }
            }
        }
    }

    /// The rows of `current` that hold the gradients of the gates of a step.
    fn current_row(&self, step: usize, row: usize) -> usize {
        (step % 2 * self.shape.batch_size + row) * self.stride
    }

    fn left(&self, step: usize, row: usize) -> LeftRows {
        LeftRows { data: self.current.pointer(self.current_row(step, row)), row_stride: self.stride }
    }

    fn right(&self, panel: usize) -> RightPanel {
        RightPanel {
            data: self.packed.pointer(self.panels.cols(panel).start * 4 * self.shape.hidden_size),
            k_stride: self.panels.packed_width(panel),
        }
    }

    fn tile(&self, step: usize, panel: usize, block: usize) {
        let LstmShape { batch_size, seq_len, hidden_size, .. } = self.shape;
        let rows = block_rows(batch_size, self.row_blocks, block);
        let cols = self.panels.cols(panel);
        let row_of_step = rows.start * seq_len + step;
        let state = row_of_step * hidden_size + cols.start;
        let gates = row_of_step * 4 * hidden_size + cols.start;
        let (cell_before, cell_before_stride) = if step == 0 {
            (&self.inputs.cell_state[rows.start * hidden_size + cols.start..], hidden_size)
        } else {
            (&self.trace.cell_states[state - hidden_size..], seq_len * hidden_size)
        };
        let is_last = step + 1 == seq_len;
        let tile = BackwardTile {
            rows: rows.len(),
            vectors: self.panels.vectors(panel),
            units: cols.len(),
            hidden_size,
            seq_len,
            k_len: if is_last { 0 } else { 4 * hidden_size },
            left: self.left(step + 1, rows.start),
            right: self.right(panel),
            grad_output: self.grad.output.map(|grad| grad[state..].as_ptr()),
            gates: self.trace.gates[gates..].as_ptr(),
            cell_state: self.trace.cell_states[state..].as_ptr(),
            cell_before: cell_before.as_ptr(),
            cell_before_stride,
            cell_gradient: self.cell_gradient.pointer(rows.start * self.cell_stride + cols.start),
            cell_stride: self.cell_stride,
            gate_gradients: self.gate_gradients.pointer(gates),
            current: self.current.pointer(self.current_row(step, rows.start) + cols.start),
            stride: self.stride,
        };
        // SAFETY: rows and units of the tile lie inside every buffer, by the shapes that were checked on the way in; the
        // gradients of the later step are complete since the barrier, those of this one go to the other half, and each
        // tile of a step has one member.
        unsafe { tile.compute(self.arch) };
    }

    /// The gradient of the hidden state before the first step.
    fn initial_hidden_tile(&self, hidden: SharedSlice<f32>, panel: usize, block: usize) {
        let hidden_size = self.shape.hidden_size;
        let rows = block_rows(self.shape.batch_size, self.row_blocks, block);
        let cols = self.panels.cols(panel);
        let tile = ProductTile {
            k_len: 4 * hidden_size,
            left: Left::Rows(self.left(0, rows.start)),
            right: self.right(panel),
            rows: rows.len(),
            vectors: self.panels.vectors(panel),
            cols: cols.len(),
            start: TileStart::Zero,
            out: hidden.pointer(rows.start * hidden_size + cols.start),
            out_stride: hidden_size,
        };
        // SAFETY: the gradients of step 0 are complete since the last barrier, and each tile of `hidden` has one writer.
        unsafe { tile.compute(self.arch) };
    }
}

/// One step back, for some rows and a panel's units.
///
/// Whoever makes one promises that its pointers are good for its rows and units, that `left` holds the gradients of the later
/// step, and that no other thread touches its rows and units of what it writes.
struct BackwardTile {
    rows: usize,
    vectors: usize,
    units: usize,
    hidden_size: usize,
    seq_len: usize,
    /// 0 at the last step, where nothing comes from later.
    k_len: usize,
    left: LeftRows,
    right: RightPanel,
    grad_output: Option<*const f32>,
    gates: *const f32,
    cell_state: *const f32,
    cell_before: *const f32,
    cell_before_stride: usize,
    cell_gradient: *mut f32,
    cell_stride: usize,
    gate_gradients: *mut f32,
    current: *mut f32,
    stride: usize,
}

impl BackwardTile {
    /// # Safety
    ///
    /// As promised by the maker.
    unsafe fn compute(self, arch: Arch) {
        arch.run(self);
    }
}

impl Kernel for BackwardTile {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        match self.vectors {
            1 => for_rows!(self.rows, M, backward_tile::<O, W, 1>(&self)),
            2 if V >= 2 => for_rows!(self.rows, M, backward_tile::<O, W, 2>(&self)),
            4 if V >= 4 => for_rows!(self.rows, M, backward_tile::<O, W, 4>(&self)),
            vectors => unreachable!("a panel of {vectors} vectors"),
        }
    }
}

#[inline(always)]
fn backward_tile<O: MulAdd, const W: usize, const V: usize, const M: usize>(tile: &BackwardTile) {
    let states_stride = tile.seq_len * tile.hidden_size;
    for r in 0..M {
        for g in 0..4 {
            let gate = r * 4 * states_stride + g * tile.hidden_size;
            prefetch_run(tile.gates.wrapping_add(gate), V * W);
            prefetch_run(tile.gate_gradients.wrapping_add(gate), V * W);
        }
        prefetch_run(tile.cell_state.wrapping_add(r * states_stride), V * W);
        prefetch_run(tile.cell_before.wrapping_add(r * tile.cell_before_stride), V * W);
        if let Some(grad_output) = tile.grad_output {
            prefetch_run(grad_output.wrapping_add(r * states_stride), V * W);
        }
    }
    // SAFETY: promised by the maker of the tile.
    let sums = unsafe { accumulate::<W, V, M, O>(tile.k_len, tile.left.walk(), tile.right) };
    for (r, sums) in sums.iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            let count = tile.units.saturating_sub(v * W).min(W);
            if count == 0 {
                break;
            }
            // SAFETY: promised by the maker of the tile: the row is one of its rows, the units are some of its units.
            unsafe { step_back::<O, W>(tile, r, v * W, count, sums) };
        }
    }
}

/// The equations above for `count` units from `unit` on, in row `r`.
///
/// # Safety
///
/// As promised for the tile.
#[inline(always)]
unsafe fn step_back<O: MulAdd, const W: usize>(
    tile: &BackwardTile,
    r: usize,
    unit: usize,
    count: usize,
    from_later: &[f32; W],
) {
    let states_stride = tile.seq_len * tile.hidden_size;
    let gates = r * 4 * states_stride + unit;
    // SAFETY: by contract.
    unsafe {
        let gate = |g: usize| load::<W>(tile.gates.add(gates + g * tile.hidden_size), count);
        let [input, forget, candidate, output] = [gate(0), gate(1), gate(2), gate(3)];
        let cell_state = load::<W>(tile.cell_state.add(r * states_stride + unit), count);
        let cell_before = load::<W>(tile.cell_before.add(r * tile.cell_before_stride + unit), count);
        let cell_gradient = tile.cell_gradient.add(r * tile.cell_stride + unit);
        let mut dc = load::<W>(cell_gradient, count);
        let mut dh = *from_later;
        if let Some(grad_output) = tile.grad_output {
            let grad_output = load::<W>(grad_output.add(r * states_stride + unit), count);
            for l in 0..W {
                dh[l] += grad_output[l];
            }
        }
        let mut gradients = [[0.0; W]; 4];
        for l in 0..W {
            let (i, f, g, o) = (input[l], forget[l], candidate[l], output[l]);
            let tanh_c = tanh_lane::<O>(cell_state[l]);
            let through_output = dh[l] * o;
            let d = dc[l] + through_output * O::mul_add(-tanh_c, tanh_c, 1.0);
            gradients[0][l] = d * g * (i * (1.0 - i));
            gradients[1][l] = d * cell_before[l] * (f * (1.0 - f));
            gradients[2][l] = d * i * O::mul_add(-g, g, 1.0);
            gradients[3][l] = through_output * tanh_c * (1.0 - o);
            dc[l] = d * f;
        }
        store(&dc, cell_gradient, count);
        for (g, gradients) in gradients.iter().enumerate() {
            store(gradients, tile.gate_gradients.add(gates + g * tile.hidden_size), count);
            store(gradients, tile.current.add(r * tile.stride + g * tile.hidden_size + unit), count);
        }
    }
}
