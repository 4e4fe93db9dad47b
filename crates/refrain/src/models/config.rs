//! The shape of a language model.

use serde::{Deserialize, Serialize};

use super::hidden_size::HiddenSize;
use crate::nn::{Cell, FeedForward, Memory, Normalization, Precision, ResetGate};
use crate::setting::{Allowed, Range, Setting, names, zero_is_none};

names! {
    /// The recurrent cell.
    pub enum CellKind {
        /// Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).
        #[default]
        Lstm = "lstm",
        /// Gated recurrent unit (Cho et al. 2014).
        Gru = "gru",
        /// Minimal gated recurrent unit (Feng et al. 2024).
        MinGru = "min-gru",
        /// Simple recurrence with tanh (Elman 1990).
        Rnn = "rnn",
        /// Simple recurrence with the rectifier, begun at the identity (Le et al. 2015).
        RnnRelu = "rnn-relu",
        /// No recurrence: blocks of self-attention (Vaswani et al. 2017), the yardstick for the others.
        Transformer = "transformer",
    }
}

impl CellKind {
    /// The cell of the kernels; none of a transformer.
    pub const fn recurrent(self) -> Option<Cell> {
        match self {
            Self::Lstm => Some(Cell::Lstm),
            Self::Gru => Some(Cell::Gru),
            Self::MinGru => Some(Cell::MinGru),
            Self::Rnn => Some(Cell::RnnTanh),
            Self::RnnRelu => Some(Cell::RnnRelu),
            Self::Transformer => None,
        }
    }
}

names! {
    /// The layer of a transformer's block that looks at one token alone.
    pub enum FeedForwardKind {
        /// Two matrices with the unit of Hendrycks and Gimpel 2016 between them.
        #[default]
        Gelu = "gelu",
        /// Three matrices, one of them a gate (Shazeer 2020).
        SwiGlu = "swiglu",
    }
}

impl From<FeedForwardKind> for FeedForward {
    fn from(kind: FeedForwardKind) -> Self {
        match kind {
            FeedForwardKind::Gelu => Self::Gelu,
            FeedForwardKind::SwiGlu => Self::SwiGlu,
        }
    }
}

names! {
    /// How a transformer knows where a token stands.
    pub enum PositionsKind {
        /// Queries and keys are turned by angles that grow with the position (Su et al. 2021).
        #[default]
        Rotary = "rotary",
        /// A learned vector for each place in the context (Gehring et al. 2017).
        Learned = "learned",
    }
}

names! {
    /// In what the factors of large products are kept, in training and after. Parameters, states and sums are f32.
    pub enum PrecisionKind {
        /// 24 bits.
        #[default]
        F32 = "f32",
        /// 8 bits: faster on a processor with instructions for it.
        Bf16 = "bf16",
    }
}

impl From<PrecisionKind> for Precision {
    fn from(kind: PrecisionKind) -> Self {
        match kind {
            PrecisionKind::F32 => Self::F32,
            PrecisionKind::Bf16 => Self::Bf16,
        }
    }
}

names! {
    /// Whether the sums of a cell are normalised.
    pub enum NormalizationKind {
        /// They are not.
        #[default]
        None = "none",
        /// Over all units, with learned gains (Ba et al. 2016).
        Layer = "layer",
    }
}

impl From<NormalizationKind> for Normalization {
    fn from(kind: NormalizationKind) -> Self {
        match kind {
            NormalizationKind::None => Self::None,
            NormalizationKind::Layer => Self::Layer,
        }
    }
}

names! {
    /// Where the reset gate of a GRU comes.
    pub enum ResetKind {
        /// After the recurrent product, as in cuDNN and PyTorch: one product a step.
        #[default]
        AfterProduct = "after-product",
        /// Before it, as in Cho et al. 2014.
        BeforeProduct = "before-product",
    }
}

impl From<ResetKind> for ResetGate {
    fn from(kind: ResetKind) -> Self {
        match kind {
            ResetKind::AfterProduct => Self::AfterProduct,
            ResetKind::BeforeProduct => Self::BeforeProduct,
        }
    }
}

