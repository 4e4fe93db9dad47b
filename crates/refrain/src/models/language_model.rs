//! The language model: embedding → stacked recurrent layers, or a transformer in their place → linear head over the vocabulary.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, module};

use super::artefact::{Artefact, ArtefactError, Dtype, NamedTensor};
use super::config::{CellKind, LanguageModelConfig, NormalizationKind};
use super::state::LanguageModelState;
use super::transformer::ContextReader;
use crate::nn::{
    Cell, Connection, Dropout, DropoutSchedule, Embedding, EmbeddingConfig, GruConfig, InitialWeights, Initializer,
    InputGate, LayerConfig, Linear, LinearConfig, LstmConfig, MinGruConfig, Nonlinearity, Peepholes, Precision,
    RecurrentOptions, RnnConfig, Stack, StackConfig, Transformer, VariationalDropout, values,
};
use crate::parameter_path::ParameterPath;

/// Places of dropout: the embedding, the head, from the third on the layers, and at the end the tokens.
const EMBEDDING_SITE: u8 = 0;
const OUTPUT_SITE: u8 = 1;
const FIRST_LAYER_SITE: usize = 2;
const TOKEN_SITE: u8 = u8::MAX;

impl LanguageModelConfig {
    /// A model with initial weights, which depend on `seed` alone.
    ///
    /// # Panics
    /// If an option does not go with another, which recipes are checked for.
    pub fn init(&self, vocab_size: usize, seed: u64, device: &Device) -> LanguageModel {
        self.init_by(&mut Initializer::new(seed, device), vocab_size)
    }

    /// A model for [`LanguageModel::with_tensors`] to fill: random weights, orthogonal ones before all, take longer to draw than a
    /// file to read.
    pub(super) fn blank(&self, vocab_size: usize, device: &Device) -> LanguageModel {
        self.init_by(&mut Initializer::blank(device), vocab_size)
    }

    fn init_by(&self, init: &mut Initializer<'_>, vocab_size: usize) -> LanguageModel {
        if let Some((_, problem, _)) = self.conflict() {
            panic!("{problem}");
        }
        let output_size = self.output_size();
        let mut embedding = EmbeddingConfig { vocab_size, embedding_size: self.embedding_size }.init(init);
        // What both would begin with is for the head: its scores are products of many weights.
        let tied_range = self.tied_embeddings.then(|| 1.0 / (output_size as f64).sqrt());
        if let Some(range) = self.embedding_init_range.or(tied_range) {
            embedding.weight = init.uniform([vocab_size, self.embedding_size], range);
        }
        let transformer = self.transformer().map(|config| config.init(init));
        let recurrent = if transformer.is_some() {
            Stack::from_layers(Vec::new(), 0.0)
        } else {
            StackConfig {
                layers: (0..self.num_layers).map(|layer| self.layer(layer)).collect(),
                dropout: if self.variational_dropout { 0.0 } else { self.dropout },
                connection: Connection::Plain,
            }
            .init(init)
        };
        let Linear { weight, bias, precision } =
            LinearConfig { precision: self.precision.into(), ..LinearConfig::new(output_size, vocab_size) }.init(init);
        let weight = match self.embedding_init_range {
            _ if self.tied_embeddings => None,
            Some(range) => Some(init.uniform([vocab_size, output_size], range)),
            None => Some(weight),
        };
        LanguageModel {
            embedding,
            recurrent,
            transformer,
            context: self.context.unwrap_or_default(),
            head: Head { weight, bias, precision },
            dropout: InputDropout {
                token: self.token_dropout,
                // A layer drops its input itself where the same units go at every step.
                embedding: if self.variational_dropout { 0.0 } else { self.embedding_dropout },
                output: self.output_dropout,
                variational: self.variational_dropout,
            },
            weights: Dtype::F32,
        }
    }

