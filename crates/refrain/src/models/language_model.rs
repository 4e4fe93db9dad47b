//! The recurrent language model: embedding → stacked recurrent layers → linear head over the vocabulary.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::artefact::{Artefact, ArtefactError, Dtype, NamedTensor};
use super::config::{CellKind, LanguageModelConfig};
use crate::nn::{
    Cell, Dropout, DropoutSchedule, Embedding, EmbeddingConfig, GruConfig, Initializer, LayerConfig, Linear,
    LinearConfig, LstmConfig, MinGruConfig, Nonlinearity, RecurrentState, RnnConfig, Stack, StackConfig, values,
};
use crate::parameter_path::ParameterPath;

/// Places of dropout: the embedding, the head, and from the third on the boundaries between layers.
const EMBEDDING_SITE: u8 = 0;
const OUTPUT_SITE: u8 = 1;
const FIRST_LAYER_SITE: usize = 2;

impl LanguageModelConfig {
    /// A model with initial weights, which depend on `seed` alone.
    pub fn init(&self, vocab_size: usize, seed: u64, device: &Device) -> LanguageModel {
        let init = &mut Initializer::new(seed, device);
        LanguageModel {
            embedding: EmbeddingConfig { vocab_size, embedding_size: self.embedding_size }.init(init),
            recurrent: StackConfig { dropout: self.dropout, ..StackConfig::uniform(self.layer(), self.num_layers) }
                .init(init),
            head: LinearConfig { precision: self.precision.into(), ..LinearConfig::new(self.hidden_size, vocab_size) }
                .init(init),
            embedding_dropout: self.embedding_dropout,
            output_dropout: self.output_dropout,
            weights: Dtype::F32,
        }
    }

    /// The lowest recurrent layer.
    fn layer(&self) -> LayerConfig {
        let Self { embedding_size: input_size, hidden_size, .. } = *self;
        let forget_bias = self.forget_bias.into();
        let precision = self.precision.into();
        let rnn = |nonlinearity| RnnConfig { nonlinearity, precision, ..RnnConfig::new(input_size, hidden_size) };
        match self.cell {
            CellKind::Lstm => LstmConfig { forget_bias, precision, ..LstmConfig::new(input_size, hidden_size) }.into(),
            CellKind::Gru => GruConfig { precision, ..GruConfig::new(input_size, hidden_size) }.into(),
            CellKind::MinGru => MinGruConfig { precision, ..MinGruConfig::new(input_size, hidden_size) }.into(),
            CellKind::Rnn => rnn(Nonlinearity::Tanh).into(),
            CellKind::RnnRelu => rnn(Nonlinearity::Relu).into(),
        }
    }

    /// The path and shape of every parameter of a model that [`init`](Self::init) would make, before memory is spent on
    /// one. The sizes may be any that a file claims.
    pub(crate) fn shapes(&self, vocab_size: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        let Self { embedding_size, hidden_size, .. } = *self;
        let cell = Cell::from(self.cell);
        let [gates, recurrent_gates, biases] = [cell.num_gates(), cell.num_recurrent_gates(), cell.num_biases()]
            .map(|count| hidden_size.saturating_mul(count));
        let layers = (0..self.num_layers).flat_map(move |layer| {
            let input_size = if layer == 0 { embedding_size } else { hidden_size };
            let name = move |name: &str| format!("recurrent.layers.{layer}.{name}");
            let weight_hh = (recurrent_gates > 0).then(|| (name("weight_hh"), vec![recurrent_gates, hidden_size]));
            let others = [(name("weight_ih"), vec![gates, input_size]), (name("bias"), vec![biases])];
            others.into_iter().chain(weight_hh)
        });
        let outer = [
            ("embedding.weight".to_owned(), vec![vocab_size, embedding_size]),
            ("head.weight".to_owned(), vec![vocab_size, hidden_size]),
            ("head.bias".to_owned(), vec![vocab_size]),
        ];
        outer.into_iter().chain(layers)
    }
}

/// A language model: from the tokens so far, the distribution of the next.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// `[vocab_size, embedding_size]`.
    pub embedding: Embedding,
    /// The recurrent layers.
    pub recurrent: Stack,
    /// `[vocab_size, hidden_size]`.
    pub head: Linear,
    embedding_dropout: f64,
    output_dropout: f64,
    #[module(skip)]
    weights: Dtype,
}

/// The name of a parameter that says in what the weights of a model are kept, since all of them are alike.
const REPRESENTATIVE: &str = "head.weight";

/// In what a parameter of a model is kept whose weights are kept in `weights`. That is the matrices of products: of the
/// embedding, a token reads one row.
fn dtype_of(name: &str, shape: &[usize], weights: Dtype) -> Dtype {
    let is_factor = shape.len() == 2 && !name.starts_with("embedding.");
    if is_factor { weights } else { Dtype::F32 }
}

/// One state a layer, from the lowest up.
pub type LanguageModelState = Vec<RecurrentState>;

