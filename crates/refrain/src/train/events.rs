//! The log of a run: `metrics.jsonl`, one JSON object a line.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::files::{self, AppendFile, FileError, because};
use crate::metrics::UnitScore;

/// A line of the log; `kind` tells which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LogRecord {
    /// Progress on the training text.
    Train(TrainRecord),
    /// A pass over the validation text.
    Eval(EvalRecord),
    /// What stands beside the model at the end.
    Floor(FloorRecord),
}

/// Progress on the training text, averaged since the record before it.
///
/// Numbers that are not finite are `null` in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Optimiser steps since the run began.
    pub step: u64,
    /// Passes over the training text, the current one included.
    pub epoch: u64,
    /// Mean cross entropy per token, in nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss_nats: f64,
    /// The loss in the measure of its tokens.
    #[serde(flatten)]
    pub score: UnitScore,
    /// The learning rate of this step.
    #[serde(deserialize_with = "nan_if_null")]
    pub learning_rate: f64,
    /// The probability that an input of this step is the text's own token, where it is not always 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_forcing: Option<f64>,
    /// The global norm of the gradients before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub gradient_norm: f64,
    /// Training tokens per second.
    #[serde(deserialize_with = "nan_if_null")]
    pub tokens_per_second: f64,
    /// Seconds of training since the run began, resumed parts included.
    #[serde(deserialize_with = "nan_if_null")]
    pub seconds: f64,
}

/// A pass over the validation text.
///
/// Numbers that are not finite are `null` in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Optimiser steps since the run began.
    pub step: u64,
    /// Passes over the training text, the current one included.
    pub epoch: u64,
    /// Mean cross entropy per token, in nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss_nats: f64,
    /// The loss in the measure of its tokens.
    #[serde(flatten)]
    pub score: UnitScore,
    /// Seconds of training since the run began, resumed parts included.
    #[serde(deserialize_with = "nan_if_null")]
    pub seconds: f64,
}

/// N-grams, by modified Kneser-Ney, on the tokens of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloorRecord {
    /// Optimiser steps since the run began.
    pub step: u64,
    /// Tokens of the longest n-gram.
    pub order: usize,
    /// Mean cross entropy per token of the validation text, in nats.
    pub loss_nats: f64,
    /// The loss in the measure of its tokens.
    #[serde(flatten)]
    pub score: UnitScore,
}

/// All that resuming needs to know of a line, so that records of a later version pass too.
#[derive(Deserialize)]
struct Brief {
    #[serde(default)]
    kind: String,
    step: u64,
    #[serde(default, deserialize_with = "nan_if_null")]
    seconds: f64,
}

/// The log, open for adding lines; a line is handed to the operating system at once.
#[derive(Debug)]
pub struct MetricsLog {
    file: AppendFile,
    seconds: f64,
    notes: Vec<String>,
}

