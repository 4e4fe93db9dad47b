//! From the path that a user names to a model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use refrain::models::TrainedModel;
use refrain::train::BEST;

use crate::failure::Usage;

/// The model file of a run's folder, or the path itself.
pub(crate) fn file_of(run_or_model: &Path) -> anyhow::Result<PathBuf> {
    if !run_or_model.is_dir() {
        return Ok(run_or_model.to_owned());
    }
    let best = run_or_model.join(BEST);
    if best.is_file() {
        return Ok(best);
    }
    Err(Usage::error(
        format!("{} has no {BEST}", run_or_model.display()),
        "a run writes it at its first evaluation; name a run's folder or a model file",
    ))
}

pub(crate) fn load(run_or_model: &Path) -> anyhow::Result<TrainedModel> {
    Ok(TrainedModel::read(&file_of(run_or_model)?, &Device::flex())?)
}
