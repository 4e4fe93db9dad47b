//! What the value of a configuration key may be: stated once beside each configuration, used by the recipe reader for
//! its errors and for writing a recipe out in full.

use std::fmt;

use toml::Value;

/// One key of a table of the recipe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// The name in TOML.
    pub(crate) key: &'static str,
    /// The values it takes.
    pub(crate) allowed: Allowed,
}

impl Setting {
    pub(crate) const fn new(key: &'static str, allowed: Allowed) -> Self {
        Self { key, allowed }
    }
}

/// The values that a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allowed {
    /// One of a few names.
    OneOf(&'static [&'static str]),
    /// The same, or an integer from 1 up to this.
    OneOfOrSize(&'static [&'static str], i64),
    /// Any text.
    Text,
    /// Text that is not empty.
    NonEmptyText,
    /// `true` or `false`.
    Boolean,
    /// An integer of at least this.
    Integer(i64),
    /// An integer from 1 up to this, beyond which there is no use but a slip of the keyboard.
    Size(i64),
    /// The same, or 0 for none.
    SizeOrNone(i64),
    /// An integer from 1 up to this, or a list of such, one for each layer.
    SizeOrSizes(i64),
    /// A finite number.
    Number(Range),
    /// Two finite numbers.
    Pair(Range),
}

/// A range of numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Range {
    /// x > 0
    Positive,
    /// x ≥ 0
    NotNegative,
    /// 0 ≤ x < 1
    BelowOne,
    /// 0 < x < 1
    Fraction,
    /// 0 < x ≤ 1
    Factor,
    /// 0 ≤ x ≤ 1
    Share,
    /// x ≥ 1
    AtLeastOne,
    /// any
    Finite,
}

impl Range {
    fn contains(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Self::Positive => x > 0.0,
                Self::NotNegative => x >= 0.0,
                Self::BelowOne => (0.0..1.0).contains(&x),
                Self::Fraction => x > 0.0 && x < 1.0,
                Self::Factor => x > 0.0 && x <= 1.0,
                Self::Share => (0.0..=1.0).contains(&x),
                Self::AtLeastOne => x >= 1.0,
                Self::Finite => true,
            }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Positive => "above 0",
            Self::NotNegative => "of at least 0",
            Self::BelowOne => "of at least 0 and below 1",
            Self::Fraction => "above 0 and below 1",
            Self::Factor => "above 0 and at most 1",
            Self::Share => "of at least 0 and at most 1",
            Self::AtLeastOne => "of at least 1",
            Self::Finite => "that is finite",
        })
    }
}

impl Allowed {
    /// Whether `value` is one of them.
    pub(crate) fn contains(self, value: &Value) -> bool {
        match (self, value) {
            (Self::OneOf(names) | Self::OneOfOrSize(names, _), Value::String(text)) => names.contains(&text.as_str()),
            (Self::Text, Value::String(_)) | (Self::Boolean, Value::Boolean(_)) => true,
            (Self::NonEmptyText, Value::String(text)) => !text.is_empty(),
            (Self::Integer(low), Value::Integer(x)) => *x >= low,
            (Self::Size(high) | Self::OneOfOrSize(_, high) | Self::SizeOrSizes(high), Value::Integer(x)) => {
                (1..=high).contains(x)
            }
            (Self::SizeOrSizes(high), Value::Array(values)) => {
                !values.is_empty() && values.iter().all(|value| Self::Size(high).contains(value))
            }
            (Self::SizeOrNone(high), Value::Integer(x)) => (0..=high).contains(x),
            (Self::Number(range), value) => number(value).is_some_and(|x| range.contains(x)),
            (Self::Pair(range), Value::Array(values)) => {
                values.len() == 2 && values.iter().all(|value| number(value).is_some_and(|x| range.contains(x)))
            }
            _ => false,
        }
    }