/// Serde for how much of the forward pass is kept: a name, or every how many steps.
mod memory {
    use refrain_kernels::Memory;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// The square root has a second name, for keyboards.
    pub(super) const NAMES: &[&str] = &["all", "√T", "square-root"];

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written<'a> {
        Name(std::borrow::Cow<'a, str>),
        Every(usize),
    }

    pub(super) fn serialize<S: Serializer>(memory: &Memory, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match *memory {
            Memory::All => Written::Name("all".into()),
            Memory::SquareRoot => Written::Name("square-root".into()),
            Memory::Every(steps) => Written::Every(steps),
        };
        written.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Memory, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Name(name) if name == "all" => Ok(Memory::All),
            Written::Name(name) if name == "√T" || name == "square-root" => Ok(Memory::SquareRoot),
            Written::Name(name) => Err(D::Error::unknown_variant(&name, NAMES)),
            Written::Every(steps) => Ok(Memory::Every(steps)),
        }
    }
}

/// `[model]`: embedding → stacked recurrent layers, or the blocks of a transformer → linear head over the vocabulary.
#[expect(clippy::struct_excessive_bools, reason = "keys of a recipe, each of which is on or off")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LanguageModelConfig {
    /// The recurrent cell.
    pub cell: CellKind,
    /// Length of the vector that stands for a token; of a transformer `hidden-size`.
    pub embedding_size: usize,
    /// Units of the recurrent layers, the same in all or a list; features of a transformer's stream.
    pub hidden_size: HiddenSize,
    /// Recurrent layers, or blocks of a transformer, one on top of the other.
    pub num_layers: usize,
    /// Share of the units dropped between two recurrent layers; of a transformer, of all that its blocks add.
    pub dropout: f64,
    /// Share of the units dropped between the embedding and the first recurrent layer.
    pub embedding_dropout: f64,
    /// Share of the units dropped between the last recurrent layer and the head.
    pub output_dropout: f64,
    /// In what the factors of large products are kept.
    pub precision: PrecisionKind,
    /// The head has the embedding's weights (Press and Wolf 2017; Inan et al. 2017), of which there are then half as many. The
    /// last layer needs as many units as the embedding is long.
    pub tied_embeddings: bool,
    /// `dropout`, `embedding-dropout` and `output-dropout` drop the same units at every step of a window (Gal and Ghahramani
    /// 2016; `LockedDropout` of AWD-LSTM).
    pub variational_dropout: bool,
    /// Share of the vocabulary whose embeddings are zero for a window: whole words (Gal and Ghahramani 2016).
    pub token_dropout: f64,
    /// Share of the hidden state's units that the recurrent products of a window do not see (Gal and Ghahramani 2016).
    pub hidden_dropout: f64,
    /// Share of the candidate's units dropped, others at every step: nothing is forgotten by it (Semeniuta et al. 2016).
    pub recurrent_dropout: f64,
    /// Share of the recurrent weights dropped, the same ones at every step of a window (Merity et al. 2018).
    pub weight_drop: f64,
    /// Share of the hidden state's units that keep what they had (Krueger et al. 2017).
    pub zoneout_hidden: f64,
    /// lstm: share of the cell state's units that keep what they had.
    pub zoneout_cell: f64,
    /// Whether the sums of a cell are normalised.
    pub normalization: NormalizationKind,
    /// gru: where the reset gate comes.
    pub reset: ResetKind,
    /// lstm: the gates see the cell state of their own unit (Gers and Schmidhuber 2000).
    pub peepholes: bool,
    /// lstm: the input gate is what the forget gate leaves, a quarter fewer weights (Greff et al. 2017).
    pub coupled_gates: bool,
    /// lstm: units that the hidden units of each layer are projected to (Sak et al. 2014); 0 in a recipe: no projection.
    #[serde(with = "zero_is_none")]
    pub projection_size: Option<usize>,
    /// lstm: what the bias of the forget gate starts at.
    pub forget_bias: f64,
    /// Weights of the recurrent layers start uniform in plus or minus this; 0 in a recipe: Xavier input weights and orthogonal
    /// recurrent ones, or what else is usual for the cell.
    #[serde(with = "zero_is_none")]
    pub init_range: Option<f64>,
    /// Weights of embedding and head start uniform in plus or minus this; 0 in a recipe: standard normal the one, uniform in
    /// ±1/√units the other, and both where they are tied.
    #[serde(with = "zero_is_none")]
    pub embedding_init_range: Option<f64>,
    /// How much of the forward pass training keeps for the way back: all, or the states at every so many steps, or at about every √T-th of
    /// T steps, and the rest is computed again (Chen et al. 2016). The weights it comes to are the same to the bit.
    #[serde(with = "memory")]
    pub memory: Memory,
    /// transformer: parts that each token's vector is cut into, which attend by themselves.
    pub num_heads: usize,
    /// transformer: units of the layer of each block that looks at one token alone; 0 in a recipe: four times `hidden-size`.
    #[serde(with = "zero_is_none")]
    pub feed_forward_size: Option<usize>,
    /// transformer: its kind.
    pub feed_forward: FeedForwardKind,
    /// transformer: how it knows where a token stands.
    pub positions: PositionsKind,
    /// transformer: tokens that it sees at once. Behind them it forgets the older half and reads on from the newer one. 0 in a
    /// recipe: `train.seq-len`.
    #[serde(with = "zero_is_none")]
    pub context: Option<usize>,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        Self {
            cell: CellKind::default(),
            // char-rnn feeds one-hot characters; 128 is wide enough for the few thousand characters of Chinese text.
            embedding_size: 128,
            // char-rnn's 128 doubled: its README advises as large as time allows, and 256 is still quick on a laptop.
            hidden_size: HiddenSize::Same(256),
            // char-rnn, train.lua
            num_layers: 2,
            // char-rnn, train.lua
            dropout: 0.0,
            embedding_dropout: 0.0,
            output_dropout: 0.0,
            precision: PrecisionKind::default(),
            tied_embeddings: false,
            variational_dropout: false,
            token_dropout: 0.0,
            hidden_dropout: 0.0,
            recurrent_dropout: 0.0,
            weight_drop: 0.0,
            zoneout_hidden: 0.0,
            zoneout_cell: 0.0,
            normalization: NormalizationKind::default(),
            reset: ResetKind::default(),
            peepholes: false,
            coupled_gates: false,
            projection_size: None,
            // Jozefowicz et al. 2015, section 3.2: "a large bias of 1"
            forget_bias: 1.0,
            init_range: None,
            embedding_init_range: None,
            memory: Memory::default(),
            // Heads of 64 features of the 256 above, as in nanoGPT, config/train_shakespeare_char.py (6 of 384).
            num_heads: 4,
            feed_forward_size: None,
            feed_forward: FeedForwardKind::default(),
            positions: PositionsKind::default(),
            context: None,
        }
    }
}

