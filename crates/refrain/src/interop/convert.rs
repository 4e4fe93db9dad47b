//! Between PyTorch's modules and the layers here.
//!
//! A layer here has one bias where PyTorch has two. Read, they are added; written, all of it stands in `bias_ih`, and `bias_hh` is
//! zero. Only a GRU's candidate keeps two, on both ways: see [`Gru`].

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use super::error::InteropError;
use super::rnn::{PyTorchRnn, RnnBias, RnnDirection, RnnKind, RnnLayer};
use crate::nn::{
    Gru, InputGate, Layer, Lstm, Nonlinearity, Precision, RecurrentOptions, ResetGate, Rnn, Stack, values,
};

impl RnnDirection {
    /// An [`Lstm`] of these weights, if they are of one without a projection.
    ///
    /// # Panics
    ///
    /// If the weights are not four times their columns.
    pub fn lstm(&self, device: &Device) -> Lstm {
        let (weight_ih, weight_hh) = self.weights(RnnKind::Lstm, device);
        let bias = vector(self.summed_bias(), device);
        Lstm {
            weight_ih,
            weight_hh,
            bias,
            peepholes: None,
            projection: None,
            norms: None,
            input_gate: InputGate::Own,
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    /// A [`Gru`] of these weights.
    ///
    /// # Panics
    ///
    /// If the weights are not three times their columns.
    pub fn gru(&self, device: &Device) -> Gru {
        let (weight_ih, weight_hh) = self.weights(RnnKind::Gru, device);
        let mut bias = self.summed_bias();
        let candidate = bias.len() / 3 * 2;
        match &self.bias {
            Some(RnnBias { ih, hh }) => {
                bias[candidate..].copy_from_slice(&ih[candidate..]);
                bias.extend(&hh[candidate..]);
            }
            None => bias.resize(bias.len() / 3 * 4, 0.0),
        }
        Gru {
            weight_ih,
            weight_hh,
            bias: vector(bias, device),
            norms: None,
            reset: ResetGate::default(),
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    /// An [`Rnn`] of these weights.
    ///
    /// # Panics
    ///
    /// If the weights are not as many rows as columns.
    pub fn rnn(&self, nonlinearity: Nonlinearity, device: &Device) -> Rnn {
        let (weight_ih, weight_hh) = self.weights(RnnKind::Rnn, device);
        let bias = vector(self.summed_bias(), device);
        Rnn {
            weight_ih,
            weight_hh,
            bias,
            norms: None,
            nonlinearity,
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    fn weights(&self, kind: RnnKind, device: &Device) -> (Param<Tensor<2>>, Param<Tensor<2>>) {
        let Self { input_size, weight_ih, weight_hh, weight_hr, .. } = self;
        let hidden_size = (weight_hh.len() / kind.num_gates()).isqrt();
        let rows = kind.num_gates() * hidden_size;
        assert!(
            weight_hr.is_none() && weight_hh.len() == rows * hidden_size && weight_ih.len() == rows * input_size,
            "{} numbers of weight_ih for {input_size} features and {} of weight_hh are no {} without a projection",
            weight_ih.len(),
            weight_hh.len(),
            kind.name()
        );
        (matrix(weight_ih, [rows, *input_size], device), matrix(weight_hh, [rows, hidden_size], device))
    }

    /// Both biases together, or as many zeros.
    fn summed_bias(&self) -> Vec<f32> {
        match &self.bias {
            Some(RnnBias { ih, hh }) => ih.iter().zip(hh).map(|(ih, hh)| ih + hh).collect(),
            None => vec![0.0; self.weight_ih.len() / self.input_size.max(1)],
        }
    }
}

impl PyTorchRnn {
    /// The [`Lstm`] of an `nn.LSTM` of one layer.
    ///
    /// # Errors
    ///
    /// If it is another module, has more than one layer, is bidirectional or projects.
    pub fn lstm(&self, device: &Device) -> Result<Lstm, InteropError> {
        Ok(self.only_layer(RnnKind::Lstm)?.lstm(device))
    }

    /// The [`Gru`] of an `nn.GRU` of one layer.
    ///
    /// # Errors
    ///
    /// If it is another module, has more than one layer or is bidirectional.
    pub fn gru(&self, device: &Device) -> Result<Gru, InteropError> {
        Ok(self.only_layer(RnnKind::Gru)?.gru(device))
    }

    /// The [`Rnn`] of an `nn.RNN` of one layer. Its weights do not tell its `nonlinearity`: it must be that of the module.
    ///
    /// # Errors
    ///
    /// If it is another module, has more than one layer or is bidirectional.
    pub fn rnn(&self, nonlinearity: Nonlinearity, device: &Device) -> Result<Rnn, InteropError> {
        Ok(self.only_layer(RnnKind::Rnn)?.rnn(nonlinearity, device))
    }

    /// The [`Stack`] of any module, without dropout. The `nonlinearity` is that of an `nn.RNN`, whose weights do not tell it;
    /// other modules have none.
    ///
    /// # Errors
    ///
    /// If the module is bidirectional or projects.
    pub fn stack(&self, nonlinearity: Nonlinearity, device: &Device) -> Result<Stack, InteropError> {
        self.require_plain("a stack")?;
        let layers = self.layers.iter().map(|layer| match self.kind {
            RnnKind::Lstm => Layer::Lstm(layer.forward.lstm(device)),
            RnnKind::Gru => Layer::Gru(layer.forward.gru(device)),
            RnnKind::Rnn => Layer::Rnn(layer.forward.rnn(nonlinearity, device)),
        });
        Ok(Stack::from_layers(layers.collect(), 0.0))
    }

    fn only_layer(&self, kind: RnnKind) -> Result<&RnnDirection, InteropError> {
        if self.kind != kind {
            let (found, expected) = (self.kind.name(), kind.name());
            return Err(InteropError::Kind { name: self.name.clone(), found, expected });
        }
        self.require_plain("a single layer")?;
        match self.layers.as_slice() {
            [layer] => Ok(&layer.forward),
            layers => Err(self.has_option(format!("has {} layers", layers.len()), "a single layer")),
        }
    }

    fn require_plain(&self, layer: &'static str) -> Result<(), InteropError> {
        if self.is_bidirectional() {
            return Err(self.has_option("is bidirectional".into(), layer));
        }
        match self.projection_size {
            Some(size) => Err(self.has_option(format!("projects its hidden state to {size}"), layer)),
            None => Ok(()),
        }
    }

    fn has_option(&self, has: String, layer: &'static str) -> InteropError {
        InteropError::Option { name: self.name.clone(), has, layer }
    }

    /// A module without a name.
    fn of_layers(kind: RnnKind, layers: Vec<RnnDirection>) -> Self {
        let lowest = layers.first().expect("a module has a layer");
        let input_size = lowest.input_size;
        let hidden_size = (lowest.weight_hh.len() / kind.num_gates()).isqrt();
        let layers = layers.into_iter().map(|forward| RnnLayer { forward, reverse: None }).collect();
        Self { name: String::new(), kind, input_size, hidden_size, projection_size: None, layers }
    }
}

impl From<&Lstm> for RnnDirection {
    fn from(layer: &Lstm) -> Self {
        plain(&layer.weight_ih, &layer.weight_hh, values(layer.bias.val()))
    }
}

impl From<&Rnn> for RnnDirection {
    fn from(layer: &Rnn) -> Self {
        plain(&layer.weight_ih, &layer.weight_hh, values(layer.bias.val()))
    }
}

impl From<&Gru> for RnnDirection {
    fn from(layer: &Gru) -> Self {
        let mut ih = values(layer.bias.val());
        let hidden_bias = ih.split_off(ih.len() / 4 * 3);
        let mut hh = vec![0.0; ih.len()];
        hh[ih.len() / 3 * 2..].copy_from_slice(&hidden_bias);
        let direction = plain(&layer.weight_ih, &layer.weight_hh, ih);
        Self { bias: direction.bias.map(|bias| RnnBias { hh, ..bias }), ..direction }
    }
}

impl From<&Lstm> for PyTorchRnn {
    fn from(layer: &Lstm) -> Self {
        Self::of_layers(RnnKind::Lstm, vec![layer.into()])
    }
}

impl From<&Gru> for PyTorchRnn {
    fn from(layer: &Gru) -> Self {
        Self::of_layers(RnnKind::Gru, vec![layer.into()])
    }
}

/// The module is of `tanh` or `relu` as the layer is, which its weights do not tell.
impl From<&Rnn> for PyTorchRnn {
    fn from(layer: &Rnn) -> Self {
        Self::of_layers(RnnKind::Rnn, vec![layer.into()])
    }
}

/// What all layers of one module share.
#[derive(Clone, Copy, PartialEq)]
struct Sort {
    kind: RnnKind,
    nonlinearity: Option<Nonlinearity>,
    input_size: usize,
    hidden_size: usize,
}

impl Sort {
    /// That of a layer, the number `index` of a stack, and its weights.
    fn of(index: usize, layer: &Layer) -> Result<(Self, RnnDirection), InteropError> {
        let (kind, nonlinearity, direction) = match layer {
            Layer::Lstm(layer) => (RnnKind::Lstm, None, layer.into()),
            Layer::Gru(layer) => (RnnKind::Gru, None, layer.into()),
            Layer::Rnn(layer) => (RnnKind::Rnn, Some(layer.nonlinearity), RnnDirection::from(layer)),
            Layer::MinGru(_) => {
                let (found, expected) = ("a minimal GRU".into(), "a layer that PyTorch has".into());
                return Err(InteropError::MixedStack { layer: index, found, expected });
            }
        };
        Ok((Self { kind, nonlinearity, input_size: direction.input_size, hidden_size: layer.hidden_size() }, direction))
    }

    fn in_words(self) -> String {
        let Self { kind, nonlinearity, input_size, hidden_size } = self;
        let with = nonlinearity.map_or_else(String::new, |nonlinearity| format!(" of {nonlinearity:?}").to_lowercase());
        format!("an {}{with} from {input_size} features to {hidden_size} units", kind.name())
    }
}

impl TryFrom<&Stack> for PyTorchRnn {
    type Error = InteropError;

    /// The module of all layers; its dropout is no weight, and stays behind.
    ///
    /// # Errors
    ///
    /// If the layers are not of one cell and one size, as those of a PyTorch module are, or there is none.
    fn try_from(stack: &Stack) -> Result<Self, InteropError> {
        let layers = stack.layers.iter().enumerate().map(|(index, layer)| Sort::of(index, layer));
        let (sorts, directions): (Vec<Sort>, Vec<RnnDirection>) =
            layers.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let Some(&lowest) = sorts.first() else {
            let (found, expected) = ("missing".into(), "at least one layer".into());
            return Err(InteropError::MixedStack { layer: 0, found, expected });
        };
        let above = Sort { input_size: lowest.hidden_size, ..lowest };
        for (layer, &found) in sorts.iter().enumerate().skip(1) {
            if found != above {
                let (found, expected) = (found.in_words(), above.in_words());
                return Err(InteropError::MixedStack { layer, found, expected });
            }
        }
        Ok(Self::of_layers(lowest.kind, directions))
    }
}

/// Weights with their only bias beside the input.
fn plain(weight_ih: &Param<Tensor<2>>, weight_hh: &Param<Tensor<2>>, bias: Vec<f32>) -> RnnDirection {
    let [_, input_size] = weight_ih.dims();
    let hh = vec![0.0; bias.len()];
    RnnDirection {
        input_size,
        weight_ih: values(weight_ih.val()),
        weight_hh: values(weight_hh.val()),
        bias: Some(RnnBias { ih: bias, hh }),
        weight_hr: None,
    }
}

fn matrix(values: &[f32], shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), shape), device))
}

fn vector(values: Vec<f32>, device: &Device) -> Param<Tensor<1>> {
    let len = values.len();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, [len]), device))
}
