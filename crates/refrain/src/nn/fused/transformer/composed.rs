//! The same operations composed of ordinary Burn operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Shape, Slice, TensorData};

use super::{AttentionInputs, RotationAngles};

/// As [`TransformerOps::rotate_heads`](super::TransformerOps::rotate_heads).
pub fn rotate_heads<B: Backend>(angles: &RotationAngles, projected: FloatTensor<B>) -> FloatTensor<B> {
    let [batch_size, seq_len, width] = projected.shape().dims();
    let num_heads = angles.num_heads;
    let head_size = width / (3 * num_heads);
    let half = head_size / 2;
    let heads = B::float_reshape(projected, Shape::new([batch_size, seq_len, 3 * num_heads, head_size]));
    let part = |heads: std::ops::Range<usize>, features: std::ops::Range<usize>| {
        [Slice::full(), Slice::full(), Slice::from(heads), Slice::from(features)]
    };
    let x = B::float_slice(heads.clone(), &part(0..2 * num_heads, 0..half));
    let y = B::float_slice(heads.clone(), &part(0..2 * num_heads, half..head_size));
    let values = B::float_slice(heads.clone(), &part(2 * num_heads..3 * num_heads, 0..head_size));
    let [cosines, sines] = [&angles.cosines, &angles.sines].map(|of| {
        let sequences = of.len() / (seq_len * half);
        let data = TensorData::new(of.to_vec(), [sequences, seq_len, 1, half]);
        B::float_from_data(data, &heads.device())
    });
    let product = |of: &FloatTensor<B>, factors: &FloatTensor<B>| B::float_mul(of.clone(), factors.clone());
    let turned_x = B::float_sub(product(&x, &cosines), product(&y, &sines));
    let turned_y = B::float_add(product(&y, &cosines), product(&x, &sines));
    let turned = B::float_cat(vec![B::float_cat(vec![turned_x, turned_y], 3), values], 2);
    B::float_reshape(turned, Shape::new([batch_size, seq_len, width]))
}

/// As [`TransformerOps::self_attention`](super::TransformerOps::self_attention).
pub fn self_attention<B: Backend>(inputs: AttentionInputs<B>) -> FloatTensor<B> {
    let [batch_size, num_heads, seq_len, past_len, head_size] = inputs.sizes();
    let AttentionInputs { spec, projected, past_keys, past_values } = inputs;
    let device = projected.device();
    let heads = B::float_reshape(projected, Shape::new([batch_size, seq_len, 3 * num_heads, head_size]));
    let heads = B::float_swap_dims(heads, 1, 2);
    let part = |index: usize| {
        let range = index * num_heads..(index + 1) * num_heads;
        B::float_slice(heads.clone(), &[Slice::full(), Slice::from(range), Slice::full(), Slice::full()])
    };
    let after = |past: FloatTensor<B>, new| if past_len > 0 { B::float_cat(vec![past, new], 2) } else { new };
    let key_len = past_len + seq_len;
    let hidden = spec.hidden.map(|hidden| {
        let mask = TensorData::new(hidden.to_vec(), [batch_size, 1, 1, key_len]);
        B::bool_expand(B::bool_from_data(mask, &device), Shape::new([batch_size, num_heads, seq_len, key_len]))
    });
    // With more keys than queries the last of both stand at the same step.
    let options = AttentionModuleOptions { is_causal: spec.is_causal, ..Default::default() };
    let context = B::attention(part(0), after(past_keys, part(1)), after(past_values, part(2)), hidden, None, options);
    B::float_reshape(B::float_swap_dims(context, 1, 2), Shape::new([batch_size, seq_len, num_heads * head_size]))
}

/// As [`TransformerOps::exact_gelu`](super::TransformerOps::exact_gelu).
pub fn exact_gelu<B: Backend>(input: FloatTensor<B>) -> FloatTensor<B> {
    let error = B::float_erf(B::float_mul_scalar(input.clone(), std::f32::consts::FRAC_1_SQRT_2.into()));
    B::float_mul_scalar(B::float_mul(input, B::float_add_scalar(error, 1f32.into())), 0.5f32.into())
}
