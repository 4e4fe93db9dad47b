//! Every mistake that a user can make ends with one clear line, a hint where we know the fix, an exit status that is not
//! 0, and nothing half-written.

mod support;

use std::fs;
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::{Map, Value, json};
use support::{Scratch, names, outcome, shakespeare, text, transcript};

#[test]
fn a_corpus_that_cannot_be_read_is_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("books")).expect("a new folder");
    scratch.write("empty.txt", "");
    scratch.write("mark.txt", "\u{feff}");
    scratch.write("typo.toml", "[data]\ntrain = \"shakspere.txt\"\n");
    scratch.write("builtin.toml", "[data]\ntrain = \"builtin:shakspere\"\n");
    let before = names(scratch.path());
    assert_snapshot!(scratch.transcript("train shakspere.txt"), @"
    exit status: 1
    [stderr]
    error: cannot read shakspere.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("train typo.toml"), @"
    exit status: 1
    [stderr]
    error: cannot read shakspere.txt: no such file or folder (`data.train`)
    hint: `data.train` is relative to the current folder
    ");
    assert_snapshot!(scratch.transcript("train builtin.toml"), @"
    exit status: 1
    [stderr]
    error: there is no built-in text `shakspere` (`data.train`)
    hint: there is `builtin:shakespeare`, `builtin:tang`
    ");
    assert_snapshot!(scratch.transcript("train books"), @"
    exit status: 1
    [stderr]
    error: books is a folder, not a text file (`data.train`)
    hint: name one file; several can be joined with `cat`
    ");
    assert_snapshot!(scratch.transcript("train --set data.train=books"), @"
    exit status: 1
    [stderr]
    error: books is a folder, not a text file (`data.train`)
    hint: name one file; several can be joined with `cat`
    ");
    assert_snapshot!(scratch.transcript("train empty.txt"), @"
    exit status: 1
    [stderr]
    error: empty.txt is empty (`data.train`)
    ");
    assert_snapshot!(scratch.transcript("train mark.txt"), @"
    exit status: 1
    [stderr]
    error: mark.txt is empty (`data.train`)
    ");
    assert_eq!(names(scratch.path()), before, "a refusal left something behind");
}

#[test]
fn a_corpus_that_is_too_short_says_how_many_characters_are_needed() {
    let scratch = Scratch::new();
    scratch.write("short.txt", shakespeare(1000));
    scratch.write("one.txt", "x");
    assert_snapshot!(scratch.transcript("train short.txt"), @"
    exit status: 1
    [stderr]
    error: the training text has 900 characters, at least 4097 are needed: batch size × sequence length + 1 = 32 × 128 + 1
    hint: lower `train.batch-size` or `train.seq-len`, or train on a longer text
    ");
    // 900 characters to train on are 9 × 100 − 0; one more is needed.
    assert_snapshot!(scratch.transcript("train short.txt --set train.batch-size=9 --set train.seq-len=100"), @"
    exit status: 1
    [stderr]
    error: the training text has 900 characters, at least 901 are needed: batch size × sequence length + 1 = 9 × 100 + 1
    hint: lower `train.batch-size` or `train.seq-len`, or train on a longer text
    ");
    assert_snapshot!(scratch.transcript("train one.txt"), @"
    exit status: 1
    [stderr]
    error: one.txt has 1 characters: with `data.valid-fraction` 0.1, 0 are left to train on and 1 to validate on
    hint: name a longer text, or a file of its own in `data.valid`
    ");
    assert_snapshot!(scratch.transcript("train short.txt --set train.batch-size=1 --set data.valid=one.txt"), @"
    exit status: 1
    [stderr]
    error: the validation text has 1 characters, at least 2 are needed: batch size × sequence length + 1 = 1 × 1 + 1
    hint: name a longer text in `data.valid`, or raise `data.valid-fraction`
    ");
    assert_eq!(names(scratch.path()), ["one.txt", "short.txt"]);
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_offset() {
    let scratch = Scratch::new();
    let mut bytes = shakespeare(2000).as_bytes().to_vec();
    bytes[1234] = 0xff;
    scratch.write("stray.txt", &bytes);
    scratch.write("cut.txt", &"中文".as_bytes()[..5]);
    scratch.write("utf-32.txt", [0xff, 0xfe, 0, 0, b'x', 0, 0, 0]);
    scratch.write("marked.txt", b"\xff\xfex\0");
    assert_snapshot!(scratch.transcript("train stray.txt"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 1234
    hint: repair the file, or name its encoding: --set data.encoding=gb18030|utf-16le|utf-16be
    ");
    assert_snapshot!(scratch.transcript("train cut.txt"), @"
    exit status: 1
    [stderr]
    error: cut.txt: not valid utf-8: the text ends inside a character at byte offset 3
    hint: repair the file, or name its encoding: --set data.encoding=gb18030|utf-16le|utf-16be
    ");
    assert_snapshot!(scratch.transcript("train stray.txt --set data.encoding=utf-8"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 1234
    hint: leave `data.encoding` out to have it detected, or repair the file
    ");
    assert_snapshot!(scratch.transcript("train utf-32.txt"), @"
    exit status: 1
    [stderr]
    error: utf-32.txt: the text is UTF-32, which is not supported
    hint: convert it first: iconv -f utf-32 -t utf-8
    ");
    assert_snapshot!(scratch.transcript("train marked.txt --set data.encoding=utf-8"), @r#"
    exit status: 1
    [stderr]
    error: marked.txt: the text starts with the byte order mark of utf-16le, but is to be read as utf-8
    hint: leave `data.encoding` out, or set it to "utf-16le"
    "#);
}

/// What training by this recipe ends with.
fn refused_recipe(recipe: &str) -> String {
    let scratch = Scratch::new();
    scratch.write("recipe.toml", recipe);
    let transcript = scratch.transcript("train recipe.toml");
    assert_eq!(names(scratch.path()), ["recipe.toml"]);
    transcript
}

#[test]
fn an_unknown_key_in_a_recipe_is_named_with_file_and_line_and_what_may_be_meant() {
    assert_snapshot!(refused_recipe("[model]\nhidden-size = 16\ndroput = 0.5\n"), @"
    exit status: 1
    [stderr]
    error: unknown key `droput` in [model], recipe.toml:3
    hint: did you mean `dropout`?
    ");
    assert_snapshot!(refused_recipe("[model]\nhidden_size = 16\n"), @"
    exit status: 1
    [stderr]
    error: unknown key `hidden_size` in [model], recipe.toml:2
    hint: did you mean `hidden-size`?
    ");
    assert_snapshot!(refused_recipe("seed = 1\n\n[train]\nlr = 0.1\n"), @"
    exit status: 1
    [stderr]
    error: unknown key `lr` in [train], recipe.toml:4
    hint: did you mean `learning-rate` in [optimizer]?
    ");
    assert_snapshot!(refused_recipe("[modle]\nhidden-size = 16\n"), @"
    exit status: 1
    [stderr]
    error: unknown table [modle], recipe.toml:1
    hint: did you mean [model]?
    ");
    assert_snapshot!(refused_recipe("[optimizer]\nname = \"sgd\"\nbetas = [0.9, 0.999]\n"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `betas` in [optimizer], recipe.toml:3
    hint: `betas` is for name = "adamw" or "adam"
    "#);
    assert_snapshot!(refused_recipe("[schedule]\nname = \"cosine\"\ngamma = 0.9\n"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `gamma` in [schedule], recipe.toml:3
    hint: `gamma` is for name = "exponential" or "step"
    "#);
}

#[test]
fn a_value_in_a_recipe_that_is_not_allowed_is_named_with_file_and_line() {
    assert_snapshot!(refused_recipe("[train]\nbatch-size = 0\n"), @"
    exit status: 1
    [stderr]
    error: `train.batch-size` must be an integer from 1 to 65536, found 0, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[model]\ndropout = 1.0\n"), @"
    exit status: 1
    [stderr]
    error: `model.dropout` must be a number of at least 0 and below 1, found 1.0, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[optimizer]\nlearning-rate = nan\n"), @"
    exit status: 1
    [stderr]
    error: `optimizer.learning-rate` must be a number above 0, found nan, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[train]\nepochs = \"ten\"\n"), @r#"
    exit status: 1
    [stderr]
    error: `train.epochs` must be an integer from 1 to 1000000, found the text "ten", recipe.toml:2
    "#);
    assert_snapshot!(refused_recipe("[train]\nepochs = 2.5\n"), @"
    exit status: 1
    [stderr]
    error: `train.epochs` must be an integer from 1 to 1000000, found 2.5, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("seed = -1\n"), @"
    exit status: 1
    [stderr]
    error: `seed` must be an integer of at least 0, found -1, recipe.toml:1
    ");
    assert_snapshot!(refused_recipe("[train]\nstate = \"cary\"\n"), @r#"
    exit status: 1
    [stderr]
    error: `train.state` must be one of `carry`, `reset`, found the text "cary", recipe.toml:2
    hint: did you mean `carry`?
    "#);
    assert_snapshot!(refused_recipe("[optimizer]\nname = \"adam2\"\n"), @r#"
    exit status: 1
    [stderr]
    error: `optimizer.name` must be one of `adamw`, `adam`, `rmsprop`, `sgd`, found the text "adam2", recipe.toml:2
    hint: did you mean `adamw`?
    "#);
    assert_snapshot!(refused_recipe("[optimizer]\nname = \"sgd\"\nnesterov = true\n"), @"
    exit status: 1
    [stderr]
    error: `optimizer.nesterov` needs an `optimizer.momentum` above 0, recipe.toml:3
    hint: set optimizer.momentum = 0.9, or leave nesterov out
    ");
}

#[test]
fn a_recipe_that_is_not_toml_is_named_with_file_and_line() {
    assert_snapshot!(refused_recipe("[model]\nhidden-size = = 16\n"), @"
    exit status: 1
    [stderr]
    error: not valid TOML: extra `=`, expected nothing, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[model\nhidden-size = 16\n"), @"
    exit status: 1
    [stderr]
    error: not valid TOML: unclosed table, expected `]`, recipe.toml:1
    ");
    assert_snapshot!(refused_recipe("[model]\nhidden-size = 16\nhidden-size = 32\n"), @"
    exit status: 1
    [stderr]
    error: not valid TOML: duplicate key, recipe.toml:3
    ");
}

#[test]
fn a_recipe_that_cannot_be_read_is_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("folder.toml")).expect("a new folder");
    scratch.write("latin.toml", b"# caf\xe9\nseed = 1\n");
    assert_snapshot!(scratch.transcript("train missing.toml"), @"
    exit status: 1
    [stderr]
    error: cannot read missing.toml: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("train folder.toml"), @"
    exit status: 1
    [stderr]
    error: cannot read folder.toml: is a folder
    ");
    assert_snapshot!(scratch.transcript("train latin.toml"), @"
    exit status: 1
    [stderr]
    error: latin.toml: a recipe is UTF-8, this is not at byte offset 5
    hint: save it as UTF-8
    ");
}

#[test]
fn a_mistake_in_an_override_is_named_as_it_was_given() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("train --set model.hiden-size=32"), @"
    exit status: 1
    [stderr]
    error: unknown key `hiden-size` in [model], --set model.hiden-size=32
    hint: did you mean `hidden-size`?
    ");
    assert_snapshot!(scratch.transcript("train --set hidden-size=32"), @"
    exit status: 1
    [stderr]
    error: unknown key `hidden-size`, --set hidden-size=32
    hint: did you mean `hidden-size` in [model]?
    ");
    assert_snapshot!(scratch.transcript("train --set modell.hidden-size=32"), @"
    exit status: 1
    [stderr]
    error: unknown table [modell], --set modell.hidden-size=32
    hint: did you mean [model]?
    ");
    assert_snapshot!(scratch.transcript("train --set model.hidden-size"), @"
    exit status: 1
    [stderr]
    error: --set model.hidden-size: there is no `=`
    hint: write it as --set table.key=value
    ");
    assert_snapshot!(scratch.transcript("train --set model.hidden-size=many"), @r#"
    exit status: 1
    [stderr]
    error: `model.hidden-size` must be an integer from 1 to 16384, found the text "many", --set model.hidden-size=many
    "#);
    assert_snapshot!(scratch.transcript("train --set train.clip-norm=-1"), @"
    exit status: 1
    [stderr]
    error: `train.clip-norm` must be a number of at least 0, found -1, --set train.clip-norm=-1
    ");
    assert_snapshot!(scratch.transcript("train --set model=lstm"), @r#"
    exit status: 1
    [stderr]
    error: `model` must be a table, found the text "lstm", --set model=lstm
    hint: set one of its keys, such as model.cell
    "#);
    assert_snapshot!(scratch.transcript("train --set optimizer.name=sgd --set optimizer.alpha=0.9"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `alpha` in [optimizer], --set optimizer.alpha=0.9
    hint: `alpha` is for name = "rmsprop"
    "#);
    assert_snapshot!(scratch.transcript("train --set optimizer.momentum=0.9"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `momentum` in [optimizer], --set optimizer.momentum=0.9
    hint: `momentum` is for name = "sgd"
    "#);
    assert_eq!(names(scratch.path()), [""; 0]);
}

#[test]
fn a_mistake_in_the_arguments_is_named() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("trian"), @"
    exit status: 2
    [stderr]
    error: unrecognized subcommand 'trian'

      tip: a similar subcommand exists: 'train'

    Usage: refrain <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train --threads 0"), @"
    exit status: 2
    [stderr]
    error: invalid value '0' for '--threads <N>': an integer of at least 1

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train --resume run --run-dir other"), @"
    exit status: 2
    [stderr]
    error: the argument '--resume <RUN>' cannot be used with '--run-dir <DIR>'

    Usage: refrain train --resume <RUN> [SOURCE]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --temperature -1"), @"
    exit status: 2
    [stderr]
    error: invalid value '-1' for '--temperature <F>': a number of at least 0

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --top-k 0"), @"
    exit status: 2
    [stderr]
    error: invalid value '0' for '--top-k <K>': an integer of at least 1

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --unknown guess"), @"
    exit status: 2
    [stderr]
    error: invalid value 'guess' for '--unknown <RULE>'
      [possible values: error, replace, skip]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("evaluate run text.txt --encoding latin-1"), @"
    exit status: 2
    [stderr]
    error: invalid value 'latin-1' for '--encoding <NAME>': unknown encoding `latin-1`

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("completions nushell"), @"
    exit status: 2
    [stderr]
    error: invalid value 'nushell' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]

    For more information, try '--help'.
    ");
    let kernel = scratch.transcript("train --kernel neon2");
    let (error, machine) = kernel.split_once("hint: it has ").expect("a hint");
    assert_snapshot!(error, @"
    exit status: 1
    [stderr]
    error: --kernel neon2: this processor does not have it
    ");
    assert!(machine.ends_with("portable, or let `auto` choose\n"), "{machine}");
}

#[test]
fn a_folder_that_is_no_run_is_left_alone() {
    let scratch = Scratch::with_recipe();
    fs::create_dir(scratch.join("thesis")).expect("a new folder");
    scratch.write("thesis/chapter-1.txt", "x");
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir thesis"), @"
    exit status: 1
    [stderr]
    error: thesis is not empty
    hint: choose another folder for the run
    ");
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir corpus.txt"), @"
    exit status: 1
    [stderr]
    error: cannot create corpus.txt: File exists
    ");
    assert_snapshot!(scratch.transcript("train --resume thesis"), @"
    exit status: 1
    [stderr]
    error: thesis is not a run: it has no config.toml
    hint: name the folder that holds config.toml, such as runs/shakespeare-001
    ");
    assert_snapshot!(scratch.transcript("train --resume corpus.txt"), @"
    exit status: 1
    [stderr]
    error: corpus.txt is not a run: it has no config.toml
    hint: name the folder that holds config.toml, such as runs/shakespeare-001
    ");
    assert_snapshot!(scratch.transcript("train --resume missing"), @"
    exit status: 1
    [stderr]
    error: cannot open missing: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("generate thesis"), @"
    exit status: 1
    [stderr]
    error: thesis has no best.safetensors
    hint: a run writes it at its first evaluation; name a run's folder or a model file
    ");
    assert_eq!(names(&scratch.join("thesis")), ["chapter-1.txt"]);
    assert_eq!(names(scratch.path()), ["corpus.txt", "recipe.toml", "thesis"]);
}

#[test]
fn a_finished_run_is_not_begun_again_by_mistake() {
    let scratch = Scratch::with_run();
    let before = outcome(&scratch.join("run"));
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir run"), @"
    exit status: 1
    [stderr]
    error: run is not empty
    hint: continue that run with `--resume run`, or choose another folder
    ");
    assert_eq!(outcome(&scratch.join("run")), before);
    scratch.write("run/config.toml", "[model]\nhiden-size = 3\n");
    assert_snapshot!(scratch.transcript("train --resume run"), @"
    exit status: 1
    [stderr]
    error: unknown key `hiden-size` in [model], run/config.toml:2
    hint: did you mean `hidden-size`?
    ");
}

/// A model file taken apart, so that it can be put together wrongly.
#[derive(Clone)]
struct ModelFile {
    header: Map<String, Value>,
    numbers: Vec<u8>,
}

impl ModelFile {
    fn of(bytes: &[u8]) -> Self {
        let (length, rest) = bytes.split_first_chunk().expect("eight bytes of length");
        let (header, numbers) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).expect("a JSON header"), numbers: numbers.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("it came from JSON");
        [&(header.len() as u64).to_le_bytes(), header.as_slice(), &self.numbers].concat()
    }

    fn tensor(&mut self, name: &str) -> &mut Value {
        self.header.get_mut(name).unwrap_or_else(|| panic!("a tensor {name}"))
    }

    /// Where a tensor's bytes begin and end.
    fn range(&mut self, name: &str) -> [usize; 2] {
        serde_json::from_value(self.tensor(name)["data_offsets"].clone()).expect("two numbers")
    }

    fn metadata(&mut self, key: &str) -> &mut Value {
        &mut self.header["__metadata__"][key]
    }

    fn changed(&self, change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut changed = self.clone();
        change(&mut changed);
        changed.bytes()
    }
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("folder")).expect("a new folder");
    assert_snapshot!(scratch.transcript("info missing.safetensors"), @"
    exit status: 1
    [stderr]
    error: missing.safetensors: no such file
    hint: check the spelling and the folder
    ");
    assert_snapshot!(scratch.transcript("generate missing-run"), @"
    exit status: 1
    [stderr]
    error: missing-run: no such file
    hint: check the spelling and the folder
    ");
    assert_snapshot!(scratch.transcript("evaluate folder text.txt"), @"
    exit status: 1
    [stderr]
    error: folder has no best.safetensors
    hint: a run writes it at its first evaluation; name a run's folder or a model file
    ");
    let refused = |name: &str, bytes: &[u8]| {
        scratch.write(name, bytes);
        scratch.transcript(&format!("info {name}"))
    };
    assert_snapshot!(refused("empty.safetensors", b""), @"
    exit status: 1
    [stderr]
    error: empty.safetensors: the file is empty
    hint: copy or download the file again
    ");
    assert_snapshot!(refused("text.txt", shakespeare(100).as_bytes()), @"
    exit status: 1
    [stderr]
    error: text.txt: is not a safetensors file, it looks like text
    hint: Refrain reads .safetensors files
    ");
    let pickle = b"\x80\x02}q\x00X\x06\x00\x00\x00weightq\x01K\x01s.";
    assert_snapshot!(refused("model.pkl", pickle), @r#"
    exit status: 1
    [stderr]
    error: model.pkl: is a PyTorch pickle; Refrain never executes pickles
    hint: convert it with: python -c "import sys, torch, safetensors.torch; source, target = sys.argv[1:]; safetensors.torch.save_file({k: v.float().contiguous().clone() for k, v in torch.load(source, weights_only=True).items()}, target)" 'model.pkl' 'model.safetensors'
    "#);
    let zip = b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pklFB\x80\x02}q\x00.PK\x01\x02";
    assert_snapshot!(refused("model.pt", zip), @r#"
    exit status: 1
    [stderr]
    error: model.pt: is a PyTorch pickle; Refrain never executes pickles
    hint: convert it with: python -c "import sys, torch, safetensors.torch; source, target = sys.argv[1:]; safetensors.torch.save_file({k: v.float().contiguous().clone() for k, v in torch.load(source, weights_only=True).items()}, target)" 'model.pt' 'model.safetensors'
    "#);
    assert_snapshot!(refused("claims.safetensors", &[&[0xff; 8][..], b"{}"].concat()), @"
    exit status: 1
    [stderr]
    error: claims.safetensors: the header claims 18446744073709551615 bytes, the format allows 100000000
    hint: the file is damaged: copy or download it again
    ");
    assert_snapshot!(refused("short.safetensors", &[&1000_u64.to_le_bytes()[..], b"{}"].concat()), @"
    exit status: 1
    [stderr]
    error: short.safetensors: is truncated: the header says 1008 bytes, the file has 10
    hint: copy or download the file again
    ");
    assert_snapshot!(refused("cut.safetensors", &[&2_u64.to_le_bytes()[..], b"{"].concat()), @"
    exit status: 1
    [stderr]
    error: cut.safetensors: is truncated: the header says 10 bytes, the file has 9
    hint: copy or download the file again
    ");
    assert_snapshot!(refused("json.safetensors", &[&4_u64.to_le_bytes()[..], b"{,,}"].concat()), @"
    exit status: 1
    [stderr]
    error: json.safetensors: the header cannot be read: key must be a string at line 1 column 2
    hint: the file is damaged: copy or download it again
    ");
    // A safetensors file like any other, but of no model of ours.
    let other = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let length = (other.len() as u64).to_le_bytes();
    assert_snapshot!(refused("other.safetensors", &[&length[..], other, &[0; 4]].concat()), @"
    exit status: 1
    [stderr]
    error: other.safetensors: no `format` in the metadata
    hint: was the file written by Refrain?
    ");
}

#[test]
fn a_damaged_model_file_is_refused_with_what_is_wrong() {
    let scratch = Scratch::with_run();
    let sound = scratch.read("run/best.safetensors");
    let model = ModelFile::of(&sound);
    let refused = |bytes: Vec<u8>| {
        scratch.write("model.safetensors", bytes);
        let generated = scratch.transcript("generate model.safetensors");
        assert_eq!(generated, scratch.transcript("info model.safetensors"));
        assert_eq!(generated, scratch.transcript("evaluate model.safetensors corpus.txt"));
        generated
    };
    // The length of the header depends on the number of digits of the loss.
    let cut = |length: usize| refused(sound[..length].to_vec()).replace(|ch: char| ch.is_ascii_digit(), "#");
    assert_snapshot!(cut(sound.len() - 100), @"
    exit status: #
    [stderr]
    error: model.safetensors: is truncated: the header says ##### bytes, the file has #####
    hint: copy or download the file again
    ");
    assert_snapshot!(cut(200), @"
    exit status: #
    [stderr]
    error: model.safetensors: is truncated: the header says #### bytes, the file has ###
    hint: copy or download the file again
    ");
    assert_snapshot!(refused([&sound, &[0; 7][..]].concat()), @"
    exit status: 1
    [stderr]
    error: model.safetensors: has 7 bytes after its last tensor
    hint: the file is damaged: copy or download it again
    ");
    let overlapping = model.changed(|model| {
        let [begin, end] = model.range("lstm.layers.0.weight_ih");
        model.tensor("lstm.layers.0.weight_ih")["data_offsets"] = json!([begin - 4, end - 4]);
    });
    assert_snapshot!(refused(overlapping), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensors `lstm.layers.0.weight_hh` and `lstm.layers.0.weight_ih` overlap
    hint: the file is damaged: copy or download it again
    ");
    let oversized = model.changed(|model| model.tensor("head.weight")["shape"] = json!([u32::MAX, u32::MAX, u32::MAX]));
    assert_snapshot!(refused(oversized), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight` of shape [4294967295, 4294967295, 4294967295] does not fit bytes 1908..5936
    hint: the file is damaged: copy or download it again
    ");
    let beyond = model.changed(|model| {
        model.tensor("lstm.layers.1.weight_ih")["shape"] = json!([1_u64 << 40]);
        let [begin, _] = model.range("lstm.layers.1.weight_ih");
        model.tensor("lstm.layers.1.weight_ih")["data_offsets"] = json!([begin, begin + (4_u64 << 40) as usize]);
    });
    assert_snapshot!(refused(beyond).replace(|ch: char| ch.is_ascii_digit(), "#"), @"
    exit status: #
    [stderr]
    error: model.safetensors: is truncated: the header says ############# bytes, the file has #####
    hint: copy or download the file again
    ");
    let transposed = model.changed(|model| model.tensor("lstm.layers.0.weight_ih")["shape"] = json!([8, 76]));
    assert_snapshot!(refused(transposed), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `lstm.layers.0.weight_ih` has shape [8, 76], expected [76, 8]
    hint: the configuration must be the one that the weights were trained with
    ");
    let halves = model.changed(|model| model.tensor("head.bias")["dtype"] = json!("F16"));
    assert_snapshot!(refused(halves), @r#"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.bias` is F16, only F32 is read
    hint: convert it with: python -c "import sys, torch, safetensors.torch; source, target = sys.argv[1:]; safetensors.torch.save_file({k: v.float().contiguous().clone() for k, v in safetensors.torch.load_file(source).items()}, target)" 'model.safetensors' 'model.f32.safetensors'
    "#);
    let not_a_number = model.changed(|model| {
        let [begin, _] = model.range("lstm.layers.1.bias");
        model.numbers[begin + 8..begin + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert_snapshot!(refused(not_a_number), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `lstm.layers.1.bias` holds NaN at flat index 2
    hint: the training diverged: go back to an older checkpoint, lower the learning rate or clip
    ");
    let renamed = model.changed(|model| {
        let tensor = model.header.remove("head.bias").expect("a tensor");
        model.header.insert("head.offset".to_owned(), tensor);
    });
    assert_snapshot!(refused(renamed), @"
    exit status: 1
    [stderr]
    error: model.safetensors: no tensor `head.bias`, expected with shape [53]
    hint: it holds embedding.weight, head.offset, head.weight, lstm.layers.0.bias, lstm.layers.0.weight_hh, lstm.layers.0.weight_ih and 3 more
    ");
}

#[test]
fn metadata_that_does_not_describe_the_model_is_refused() {
    let scratch = Scratch::with_run();
    let model = ModelFile::of(&scratch.read("run/best.safetensors"));
    let refused = |change: &dyn Fn(&mut ModelFile)| {
        scratch.write("model.safetensors", model.changed(change));
        scratch.transcript("info model.safetensors")
    };
    assert_snapshot!(refused(&|model| drop(model.header.remove("__metadata__"))), @"
    exit status: 1
    [stderr]
    error: model.safetensors: no `format` in the metadata
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| *model.metadata("format") = json!("refrain-99")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `format` in the metadata is `refrain-99`; this version reads `refrain-1`
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| *model.metadata("model") = json!("{\"cell\":\"gru\"}")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be read: unknown variant `gru`, expected `lstm` at line 1 column 13
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| *model.metadata("vocabulary") = json!("{}")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `vocabulary` in the metadata cannot be read: damaged vocabulary: missing field `unit` at line 1 column 2
    hint: was the file written by Refrain?
    ");
    let sized = |key: &str, value: Value| {
        refused(&|model| {
            let config: &str = model.metadata("model").as_str().expect("a string");
            let mut config: Value = serde_json::from_str(config).expect("JSON");
            config[key] = value.clone();
            *model.metadata("model") = json!(config.to_string());
        })
    };
    assert_snapshot!(sized("hidden-size", json!(20)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight` has shape [53, 19], expected [53, 20]
    hint: the configuration must be the one that the weights were trained with
    ");
    assert_snapshot!(sized("num-layers", json!(3)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: no tensor `lstm.layers.2.weight_ih`, expected with shape [76, 19]
    hint: it holds embedding.weight, head.bias, head.weight, lstm.layers.0.bias, lstm.layers.0.weight_hh, lstm.layers.0.weight_ih and 3 more
    ");
    assert_snapshot!(sized("num-layers", json!(1)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: it has no tensor `lstm.layers.1.bias`, which the file holds
    hint: was the file written by Refrain?
    ");
    // What would take more memory than there is, or divide by zero, is no model either.
    assert_snapshot!(sized("hidden-size", json!(u64::MAX)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: u64 value was too large
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(sized("hidden-size", json!(1_u64 << 40)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `hidden-size` must be an integer from 1 to 16384, found 1099511627776
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(sized("num-layers", json!(1_u64 << 40)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `num-layers` must be an integer from 1 to 64, found 1099511627776
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(sized("hidden-size", json!(0)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `hidden-size` must be an integer from 1 to 16384, found 0
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(sized("num-layers", json!(0)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `num-layers` must be an integer from 1 to 64, found 0
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(sized("dropout", json!(1.5)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `dropout` must be a number of at least 0 and below 1, found 1.5
    hint: was the file written by Refrain?
    ");
}

#[test]
fn a_vocabulary_of_nothing_is_refused() {
    let scratch = Scratch::with_recipe();
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir run --set data.min-count=100000"), @"
    exit status: 1
    [stderr]
    error: no character of the training text occurs `data.min-count` = 100000 times
    hint: lower data.min-count; 1 keeps every character
    ");
    assert!(!scratch.join("run").exists());
}

#[test]
fn a_text_that_cannot_be_scored_is_named() {
    let scratch = Scratch::with_run();
    scratch.write("empty.txt", "");
    scratch.write("one.txt", "x");
    scratch.write("stray.txt", b"to be or not to be\xff");
    assert_snapshot!(scratch.transcript("evaluate run missing.txt"), @"
    exit status: 1
    [stderr]
    error: cannot read missing.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("evaluate run run"), @"
    exit status: 1
    [stderr]
    error: cannot read run: is a folder
    ");
    let engine = "--threads 1 --kernel portable";
    assert_snapshot!(scratch.transcript(&format!("evaluate run empty.txt {engine}")), @"
    exit status: 1
    [stderr]
    empty.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: empty.txt: the text has 0 characters; at least 2 are needed, since nothing comes before the first
    ");
    assert_snapshot!(scratch.transcript(&format!("evaluate run one.txt {engine}")), @"
    exit status: 1
    [stderr]
    one.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: one.txt: the text has 1 characters; at least 2 are needed, since nothing comes before the first
    ");
    assert_snapshot!(scratch.transcript("evaluate run stray.txt"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 18
    hint: repair the file, or name its encoding with --encoding
    ");
    assert_snapshot!(scratch.transcript("evaluate run stray.txt --encoding utf-8"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 18
    hint: leave --encoding out to have it detected, or repair the file
    ");
}

/// Runs a command whose stdout nobody reads.
fn with_closed_pipe(scratch: &Scratch, arguments: &str) -> String {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = scratch.refrain(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("the command starts");
    transcript(&output)
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let scratch = Scratch::with_run();
    for arguments in [
        "generate run --tokens 100000000",
        "generate run --json",
        "info run",
        "info run --json",
        "info run --recipe",
        "train --dump-config",
        "completions bash",
        "--help",
        "train --help",
        "--version",
    ] {
        assert_eq!(with_closed_pipe(&scratch, arguments), "exit status: 0", "{arguments}");
    }
    let evaluated = with_closed_pipe(&scratch, "evaluate run corpus.txt");
    assert!(evaluated.starts_with("exit status: 0\n[stderr]\ncorpus.txt: utf-8"), "{evaluated}");
    assert_eq!(evaluated.lines().count(), 3, "{evaluated}");
}

/// As in `refrain generate run | head -c 10`: the reader leaves in the middle of the text.
#[test]
fn a_reader_that_leaves_after_the_first_characters_is_no_error() {
    use std::io::Read as _;
    let scratch = Scratch::with_run();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = scratch.refrain("generate run --prompt ROMEO: --tokens 100000000");
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("the command starts");
    // Our copy of the writing end.
    drop(command);
    let mut read = [0; 10];
    reader.read_exact(&mut read).expect("ten bytes come");
    assert!(read.starts_with(b"ROMEO:"));
    drop(reader);
    assert_eq!(transcript(&child.wait_with_output().expect("a child")), "exit status: 0");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state() {
    let scratch = Scratch::with_recipe();
    let diverging = "--set optimizer.name=sgd --set optimizer.learning-rate=1e30 --set schedule.name=constant \
                     --set train.clip-norm=0";
    let error_of = |arguments: &str| {
        let output = scratch.run(arguments);
        let log = text(&output.stderr);
        let error = log.find("error: ").unwrap_or_else(|| panic!("no error: {}", transcript(&output)));
        assert!(output.stdout.is_empty());
        format!("{}\n{}", output.status, &log[error..])
    };
    let error = error_of(&format!("train recipe.toml --run-dir run {diverging}"));
    let (before, after) = error.split_once(" times its running mean").unwrap_or_else(|| panic!("{error}"));
    assert_snapshot!(before.trim_end_matches(|ch: char| ch.is_ascii_digit()), @"
    exit status: 1
    error: the gradient is not finite at step 2, in `embedding.weight`; the gradient of `head.weight` grew first:
    ");
    assert_snapshot!(after, @"
     at step 2
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    assert!(scratch.join("run/last").exists());

    // With a checkpoint after every step, the last good one is kept, and resuming comes to the same end.
    let saving = "--set train.checkpoint-every=1";
    let stopped = "is not finite at step 2, in `embedding.weight`; ";
    let first = error_of(&format!("train recipe.toml --run-dir saved {diverging} {saving}"));
    assert!(first.contains(stopped), "{first}");
    let last = outcome_of_last(&scratch, "saved");
    let second = error_of("train --resume saved");
    assert!(second.contains(stopped), "{second}");
    assert_eq!(outcome_of_last(&scratch, "saved"), last);
}

/// The files of a run's last checkpoint.
fn outcome_of_last(scratch: &Scratch, run: &str) -> Vec<Vec<u8>> {
    let files = names(&scratch.join(run).join("last"));
    files.iter().map(|file| scratch.read(&format!("{run}/last/{file}"))).collect()
}

#[test]
fn a_model_that_an_update_broke_is_not_saved() {
    let scratch = Scratch::with_recipe();
    // Finite gradients, and weights beyond the largest f32.
    let breaking = "--set optimizer.name=sgd --set optimizer.learning-rate=1e45 --set schedule.name=constant";
    let run = |name: &str, more: &str| {
        let log = scratch.transcript(&format!("train recipe.toml --run-dir {name} {breaking} {more}"));
        log[log.find("error: ").unwrap_or_else(|| panic!("no error: {log}"))..].to_owned()
    };
    assert_snapshot!(run("saving", "--set train.checkpoint-every=1"), @"
    error: the updated weight is not finite at step 1, in `embedding.weight`; no layer's gradient had grown tenfold before
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    assert_snapshot!(run("evaluating", "--set train.eval-every=1"), @"
    error: the validation loss is not finite at step 1; no layer's gradient had grown tenfold before
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    for name in ["saving", "evaluating"] {
        assert!(!scratch.join(name).join("best.safetensors").exists());
        // The beginning, which was saved before the first step.
        assert!(!names(&scratch.join(name)).contains(&"previous".to_owned()));
    }
}
