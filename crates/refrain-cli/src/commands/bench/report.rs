//! What is reported: the machine's own measure, a case's speed beside it, and the lines of a table.

use std::fmt;
use std::fmt::Write as _;

use refrain::data::grouped;
use refrain::kernels::{Engine, Isa, measure};
use serde::Serialize;

use super::cases::{Kind, Subject};
use super::work::Timing;

/// The most that the threads and the instruction set in use do on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    isa: Isa,
    pub(super) threads: usize,
    flops_per_second: f64,
    bytes_per_second: f64,
}

impl Machine {
    pub(super) fn measure(engine: &Engine) -> Self {
        Self {
            isa: engine.isa(),
            threads: engine.num_threads(),
            flops_per_second: measure::fma_peak(engine),
            bytes_per_second: measure::read_bandwidth(engine),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peak, bandwidth) = (self.flops_per_second / 1e9, self.bytes_per_second / 1e9);
        write!(f, "peak {peak:.1} GFLOP/s, memory {bandwidth:.1} GB/s")
    }
}

/// One line of JSON: the fields of `benches/peers/torch_speed.py`, and those that take the machine's measure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    peer: &'static str,
    kind: &'static str,
    case: &'static str,
    dtype: &'static str,
    threads: usize,
    seconds: f64,
    tokens_per_second: f64,
    gflops_per_second: f64,
    percent_of_peak: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent_of_bandwidth: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_of_plain: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_plain: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    isa: &'static str,
}

impl Record {
    pub(super) fn new(subject: &Subject, timing: &Timing, machine: &Machine) -> Self {
        let Timing { seconds, tokens, flops, bytes, seconds_of_plain, peak_bytes } = *timing;
        Self {
            peer: concat!("refrain-", env!("CARGO_PKG_VERSION")),
            kind: subject.kind.name(),
            case: subject.case.name,
            dtype: subject.precision.name(),
            threads: machine.threads,
            seconds: rounded(seconds, 6),
            tokens_per_second: rounded(tokens as f64 / seconds, 1),
            gflops_per_second: rounded(flops / seconds / 1e9, 1),
            percent_of_peak: rounded(100.0 * flops / seconds / machine.flops_per_second, 1),
            percent_of_bandwidth: bytes.map(|bytes| rounded(100.0 * bytes / seconds / machine.bytes_per_second, 1)),
            seconds_of_plain: seconds_of_plain.map(|plain| rounded(plain, 6)),
            ratio_to_plain: seconds_of_plain.map(|plain| rounded(seconds / plain, 4)),
            peak_bytes,
            isa: machine.isa.name(),
        }
    }

    /// The last is of one kind of work.
    pub(super) fn headings(kind: Kind) -> [&'static str; 5] {
        let last = match kind {
            Kind::Options => "x plain",
            Kind::Memory => "peak MiB",
            Kind::Train | Kind::Layer | Kind::Infer | Kind::Generate => "% bandwidth",
        };
        ["ms", "tokens/s", "GFLOP/s", "% peak", last]
    }

    /// In the order of [`Self::headings`].
    pub(super) fn cells(&self) -> [String; 5] {
        [
            milliseconds(self.seconds),
            grouped(self.tokens_per_second.round() as u64),
            format!("{:.1}", self.gflops_per_second),
            format!("{:.1}", self.percent_of_peak),
            self.last_cell().unwrap_or_else(|| "-".to_owned()),
        ]
    }

    fn last_cell(&self) -> Option<String> {
        let percent = self.percent_of_bandwidth.map(|percent| format!("{percent:.1}"));
        let ratio = || self.ratio_to_plain.map(|ratio| format!("{ratio:.3}"));
        percent.or_else(ratio).or_else(|| self.peak_bytes.map(|bytes| (bytes >> 20).to_string()))
    }
}

/// As many digits after the point as can be meant.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.2}", seconds * 1e3)
}

/// A table of one line a subject, its columns wide enough before all lines are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    case_width: usize,
}

impl Table {
    pub(super) fn of(subjects: &[Subject]) -> Self {
        Self { case_width: subjects.iter().map(|subject| subject.case.name.len()).max().unwrap_or(0) }
    }

    pub(super) fn head(self, headings: &[&str]) -> String {
        self.line(["kind", "case", "dtype"], headings)
    }

    pub(super) fn row<S: AsRef<str>>(self, subject: &Subject, cells: &[S]) -> String {
        self.line([subject.kind.name(), subject.case.name, subject.precision.name()], cells)
    }

    fn line<S: AsRef<str>>(self, [kind, case, dtype]: [&str; 3], cells: &[S]) -> String {
        let mut line = format!("{kind:<8}  {case:<0$}  {dtype:<5}", self.case_width);
        for cell in cells {
            write!(line, "  {:>11}", cell.as_ref()).expect("a string can be written");
        }
        line.push('\n');
        line
    }
}
