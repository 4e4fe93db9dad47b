//! The help of writing text.

use insta::assert_snapshot;

use crate::help;

#[test]
#[expect(clippy::too_many_lines, reason = "the help is as long")]
fn help_names_every_default_of_generation() {
    assert_snapshot!(help("generate --help"), @r#"
    Let a model continue a prompt

    The text goes to stdout as it comes, the prompt first. The same seed gives the same text, however
    many are written at once. A model never writes the unknown token. A prompt is read as the beginning
    of a line: a new line goes before it, unseen, unless it begins with one.

    Tokens are drawn by the distribution that the filters leave of the model's; --greedy always takes
    the likeliest, --contrastive one of the likeliest that is unlike what is there, and --beams looks
    for the likeliest text. In --stop, --ban and --force `\n` is a new line, `\t` a tab and `\\` a
    backslash.

    Usage: refrain generate [OPTIONS] <RUN_OR_MODEL>

    Arguments:
      <RUN_OR_MODEL>
              A run's folder, whose best model is taken, or a model file

    Options:
          --prompt <TEXT>
              What to continue; - reads it from stdin [default: a new line, if the model knows it]

          --interactive
              Read prompts from stdin, a line each, and continue one after another

              An empty line continues the last prompt once more, in another way where tokens are drawn.
              A line such as `:top-p 0.9` sets a filter, `:` alone shows them.

          --tokens <N>
              How many tokens to write

              [default: 400]

          --stop <TEXT>
              End a text before this one; may be repeated

          --min-tokens <N>
              Let no --stop count before N tokens

              [default: 0]

          --greedy
              Always take the likeliest token, as --temperature 0

          --ban <TEXT>
              Write this text nowhere: a character, a word or any other; may be repeated

          --force <TEXT>
              Write this text first, whatever its probability

          --seed <N>
              The seed of the random draws

              [default: 1]

          --num <N>
              How many texts to write; a line of three dashes stands between them

              [default: 1]

          --unknown <RULE>
              What to do with characters or words of the prompt that the model does not know

              Possible values:
              - error:   Name them and stop
              - replace: Name them and read them as the unknown token
              - skip:    Name them and leave them out

              [default: error]

          --show-probabilities
              Shade each token by its probability under the model; with --json, give its logarithm

          --json
              Print one JSON object a text, with `prompt` and `text`

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Filters, applied in this order:
          --repetition-penalty <F>
              Above 1, tokens of the prompt and of what is written become less likely: positive scores
              are divided by it, negative ones multiplied [default: 1]

          --presence-penalty <F>
              Subtracted from the scores of tokens of the prompt and of what is written [default: 0]

          --frequency-penalty <F>
              The same, once for each time that the token occurs there [default: 0]

          --no-repeat-ngram <N>
              Write no sequence of N tokens that the prompt or what is written has already; 0: any
              [default: 0]

          --temperature <F>
              Below 1 safer, above 1 wilder; 0 always takes the likeliest token [default: 0.8]

          --top-k <K>
              Draw among the K likeliest tokens only; 0: among all [default: 0]

          --top-p <P>
              Draw among the fewest of the likeliest tokens that have the probability P together; 1:
              among all [default: 1]

          --min-p <P>
              Draw among the tokens of at least the share P of the likeliest one's probability; 0: among
              all [default: 0]

          --typical-p <P>
              Draw among the fewest tokens that have the probability P together, those first whose
              surprisal is nearest to the mean; 1: among all [default: 1]

          --epsilon-cutoff <P>
              Draw among the tokens of at least the probability P; 0: among all [default: 0]

    Contrastive search:
          --contrastive <F>
              Write one text: of the likeliest tokens always that with the highest (1 - F) P - F s,
              where P is its probability and s its likeness to the most similar token so far; such as
              0.6; 0 is --greedy

          --candidates <N>
              How many of the likeliest tokens it chooses from

              [default: 4]

    Beam search:
          --beams <N>
              Keep the N likeliest texts at a time, and write the best, or the best --num

          --groups <N>
              Divide the beams into N groups that keep away from each other

              [default: 1]

          --diversity <F>
              What a group subtracts from the log-probability of a token that a group before it has just
              chosen

              [default: 0.5]

          --length-penalty <F>
              Rank texts of n tokens by log-probability / ((5 + n) / 6)^F: above 0, longer ones are not
              at a disadvantage

              [default: 0.6]

    Computing: as everywhere
    "#);
}
