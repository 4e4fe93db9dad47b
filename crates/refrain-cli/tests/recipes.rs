//! Mistakes in a recipe or an override: named with file, line and value, and what may have been meant.

mod support;

use std::fs;

use insta::assert_snapshot;
use support::{Scratch, names};

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
    assert_snapshot!(refused_recipe("[teacher-forcing]\nname = \"exponential\"\nscale = 9\n"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `scale` in [teacher-forcing], recipe.toml:3
    hint: `scale` is for name = "inverse-sigmoid"
    "#);
    assert_snapshot!(refused_recipe("[train]\nteacher-forcing = 0.5\n"), @"
    exit status: 1
    [stderr]
    error: unknown key `teacher-forcing` in [train], recipe.toml:2
    hint: did you mean `name` in [teacher-forcing]?
    ");
    assert_snapshot!(refused_recipe("[train]\nteacher-forcing-ratio = 0.5\n"), @"
    exit status: 1
    [stderr]
    error: unknown key `teacher-forcing-ratio` in [train], recipe.toml:2
    hint: did you mean `probability` in [teacher-forcing]?
    ");
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
    error: `optimizer.name` must be one of `adamw`, `adam`, `rmsprop`, `sgd`, `asgd`, found the text "adam2", recipe.toml:2
    hint: did you mean `adamw`?
    "#);
    assert_snapshot!(refused_recipe("[teacher-forcing]\nname = \"linera\"\n"), @r#"
    exit status: 1
    [stderr]
    error: `teacher-forcing.name` must be one of `constant`, `linear`, `exponential`, `inverse-sigmoid`, found the text "linera", recipe.toml:2
    hint: did you mean `linear`?
    "#);
    assert_snapshot!(refused_recipe("[teacher-forcing]\nprobability = 1.5\n"), @"
    exit status: 1
    [stderr]
    error: `teacher-forcing.probability` must be a number of at least 0 and at most 1, found 1.5, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[teacher-forcing]\nname = \"linear\"\nmin-probability = -0.1\n"), @"
    exit status: 1
    [stderr]
    error: `teacher-forcing.min-probability` must be a number of at least 0 and at most 1, found -0.1, recipe.toml:3
    ");
    assert_snapshot!(refused_recipe("[teacher-forcing]\nname = \"inverse-sigmoid\"\nscale = 0.5\n"), @"
    exit status: 1
    [stderr]
    error: `teacher-forcing.scale` must be a number of at least 1, found 0.5, recipe.toml:3
    ");
    assert_snapshot!(refused_recipe("[train]\nlabel-smoothing = 1.0\n"), @"
    exit status: 1
    [stderr]
    error: `train.label-smoothing` must be a number of at least 0 and below 1, found 1.0, recipe.toml:2
    ");
    assert_snapshot!(refused_recipe("[train]\ngradient-noise = -0.3\n"), @"
    exit status: 1
    [stderr]
    error: `train.gradient-noise` must be a number of at least 0, found -0.3, recipe.toml:2
    ");
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
    error: `model.hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found the text "many", --set model.hidden-size=many
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
