//! Losses on what a recurrent layer gives.

use burn::tensor::{Tensor, TensorData};

use super::padding;

/// Activation regularisation (Merity et al. 2018, section 4.6): the mean square of a layer's valid outputs, `[1]`, to be added to
/// the loss times α. On dropped-out outputs, as in the paper.
///
/// # Shapes
/// - `output`: `[batch_size, seq_len, hidden_size]`, zeros after a sequence's end
///
/// # Panics
/// If there are not as many lengths as sequences, or one is of more steps than there are.
pub fn activation_regularisation(output: Tensor<3>, lengths: Option<&[usize]>) -> Tensor<1> {
    let [_, _, hidden_size] = output.dims();
    let steps: usize = valid_steps(&output, lengths).iter().sum();
    output.square().sum() / (steps * hidden_size).max(1) as f64
}

/// Temporal activation regularisation, also slowness regularisation (Merity et al. 2018, section 4.6): the mean square of the difference between
/// consecutive valid outputs, `[1]`, to be added to the loss times β. On outputs that are not dropped out.
///
/// # Shapes
/// - `output`: `[batch_size, seq_len, hidden_size]`
///
/// # Panics
/// If there are not as many lengths as sequences, or one is of more steps than there are.
pub fn temporal_activation_regularisation(output: Tensor<3>, lengths: Option<&[usize]>) -> Tensor<1> {
    let [batch_size, seq_len, hidden_size] = output.dims();
    let valid = valid_steps(&output, lengths);
    let pairs = seq_len.saturating_sub(1);
    if pairs == 0 {
        return output.sum() * 0.0;
    }
    let difference = output.clone().narrow(1, 1, pairs) - output.clone().narrow(1, 0, pairs);
    let is_valid = valid.iter().flat_map(|&steps| (0..pairs).map(move |pair| f32::from(u8::from(pair + 1 < steps))));
    let is_valid = TensorData::new(is_valid.collect::<Vec<f32>>(), [batch_size, pairs, 1]);
    let is_valid = Tensor::<3>::from_data(is_valid, &output.device());
    let count: usize = valid.iter().map(|steps| steps.saturating_sub(1)).sum();
    (difference * is_valid).square().sum() / (count * hidden_size).max(1) as f64
}

fn valid_steps(output: &Tensor<3>, lengths: Option<&[usize]>) -> Vec<usize> {
    let [batch_size, seq_len, _] = output.dims();
    padding::resolve(lengths, batch_size, seq_len)
}
