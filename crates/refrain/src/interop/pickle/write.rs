//! A state dictionary as a pickle of protocol 2, in the words in which `torch.save` writes one.

use crate::models::NamedTensor;

/// The pickle of an ordered dictionary of tensors, whose numbers are the storages `0`, `1` and so on.
pub(in crate::interop) fn state_dict(tensors: &[NamedTensor]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (key, tensor) in tensors.iter().enumerate() {
        text(&mut pickle, &tensor.name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        int(&mut pickle, tensor.values.len());
        pickle.extend(b"tQK\x00");
        sizes(&mut pickle, &tensor.shape);
        sizes(&mut pickle, &strides(&tensor.shape));
        // No gradient is asked for, and there are no hooks.
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    pickle
}

/// Of a tensor in row-major order; of one without numbers, whose other sizes may be of any size, ones.
pub(in crate::interop) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    if shape.contains(&0) {
        return strides;
    }
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension] * shape[dimension];
    }
    strides
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn int(pickle: &mut Vec<u8>, number: usize) {
    // In two's complement of eight bytes; no length of a vector reaches the sign bit.
    pickle.extend(b"\x8a\x08");
    pickle.extend((number as u64).to_le_bytes());
}

fn sizes(pickle: &mut Vec<u8>, sizes: &[usize]) {
    pickle.push(b'(');
    for &size in sizes {
        int(pickle, size);
    }
    pickle.push(b't');
}
