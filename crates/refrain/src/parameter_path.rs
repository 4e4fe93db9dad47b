//! The paths of parameters in a model, such as `recurrent.layers.0.weight_hh`.

use std::fmt;

/// Where a walk over a Burn module is: entered and left as its visitors and mappers are.
#[derive(Debug, Default)]
pub(crate) struct ParameterPath(Vec<String>);

impl ParameterPath {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        if !is_variant(container) {
            self.0.push(name.to_owned());
        }
    }

    pub(crate) fn exit(&mut self, container: &str) {
        if !is_variant(container) {
            self.0.pop();
        }
    }
}

/// The variant of an enum is no place: the parameters of a layer have the same paths whatever its cell.
fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

impl fmt::Display for ParameterPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}
