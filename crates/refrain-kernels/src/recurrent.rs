//! Whole sequences of recurrent layers, forward and backward, with the gates fused into the product.
//!
//! One step of each cell, with `σ` the sigmoid and `∘` the element-wise product; gates in PyTorch's order:
//!
//! ```text
//! LSTM  i = σ(W_i x + U_i h + b_i)        GRU  r = σ(W_r x + U_r h + b_r)
//!       f = σ(W_f x + U_f h + b_f)             z = σ(W_z x + U_z h + b_z)
//!       g = tanh(W_g x + U_g h + b_g)          n = tanh(W_n x + b_n + r ∘ (U_n h + b_m))
//!       o = σ(W_o x + U_o h + b_o)             h' = (1 - z) ∘ n + z ∘ h
//!       c' = f ∘ c + i ∘ g
//!       h' = o ∘ tanh(c')                 RNN  h' = tanh(W x + U h + b), or max(0, …)
//! ```
//!
//! The minimal GRU leaves the state out of its gate and candidate, so that all that depends on the input is one product over
//! many steps, and what is left of a step is element by element:
//!
//! ```text
//! z = σ(W_z x + b_z)      h' = (1 - z) ∘ h + z ∘ (W_h x + b_h)
//! ```
//!
//! LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. GRU: Cho et al. 2014, with the reset gate
//! after the product as in cuDNN and PyTorch. RNN: Elman 1990; with the rectifier, Le et al. 2015. Minimal GRU: Feng et al. 2024.

mod backward;
mod backward_plan;
mod batch;
mod cell;
mod forward;
mod gates;
mod gru;
mod int8;
mod int8_panels;
mod lanes;
mod lstm;
mod min_gru;
mod options;
mod packed_layer;
mod phased;
mod plan;
mod rnn;
mod scan;
mod segments;
mod step;
mod step_back;
mod stepper;
mod variant;

use crate::arch::Isa;
use crate::engine::Engine;
use crate::format::Precision;
use crate::shape::elements;
use batch::Batch;
use cell::Step;
pub use gates::{SequenceGates, sequence_gates};
pub use int8::Int8Matrix;
pub use options::{Dropped, Events, SequenceOptions, Zoneout};
use plan::Plan;
use segments::TraceBlocks;
pub use stepper::{StepInput, StepMatrix, StepWeights, WeightFormat};

/// A recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Long short-term memory.
    Lstm,
    /// Long short-term memory whose input gate is what the forget gate leaves (Greff et al. 2017).
    CoupledLstm,
    /// Gated recurrent unit.
    Gru,
    /// Minimal gated recurrent unit, whose state enters no product.
    MinGru,
    /// Simple recurrence with tanh.
    RnnTanh,
    /// Simple recurrence with the rectifier.
    RnnRelu,
}

impl Cell {
    /// All cells.
    pub const ALL: [Self; 6] = [Self::Lstm, Self::CoupledLstm, Self::Gru, Self::MinGru, Self::RnnTanh, Self::RnnRelu];

    /// Gates, the blocks of `hidden_size` rows in the weight of the input: 1 to 4.
    pub const fn num_gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::CoupledLstm | Self::Gru => 3,
            Self::MinGru => 2,
            Self::RnnTanh | Self::RnnRelu => 1,
        }
    }

    /// Gates that the state enters, the blocks of `hidden_size` rows in the recurrent weight: all or none.
    pub const fn num_recurrent_gates(self) -> usize {
        match self {
            Self::MinGru => 0,
            _ => self.num_gates(),
        }
    }

    /// Blocks of `hidden_size` in the bias: one a gate, and for the GRU a fourth, that of `U_n h`.
    pub const fn num_biases(self) -> usize {
        match self {
            Self::Lstm | Self::Gru => 4,
            Self::CoupledLstm => 3,
            Self::MinGru => 2,
            Self::RnnTanh | Self::RnnRelu => 1,
        }
    }

    /// Whether a cell state runs beside the hidden state.
    pub const fn has_cell_state(self) -> bool {
        matches!(self, Self::Lstm | Self::CoupledLstm)
    }

    /// Whether a candidate enters the state beside what stays of it.
    pub const fn has_candidate(self) -> bool {
        matches!(self, Self::Lstm | Self::CoupledLstm | Self::Gru | Self::MinGru)
    }
}

