//! Tensors that PyTorch computed.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// A file of golden tensors, made by the `make.py` beside it.
pub(crate) struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Golden {
    /// Reads `golden/<folder>/<folder>.safetensors`. Integers become floats: token numbers are small.
    pub(crate) fn read(folder: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/{folder}/{folder}.safetensors"));
        let bytes = std::fs::read(&path).expect("the fixture is in the repository");
        let file = SafeTensors::deserialize(&bytes).expect("a sound fixture");
        let tensors = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect()
                }
                Dtype::I64 => {
                    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8")) as f32).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect() }
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture")).1
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture"));
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
    }
}
