//! Every recipe of the repository, made small: it trains, its best model is read back, and it writes.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use refrain::models::{CellKind, HiddenSize, TrainedModel};
use refrain::tasks::LanguageModelData;
use refrain::train::{EvalRecord, Finish, Observer, Recipe, RunFolder, Stop, TrainRecord, Trainer};

/// Nobody watches, and nobody stops it.
struct Unwatched;

impl Observer for Unwatched {
    fn trained(&mut self, record: &TrainRecord, _seconds_left: f64) {
        assert!(record.loss_nats.is_finite());
    }
    fn evaluated(&mut self, _record: &EvalRecord, _best: bool) {}
    fn sampled(&mut self, _step: u64, _text: &str) {}
    fn note(&mut self, _note: &str) {}
    fn stop(&mut self) -> Option<Stop> {
        None
    }
}

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("the recipes").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Changes that leave of a recipe what it does, and of its sizes little.
fn miniature(recipe: &Recipe, folder: &Path) -> Vec<String> {
    let shakespeare = include_str!("../data/shakespeare.txt");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("the temporary folder can be written");
        path.display().to_string()
    };
    let mut set = vec![
        format!("data.train={}", file("train.txt", &shakespeare[..4000])),
        "model.hidden-size=8".to_owned(),
        "model.num-layers=2".to_owned(),
        "train.batch-size=2".to_owned(),
        "train.seq-len=7".to_owned(),
        "train.max-steps=12".to_owned(),
        "train.eval-every=4".to_owned(),
        "train.log-every=1".to_owned(),
        "sample.tokens=5".to_owned(),
        "sample.prompt=\n".to_owned(),
    ];
    set.push(if recipe.model.cell == CellKind::Transformer {
        format!("model.hidden-size={}", 2 * recipe.model.num_heads)
    } else {
        "model.embedding-size=8".to_owned()
    });
    if recipe.data.valid.is_some() {
        set.push(format!("data.valid={}", file("valid.txt", &shakespeare[4000..5000])));
    }
    if matches!(recipe.model.hidden_size, HiddenSize::Each(_)) {
        set.push("model.hidden-size=[11, 8]".to_owned());
    }
    set
}

#[test]
fn every_recipe_trains_evaluates_and_writes() {
    for path in recipes() {
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).expect("a recipe");
        let whole = Recipe::parse(&text, &name).unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let small = Recipe::with_overrides(&text, &name, &miniature(&whole, folder.path()));
        let recipe = small.unwrap_or_else(|error| panic!("{error}"));
        let shape = [recipe.train.batch_size, recipe.train.seq_len];
        let data = LanguageModelData::load(&recipe.data, Path::new(""), shape, recipe.train.eval_batch_size)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let run = folder.path().join("run");
        let trainer = Trainer::start(recipe, data, RunFolder::create(&run).expect("a new folder"));
        let outcome = trainer.and_then(|trainer| trainer.run(&mut Unwatched));
        let outcome = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((outcome.step, outcome.reason), (12, Finish::Completed), "{name}");
        let best = outcome.best.expect("a best model");

        let trained = TrainedModel::read(&run.join("best.safetensors"), &Device::flex()).expect("it was written");
        assert_eq!(trained.provenance.valid_loss_nats.map(f64::to_bits), Some(best.loss_nats.to_bits()), "{name}");
        let written = best.sample.strip_prefix('\n').expect("the prompt");
        assert_eq!(trained.vocabulary.encode(written).len(), 5, "{name}: {written:?}");
    }
}
