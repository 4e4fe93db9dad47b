//! The number types of tensors in files of others.

use half::{bf16, f16};

/// A type whose numbers become f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
}

impl Element {
    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The type that safetensors calls so.
    pub(super) fn from_safetensors(dtype: &str) -> Option<Self> {
        match dtype {
            "F64" => Some(Self::F64),
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::BF16),
            _ => None,
        }
    }

    /// Little-endian numbers, rounded to f32 where they are f64.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => bytes.as_chunks().0.iter().map(|&number| f64::from_le_bytes(number) as f32).collect(),
            Self::F32 => bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&number| f16::from_le_bytes(number).to_f32()).collect(),
            Self::BF16 => bytes.as_chunks().0.iter().map(|&number| bf16::from_le_bytes(number).to_f32()).collect(),
        }
    }
}