    /// A recurrent layer, counted from the lowest. What a cell does not have is of no account.
    fn layer(&self, layer: usize) -> LayerConfig {
        let [input_size, hidden_size, _] = self.layer_sizes(layer);
        let cell = self.cell.recurrent().expect("a transformer has no recurrent layers");
        let share = |share: f64, has: bool| if has { share } else { 0.0 };
        let has_products = cell.num_recurrent_gates() > 0;
        let input_dropout = if layer == 0 { self.embedding_dropout } else { self.dropout };
        let options = RecurrentOptions {
            input_dropout: share(input_dropout, self.variational_dropout),
            hidden_dropout: share(self.hidden_dropout, has_products),
            recurrent_dropout: share(self.recurrent_dropout, cell.has_candidate()),
            zoneout_hidden: self.zoneout_hidden,
            zoneout_cell: share(self.zoneout_cell, cell.has_cell_state()),
            weight_drop: share(self.weight_drop, has_products),
            memory: self.memory,
        };
        let weights = self.init_range.map(|bound| InitialWeights::Uniform { bound });
        let (input_weights, recurrent_weights) = (weights, weights);
        let (precision, normalization) = (self.precision.into(), self.normalization.into());
        let rnn = |nonlinearity| RnnConfig {
            nonlinearity,
            normalization,
            input_weights,
            recurrent_weights,
            precision,
            options,
            ..RnnConfig::new(input_size, hidden_size)
        };
        match self.cell {
            CellKind::Lstm => LstmConfig {
                forget_bias: self.forget_bias.into(),
                input_gate: if self.coupled_gates { InputGate::Coupled } else { InputGate::Own },
                peepholes: if self.peepholes { Peepholes::Diagonal } else { Peepholes::None },
                projection_size: self.projection_size,
                precision,
                normalization,
                input_weights,
                recurrent_weights,
                options,
                ..LstmConfig::new(input_size, hidden_size)
            }
            .into(),
            CellKind::Gru => GruConfig {
                reset: self.reset.into(),
                precision,
                normalization,
                input_weights,
                recurrent_weights,
                options,
                ..GruConfig::new(input_size, hidden_size)
            }
            .into(),
            CellKind::MinGru => {
                MinGruConfig { input_weights, precision, options, ..MinGruConfig::new(input_size, hidden_size) }.into()
            }
            CellKind::Rnn => rnn(Nonlinearity::Tanh).into(),
            CellKind::RnnRelu => rnn(Nonlinearity::Relu).into(),
            CellKind::Transformer => unreachable!("a transformer has no recurrent layers"),
        }
    }

    /// The path and shape of every parameter of a model that [`init`](Self::init) would make, before memory is spent on
    /// one. The sizes may be any that a file claims.
    pub(crate) fn shapes(&self, vocab_size: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        let head = (!self.tied_embeddings).then(|| ("head.weight".to_owned(), vec![vocab_size, self.output_size()]));
        let outer = [
            ("embedding.weight".to_owned(), vec![vocab_size, self.embedding_size]),
            ("head.bias".to_owned(), vec![vocab_size]),
        ];
        let layers = (0..self.num_layers).flat_map(|layer| self.layer_shapes(layer));
        outer.into_iter().chain(head).chain(layers).chain(self.shapes_around_blocks())
    }

    fn layer_shapes(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let [input_size, hidden_size, state_size] = self.layer_sizes(layer);
        let is_lstm = self.cell == CellKind::Lstm;
        let cell = if is_lstm && self.coupled_gates { Some(Cell::CoupledLstm) } else { self.cell.recurrent() };
        let Some(cell) = cell else { return self.block_shapes(layer) };
        let [gates, recurrent_gates, biases] = [cell.num_gates(), cell.num_recurrent_gates(), cell.num_biases()]
            .map(|count| hidden_size.saturating_mul(count));
        let mut shapes = vec![("weight_ih", vec![gates, input_size]), ("bias", vec![biases])];
        if recurrent_gates > 0 {
            shapes.push(("weight_hh", vec![recurrent_gates, state_size]));
            if self.normalization == NormalizationKind::Layer {
                shapes.push(("norms.gain_ih", vec![gates]));
                shapes.push(("norms.gain_hh", vec![recurrent_gates]));
                shapes.extend(cell.has_cell_state().then(|| ("norms.cell_state", vec![hidden_size.saturating_mul(2)])));
            }
        }
        if is_lstm {
            shapes.extend(self.peepholes.then(|| ("peepholes", vec![hidden_size.saturating_mul(3)])));
            shapes.extend(self.projection_size.map(|size| ("projection", vec![size, hidden_size])));
        }
        shapes.into_iter().map(|(name, shape)| (format!("recurrent.layers.{layer}.{name}"), shape)).collect()
    }
}

