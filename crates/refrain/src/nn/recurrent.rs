//! What all recurrent layers share: their state, and the way into the fused operation.

use burn::backend::Dispatch;
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use refrain_kernels::{Cell, Direction, Engine, Precision, ResetGate, StepWeights, WeightFormat};

use super::fused::{FusedOps, OptionalTensor, RecurrentSequence, RecurrentSpec};
use super::{DropoutSchedule, LayerNorms, RecurrentOptions, dropout, padding};

/// What a recurrent layer remembers between steps.
#[derive(Clone, Debug)]
pub struct RecurrentState {
    /// `h`: `[batch_size, output_size]`, with a projection fewer than the hidden units.
    pub hidden: Tensor<2>,
    /// `c` of an [`Lstm`](super::Lstm): `[batch_size, hidden_size]`; the other layers have none.
    pub cell_state: Option<Tensor<2>>,
}

impl RecurrentState {
    /// The same numbers as constants: no gradient flows into the steps before them.
    #[must_use]
    pub fn detach(self) -> Self {
        Self { hidden: self.hidden.detach(), cell_state: self.cell_state.map(Tensor::detach) }
    }
}

/// A tensor's numbers.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("parameters and states are f32")
}

/// A layer of any cell, borrowed from the module that owns its parameters.
pub(super) struct RecurrentLayer<'a> {
    pub(super) cell: Cell,
    pub(super) precision: Precision,
    pub(super) options: RecurrentOptions,
    pub(super) weight_ih: &'a Param<Tensor<2>>,
    /// Where the state enters a product.
    pub(super) weight_hh: Option<&'a Param<Tensor<2>>>,
    pub(super) bias: &'a Param<Tensor<1>>,
    pub(super) variant: Variant<'a>,
}

/// What not every cell or layer has.
#[derive(Clone, Copy, Default)]
pub(super) struct Variant<'a> {
    pub(super) reset: ResetGate,
    pub(super) peepholes: Option<&'a Param<Tensor<1>>>,
    pub(super) projection: Option<&'a Param<Tensor<2>>>,
    pub(super) norms: Option<&'a LayerNorms>,
}

impl Variant<'_> {
    /// Whether a step is one product and its gates.
    fn steps_plainly(&self) -> bool {
        self.reset == ResetGate::AfterProduct && self.projection.is_none() && self.norms.is_none()
    }
}

/// What a pass over whole sequences reads beside the weights.
pub(super) struct Pass<'a> {
    pub(super) direction: Direction,
    pub(super) input: Tensor<3>,
    pub(super) lengths: Option<&'a [usize]>,
    pub(super) state: Option<RecurrentState>,
    pub(super) schedule: Option<DropoutSchedule>,
}