/// More layers have no numbers of their own for the masks of each.
const MASKED_LAYERS: usize = 31;

impl LanguageModelConfig {
    /// Units of the last layer's output, which the head reads.
    pub fn output_size(&self) -> usize {
        self.layer_sizes(self.num_layers.saturating_sub(1))[2]
    }

    /// Features that a layer reads, its units, and those of its output.
    pub(super) fn layer_sizes(&self, layer: usize) -> [usize; 3] {
        let projection = self.projection_size.filter(|_| self.cell == CellKind::Lstm);
        let output_size = |layer| projection.unwrap_or(self.hidden_size.of(layer));
        let input_size = if layer == 0 { self.embedding_size } else { output_size(layer - 1) };
        [input_size, self.hidden_size.of(layer), output_size(layer)]
    }

    /// What does not go together, if anything: the key to blame, the problem, and what to do about it.
    pub(crate) fn conflict(&self) -> Option<(&'static str, String, String)> {
        let Self { embedding_size, num_layers, .. } = *self;
        if let Some(sizes) = self.hidden_size.listed().filter(|sizes| *sizes != num_layers) {
            return Some((
                "hidden-size",
                format!("`model.hidden-size` lists {sizes} sizes, and `model.num-layers` is {num_layers}"),
                format!("set model.num-layers = {sizes}, or a number for all layers"),
            ));
        }
        let output_size = self.output_size();
        if self.tied_embeddings && output_size != embedding_size {
            let (key, fitting) = if output_size == self.hidden_size.of(num_layers.saturating_sub(1)) {
                ("hidden-size", self.hidden_size.with_last(num_layers, embedding_size))
            } else {
                ("projection-size", embedding_size.into())
            };
            return Some((
                "tied-embeddings",
                format!(
                    "`model.tied-embeddings` needs a last layer of {embedding_size} units, as the embedding is long; it has {output_size}"
                ),
                format!("set model.{key} = {fitting}, or model.embedding-size = {output_size}"),
            ));
        }
        if self.cell == CellKind::Gru
            && self.reset == ResetKind::BeforeProduct
            && self.normalization == NormalizationKind::Layer
        {
            return Some((
                "reset",
                "`model.reset` = \"before-product\" does not go with `model.normalization` = \"layer\": there is no one product of the state".to_owned(),
                "leave one of them out".to_owned(),
            ));
        }
        if self.cell == CellKind::Transformer {
            return self.transformer_conflict();
        }
        let masks = [
            ("variational-dropout", f64::from(u8::from(self.variational_dropout))),
            ("hidden-dropout", self.hidden_dropout),
            ("recurrent-dropout", self.recurrent_dropout),
            ("weight-drop", self.weight_drop),
            ("zoneout-hidden", self.zoneout_hidden),
            ("zoneout-cell", self.zoneout_cell),
        ];
        let (key, _) = masks.into_iter().find(|(_, share)| *share > 0.0 && num_layers > MASKED_LAYERS)?;
        Some((
            key,
            format!("`model.{key}` is for at most {MASKED_LAYERS} layers, and there are {num_layers}"),
            format!("set model.num-layers = {MASKED_LAYERS}, or leave {key} out"),
        ))
    }

