//! Help texts, completions and manual pages.

mod commands;
mod generate;
#[path = "../support/mod.rs"]
mod support;

use insta::assert_snapshot;
use support::{Scratch, names, text, transcript};

/// What every command that computes says of it.
const COMPUTING: &str = "\
Computing:
      --threads <N>
          Threads to compute with [default: the processors this process may use]

          The result is the same to the byte with any number.

      --kernel <NAME>
          Instruction set of the kernels: auto, amx, avx512, avx2 or portable

          auto takes the one that the environment variable `REFRAIN_ISA` names, else the one that is
          usually the fastest here: `refrain bench` compares. Results differ between instruction
          sets in the last bits.

          [default: auto]";

/// The help of a command; the indentation of its empty lines is left out, and what it says as [`COMPUTING`] is said in short.
fn help(arguments: &str) -> String {
    let help = Scratch::new().succeed(arguments);
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").replace(COMPUTING, "Computing: as everywhere")
}

#[test]
fn help_names_every_command() {
    assert_snapshot!(help("--help"), @r#"
    Recurrent sequence modelling and text generation: train a character language model on any text, and
    let it write.

    `refrain train` with no argument trains on the bundled Shakespeare and ends with a sample of what
    was learned.

    Usage: refrain <COMMAND>

    Commands:
      train        Train a model: on the bundled Shakespeare, on any text file, or by a recipe
      generate     Let a model continue a prompt
      evaluate     Score a text: loss, perplexity, bits per character and per byte
      score        Score each line of a text: log-probability, perplexity and surprisal of each token
      ngram        Score a recipe's validation text by counting n-grams: the floor that a network has to
                   be above
      compare      Train models of equal parameters by one recipe, and write the table
      quantize     Write a model with weights in int8, if it still predicts a text as well
      bench        Time the fixed cases of training, layers, inference and generation, alone or beside
                   another program
      gates        Draw what the gates of a layer do over a text, as SVG
      info         Show what is in a model file
      completions  Print a completion script for a shell
      man          Write the manual pages, one a command
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    "#);
    let scratch = Scratch::new();
    let bare = scratch.run("");
    assert_eq!(bare.status.code(), Some(2), "{}", transcript(&bare));
    assert!(bare.stdout.is_empty() && text(&bare.stderr).contains("Usage: refrain <COMMAND>"));
    assert_eq!(scratch.succeed("--version"), concat!("refrain ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn help_names_every_default_of_training() {
    assert_snapshot!(help("train --help"), @"
    Train a model: on the bundled Shakespeare, on any text file, or by a recipe

    Without an argument the built-in recipe trains a character model on the bundled Shakespeare. A text
    file is read as UTF-8, UTF-16 or GB18030, whichever it is; the decision is shown, and --set
    data.encoding=NAME overrules it. A file ending in .toml is a recipe; --dump-config prints the
    complete recipe and trains nothing.

    --find-lr and --find-batch-size train nothing that is kept: they tell what a recipe may be given
    before it is trained.

    Ctrl-C saves, scores the best model and ends; --resume goes on later, to the same bytes. A second
    Ctrl-C ends at once.

    Usage: refrain train [OPTIONS] [SOURCE]

    Arguments:
      [SOURCE]
              A recipe (.toml) or a text file [default: the built-in recipe]

    Options:
          --set <KEY.PATH=VALUE>
              Set a key of the recipe, such as model.hidden-size=512; may be repeated

          --run-dir <DIR>
              The run's folder, new or empty [default: runs/NAME-001, or the next free number]

          --resume <RUN>
              Go on with the run in this folder; a recipe or --set given besides must agree with the
              run's

          --dump-config
              Print the complete recipe that these arguments make, and end

          --find-lr
              Raise the learning rate from mini-batch to mini-batch, keep the curve of the loss in the
              run's folder, as learning-rate.svg and learning-rate.json, print the rate at which the
              loss falls fastest, and end

          --find-batch-size
              Train for a moment with batches of 1, 2, 4 and so on, print the speed and the memory of
              each, and end

          --json
              Print the outcome, or the dumped recipe, as one JSON object

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    ");
}

#[test]
fn completions_know_every_command() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = scratch.succeed(&format!("completions {shell}"));
        for word in [
            "train",
            "generate",
            "evaluate",
            "quantize",
            "bench",
            "gates",
            "info",
            "completions",
            "man",
            "resume",
            "temperature",
        ] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let scratch = Scratch::new();
    assert_eq!(scratch.succeed("man pages"), "");
    let pages = names(&scratch.join("pages"));
    assert_snapshot!(pages.join(" "), @"refrain-bench.1 refrain-compare.1 refrain-completions.1 refrain-evaluate.1 refrain-gates.1 refrain-generate.1 refrain-info.1 refrain-man.1 refrain-ngram.1 refrain-quantize.1 refrain-score.1 refrain-train.1 refrain.1");
    for page in pages {
        let roff = text(&scratch.read(&format!("pages/{page}")));
        for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(roff.contains(section), "{page} has no {section}");
        }
    }
    assert!(text(&scratch.read("pages/refrain-generate.1")).contains("[default: 0.8]"));
}
