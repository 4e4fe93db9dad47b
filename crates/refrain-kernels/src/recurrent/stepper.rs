//! One step of a layer at a time, for one stream or many, from weights that are prepared once.
//!
//! Each weight is read once a step, so for few streams memory is the limit: f32 is kept in four bytes a weight on every
//! processor, whatever a pass over whole sequences would split it into; less in bfloat16; least in eight bits, which are
//! multiplied by inputs and states in sixteen. A stream's numbers do not depend on how many are beside it: every sum is of one
//! stream and one column of weights, always added up in the same order.

use std::marker::PhantomData;
use std::sync::Arc;

use super::batch::Batch;
use super::cell::Step;
use super::forward::{Given, Input, TimeLoop, Written};
use super::int8::Int8Matrix;
use super::int8_panels::{Int8Panels, ROWS, Rounded, VECTORS};
use super::lanes::Lanes;
use super::options::SequenceOptions;
use super::packed_layer::{Layer, PackedLayer};
use super::plan::Plan;
use super::{Cell, Direction, SequenceShape, gru, lstm, min_gru, rnn, with_cell};
use crate::arch::{Arch, Isa, Kernel, MulAdd};
use crate::engine::Engine;
use crate::format::{Format, with_encoding};
use crate::gemm::{MatRef, Panels, Start, StoreTile, pack_left, pack_right};
use crate::pack::{Packing, Side};
use crate::scratch::{FreeList, Scratch};
use crate::shape::elements;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct, TileShape, sum_of};

/// In what weights are kept for single steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// Four bytes.
    #[default]
    F32,
    /// Two bytes, eight bits of them the number's; inputs and states are rounded alike where they meet a weight.
    Bf16,
    /// One byte, and for each row the size of its step: its greatest weight is 127 of them. Inputs and states are rounded to
    /// sixteen bits where they meet a weight.
    Int8,
}

impl WeightFormat {
    /// The instruction set and the format of packed weights; none for eight bits.
    fn packed(self, engine: &Engine) -> Option<(Arch, Format)> {
        match (self, engine.isa()) {
            // Three parts are six bytes to read where four will do.
            (Self::F32, Isa::Amx) => Some((Arch::new(Isa::Avx512).expect("AMX comes with AVX-512"), Format::F32)),
            (Self::F32, _) => Some((engine.arch(), Format::F32)),
            (Self::Bf16, _) => Some((engine.arch(), Format::Bf16)),
            (Self::Int8, _) => None,
        }
    }
}

/// A matrix, prepared for products with few vectors.
#[derive(Clone, Debug)]
pub struct StepMatrix {
    rows: usize,
    cols: usize,
    weights: MatrixWeights,
}

#[derive(Clone, Debug)]
enum MatrixWeights {
    /// By panel of rows.
    Packed(Arch, Format, Arc<Scratch>),
    Int8(Int8Panels),
}