/// The cell and the sizes of a layer and its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceShape {
    /// The cell.
    pub cell: Cell,
    /// Sequences side by side, B.
    pub batch_size: usize,
    /// Time steps, T.
    pub seq_len: usize,
    /// Features of the input, I.
    pub input_size: usize,
    /// Hidden units, H.
    pub hidden_size: usize,
}

/// Which way a layer goes over its sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first step on.
    #[default]
    Forward,
    /// From each sequence's last step back.
    Backward,
}

/// What a layer reads. The hidden state is of `state_size` units: `hidden_size`, or those of a projection.
#[derive(Clone, Copy, Debug)]
pub struct SequenceInputs<'a> {
    /// `[batch_size, seq_len, input_size]`
    pub input: &'a [f32],
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: &'a [f32],
    /// `[num_recurrent_gates * hidden_size, state_size]`
    pub weight_hh: &'a [f32],
    /// `[num_biases * hidden_size]`
    pub bias: &'a [f32],
    /// The hidden state before the first step, `[batch_size, state_size]`.
    pub hidden: &'a [f32],
    /// The cell state before the first step, `[batch_size, hidden_size]`; empty for a cell without one.
    pub cell_state: &'a [f32],
    /// The steps of each sequence, `[batch_size]`, in any order, 0 allowed; `None` where all are as long as the input.
    pub lengths: Option<&'a [usize]>,
    /// Which way it goes; "after" and "last" are meant that way.
    pub direction: Direction,
    /// What it does beyond its plain equations.
    pub options: SequenceOptions<'a>,
    /// What its products are beyond the plain ones.
    pub variant: SequenceVariant<'a>,
}

/// What a layer writes.
#[derive(Debug)]
pub struct SequenceOutputs<'a> {
    /// The hidden state after each step, `[batch_size, seq_len, state_size]`; zeros after a sequence's end.
    pub output: &'a mut [f32],
    /// The hidden state after each sequence's last step, `[batch_size, state_size]`; of one without steps, that before.
    pub last_hidden: &'a mut [f32],
    /// The cell state after each sequence's last step, `[batch_size, hidden_size]`; empty for a cell without one.
    pub last_cell_state: &'a mut [f32],
}

/// Rows that may be part of wider ones, such as one direction's half of both directions' outputs.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// From the first row's first element to the last one's last, at least.
    pub values: &'a [f32],
    /// Elements from the start of a row to that of the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `len` that lie one after another.
    pub fn dense(values: &'a [f32], len: usize) -> Self {
        Self { values, stride: len }
    }

    /// The same rows without their first elements.
    fn from(self, column: usize) -> Self {
        Self { values: self.values.get(column..).unwrap_or_default(), ..self }
    }

    /// The first `len` elements of a row.
    #[inline(always)]
    fn row(self, row: usize, len: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..len]
    }

    fn check(self, name: &str, [rows, len]: [usize; 2]) {
        let needed = if rows * len == 0 { 0 } else { (rows - 1) * self.stride + len };
        let (found, stride) = (self.values.len(), self.stride);
        let fits = found >= needed && (stride > len || stride == len && found == needed);
        assert!(fits, "{name} must be {rows} rows of {len}, {needed} elements in strides of {stride}, not {found}");
    }
}

/// The loss's gradients with respect to what the layer wrote; `None` is zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputGradients<'a> {
    /// `[batch_size * seq_len, state_size]`
    pub output: Option<Rows<'a>>,
    /// `[batch_size, state_size]`
    pub last_hidden: Option<&'a [f32]>,
    /// `[batch_size, hidden_size]`; `None` for a cell without a cell state.
    pub last_cell_state: Option<&'a [f32]>,
}

/// The loss's gradients with respect to what the layer read, overwritten; `None` is not computed.
#[derive(Debug, Default)]
pub struct SequenceGradients<'a> {
    /// `[batch_size, seq_len, input_size]`
    pub input: Option<&'a mut [f32]>,
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: Option<&'a mut [f32]>,
    /// `[num_recurrent_gates * hidden_size, state_size]`
    pub weight_hh: Option<&'a mut [f32]>,
    /// `[num_biases * hidden_size]`
    pub bias: Option<&'a mut [f32]>,
    /// `[batch_size, state_size]`
    pub hidden: Option<&'a mut [f32]>,
    /// `[batch_size, hidden_size]`; `None` for a cell without a cell state.
    pub cell_state: Option<&'a mut [f32]>,
    /// `[3 * hidden_size]`; `None` where there are no peepholes.
    pub peepholes: Option<&'a mut [f32]>,
    /// `[projection_size, hidden_size]`; `None` where there is no projection.
    pub projection: Option<&'a mut [f32]>,
    /// Of the gains of normalised sums of the input, `[num_gates * hidden_size]`; `None` where there are none.
    pub gain_ih: Option<&'a mut [f32]>,
    /// Of those of the state, `[num_recurrent_gates * hidden_size]`.
    pub gain_hh: Option<&'a mut [f32]>,
    /// Of the gain and the bias of the normalised cell state, `[2 * hidden_size]`.
    pub norm_cell_state: Option<&'a mut [f32]>,
}

