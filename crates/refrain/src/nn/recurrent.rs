//! What all recurrent layers share: their state, and the way into the fused operation.

use burn::backend::Dispatch;
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use refrain_kernels::{Cell, Engine, Precision, StepWeights, WeightFormat};

use super::fused::{CellState, FusedOps, RecurrentSequence};

/// What a recurrent layer remembers between steps.
#[derive(Clone, Debug)]
pub struct RecurrentState {
    /// `h`: `[batch_size, hidden_size]`.
    pub hidden: Tensor<2>,
    /// `c` of an [`Lstm`](super::Lstm): `[batch_size, hidden_size]`; the other layers have none.
    pub cell_state: Option<Tensor<2>>,
}

impl RecurrentState {
    /// The state before the first step.
    pub fn zeros(cell: Cell, batch_size: usize, hidden_size: usize, device: &Device) -> Self {
        let hidden = Tensor::zeros([batch_size, hidden_size], device);
        Self { cell_state: cell.has_cell_state().then(|| hidden.clone()), hidden }
    }

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
    pub(super) weight_ih: &'a Param<Tensor<2>>,
    pub(super) weight_hh: &'a Param<Tensor<2>>,
    pub(super) bias: &'a Param<Tensor<1>>,
}

impl RecurrentLayer<'_> {
    /// As [`Layer::step_weights`](super::Layer::step_weights).
    pub(super) fn step_weights(self, format: WeightFormat, embedding: Option<&[f32]>) -> StepWeights {
        let [_, hidden_size] = self.weight_hh.dims();
        let weights = [values(self.weight_ih.val()), values(self.weight_hh.val()), values(self.bias.val())];
        let weights = weights.each_ref().map(Vec::as_slice);
        let engine = Engine::current();
        match embedding {
            None => StepWeights::new(&engine, format, self.cell, weights, hidden_size),
            Some(embedding) => StepWeights::for_tokens(&engine, format, self.cell, weights, hidden_size, embedding),
        }
    }

    /// Shapes and panics as every layer's `forward` documents them.
    pub(super) fn forward(self, input: Tensor<3>, state: Option<RecurrentState>) -> (Tensor<3>, RecurrentState) {
        let Self { cell, precision, .. } = self;
        let [batch_size, seq_len, input_size] = input.dims();
        let weight_ih = self.weight_ih.val();
        let [_, hidden_size] = self.weight_hh.dims();
        assert!(
            weight_ih.dims()[1] == input_size,
            "{cell:?} input is [{batch_size}, {seq_len}, {input_size}] but weight_ih is {:?}",
            weight_ih.dims()
        );
        let state = state.unwrap_or_else(|| RecurrentState::zeros(cell, batch_size, hidden_size, &input.device()));
        let RecurrentState { hidden, cell_state } = state;
        let needed = [batch_size, hidden_size];
        let cell_state_dims = cell_state.as_ref().map(Tensor::dims);
        assert!(
            hidden.dims() == needed && cell_state_dims == cell.has_cell_state().then_some(needed),
            "{cell:?} state is {:?} with a cell state {cell_state_dims:?} but the layer needs {needed:?}",
            hidden.dims()
        );
        let (output, cell_state) = <Dispatch as FusedOps>::recurrent_sequence(RecurrentSequence {
            cell,
            precision,
            input: input.into_dispatch(),
            weight_ih: weight_ih.into_dispatch(),
            weight_hh: self.weight_hh.val().into_dispatch(),
            bias: self.bias.val().into_dispatch(),
            hidden: hidden.clone().into_dispatch(),
            cell_state: CellState::from(cell_state.map(Tensor::into_dispatch)),
        });
        let output: Tensor<3> = Tensor::from_dispatch(output);
        let hidden = match seq_len {
            0 => hidden,
            _ => output.clone().slice([0..batch_size, seq_len - 1..seq_len]).reshape(needed),
        };
        (output, RecurrentState { hidden, cell_state: cell_state.map(Tensor::from_dispatch) })
    }
}
