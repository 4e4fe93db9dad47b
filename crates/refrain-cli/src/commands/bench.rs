//! `refrain bench`.

mod cases;
mod memory;
mod network;
mod options;
mod peer;
mod report;
mod work;

use std::num::NonZeroUsize;

use clap::ValueEnum;
use refrain::kernels::Engine;
use refrain::nn::Precision;

use self::cases::{Case, Kind, Subject};
use self::peer::{Comparison, Contest};
use self::report::{Machine, Record, Table};
use self::work::Models;
use crate::console::Console;
use crate::engine::{EngineArgs, at_least_one};
use crate::failure::Usage;
use crate::output;

/// Time the fixed cases of training, layers, inference and generation, alone or beside another program
///
/// Cases of the first four kinds have the names and shapes of `benches/peers/torch_speed.py`. Each is run a few times to warm up,
/// then timed; ms is the median of one training step, one pass or one whole text, and tokens/s follows from it. GFLOP/s counts the
/// multiply-adds of the matrix products alone, two operations each; a backward pass has twice those of its forward pass.
///
/// Before the cases the machine is measured, with the same threads and instruction set: how many multiply-adds it does with
/// operands in registers, and how fast it reads 256 MiB of memory. % peak is GFLOP/s over the first. % bandwidth, of
/// generation alone, is the bytes of weights read, each weight once a token, over the second; it exceeds 100 where the
/// weights stay in a cache.
///
/// Options of a layer are timed in turn with the plain layer over the same input, forward and backward in training; x plain is
/// the ratio of the medians. Sentences have the lengths of Multi30k's English captions, eight batches of 64, each padded to its
/// longest, and the plain layer computes the padding. Peak MiB is the most that a process of one case held, input, output and
/// their gradients included; GFLOP/s leaves out what is computed again.
///
/// With --peer, our cases and the peer's command take turns, so that a machine whose speed drifts drifts for both: ours in
/// this process, the peer's in a new one every round. ratio is the peer's median time over ours, how many times as fast
/// Refrain is; lowest and highest are those of single rounds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to time [default: the first four]
    kind: Option<Kind>,
    /// Only cases with this in their name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,
    /// In what the factors of matrix products are kept; several are separated by commas
    #[arg(long, value_name = "NAME", default_value = "f32", value_delimiter = ',')]
    precision: Vec<cases::Precision>,
    /// Timed runs of each case, after those that warm up
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    repeats: NonZeroUsize,
    /// Compare with a program that prints JSON lines as --json does, by kind, case and dtype
    ///
    /// The shell runs it, so variables can stand before it: `OMP_NUM_THREADS=2 python torch_speed.py layer --threads 2`.
    /// Other lines on its stdout are passed over.
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
    /// Turns that either side takes [default: 3]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    rounds: Option<NonZeroUsize>,
    /// Print one JSON object a case
    #[arg(long)]
    json: bool,
    /// Measure one case of `memory` in this process
    #[arg(long, hide = true)]
    alone: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Turns of either side: the fewest of which one is in the middle.
const ROUNDS: NonZeroUsize = NonZeroUsize::new(3).expect("it is 3");

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let subjects = subjects(args)?;
    let computing = args.engine.install()?;
    if args.alone {
        return memory::measure(&subjects, args.repeats);
    }
    let mut console = Console::new();
    console.line(&format!("computing   {computing}"));
    let machine = Machine::measure(&Engine::current());
    console.line(&format!("machine     {machine}"));
    match &args.peer {
        None => alone(args, &subjects, &machine, &mut console),
        Some(command) => beside(command, args, &subjects, &machine, &mut console),
    }
}

