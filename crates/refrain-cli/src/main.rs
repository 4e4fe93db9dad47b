//! The `refrain` command.

mod commands;
mod console;
mod curve;
mod engine;
mod failure;
mod heat_map;
mod input;
mod memory;
mod model;
mod output;
mod score;
mod shade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Recurrent sequence modelling and text generation: train a character language model on any text, and let it write.
///
/// `refrain train` with no argument trains on the bundled Shakespeare and ends with a sample of what was learned.
#[derive(Debug, Parser)]
#[command(name = "refrain", version, propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(commands::train::Args),
    Generate(commands::generate::Args),
    Evaluate(commands::evaluate::Args),
    Score(commands::score::Args),
    Ngram(commands::ngram::Args),
    Compare(commands::compare::Args),
    Quantize(commands::quantize::Args),
    Bench(commands::bench::Args),
    Gates(commands::gates::Args),
    Info(commands::info::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

fn main() -> ExitCode {
    refrain::kernels::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Train(args) => commands::train::run(&args),
        Command::Generate(args) => commands::generate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Evaluate(args) => commands::evaluate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Score(args) => commands::score::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ngram(args) => commands::ngram::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => commands::bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Gates(args) => commands::gates::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Info(args) => commands::info::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => commands::completions::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => commands::man::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| failure::report(&error))
}
