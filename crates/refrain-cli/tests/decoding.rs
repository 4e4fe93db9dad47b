//! Ways of decoding on the command line, and which do not go together.

mod support;

use std::io::Write as _;
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::Value;
use support::{PLAIN, Scratch, text, transcript};

/// The whole output of a command that reads `input` on stdin.
fn fed(scratch: &Scratch, arguments: &str, input: &[u8]) -> String {
    let mut command = scratch.refrain(arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it is read");
    transcript(&child.wait_with_output().expect("a child"))
}

/// The whole output of a command that continues a prompt.
fn continued(scratch: &Scratch, arguments: &str) -> String {
    scratch.transcript(&format!("generate run --prompt First {arguments} {PLAIN}"))
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scratch = Scratch::with_run();
    let refused = |arguments: &str| continued(&scratch, arguments);
    assert_snapshot!(refused("--greedy --top-p 0.9"), @"
    exit status: 2
    [stderr]
    error: the argument '--greedy' cannot be used with '--top-p <P>'

    Usage: refrain generate --prompt <TEXT> --greedy --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--beams 4 --temperature 0.5"), @"
    exit status: 2
    [stderr]
    error: the argument '--beams <N>' cannot be used with '--temperature <F>'

    Usage: refrain generate --prompt <TEXT> --beams <N> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--beams 4 --greedy"), @"
    exit status: 2
    [stderr]
    error: the argument '--beams <N>' cannot be used with '--greedy'

    Usage: refrain generate --prompt <TEXT> --beams <N> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--groups 2"), @"
    exit status: 2
    [stderr]
    error: the following required arguments were not provided:
      --beams <N>

    Usage: refrain generate --beams <N> --prompt <TEXT> --groups <N> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--beams 4 --groups 3"), @"
    exit status: 1
    [stderr]
    error: --groups 3 does not divide --beams 4
    hint: groups are of as many beams each
    ");
    assert_snapshot!(refused("--beams 4 --num 5"), @"
    exit status: 1
    [stderr]
    error: --num 5: a search with --beams 4 finds 4
    hint: raise --beams
    ");
    assert_snapshot!(refused("--tokens 5 --min-tokens 6 --stop ."), @"
    exit status: 1
    [stderr]
    error: --min-tokens 6 is more than --tokens 5
    hint: a text has at most --tokens tokens
    ");
    assert_snapshot!(refused("--min-tokens 6"), @"
    exit status: 2
    [stderr]
    error: the following required arguments were not provided:
      --stop <TEXT>

    Usage: refrain generate --stop <TEXT> --prompt <TEXT> --min-tokens <N> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--interactive"), @"
    exit status: 2
    [stderr]
    error: the argument '--prompt <TEXT>' cannot be used with '--interactive'

    Usage: refrain generate --prompt <TEXT> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--top-q 6"), @"
    exit status: 2
    [stderr]
    error: unexpected argument '--top-q' found

      tip: a similar argument exists: '--top-p'

    Usage: refrain generate --prompt <TEXT> --top-p <P> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--top-p 0"), @"
    exit status: 2
    [stderr]
    error: invalid value '0' for '--top-p <P>': a number above 0 and at most 1

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--no-repeat-ngram 2.5"), @"
    exit status: 2
    [stderr]
    error: invalid value '2.5' for '--no-repeat-ngram <N>': an integer of at least 0

    For more information, try '--help'.
    ");
    assert_snapshot!(refused("--stop \\x"), @r#"
    exit status: 2
    [stderr]
    error: invalid value '\x' for '--stop <TEXT>': after `\` comes `n`, `t` or `\`

    For more information, try '--help'.
    "#);
    assert_snapshot!(refused("--ban @"), @"
    exit status: 1
    [stderr]
    error: the model does not know what stands in --ban: '@' (U+0040, line 1 column 1)
    hint: it never writes them; `refrain info` shows those that it knows
    ");
}

#[test]
fn what_leaves_nothing_to_write_is_refused() {
    let scratch = Scratch::with_recipe();
    scratch.write("corpus.txt", "ab".repeat(2000));
    scratch.succeed("train recipe.toml --run-dir run --set train.max-steps=2 --set sample.tokens=1");
    assert_snapshot!(scratch.transcript("generate run --ban a --ban b"), @"
    exit status: 1
    [stderr]
    error: --ban leaves nothing to write
    hint: ban fewer of the tokens that the model knows
    ");
    // A ban that depends on what came before gives way.
    assert_eq!(scratch.succeed("generate run --prompt a --ban a --ban bb --tokens 3"), "abbb\n");
}

#[test]
fn one_beam_and_the_likeliest_of_one_are_greedy() {
    let scratch = Scratch::with_run();
    let written =
        |arguments: &str| scratch.succeed(&format!("generate run --prompt First --tokens 50 {arguments} {PLAIN}"));
    let greedy = written("--greedy");
    for other in [
        "--beams 1",
        "--top-k 1",
        "--temperature 0",
        "--min-p 1",
        "--temperature 1e-6",
        "--epsilon-cutoff 0.999",
        "--contrastive 0",
        "--contrastive 0.6 --candidates 1",
    ] {
        assert_eq!(written(other), greedy, "{other}");
    }
    assert_ne!(written("--contrastive 1"), greedy);
    assert_ne!(written("--greedy --repetition-penalty 1.5"), greedy);
    assert_eq!(written("--greedy --no-repeat-ngram 4"), written("--beams 1 --no-repeat-ngram 4"));
}

#[test]
fn a_text_begins_goes_on_and_ends_as_asked() {
    let scratch = Scratch::with_run();
    let written =
        |arguments: &str| scratch.succeed(&format!("generate run --prompt First --tokens 80 {arguments} {PLAIN}"));
    let plain = written("");
    let rest = plain.strip_prefix("First").expect("the prompt comes first");
    // The first space is not the end while three tokens are to come.
    let (before, _) = rest.split_once(' ').expect("a space in 80 characters");
    assert_eq!(written("--stop ~").lines().next(), plain.lines().next(), "what never comes changes nothing");
    let stop = |more: &str| {
        let mut command = scratch.refrain(&format!("generate run --prompt First --tokens 80 {more} {PLAIN}"));
        text(&command.args(["--stop", " "]).output().expect("the command starts").stdout)
    };
    assert_eq!(stop(""), format!("First{before}\n"));
    let late = stop("--min-tokens 40");
    assert!(late.len() >= "First".len() + 39 && plain.starts_with(late.trim_end_matches('\n')), "{late}");

    assert!(!written("--ban e --ban th --temperature 2").contains('e'));
    assert!(!written("--ban th --temperature 0.5").contains("th"));
    assert!(written("--force zebra").starts_with("Firstzebra"));
    let no_repeat = written("--greedy --no-repeat-ngram 3");
    let letters: Vec<char> = no_repeat.trim_end().chars().collect();
    let mut triples: Vec<&[char]> = letters.windows(3).collect();
    triples.sort_unstable();
    assert!(triples.windows(2).all(|pair| pair[0] != pair[1]), "{no_repeat}");
}

#[test]
fn samples_are_the_same_alone_and_together_however_they_end() {
    let scratch = Scratch::with_run();
    let written = |num: u64| -> Vec<Value> {
        let filters = "--top-p 0.95 --repetition-penalty 1.1 --frequency-penalty 0.01 --show-probabilities";
        let lines = scratch.succeed(&format!("generate run --tokens 60 --stop e --json {filters} --num {num} {PLAIN}"));
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let many = written(70);
    assert_eq!(many.len(), 70);
    for num in [1, 3, 65] {
        assert_eq!(written(num), many[..num as usize]);
    }
    let ends = |end: &str| many.iter().filter(|text| text["end"] == end).count();
    assert_eq!(ends("stop") + ends("length"), 70);
    assert!(ends("stop") > 0);
    for text in &many {
        let tokens = text["tokens"].as_array().expect("an array");
        let joined: String = tokens.iter().map(|token| token["text"].as_str().expect("text")).collect();
        assert_eq!(joined, text["text"].as_str().expect("text"));
        assert!(tokens.iter().all(|token| token["log_probability"].as_f64().is_some_and(|nats| nats < 0.0)));
    }
}

#[test]
fn contrastive_search_writes_one_text_whatever_the_seed() {
    let scratch = Scratch::with_run();
    let arguments = "generate run --prompt First --tokens 30 --contrastive 1 --candidates 5";
    let json = scratch.succeed(&format!("{arguments} --json --show-probabilities {PLAIN}"));
    let found: Value = serde_json::from_str(&json).expect("one object");
    assert_eq!((found["contrastive"].as_f64(), found["candidates"].as_u64()), (Some(1.0), Some(5)));
    let tokens = found["tokens"].as_array().expect("an array");
    assert_eq!(tokens.len(), 30);
    assert!(tokens.iter().all(|token| token["log_probability"].as_f64().is_some_and(|nats| nats < 0.0)));
    let expected = format!("First{}\n", found["text"].as_str().expect("text"));
    for seed in [1, 2] {
        assert_eq!(scratch.succeed(&format!("{arguments} --seed {seed} {PLAIN}")), expected);
    }
    assert_eq!(scratch.succeed(&format!("{arguments} {PLAIN}").replace("--tokens 30", "--tokens 0")), "First\n");
    let fed = fed(&scratch, &format!("{arguments} --interactive {PLAIN}").replace("--prompt First", ""), b"First\n\n");
    assert_eq!(fed, format!("exit status: 0\n[stdout]\n{expected}{expected}"));
    assert!(scratch.succeed(&format!("{arguments} --force zebra --ban e {PLAIN}")).starts_with("Firstzebra"));
    let stop = &expected["First".len() + 9..][..2];
    let mut command = scratch.refrain(&format!("{arguments} {PLAIN}"));
    let stopped = text(&command.args(["--stop", stop]).output().expect("the command starts").stdout);
    let at = expected["First".len()..].find(stop).expect("it is there");
    assert_eq!(stopped, format!("{}\n", &expected[.."First".len() + at]));
}

#[test]
fn contrastive_search_refuses_what_it_has_no_use_for() {
    let scratch = Scratch::with_run();
    let refused = |arguments: &str| continued(&scratch, arguments);
    assert_snapshot!(refused("--contrastive 0.6 --num 2"), @"
    exit status: 2
    [stderr]
    error: the argument '--contrastive <F>' cannot be used with '--num <N>'

    Usage: refrain generate --prompt <TEXT> --contrastive <F> --threads <N> --kernel <NAME> <RUN_OR_MODEL>

    For more information, try '--help'.
    ");
    for (other, name) in [("--beams 2", "--beams <N>"), ("--greedy", "--greedy"), ("--top-k 3", "--top-k <K>")] {
        let expected = format!("error: the argument '--contrastive <F>' cannot be used with '{name}'");
        assert!(refused(&format!("--contrastive 0.6 {other}")).contains(&expected), "{other}");
    }
    for value in ["-0.5", "nan", "much"] {
        let expected =
            format!("error: invalid value '{value}' for '--contrastive <F>': a number of at least 0 and at most 1");
        assert!(refused(&format!("--contrastive {value}")).contains(&expected), "{value}");
    }
    for other in ["--beams 2 --length-penalty", "--beams 2 --groups 2 --diversity"] {
        assert!(refused(&format!("{other} -1")).contains("a number of at least 0"), "{other}");
    }
    assert!(refused("--candidates 3").contains("  --contrastive <F>\n"));
    assert!(refused("--contrastive 0.6 --candidates 0").starts_with("exit status: 2"));
    let arguments = format!("generate run --interactive --tokens 12 --contrastive 0.6 {PLAIN}");
    assert_snapshot!(fed(&scratch, &arguments, b":\n:no-repeat-ngram 3\n:top-k 3\n"), @"
    exit status: 1
    [stderr]
    :repetition-penalty 1
    :presence-penalty 0
    :frequency-penalty 0
    :no-repeat-ngram 0
    error: `top-k` shapes what tokens are drawn from, and none are drawn
    hint: leave --greedy, --contrastive or --beams out
    ");
    assert_snapshot!(refused("--contrastive 1.5"), @"
    exit status: 2
    [stderr]
    error: invalid value '1.5' for '--contrastive <F>': a number of at least 0 and at most 1

    For more information, try '--help'.
    ");
}

#[test]
fn a_search_writes_the_best_first() {
    let scratch = Scratch::with_run();
    let search = |arguments: &str| -> Vec<Value> {
        let lines = scratch.succeed(&format!("generate run --prompt First --tokens 30 --json {arguments} {PLAIN}"));
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let found = search("--beams 6 --num 6");
    let scores: Vec<f64> = found.iter().map(|text| text["score"].as_f64().expect("a number")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores.len() == 6, "{scores:?}");
    assert!(found[0]["log_probability"].as_f64() >= search("--beams 1")[0]["log_probability"].as_f64());
    assert_eq!(search("--beams 6"), found[..1]);
    let plain = scratch.succeed(&format!("generate run --prompt First --tokens 30 --beams 6 --num 2 {PLAIN}"));
    let texts: Vec<String> =
        found[..2].iter().map(|text| format!("First{}\n", text["text"].as_str().unwrap())).collect();
    assert_eq!(plain, texts.join("---\n"));
    let diverse = search("--beams 6 --groups 6 --diversity 50 --num 6");
    let mut firsts: Vec<&str> = diverse.iter().map(|text| &text["text"].as_str().unwrap()[..1]).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 6);
}

#[test]
fn probabilities_are_shown_as_colours() {
    let scratch = Scratch::with_run();
    let arguments = format!("generate run --prompt First --tokens 20 {PLAIN}");
    let plain = scratch.succeed(&arguments);
    let output = scratch.run(&format!("{arguments} --show-probabilities"));
    assert!(text(&output.stderr).starts_with("probability 0 \u{1b}[48;2;0;32;77;38;5;231m"));
    let mut shown = text(&output.stdout);
    assert!(shown.starts_with("First\u{1b}[48;2;"));
    while let Some(begin) = shown.find('\u{1b}') {
        let end = begin + shown[begin..].find('m').expect("the end of a colour");
        shown.replace_range(begin..=end, "");
    }
    assert_eq!(shown.replace('↵', ""), plain);
}

#[test]
fn prompts_are_continued_one_after_another() {
    let scratch = Scratch::with_run();
    let arguments = format!("generate run --interactive --tokens 12 {PLAIN}");
    let alone = |prompt: &str, more: &str| {
        scratch.succeed(&format!("generate run --prompt {prompt} --tokens 12 {more} {PLAIN}"))
    };
    let [first, second] = [0, 1].map(|sample| {
        let both = alone("First", "--num 2");
        both.split("---\n").nth(sample).expect("two texts").to_owned()
    });
    // The last two have samples 2 and 3, but of nothing to choose from.
    let greedy = alone("ROMEO", "--greedy");
    assert_eq!(
        fed(&scratch, &arguments, b"First\n\n:temperature 0\nROMEO\r\n\n"),
        format!("exit status: 0\n[stdout]\n{first}{second}{greedy}{greedy}")
    );
    assert_snapshot!(fed(&scratch, &arguments, b":temperature 0\n:top-k 3\n:\n"), @"
    exit status: 0
    [stderr]
    :repetition-penalty 1
    :presence-penalty 0
    :frequency-penalty 0
    :no-repeat-ngram 0
    :temperature 0
    :top-k 3
    :top-p 1
    :min-p 0
    :typical-p 1
    :epsilon-cutoff 0
    ");
    assert_snapshot!(fed(&scratch, &arguments, b"\n"), @"
    exit status: 1
    [stderr]
    error: the prompt is empty
    hint: give at least one character
    ");
    assert_snapshot!(fed(&scratch, &arguments, b"Fir\xffst\n"), @"
    exit status: 1
    [stderr]
    error: stdin: the line is not valid UTF-8 from byte 4 on
    hint: pipe UTF-8
    ");
    assert_snapshot!(fed(&scratch, &arguments, b":top-j 3\n"), @"
    exit status: 1
    [stderr]
    error: there is no filter `top-j`
    hint: did you mean `top-k`?
    ");
    assert_snapshot!(fed(&scratch, &arguments, b":top-p 3\n"), @"
    exit status: 1
    [stderr]
    error: `top-p` must be a number above 0 and at most 1, found 3.0
    ");
    assert_snapshot!(fed(&scratch, &arguments, b":top-p three\n"), @"
    exit status: 1
    [stderr]
    error: `three` is no number
    hint: such as :top-p 0.9
    ");
    assert_snapshot!(fed(&scratch, &arguments, "Fürst\n".as_bytes()), @"
    exit status: 1
    [stderr]
    error: the model does not know these characters of the prompt: 'ü' (U+00FC, line 1 column 2)
    hint: --unknown replace reads them as the unknown token, --unknown skip leaves them out
    ");
}

#[test]
fn lines_are_scored_each_alone() {
    let scratch = Scratch::with_run();
    let score =
        |arguments: &str, input: &str| fed(&scratch, &format!("score run {arguments} {PLAIN}"), input.as_bytes());
    let lines = "First Citizen:\n\nzzzzz\nthe\n";
    let of = |arguments: &str| -> Vec<Value> {
        let shown = score(&format!("--json {arguments}"), lines);
        let shown = shown.strip_prefix("exit status: 0\n[stdout]\n").unwrap_or_else(|| panic!("{shown}"));
        shown.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let scores = of("");
    assert_eq!(scores.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3, 4]);
    for line in &scores {
        let bits = |token: &Value| token["surprisal_bits"].as_f64().unwrap();
        let tokens = line["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), line["text"].as_str().unwrap().chars().count());
        let nats = tokens.iter().map(bits).sum::<f64>() * std::f64::consts::LN_2;
        assert!((nats + line["log_probability"].as_f64().unwrap()).abs() < 1e-9);
        let perplexity = (nats / tokens.len() as f64).exp();
        assert!((perplexity / line["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    }
    let numbers = |lines: Vec<Value>| lines.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(of("--rank=perplexity"))[2], 3);
    assert_eq!(numbers(of("--rank"))[0], 4, "the shortest");
    assert_eq!(of("--rank")[0]["rank"], 1);
    // As a whole text, of which evaluation scores all but the first character.
    scratch.write("line.txt", "\nFirst Citizen:");
    let evaluated: Value =
        serde_json::from_str(&scratch.succeed(&format!("evaluate run line.txt --json {PLAIN}"))).unwrap();
    let (nats, expected) = (-scores[0]["log_probability"].as_f64().unwrap(), evaluated["total_nats"].as_f64().unwrap());
    assert!((nats - expected).abs() < 1e-4, "{nats}, {expected}");
    let shown = score("--surprisal", "the\n");
    let rows: Vec<&str> = shown.lines().skip(2).collect();
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["line", "log", "P,", "nats", "perplexity", "tokens", "text"]
    );
    assert!(rows[1].ends_with("       3  the") && rows[2].ends_with(" bits  \"t\"") && rows.len() == 5, "{shown}");
}

#[test]
fn what_cannot_be_scored_is_named() {
    let scratch = Scratch::with_run();
    let score = |arguments: &str, input: &[u8]| fed(&scratch, &format!("score run {arguments} {PLAIN}"), input);
    assert_snapshot!(score("", b""), @"
    exit status: 1
    [stderr]
    error: stdin has no line to score
    hint: give at least one that is not empty
    ");
    assert_snapshot!(score("", b"\n\n"), @"
    exit status: 1
    [stderr]
    error: stdin has no line to score
    hint: give at least one that is not empty
    ");
    assert_snapshot!(score("", b"fir\xffst"), @"
    exit status: 1
    [stderr]
    error: stdin: not valid utf-8: byte 0xFF at byte offset 3
    hint: pipe UTF-8, UTF-16 or GB18030
    ");
    assert_snapshot!(score("missing.txt", b""), @"
    exit status: 1
    [stderr]
    error: cannot read missing.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(score("--rank=length", b""), @"
    exit status: 2
    [stderr]
    error: invalid value 'length' for '--rank[=<BY>]'
      [possible values: log-probability, perplexity]

    For more information, try '--help'.
    ");
    assert_snapshot!(score("--json --show-probabilities", b""), @"
    exit status: 2
    [stderr]
    error: the argument '--json' cannot be used with '--show-probabilities'

    Usage: refrain score --json --threads <N> --kernel <NAME> <MODEL> [TEXT]

    For more information, try '--help'.
    ");
    let unknown = score("", "é@\n".as_bytes());
    assert_snapshot!(unknown.split("[stderr]\n").nth(1).unwrap_or_default(), @"note: stdin: the model does not know 'é' (U+00E9, line 1 column 1), '@' (U+0040, line 1 column 2); each is scored as the unknown token");
}

#[test]
fn a_line_of_one_token_needs_something_before_it() {
    let scratch = Scratch::with_recipe();
    scratch.write("corpus.txt", support::shakespeare(6000).replace('\n', " "));
    scratch.succeed("train recipe.toml --run-dir run --set train.max-steps=2 --set sample.tokens=1");
    assert_snapshot!(fed(&scratch, "score run", b"to be\na\n"), @"
    exit status: 1
    [stderr]
    error: stdin, line 2: there is one token alone, which has nothing before it
    hint: the model knows no new line to begin with; give at least two tokens
    ");
    let shown = fed(&scratch, &format!("score run --show-probabilities {PLAIN}"), b"to be\n");
    assert!(shown.contains("  t\u{1b}["), "the first is not scored: {shown}");
}
