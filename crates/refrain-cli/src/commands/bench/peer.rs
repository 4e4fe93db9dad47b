//! Another program, run in turn with ours: its command, its lines, and the ratio of the two.

use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::cases::Subject;
use super::median;
use super::report::{Machine, Record, milliseconds, rounded};
use super::work::Timing;
use crate::failure::Usage;

/// What is read of a peer's line.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    #[serde(default)]
    peer: String,
    kind: String,
    case: String,
    dtype: String,
    threads: Option<usize>,
    seconds: f64,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|line| line.seconds.is_finite() && line.seconds > 0.0)
    }

    fn is_of(&self, subject: &Subject) -> bool {
        [&*self.kind, &*self.case, &*self.dtype] == [subject.kind.name(), subject.case.name, subject.precision.name()]
    }
}

/// Runs the command to its end and takes its lines; those that are none are passed over.
fn run(command: &str) -> anyhow::Result<(ExitStatus, Vec<Line>)> {
    let [shell, flag] = if cfg!(windows) { ["cmd", "/C"] } else { ["sh", "-c"] };
    let output = Command::new(shell)
        .args([flag, command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run the peer `{command}`"))?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(Line::parse).collect();
    Ok((output.status, lines))
}

/// A subject in some rounds, in which both sides had a turn.
#[derive(Debug)]
pub(super) struct Contest<'a> {
    pub(super) subject: &'a Subject,
    rounds: Vec<(Timing, Line)>,
}

impl<'a> Contest<'a> {
    pub(super) fn new(subject: &'a Subject) -> Self {
        Self { subject, rounds: Vec::new() }
    }
}

/// Gives the peer its turn after ours.
pub(super) fn take_turn(command: &str, contests: &mut [Contest<'_>], ours: Vec<Timing>) -> anyhow::Result<()> {
    let (status, lines) = run(command)?;
    let ended = format!("the peer `{command}` ended with {status}");
    if !status.success() {
        return Err(Usage::error(ended, "run it alone first, from this folder"));
    }
    let mut matched = false;
    for (contest, timing) in contests.iter_mut().zip(ours) {
        if let Some(line) = lines.iter().find(|line| line.is_of(contest.subject)) {
            contest.rounds.push((timing, line.clone()));
            matched = true;
        }
    }
    if matched {
        return Ok(());
    }
    let hint = match (lines.first(), contests.first()) {
        (Some(Line { kind, case, dtype, .. }), Some(contest)) => {
            format!("it printed {kind} {case} {dtype}; wanted is {}", contest.subject)
        }
        _ => "a line is a JSON object with kind, case, dtype and seconds, as --json prints it".to_owned(),
    };
    Err(Usage::error(format!("{ended} and printed no line for any of the cases"), hint))
}

/// One line of JSON: our record, and how it compares.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    #[serde(flatten)]
    record: Record,
    seconds_of_peer: f64,
    ratio: f64,
    lowest_ratio: f64,
    highest_ratio: f64,
    rounds: usize,
    compared_with: String,
    /// Not every peer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threads_of_peer: Option<usize>,
}

impl Comparison {
    /// `None` where the peer had no line.
    pub(super) fn new(contest: &Contest<'_>, machine: &Machine) -> Option<Self> {
        let (timing, line) = contest.rounds.first()?;
        let mut ours: Vec<f64> = contest.rounds.iter().map(|(timing, _)| timing.seconds).collect();
        let mut theirs: Vec<f64> = contest.rounds.iter().map(|(_, line)| line.seconds).collect();
        let ratios = || theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours);
        let lowest = ratios().fold(f64::INFINITY, f64::min);
        let highest = ratios().fold(0.0, f64::max);
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        Some(Self {
            record: Record::new(contest.subject, &Timing { seconds: ours, ..*timing }, machine),
            seconds_of_peer: rounded(theirs, 6),
            ratio: rounded(theirs / ours, 3),
            lowest_ratio: rounded(lowest, 3),
            highest_ratio: rounded(highest, 3),
            rounds: contest.rounds.len(),
            compared_with: line.peer.clone(),
            threads_of_peer: line.threads,
        })
    }

    pub(super) const HEADINGS: [&str; 6] = ["ms", "peer's ms", "ratio", "lowest", "highest", "peer"];

    /// In the order of [`Self::HEADINGS`].
    pub(super) fn cells(&self) -> [String; 6] {
        let [ours, ..] = self.record.cells();
        let ratio = |ratio: f64| format!("{ratio:.2}");
        [
            ours,
            milliseconds(self.seconds_of_peer),
            ratio(self.ratio),
            ratio(self.lowest_ratio),
            ratio(self.highest_ratio),
            self.compared_with.clone(),
        ]
    }
}
