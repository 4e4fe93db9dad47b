//! Losses on what a recurrent layer gives.

use burn::tensor::{Int, Tensor, TensorData};

use super::padding;

/// Activation regularisation (Merity et al. 2018, section 4.6): the mean square of a layer's valid outputs, `[1]`, to be added to
/// the loss times α. On dropped-out outputs, as in the paper. Without any valid step it is 0.
///
/// # Shapes
/// - `output`: `[batch_size, seq_len, hidden_size]`
///
/// # Panics
/// If there are not as many lengths as sequences, or one is of more steps than there are.
pub fn activation_regularisation(output: Tensor<3>, lengths: Option<&[usize]>) -> Tensor<1> {
    mean_square(Steps::of(output, lengths).from(0))
}

/// Temporal activation regularisation, also slowness regularisation (Merity et al. 2018, section 4.6): the mean square of the
/// difference between consecutive valid outputs, `[1]`, to be added to the loss times β. On outputs that are not dropped out.
/// Without any two consecutive steps it is 0.
///
/// # Shapes
/// - `output`: `[batch_size, seq_len, hidden_size]`
///
/// # Panics
/// If there are not as many lengths as sequences, or one is of more steps than there are.
pub fn temporal_activation_regularisation(output: Tensor<3>, lengths: Option<&[usize]>) -> Tensor<1> {
    let steps = Steps::of(output, lengths);
    mean_square(steps.from(1) - steps.before(1))
}

fn mean_square(rows: Tensor<2>) -> Tensor<1> {
    let count = rows.dims().iter().product::<usize>().max(1);
    rows.square().sum() / count as f64
}

/// The steps of all sequences, one below the other. Valid ones are picked, not masked: whatever stands in the padding, and
/// however much of it there is, the sums are of the same numbers in the same order.
struct Steps {
    /// `[batch_size * seq_len, hidden_size]`.
    rows: Tensor<2>,
    seq_len: usize,
    lengths: Vec<usize>,
}

impl Steps {
    fn of(output: Tensor<3>, lengths: Option<&[usize]>) -> Self {
        let [batch_size, seq_len, _] = output.dims();
        let lengths = padding::resolve(lengths, batch_size, seq_len);
        Self { rows: output.flatten(0, 1), seq_len, lengths }
    }

    /// Each sequence's valid steps but for the first few.
    fn from(&self, first: usize) -> Tensor<2> {
        self.pick(|length| first.min(length)..length)
    }

    /// Each sequence's valid steps but for the last few.
    fn before(&self, last: usize) -> Tensor<2> {
        self.pick(|length| 0..length.saturating_sub(last))
    }

    fn pick(&self, steps: impl Fn(usize) -> std::ops::Range<usize>) -> Tensor<2> {
        let picked: Vec<i64> = (self.lengths.iter().enumerate())
            .flat_map(|(sequence, &length)| steps(length).map(move |step| (sequence * self.seq_len + step) as i64))
            .collect();
        let len = picked.len();
        let picked = Tensor::<1, Int>::from_data(TensorData::new(picked, [len]), &self.rows.device());
        self.rows.clone().select(0, picked)
    }
}
