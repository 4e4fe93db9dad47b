//! Files of weights that were cut, changed or made to do harm: one error each, never a panic, and no memory that the file does
//! not account for.

use std::path::Path;

use refrain::interop::StateDict;

fn golden(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/interop").join(file);
    std::fs::read(path).expect("the fixture is in the repository")
}

/// The error of bytes that are no state dictionary, less the name of the file.
fn refusal(bytes: &[u8]) -> Option<String> {
    let error = StateDict::from_bytes(bytes, Path::new("x.pt")).err()?;
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.len() < 1000, "{message}");
    if let Some(hint) = error.hint() {
        assert_eq!(hint.lines().count(), 1, "{hint}");
    }
    Some(message.strip_prefix("x.pt: ").unwrap_or_else(|| panic!("no name of the file: {message}")).to_owned())
}

/// A deterministic source of places and bytes.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// An archive as PyTorch would write it, without checksums: a pickle, and storages `0`, `1` and so on.
fn archive(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut entries = vec![("x/data.pkl".to_owned(), pickle)];
    entries.extend(storages.iter().enumerate().map(|(key, bytes)| (format!("x/data/{key}"), *bytes)));
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in &entries {
        let offset = bytes.len() as u32;
        let mut both = vec![0; 14];
        both.extend([data.len() as u32, data.len() as u32].iter().flat_map(|size| size.to_le_bytes()));
        both.extend((name.len() as u16).to_le_bytes());
        both.extend([0; 2]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&both);
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(&both);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (offset, size) = (bytes.len() as u32, directory.len() as u32);
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([entries.len() as u16; 2].iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend([size, offset].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([0; 2]);
    bytes
}

fn int(number: u64) -> Vec<u8> {
    [b"\x8a\x09".as_slice(), &number.to_le_bytes(), b"\0"].concat()
}

/// A tensor of storage `0` in f32.
fn tensor(offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let tuple = |numbers: &[u64]| {
        [b"(".as_slice(), &numbers.iter().flat_map(|&number| int(number)).collect::<Vec<_>>(), b"t"].concat()
    };
    let storage =
        b"ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x06tQ";
    [storage.as_slice(), &int(offset), &tuple(shape), &tuple(strides), b"\x89}tR"].concat()
}

/// `{"a": value}`
fn dictionary(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}\x8c\x01a".as_slice(), value, b"s."].concat()
}

const NUMBERS: [u8; 24] = [0; 24];

#[test]
fn the_archives_of_these_tests_are_read_if_nothing_is_wrong() {
    let bytes = archive(&dictionary(&tensor(1, &[2, 2], &[1, 3])), &[&NUMBERS]);
    let dict = StateDict::from_bytes(&bytes, Path::new("x.pt")).expect("sound");
    assert_eq!((dict.tensors()[0].name.as_str(), &dict.tensors()[0].shape[..]), ("a", &[2, 2][..]));
}

#[test]
fn a_tensor_that_is_not_inside_its_storage_is_refused() {
    let beyond = "tensor `a` of shape";
    let cases: [(u64, &[u64], &[u64]); 8] = [
        (1, &[2, 3], &[3, 1]),
        (6, &[1], &[1]),
        (0, &[2], &[6]),
        (u64::MAX >> 1, &[2], &[1]),
        (0, &[2, 2], &[u64::MAX >> 1, u64::MAX >> 1]),
        (0, &[1 << 40, 1 << 40], &[0, 0]),
        (0, &[1 << 40, 1 << 40, 0], &[0, 0, 0]),
        (0, &[7], &[1]),
    ];
    for (offset, shape, strides) in cases {
        let message = refusal(&archive(&dictionary(&tensor(offset, shape, strides)), &[&NUMBERS])).expect("refused");
        assert!(
            message.starts_with(beyond) && message.contains("reaches beyond its storage, which has 6"),
            "{message}"
        );
    }
    let message = refusal(&archive(&dictionary(&tensor(0, &[1], &[1])), &[])).expect("no storage");
    assert_eq!(message, "has no entry `x/data/0`");
    let message = refusal(&archive(&dictionary(&tensor(0, &[2, 2], &[1])), &[&NUMBERS])).expect("two ranks");
    assert!(message.contains("calls torch._utils._rebuild_tensor_v2 with other arguments"), "{message}");
    let message = refusal(&archive(&dictionary(&tensor(0, &[1; 17], &[1; 17])), &[&NUMBERS])).expect("17 dimensions");
    assert!(message.contains("calls torch._utils._rebuild_tensor_v2 with other arguments"), "{message}");
}

#[test]
fn a_few_numbers_are_not_repeated_until_memory_is_full() {
    let one = tensor(0, &[1 << 36], &[0]);
    let message = refusal(&archive(&dictionary(&one), &[&NUMBERS])).expect("256 GiB of zeros");
    assert_eq!(message, "tensor `a` of shape [68719476736] repeats the numbers of the file too often");
    // Each tensor is modest; together they are 4 GiB.
    let mut pickle = b"\x80\x02}(".to_vec();
    for index in 0..1024 {
        pickle.extend(b"M");
        pickle.extend((index as u16).to_le_bytes());
        pickle.extend(tensor(0, &[1 << 20], &[0]));
    }
    pickle.extend(b"u.");
    let message = refusal(&archive(&pickle, &[&NUMBERS])).expect("4 GiB of zeros");
    assert!(message.ends_with("of shape [1048576] repeats the numbers of the file too often"), "{message}");
}

#[test]
fn dictionaries_in_themselves_and_in_each_other_come_to_an_end() {
    // A dictionary that holds itself.
    let message = refusal(&archive(b"}q\x00\x8c\x01ah\x00s.", &[])).expect("a cycle");
    assert!(message.ends_with(".a` nests deeper than 32 levels"), "{message}");
    // A list that holds itself twice.
    let message = refusal(&archive(b"}\x8c\x01a]q\x00h\x00ah\x00as.", &[])).expect("a cycle");
    assert!(message.ends_with("nests deeper than 32 levels"), "{message}");
    // 100 000 lists, each in the next.
    let deep = dictionary(&[vec![b']'; 100_000], vec![b'a'; 99_999]].concat());
    let message = refusal(&archive(&deep, &[])).expect("too deep");
    assert!(message.ends_with("nests deeper than 32 levels"), "{message}");
    // Each list holds the one before it ten times: 10 to the 30th ways to the last.
    let mut wide = b"]q\x000".to_vec();
    for level in 1..=30_u8 {
        wide.extend(b"](");
        wide.extend([b'h', level - 1].repeat(10));
        wide.extend([b'e', b'q', level, b'0']);
    }
    wide.extend(b"h\x1e");
    let message = refusal(&archive(&dictionary(&wide), &[])).expect("too many");
    assert_eq!(message, "repeats its dictionaries until there are more than 67108864 names and values");
}

#[test]
fn one_name_for_two_tensors_is_refused() {
    let one = tensor(0, &[1], &[1]);
    // {"a": {"b": tensor}, "a.b": tensor}
    let pickle = [b"}(\x8c\x01a}\x8c\x01b".as_slice(), &one, b"s\x8c\x03a.b", &one, b"u."].concat();
    let message = refusal(&archive(&pickle, &[&NUMBERS])).expect("ambiguous");
    assert_eq!(message, "tensor `a.b` is there twice");
}

#[test]
fn what_is_no_dictionary_is_named() {
    let message = refusal(&archive(&[tensor(0, &[1], &[1]), b".".to_vec()].concat(), &[&NUMBERS]));
    assert_eq!(message.as_deref(), Some("holds a tensor, not a state dictionary"));
    assert_eq!(refusal(&archive(b"].", &[])).as_deref(), Some("holds a list, not a state dictionary"));
}

#[test]
fn the_other_byte_order_and_other_archives_are_refused() {
    let mut bytes = golden("no-checksums.pt");
    let at = bytes.windows(6).position(|window| window == b"little").expect("the byte order");
    bytes[at..at + 6].copy_from_slice(b"big\n  ");
    assert_eq!(refusal(&bytes).as_deref(), Some("is of the byte order `big`, only `little` is read"));

    let mut bytes = golden("no-checksums.pt");
    for at in 0..bytes.len() - 8 {
        if &bytes[at..at + 8] == b"data.pkl" {
            bytes[at..at + 8].copy_from_slice(b"word.xml");
        }
    }
    assert_eq!(refusal(&bytes).as_deref(), Some("is a zip archive without `data.pkl`, not a PyTorch file"));
    assert_eq!(
        refusal(b"PK\x05\x06").as_deref(),
        Some("has no directory at its end, as a zip archive has: is it truncated?")
    );
    assert_eq!(refusal(b"").as_deref(), Some("the file is empty"));
}

#[test]
fn a_hostile_name_stays_on_one_line() {
    let global = [b"c".as_slice(), &b"os\r\x1b[2J".repeat(1000), b"\nsystem\n."].concat();
    let message = refusal(&archive(&global, &[])).expect("refused");
    assert!(message.contains("asks for `os\\r\\u{1b}[2J"), "{message}");
}

#[test]
fn files_cut_at_any_length_are_errors() {
    for file in ["no-checksums.pt", "lstm.pt", "lstm.safetensors", "refused-legacy.pt", "ours/gru.pt"] {
        let bytes = golden(file);
        for length in 0..bytes.len() {
            assert!(refusal(&bytes[..length]).is_some(), "{file} cut to {length} bytes");
        }
    }
}

/// Where the pickle lies in a file of protocol 2, whose last opcode is followed by the next entry.
fn pickle_of(bytes: &[u8]) -> std::ops::Range<usize> {
    let begin = bytes.windows(2).position(|window| window == b"\x80\x02").expect("a pickle");
    let len = bytes[begin..].windows(3).position(|window| window == b".PK").expect("the next entry");
    begin..begin + len + 1
}

#[test]
fn changed_bytes_never_panic() {
    for file in ["no-checksums.pt", "checkpoint.pt", "checkpoint-protocol-4.pt", "tensors.pt", "lstm.safetensors"] {
        let whole = without_checksums(golden(file));
        assert_eq!(refusal(&whole), None, "{file}");
        let mut dice = Dice(7);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=dice.below(3) {
                bytes[dice.below(whole.len())] = dice.below(256) as u8;
            }
            match refusal(&bytes) {
                Some(_) => refused += 1,
                None => accepted += 1,
            }
        }
        assert!(accepted > 100 && refused > 100, "{file}: {accepted} accepted, {refused} refused");
    }
}

#[test]
fn changed_pickles_never_panic() {
    let whole = without_checksums(golden("no-checksums.pt"));
    let pickle = pickle_of(&whole);
    let mut dice = Dice(11);
    let mut refusals = std::collections::BTreeSet::new();
    for _ in 0..100_000 {
        let mut bytes = whole.clone();
        for _ in 0..=dice.below(4) {
            let at = pickle.start + dice.below(pickle.len());
            // Either any byte, or one that stands somewhere else in the pickle and so is likely to mean something.
            bytes[at] = match dice.below(2) {
                0 => dice.below(256) as u8,
                _ => whole[pickle.start + dice.below(pickle.len())],
            };
        }
        refusals.extend(
            refusal(&bytes)
                .map(|message| message.chars().filter(|ch| !ch.is_ascii_digit()).take(60).collect::<String>()),
        );
    }
    assert!(refusals.len() > 20, "all kinds of faults are met: {refusals:?}");
}

/// With checksums, nearly every change would be noticed before it did anything.
fn without_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    for at in 0..bytes.len().saturating_sub(20) {
        if bytes[at..].starts_with(b"PK\x01\x02") {
            bytes[at + 16..at + 20].fill(0);
        }
    }
    bytes
}
