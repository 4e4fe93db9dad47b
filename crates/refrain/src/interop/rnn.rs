//! The weights of a recurrent module of PyTorch, as plain numbers.

use std::collections::BTreeSet;

use super::error::InteropError;
use super::state_dict::StateDict;
use crate::models::NamedTensor;

/// Which of PyTorch's recurrent modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RnnKind {
    /// `nn.RNN`. Its weights do not tell whether it is of `tanh` or `relu`.
    Rnn,
    /// `nn.LSTM`.
    Lstm,
    /// `nn.GRU`.
    Gru,
}

impl RnnKind {
    /// As PyTorch calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rnn => "RNN",
            Self::Lstm => "LSTM",
            Self::Gru => "GRU",
        }
    }

    /// Blocks of `hidden_size` rows in its weights: i, f, g, o of an LSTM; r, z, n of a GRU.
    pub fn num_gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Lstm => 4,
            Self::Gru => 3,
        }
    }
}

/// A recurrent module of PyTorch: what it was made with, as far as its weights tell, and those weights.
#[derive(Clone, Debug, PartialEq)]
pub struct PyTorchRnn {
    /// What it is called, which errors name: `encoder.rnn` of a tensor `encoder.rnn.weight_ih_l0`; may be empty.
    pub name: String,
    /// Which module.
    pub kind: RnnKind,
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units of each direction.
    pub hidden_size: usize,
    /// Size to which an LSTM projects its hidden state (`proj_size`), if it does.
    pub projection_size: Option<usize>,
    /// From the lowest up, each with what `num_layers`, `bidirectional` and `bias` say.
    pub layers: Vec<RnnLayer>,
}

/// One layer of a [`PyTorchRnn`].
#[derive(Clone, Debug, PartialEq)]
pub struct RnnLayer {
    /// From the first step to the last.
    pub forward: RnnDirection,
    /// From the last step to the first, of a bidirectional module.
    pub reverse: Option<RnnDirection>,
}

/// The weights of one layer in one direction, row by row, gates in PyTorch's order.
///
/// # Shapes
/// `output_size` is the projection's size or else `hidden_size`. The input of a layer above the lowest is `output_size`, twice
/// that of a bidirectional module: first forward, then reverse.
#[derive(Clone, Debug, PartialEq)]
pub struct RnnDirection {
    /// Features that it reads.
    pub input_size: usize,
    /// `[num_gates * hidden_size, input_size]`.
    pub weight_ih: Vec<f32>,
    /// `[num_gates * hidden_size, output_size]`.
    pub weight_hh: Vec<f32>,
    /// None of a module without biases.
    pub bias: Option<RnnBias>,
    /// `[output_size, hidden_size]`: the projection of an LSTM that has one.
    pub weight_hr: Option<Vec<f32>>,
}

/// PyTorch's two biases, of which most often only the sum counts.
#[derive(Clone, Debug, PartialEq)]
pub struct RnnBias {
    /// Beside the product with the input: `[num_gates * hidden_size]`.
    pub ih: Vec<f32>,
    /// Beside the product with the hidden state: `[num_gates * hidden_size]`.
    pub hh: Vec<f32>,
}

/// What the lowest layer tells about the whole module.
#[derive(Clone, Copy)]
struct Description {
    kind: RnnKind,
    input_size: usize,
    hidden_size: usize,
    projection_size: Option<usize>,
    is_bidirectional: bool,
    has_bias: bool,
}

impl PyTorchRnn {
    /// How many layers it has.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Whether each layer also runs from the last step to the first.
    pub fn is_bidirectional(&self) -> bool {
        self.layers.iter().any(|layer| layer.reverse.is_some())
    }

    /// Whether it has biases.
    pub fn has_bias(&self) -> bool {
        self.layers.iter().any(|layer| layer.forward.bias.is_some())
    }

    /// Features of the output in each direction: the projection's size, or else `hidden_size`.
    pub fn output_size(&self) -> usize {
        self.projection_size.unwrap_or(self.hidden_size)
    }

