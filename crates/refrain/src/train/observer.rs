//! Who hears how a run is going.

use super::events::{EvalRecord, TrainRecord};
use crate::tasks::NGramScore;

/// What a run asks of whoever watches it.
pub trait Observer {
    /// A line of the log was written; `seconds_left` until the last step at the present speed, evaluations left out.
    fn trained(&mut self, record: &TrainRecord, seconds_left: f64);
    /// The model was scored on the validation text; `best` if no earlier evaluation was better.
    fn evaluated(&mut self, record: &EvalRecord, best: bool);
    /// The model wrote a text.
    fn sampled(&mut self, step: u64, text: &str);
    /// Something that the user should know.
    fn note(&mut self, note: &str);
    /// Asked before each step: should the run stop?
    fn stop(&mut self) -> Option<Stop>;
}

/// Why a run ends before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user wants it to: save, then score the best model.
    Interrupt,
    /// The system wants it to: save and be gone.
    Terminate,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps taken since the run began.
    pub step: u64,
    /// Why it ended.
    pub reason: Finish,
    /// The best model; absent when the system ended the run.
    pub best: Option<BestModel>,
    /// What n-grams give on the same tokens, once the run has come to its end, unless the recipe leaves it out.
    pub floor: Option<NGramScore>,
}

/// The best model of a run, read back from its file.
#[derive(Clone, Debug, PartialEq)]
pub struct BestModel {
    /// Steps taken when it was saved.
    pub step: u64,
    /// Validation loss in nats per token, scored once more.
    pub loss_nats: f64,
    /// What it writes by the recipe's settings.
    pub sample: String,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All steps are taken.
    Completed,
    /// The validation loss has not improved for `train.patience` evaluations.
    OutOfPatience,
    /// It was stopped; it can be resumed.
    Stopped(Stop),
}
