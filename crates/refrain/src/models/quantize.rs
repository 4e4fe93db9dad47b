//! From a trained model to one whose weights are in eight bits, for inference.

use super::artefact::{Artefact, ArtefactError, Dtype};
use super::config::{LanguageModelConfig, PrecisionKind};
use super::trained::{Provenance, TrainedModel};

/// A model that cannot be quantised.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// Its weights are in eight bits; from these there is no way back to those that they were made from.
    #[error("the weights are in int8 already")]
    Quantized,
    /// It is a transformer, whose blocks have no products in eight bits.
    #[error("a transformer has no weights in int8; only recurrent models do")]
    Transformer,
    /// A weight is infinite or not a number.
    #[error(transparent)]
    Weights(#[from] ArtefactError),
}

impl QuantizeError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Quantized => Some("quantise the model file that it was made from".into()),
            Self::Transformer => Some("go on with the model as it is".into()),
            Self::Weights(error) => error.hint(),
        }
    }
}

impl TrainedModel {
    /// The model with the weights of its recurrent layers and its head in eight bits: each the nearest multiple of a step, of
    /// which the greatest weight of its row is 127. Embedding and biases stay as they are.
    ///
    /// A head that shares the embedding's weights stays as it is with them. It computes in f32, whatever the precision before, since
    /// its states and sums are f32. It is for inference: a checkpoint that holds one is refused.
    ///
    /// # Errors
    /// When its weights are in eight bits already, or are not all finite, or it is a transformer.
    pub fn quantize(&self) -> Result<Self, QuantizeError> {
        if self.model.weights() != Dtype::F32 {
            return Err(QuantizeError::Quantized);
        }
        if self.model.transformer.is_some() {
            return Err(QuantizeError::Transformer);
        }
        // Before rounding, which would hide what is not finite.
        let artefact = self.to_artefact();
        artefact.require_finite()?;
        let artefact = Artefact { tensors: self.model.to_quantized_tensors(), ..artefact };
        let config = LanguageModelConfig { precision: PrecisionKind::F32, ..self.config.clone() };
        let device = self.model.device();
        let model = config.blank(self.vocabulary.len(), &device).with_tensors(&artefact)?;
        let provenance = Provenance { refrain: env!("CARGO_PKG_VERSION").to_owned(), ..self.provenance.clone() };
        Ok(Self { model, config, provenance, vocabulary: self.vocabulary.clone(), recipe: self.recipe.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use refrain_kernels::WeightFormat;

    use super::*;
    use crate::models::{CellKind, LanguageModelStepper, NamedTensor};
    use crate::text::Vocabulary;

    const RECURRENT: &[CellKind] = &[CellKind::Lstm, CellKind::Gru, CellKind::MinGru, CellKind::Rnn, CellKind::RnnRelu];

    const TEXT: &str = "to be, or not to be, that is the question";

    fn trained(cell: CellKind, precision: PrecisionKind) -> TrainedModel {
        let config = LanguageModelConfig {
            cell,
            precision,
            embedding_size: 6,
            hidden_size: 11.into(),
            ..LanguageModelConfig::default()
        };
        let vocabulary = Vocabulary::chars(TEXT, 1);
        let model = config.init(vocabulary.len(), 4, &Device::flex());
        let provenance =
            Provenance { refrain: "0.0.1".into(), step: 3, epoch: 0.5, valid_loss_nats: None, corpus: String::new() };
        TrainedModel { model, config, vocabulary, recipe: "seed = 4".into(), provenance }
    }

    fn of_cell(cell: CellKind) -> TrainedModel {
        trained(cell, PrecisionKind::F32)
    }

    /// The model with its tensors changed.
    fn changed(
        model: &TrainedModel,
        change: impl FnOnce(&mut Vec<NamedTensor>),
    ) -> Result<TrainedModel, ArtefactError> {
        let mut artefact = model.to_artefact();
        change(&mut artefact.tensors);
        TrainedModel::from_artefact(&artefact, &Device::flex())
    }

    #[test]
    fn a_quantised_model_comes_out_of_its_file_to_the_bit() {
        for &cell in RECURRENT {
            let original = of_cell(cell);
            let quantized = original.quantize().expect("sound");
            let bytes = quantized.to_artefact().to_bytes().expect("sound");
            let artefact = Artefact::from_bytes(&bytes, Path::new("int8.safetensors")).expect("sound");
            let read = TrainedModel::from_artefact(&artefact, &Device::flex()).expect("sound");
            assert_eq!((read.model.weights(), original.model.weights()), (Dtype::I8, Dtype::F32));
            assert_eq!(read.model.to_tensors(), quantized.model.to_tensors(), "{cell}");
            assert!(read.to_artefact().to_bytes().expect("sound") == bytes, "{cell}");
            assert_eq!((read.recipe, read.provenance.step), (original.recipe, original.provenance.step));
            assert_eq!(read.provenance.refrain, env!("CARGO_PKG_VERSION"));
        }
    }

    #[test]
    fn weights_are_rounded_to_half_a_step_and_all_else_stays() {
        for &cell in RECURRENT {
            let original = of_cell(cell);
            let before = original.model.to_tensors();
            let after = original.quantize().expect("sound").model.to_tensors();
            let mut in_eight_bits = Vec::new();
            for (before, after) in before.iter().zip(&after) {
                if after.dtype == Dtype::F32 {
                    assert_eq!(before, after);
                    continue;
                }
                in_eight_bits.push(after.name.as_str());
                assert_ne!(before.values, after.values, "{}", after.name);
                let rows = before.values.chunks(before.shape[1]).zip(after.values.chunks(after.shape[1]));
                for (before, after) in rows {
                    let greatest = before.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
                    let error = before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(error <= greatest / 127.0 * 0.501, "{error} in a row of up to {greatest}");
                }
            }
            let mut expected = vec![
                "recurrent.layers.0.weight_ih",
                "recurrent.layers.0.weight_hh",
                "recurrent.layers.1.weight_ih",
                "recurrent.layers.1.weight_hh",
                "head.weight",
            ];
            expected.retain(|name| cell != CellKind::MinGru || !name.ends_with("weight_hh"));
            assert_eq!(in_eight_bits, expected, "{cell}");
        }
    }

    #[test]
    fn it_steps_by_the_weights_that_a_stepper_in_eight_bits_makes_of_the_original() {
        for &cell in RECURRENT {
            let original = of_cell(cell);
            let quantized = original.quantize().expect("sound");
            let scores = |stepper: LanguageModelStepper| {
                let mut state = stepper.state(2);
                (1..8).map(|token| stepper.step(&[token, 8 - token], &mut state)).collect::<Vec<_>>()
            };
            let in_memory = scores(LanguageModelStepper::with_format(&original.model, WeightFormat::Int8));
            assert_eq!(scores(LanguageModelStepper::new(&quantized.model)), in_memory, "{cell}");
            assert_ne!(scores(LanguageModelStepper::new(&original.model)), in_memory, "{cell}");
        }
    }

    #[test]
    fn a_model_in_bf16_is_rounded_from_its_f32_weights_and_computes_in_f32_from_there() {
        let in_bf16 = trained(CellKind::Lstm, PrecisionKind::Bf16);
        let quantized = in_bf16.quantize().expect("sound");
        assert_eq!(quantized.config, LanguageModelConfig { precision: PrecisionKind::F32, ..in_bf16.config });
        let in_f32 = of_cell(CellKind::Lstm).quantize().expect("sound");
        assert_eq!(quantized.model.to_tensors(), in_f32.model.to_tensors());
        assert_eq!(quantized.model.head.precision, in_f32.model.head.precision);
    }

    #[test]
    fn what_cannot_be_quantised_is_refused() {
        let mut transformer = of_cell(CellKind::Gru);
        transformer.config =
            LanguageModelConfig { cell: CellKind::Transformer, context: Some(8), ..LanguageModelConfig::default() };
        transformer.config.embedding_size = transformer.config.hidden_size.of(0);
        transformer.model = transformer.config.init(transformer.vocabulary.len(), 1, &Device::flex());
        let error = transformer.quantize().expect_err("no kernels");
        assert_eq!(error.to_string(), "a transformer has no weights in int8; only recurrent models do");

        let quantized = of_cell(CellKind::Gru).quantize().expect("sound");
        let error = quantized.quantize().expect_err("no second time");
        assert_eq!(error.to_string(), "the weights are in int8 already");
        assert_eq!(error.hint().as_deref(), Some("quantise the model file that it was made from"));

        let mut diverged = of_cell(CellKind::Gru);
        let mut tensors = diverged.model.to_tensors();
        tensors[1].values[5] = f32::INFINITY;
        let artefact = Artefact::new(tensors, [].into());
        diverged.model = diverged.model.with_tensors(&artefact).expect("the same shapes");
        let error = diverged.quantize().expect_err("not finite");
        assert_eq!(error.to_string(), "tensor `recurrent.layers.0.weight_ih` holds inf at flat index 5");
        assert!(error.hint().is_some_and(|hint| hint.contains("diverged")));
    }

    #[test]
    fn a_file_in_which_some_weights_alone_are_in_eight_bits_is_refused() {
        let (plain, quantized) = (of_cell(CellKind::Lstm), of_cell(CellKind::Lstm).quantize().expect("sound"));
        assert_eq!(changed(&quantized, |_| ()).expect("as it was").model.to_tensors(), quantized.model.to_tensors());
        let one_of = |model: &TrainedModel, name: &str, dtype: Dtype| {
            let change = |tensors: &mut Vec<NamedTensor>| {
                let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).expect("a parameter");
                tensor.dtype = dtype;
            };
            changed(model, change).expect_err("a mixture").to_string()
        };
        for (found, expected) in [
            (one_of(&plain, "embedding.weight", Dtype::I8), "tensor `embedding.weight` is I8, expected F32"),
            (one_of(&quantized, "embedding.weight", Dtype::I8), "tensor `embedding.weight` is I8, expected F32"),
            (
                one_of(&quantized, "recurrent.layers.1.weight_hh", Dtype::F32),
                "tensor `recurrent.layers.1.weight_hh` is F32, expected I8",
            ),
            (one_of(&quantized, "head.weight", Dtype::F32), "tensor `head.weight` is F32, expected I8"),
            (
                one_of(&quantized, "recurrent.layers.0.weight_ih", Dtype::F32),
                "tensor `recurrent.layers.0.weight_hh` is I8, expected F32",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }
}
