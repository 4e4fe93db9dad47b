//! The full training state as files and back: what it takes to go on as if nothing had happened.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::models::{Artefact, Dtype, LanguageModelState, NamedTensor, TrainedModel};
use crate::nn::{Cell, RecurrentState};
use crate::optim::ScheduleState;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CARRY: &str = "carry.safetensors";
const PROGRESS: &str = "progress.json";

/// How far a run is. Nothing here depends on the clock, so the same run leaves the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: u64,
    /// SHA-256 of the decoded corpus.
    pub corpus: String,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since the best one.
    pub evaluations_without_improvement: u64,
    /// What the learning-rate schedule remembers.
    pub schedule: ScheduleState,
    /// When the optimiser begins to average, where it does.
    #[serde(default, skip_serializing_if = "Averaging::is_unused")]
    pub averaging: Averaging,
    /// Summed loss and tokens since the last line of the log.
    pub unlogged: Unlogged,
    /// The instruction set of the steps so far, and by what it computed bf16 if it did.
    pub kernel: String,
}

/// An evaluation that no later one has beaten.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimiser steps taken then.
    pub step: u64,
    /// Validation loss in nats per token.
    pub loss_nats: f64,
}

/// The trigger of averaged gradient descent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Averaging {
    /// The validation losses so far, in nats per token.
    pub losses_nats: Vec<f64>,
    /// The steps taken when averaging began.
    pub since: Option<u64>,
}

impl Averaging {
    fn is_unused(&self) -> bool {
        *self == Self::default()
    }

    /// Takes note of a validation loss after `step` steps; whether averaging begins with it: the first above the lowest of those at
    /// least `non_monotone` evaluations before it (Merity et al. 2018, algorithm 1).
    pub(crate) fn observe(&mut self, loss_nats: f64, non_monotone: u64, step: u64) -> bool {
        let before = self.losses_nats.len().saturating_sub(non_monotone as usize);
        let lowest = self.losses_nats[..before].iter().copied().fold(f64::INFINITY, f64::min);
        self.losses_nats.push(loss_nats);
        let begins = self.since.is_none() && loss_nats > lowest;
        if begins {
            self.since = Some(step);
        }
        begins
    }
}

/// What the next line of the log will average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unlogged {
    /// Summed loss in nats.
    pub nats: f64,
    /// Tokens.
    pub tokens: u64,
}

/// The training state between two steps.
pub(crate) struct Snapshot {
    pub(crate) model: TrainedModel,
    pub(crate) optimizer: BTreeMap<String, Vec<Vec<f32>>>,
    pub(crate) carry: Option<LanguageModelState>,
    pub(crate) progress: Progress,
}

impl Snapshot {
    /// File names and contents.
    pub(crate) fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, TrainError> {
        let slots = self.optimizer.iter().flat_map(|(name, slots)| {
            slots
                .iter()
                .enumerate()
                .map(move |(index, values)| NamedTensor::new(format!("{index}.{name}"), [values.len()], values.clone()))
        });
        let carry = self.carry.iter().flat_map(LanguageModelState::recurrent).enumerate().flat_map(|(layer, state)| {
            let hidden = ("hidden", &state.hidden);
            let cell_state = state.cell_state.as_ref().map(|tensor| ("cell_state", tensor));
            std::iter::once(hidden).chain(cell_state).map(move |(name, tensor)| {
                let values = tensor.clone().inner().into_data().try_into_vec::<f32>().expect("states are f32");
                NamedTensor::new(format!("{layer}.{name}"), tensor.dims(), values)
            })
        });
        let tensors = |tensors: Vec<NamedTensor>| Artefact::new(tensors, BTreeMap::new()).to_bytes();
        Ok(vec![
            (MODEL, self.model.to_artefact().to_bytes()?),
            (OPTIMIZER, tensors(slots.collect())?),
            (CARRY, tensors(carry.collect())?),
            (PROGRESS, serde_json::to_vec_pretty(&self.progress).expect("plain data has a JSON form")),
        ])
    }