    /// Its tensors under PyTorch's names.
    fn tensors(&self, prefix: &str) -> Vec<NamedTensor> {
        let Self { hidden_size, .. } = *self;
        let (rows, output_size) = (self.kind.num_gates() * hidden_size, self.output_size());
        let mut tensors = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let directions = [(Some(&layer.forward), ""), (layer.reverse.as_ref(), "_reverse")];
            for (direction, suffix) in directions {
                let Some(direction) = direction else { continue };
                let RnnDirection { input_size, weight_ih, weight_hh, bias, weight_hr } = direction;
                let mut add = |part: &str, shape: &[usize], values: &[f32]| {
                    let name = tensor_name(prefix, part, index, suffix);
                    tensors.push(NamedTensor::new(name, shape, values.to_vec()));
                };
                add("weight_ih", &[rows, *input_size], weight_ih);
                add("weight_hh", &[rows, output_size], weight_hh);
                if let Some(RnnBias { ih, hh }) = bias {
                    add("bias_ih", &[rows], ih);
                    add("bias_hh", &[rows], hh);
                }
                if let Some(weight_hr) = weight_hr {
                    add("weight_hr", &[output_size, hidden_size], weight_hr);
                }
            }
        }
        tensors
    }
}

impl StateDict {
    /// What the recurrent modules in it are called: all that stands before `weight_ih_l0`, without the dot between.
    pub fn rnn_names(&self) -> Vec<String> {
        let names = self.all_names().into_iter().filter_map(|name| {
            let prefix = name.strip_suffix("weight_ih_l0")?;
            if prefix.is_empty() { Some(prefix) } else { prefix.strip_suffix('.') }
        });
        names.map(str::to_owned).collect()
    }

    /// The only recurrent module in it, whatever it is called.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one; otherwise as [`rnn_named`](Self::rnn_named).
    pub fn rnn(&self) -> Result<PyTorchRnn, InteropError> {
        let mut prefixes = self.rnn_names();
        match (prefixes.pop(), prefixes.is_empty()) {
            (Some(only), true) => self.rnn_named(&only),
            (Some(last), false) => {
                prefixes.push(last);
                Err(InteropError::SeveralModules { path: self.origin().into(), prefixes })
            }
            (None, _) => Err(InteropError::NoModule { path: self.origin().into(), present: self.names() }),
        }
    }

    /// The recurrent module of this name: `encoder.rnn` has a tensor `encoder.rnn.weight_ih_l0`. It may be empty.
    ///
    /// Which module it is and what it was made with is read off the names and shapes of its tensors.
    ///
    /// # Errors
    ///
    /// If a tensor of it is missing, of whole numbers, or of a shape that does not go with the others, or if a tensor that
    /// looks like one of its own has no place in it.
    pub fn rnn_named(&self, name: &str) -> Result<PyTorchRnn, InteropError> {
        let found = self.description(name)?;
        let own = self.own_names(name);
        let num_layers = own.iter().filter_map(|full| layer_of(full)).max().map_or(1, |last| last.saturating_add(1));
        let mut layers = Vec::new();
        // No layers are set aside before their tensors are there.
        for index in 0..num_layers {
            let input_size = match index {
                0 => found.input_size,
                _ => found.output_size() * if found.is_bidirectional { 2 } else { 1 },
            };
            let forward = self.direction(name, index, "", input_size, found)?;
            let reverse = found
                .is_bidirectional
                .then(|| self.direction(name, index, "_reverse", input_size, found))
                .transpose()?;
            layers.push(RnnLayer { forward, reverse });
        }
        let Description { kind, input_size, hidden_size, projection_size, .. } = found;
        let rnn = PyTorchRnn { name: name.into(), kind, input_size, hidden_size, projection_size, layers };
        let taken: BTreeSet<String> = rnn.tensors(name).into_iter().map(|tensor| tensor.name).collect();
        match own.into_iter().find(|name| !taken.contains(*name)) {
            Some(unexpected) => Err(InteropError::Unexpected {
                path: self.origin().into(),
                name: unexpected.into(),
                num_layers,
                with: found.in_words(),
            }),
            None => Ok(rnn),
        }
    }

    /// Puts the weights of a module in, under PyTorch's names after `name` and a dot; after nothing if that is empty.
    ///
    /// # Panics
    ///
    /// If a list of weights is not as long as its shape says.
    pub fn insert_rnn(&mut self, name: &str, rnn: &PyTorchRnn) {
        for tensor in rnn.tensors(name) {
            self.insert(tensor);
        }
    }

