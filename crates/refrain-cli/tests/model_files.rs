//! Model files that are none, or damaged, or do not fit themselves: refused with what is wrong.

mod support;

use std::fs;

use insta::assert_snapshot;
use serde_json::{Map, Value, json};
use support::{Scratch, shakespeare};

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
        let [begin, end] = model.range("recurrent.layers.0.weight_ih");
        model.tensor("recurrent.layers.0.weight_ih")["data_offsets"] = json!([begin - 4, end - 4]);
    });
    assert_snapshot!(refused(overlapping), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensors `recurrent.layers.0.weight_hh` and `recurrent.layers.0.weight_ih` overlap
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
        model.tensor("recurrent.layers.1.weight_ih")["shape"] = json!([1_u64 << 40]);
        let [begin, _] = model.range("recurrent.layers.1.weight_ih");
        model.tensor("recurrent.layers.1.weight_ih")["data_offsets"] = json!([begin, begin + (4_u64 << 40) as usize]);
    });
    assert_snapshot!(refused(beyond).replace(|ch: char| ch.is_ascii_digit(), "#"), @"
    exit status: #
    [stderr]
    error: model.safetensors: is truncated: the header says ############# bytes, the file has #####
    hint: copy or download the file again
    ");
    let transposed = model.changed(|model| model.tensor("recurrent.layers.0.weight_ih")["shape"] = json!([8, 76]));
    assert_snapshot!(refused(transposed), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `recurrent.layers.0.weight_ih` has shape [8, 76], expected [76, 8]
    hint: the configuration must be the one that the weights were trained with
    ");
    let halves = model.changed(|model| model.tensor("head.bias")["dtype"] = json!("F16"));
    assert_snapshot!(refused(halves), @r#"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.bias` is F16, only F32 and I8 are read
    hint: convert it with: python -c "import sys, torch, safetensors.torch; source, target = sys.argv[1:]; safetensors.torch.save_file({k: v.float().contiguous().clone() for k, v in safetensors.torch.load_file(source).items()}, target)" 'model.safetensors' 'model.f32.safetensors'
    "#);
    let not_a_number = model.changed(|model| {
        let [begin, _] = model.range("recurrent.layers.1.bias");
        model.numbers[begin + 8..begin + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert_snapshot!(refused(not_a_number), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `recurrent.layers.1.bias` holds NaN at flat index 2
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
    hint: it holds embedding.weight, head.offset, head.weight, recurrent.layers.0.bias, recurrent.layers.0.weight_hh, recurrent.layers.0.weight_ih and 3 more
    ");
}

#[test]
fn a_damaged_model_file_in_int8_is_refused_with_what_is_wrong() {
    let scratch = Scratch::with_run();
    scratch.succeed("quantize run corpus.txt --output int8.safetensors");
    let model = ModelFile::of(&scratch.read("int8.safetensors"));
    let refused = |change: &dyn Fn(&mut ModelFile)| {
        scratch.write("model.safetensors", model.changed(change));
        let generated = scratch.transcript("generate model.safetensors");
        assert_eq!(generated, scratch.transcript("quantize model.safetensors corpus.txt --output b.safetensors"));
        generated
    };
    let rename = |model: &mut ModelFile, from: &str, to: &str| {
        let tensor = model.header.remove(from).expect("a tensor");
        model.header.insert(to.to_owned(), tensor);
    };
    let set_step = |model: &mut ModelFile, step: f32| {
        let [begin, _] = model.range("head.weight.steps");
        model.numbers[begin + 8..begin + 12].copy_from_slice(&step.to_le_bytes());
    };
    assert_snapshot!(refused(&|model| rename(model, "head.weight.steps", "head.weight.scale")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight` is I8, but there is no F32 tensor `head.weight.steps` of its steps
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| rename(model, "head.weight", "head.weights")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weights` is I8, but there is no F32 tensor `head.weights.steps` of its steps
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| model.tensor("head.weight.steps")["shape"] = json!([1, 53])), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight.steps` has shape [1, 53], expected [53], a step for each row
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| model.tensor("head.weight")["shape"] = json!([53, 19, 1])), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight` is I8 of shape [53, 19, 1], expected a matrix
    hint: was the file written by Refrain?
    ");
    assert_snapshot!(refused(&|model| model.tensor("head.weight")["dtype"] = json!("U8")), @r#"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight` is U8, only F32 and I8 are read
    hint: convert it with: python -c "import sys, torch, safetensors.torch; source, target = sys.argv[1:]; safetensors.torch.save_file({k: v.float().contiguous().clone() for k, v in safetensors.torch.load_file(source).items()}, target)" 'model.safetensors' 'model.f32.safetensors'
    "#);
    assert_snapshot!(refused(&|model| set_step(model, f32::NAN)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight.steps` holds NaN at flat index 2, expected a positive step
    hint: the file is damaged: copy or download it again
    ");
    assert_snapshot!(refused(&|model| set_step(model, -1.0)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: tensor `head.weight.steps` holds -1.0 at flat index 2, expected a positive step
    hint: the file is damaged: copy or download it again
    ");
    let other = refused(&|model| set_step(model, 1.0f32.next_up()));
    assert_snapshot!(other, @"
    exit status: 1
    [stderr]
    error: model.safetensors: row 2 of tensor `head.weight` has a step of 1.0000001, expected 1.0 for its multiples
    hint: the file is damaged: copy or download it again
    ");
    // Steps beside a tensor that is no multiple of them.
    let plain = ModelFile::of(&scratch.read("run/best.safetensors"));
    scratch.write(
        "model.safetensors",
        plain.changed(|model| {
            let end = model.numbers.len();
            model.numbers.extend([0; 53 * 4]);
            let steps = json!({ "dtype": "F32", "shape": [53], "data_offsets": [end, end + 53 * 4] });
            model.header.insert("head.weight.steps".to_owned(), steps);
        }),
    );
    assert_snapshot!(scratch.transcript("info model.safetensors"), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: it has no tensor `head.weight.steps`, which the file holds
    hint: was the file written by this version of Refrain?
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
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(refused(&|model| *model.metadata("model") = json!("{\"cell\":\"qrnn\"}")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be read: unknown variant `qrnn`, expected one of `lstm`, `gru`, `min-gru`, `rnn`, `rnn-relu`, `transformer` at line 1 column 14
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(refused(&|model| *model.metadata("vocabulary") = json!("{}")), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `vocabulary` in the metadata cannot be read: damaged vocabulary: missing field `unit` at line 1 column 2
    hint: was the file written by this version of Refrain?
    ");
    let short = json!("{\"unit\":\"char\",\"chars\":\"abc\"}");
    assert_snapshot!(refused(&|model| *model.metadata("vocabulary") = short.clone()), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `vocabulary` in the metadata has 4 ids, the model's embedding has 53: it is of another model
    hint: was the file written by this version of Refrain?
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
    error: model.safetensors: no tensor `recurrent.layers.2.weight_ih`, expected with shape [76, 19]
    hint: it holds embedding.weight, head.bias, head.weight, recurrent.layers.0.bias, recurrent.layers.0.weight_hh, recurrent.layers.0.weight_ih and 3 more
    ");
    assert_snapshot!(sized("num-layers", json!(1)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: it has no tensor `recurrent.layers.1.bias`, which the file holds
    hint: was the file written by this version of Refrain?
    ");
    // What would take more memory than there is, or divide by zero, is no model either.
    assert_snapshot!(sized("hidden-size", json!(u64::MAX)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: u64 value was too large
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(sized("hidden-size", json!(1_u64 << 40)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found 1099511627776
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(sized("num-layers", json!(1_u64 << 40)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `num-layers` must be an integer from 1 to 64, found 1099511627776
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(sized("hidden-size", json!(0)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found 0
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(sized("num-layers", json!(0)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `num-layers` must be an integer from 1 to 64, found 0
    hint: was the file written by this version of Refrain?
    ");
    assert_snapshot!(sized("dropout", json!(1.5)), @"
    exit status: 1
    [stderr]
    error: model.safetensors: `model` in the metadata cannot be used: `dropout` must be a number of at least 0 and below 1, found 1.5
    hint: was the file written by this version of Refrain?
    ");
}