    /// Reads what [`Snapshot::to_files`] wrote; `run` is named in errors.
    pub(crate) fn from_files(
        files: &BTreeMap<String, Vec<u8>>,
        run: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let broken = |reason: String| TrainError::Snapshot { run: run.to_owned(), reason };
        let file = |name: &str| files.get(name).ok_or_else(|| broken(format!("it has no {name}")));
        let origin = |name: &str| run.join("last").join(name);

        let artefact = Artefact::from_bytes(file(MODEL)?, &origin(MODEL))?;
        let model = TrainedModel::from_artefact(&artefact, device)?;
        if model.model.weights() != Dtype::F32 {
            return Err(broken(format!("{MODEL}: its weights are in int8, which is for inference alone")));
        }
        let progress: Progress =
            serde_json::from_slice(file(PROGRESS)?).map_err(|error| broken(format!("{PROGRESS}: {error}")))?;

        let mut optimizer: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
        let mut slots = Artefact::from_bytes(file(OPTIMIZER)?, &origin(OPTIMIZER))?.tensors;
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        for slot in slots {
            let (_, name) =
                slot.name.split_once('.').ok_or_else(|| broken(format!("{OPTIMIZER}: odd name `{}`", slot.name)))?;
            optimizer.entry(name.to_owned()).or_default().push(slot.values);
        }

        let carried = Artefact::from_bytes(file(CARRY)?, &origin(CARRY))?;
        let has_cell_state = model.config.cell.recurrent().is_some_and(Cell::has_cell_state);
        let layers = carried.tensors.len() / (1 + usize::from(has_cell_state));
        let tensor = |name: String| -> Result<Tensor<2>, TrainError> {
            let found = carried.tensors.iter().find(|tensor| tensor.name == name);
            let found = found.ok_or_else(|| broken(format!("{CARRY}: no `{name}`")))?;
            let &[rows, columns] = found.shape.as_slice() else {
                return Err(broken(format!("{CARRY}: `{name}` has shape {:?}", found.shape)));
            };
            Ok(Tensor::from_data(TensorData::new(found.values.clone(), [rows, columns]), device))
        };
        let states = (0..layers).map(|layer| {
            let hidden = tensor(format!("{layer}.hidden"))?;
            let cell_state = has_cell_state.then(|| tensor(format!("{layer}.cell_state"))).transpose()?;
            Ok::<_, TrainError>(RecurrentState { hidden, cell_state })
        });
        let carry = states.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { model, optimizer, carry: (!carry.is_empty()).then(|| carry.into()), progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{LanguageModelConfig, Provenance};
    use crate::text::Vocabulary;

    #[test]
    fn averaging_begins_once_at_a_loss_no_better_than_those_some_time_ago() {
        let mut averaging = Averaging::default();
        let losses = [5.0, 4.0, 3.0, 3.5, 3.9, 3.2, 2.0, 9.0];
        let begins: Vec<bool> =
            losses.iter().enumerate().map(|(step, loss)| averaging.observe(*loss, 2, step as u64)).collect();
        // 3.5 is above 3.0 but not above 4.0, the lowest two evaluations before; 3.2 is above 3.0.
        assert_eq!(begins, [false, false, false, false, false, true, false, false]);
        assert_eq!(averaging.since, Some(5));
    }

    #[test]
    fn a_checkpoint_of_a_model_in_eight_bits_is_refused() {
        let config = LanguageModelConfig { embedding_size: 3, hidden_size: 5.into(), ..Default::default() };
        let vocabulary = Vocabulary::chars("banana", 1);
        let model = TrainedModel {
            model: config.init(vocabulary.len(), 1, &Device::flex()),
            config,
            vocabulary,
            recipe: String::new(),
            provenance: Provenance {
                refrain: String::new(),
                step: 0,
                epoch: 0.0,
                valid_loss_nats: None,
                corpus: String::new(),
            },
        };
        let progress = Progress {
            step: 0,
            corpus: String::new(),
            best: None,
            evaluations_without_improvement: 0,
            schedule: ScheduleState::default(),
            averaging: Averaging::default(),
            unlogged: Unlogged::default(),
            kernel: String::new(),
        };
        let resumed = |model: TrainedModel| {
            let snapshot = Snapshot { model, optimizer: BTreeMap::new(), carry: None, progress: progress.clone() };
            let files = snapshot.to_files().expect("sound");
            let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
            Snapshot::from_files(&files, Path::new("run"), &Device::flex()).map(|snapshot| snapshot.progress)
        };
        assert_eq!(resumed(model.clone()).expect("as it was"), progress);
        let error = resumed(model.quantize().expect("sound")).expect_err("nothing to train");
        assert_eq!(
            error.to_string(),
            "run: the checkpoint cannot be used: model.safetensors: its weights are in int8, which is for inference alone"
        );
    }
}
