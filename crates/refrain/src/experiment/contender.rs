//! What can stand in a comparison: a cell and what makes it special.

use super::ComparisonError;
use crate::setting::nearest;

/// A kind of model, by the keys that make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// What it is called on the command line and in tables.
    pub name: &'static str,
    /// The cell: `model.cell`.
    pub cell: &'static str,
    /// Other keys, as overrides of a recipe.
    pub overrides: &'static [&'static str],
}

const fn of(cell: &'static str) -> Contender {
    Contender { name: cell, cell, overrides: &[] }
}

const fn normalised(name: &'static str, cell: &'static str) -> Contender {
    Contender { name, cell, overrides: &["model.normalization=layer"] }
}

/// All there are.
pub const CONTENDERS: &[Contender] = &[
    of("rnn"),
    of("rnn-relu"),
    of("lstm"),
    of("gru"),
    of("min-gru"),
    normalised("rnn-layer-norm", "rnn"),
    normalised("lstm-layer-norm", "lstm"),
    normalised("gru-layer-norm", "gru"),
    of("transformer"),
];

impl Contender {
    /// Those that are compared unless others are asked for.
    pub const DEFAULT: &'static str = "rnn,lstm,gru,lstm-layer-norm,min-gru,transformer";

    /// The contender of this name.
    ///
    /// # Errors
    /// If there is none, or it would be bidirectional.
    pub fn named(name: &str) -> Result<Self, ComparisonError> {
        if name.starts_with("bi") {
            return Err(ComparisonError::Bidirectional { name: name.to_owned() });
        }
        CONTENDERS.iter().find(|contender| contender.name == name).copied().ok_or_else(|| ComparisonError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, CONTENDERS.iter().map(|contender| contender.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (index, contender) in CONTENDERS.iter().enumerate() {
            assert_eq!(Contender::named(contender.name).expect("it is there"), *contender);
            assert!(CONTENDERS[..index].iter().all(|other| other.name != contender.name));
        }
        assert!(Contender::DEFAULT.split(',').all(|name| Contender::named(name).is_ok()));
    }

    #[test]
    fn what_is_none_is_told() {
        let error = Contender::named("ltsm").expect_err("misspelt");
        assert_eq!(
            (error.to_string().as_str(), error.hint().as_deref()),
            ("unknown cell `ltsm`", Some("did you mean `lstm`?"))
        );
        let error = Contender::named("bidirectional").expect_err("not for a language model");
        assert_eq!(
            error.to_string(),
            "a language model cannot be bidirectional: the backward direction has read the word that it must predict"
        );
    }
}
