//! Event files for `TensorBoard`, encoded by hand: a record format, one protocol buffer, two kinds of value.
//!
//! A record is its length, a checksum of the length, the bytes, a checksum of the bytes. The message is `Event` of
//! `tensorflow/core/util/event.proto`. Nothing about the machine goes into the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::{AppendFile, FileError, because};

const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".refrain";

/// Adds events to a file of its own; `TensorBoard` reads all the files of a folder as one run.
#[derive(Debug)]
pub struct EventWriter {
    file: AppendFile,
}

impl EventWriter {
    /// Begins an events file in `dir`, which is created if need be.
    ///
    /// `start_step` is the step of the checkpoint that the run goes on from, 0 for a new run. What earlier files of the
    /// folder hold about later steps is then dropped by `TensorBoard`.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or written.
    pub fn create(dir: &Path, start_step: u64) -> Result<Self, FileError> {
        fs::create_dir_all(dir).map_err(because("create", dir))?;
        let path = next_path(dir)?;
        let mut writer = Self { file: AppendFile::create(&path)? };
        writer.event(0, Message::new().bytes(event::FILE_VERSION, b"brain.Event:2"))?;
        // TensorBoard takes the first start for the beginning of the run. At a later one it drops what earlier files
        // hold about the step of the event and those after it.
        let start = Message::new().varint(session_log::STATUS, session_log::START);
        writer.event(start_step + 1, Message::new().message(event::SESSION_LOG, &start))?;
        Ok(writer)
    }

    /// Adds a point to the curve `tag`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<(), FileError> {
        let value = Message::new().bytes(value::TAG, tag.as_bytes()).float(value::SIMPLE_VALUE, value as f32);
        self.summary(step, &value)
    }

    /// Adds a text, shown as it is rather than as Markdown.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<(), FileError> {
        // Four spaces make a line of Markdown literal, whatever is in it.
        let literal: String = text.lines().flat_map(|line| ["    ", line, "\n"]).collect();
        let plugin = Message::new().bytes(plugin::NAME, b"text");
        let metadata = Message::new().message(metadata::PLUGIN, &plugin).varint(metadata::DATA_CLASS, metadata::TENSOR);
        // No shape: a scalar.
        let tensor = Message::new()
            .varint(tensor::DTYPE, tensor::STRING)
            .message(tensor::SHAPE, &Message::new())
            .bytes(tensor::STRING_VALUES, literal.as_bytes());
        let value = Message::new()
            .bytes(value::TAG, tag.as_bytes())
            .message(value::TENSOR, &tensor)
            .message(value::METADATA, &metadata);
        self.summary(step, &value)
    }

    /// Where the events go.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn summary(&mut self, step: u64, value: &Message) -> Result<(), FileError> {
        let summary = Message::new().message(summary::VALUE, value);
        self.event(step, Message::new().message(event::SUMMARY, &summary))
    }

    fn event(&mut self, step: u64, what: Message) -> Result<(), FileError> {
        let mut event = Message::new().double(event::WALL_TIME, seconds_now()).varint(event::STEP, step);
        event.0.extend(what.0);
        self.file.append(&record(&event.0))
    }
}

/// A name that sorts after those in the folder, since `TensorBoard` reads the files in the order of their names.
fn next_path(dir: &Path) -> Result<PathBuf, FileError> {
    let mut stamp = seconds_now() as u64;
    for entry in fs::read_dir(dir).map_err(because("list", dir))? {
        let name = entry.map_err(because("list", dir))?.file_name();
        let older = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        stamp = stamp.max(older.map_or(0, |older: u64| older.saturating_add(1)));
    }
    Ok(dir.join(format!("{PREFIX}{stamp}{SUFFIX}")))
}

fn seconds_now() -> f64 {
    // A clock before 1970 is wrong in any case.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// One record of a `TFRecord` file.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked_crc(bytes).to_le_bytes());
    record
}

