//! Training: a recipe and a corpus in, a run's folder out.
//!
//! [`Trainer`] is the loop, `step` one step of it. Everything that a run remembers is in its checkpoint, so that a run
//! which is killed and resumed ends with the same bytes as one that was never stopped.

mod batch_sweep;
mod candidates;
mod checkpoint;
pub(crate) mod config;
mod error;
mod events;
mod observer;
mod own_inputs;
mod plan;
mod rate_sweep;
mod recipe;
mod run_folder;
mod snapshot;
mod step;
pub(crate) mod teacher_forcing;
mod tensorboard;
mod trainer;
mod watch;

pub use batch_sweep::{BatchPoint, BatchSweep};
pub use checkpoint::{CheckpointError, CheckpointStore, Loaded};
pub use config::{StateMode, TrainConfig};
pub use error::{NotFinite, TrainError};
pub use events::{EvalRecord, FloorRecord, LogRecord, MetricsLog, TrainRecord};
pub use observer::{BestModel, Finish, Observer, Outcome, Stop};
pub use own_inputs::Mixture;
pub use rate_sweep::{RateCurve, RateSweep, SweepEnd, SweepPoint};
pub use recipe::{BUILT_IN, Recipe, RecipeError, TaskKind};
pub use run_folder::{BEST, CONFIG, METRICS, RunFolder, RunFolderError};
pub use snapshot::{Averaging, Best, Progress, Unlogged};
pub use teacher_forcing::{ForcingKind, OwnToken, TeacherForcing};
pub use tensorboard::EventWriter;
pub use trainer::Trainer;
