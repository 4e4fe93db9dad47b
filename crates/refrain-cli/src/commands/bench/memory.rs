//! How much memory a layer takes over long sequences: a process for each case, since what an allocator has once taken it keeps.

use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use refrain::kernels::Engine;
use refrain::nn::Precision;
use serde::{Deserialize, Serialize};

use super::cases::Subject;
use super::median;
use super::options::Pass;
use super::work::Timing;
use crate::failure::Usage;
use crate::memory::peak_bytes;
use crate::output;

/// What a process says of its one case.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Measured {
    seconds: f64,
    /// The most that the process ever held, its program included; Linux alone says.
    peak_bytes: Option<u64>,
}

/// Times a case in this process, which has done nothing else, and prints what it took.
pub(super) fn measure(subjects: &[Subject], repeats: NonZeroUsize) -> anyhow::Result<()> {
    let [Subject { case, precision, .. }] = subjects else {
        return Err(Usage::error("--alone is of one case", "--only takes a whole name"));
    };
    let mut pass = Pass::of(case, Precision::from(precision.computed()));
    // The first pass meets memory that was never touched.
    pass.run();
    let mut seconds: Vec<f64> = (0..repeats.get()).map(|_| pass.run()).collect();
    output::json(&Measured { seconds: median(&mut seconds), peak_bytes: peak_bytes() })
}

/// Has a case measured by a new process of this program.
pub(super) fn time(subject: &Subject, repeats: NonZeroUsize) -> anyhow::Result<Timing> {
    let Subject { case, precision, .. } = subject;
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let engine = Engine::current();
    let numbers = [repeats.to_string(), engine.num_threads().to_string()];
    let output = Command::new(program)
        .args(["bench", "memory", "--alone", "--only", case.name, "--precision", precision.name()])
        .args(["--repeats", &numbers[0], "--threads", &numbers[1], "--kernel", engine.isa().name()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot start a process for a case")?;
    anyhow::ensure!(output.status.success(), "the process for {subject} ended with {}", output.status);
    let Measured { seconds, peak_bytes } =
        serde_json::from_slice(&output.stdout).with_context(|| format!("the process for {subject} said nothing"))?;
    let weights = 4 * case.model.hidden_size * 2 * case.model.hidden_size;
    let tokens = case.batch_size * case.seq_len;
    let flops = 3.0 * 2.0 * (weights * tokens) as f64;
    Ok(Timing { seconds, tokens, flops, bytes: None, seconds_of_plain: None, peak_bytes })
}
