//! Checked options by name, as a method or a backbone gets them.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use toml::{Table, Value};

/// Options whose names, types and ranges were checked; in the order of their table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(String, Value)>);

impl Values {
    /// Options in the order given.
    pub fn new(entries: Vec<(String, Value)>) -> Self {
        Self(entries)
    }

    /// The value called `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// A truth value.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_integer()
    }

    /// A number; a whole one counts.
    pub fn float(&self, name: &str) -> Option<f64> {
        number(self.get(name)?)
    }

    /// A text or a choice.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A list of numbers.
    pub fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        self.get(name)?.as_array()?.iter().map(number).collect()
    }

    /// All of them, in the order of their table.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// All of them by name.
    pub fn to_map(&self) -> BTreeMap<String, Value> {
        self.0.iter().cloned().collect()
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Table::deserialize(deserializer)?.into_iter().collect()))
    }
}

/// A number of either kind.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
}