    /// The keys of a model of one cell.
    pub(crate) const fn settings(cell: CellKind) -> &'static [Setting] {
        const CELL: Setting = Setting::new("cell", Allowed::OneOf(CellKind::NAMES));
        const EMBEDDING: Setting = Setting::new("embedding-size", Allowed::Size(16_384));
        const HIDDEN: Setting = Setting::new("hidden-size", Allowed::SizeOrSizes(16_384));
        const STREAM: Setting = Setting::new("hidden-size", Allowed::Size(16_384));
        const LAYERS: Setting = Setting::new("num-layers", Allowed::Size(64));
        const TIED: Setting = Setting::new("tied-embeddings", Allowed::Boolean);
        const DROPOUT: Setting = share("dropout");
        const EMBEDDING_DROPOUT: Setting = share("embedding-dropout");
        const OUTPUT_DROPOUT: Setting = share("output-dropout");
        const VARIATIONAL: Setting = Setting::new("variational-dropout", Allowed::Boolean);
        const TOKEN_DROPOUT: Setting = share("token-dropout");
        const HIDDEN_DROPOUT: Setting = share("hidden-dropout");
        const RECURRENT_DROPOUT: Setting = share("recurrent-dropout");
        const WEIGHT_DROP: Setting = share("weight-drop");
        const ZONEOUT_HIDDEN: Setting = share("zoneout-hidden");
        const ZONEOUT_CELL: Setting = share("zoneout-cell");
        const NORMALIZATION: Setting = Setting::new("normalization", Allowed::OneOf(NormalizationKind::NAMES));
        const RESET: Setting = Setting::new("reset", Allowed::OneOf(ResetKind::NAMES));
        const PEEPHOLES: Setting = Setting::new("peepholes", Allowed::Boolean);
        const COUPLED: Setting = Setting::new("coupled-gates", Allowed::Boolean);
        const PROJECTION: Setting = Setting::new("projection-size", Allowed::SizeOrNone(16_384));
        const FORGET_BIAS: Setting = Setting::new("forget-bias", Allowed::Number(Range::Finite));
        const INIT: Setting = Setting::new("init-range", Allowed::Number(Range::NotNegative));
        const EMBEDDING_INIT: Setting = Setting::new("embedding-init-range", Allowed::Number(Range::NotNegative));
        const MEMORY: Setting = Setting::new("memory", Allowed::OneOfOrSize(memory::NAMES, 1_048_576));
        const PRECISION: Setting = Setting::new("precision", Allowed::OneOf(PrecisionKind::NAMES));
        const HEADS: Setting = Setting::new("num-heads", Allowed::Size(1024));
        const FEED_FORWARD_SIZE: Setting = Setting::new("feed-forward-size", Allowed::SizeOrNone(65_536));
        const FEED_FORWARD: Setting = Setting::new("feed-forward", Allowed::OneOf(FeedForwardKind::NAMES));
        const POSITIONS: Setting = Setting::new("positions", Allowed::OneOf(PositionsKind::NAMES));
        const CONTEXT: Setting = Setting::new("context", Allowed::SizeOrNone(1_048_576));
        const fn share(key: &'static str) -> Setting {
            Setting::new(key, Allowed::Number(Range::BelowOne))
        }
        #[rustfmt::skip]
        const LSTM: &[Setting] = &[
            CELL, EMBEDDING, HIDDEN, LAYERS, TIED,
            DROPOUT, EMBEDDING_DROPOUT, OUTPUT_DROPOUT, VARIATIONAL, TOKEN_DROPOUT,
            HIDDEN_DROPOUT, RECURRENT_DROPOUT, WEIGHT_DROP, ZONEOUT_HIDDEN, ZONEOUT_CELL,
            NORMALIZATION, PEEPHOLES, COUPLED, PROJECTION, FORGET_BIAS,
            INIT, EMBEDDING_INIT, MEMORY, PRECISION,
        ];
        #[rustfmt::skip]
        const GRU: &[Setting] = &[
            CELL, EMBEDDING, HIDDEN, LAYERS, TIED,
            DROPOUT, EMBEDDING_DROPOUT, OUTPUT_DROPOUT, VARIATIONAL, TOKEN_DROPOUT,
            HIDDEN_DROPOUT, RECURRENT_DROPOUT, WEIGHT_DROP, ZONEOUT_HIDDEN,
            NORMALIZATION, RESET,
            INIT, EMBEDDING_INIT, MEMORY, PRECISION,
        ];
        #[rustfmt::skip]
        const MIN_GRU: &[Setting] = &[
            CELL, EMBEDDING, HIDDEN, LAYERS, TIED,
            DROPOUT, EMBEDDING_DROPOUT, OUTPUT_DROPOUT, VARIATIONAL, TOKEN_DROPOUT,
            RECURRENT_DROPOUT, ZONEOUT_HIDDEN,
            INIT, EMBEDDING_INIT, MEMORY, PRECISION,
        ];
        #[rustfmt::skip]
        const RNN: &[Setting] = &[
            CELL, EMBEDDING, HIDDEN, LAYERS, TIED,
            DROPOUT, EMBEDDING_DROPOUT, OUTPUT_DROPOUT, VARIATIONAL, TOKEN_DROPOUT,
            HIDDEN_DROPOUT, WEIGHT_DROP, ZONEOUT_HIDDEN,
            NORMALIZATION,
            INIT, EMBEDDING_INIT, MEMORY, PRECISION,
        ];
        #[rustfmt::skip]
        const TRANSFORMER: &[Setting] = &[
            CELL, STREAM, LAYERS, HEADS, FEED_FORWARD_SIZE, FEED_FORWARD, POSITIONS, CONTEXT, TIED,
            DROPOUT, EMBEDDING_DROPOUT, OUTPUT_DROPOUT, TOKEN_DROPOUT,
            EMBEDDING_INIT, PRECISION,
        ];
        match cell {
            CellKind::Lstm => LSTM,
            CellKind::Gru => GRU,
            CellKind::MinGru => MIN_GRU,
            CellKind::Rnn | CellKind::RnnRelu => RNN,
            CellKind::Transformer => TRANSFORMER,
        }
    }
}
