//! `refrain completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell
///
/// For bash: refrain completions bash > ~/.local/share/bash-completion/completions/refrain
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "refrain", &mut script);
    crate::output::write(&script)
}