impl RecurrentLayer<'_> {
    /// As [`Layer::has_step_weights`](super::Layer::has_step_weights).
    pub(super) fn has_step_weights(&self) -> bool {
        self.variant.peepholes.is_none() && self.variant.steps_plainly() && self.options.steps_plainly()
    }

    /// As [`Layer::num_step_weights`](super::Layer::num_step_weights).
    pub(super) fn num_step_weights(&self) -> usize {
        let matrices = [Some(self.weight_ih), self.weight_hh, self.variant.projection];
        matrices.into_iter().flatten().map(|matrix| matrix.dims().iter().product::<usize>()).sum()
    }

    /// As [`Layer::step_weights`](super::Layer::step_weights).
    pub(super) fn step_weights(self, format: WeightFormat, embedding: Option<&[f32]>) -> StepWeights {
        let [_, hidden_size] = self.sizes();
        assert!(
            self.has_step_weights(),
            "{:?} layers with peepholes, a projection, normalised sums, zoneout or the reset gate before the product have no \
             stepper",
            self.cell
        );
        let weights = [values(self.weight_ih.val()), values(self.weight_hh()), values(self.bias.val())];
        let weights = weights.each_ref().map(Vec::as_slice);
        let engine = Engine::current();
        match embedding {
            None => StepWeights::new(&engine, format, self.cell, weights, hidden_size),
            Some(embedding) => StepWeights::for_tokens(&engine, format, self.cell, weights, hidden_size, embedding),
        }
    }

    /// `[input_size, hidden_size]`.
    pub(super) fn sizes(&self) -> [usize; 2] {
        let ([_, input_size], [biases]) = (self.weight_ih.dims(), self.bias.dims());
        [input_size, biases / self.cell.num_biases()]
    }

    /// Units of the hidden state.
    pub(super) fn state_size(&self) -> usize {
        let [_, hidden_size] = self.sizes();
        self.variant.projection.map_or(hidden_size, |projection| projection.dims()[0])
    }

    /// The state before the first step.
    pub(super) fn zero_state(&self, batch_size: usize, device: &Device) -> RecurrentState {
        let [_, hidden_size] = self.sizes();
        let zeros = |size| Tensor::zeros([batch_size, size], device);
        let cell_state = self.cell.has_cell_state().then(|| zeros(hidden_size));
        RecurrentState { hidden: zeros(self.state_size()), cell_state }
    }

    /// `[num_recurrent_gates * hidden_size, hidden_size]`, without rows where the state enters no product.
    fn weight_hh(&self) -> Tensor<2> {
        let [_, hidden_size] = self.sizes();
        match self.weight_hh {
            Some(weight_hh) => weight_hh.val(),
            None => Tensor::zeros([0, hidden_size], &self.weight_ih.val().device()),
        }
    }

    /// Shapes and panics as every layer's `forward` documents them.
    pub(super) fn forward(self, pass: Pass<'_>) -> (Tensor<3>, RecurrentState) {
        let (output, hidden, cell_state) = <Dispatch as FusedOps>::recurrent_sequence(self.sequence(pass));
        let cell_state = cell_state.map(Tensor::from_dispatch);
        (Tensor::from_dispatch(output), RecurrentState { hidden: Tensor::from_dispatch(hidden), cell_state })
    }

    /// The layer and what it reads, as the fused operation takes it.
    pub(super) fn sequence(self, pass: Pass<'_>) -> RecurrentSequence<Dispatch> {
        let Self { cell, precision, options, .. } = self;
        let Pass { direction, input, lengths, state, schedule } = pass;
        let [batch_size, seq_len, input_size] = input.dims();
        let [expected, hidden_size] = self.sizes();
        assert!(
            input_size == expected,
            "{cell:?} input is [{batch_size}, {seq_len}, {input_size}] but weight_ih is {:?}",
            self.weight_ih.dims()
        );
        if let Some(lengths) = lengths {
            padding::check(lengths, batch_size, seq_len);
        }
        let state_size = self.state_size();
        let state = state.unwrap_or_else(|| self.zero_state(batch_size, &input.device()));
        let RecurrentState { hidden, cell_state } = state;
        let needed = [batch_size, state_size];
        let cell_state_dims = cell_state.as_ref().map(Tensor::dims);
        assert!(
            hidden.dims() == needed && cell_state_dims == cell.has_cell_state().then_some([batch_size, hidden_size]),
            "{cell:?} state is {:?} with a cell state {cell_state_dims:?} but the layer needs {needed:?}",
            hidden.dims()
        );
        let input = match options.input_mask(schedule) {
            Some((key, probability)) => dropout::variational(input, key, probability),
            None => input,
        };
        let weight_hh = match options.weight_mask(schedule) {
            Some((key, probability)) => dropout::keyed(self.weight_hh(), key, probability),
            None => self.weight_hh(),
        };
        RecurrentSequence {
            spec: RecurrentSpec {
                cell,
                precision,
                direction,
                memory: options.memory,
                lengths: lengths.map(Into::into),
                masks: options.step_masks(schedule, [batch_size, seq_len], [hidden_size, state_size]),
                reset: self.variant.reset,
            },
            input: input.into_dispatch(),
            weight_ih: self.weight_ih.val().into_dispatch(),
            weight_hh: weight_hh.into_dispatch(),
            bias: self.bias.val().into_dispatch(),
            hidden: hidden.into_dispatch(),
            cell_state: OptionalTensor::from(cell_state.map(Tensor::into_dispatch)),
            peepholes: optional(self.variant.peepholes),
            projection: optional(self.variant.projection),
            gain_ih: optional(self.variant.norms.map(|norms| &norms.gain_ih)),
            gain_hh: optional(self.variant.norms.map(|norms| &norms.gain_hh)),
            norm_cell_state: optional(self.variant.norms.and_then(|norms| norms.cell_state.as_ref())),
        }
    }
}

fn optional<const D: usize>(param: Option<&Param<Tensor<D>>>) -> OptionalTensor<Dispatch> {
    OptionalTensor::from(param.map(|param| param.val().into_dispatch()))
}