/// CRC-32C, masked as in `tensorflow/core/lib/hash/crc32c.h`: a checksum over bytes that hold checksums is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn varint(mut self, field: u64, value: u64) -> Self {
        self.push(field << 3);
        self.push(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.push(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.push(field << 3 | 2);
        self.push(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.push(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn push(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Field numbers of `Event`.
mod event {
    pub(super) const WALL_TIME: u64 = 1;
    pub(super) const STEP: u64 = 2;
    pub(super) const FILE_VERSION: u64 = 3;
    pub(super) const SUMMARY: u64 = 5;
    pub(super) const SESSION_LOG: u64 = 7;
}

/// Field numbers of `SessionLog`, and its status START.
mod session_log {
    pub(super) const STATUS: u64 = 1;
    pub(super) const START: u64 = 1;
}

/// Field numbers of `Summary`.
mod summary {
    pub(super) const VALUE: u64 = 1;
}

/// Field numbers of `Summary.Value`.
mod value {
    pub(super) const TAG: u64 = 1;
    pub(super) const SIMPLE_VALUE: u64 = 2;
    pub(super) const TENSOR: u64 = 8;
    pub(super) const METADATA: u64 = 9;
}

/// Field numbers of `SummaryMetadata`, and its data class TENSOR.
mod metadata {
    pub(super) const PLUGIN: u64 = 1;
    pub(super) const DATA_CLASS: u64 = 4;
    pub(super) const TENSOR: u64 = 2;
}

/// Field numbers of `SummaryMetadata.PluginData`.
mod plugin {
    pub(super) const NAME: u64 = 1;
}

/// Field numbers of `TensorProto`, and its type STRING.
mod tensor {
    pub(super) const DTYPE: u64 = 1;
    pub(super) const SHAPE: u64 = 2;
    pub(super) const STRING_VALUES: u64 = 8;
    pub(super) const STRING: u64 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    /// The events of a file without their times, after checking every checksum.
    fn events(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).expect("the file is there");
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(*rest.first_chunk().expect("a length")) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            let event = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc(event).to_le_bytes());
            assert_eq!(event[0], 0x09, "the time comes first");
            events.push(event[9..].to_vec());
            rest = &rest[16 + length..];
        }
        events
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    }

    /// ```python
    /// from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    /// from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    /// from tensorboard.compat.proto.tensor_pb2 import TensorProto
    /// from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    /// V = Summary.Value
    /// text = TensorProto(dtype=7, tensor_shape=TensorShapeProto(), string_val=["    É *x*\n".encode()])
    /// plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"), data_class=2)
    /// for event in [
    ///     Event(file_version="brain.Event:2"),
    ///     Event(step=1201, session_log=SessionLog(status=SessionLog.START)),
    ///     Event(step=300, summary=Summary(value=[V(tag="train/loss", simple_value=1.5)])),
    ///     Event(step=1200, summary=Summary(value=[V(tag="sample", tensor=text, metadata=plugin)])),
    /// ]:
    ///     print(event.SerializeToString().hex())
    /// ```
    #[test]
    fn events_are_the_bytes_of_the_protocol_buffers() {
        let scratch = Scratch::new();
        let mut writer = EventWriter::create(scratch.path(), 1200).expect("created");
        writer.scalar("train/loss", 300, 1.5).expect("written");
        writer.text("sample", 1200, "É *x*").expect("written");
        let expected = [
            // Python leaves out a step of 0, which means the same.
            "1000\
             1a0d627261696e2e4576656e743a32",
            "10b1093a020801",
            "10ac022a130a110a0a747261696e2f6c6f7373150000c03f",
            "10b0092a290a270a0673616d706c65421108071200420b20202020c389202a782a0a4a0a0a060a04746578742002",
        ];
        assert_eq!(events(writer.path()), expected.map(hex));
    }

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_new_run_has_a_start_too_since_the_first_one_is_not_taken_for_a_restart() {
        let scratch = Scratch::new();
        let writer = EventWriter::create(&scratch.join("tensorboard"), 0).expect("created");
        assert_eq!(events(writer.path())[1], hex("10013a020801"));
    }

    #[test]
    fn a_resumed_run_opens_a_file_that_sorts_after_the_others_whatever_the_clock_says() {
        let scratch = Scratch::new();
        fs::write(scratch.join("events.out.tfevents.99999999999.refrain"), b"").expect("written");
        let writer = EventWriter::create(scratch.path(), 5).expect("created");
        assert_eq!(writer.path(), scratch.join("events.out.tfevents.100000000000.refrain"));
    }
}
