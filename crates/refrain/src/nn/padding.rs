//! What lies beyond the end of sequences that share a batch with longer ones.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// The lengths as given, or all of `seq_len`.
///
/// # Panics
/// As [`check`].
pub(super) fn resolve(lengths: Option<&[usize]>, batch_size: usize, seq_len: usize) -> Vec<usize> {
    let Some(lengths) = lengths else { return vec![seq_len; batch_size] };
    check(lengths, batch_size, seq_len);
    lengths.to_vec()
}

/// # Panics
/// If there are not as many lengths as sequences, or one is of more steps than there are.
pub(super) fn check(lengths: &[usize], batch_size: usize, seq_len: usize) {
    assert!(lengths.len() == batch_size, "there are {} lengths but {batch_size} sequences", lengths.len());
    if let Some(index) = lengths.iter().position(|&length| length > seq_len) {
        panic!("length {index} is {} but the sequences have {seq_len} steps", lengths[index]);
    }
}

/// Where padding is: `[batch_size, seq_len]`, `true` beyond each length; `None` if there is no padding.
pub(super) fn steps_beyond(lengths: &[usize], seq_len: usize) -> Option<Vec<bool>> {
    lengths
        .iter()
        .any(|&length| length < seq_len)
        .then(|| lengths.iter().flat_map(|&length| (0..seq_len).map(move |step| step >= length)).collect())
}

/// The same as a tensor, to fill.
pub(super) fn beyond(lengths: &[usize], seq_len: usize, device: &Device) -> Option<Tensor<2, Bool>> {
    let mask = steps_beyond(lengths, seq_len)?;
    Some(Tensor::from_data(TensorData::new(mask, [lengths.len(), seq_len]), device))
}

/// Zeros where `beyond` is `true`, whatever was there, `NaN` included.
///
/// # Shapes
/// - `sequences`: `[batch_size, seq_len, size]`
/// - `beyond`: `[batch_size, seq_len]`
pub(super) fn zero_beyond(sequences: Tensor<3>, beyond: Option<&Tensor<2, Bool>>) -> Tensor<3> {
    match beyond {
        None => sequences,
        Some(beyond) => {
            let dims = sequences.dims();
            sequences.mask_fill(beyond.clone().unsqueeze_dim::<3>(2).expand(dims), 0.0)
        }
    }
}
