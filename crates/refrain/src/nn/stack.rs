//! Layers on top of each other.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use refrain_kernels::{StepWeights, WeightFormat};

use super::recurrent::RecurrentLayer;
use super::{Dropout, DropoutSchedule, Gru, GruConfig, Initializer, Lstm, LstmConfig, RecurrentState, Rnn, RnnConfig};

/// Configuration of a [`Layer`].
#[derive(Clone, Copy, Debug)]
pub enum LayerConfig {
    /// Of an [`Lstm`].
    Lstm(LstmConfig),
    /// Of a [`Gru`].
    Gru(GruConfig),
    /// Of an [`Rnn`].
    Rnn(RnnConfig),
}

/// A recurrent layer of any cell.
#[derive(Module, Debug)]
pub enum Layer {
    /// Long short-term memory.
    Lstm(Lstm),
    /// Gated recurrent unit.
    Gru(Gru),
    /// Simple recurrence.
    Rnn(Rnn),
}

impl From<LstmConfig> for LayerConfig {
    fn from(config: LstmConfig) -> Self {
        Self::Lstm(config)
    }
}

impl From<GruConfig> for LayerConfig {
    fn from(config: GruConfig) -> Self {
        Self::Gru(config)
    }
}

impl From<RnnConfig> for LayerConfig {
    fn from(config: RnnConfig) -> Self {
        Self::Rnn(config)
    }
}

impl LayerConfig {
    /// An initial layer.
    pub fn init(&self, init: &mut Initializer<'_>) -> Layer {
        match self {
            Self::Lstm(config) => Layer::Lstm(config.init(init)),
            Self::Gru(config) => Layer::Gru(config.init(init)),
            Self::Rnn(config) => Layer::Rnn(config.init(init)),
        }
    }

    /// Features of the input.
    pub fn input_size(&self) -> usize {
        match self {
            Self::Lstm(config) => config.input_size,
            Self::Gru(config) => config.input_size,
            Self::Rnn(config) => config.input_size,
        }
    }

    /// Hidden units.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Lstm(config) => config.hidden_size,
            Self::Gru(config) => config.hidden_size,
            Self::Rnn(config) => config.hidden_size,
        }
    }

    /// The same layer for inputs of another size.
    #[must_use]
    pub fn with_input_size(self, input_size: usize) -> Self {
        match self {
            Self::Lstm(config) => LstmConfig { input_size, ..config }.into(),
            Self::Gru(config) => GruConfig { input_size, ..config }.into(),
            Self::Rnn(config) => RnnConfig { input_size, ..config }.into(),
        }
    }

    /// The layer that reads this one's hidden units.
    fn above(self) -> Self {
        self.with_input_size(self.hidden_size())
    }
}

impl Layer {
    /// Runs over a whole sequence, as the layer itself: see [`Lstm::forward`].
    ///
    /// # Panics
    /// If the input or the state does not fit the weights.
    pub fn forward(&self, input: Tensor<3>, state: Option<RecurrentState>) -> (Tensor<3>, RecurrentState) {
        self.borrowed().forward(input, state)
    }

    /// The state before the first step.
    pub fn zero_state(&self, batch_size: usize, device: &Device) -> RecurrentState {
        let RecurrentLayer { cell, weight_hh, .. } = self.borrowed();
        RecurrentState::zeros(cell, batch_size, weight_hh.dims()[1], device)
    }

    /// The weights in `format`, for one step at a time; of a layer that reads embedded tokens, with the embedding `[num_tokens,
    /// input_size]`, [for these](StepWeights::for_tokens).
    ///
    /// # Panics
    /// If the embedding does not fit the weights.
    pub fn step_weights(&self, format: WeightFormat, embedding: Option<&[f32]>) -> StepWeights {
        self.borrowed().step_weights(format, embedding)
    }

    fn borrowed(&self) -> RecurrentLayer<'_> {
        match self {
            Self::Lstm(layer) => layer.borrowed(),
            Self::Gru(layer) => layer.borrowed(),
            Self::Rnn(layer) => layer.borrowed(),
        }
    }
}

/// Configuration of a [`Stack`].
#[derive(Clone, Copy, Debug)]
pub struct StackConfig {
    /// The lowest layer; those above it read its hidden units.
    pub layer: LayerConfig,
    /// How many layers.
    pub num_layers: usize,
    /// Dropout between layers, on the way up only (Zaremba et al. 2014).
    pub dropout: f64,
}

impl StackConfig {
    /// Initial layers, from the lowest up.
    pub fn init(&self, init: &mut Initializer<'_>) -> Stack {
        let above = self.layer.above();
        let layers = (0..self.num_layers)
            .map(|index| if index == 0 { self.layer.init(init) } else { above.init(init) })
            .collect();
        Stack { layers, dropout: self.dropout }
    }
}

/// Layers of one cell, each reading the outputs of the one below, with dropout between them.
#[derive(Module, Debug)]
pub struct Stack {
    /// From the lowest up.
    pub layers: Vec<Layer>,
    /// Dropout between layers.
    dropout: f64,
}

impl Stack {
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
        state: Option<Vec<RecurrentState>>,
        schedule: Option<DropoutSchedule>,
        first_site: u8,
    ) -> (Tensor<3>, Vec<RecurrentState>) {
        let states: Vec<Option<RecurrentState>> = match state {
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
