//! What is trained and what scores: a language model, and one whose layers read from both ends.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor};
use refrain::models::LanguageModel;
use refrain::nn::{
    BidirectionalConfig, Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, LstmConfig, Precision,
    StackConfig,
};

use super::cases::ModelShape;

/// From tokens `[batch_size, seq_len]` to the loss of as many targets.
pub(super) trait Network: Module + 'static {
    /// The mean cross entropy: `[1]`.
    fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1>;

    /// The cross entropy of every token.
    fn token_losses(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1>;

    /// Elements of the matrices that each token is multiplied by.
    fn factors(&self) -> usize;
}

impl Network for LanguageModel {
    fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        self.loss(inputs, targets, None, None).0
    }

    fn token_losses(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        self.token_losses(inputs, targets, None).0
    }

    fn factors(&self) -> usize {
        factors(&self.recurrent) + factors(&self.transformer) + factors(&self.head)
    }
}

/// Embedding, LSTM layers that read from both ends, linear head: a tagger, as training and scoring see it.
#[derive(Module, Debug)]
pub(super) struct Bidirectional {
    embedding: Embedding,
    recurrent: refrain::nn::Bidirectional,
    head: Linear,
}

impl Bidirectional {
    /// A network of LSTM layers, for training.
    pub(super) fn new(shape: ModelShape, precision: Precision, seed: u64) -> Self {
        let ModelShape { vocab_size, hidden_size, num_layers, num_directions, .. } = shape;
        let device = Device::flex().autodiff();
        let init = &mut Initializer::new(seed, &device);
        let layer = LstmConfig { precision, ..LstmConfig::new(hidden_size, hidden_size) };
        let head = LinearConfig { precision, ..LinearConfig::new(num_directions * hidden_size, vocab_size) };
        Self {
            embedding: EmbeddingConfig { vocab_size, embedding_size: hidden_size }.init(init),
            recurrent: BidirectionalConfig::new(StackConfig::uniform(layer, num_layers)).init(init),
            head: head.init(init),
        }
    }

    /// Both directions at every step, as rows.
    fn features(&self, inputs: Tensor<2, Int>) -> Tensor<2> {
        let (output, _) = self.recurrent.forward(self.embedding.forward(inputs), None, None, None);
        output.flatten(0, 1)
    }
}

impl Network for Bidirectional {
    fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        self.head.cross_entropy(self.features(inputs), targets.flatten(0, 1))
    }

    fn token_losses(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        self.head.token_losses(self.features(inputs), targets.flatten(0, 1))
    }

    fn factors(&self) -> usize {
        factors(&self.recurrent) + factors(&self.head)
    }
}

/// Elements of all matrices of a module, which are the factors of its products; what has one rank is added or scales.
pub(super) fn factors<M: Module>(module: &M) -> usize {
    struct Matrices(usize);
    impl ModuleVisitor for Matrices {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D == 2 {
                self.0 += param.val().dims().iter().product::<usize>();
            }
        }
    }
    let mut matrices = Matrices(0);
    module.visit(&mut matrices);
    matrices.0
}