    fn description(&self, prefix: &str) -> Result<Description, InteropError> {
        let named = |part: &str, suffix: &str| tensor_name(prefix, part, 0, suffix);
        let (rows, input_size) = self.matrix(&named("weight_ih", ""))?;
        let (hh_rows, output_size) = self.matrix(&named("weight_hh", ""))?;
        let weight_hr = named("weight_hr", "");
        let projection = self.has(&weight_hr).then(|| self.matrix(&weight_hr)).transpose()?;
        // Only an LSTM projects, and then the columns of weight_hh are no hidden units.
        let hidden_size = projection.map_or(output_size, |(_, hidden_size)| hidden_size);
        let kind = [RnnKind::Rnn, RnnKind::Gru, RnnKind::Lstm]
            .into_iter()
            .find(|kind| hidden_size > 0 && hidden_size.checked_mul(kind.num_gates()) == Some(hh_rows))
            .filter(|kind| *kind == RnnKind::Lstm || projection.is_none());
        let Some(kind) = kind.filter(|_| rows == hh_rows) else {
            let expected = match projection {
                Some(_) => format!("[{}, …], four times the columns of its weight_hr", hidden_size.saturating_mul(4)),
                None => format!("1, 3 or 4 times {hidden_size} rows, as many as weight_ih with {rows}"),
            };
            return Err(self.shape_error(&named("weight_hh", ""), expected));
        };
        Ok(Description {
            kind,
            input_size,
            hidden_size,
            projection_size: projection.map(|(projection_size, _)| projection_size),
            is_bidirectional: self.has(&named("weight_ih", "_reverse")),
            has_bias: self.has(&named("bias_ih", "")) || self.has(&named("bias_hh", "")),
        })
    }

    fn direction(
        &self,
        prefix: &str,
        index: usize,
        suffix: &str,
        input_size: usize,
        found: Description,
    ) -> Result<RnnDirection, InteropError> {
        let rows = found.kind.num_gates() * found.hidden_size;
        let read = |part: &str, shape: &[usize]| self.values(&tensor_name(prefix, part, index, suffix), shape);
        let bias = if found.has_bias {
            Some(RnnBias { ih: read("bias_ih", &[rows])?, hh: read("bias_hh", &[rows])? })
        } else {
            None
        };
        Ok(RnnDirection {
            input_size,
            weight_ih: read("weight_ih", &[rows, input_size])?,
            weight_hh: read("weight_hh", &[rows, found.output_size()])?,
            bias,
            weight_hr: found
                .projection_size
                .map(|projection_size| read("weight_hr", &[projection_size, found.hidden_size]))
                .transpose()?,
        })
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, InteropError> {
        let tensor = self.get(name)?;
        if tensor.shape != shape {
            return Err(self.shape_error(name, format!("{shape:?}")));
        }
        Ok(tensor.values.clone())
    }

    fn matrix(&self, name: &str) -> Result<(usize, usize), InteropError> {
        match self.get(name)?.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(self.shape_error(name, "a matrix".into())),
        }
    }

    fn shape_error(&self, name: &str, expected: String) -> InteropError {
        let found = self.find(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
        InteropError::Shape { path: self.origin().into(), name: name.into(), found, expected }
    }

    fn has(&self, name: &str) -> bool {
        self.all_names().contains(name)
    }

    /// The names that look like those of this module's tensors.
    fn own_names(&self, prefix: &str) -> Vec<&str> {
        let is_own = |name: &&str| {
            let rest = if prefix.is_empty() {
                Some(*name)
            } else {
                name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'))
            };
            rest.is_some_and(|rest| {
                let is_part = ["weight_ih_l", "weight_hh_l", "weight_hr_l", "bias_ih_l", "bias_hh_l"]
                    .iter()
                    .any(|part| rest.starts_with(part));
                is_part && !rest.contains('.')
            })
        };
        self.all_names().into_iter().filter(is_own).collect()
    }
}

impl Description {
    fn output_size(&self) -> usize {
        self.projection_size.unwrap_or(self.hidden_size)
    }

    fn in_words(self) -> String {
        let directions = if self.is_bidirectional { "two directions" } else { "one direction" };
        let bias = if self.has_bias { "biases" } else { "no biases" };
        let projection = if self.projection_size.is_some() { "a projection" } else { "no projection" };
        format!("{directions}, {bias} and {projection}")
    }
}

fn tensor_name(prefix: &str, part: &str, layer: usize, suffix: &str) -> String {
    let dot = if prefix.is_empty() { "" } else { "." };
    format!("{prefix}{dot}{part}_l{layer}{suffix}")
}

/// The layer in a name such as `encoder.weight_ih_l3_reverse`.
fn layer_of(name: &str) -> Option<usize> {
    let (_, rest) = name.rsplit_once("_l")?;
    rest.strip_suffix("_reverse").unwrap_or(rest).parse().ok()
}