/// A language model: from the tokens so far, the distribution of the next.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// `[vocab_size, embedding_size]`.
    pub embedding: Embedding,
    /// The recurrent layers; none of a transformer.
    pub recurrent: Stack,
    /// The blocks in their place, of a transformer.
    pub transformer: Option<Transformer>,
    /// Tokens that a transformer sees at once.
    #[module(skip)]
    pub(super) context: usize,
    /// What makes scores of the last layer's output.
    pub head: Head,
    #[module(skip)]
    dropout: InputDropout,
    #[module(skip)]
    weights: Dtype,
}

/// The linear layer over the vocabulary.
#[derive(Module, Debug)]
pub struct Head {
    /// `[vocab_size, hidden_size]`; none where it is the embedding's.
    pub weight: Option<Param<Tensor<2>>>,
    /// `[vocab_size]`.
    pub bias: Param<Tensor<1>>,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
}

/// What is dropped outside of the recurrent layers.
#[derive(Clone, Copy, Debug)]
struct InputDropout {
    token: f64,
    embedding: f64,
    output: f64,
    variational: bool,
}

/// The name of a parameter that says in what the weights of a model are kept, since all of them are alike.
const REPRESENTATIVE: &str = "recurrent.layers.0.weight_ih";

/// In what a parameter of a model is kept whose weights are kept in `weights`. That is the matrices of products: of the
/// embedding, a token reads one row.
fn dtype_of(name: &str, shape: &[usize], weights: Dtype) -> Dtype {
    let is_factor = shape.len() == 2 && !name.starts_with("embedding.");
    if is_factor { weights } else { Dtype::F32 }
}

impl LanguageModel {
    /// Where the model is.
    pub fn device(&self) -> Device {
        self.embedding.weight.val().device()
    }

    /// The layer over the vocabulary with the weights that it has or shares.
    pub(super) fn linear(&self) -> Linear {
        let Head { weight, bias, precision } = self.head.clone();
        Linear { weight: weight.unwrap_or_else(|| self.embedding.weight.clone()), bias, precision }
    }

    /// The outputs of the layers between embedding and head, and the state after them.
    fn layers(
        &self,
        tokens: Tensor<2, Int>,
        embedded: Tensor<3>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, LanguageModelState) {
        let Some(transformer) = &self.transformer else {
            let state = state.map(LanguageModelState::into_recurrent);
            let (output, state) = self.recurrent.forward(embedded, None, state, schedule);
            return (output, LanguageModelState::Recurrent(state));
        };
        let seen = state.map(LanguageModelState::into_seen);
        let reader = ContextReader { embedding: &self.embedding, transformer, context: self.context };
        let (output, seen) = reader.read(tokens, embedded, seen, schedule);
        (output, LanguageModelState::Transformer(Box::new(seen)))
    }

