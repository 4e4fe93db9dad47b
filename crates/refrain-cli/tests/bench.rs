//! `refrain bench`: its lines, its table, and the peer beside it.

mod support;

use std::process::Output;

use insta::assert_snapshot;
use serde_json::{Map, Value};
use support::{Scratch, text, transcript};

/// The smallest case, timed once.
const QUICK: &str = "bench layer --only lstm-h128 --repeats 1 --threads 1 --kernel portable";

const OURS: &str = concat!("refrain-", env!("CARGO_PKG_VERSION"));

type Record = Map<String, Value>;

fn records(stdout: &str) -> Vec<Record> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn number(record: &Record, field: &str) -> f64 {
    record[field].as_f64().unwrap_or_else(|| panic!("{field} of {record:?}"))
}

/// The quick case beside a peer.
fn beside(scratch: &Scratch, arguments: &str, peer: &str) -> Output {
    scratch.refrain(&format!("{QUICK} {arguments} --peer")).arg(peer).output().expect("the command starts")
}

/// The last lines of a command that must fail, from the error on.
fn error(output: &Output) -> String {
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}", transcript(output));
    let stderr = text(&output.stderr);
    stderr[stderr.find("error: ").unwrap_or_else(|| panic!("no error: {stderr}"))..].to_owned()
}