impl MetricsLog {
    /// Begins a log, which must not exist yet.
    ///
    /// # Errors
    ///
    /// If the file is there already or cannot be created.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        Ok(Self { file: AppendFile::create(path)?, seconds: 0.0, notes: Vec::new() })
    }

    /// Continues a log after the checkpoint of `step`: later records go, and so does a line that a kill cut in half.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written. A missing one is begun again.
    pub fn resume(path: &Path, step: u64) -> Result<Self, FileError> {
        let old = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::create(path),
            other => other.map_err(because("read", path))?,
        };
        let mut kept = Vec::with_capacity(old.len());
        let mut seconds: f64 = 0.0;
        let mut notes = Vec::new();
        for (index, line) in old.split_inclusive(|&byte| byte == b'\n').enumerate() {
            match serde_json::from_slice::<Brief>(line) {
                // The end of a run is written again, each time that it is come to.
                Ok(record) if record.step > step || record.kind == "floor" => {}
                Ok(record) => {
                    seconds = record.seconds.max(seconds);
                    kept.extend_from_slice(line.trim_ascii_end());
                    kept.push(b'\n');
                }
                // The line that was being written when the process was killed.
                Err(_) if !line.ends_with(b"\n") => {}
                Err(error) => {
                    notes.push(format!("dropped line {} of {}: {error}", index + 1, path.display()));
                }
            }
        }
        if kept != old {
            files::write_atomic(path, &kept)?;
        }
        Ok(Self { file: AppendFile::open(path)?, seconds, notes })
    }

    /// Adds a line.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the log then ends with the line before it.
    pub fn write(&mut self, record: &LogRecord) -> Result<(), FileError> {
        let mut line =
            serde_json::to_vec(record).map_err(|error| FileError::new("write", self.path(), error.into()))?;
        line.push(b'\n');
        self.file.append(&line)
    }

    /// What the user should know about the log that was resumed, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Seconds of training by the records that were kept: the checkpoint itself knows no clock, so that its bytes do not
    /// depend on one.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// JSON has no NaN and no infinity: they are written as `null` and read as NaN.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    fn train(step: u64) -> LogRecord {
        LogRecord::Train(TrainRecord {
            step,
            epoch: 1,
            loss_nats: 1.5,
            score: UnitScore::BitsPerChar(2.25),
            learning_rate: 0.002,
            teacher_forcing: None,
            gradient_norm: 0.5,
            tokens_per_second: 1000.0,
            seconds: 8.0,
        })
    }

    fn eval(step: u64) -> LogRecord {
        LogRecord::Eval(EvalRecord { step, epoch: 1, loss_nats: 1.0, score: UnitScore::BitsPerChar(1.5), seconds: 9.0 })
    }

    fn log_of(path: &Path, records: &[LogRecord]) {
        let mut log = MetricsLog::create(path).expect("created");
        for record in records {
            log.write(record).expect("written");
        }
    }

    fn records(path: &Path) -> Vec<LogRecord> {
        let text = fs::read_to_string(path).expect("the log is there");
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    #[test]
    fn a_record_is_one_line_that_begins_with_its_kind() {
        let scratch = Scratch::new();
        let path = scratch.join("metrics.jsonl");
        log_of(&path, &[train(10), eval(10)]);
        assert_eq!(
            fs::read_to_string(&path).expect("the log is there"),
            "{\"kind\":\"train\",\"step\":10,\"epoch\":1,\"loss_nats\":1.5,\"bits_per_char\":2.25,\
             \"learning_rate\":0.002,\"gradient_norm\":0.5,\"tokens_per_second\":1000.0,\"seconds\":8.0}\n\
             {\"kind\":\"eval\",\"step\":10,\"epoch\":1,\"loss_nats\":1.0,\"bits_per_char\":1.5,\"seconds\":9.0}\n"
        );
        assert_eq!(records(&path), [train(10), eval(10)]);
    }

    #[test]
    fn a_number_that_is_not_finite_is_null_and_reads_back_as_nan() {
        let record = LogRecord::Eval(EvalRecord {
            step: 1,
            epoch: 1,
            loss_nats: f64::INFINITY,
            score: UnitScore::BitsPerChar(f64::NAN),
            seconds: 1.0,
        });
        let line = serde_json::to_string(&record).expect("JSON");
        assert!(line.contains("\"loss_nats\":null"), "{line}");
        let LogRecord::Eval(read) = serde_json::from_str(&line).expect("a record") else { panic!("another kind") };
        assert!(read.loss_nats.is_nan() && read.score.value().is_nan());
    }

    #[test]
    fn resuming_cuts_the_log_back_to_the_checkpoint_and_goes_on() {
        let scratch = Scratch::new();
        let path = scratch.join("metrics.jsonl");
        log_of(&path, &[train(10), eval(10), train(20), train(30)]);
        let mut log = MetricsLog::resume(&path, 10).expect("resumed");
        log.write(&train(11)).expect("written");
        assert_eq!(records(&path), [train(10), eval(10), train(11)]);
        assert!(log.notes().is_empty());
    }

    #[test]
    fn every_way_to_cut_the_last_line_in_half_leaves_the_lines_before_it() {
        let scratch = Scratch::new();
        let path = scratch.join("metrics.jsonl");
        log_of(&path, &[train(10), train(20)]);
        let whole = fs::read(&path).expect("the log is there");
        let first_line = whole.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
        for length in first_line..whole.len() - 1 {
            fs::write(&path, &whole[..length]).expect("written");
            let mut log = MetricsLog::resume(&path, 100).expect("resumed");
            log.write(&train(30)).expect("written");
            assert_eq!(records(&path), [train(10), train(30)], "cut at {length}");
            assert!(log.notes().is_empty());
        }
        fs::write(&path, &whole[..whole.len() - 1]).expect("written");
        MetricsLog::resume(&path, 100).expect("resumed").write(&train(30)).expect("written");
        assert_eq!(records(&path), [train(10), train(20), train(30)], "a record without its line break is whole");
    }

    #[test]
    fn a_damaged_line_inside_the_log_is_dropped_with_a_note() {
        let scratch = Scratch::new();
        let path = scratch.join("metrics.jsonl");
        fs::write(&path, b"{\"step\":1,\"kind\":\"of a later version\"}\n\0\0\xff\n{\"step\":2}\n").expect("written");
        let log = MetricsLog::resume(&path, 5).expect("resumed");
        let kept = fs::read(&path).expect("the log is there");
        assert_eq!(kept, b"{\"step\":1,\"kind\":\"of a later version\"}\n{\"step\":2}\n");
        assert_eq!(log.notes().len(), 1);
        assert!(log.notes()[0].starts_with(&format!("dropped line 2 of {}: ", path.display())), "{:?}", log.notes());
    }

    #[test]
    fn a_log_is_never_begun_over_an_old_one_and_a_missing_one_is_begun_again() {
        let scratch = Scratch::new();
        let path = scratch.join("metrics.jsonl");
        MetricsLog::resume(&path, 5).expect("begun").write(&train(6)).expect("written");
        assert_eq!(records(&path), [train(6)]);
        let error = MetricsLog::create(&path).expect_err("it is there");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
}
