//! `refrain man`.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use refrain::files::{FileError, write_atomic};

/// Write the manual pages, one a command
///
/// Read one with: man -l DIR/refrain-train.1
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder to write them to; made if it is missing
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(&args.dir).map_err(|reason| FileError::new("create", &args.dir, reason))?;
    let mut root = crate::Cli::command();
    root.build();
    let commands = std::iter::once(root.clone()).chain(root.get_subcommands().cloned());
    for command in commands.filter(|command| command.get_name() != "help") {
        let man = clap_mangen::Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page)?;
        write_atomic(&args.dir.join(man.get_filename()), &page)?;
    }
    Ok(())
}