/// How much of the forward pass is kept for the way back. The gradients are the same to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// All of it.
    #[default]
    All,
    /// The states at every so many steps, rounded up to the steps that the backward pass takes at once; what lies between is
    /// computed again (Chen et al. 2016).
    Every(usize),
    /// The same, at about every √T-th of the T steps of the longest sequence.
    SquareRoot,
}

/// What the backward pass needs from the forward pass. Its memory is used again once it is dropped.
#[derive(Debug)]
pub struct SequenceTrace {
    memory: Memory,
    /// All steps, or none where not all is kept; where a step has several phases, their records.
    blocks: TraceBlocks,
    /// Where not all is kept, the cell states before each segment.
    cell_states: Vec<f32>,
    /// Where sequences are [cut](scan), the hidden state before each piece.
    before_segments: Vec<f32>,
    made_for: MadeFor,
}

/// What the two passes must have in common: by these the steps are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MadeFor {
    shape: SequenceShape,
    isa: Isa,
    precision: Precision,
    direction: Direction,
    lengths: Option<Vec<usize>>,
    /// Units of the hidden state, whether sums and the cell state are normalised, and where the reset gate comes.
    variant: (usize, [bool; 2], ResetGate),
}

impl MadeFor {
    fn new(engine: &Engine, precision: Precision, shape: SequenceShape, inputs: &SequenceInputs) -> Self {
        let lengths = inputs.lengths.map(<[usize]>::to_vec);
        let SequenceVariant { norms, reset, .. } = inputs.variant;
        let normalised = [norms.is_some(), norms.is_some_and(|norms| norms.cell_state.is_some())];
        let variant = (inputs.variant.state_size(shape.hidden_size), normalised, reset);
        Self { shape, isa: engine.isa(), precision, direction: inputs.direction, lengths, variant }
    }
}

impl SequenceTrace {
    fn new<C: Step>(
        engine: &Engine,
        precision: Precision,
        shape: SequenceShape,
        memory: Memory,
        inputs: &SequenceInputs,
    ) -> Self {
        let blocks = if inputs.variant.is_plain() {
            let shape = scan::segments::<C>(engine, precision, shape, inputs).map_or(shape, |(shape, _)| shape);
            let steps = if memory == Memory::All { shape.seq_len } else { 0 };
            TraceBlocks::new::<C>(engine, &Plan::new::<C>(engine, precision, shape), steps)
        } else {
            let records =
                if memory == Memory::All { phased::kept_len::<C>(engine, precision, shape, inputs) } else { 0 };
            TraceBlocks::records(engine, records)
        };
        let made_for = MadeFor::new(engine, precision, shape, inputs);
        Self { memory, blocks, cell_states: Vec::new(), before_segments: Vec::new(), made_for }
    }
}

/// Calls a function that is generic over the cell.
macro_rules! with_cell {
    ($cell:expr, $step:ident => $call:expr) => {
        match $cell {
            Cell::Lstm => {
                type $step = lstm::Lstm;
                $call
            }
            Cell::CoupledLstm => {
                type $step = lstm::CoupledLstm;
                $call
            }
            Cell::Gru => {
                type $step = gru::Gru;
                $call
            }
            Cell::MinGru => {
                type $step = min_gru::MinGru;
                $call
            }
            Cell::RnnTanh => {
                type $step = rnn::RnnTanh;
                $call
            }
            Cell::RnnRelu => {
                type $step = rnn::RnnRelu;
                $call
            }
        }
    };
}
pub use variant::{NormGains, ResetGate, SequenceVariant};
use with_cell;

/// Runs a layer over whole sequences, for inference.
///
/// # Shapes
///
/// See the fields of [`SequenceInputs`] and [`SequenceOutputs`].
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn sequence_forward(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: SequenceInputs,
    outputs: SequenceOutputs,
) {
    shape.check_inputs(&inputs);
    shape.check_outputs(&inputs, &outputs);
    with_cell!(shape.cell, C => run::<C>(engine, precision, shape, &inputs, outputs, None));
}