    /// The top layer's hidden states before and after dropout: `[batch_size, seq_len, hidden_size]`.
    pub(super) fn features(
        &self,
        tokens: Tensor<2, Int>,
        state: Option<LanguageModelState>,
        schedule: Option<DropoutSchedule>,
    ) -> ([Tensor<3>; 2], LanguageModelState) {
        let InputDropout { token, embedding, output: probability, variational } = self.dropout;
        let mut embedded = self.embedding.forward(tokens.clone());
        if schedule.is_some() && token > 0.0 {
            let [vocab_size, _] = self.embedding.weight.dims();
            let kept = Tensor::<2>::ones([vocab_size, 1], &embedded.device());
            let kept = Dropout { probability: token }.forward(kept, schedule, TOKEN_SITE);
            embedded = embedded * module::embedding(kept, tokens.clone());
        }
        let embedded = Dropout { probability: embedding }.forward(embedded, schedule, EMBEDDING_SITE);
        let inner = schedule.map(|schedule| schedule.at(FIRST_LAYER_SITE));
        let (output, state) = self.layers(tokens, embedded, state, inner);
        let dropped = if variational {
            VariationalDropout { probability }.forward(output.clone(), schedule, OUTPUT_SITE)
        } else {
            Dropout { probability }.forward(output.clone(), schedule, OUTPUT_SITE)
        };
        ([output, dropped], state)
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::models::ResetKind;

    #[test]
    fn whole_words_are_dropped_wherever_they_stand() {
        let device = Device::flex();
        let config =
            LanguageModelConfig { token_dropout: 0.5, embedding_size: 4, hidden_size: 4.into(), ..Default::default() };
        let model = config.init(40, 1, &device);
        let ids: Vec<i32> = (0..80).map(|at| at % 40).collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 80]), &device);
        let kept = Tensor::<2>::ones([40, 1], &device);
        let schedule = Some(DropoutSchedule::new(9, 4));
        let kept = values(Dropout { probability: 0.5 }.forward(kept, schedule, TOKEN_SITE));
        assert!(kept.iter().all(|&factor| [0.0f32, 2.0].map(f32::to_bits).contains(&factor.to_bits())));
        let dropped = kept.iter().filter(|&&factor| factor == 0.0).count();
        assert!((8..=32).contains(&dropped), "{dropped} of 40");
        // Every token twice: what is dropped in one place is in the other.
        let scaled: Vec<f32> = values(model.embedding.weight.val())
            .chunks(4)
            .zip(&kept)
            .flat_map(|(row, factor)| row.iter().map(move |value| value * factor))
            .collect();
        let mut by_hand = config.clone();
        by_hand.token_dropout = 0.0;
        let mut tensors = model.to_tensors();
        tensors[0].values = scaled;
        let by_hand =
            by_hand.init(40, 2, &device).with_tensors(&Artefact::new(tensors, BTreeMap::new())).expect("sound");
        let loss = |model: &LanguageModel| values(model.loss(tokens.clone(), tokens.clone(), None, schedule).0);
        assert_eq!(loss(&model), loss(&by_hand));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let base = LanguageModelConfig { embedding_size: 4, hidden_size: 5.into(), ..Default::default() };
        let key = |config: LanguageModelConfig| config.conflict().map(|(key, _, _)| key);
        assert_eq!(key(base.clone()), None);
        assert_eq!(key(LanguageModelConfig { tied_embeddings: true, ..base.clone() }), Some("tied-embeddings"));
        let projected = LanguageModelConfig { tied_embeddings: true, projection_size: Some(4), ..base.clone() };
        assert_eq!(key(projected), None);
        let gru = LanguageModelConfig {
            cell: CellKind::Gru,
            reset: ResetKind::BeforeProduct,
            normalization: NormalizationKind::Layer,
            ..base.clone()
        };
        assert_eq!(key(gru), Some("reset"));
        let deep = LanguageModelConfig { num_layers: 32, weight_drop: 0.5, ..base };
        assert_eq!(key(deep.clone()), Some("weight-drop"));
        let device = Device::flex();
        let deepest = LanguageModelConfig { num_layers: 31, zoneout_cell: 0.1, ..deep };
        let tokens = Tensor::<2, Int>::zeros([2, 6], &device);
        deepest.init(7, 1, &device).loss(tokens.clone(), tokens, None, Some(DropoutSchedule::new(1, 0)));
    }
}
