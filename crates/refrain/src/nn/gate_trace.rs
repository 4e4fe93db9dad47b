//! The gates made visible.

use burn::tensor::{Tensor, TensorData};
use refrain_kernels::{Engine, SequenceGates, sequence_gates};

use super::fused::sequence_on_host;
use super::recurrent::{Pass, RecurrentLayer};

/// What a layer did at every step, in inference: each tensor `[batch_size, seq_len, hidden_size]`, zeros after a sequence's end.
#[derive(Clone, Debug)]
pub struct GateTrace {
    /// The hidden state after each step; of a projected layer, `[batch_size, seq_len, projection_size]`.
    pub hidden: Tensor<3>,
    /// The cell state after each step, of an LSTM.
    pub cell_state: Option<Tensor<3>>,
    /// The gates and the candidate by name, in the order of the weights: `input`, `forget`, `candidate`, `output` of an LSTM; `reset`,
    /// `update`, `candidate` of a GRU; without `input` where it is coupled, without `reset` in a minimal GRU; none of a simple
    /// recurrence.
    pub gates: Vec<(&'static str, Tensor<3>)>,
}

impl GateTrace {
    /// A gate by name.
    pub fn gate(&self, name: &str) -> Option<&Tensor<3>> {
        self.gates.iter().find(|(of, _)| *of == name).map(|(_, gate)| gate)
    }
}

impl RecurrentLayer<'_> {
    /// As [`Layer::gates`](super::Layer::gates).
    pub(super) fn gates(self, pass: Pass<'_>) -> GateTrace {
        let device = pass.input.device();
        let [batch_size, seq_len, _] = pass.input.dims();
        let [_, hidden_size] = self.sizes();
        let (precision, state_size) = (self.precision, self.state_size());
        let sequence = self.sequence(pass);
        let found =
            sequence_on_host(sequence, |shape, inputs| sequence_gates(&Engine::current(), precision, shape, inputs));
        let of = |values, size| Tensor::from_data(TensorData::new(values, [batch_size, seq_len, size]), &device);
        let tensor = |values| of(values, hidden_size);
        let SequenceGates { hidden, cell_state, gates } = found;
        GateTrace {
            hidden: of(hidden, state_size),
            cell_state: cell_state.map(tensor),
            gates: gates.into_iter().map(|(name, values)| (name, tensor(values))).collect(),
        }
    }
}