/// A table whose numbers were measured: `#` for each, one space between columns.
fn measured(table: &str) -> String {
    let words = |line: &str| {
        let words = line.split_whitespace();
        let words = words.map(|word| if word.starts_with(|ch: char| ch.is_ascii_digit()) { "#" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    table.lines().map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_case_is_one_line_of_json_whose_rates_follow_from_its_seconds() {
    let scratch = Scratch::new();
    let records = records(&scratch.succeed(&format!("{QUICK} --json")));
    let [record] = &records[..] else { panic!("{records:?}") };
    for (field, expected) in
        [("peer", OURS), ("kind", "layer"), ("case", "lstm-h128-b32-t64"), ("dtype", "f32"), ("isa", "portable")]
    {
        assert_eq!(record[field], expected, "{field}");
    }
    assert_eq!(record["threads"], 1);
    let (tokens, flops) = (32.0 * 64.0, 3.0 * 32.0 * 64.0 * 16.0 * 128.0 * 128.0);
    for (field, work) in [("tokens_per_second", tokens), ("gflops_per_second", flops / 1e9)] {
        let (found, expected) = (number(record, field), work / number(record, "seconds"));
        assert!((found - expected).abs() <= 0.06 + 1e-3 * expected, "{field} is {found}, not {expected}");
    }
    assert!(number(record, "percent_of_peak") > 0.0);
    assert!(!record.contains_key("percent_of_bandwidth"));
}

#[test]
fn the_columns_of_the_table_stand_below_each_other() {
    let table = Scratch::new().succeed(QUICK);
    assert_snapshot!(measured(&table), @"
    kind case dtype ms tokens/s GFLOP/s % peak % bandwidth
    layer lstm-h128-b32-t64 f32 # # # # -
    ");
    let widths: Vec<usize> = table.lines().map(str::len).collect();
    assert_eq!(widths[0], widths[1], "{table}");
}

#[test]
fn generation_is_held_against_the_bandwidth_too() {
    let only = "bench generate --only gru-h512 --repeats 1 --threads 1 --json";
    let records = records(&Scratch::new().succeed(only));
    let [record] = &records[..] else { panic!("{records:?}") };
    assert!(number(record, "percent_of_bandwidth") > 0.0);
}

#[test]
fn an_option_is_held_against_the_plain_layer() {
    let scratch = Scratch::new();
    let records = records(&scratch.succeed("bench options --only plain --repeats 1 --json"));
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&record["kind"], &record["case"]), (&"options".into(), &"plain".into()));
    let expected = number(record, "seconds") / number(record, "seconds_of_plain");
    assert!((number(record, "ratio_to_plain") / expected - 1.0).abs() < 0.01, "{record:?}");
    assert_snapshot!(error(&scratch.run("bench options --peer true")), @"
    error: no peer has the cases of `options`
    hint: they are held against each other: leave --peer out
    ");
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_of_its_own_says_how_much_memory_a_case_takes() {
    let scratch = Scratch::new();
    let records = records(&scratch.succeed("bench memory --only t1k --repeats 1 --json"));
    let cases: Vec<&Value> = records.iter().map(|record| &record["case"]).collect();
    assert_eq!(cases, ["all-t1k", "every-100-t1k", "square-root-t1k"]);
    let [all, _, least] = [0, 1, 2].map(|index| number(&records[index], "peak_bytes"));
    assert!(all > least && least > f64::from(4 << 20), "{records:?}");
    let table = scratch.succeed("bench memory --only all-t1k --repeats 1");
    assert_snapshot!(measured(&table), @"
    kind case dtype ms tokens/s GFLOP/s % peak peak MiB
    memory all-t1k f32 # # # # #
    ");
}

/// A peer that takes a thousand seconds, then a million more, and leaves a mark of each turn.
const PEER: &str = r#"echo turn >>turns; printf 'warming up\n{"peer": "fake", "kind": "layer", "case": "lstm-h128-b32-t64", "dtype": "f32", "threads": 7, "seconds": %s}\n' $(( $(wc -l <turns) * 1000000 - 999000 ))"#;

#[test]
#[cfg(unix)]
fn the_peer_takes_turns_with_ours() {
    let scratch = Scratch::new();
    let output = beside(&scratch, "--rounds 2 --json", PEER);
    assert!(output.status.success(), "{}", transcript(&output));
    assert_eq!(text(&scratch.read("turns")), "turn\nturn\n");
    let stderr = text(&output.stderr);
    let turns: Vec<&str> = stderr.lines().filter(|line| line.starts_with("round ")).collect();
    let [ours, theirs] = ["layer lstm-h128-b32-t64 f32", PEER];
    let expected = [("1", ours), ("1", theirs), ("2", ours), ("2", theirs)];
    assert_eq!(turns, expected.map(|(round, turn)| format!("round {round} of 2: {turn}")));
    assert!(stderr.ends_with("note: layer lstm-h128-b32-t64 f32: threads of the peer: 7, ours: 1\n"), "{stderr}");

    let records = records(&text(&output.stdout));
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&record["peer"], &record["compared_with"]), (&OURS.into(), &"fake".into()));
    assert_eq!((number(record, "seconds_of_peer"), number(record, "rounds")), (501_000.0, 2.0));
    let ratio = number(record, "ratio");
    let expected = 501_000.0 / number(record, "seconds");
    assert!((ratio / expected - 1.0).abs() < 0.01, "{ratio} is not {expected}");
    assert!(number(record, "lowest_ratio") < ratio && ratio < number(record, "highest_ratio"), "{record:?}");
}

#[test]
#[cfg(unix)]
fn the_comparison_is_a_table_and_says_what_the_peer_lacks() {
    let scratch = Scratch::new();
    let arguments = "bench --only lstm-h128 --repeats 1 --threads 1 --rounds 1 --peer";
    let output = scratch.refrain(arguments).arg(PEER).output().expect("the command starts");
    assert_snapshot!(measured(&text(&output.stdout)), @"
    kind case dtype ms peer's ms ratio lowest highest peer
    layer lstm-h128-b32-t64 f32 # # # # # fake
    ");
    let stderr = text(&output.stderr);
    let notes: Vec<&str> = stderr.lines().filter(|line| line.contains("no line")).collect();
    assert_snapshot!(notes.join("\n"), @"
    note: the peer printed no line for train lstm-h128 f32
    note: the peer printed no line for infer lstm-h128 f32
    ");
}

#[test]
#[cfg(unix)]
fn a_peer_that_fails_is_named_with_its_exit_status() {
    let scratch = Scratch::new();
    let output = beside(&scratch, "", "echo no such module >&2; exit 3");
    assert_snapshot!(error(&output), @"
    error: the peer `echo no such module >&2; exit 3` ended with exit status: 3
    hint: run it alone first, from this folder
    ");
    assert!(text(&output.stderr).contains("\nno such module\n"), "its own words are shown");
}

#[test]
#[cfg(unix)]
fn a_peer_without_a_line_of_ours_is_named_with_what_it_printed() {
    let scratch = Scratch::new();
    assert_snapshot!(error(&beside(&scratch, "", "echo 17.3 ms")), @"
    error: the peer `echo 17.3 ms` ended with exit status: 0 and printed no line for any of the cases
    hint: a line is a JSON object with kind, case, dtype and seconds, as --json prints it
    ");
    scratch.write("other.json", r#"{"kind": "layer", "case": "gru-h128", "dtype": "bf16", "seconds": 1}"#);
    assert_snapshot!(error(&beside(&scratch, "", "cat other.json")), @"
    error: the peer `cat other.json` ended with exit status: 0 and printed no line for any of the cases
    hint: it printed layer gru-h128 bf16; wanted is layer lstm-h128-b32-t64 f32
    ");
    scratch.write("zero.json", r#"{"kind": "layer", "case": "lstm-h128-b32-t64", "dtype": "f32", "seconds": 0}"#);
    assert_snapshot!(error(&beside(&scratch, "", "cat zero.json")), @"
    error: the peer `cat zero.json` ended with exit status: 0 and printed no line for any of the cases
    hint: a line is a JSON object with kind, case, dtype and seconds, as --json prints it
    ");
}

#[test]
fn rounds_are_for_a_peer_alone() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("bench --rounds 2"), @"
    exit status: 1
    [stderr]
    error: --rounds 2: there is no peer to take turns with
    hint: name one with --peer; how often a case is timed is --repeats
    ");
    assert_snapshot!(scratch.transcript("bench options --rounds 2"), @"
    exit status: 1
    [stderr]
    error: no peer has the cases of `options`
    hint: they are held against each other: leave --rounds out
    ");
}

#[test]
fn an_unknown_case_is_answered_with_the_known_ones() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("bench generate --only h513"), @"
    exit status: 1
    [stderr]
    error: --only h513: no case has this in its name
    hint: there are lstm-h512, lstm-h1024, gru-h512, lstm-h650-v10k, lstm-h512-b64
    ");
    assert_snapshot!(scratch.transcript("bench --only peep"), @"
    exit status: 1
    [stderr]
    error: --only peep: no case has this in its name
    hint: `refrain bench options` has peepholes
    ");
    assert_snapshot!(scratch.transcript("bench layer --only t1k"), @"
    exit status: 1
    [stderr]
    error: --only t1k: no case has this in its name
    hint: `refrain bench memory` has all-t1k, every-100-t1k, square-root-t1k
    ");
    assert_snapshot!(scratch.transcript("bench --repeats 0"), @"
    exit status: 2
    [stderr]
    error: invalid value '0' for '--repeats <N>': an integer of at least 1

    For more information, try '--help'.
    ");
}