/// Runs a layer forward; `trace` is filled when there is one.
fn run<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
    outputs: SequenceOutputs,
    trace: Option<&mut SequenceTrace>,
) {
    if !inputs.variant.is_plain() {
        phased::forward::<C>(engine, precision, shape, inputs, outputs, trace);
    } else if let Some((shape, batch)) = scan::segments::<C>(engine, precision, shape, inputs) {
        scan::forward::<C>(engine, precision, (shape, &batch), inputs, outputs, trace);
    } else {
        let batch = Batch::new(shape, inputs.direction, inputs.lengths);
        forward::forward::<C>(engine, precision, (shape, &batch), inputs, outputs, trace);
    }
}

/// Runs a layer over whole sequences and keeps what [`sequence_backward`] needs, or as much of it as `memory` says.
///
/// # Shapes
///
/// See the fields of [`SequenceInputs`] and [`SequenceOutputs`].
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn sequence_forward_traced(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    memory: Memory,
    inputs: SequenceInputs,
    outputs: SequenceOutputs,
) -> SequenceTrace {
    shape.check_inputs(&inputs);
    shape.check_outputs(&inputs, &outputs);
    with_cell!(shape.cell, C => {
        let mut trace = SequenceTrace::new::<C>(engine, precision, shape, memory, &inputs);
        run::<C>(engine, precision, shape, &inputs, outputs, Some(&mut trace));
        trace
    })
}

/// The gradients of a layer, given its inputs, its output, the trace of [`sequence_forward_traced`] and the gradients `grad`
/// of what it wrote.
///
/// # Shapes
///
/// `output` `[batch_size, seq_len, state_size]`; else see the fields of the arguments.
///
/// # Panics
///
/// When a slice does not have its shape, or the trace is of another shape, instruction set, precision, direction or lengths. That the options are
/// those of the forward pass is not checked.
#[expect(clippy::too_many_arguments, reason = "the arguments of the forward pass, and what it and the loss gave")]
pub fn sequence_backward(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: SequenceInputs,
    output: &[f32],
    trace: &SequenceTrace,
    grad: OutputGradients,
    out: SequenceGradients,
) {
    shape.check_inputs(&inputs);
    shape.check_backward(&inputs, output, &grad, &out);
    assert_eq!(trace.made_for, MadeFor::new(engine, precision, shape, &inputs), "the trace is of another pass");
    let batch = Batch::new(shape, inputs.direction, inputs.lengths);
    if batch.steps() == 0 || shape.states() == 0 {
        no_steps(grad, out);
    } else if inputs.variant.is_plain() {
        with_cell!(shape.cell, C => match scan::segments::<C>(engine, precision, shape, &inputs) {
            Some((shape, batch)) => {
                scan::backward::<C>(engine, precision, (shape, &batch), &inputs, output, trace, grad, out);
            }
            None => backward::backward::<C>(engine, precision, (shape, &batch), &inputs, output, trace, grad, out),
        });
    } else {
        let layer = (precision, shape, &batch);
        with_cell!(shape.cell, C => phased::backward::<C>(engine, layer, &inputs, (output, trace), grad, out));
    }
}

/// Without steps the states pass through and nothing else matters.
fn no_steps(grad: OutputGradients, out: SequenceGradients) {
    let SequenceGradients { input, weight_ih, weight_hh, bias, peepholes, projection, gain_ih, gain_hh, .. } = out;
    let zeros = [input, weight_ih, weight_hh, bias, peepholes, projection, gain_ih, gain_hh, out.norm_cell_state];
    zeros.into_iter().flatten().for_each(|zero| zero.fill(0.0));
    for (state, grad) in [(out.hidden, grad.last_hidden), (out.cell_state, grad.last_cell_state)] {
        match (state, grad) {
            (Some(state), Some(grad)) => state.copy_from_slice(grad),
            (Some(state), None) => state.fill(0.0),
            (None, _) => {}
        }
    }
}

impl SequenceShape {
    /// Elements of the hidden states of all steps.
    fn states(self) -> usize {
        self.batch_size * self.seq_len * self.hidden_size
    }

    /// The shape of a cell state.
    fn cell_state(self) -> [usize; 2] {
        [self.batch_size, if self.cell.has_cell_state() { self.hidden_size } else { 0 }]
    }

    fn check(self, name: &str, len: usize, expected: &[usize]) {
        assert_eq!(Some(len), elements(expected), "{name} must be {expected:?} for {self:?}");
    }

