//! Layers on top of each other.

use burn::module::Module;
use burn::tensor::{Tensor, activation};
use refrain_kernels::Direction;

use super::dropout::check_share;
use super::{
    Dropout, DropoutSchedule, Initializer, Layer, LayerConfig, Linear, LinearConfig, RecurrentOptions, RecurrentState,
};

/// How a layer's output goes up, from the second layer on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// As it is.
    #[default]
    Plain,
    /// Added to what the layer read (He et al. 2016; between recurrent layers, Wu et al. 2016).
    Residual,
    /// Mixed with what the layer read, x, by a gate `t = σ(W x + b)`: `t ∘ h + (1 - t) ∘ x` (Srivastava et al. 2015). It begins
    /// nearly shut, at `b = -2`, as in their experiments.
    Highway,
}

/// Configuration of a [`Stack`].
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// From the lowest up. Those above the first read the hidden units of the one below, whatever their `input_size` says.
    pub layers: Vec<LayerConfig>,
    /// Dropout between layers, on the way up only (Zaremba et al. 2014).
    pub dropout: f64,
    /// How outputs go up.
    pub connection: Connection,
}

impl StackConfig {
    /// Layers that are all alike.
    pub fn uniform(layer: impl Into<LayerConfig>, num_layers: usize) -> Self {
        Self { layers: vec![layer.into(); num_layers], dropout: 0.0, connection: Connection::Plain }
    }

    /// Initial layers, from the lowest up.
    ///
    /// # Panics
    /// If there is no layer, dropout is not in `[0, 1)`, an option is not of its cell, or layers that a [`Connection`] goes around
    /// are not of one size.
    pub fn init(&self, init: &mut Initializer<'_>) -> Stack {
        let Self { dropout, connection, .. } = *self;
        check_dropout(dropout);
        let mut below = self.layers.first().expect("a stack has at least one layer").input_size();
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut gates = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let size = layer.hidden_size();
            layers.push(layer.with_input_size(below).init(init));
            if index > 0 && connection != Connection::Plain {
                let place = format!("layer {index} has {size} units but reads {below}");
                assert!(size == below, "{place}: a {connection:?} connection needs as many");
                if connection == Connection::Highway {
                    let gate = LinearConfig::new(size, size).init(init);
                    gates.push(Linear { bias: init.constant(vec![-2.0; size]), ..gate });
                }
            }
            below = size;
        }
        Stack { layers, gates, dropout, connection }
    }
}

/// Layers that each read the outputs of the one below, with dropout between them.
#[derive(Module, Debug)]
pub struct Stack {
    /// From the lowest up.
    pub layers: Vec<Layer>,
    /// The gates of [highways](Connection::Highway), from the second layer up.
    pub gates: Vec<Linear>,
    dropout: f64,
    #[module(skip)]
    connection: Connection,
}

/// The place of the first layer's masks; those of dropout between layers come before.
const LAYER_SITES: usize = 64;

impl Stack {
    /// Layers that are there already, from the lowest up, with dropout between them and nothing around them.
    ///
    /// # Panics
    /// If dropout is not in `[0, 1)`.
    pub fn from_layers(layers: Vec<Layer>, dropout: f64) -> Self {
        check_dropout(dropout);
        Self { layers, gates: Vec::new(), dropout, connection: Connection::Plain }
    }

    /// How outputs go up.
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Runs over whole sequences; `state` has one entry a layer, or is `None` for zeros. Arguments as
    /// [`Lstm::forward`](super::Lstm::forward). [`Detach`](super::Detach) makes the state that comes back constants.
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
        lengths: Option<&[usize]>,
        state: Option<Vec<RecurrentState>>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, Vec<RecurrentState>) {
        self.forward_in(Direction::Forward, input, lengths, state, schedule)
    }

    /// The same in a direction, as [`Layer::forward_in`].
    ///
    /// # Panics
    /// As [`Stack::forward`].
    pub fn forward_in(
        &self,
        direction: Direction,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<Vec<RecurrentState>>,
        schedule: Option<DropoutSchedule>,
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
                output = dropout.forward(output, schedule, (index - 1) as u8);
            }
            let inner = schedule.map(|schedule| schedule.at(LAYER_SITES + index * RecurrentOptions::SITES));
            let (above, state) = layer.forward_in(direction, output.clone(), lengths, state, inner);
            output = if index == 0 { above } else { self.connect(index, output, above) };
            next.push(state);
        }
        (output, next)
    }

    /// What goes up from a layer that read `below` and gave `above`.
    fn connect(&self, index: usize, below: Tensor<3>, above: Tensor<3>) -> Tensor<3> {
        match self.connection {
            Connection::Plain => above,
            Connection::Residual => above + below,
            Connection::Highway => {
                let gate = activation::sigmoid(self.gates[index - 1].forward_steps(below.clone()));
                below.clone() + gate * (above - below)
            }
        }
    }
}

fn check_dropout(dropout: f64) {
    check_share("dropout", dropout);
}
