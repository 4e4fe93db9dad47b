//! A recurrent layer of any cell.

use burn::backend::Dispatch;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use refrain_kernels::{Direction, StepWeights, WeightFormat};

use super::fused::RecurrentSequence;
use super::recurrent::{Pass, RecurrentLayer};
use super::{
    DropoutSchedule, GateTrace, Gru, GruConfig, Initializer, Lstm, LstmConfig, MinGru, MinGruConfig, RecurrentOptions,
    RecurrentState, Rnn, RnnConfig,
};

/// Makes the enum of all layers, and of their configurations: a cell is a file and a line.
macro_rules! cells {
    ($($(#[doc = $doc:literal])* $name:ident($config:ident)),* $(,)?) => {
        /// Configuration of a [`Layer`].
        #[derive(Clone, Copy, Debug)]
        pub enum LayerConfig {
            $($(#[doc = $doc])* $name($config)),*
        }

        /// A recurrent layer of any cell.
        #[derive(Module, Debug)]
        pub enum Layer {
            $($(#[doc = $doc])* $name($name)),*
        }

        $(
            impl From<$config> for LayerConfig {
                fn from(config: $config) -> Self {
                    Self::$name(config)
                }
            }

            impl From<$name> for Layer {
                fn from(layer: $name) -> Self {
                    Self::$name(layer)
                }
            }
        )*

        impl LayerConfig {
            /// An initial layer.
            ///
            /// # Panics
            /// If the options are not those of the cell.
            pub fn init(&self, init: &mut Initializer<'_>) -> Layer {
                match self {
                    $(Self::$name(config) => Layer::$name(config.init(init))),*
                }
            }

            /// Features of the input.
            pub fn input_size(&self) -> usize {
                match self {
                    $(Self::$name(config) => config.input_size),*
                }
            }

            /// Units of the hidden state, the features of the output.
            pub fn hidden_size(&self) -> usize {
                match self {
                    $(Self::$name(config) => config.output_size()),*
                }
            }

            /// What it does beyond its equations.
            pub fn options(&self) -> RecurrentOptions {
                match self {
                    $(Self::$name(config) => config.options),*
                }
            }

            /// The same layer over another input.
            #[must_use]
            pub fn with_input_size(self, input_size: usize) -> Self {
                match self {
                    $(Self::$name(config) => $config { input_size, ..config }.into()),*
                }
            }
        }

        impl Layer {
            pub(super) fn borrowed(&self) -> RecurrentLayer<'_> {
                match self {
                    $(Self::$name(layer) => layer.borrowed()),*
                }
            }
        }
    };
}

cells! {
    /// Long short-term memory.
    Lstm(LstmConfig),
    /// Gated recurrent unit.
    Gru(GruConfig),
    /// Minimal gated recurrent unit.
    MinGru(MinGruConfig),
    /// Simple recurrence.
    Rnn(RnnConfig),
}

impl Layer {
    /// Runs over whole sequences, as the layer itself: see [`Lstm::forward`].
    ///
    /// # Panics
    /// If the input, a length or the state does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<RecurrentState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, RecurrentState) {
        self.forward_in(Direction::Forward, input, lengths, state, schedule)
    }

    /// The same in a direction. Backward it begins at each sequence's last step, so that `state` is the one after it, and the
    /// state that comes back is the one at the first step.
    ///
    /// # Panics
    /// If the input, a length or the state does not fit.
    pub fn forward_in(
        &self,
        direction: Direction,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<RecurrentState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, RecurrentState) {
        self.borrowed().forward(Pass { direction, input, lengths, state, schedule })
    }

    /// The layer and what it would read, as a [fused operation](super::fused::FusedOps::recurrent_sequence) takes them.
    ///
    /// # Panics
    /// If the input, a length or the state does not fit.
    pub fn sequence_in(
        &self,
        direction: Direction,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<RecurrentState>,
        schedule: Option<DropoutSchedule>,
    ) -> RecurrentSequence<Dispatch> {
        self.borrowed().sequence(Pass { direction, input, lengths, state, schedule })
    }

    /// The state before the first step.
    pub fn zero_state(&self, batch_size: usize, device: &Device) -> RecurrentState {
        self.borrowed().zero_state(batch_size, device)
    }

    /// What every gate did at every step: see [`GateTrace`].
    ///
    /// # Panics
    /// If the input, a length or the state does not fit.
    pub fn gates(&self, input: Tensor<3>, lengths: Option<&[usize]>, state: Option<RecurrentState>) -> GateTrace {
        self.borrowed().gates(Pass { direction: Direction::Forward, input, lengths, state, schedule: None })
    }

    /// Whether it has weights [for one step at a time](Self::step_weights): not with peepholes, zoneout, a projection, normalised
    /// sums or the reset gate before the product.
    pub fn has_step_weights(&self) -> bool {
        self.borrowed().has_step_weights()
    }

    /// Elements of the matrices that every step is multiplied by.
    pub fn num_step_weights(&self) -> usize {
        self.borrowed().num_step_weights()
    }

    /// The weights in `format`, for one step at a time; of a layer that reads embedded tokens, with the embedding `[num_tokens,
    /// input_size]`, [for these](StepWeights::for_tokens).
    ///
    /// # Panics
    /// If the embedding does not fit the weights, or the layer [has none](Self::has_step_weights).
    pub fn step_weights(&self, format: WeightFormat, embedding: Option<&[f32]>) -> StepWeights {
        self.borrowed().step_weights(format, embedding)
    }

    /// Units of the hidden state, the features of the output.
    pub fn hidden_size(&self) -> usize {
        self.borrowed().state_size()
    }
}