    /// Whether the value is text, so that quotation marks may be left out on the command line.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::OneOf(_) | Self::Text | Self::NonEmptyText)
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneOf([name]) => write!(f, "`{name}`"),
            Self::OneOf(names) => write!(f, "one of `{}`", names.join("`, `")),
            Self::OneOfOrSize(names, high) => {
                write!(f, "one of `{}`, or an integer from 1 to {high}", names.join("`, `"))
            }
            Self::Text => f.write_str("text"),
            Self::NonEmptyText => f.write_str("text that is not empty"),
            Self::Boolean => f.write_str("true or false"),
            Self::Integer(low) => write!(f, "an integer of at least {low}"),
            Self::Size(high) => write!(f, "an integer from 1 to {high}"),
            Self::SizeOrNone(high) => write!(f, "an integer from 0 to {high}"),
            Self::SizeOrSizes(high) => write!(f, "an integer from 1 to {high}, or a list of such, one for each layer"),
            Self::Number(range) => write!(f, "a number {range}"),
            Self::Pair(range) => write!(f, "two numbers [a, b], each {range}"),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(x) => Some(*x as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// The nearest of some names, if a third of the letters or fewer are wrong.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(distance, known)| 3 * distance <= known.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Checks a configuration that did not come from a recipe, where every value is checked as it is read.
///
/// # Errors
///
/// Names the first key whose value is not allowed.
pub(crate) fn check<T: serde::Serialize>(config: &T, settings: &[Setting]) -> Result<(), String> {
    let table = toml::Table::try_from(config).map_err(|error| error.to_string())?;
    let refused = settings.iter().find_map(|setting| {
        let value = table.get(setting.key).filter(|value| !setting.allowed.contains(value))?;
        Some(format!("`{}` must be {}, found {value}", setting.key, setting.allowed))
    });
    refused.map_or(Ok(()), Err)
}

/// Defines an enum whose variants have names in recipes: serde, `Display`, and the list `NAMES`.
macro_rules! names {
    ($(#[$meta:meta])* pub enum $Name:ident { $($(#[$variant_meta:meta])* $Variant:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub enum $Name {
            $($(#[$variant_meta])* #[serde(rename = $name)] $Variant,)+
        }

        impl $Name {
            /// Every name, in the order of help texts.
            pub const NAMES: &'static [&'static str] = &[$($name),+];
            /// Every kind, in the same order.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// The name in recipes.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use names;

/// Serde for an `Option` of a number that a recipe writes as 0 when there is none, so that no key is ever left out.
pub(crate) mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer, T: Serialize + Default + Copy>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.unwrap_or_default().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: Deserialize<'de> + Default + PartialEq,
    {
        T::deserialize(deserializer).map(|value| Some(value).filter(|value| *value != T::default()))
    }
}

/// Serde for an `Option` of a text that a recipe writes as "" when there is none.
pub(crate) mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.as_deref().unwrap_or_default())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        String::deserialize(deserializer).map(|text| Some(text).filter(|text| !text.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_at_their_ends() {
        for (range, inside, outside) in [
            (Range::Positive, &[1e-9, 30.0][..], &[0.0, -1.0, f64::NAN, f64::INFINITY][..]),
            (Range::NotNegative, &[0.0, 2.0], &[-1e-9]),
            (Range::BelowOne, &[0.0, 0.999], &[1.0, -0.1]),
            (Range::Fraction, &[0.1, 0.999], &[0.0, 1.0]),
            (Range::Factor, &[0.1, 1.0], &[0.0, 1.1]),
            (Range::Share, &[0.0, 1.0], &[-0.1, 1.1]),
            (Range::AtLeastOne, &[1.0, 200.0], &[0.999, -2.0]),
            (Range::Finite, &[-3.0, 3.0], &[f64::NAN, f64::NEG_INFINITY]),
        ] {
            for &x in inside {
                assert!(Allowed::Number(range).contains(&Value::Float(x)), "{x} is {range}");
            }
            for &x in outside {
                assert!(!Allowed::Number(range).contains(&Value::Float(x)), "{x} is not {range}");
            }
        }
    }

    #[test]
    fn an_integer_is_a_number_but_not_the_other_way_round() {
        assert!(Allowed::Number(Range::Positive).contains(&Value::Integer(1)));
        assert!(!Allowed::Integer(1).contains(&Value::Float(1.0)));
        assert!(!Allowed::Pair(Range::BelowOne).contains(&Value::Array(vec![Value::Float(0.9)])));
    }
}
