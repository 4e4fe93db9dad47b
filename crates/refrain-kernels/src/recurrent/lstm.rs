//! The long short-term memory over a whole sequence.
//!
//! One step, with `σ` the sigmoid and `∘` the element-wise product (Hochreiter & Schmidhuber 1997, with the forget gate of
//! Gers et al. 2000; gates in `PyTorch`'s order):
//!
//! ```text
//! i = σ(W_i x + U_i h + b_i)        c' = f ∘ c + i ∘ g
//! f = σ(W_f x + U_f h + b_f)        h' = o ∘ tanh(c')
//! g = tanh(W_g x + U_g h + b_g)
//! o = σ(W_o x + U_o h + b_o)
//! ```
//!
//! The input's share of all steps is one large product. The recurrence packs `weight_hh` once, with the four gates of a block
//! of units side by side in a panel, so that a tile of the product ends with the new state of those units; one barrier per
//! step. Few rows (generation) read the weights in place instead.

mod backward;
mod forward;
mod gates;
mod stepwise;

use crate::engine::Engine;
use crate::scratch::FreeList;
use crate::shape::elements;

/// The sizes of a layer and its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmShape {
    /// Sequences side by side, B.
    pub batch_size: usize,
    /// Time steps, T.
    pub seq_len: usize,
    /// Features of the input, I.
    pub input_size: usize,
    /// Hidden units, H.
    pub hidden_size: usize,
}

/// What a layer reads.
#[derive(Clone, Copy, Debug)]
pub struct LstmInputs<'a> {
    /// `[batch_size, seq_len, input_size]`
    pub input: &'a [f32],
    /// `[4 * hidden_size, input_size]`, gates i, f, g, o
    pub weight_ih: &'a [f32],
    /// `[4 * hidden_size, hidden_size]`
    pub weight_hh: &'a [f32],
    /// `[4 * hidden_size]`
    pub bias: &'a [f32],
    /// The hidden state before the first step, `[batch_size, hidden_size]`.
    pub hidden: &'a [f32],
    /// The cell state before the first step, `[batch_size, hidden_size]`.
    pub cell_state: &'a [f32],
}

/// What a layer writes.
#[derive(Debug)]
pub struct LstmOutputs<'a> {
    /// The hidden state after each step, `[batch_size, seq_len, hidden_size]`.
    pub output: &'a mut [f32],
    /// The cell state after the last step, `[batch_size, hidden_size]`.
    pub last_cell_state: &'a mut [f32],
}

/// What the backward pass needs from the forward pass. Its memory is used again once it is dropped.
#[derive(Debug)]
pub struct LstmTrace {
    /// The gates after their activations, `[batch_size, seq_len, 4 * hidden_size]`.
    pub gates: Vec<f32>,
    /// The cell state after each step, `[batch_size, seq_len, hidden_size]`.
    pub cell_states: Vec<f32>,
    home: FreeList,
}

impl LstmTrace {
    fn new(engine: &Engine, shape: LstmShape) -> Self {
        let home = engine.free_list().clone();
        Self { gates: home.take(4 * shape.states()), cell_states: home.take(shape.states()), home }
    }
}

impl Drop for LstmTrace {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.gates));
        self.home.give(std::mem::take(&mut self.cell_states));
    }
}

/// The loss's gradients with respect to what the layer wrote; `None` is zero.
///
/// The gradient of the last hidden state belongs into the last step of `output`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LstmOutputGradients<'a> {
    /// `[batch_size, seq_len, hidden_size]`
    pub output: Option<&'a [f32]>,
    /// `[batch_size, hidden_size]`
    pub last_cell_state: Option<&'a [f32]>,
}

/// The loss's gradients with respect to what the layer read, overwritten; `None` is not computed.
#[derive(Debug, Default)]
pub struct LstmGradients<'a> {
    /// `[batch_size, seq_len, input_size]`
    pub input: Option<&'a mut [f32]>,
    /// `[4 * hidden_size, input_size]`
    pub weight_ih: Option<&'a mut [f32]>,
    /// `[4 * hidden_size, hidden_size]`
    pub weight_hh: Option<&'a mut [f32]>,
    /// `[4 * hidden_size]`
    pub bias: Option<&'a mut [f32]>,
    /// `[batch_size, hidden_size]`
    pub hidden: Option<&'a mut [f32]>,
    /// `[batch_size, hidden_size]`
    pub cell_state: Option<&'a mut [f32]>,
}

/// Runs a layer over whole sequences, for inference.
///
/// # Shapes
///
/// See the fields of [`LstmInputs`] and [`LstmOutputs`].
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn lstm_forward(engine: &Engine, shape: LstmShape, inputs: LstmInputs, outputs: LstmOutputs) {
    shape.check_inputs(&inputs);
    shape.check_outputs(&outputs);
    forward::forward(engine, shape, inputs, outputs, None);
}

