//! Layers on top of each other.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Dropout, DropoutSchedule, Initializer, Lstm, LstmConfig, LstmState};

/// Configuration of an [`LstmStack`].
#[derive(Clone, Copy, Debug)]
pub struct LstmStackConfig {
    /// The lowest layer; those above it read its hidden units.
    pub layer: LstmConfig,
    /// How many layers.
    pub num_layers: usize,
    /// Dropout between layers, on the way up only (Zaremba et al. 2014).
    pub dropout: f64,
}

impl LstmStackConfig {
    /// Initial layers, from the lowest up.
    pub fn init(&self, init: &mut Initializer<'_>) -> LstmStack {
        let above = LstmConfig { input_size: self.layer.hidden_size, ..self.layer };
        let layers = (0..self.num_layers)
            .map(|index| if index == 0 { self.layer.init(init) } else { above.init(init) })
            .collect();
        LstmStack { layers, dropout: self.dropout }
    }
}

/// LSTM layers, each reading the outputs of the one below, with dropout between them.
#[derive(Module, Debug)]
pub struct LstmStack {
    /// From the lowest up.
    pub layers: Vec<Lstm>,
    /// Dropout between layers.
    dropout: f64,
}

impl LstmStack {
    /// Runs over a whole sequence; `state` has one entry a layer, or is `None` for zeros.
    ///
    /// The places of dropout are numbered from `first_site`, one a layer boundary.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`
    /// - output: `[batch_size, seq_len, hidden_size]`
    ///
    /// # Panics
    /// If the state is not of as many layers, or a shape does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        state: Option<Vec<LstmState>>,
        schedule: Option<DropoutSchedule>,
        first_site: u8,
    ) -> (Tensor<3>, Vec<LstmState>) {
        let states: Vec<Option<LstmState>> = match state {
            Some(state) => state.into_iter().map(Some).collect(),
            None => vec![None; self.layers.len()],
        };
        assert!(
            states.len() == self.layers.len(),
            "the state is of {} layers but the stack has {}",
            states.len(),
            self.layers.len()
        );
        let dropout = Dropout { probability: self.dropout };
        let mut output = input;
        let mut next = Vec::with_capacity(self.layers.len());
        for (index, (layer, state)) in self.layers.iter().zip(states).enumerate() {
            if index > 0 {
                output = dropout.forward(output, schedule, first_site + (index - 1) as u8);
            }
            let (above, state) = layer.forward(output, state);
            output = above;
            next.push(state);
        }
        (output, next)
    }
}