impl LanguageModel {
    /// The top layer's hidden states, as rows: `[batch_size * seq_len, hidden_size]`.
    fn features(
        &self,
        tokens: Tensor<2, Int>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<2>, LanguageModelState) {
        let [batch_size, seq_len] = tokens.dims();
        let embedded = self.embedding.forward(tokens);
        let embedded = Dropout { probability: self.embedding_dropout }.forward(embedded, schedule, EMBEDDING_SITE);
        let inner = schedule.map(|schedule| schedule.at(FIRST_LAYER_SITE));
        let (output, state) = self.recurrent.forward(embedded, None, state, inner);
        let output = Dropout { probability: self.output_dropout }.forward(output, schedule, OUTPUT_SITE);
        let [_, _, hidden_size] = output.dims();
        (output.reshape([batch_size * seq_len, hidden_size]), state)
    }

    /// The mean cross entropy in nats, `[1]`, and the state after the window.
    ///
    /// # Shapes
    /// - `inputs`, `targets`: `[batch_size, seq_len]`
    pub fn loss(
        &self,
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<1>, LanguageModelState) {
        let num_tokens = targets.dims().iter().product::<usize>();
        let (features, state) = self.features(inputs, state, schedule);
        (self.head.cross_entropy(features, targets.reshape([num_tokens])), state)
    }

    /// The cross entropy of every token in nats, `[batch_size * seq_len]`, without dropout. Shapes as
    /// [`LanguageModel::loss`].
    pub fn token_losses(
        &self,
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LanguageModelState>,
    ) -> (Tensor<1>, LanguageModelState) {
        let num_tokens = targets.dims().iter().product::<usize>();
        let (features, state) = self.features(inputs, state, None);
        (self.head.token_losses(features, targets.reshape([num_tokens])), state)
    }

    /// In what the weights of recurrent layers and head are kept in a file, and where single steps are computed from them.
    /// Here they are numbers like any other: in [`Dtype::I8`], those that the multiples stand for, until training changes them.
    pub fn weights(&self) -> Dtype {
        self.weights
    }

    /// Every parameter by its path, such as `recurrent.layers.0.weight_hh`, in the order of the model.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        let mut reader = Reader::default();
        self.visit(&mut reader);
        for tensor in &mut reader.tensors {
            tensor.dtype = dtype_of(&tensor.name, &tensor.shape, self.weights);
        }
        reader.tensors
    }

    /// The parameters with the weights of recurrent layers and head in eight bits.
    pub(super) fn to_quantized_tensors(&self) -> Vec<NamedTensor> {
        let quantized = |tensor: NamedTensor| match dtype_of(&tensor.name, &tensor.shape, Dtype::I8) {
            Dtype::I8 => tensor.quantized(),
            Dtype::F32 => tensor,
        };
        self.to_tensors().into_iter().map(quantized).collect()
    }

    /// The model with its parameters taken from `artefact`.
    ///
    /// # Errors
    /// When a parameter is missing, of another shape, or kept in eight bits where others of its kind are not.
    pub fn with_tensors(self, artefact: &Artefact) -> Result<Self, ArtefactError> {
        let representative = artefact.tensors.iter().find(|tensor| tensor.name == REPRESENTATIVE);
        let weights = representative.map_or(Dtype::F32, |tensor| tensor.dtype);
        let mut writer = Writer { path: ParameterPath::default(), artefact, weights, error: None };
        let model = self.map(&mut writer);
        match writer.error {
            Some(error) => Err(error),
            None => Ok(Self { weights, ..model }),
        }
    }
}

#[derive(Default)]
struct Reader {
    path: ParameterPath,
    tensors: Vec<NamedTensor>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.val().dims().to_vec();
        self.tensors.push(NamedTensor::new(self.path.to_string(), shape, values(param.val())));
    }
}

struct Writer<'a> {
    path: ParameterPath,
    artefact: &'a Artefact,
    weights: Dtype,
    error: Option<ArtefactError>,
}

impl ModuleMapper for Writer<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.val().dims();
        let name = self.path.to_string();
        let found = self.artefact.get(&name, &shape).and_then(|found| {
            self.artefact.require_dtype(found, dtype_of(&name, &shape, self.weights))?;
            Ok(found)
        });
        match found {
            Ok(found) => param.map(|tensor| {
                let data = TensorData::new(found.values.clone(), shape);
                Tensor::from_data(data, &tensor.device()).set_require_grad(tensor.is_require_grad())
            }),
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_those_of_the_model() {
        for &cell in CellKind::ALL {
            let sizes = LanguageModelConfig { embedding_size: 3, hidden_size: 5, num_layers: 3, ..Default::default() };
            let config = LanguageModelConfig { cell, ..sizes };
            let mut model: Vec<(String, Vec<usize>)> = config
                .init(7, 1, &Device::flex())
                .to_tensors()
                .into_iter()
                .map(|tensor| (tensor.name, tensor.shape))
                .collect();
            let mut shapes: Vec<_> = config.shapes(7).collect();
            model.sort();
            shapes.sort();
            assert_eq!(shapes, model, "{cell}");
        }
    }
}