impl StepMatrix {
    /// `data`, `[rows, cols]`, in a format.
    ///
    /// # Panics
    ///
    /// When `data` does not hold `rows * cols` floats.
    pub fn new(engine: &Engine, format: WeightFormat, data: &[f32], rows: usize, cols: usize) -> Self {
        let matrix = MatRef::row_major(data, rows, cols);
        let weights = match format.packed(engine) {
            None => MatrixWeights::Int8(Int8Panels::new(&Int8Matrix::new(data, rows, cols), 1)),
            Some((arch, format)) => {
                let shape = TileShape::new(arch, 2);
                let panels = Panels { cols: rows, width: shape.width };
                let packing = right(arch, format, shape, cols);
                let mut packed = FreeList::default().scratch(panels.count() * packing.len());
                for (panel, to) in packed.words_mut().chunks_exact_mut(packing.len().max(1)).enumerate() {
                    pack_right(packing, to, matrix.transposed(), &(0..cols), &panels.cols(panel));
                }
                MatrixWeights::Packed(arch, format, Arc::new(packed))
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
        if count == 0 {
            return;
        }
        match &self.weights {
            MatrixWeights::Int8(matrix) => matrix.product(engine, vectors, bias, out),
            MatrixWeights::Packed(arch, format, packed) => {
                self.packed_product(engine, (*arch, *format, packed), vectors, bias, out);
            }
        }
    }

    fn packed_product(
        &self,
        engine: &Engine,
        (arch, format, packed): (Arch, Format, &Scratch),
        vectors: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) {
        let count = out.len() / self.rows;
        let shape = TileShape::new(arch, 2);
        let panels = Panels { cols: self.rows, width: shape.width };
        let right = right(arch, format, shape, self.cols);
        let left = Packing { side: Side::Left, lines: shape.rows, ..right };
        let vectors = MatRef::row_major(vectors, count, self.cols);
        let row_blocks = count.div_ceil(shape.rows);
        let rows = |block: usize| block * shape.rows..((block + 1) * shape.rows).min(count);
        let mut input = engine.scratch(row_blocks * left.len());
        let (input, out) = (SharedSlice::new(input.words_mut()), SharedSlice::new(out));
        let packed = SharedSlice::read_only(packed.words());
        let members = engine.members_for_flops(2 * count * self.rows * self.cols).min(panels.count());
        engine.run(members, |member| {
            let tiles = arch.tiles();
            let mut sums = Sums::new();
            for block in member.share(row_blocks) {
                // SAFETY: each block is packed by one member, before the barrier.
                let to = unsafe { input.part_mut(block * left.len(), left.len()) };
                pack_left(left, to, vectors, &(0..self.cols), &rows(block));
            }
            member.barrier();
            for panel in member.share(panels.count()) {
                let cols = panels.cols(panel);
                for block in 0..row_blocks {
                    let product = TileProduct {
                        format,
                        shape,
                        rows: rows(block).len(),
                        blocks: format.blocks(self.cols),
                        left: input.pointer(block * left.len()),
                        right: packed.pointer(panel * right.len()),
                    };
                    // SAFETY: the weights are packed, and the vectors since the barrier.
                    unsafe { tiles.multiply(&product, &mut sums) };
                    arch.run(StoreTile {
                        sums: &sums,
                        width: shape.width,
                        rows: product.rows,
                        cols: cols.len(),
                        start: Start::Bias(&bias[cols.clone()]),
                        out: out.pointer(rows(block).start * self.rows + cols.start),
                        stride: self.rows,
                        row: |r| r,
                    });
                }
            }
        });
    }
}

/// The packing of a panel.
fn right(arch: Arch, format: Format, shape: TileShape, terms: usize) -> Packing {
    Packing { arch, format, side: Side::Right, lines: shape.width, terms }
}

/// What a step reads.
#[derive(Clone, Copy, Debug)]
pub enum StepInput<'a> {
    /// `[streams, input_size]`
    Features(&'a [f32]),
    /// `[streams]`, each below the number of tokens that the weights are [for](StepWeights::for_tokens).
    Tokens(&'a [u32]),
}

/// A layer's weights, prepared for one step at a time.
#[derive(Clone, Debug)]
pub struct StepWeights {
    cell: Cell,
    input_size: usize,
    hidden_size: usize,
    weights: LayerWeights,
    /// The products of every token, `[num_tokens, num_gates * hidden_size]`, in place of weights for the input.
    products: Option<Vec<f32>>,
}

#[derive(Clone, Debug)]
enum LayerWeights {
    Packed(Arch, Format, Arc<PackedLayer>),
    Int8 { weight_ih: Int8Panels, weight_hh: Int8Panels, bias: Vec<f32> },
}

impl StepWeights {
    /// The weights of a layer, in a format.
    ///
    /// # Shapes
    ///
    /// `weight_ih` `[num_gates * hidden_size, input_size]`, `weight_hh` `[num_recurrent_gates * hidden_size, hidden_size]`, `bias`
    /// `[num_biases * hidden_size]`.
    ///
    /// # Panics
    ///
    /// When these do not fit together.
    pub fn new(
        engine: &Engine,
        format: WeightFormat,
        cell: Cell,
        [weight_ih, weight_hh, bias]: [&[f32]; 3],
        hidden_size: usize,
    ) -> Self {
        let gates = cell.num_gates() * hidden_size;
        let input_size = weight_ih.len().checked_div(gates).unwrap_or(0);
        let sizes = [weight_ih.len(), weight_hh.len(), bias.len()];
        let recurrent_gates = cell.num_recurrent_gates() * hidden_size;
        let expected = [gates * input_size, recurrent_gates * hidden_size, cell.num_biases() * hidden_size];
        assert_eq!(sizes, expected, "{cell:?} weights of {hidden_size} units");
        let weights = match format.packed(engine) {
            None => LayerWeights::Int8 {
                weight_ih: Int8Panels::new(&Int8Matrix::new(weight_ih, gates, input_size), cell.num_gates()),
                weight_hh: Int8Panels::new(
                    &Int8Matrix::new(weight_hh, recurrent_gates, hidden_size),
                    cell.num_recurrent_gates(),
                ),
                bias: bias.to_vec(),
            },
            Some((arch, format)) => {
                let shape = SequenceShape { cell, batch_size: 1, seq_len: 1, input_size, hidden_size };
                let layer = Layer { weight_ih, weight_hh, bias };
                let packed = with_cell!(cell, C => {
                    let plan = Plan::with::<C>(arch, format, shape);
                    let mut packed = PackedLayer::new::<C>(&plan, &FreeList::default());
                    let shared = packed.shared();
                    for panel in 0..plan.panels {
                        // SAFETY: nobody else has them.
                        unsafe { shared.pack::<C>(&plan, layer, panel) };
                    }
                    packed
                });
                LayerWeights::Packed(arch, format, Arc::new(packed))
            }
        };
        Self { cell, input_size, hidden_size, weights, products: None }
    }

    /// The weights of a layer whose input is one of some tokens: their products with `weight_ih` are computed once, to the
    /// same bits as at every step, and then take its place. They are as many as its own numbers where there are as many
    /// tokens as features.
    ///
    /// # Shapes
    ///
    /// As [`StepWeights::new`], and `embedding` `[num_tokens, input_size]`.
    ///
    /// # Panics
    ///
    /// When these do not fit together.
    pub fn for_tokens(
        engine: &Engine,
        format: WeightFormat,
        cell: Cell,
        [weight_ih, weight_hh, bias]: [&[f32]; 3],
        hidden_size: usize,
        embedding: &[f32],
    ) -> Self {
        let gates = cell.num_gates() * hidden_size;
        let input_size = weight_ih.len().checked_div(gates).unwrap_or(0);
        let num_tokens = embedding.len().checked_div(input_size).unwrap_or(0);
        assert_eq!(embedding.len(), num_tokens * input_size, "an embedding of {input_size} features");
        let mut products = vec![0.0; num_tokens * gates];
        let matrix = StepMatrix::new(engine, format, weight_ih, gates, input_size);
        matrix.product(engine, embedding, &vec![0.0; gates], &mut products);
        let recurrent = Self::new(engine, format, cell, [&[], weight_hh, bias], hidden_size);
        Self { products: Some(products), ..recurrent }
    }

    /// The cell.
    pub fn cell(&self) -> Cell {
        self.cell
    }

    /// Features of the input; none of weights for tokens.
    pub fn input_size(&self) -> usize {
        self.input_size
    }

    /// Weights that every step reads.
    pub fn num_weights(&self) -> usize {
        let Self { cell, input_size, hidden_size, .. } = self;
        hidden_size * (cell.num_gates() * input_size + cell.num_recurrent_gates() * hidden_size)
    }

    /// Hidden units.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// One step of some streams, whose states are overwritten.
    ///
    /// # Shapes
    ///
    /// `hidden` `[streams, hidden_size]`, `cell_state` the same for the LSTM, else empty.
    ///
    /// # Panics
    ///
    /// When a slice does not have its shape, a token is none of those that the weights are for, or the weights are for tokens
    /// and the input is not.
    pub fn step(&self, engine: &Engine, input: StepInput, hidden: &mut [f32], cell_state: &mut [f32]) {
        let Self { cell, input_size, hidden_size, .. } = *self;
        let streams = hidden.len().checked_div(hidden_size).unwrap_or(0);
        assert_eq!(hidden.len(), streams * hidden_size, "a hidden state of {} for {hidden_size} units", hidden.len());
        let input = match (input, &self.products) {
            (StepInput::Features(features), None) => {
                assert_eq!(features.len(), streams * input_size, "input for {streams} streams of {input_size}");
                Input::Features(features)
            }
            (StepInput::Tokens(tokens), Some(products)) => {
                assert_eq!(tokens.len(), streams, "tokens for {streams} streams");
                let num_tokens = products.len() / (cell.num_gates() * hidden_size).max(1);
                if let Some(token) = tokens.iter().find(|&&token| token as usize >= num_tokens) {
                    panic!("token {token} of {num_tokens}");
                }
                Input::Tokens { products, tokens }
            }
            (StepInput::Features(_), Some(_)) => panic!("features for weights that are for tokens"),
            (StepInput::Tokens(_), None) => panic!("tokens for weights that are for features"),
        };
        let cells = if cell.has_cell_state() { hidden.len() } else { 0 };
        assert_eq!(cell_state.len(), cells, "a cell state for {streams} streams of {hidden_size} units");
        if streams == 0 {
            return;
        }
        let mut before = engine.scratch(hidden.len());
        before.copy_from_slice(hidden);
        match &self.weights {
            LayerWeights::Packed(arch, format, packed) => {
                let shape = SequenceShape { cell, batch_size: streams, seq_len: 1, input_size, hidden_size };
                let mut cells_before = engine.scratch(cell_state.len());
                cells_before.copy_from_slice(cell_state);
                let options = SequenceOptions::default();
                let state = Given { input, hidden: &before, recalled: &before, cell_state: &cells_before, options };
                let written = Written { output: Some(hidden), last_hidden: None, last_cell_state: cell_state };
                let batch = Batch::new(shape, Direction::Forward, None);
                with_cell!(cell, C => {
                    let plan = Plan::with::<C>(*arch, *format, shape);
                    with_encoding!(*format, E => {
                        let weights = (packed.packed(), None);
                        TimeLoop::<C, E>::run(engine, plan, &batch, 0..1, weights, state, written, None);
                    });
                });
            }
            LayerWeights::Int8 { weight_ih, weight_hh, bias } => {
                let layer = Int8Layer { weight_ih, weight_hh, bias, hidden_size };
                with_cell!(cell, C => layer.step::<C>(engine, (input, &before), hidden, cell_state));
            }
        }
    }
}

/// A layer whose weights are kept in rows of eight bits.
struct Int8Layer<'a> {
    weight_ih: &'a Int8Panels,
    weight_hh: &'a Int8Panels,
    bias: &'a [f32],
    hidden_size: usize,
}

impl Int8Layer<'_> {
    fn step<C: Step>(
        &self,
        engine: &Engine,
        (input, before): (Input, &[f32]),
        hidden: &mut [f32],
        cell_state: &mut [f32],
    ) {
        let hidden_size = self.hidden_size;
        let streams = hidden.len() / hidden_size;
        let (features, input_size) = match input {
            Input::Features(features) => (Rounded::new(engine, features, streams), features.len() / streams),
            Input::Tokens { .. } => (Rounded::new(engine, &[], 0), 0),
        };
        let states = Rounded::new(engine, before, streams);
        let has_cell_state = !cell_state.is_empty();
        let (hidden, cell_state) = (SharedSlice::new(hidden), SharedSlice::new(cell_state));
        let blocks = hidden_size.div_ceil(ROWS);
        let flops = 2 * C::GATES * hidden_size * (input_size + hidden_size) * streams;
        engine.run(engine.members_for_flops(flops).min(blocks), |member| {
            let mut lanes = Lanes::new();
            for block in member.share(blocks) {
                let units = block * ROWS..((block + 1) * ROWS).min(hidden_size);
                for first in (0..streams).step_by(VECTORS) {
                    let rows = first..(first + VECTORS).min(streams);
                    for (sum, lanes) in lanes.sums.iter_mut().enumerate().take(C::SUMS) {
                        for to in lanes.as_chunks_mut::<ROWS>().0.iter_mut().take(rows.len()) {
                            to[..units.len()].copy_from_slice(&self.bias[sum * hidden_size..][units.clone()]);
                        }
                    }
                    for gate in 0..C::GATES {
                        let of_input = match input {
                            Input::Features(_) => self.weight_ih.dots(engine, &features, first, (gate, block)),
                            Input::Tokens { products, tokens } => {
                                let mut dots = [[0.0; ROWS]; VECTORS];
                                for (dots, &token) in dots.iter_mut().zip(&tokens[rows.clone()]) {
                                    let start = (token as usize * C::GATES + gate) * hidden_size;
                                    dots[..units.len()].copy_from_slice(&products[start..][units.clone()]);
                                }
                                dots
                            }
                        };
                        let of_states = C::RECURRENT_SUMS
                            .get(gate)
                            .map(|&sum| (sum, self.weight_hh.dots(engine, &states, first, (gate, block))));
                        for (sum, dots) in std::iter::once((gate, of_input)).chain(of_states) {
                            let to = lanes.sums[sum].as_chunks_mut::<ROWS>().0;
                            for (to, dots) in to.iter_mut().zip(dots).take(rows.len()) {
                                *to = sum_of(*to, dots);
                            }
                        }
                    }
                    for (i, row) in rows.clone().enumerate() {
                        let start = row * hidden_size + units.start;
                        // SAFETY: each unit belongs to one member.
                        let cell_state = || unsafe { cell_state.part(start, units.len()) };
                        let state = if has_cell_state { cell_state() } else { &before[start..start + units.len()] };
                        lanes.state[i * ROWS..][..units.len()].copy_from_slice(state);
                    }
                    engine.kernel(StepLanes::<C> { lanes: &mut lanes, count: rows.len() * ROWS, cell: PhantomData });
                    for (i, row) in rows.enumerate() {
                        let start = row * hidden_size + units.start;
                        // SAFETY: as above.
                        unsafe {
                            let from = &lanes.hidden[i * ROWS..][..units.len()];
                            hidden.part_mut(start, units.len()).copy_from_slice(from);
                            if has_cell_state {
                                let from = &lanes.state[i * ROWS..][..units.len()];
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
