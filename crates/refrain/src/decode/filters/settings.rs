//! A number for each filter, as the command line and `[sample]` give it.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Value;

use super::{Ban, FILTERS, FilterKind, Filters, Force, Role};
use crate::setting::{Allowed, nearest};

/// A number for each of [`FILTERS`].
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSettings([f64; FILTERS.len()]);

/// What may be written, whatever its score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraints {
    /// Sequences of tokens that are never written.
    pub banned: Vec<Vec<u32>>,
    /// The tokens that a text begins with.
    pub forced: Vec<u32>,
}

/// A setting that there is not.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// No filter has this name.
    #[error("there is no filter `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A filter does not take this number.
    #[error("`{name}` must be {allowed}, found {value}")]
    Value {
        /// The filter.
        name: &'static str,
        /// The number.
        value: String,
        /// The numbers it takes.
        allowed: String,
    },
}

impl FilterError {
    /// What may have been meant.
    pub fn hint(&self) -> Option<String> {
        let Self::Unknown { name } = self else { return None };
        let names = || FILTERS.iter().map(|kind| kind.name);
        Some(match nearest(name, names()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("the filters are {}", names().collect::<Vec<_>>().join(", ")),
        })
    }
}

impl FilterKind {
    /// The number as a recipe writes it: counts without a decimal point.
    fn written(&self, value: f64) -> Value {
        let is_count = matches!(self.allowed, Allowed::Integer(_)) && value.fract() == 0.0;
        if is_count { Value::Integer(value as i64) } else { Value::Float(value) }
    }

    /// Whether the filter takes this number.
    ///
    /// # Errors
    /// [`FilterError::Value`] if not.
    pub fn check(&self, value: f64) -> Result<(), FilterError> {
        let written = self.written(value);
        if self.allowed.contains(&written) {
            return Ok(());
        }
        Err(FilterError::Value { name: self.name, value: written.to_string(), allowed: self.allowed.to_string() })
    }

    /// Reads a number that the filter takes.
    ///
    /// # Errors
    /// What it takes, if `text` is none.
    pub fn parse(&self, text: &str) -> Result<f64, String> {
        text.parse().ok().filter(|&value| self.check(value).is_ok()).ok_or_else(|| self.allowed.to_string())
    }
}

impl Default for FilterSettings {
    /// The default of each filter.
    fn default() -> Self {
        Self(std::array::from_fn(|index| FILTERS[index].default))
    }
}

impl FilterSettings {
    /// Every filter off.
    pub fn off() -> Self {
        Self(std::array::from_fn(|index| FILTERS[index].off))
    }

    /// These with all filters off that shape a distribution to draw from.
    #[must_use]
    pub fn without_sampling(mut self) -> Self {
        for (value, kind) in self.0.iter_mut().zip(FILTERS) {
            if kind.role == Role::Sampling {
                *value = kind.off;
            }
        }
        self
    }

    /// The number of each filter, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static FilterKind, f64)> {
        FILTERS.iter().zip(self.0)
    }

    /// Sets the number of a filter.
    ///
    /// # Errors
    /// If there is no such filter, or it does not take the number.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), FilterError> {
        let index = FILTERS.iter().position(|kind| kind.name == name);
        let index = index.ok_or_else(|| FilterError::Unknown { name: name.to_owned() })?;
        FILTERS[index].check(value)?;
        self.0[index] = value;
        Ok(())
    }

    /// The filters that are not off, in the order of [`FILTERS`]; bans before them all, and what is forced after the last one
    /// that is not of [`Role::Sampling`].
    pub fn filters(&self, constraints: Constraints) -> Filters {
        let of = |role| {
            self.iter()
                .filter(move |(kind, value)| kind.role == role && value.total_cmp(&kind.off).is_ne())
                .map(|(kind, value)| (kind.build)(value))
        };
        let mut filters = Filters::new();
        if !constraints.banned.is_empty() {
            filters = filters.with(Ban(constraints.banned));
        }
        filters.0.extend(of(Role::Constraint));
        if !constraints.forced.is_empty() {
            filters = filters.with(Force(constraints.forced));
        }
        filters.0.extend(of(Role::Sampling));
        filters
    }
}

impl Serialize for FilterSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(FILTERS.len()))?;
        for (kind, value) in self.iter() {
            map.serialize_entry(kind.name, &kind.written(value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for FilterSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = FilterSettings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers by the names of filters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FilterSettings, A::Error> {
                let mut settings = FilterSettings::default();
                while let Some((name, value)) = map.next_entry::<String, f64>()? {
                    settings.set(&name, value).map_err(A::Error::custom)?;
                }
                Ok(settings)
            }
        }

        deserializer.deserialize_map(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_there_is_not_is_named() {
        let mut settings = FilterSettings::default();
        let error = settings.set("top-q", 0.5).unwrap_err();
        assert_eq!(error.to_string(), "there is no filter `top-q`");
        assert_eq!(error.hint().as_deref(), Some("did you mean `top-k`?"));
        let error = settings.set("nucleus", 0.5).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.starts_with("the filters are repetition-penalty, ")));
        let error = settings.set("top-p", 1.5).unwrap_err();
        assert_eq!(error.to_string(), "`top-p` must be a number above 0 and at most 1, found 1.5");
        let error = settings.set("top-k", 1.5).unwrap_err();
        assert_eq!(error.to_string(), "`top-k` must be an integer of at least 0, found 1.5");
        assert_eq!(settings, FilterSettings::default());
    }

    #[test]
    fn what_is_off_is_not_there() {
        assert_eq!(format!("{:?}", FilterSettings::off().filters(Constraints::default())), "Filters([])");
        let mut settings = FilterSettings::off();
        settings.set("top-p", 0.9).unwrap();
        settings.set("repetition-penalty", 1.1).unwrap();
        let constraints = Constraints { banned: vec![vec![3]], forced: vec![1, 2] };
        assert_eq!(
            format!("{:?}", settings.filters(constraints.clone())),
            "Filters([Ban([[3]]), RepetitionPenalty(1.1), Force([1, 2]), TopP(0.9)])"
        );
        assert_eq!(
            format!("{:?}", settings.without_sampling().filters(constraints)),
            "Filters([Ban([[3]]), RepetitionPenalty(1.1), Force([1, 2])])"
        );
    }
}