/// The cases that the arguments name.
fn subjects(args: &Args) -> anyhow::Result<Vec<Subject>> {
    let kinds = args.kind.map_or(Kind::OF_PEERS.to_vec(), |kind| vec![kind]);
    let beside = [("--peer", args.peer.is_some()), ("--rounds", args.rounds.is_some())];
    let beside = beside.into_iter().find_map(|(flag, given)| given.then_some(flag));
    if let (Some(kind), Some(flag)) = (kinds.iter().find(|kind| !Kind::OF_PEERS.contains(kind)), beside) {
        return Err(Usage::error(
            format!("no peer has the cases of `{}`", kind.name()),
            format!("they are held against each other: leave {flag} out"),
        ));
    }
    if let (Some(rounds), None) = (args.rounds, &args.peer) {
        return Err(Usage::error(
            format!("--rounds {rounds}: there is no peer to take turns with"),
            "name one with --peer; how often a case is timed is --repeats",
        ));
    }
    let cases: Vec<_> = kinds.iter().flat_map(|&kind| kind.cases().iter().map(move |&case| (kind, case))).collect();
    let wanted: Vec<_> = cases.iter().filter(|(_, case)| case.name.contains(&args.only)).collect();
    let subjects: Vec<Subject> = wanted
        .iter()
        .flat_map(|&&(kind, case)| {
            let precisions = args.precision.iter().filter(move |precision| precision.serves(kind));
            precisions.map(move |&precision| Subject { kind, case, precision })
        })
        .collect();
    if subjects.is_empty() && !wanted.is_empty() {
        return Err(Usage::error(
            "weights in int8 are for `generate` alone",
            "--precision f32 and bf16 are for all kinds",
        ));
    }
    if subjects.is_empty() {
        let others = Kind::value_variants().iter().filter(|kind| !kinds.contains(kind));
        let others = others.filter_map(|kind| {
            let names = names(kind.cases().iter().filter(|case| case.name.contains(&args.only)));
            (!names.is_empty()).then(|| format!("`refrain bench {}` has {}", kind.name(), names.join(", ")))
        });
        let elsewhere = others.collect::<Vec<_>>().join("; ");
        let there_are = || format!("there are {}", names(cases.iter().map(|(_, case)| case)).join(", "));
        return Err(Usage::error(
            format!("--only {}: no case has this in its name", args.only),
            if elsewhere.is_empty() { there_are() } else { elsewhere },
        ));
    }
    Ok(subjects)
}

/// The names of cases, each once.
fn names<'a>(cases: impl Iterator<Item = &'a Case>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for Case { name, .. } in cases {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

/// Reports each case as soon as it is timed.
fn alone(args: &Args, subjects: &[Subject], machine: &Machine, console: &mut Console) -> anyhow::Result<()> {
    let table = Table::of(subjects);
    let mut models = Models::default();
    if !args.json {
        let kind = subjects.last().map_or(Kind::Train, |subject| subject.kind);
        output::write(table.head(&Record::headings(kind)).as_bytes())?;
    }
    for subject in subjects {
        console.passing(&subject.to_string());
        let (case, repeats) = (&subject.case, args.repeats);
        let timing = match subject.kind {
            Kind::Options => options::time(case, Precision::from(subject.precision.computed()), repeats.get()),
            Kind::Memory => memory::time(subject, repeats)?,
            _ => work::time(subject, repeats.get(), &mut models),
        };
        console.clear();
        let record = Record::new(subject, &timing, machine);
        if args.json {
            output::json(&record)?;
        } else {
            output::write(table.row(subject, &record.cells()).as_bytes())?;
        }
    }
    Ok(())
}

/// Takes turns with the peer and reports when all have been taken.
fn beside(
    command: &str,
    args: &Args,
    subjects: &[Subject],
    machine: &Machine,
    console: &mut Console,
) -> anyhow::Result<()> {
    let mut models = Models::default();
    let mut contests: Vec<Contest<'_>> = subjects.iter().map(Contest::new).collect();
    let rounds = args.rounds.unwrap_or(ROUNDS);
    for round in 1..=rounds.get() {
        let progress = format!("round {round} of {rounds}");
        let mut ours = Vec::with_capacity(subjects.len());
        for subject in subjects {
            console.status(&format!("{progress}: {subject}"));
            ours.push(work::time(subject, args.repeats.get(), &mut models));
        }
        console.line(&format!("{progress}: {command}"));
        peer::take_turn(command, &mut contests, ours)?;
    }
    let table = Table::of(subjects);
    if !args.json {
        output::write(table.head(&Comparison::HEADINGS).as_bytes())?;
    }
    for contest in &contests {
        let subject = contest.subject;
        let Some(comparison) = Comparison::new(contest, machine) else {
            console.line(&format!("note: the peer printed no line for {subject}"));
            continue;
        };
        if let Some(threads) = comparison.threads_of_peer.filter(|&threads| threads != machine.threads) {
            console.line(&format!("note: {subject}: threads of the peer: {threads}, ours: {}", machine.threads));
        }
        if args.json {
            output::json(&comparison)?;
        } else {
            output::write(table.row(subject, &comparison.cells()).as_bytes())?;
        }
    }
    Ok(())
}

/// The middle value, or the mean of the two in the middle.
///
/// # Panics
/// If there is none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    low.midpoint(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (mut values, expected) in [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)] {
            assert!((median(&mut values) - expected).abs() < 1e-12, "{values:?}");
        }
    }
}