    fn check_inputs(self, inputs: &SequenceInputs) {
        let Self { cell, batch_size, seq_len, input_size, hidden_size } = self;
        let gates = cell.num_gates() * hidden_size;
        let recurrent_gates = cell.num_recurrent_gates() * hidden_size;
        inputs.variant.check(self);
        let state_size = inputs.variant.state_size(hidden_size);
        self.check("input", inputs.input.len(), &[batch_size, seq_len, input_size]);
        self.check("weight_ih", inputs.weight_ih.len(), &[gates, input_size]);
        self.check("weight_hh", inputs.weight_hh.len(), &[recurrent_gates, state_size]);
        self.check("bias", inputs.bias.len(), &[cell.num_biases() * hidden_size]);
        self.check("hidden", inputs.hidden.len(), &[batch_size, state_size]);
        self.check("cell_state", inputs.cell_state.len(), &self.cell_state());
        if let Some(lengths) = inputs.lengths {
            self.check("lengths", lengths.len(), &[batch_size]);
            if let Some(row) = lengths.iter().position(|&length| length > seq_len) {
                panic!("sequence {row} is of {} steps but the input has {seq_len}", lengths[row]);
            }
        }
        inputs.options.check(self, state_size);
    }

    fn check_outputs(self, inputs: &SequenceInputs, outputs: &SequenceOutputs) {
        let Self { batch_size, seq_len, .. } = self;
        let state_size = inputs.variant.state_size(self.hidden_size);
        self.check("output", outputs.output.len(), &[batch_size, seq_len, state_size]);
        self.check("last_hidden", outputs.last_hidden.len(), &[batch_size, state_size]);
        self.check("last_cell_state", outputs.last_cell_state.len(), &self.cell_state());
    }

    fn check_backward(self, inputs: &SequenceInputs, output: &[f32], grad: &OutputGradients, out: &SequenceGradients) {
        let Self { cell, batch_size, seq_len, input_size, hidden_size } = self;
        let gates = cell.num_gates() * hidden_size;
        let recurrent_gates = cell.num_recurrent_gates() * hidden_size;
        let state_size = inputs.variant.state_size(hidden_size);
        let sequence = &[batch_size, seq_len, state_size];
        self.check("output", output.len(), sequence);
        let optional = |name, slice: Option<usize>, expected: &[usize]| {
            if let Some(len) = slice {
                self.check(name, len, expected);
            }
        };
        if let Some(output) = grad.output {
            output.check("the gradient of output", [batch_size * seq_len, state_size]);
        }
        let last_hidden = grad.last_hidden.map(<[f32]>::len);
        optional("the gradient of last_hidden", last_hidden, &[batch_size, state_size]);
        optional("the gradient of last_cell_state", grad.last_cell_state.map(<[f32]>::len), &self.cell_state());
        let len = |slice: &Option<&mut [f32]>| slice.as_ref().map(|slice| slice.len());
        optional("the gradient of input", len(&out.input), &[batch_size, seq_len, input_size]);
        optional("the gradient of weight_ih", len(&out.weight_ih), &[gates, input_size]);
        optional("the gradient of weight_hh", len(&out.weight_hh), &[recurrent_gates, state_size]);
        optional("the gradient of bias", len(&out.bias), &[cell.num_biases() * hidden_size]);
        optional("the gradient of hidden", len(&out.hidden), &[batch_size, state_size]);
        optional("the gradient of cell_state", len(&out.cell_state), &self.cell_state());
        optional("the gradient of peepholes", len(&out.peepholes), &[3, hidden_size]);
        let has_peepholes = inputs.options.peepholes.is_some();
        assert!(out.peepholes.is_none() || has_peepholes, "a gradient of peepholes, but there are none");
        let SequenceVariant { projection, norms, .. } = inputs.variant;
        for (name, wanted, present, expected) in [
            ("projection", len(&out.projection), projection.is_some(), [state_size, hidden_size]),
            ("gain_ih", len(&out.gain_ih), norms.is_some(), [cell.num_gates(), hidden_size]),
            ("gain_hh", len(&out.gain_hh), norms.is_some(), [cell.num_recurrent_gates(), hidden_size]),
            (
                "norm_cell_state",
                len(&out.norm_cell_state),
                norms.is_some_and(|norms| norms.cell_state.is_some()),
                [2, hidden_size],
            ),
        ] {
            assert!(wanted.is_none() || present, "a gradient of {name}, but there is none");
            optional(name, wanted, &expected);
        }
    }
}
