//! Between PyTorch's modules and the layers here.
//!
//! A layer here has one bias where PyTorch has two. Read, they are added; written, all of it stands in `bias_ih`, and `bias_hh` is
//! zero. Only a GRU's candidate keeps two, on both ways: see [`Gru`].
//!
//! Dropout of any sort is no weight, and stays behind: outside training a module computes what the layers compute. What changes
//! that, and PyTorch has not, is refused.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use super::error::InteropError;
use super::rnn::{PyTorchRnn, RnnBias, RnnDirection, RnnKind, RnnLayer};
use crate::nn::{
    Bidirectional, Connection, Directions, Gru, InputGate, Layer, LayerNorms, Lstm, Merge, Nonlinearity, Precision,
    RecurrentOptions, ResetGate, Rnn, Stack, values,
};

impl RnnDirection {
    /// An [`Lstm`] of these weights, with their projection.
    ///
    /// # Panics
    ///
    /// If the weights do not fit together.
    pub fn lstm(&self, device: &Device) -> Lstm {
        let (weight_ih, weight_hh) = self.weights(RnnKind::Lstm, device);
        let projection = self.weight_hr.as_ref().map(|weight_hr| {
            let [rows, projection_size] = weight_hh.dims();
            matrix(weight_hr, [projection_size, rows / 4], device)
        });
        let bias = vector(self.summed_bias(), device);
        Lstm {
            weight_ih,
            weight_hh,
            bias,
            peepholes: None,
            projection,
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

    fn layer(&self, kind: RnnKind, nonlinearity: Nonlinearity, device: &Device) -> Layer {
        match kind {
            RnnKind::Lstm => self.lstm(device).into(),
            RnnKind::Gru => self.gru(device).into(),
            RnnKind::Rnn => self.rnn(nonlinearity, device).into(),
        }
    }

    fn weights(&self, kind: RnnKind, device: &Device) -> (Param<Tensor<2>>, Param<Tensor<2>>) {
        let Self { input_size, weight_ih, weight_hh, weight_hr, .. } = self;
        let (gates, rows) = (kind.num_gates(), weight_ih.len().checked_div(*input_size).unwrap_or(0));
        let state_size = weight_hh.len().checked_div(rows).unwrap_or(0);
        let expected = match (kind, weight_hr) {
            (RnnKind::Lstm, Some(weight_hr)) => state_size * rows / gates == weight_hr.len(),
            (_, Some(_)) => false,
            (_, None) => state_size * gates == rows,
        };
        assert!(
            expected && rows.is_multiple_of(gates) && weight_hh.len() == rows * state_size,
            "{} numbers of weight_ih for {input_size} features and {} of weight_hh are no {}",
            weight_ih.len(),
            weight_hh.len(),
            kind.name()
        );
        (matrix(weight_ih, [rows, *input_size], device), matrix(weight_hh, [rows, state_size], device))
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
    /// If it is another module, has more than one layer or is bidirectional.
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
    /// If the module is bidirectional.
    pub fn stack(&self, nonlinearity: Nonlinearity, device: &Device) -> Result<Stack, InteropError> {
        self.require_plain("a stack")?;
        let layers = self.layers.iter().map(|layer| layer.forward.layer(self.kind, nonlinearity, device));
        Ok(Stack::from_layers(layers.collect(), 0.0))
    }

    /// The [`Bidirectional`] of a bidirectional module, without dropout: interleaved and concatenated. The `nonlinearity` as
    /// for [`stack`](Self::stack).
    ///
    /// # Errors
    ///
    /// If the module is of one direction.
    pub fn bidirectional(&self, nonlinearity: Nonlinearity, device: &Device) -> Result<Bidirectional, InteropError> {
        const MADE: &str = "a bidirectional layer";
        let layer = |direction: &RnnDirection| direction.layer(self.kind, nonlinearity, device);
        let both = |RnnLayer { forward, reverse }: &RnnLayer| {
            let reverse = reverse.as_ref().ok_or_else(|| self.has_option("is of one direction".into(), MADE))?;
            Ok([layer(forward), layer(reverse)])
        };
        let layers = self.layers.iter().map(both).collect::<Result<_, InteropError>>()?;
        Ok(Bidirectional::from_layers(layers, Merge::Concat, 0.0))
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
        Ok(())
    }

    fn has_option(&self, has: String, layer: &'static str) -> InteropError {
        InteropError::Option { name: self.name.clone(), has, layer }
    }

    /// A module without a name.
    fn of_layers(kind: RnnKind, layers: Vec<RnnLayer>) -> Self {
        let lowest = &layers.first().expect("a module has a layer").forward;
        let input_size = lowest.input_size;
        let hidden_size = lowest.weight_ih.len() / input_size.max(1) / kind.num_gates();
        let projection_size = lowest.weight_hr.as_ref().map(|weight_hr| weight_hr.len() / hidden_size.max(1));
        Self { name: String::new(), kind, input_size, hidden_size, projection_size, layers }
    }

    fn of_layer(kind: RnnKind, forward: RnnDirection) -> Self {
        Self::of_layers(kind, vec![RnnLayer { forward, reverse: None }])
    }
}

impl TryFrom<&Lstm> for RnnDirection {
    type Error = InteropError;

    /// # Errors
    ///
    /// If the layer has coupled gates, peepholes, normalised sums or zoneout: no PyTorch module has them.
    fn try_from(layer: &Lstm) -> Result<Self, InteropError> {
        of_lstm(layer, "the LSTM")
    }
}

impl TryFrom<&Gru> for RnnDirection {
    type Error = InteropError;

    /// # Errors
    ///
    /// If the layer has normalised sums, zoneout or the reset gate before the product: no PyTorch module has them.
    fn try_from(layer: &Gru) -> Result<Self, InteropError> {
        of_gru(layer, "the GRU")
    }
}

impl TryFrom<&Rnn> for RnnDirection {
    type Error = InteropError;

    /// # Errors
    ///
    /// If the layer has normalised sums, zoneout or the reset gate before the product: no PyTorch module has them.
    fn try_from(layer: &Rnn) -> Result<Self, InteropError> {
        of_rnn(layer, "the RNN")
    }
}

impl TryFrom<&Lstm> for PyTorchRnn {
    type Error = InteropError;

    /// # Errors
    ///
    /// If the layer has coupled gates, peepholes, normalised sums or zoneout: no PyTorch module has them.
    fn try_from(layer: &Lstm) -> Result<Self, InteropError> {
        Ok(Self::of_layer(RnnKind::Lstm, layer.try_into()?))
    }
}

impl TryFrom<&Gru> for PyTorchRnn {
    type Error = InteropError;

    /// # Errors
    ///
    /// If the layer has normalised sums, zoneout or the reset gate before the product: no PyTorch module has them.
    fn try_from(layer: &Gru) -> Result<Self, InteropError> {
        Ok(Self::of_layer(RnnKind::Gru, layer.try_into()?))
    }
}

impl TryFrom<&Rnn> for PyTorchRnn {
    type Error = InteropError;

    /// The module is of `tanh` or `relu` as the layer is, which its weights do not tell.
    ///
    /// # Errors
    ///
    /// If the layer has normalised sums, zoneout or the reset gate before the product: no PyTorch module has them.
    fn try_from(layer: &Rnn) -> Result<Self, InteropError> {
        Ok(Self::of_layer(RnnKind::Rnn, layer.try_into()?))
    }
}

/// What all layers of one module share.
#[derive(Clone, Copy, PartialEq)]
struct Sort {
    kind: RnnKind,
    nonlinearity: Option<Nonlinearity>,
    input_size: usize,
    hidden_size: usize,
    /// Of the hidden state: fewer than the hidden units where there is a projection.
    state_size: usize,
}

impl Sort {
    fn of(layer: &Layer, name: &str) -> Result<Self, InteropError> {
        let (kind, nonlinearity, weight_ih, weight_hh) = match layer {
            Layer::Lstm(layer) => (RnnKind::Lstm, None, &layer.weight_ih, &layer.weight_hh),
            Layer::Gru(layer) => (RnnKind::Gru, None, &layer.weight_ih, &layer.weight_hh),
            Layer::Rnn(layer) => (RnnKind::Rnn, Some(layer.nonlinearity), &layer.weight_ih, &layer.weight_hh),
            Layer::MinGru(_) => {
                return Err(InteropError::Foreign { name: name.into(), what: "minimal GRUs".into() });
            }
        };
        // What is no PyTorch module's by itself is refused for that, before it is compared with its neighbours.
        direction(layer, name)?;
        let ([rows, input_size], [_, state_size]) = (weight_ih.dims(), weight_hh.dims());
        Ok(Self { kind, nonlinearity, input_size, hidden_size: rows / kind.num_gates(), state_size })
    }

    fn in_words(self) -> String {
        let Self { kind, nonlinearity, input_size, hidden_size, .. } = self;
        let with = nonlinearity.map_or_else(String::new, |nonlinearity| format!(" of {nonlinearity:?}").to_lowercase());
        // As the letters are spoken.
        let article = if kind == RnnKind::Gru { "a" } else { "an" };
        format!("{article} {}{with} from {input_size} features to {hidden_size} units", kind.name())
    }
}

impl TryFrom<&Stack> for PyTorchRnn {
    type Error = InteropError;

    /// The module of all layers; its dropout is no weight, and stays behind.
    ///
    /// # Errors
    ///
    /// If the layers are not of one cell and one size, as those of a PyTorch module are, or there is none, or if the stack or a
    /// layer has what no PyTorch module has: connections, minimal GRUs, coupled gates, peepholes, normalised sums, the
    /// reset gate before the product or zoneout.
    fn try_from(stack: &Stack) -> Result<Self, InteropError> {
        if stack.connection() != Connection::Plain {
            let what = format!("{:?} connections", stack.connection()).to_lowercase();
            return Err(InteropError::Foreign { name: "the stack".into(), what });
        }
        let kind = require_alike("stack", stack.layers.iter().map(|layer| vec![layer]))?;
        let layers = stack.layers.iter().enumerate().map(|(index, layer)| {
            let forward = direction(layer, &format!("layer {index} of the stack"))?;
            Ok(RnnLayer { forward, reverse: None })
        });
        Ok(Self::of_layers(kind, layers.collect::<Result<_, InteropError>>()?))
    }
}

impl TryFrom<&Bidirectional> for PyTorchRnn {
    type Error = InteropError;

    /// The bidirectional module of all layers; its dropout is no weight, and stays behind.
    ///
    /// # Errors
    ///
    /// If the directions are independent or not concatenated; otherwise as for a [`Stack`].
    fn try_from(module: &Bidirectional) -> Result<Self, InteropError> {
        const NAME: &str = "bidirectional layer";
        let foreign = |what: &str| InteropError::Foreign { name: format!("the {NAME}"), what: what.into() };
        match module.merge() {
            Merge::Concat => {}
            Merge::Sum => return Err(foreign("a sum of its directions")),
            Merge::Mean => return Err(foreign("a mean of its directions")),
        }
        let mut layers = Vec::new();
        for Directions { forward, backward } in &module.blocks {
            match (forward.layers.as_slice(), backward.layers.as_slice()) {
                ([forward], [backward]) => layers.push([forward, backward]),
                _ => return Err(foreign("independent directions of several layers")),
            }
        }
        let kind = require_alike(NAME, layers.iter().map(|both| both.to_vec()))?;
        let layers = layers.into_iter().enumerate().map(|(index, [forward, backward])| {
            let name = format!("layer {index} of the {NAME}");
            Ok(RnnLayer { forward: direction(forward, &name)?, reverse: Some(direction(backward, &name)?) })
        });
        Ok(Self::of_layers(kind, layers.collect::<Result<_, InteropError>>()?))
    }
}

/// The kind of the one module that layers are of, each given by its directions.
fn require_alike<'a>(
    of: &'static str,
    mut layers: impl Iterator<Item = Vec<&'a Layer>>,
) -> Result<RnnKind, InteropError> {
    let Some(lowest) = layers.next() else {
        let (found, expected) = ("missing".into(), "at least one layer".into());
        return Err(InteropError::MixedStack { of, layer: 0, found, expected });
    };
    let first = Sort::of(lowest[0], &format!("layer 0 of the {of}"))?;
    let above = Sort { input_size: lowest.len() * first.state_size, ..first };
    let all = std::iter::once((lowest, first)).chain(layers.map(|layer| (layer, above)));
    for (layer, (directions, expected)) in all.enumerate() {
        for direction in directions {
            let found = Sort::of(direction, &format!("layer {layer} of the {of}"))?;
            if found != expected {
                let (found, expected) = (found.in_words(), expected.in_words());
                return Err(InteropError::MixedStack { of, layer, found, expected });
            }
        }
    }
    Ok(first.kind)
}

/// The weights of a layer that errors call `name`.
fn direction(layer: &Layer, name: &str) -> Result<RnnDirection, InteropError> {
    match layer {
        Layer::Lstm(layer) => of_lstm(layer, name),
        Layer::Gru(layer) => of_gru(layer, name),
        Layer::Rnn(layer) => of_rnn(layer, name),
        Layer::MinGru(_) => Err(InteropError::Foreign { name: name.into(), what: "minimal GRUs".into() }),
    }
}

fn of_lstm(layer: &Lstm, name: &str) -> Result<RnnDirection, InteropError> {
    let Lstm { weight_ih, weight_hh, bias, peepholes, projection, norms, input_gate, precision: _, options } = layer;
    let foreign = |what: &str| Err(InteropError::Foreign { name: name.into(), what: what.into() });
    match (input_gate, peepholes) {
        (InputGate::Coupled, _) => foreign("coupled gates"),
        (InputGate::Own, Some(_)) => foreign("peepholes"),
        (InputGate::Own, None) => {
            let direction = plain(weight_ih, weight_hh, values(bias.val()), norms.as_ref(), options, name)?;
            let weight_hr = projection.as_ref().map(|projection| values(projection.val()));
            Ok(RnnDirection { weight_hr, ..direction })
        }
    }
}

fn of_gru(layer: &Gru, name: &str) -> Result<RnnDirection, InteropError> {
    let Gru { weight_ih, weight_hh, bias, norms, reset, precision: _, options } = layer;
    if *reset == ResetGate::BeforeProduct {
        return Err(InteropError::Foreign { name: name.into(), what: "the reset gate before the product".into() });
    }
    let mut ih = values(bias.val());
    let hidden_bias = ih.split_off(ih.len() / 4 * 3);
    let mut hh = vec![0.0; ih.len()];
    hh[ih.len() / 3 * 2..].copy_from_slice(&hidden_bias);
    let direction = plain(weight_ih, weight_hh, ih, norms.as_ref(), options, name)?;
    Ok(RnnDirection { bias: direction.bias.map(|bias| RnnBias { hh, ..bias }), ..direction })
}

fn of_rnn(layer: &Rnn, name: &str) -> Result<RnnDirection, InteropError> {
    let Rnn { weight_ih, weight_hh, bias, norms, nonlinearity: _, precision: _, options } = layer;
    plain(weight_ih, weight_hh, values(bias.val()), norms.as_ref(), options, name)
}

/// Weights with their only bias beside the input. Zoneout is refused: outside training, too, it is another function.
fn plain(
    weight_ih: &Param<Tensor<2>>,
    weight_hh: &Param<Tensor<2>>,
    bias: Vec<f32>,
    norms: Option<&LayerNorms>,
    options: &RecurrentOptions,
    name: &str,
) -> Result<RnnDirection, InteropError> {
    if norms.is_some() {
        return Err(InteropError::Foreign { name: name.into(), what: "normalised sums".into() });
    }
    if options.zoneout_hidden > 0.0 || options.zoneout_cell > 0.0 {
        return Err(InteropError::Foreign { name: name.into(), what: "zoneout".into() });
    }
    let [_, input_size] = weight_ih.dims();
    let hh = vec![0.0; bias.len()];
    Ok(RnnDirection {
        input_size,
        weight_ih: values(weight_ih.val()),
        weight_hh: values(weight_hh.val()),
        bias: Some(RnnBias { ih: bias, hh }),
        weight_hr: None,
    })
}

fn matrix(values: &[f32], shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), shape), device))
}

fn vector(values: Vec<f32>, device: &Device) -> Param<Tensor<1>> {
    let len = values.len();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, [len]), device))
}