/// Runs a layer over whole sequences and keeps what [`lstm_backward`] needs.
///
/// # Shapes
///
/// See the fields of [`LstmInputs`], [`LstmOutputs`] and [`LstmTrace`].
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn lstm_forward_traced(engine: &Engine, shape: LstmShape, inputs: LstmInputs, outputs: LstmOutputs) -> LstmTrace {
    shape.check_inputs(&inputs);
    shape.check_outputs(&outputs);
    let mut trace = LstmTrace::new(engine, shape);
    forward::forward(engine, shape, inputs, outputs, Some(&mut trace));
    trace
}

/// The gradients of a layer, given its inputs, its output, the trace of [`lstm_forward_traced`] and the gradients `grad` of
/// what it wrote.
///
/// # Shapes
///
/// `output` `[batch_size, seq_len, hidden_size]`; else see the fields of the arguments.
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn lstm_backward(
    engine: &Engine,
    shape: LstmShape,
    inputs: LstmInputs,
    output: &[f32],
    trace: &LstmTrace,
    grad: LstmOutputGradients,
    out: LstmGradients,
) {
    shape.check_inputs(&inputs);
    shape.check_backward(output, trace, &grad, &out);
    backward::backward(engine, shape, &inputs, output, trace, grad, out);
}

impl LstmShape {
    /// Time steps of all sequences.
    fn rows(self) -> usize {
        self.batch_size * self.seq_len
    }

    /// Elements of the hidden states of all steps.
    fn states(self) -> usize {
        self.rows() * self.hidden_size
    }

    fn check(self, name: &str, len: usize, expected: &[usize]) {
        assert_eq!(Some(len), elements(expected), "{name} must be {expected:?} for {self:?}");
    }

    fn check_inputs(self, inputs: &LstmInputs) {
        let Self { batch_size, seq_len, input_size, hidden_size } = self;
        self.check("input", inputs.input.len(), &[batch_size, seq_len, input_size]);
        self.check("weight_ih", inputs.weight_ih.len(), &[4 * hidden_size, input_size]);
        self.check("weight_hh", inputs.weight_hh.len(), &[4 * hidden_size, hidden_size]);
        self.check("bias", inputs.bias.len(), &[4 * hidden_size]);
        self.check("hidden", inputs.hidden.len(), &[batch_size, hidden_size]);
        self.check("cell_state", inputs.cell_state.len(), &[batch_size, hidden_size]);
    }

    fn check_outputs(self, outputs: &LstmOutputs) {
        let Self { batch_size, seq_len, hidden_size, .. } = self;
        self.check("output", outputs.output.len(), &[batch_size, seq_len, hidden_size]);
        self.check("last_cell_state", outputs.last_cell_state.len(), &[batch_size, hidden_size]);
    }

    fn check_backward(self, output: &[f32], trace: &LstmTrace, grad: &LstmOutputGradients, out: &LstmGradients) {
        let Self { batch_size, seq_len, input_size, hidden_size } = self;
        let sequence = &[batch_size, seq_len, hidden_size];
        let state = &[batch_size, hidden_size];
        self.check("output", output.len(), sequence);
        self.check("the trace's gates", trace.gates.len(), &[batch_size, seq_len, 4 * hidden_size]);
        self.check("the trace's cell_states", trace.cell_states.len(), sequence);
        let optional = |name, slice: Option<usize>, expected: &[usize]| {
            if let Some(len) = slice {
                self.check(name, len, expected);
            }
        };
        optional("the gradient of output", grad.output.map(<[f32]>::len), sequence);
        optional("the gradient of last_cell_state", grad.last_cell_state.map(<[f32]>::len), state);
        let len = |slice: &Option<&mut [f32]>| slice.as_ref().map(|slice| slice.len());
        optional("the gradient of input", len(&out.input), &[batch_size, seq_len, input_size]);
        optional("the gradient of weight_ih", len(&out.weight_ih), &[4 * hidden_size, input_size]);
        optional("the gradient of weight_hh", len(&out.weight_hh), &[4 * hidden_size, hidden_size]);
        optional("the gradient of bias", len(&out.bias), &[4 * hidden_size]);
        optional("the gradient of hidden", len(&out.hidden), state);
        optional("the gradient of cell_state", len(&out.cell_state), state);
    }
}

/// The row stride of a compact state: off powers of two, so that the rows of a tile do not share a cache set.
fn compact_stride(width: usize) -> usize {
    width.next_multiple_of(16) + 16
}
