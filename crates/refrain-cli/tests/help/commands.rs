//! The help of scoring, looking into models, quantising, timing and drawing.

use insta::assert_snapshot;

use crate::help;

#[test]
fn help_names_every_argument_of_the_other_commands() {
    assert_snapshot!(help("evaluate --help"), @r#"
    Score a text: loss, perplexity, bits per character and per byte

    The whole text is read as one stream, the state carried from its first token to its last. The first
    token has nothing before it and is not scored. What the model does not know is scored as the unknown
    token. Bits per character and per byte compare models of any tokens but words, which leave out what
    is between them.

    Usage: refrain evaluate [OPTIONS] <MODEL> <TEXT>

    Arguments:
      <MODEL>
              A run's folder, whose best model is taken, or a model file

      <TEXT>
              The text; - reads it from stdin

    Options:
          --encoding <NAME>
              How to read the text: utf-8, utf-16le, utf-16be or gb18030 [default: whichever it is]

          --json
              Print one JSON object

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    "#);
    assert_snapshot!(help("info --help"), @"
    Show what is in a model file

    Usage: refrain info [OPTIONS] <MODEL>

    Arguments:
      <MODEL>  A run's folder, whose best model is taken, or a model file

    Options:
          --recipe            Print the whole recipe that trained it
          --tokenizer <FILE>  Write the model's tokenizer to this new file, a tokenizer.json
          --json              Print one JSON object
      -h, --help              Print help
      -V, --version           Print version
    ");
    assert_snapshot!(help("completions --help"), @"
    Print a completion script for a shell

    For bash: refrain completions bash > ~/.local/share/bash-completion/completions/refrain

    Usage: refrain completions <SHELL>

    Arguments:
      <SHELL>
              The shell

              [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    ");
    assert_snapshot!(help("man --help"), @"
    Write the manual pages, one a command

    Read one with: man -l DIR/refrain-train.1

    Usage: refrain man <DIR>

    Arguments:
      <DIR>
              The folder to write them to; made if it is missing

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    ");
}

#[test]
fn help_says_when_a_quantised_model_is_not_written() {
    assert_snapshot!(help("score --help"), @r#"
    Score each line of a text: log-probability, perplexity and surprisal of each token

    Each line is read alone, as the beginning of a text: a new line goes before it, unseen, if the model
    knows it; else its first token has nothing before it and is not scored. The end of a line is not
    scored. Empty lines are left out. What the model does not know is scored as the unknown token.

    For example: echo "To be, or not to be" | refrain score runs/shakespeare-001

    Usage: refrain score [OPTIONS] <MODEL> [TEXT]

    Arguments:
      <MODEL>
              A run's folder, whose best model is taken, or a model file

      [TEXT]
              The text; - reads it from stdin

              [default: -]

    Options:
          --rank[=<BY>]
              Print the best line first: the likeliest, or that of the lowest perplexity

              Possible values:
              - log-probability: Of the whole line: a longer one is less likely
              - perplexity:      Per token: lines of different lengths compare

          --surprisal
              Print the surprisal of each token below its line, in bits

          --show-probabilities
              Shade each token by its probability

          --encoding <NAME>
              How to read the text: utf-8, utf-16le, utf-16be or gb18030 [default: whichever it is]

          --json
              Print one JSON object a line, with all of this

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    "#);
    assert_snapshot!(help("quantize --help"), @"
    Write a model with weights in int8, if it still predicts a text as well

    The weights of the recurrent layers and of the head are rounded to 8 bits, with a step for each row;
    embedding and biases stay f32. The text, best one that the model was not trained on, is scored
    before and after, as `refrain evaluate` does. If the perplexity rises by more than 1 %, the command
    fails and writes nothing.

    The new file is about a quarter as large and is used like any other; `refrain generate` then reads a
    quarter of the bytes for each character.

    For example: refrain quantize runs/shakespeare-001 held-out.txt --output int8.safetensors

    Usage: refrain quantize [OPTIONS] --output <FILE> <MODEL> <TEXT>

    Arguments:
      <MODEL>
              A run's folder, whose best model is taken, or a model file

      <TEXT>
              The text; - reads it from stdin

    Options:
          --output <FILE>
              The model file to write, which must not exist yet

          --encoding <NAME>
              How to read the text: utf-8, utf-16le, utf-16be or gb18030 [default: whichever it is]

          --json
              Print one JSON object

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    ");
}

#[test]
fn help_says_what_every_column_of_a_benchmark_means() {
    assert_snapshot!(help("bench --help"), @"
    Time the fixed cases of training, layers, inference and generation, alone or beside another program

    Cases of the first four kinds have the names and shapes of `benches/peers/torch_speed.py`. Each is
    run a few times to warm up, then timed; ms is the median of one training step, one pass or one whole
    text, and tokens/s follows from it. GFLOP/s counts the multiply-adds of the matrix products alone,
    two operations each; a backward pass has twice those of its forward pass.

    Before the cases the machine is measured, with the same threads and instruction set: how many
    multiply-adds it does with operands in registers, and how fast it reads 256 MiB of memory. % peak is
    GFLOP/s over the first. % bandwidth, of generation alone, is the bytes of weights read, each weight
    once a token, over the second; it exceeds 100 where the weights stay in a cache.

    Options of a layer are timed in turn with the plain layer over the same input, forward and backward
    in training; x plain is the ratio of the medians. Sentences have the lengths of Multi30k's English
    captions, eight batches of 64, each padded to its longest, and the plain layer computes the padding.
    Peak MiB is the most that a process of one case held, input, output and their gradients included;
    GFLOP/s leaves out what is computed again.

    With --peer, our cases and the peer's command take turns, so that a machine whose speed drifts
    drifts for both: ours in this process, the peer's in a new one every round. ratio is the peer's
    median time over ours, how many times as fast Refrain is; lowest and highest are those of single
    rounds.

    Usage: refrain bench [OPTIONS] [KIND]

    Arguments:
      [KIND]
              What to time [default: the first four]

              Possible values:
              - train:    A training step of a language model: forward, cross entropy, backward,
                clipping to norm 5, Adam
              - layer:    One recurrent layer alone, forward and backward, the gradient of its input
                included
              - infer:    A language model forward only, scoring every token
              - generate: A language model that writes a text, or 64 at once, each token sampled before
                the next
              - options:  One layer with each of its options, in turn with the plain one
              - memory:   One LSTM layer over long sequences, with all or part of the forward pass kept;
                a process for each case

    Options:
          --only <TEXT>
              Only cases with this in their name

          --precision <NAME>
              In what the factors of matrix products are kept; several are separated by commas

              Possible values:
              - f32
              - bf16
              - int8: Weights in 8 bits, for `generate`

              [default: f32]

          --repeats <N>
              Timed runs of each case, after those that warm up

              [default: 5]

          --peer <COMMAND>
              Compare with a program that prints JSON lines as --json does, by kind, case and dtype

              The shell runs it, so variables can stand before it: `OMP_NUM_THREADS=2 python
              torch_speed.py layer --threads 2`. Other lines on its stdout are passed over.

          --rounds <N>
              Turns that either side takes [default: 3]

          --json
              Print one JSON object a case

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    ");
}

#[test]
fn help_names_every_default_of_drawing() {
    assert_snapshot!(help("gates --help"), @r#"
    Draw what the gates of a layer do over a text, as SVG

    One heat map for each gate, the cell state and the hidden state: the characters from left to right,
    one unit a row. If the layer has more units than --units, as many are drawn, evenly spread. Rows are
    in the same order in all maps: by the mean of the forget or update gate, at the top the unit that
    keeps most of its state; without gates, by the mean of the hidden state. A projected hidden state
    has units of its own, by their mean.

    The text is read as the beginning of a line, as `refrain generate` reads a prompt: a new line goes
    before it, unless it begins with one.

    For example: refrain gates runs/shakespeare-001 --text "To be, or not to be" --output gates.svg

    Usage: refrain gates [OPTIONS] --text <TEXT> <MODEL>

    Arguments:
      <MODEL>
              A run's folder, whose best model is taken, or a model file

    Options:
          --text <TEXT>
              What the model reads, of at most 200 characters; - reads it from stdin

          --layer <N>
              The layer, counted from 1, the lowest

              [default: 1]

          --units <N>
              How many units to draw

              [default: 24]

          --output <FILE>
              The picture to write, which must not exist yet [default: stdout]

          --json
              Print the values of all units as one JSON object instead, by name, character and unit

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Computing: as everywhere
    "#);
}
