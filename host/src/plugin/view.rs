//! A view that a method asks for, in the words of the contract and in those of the loader.

use std::collections::BTreeMap;

use super::session::Setting;
use crate::data::view::{Value, ViewRequest};
use crate::{Error, Result};

/// A view that the method asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedView {
    /// Its name.
    pub name: String,
    /// Its kind and revision, such as `crop@1`.
    pub kind: String,
    /// How many of it per sample.
    pub copies: usize,
    /// The kind's settings.
    pub settings: BTreeMap<String, Setting>,
}

impl AskedView {
    /// The same for the loader. Whether it is offered is the loader's to say.
    ///
    /// # Errors
    /// When the kind has no revision, or a setting is a handle.
    pub fn request(&self) -> Result<ViewRequest> {
        let refuse = || {
            Error::failed(format!("`{}` is no kind of view with a revision", self.kind))
                .hint("write it like `crop@1`")
        };
        let (kind, revision) = self.kind.split_once('@').ok_or_else(refuse)?;
        let revision = revision.parse().map_err(|_| refuse())?;
        let mut params = BTreeMap::new();
        for (key, setting) in &self.settings {
            let value = match setting {
                Setting::Int(value) => Value::Number(*value as f64),
                Setting::Float(value) => Value::Number(*value),
                Setting::Floats(values) => Value::List(values.clone()),
                Setting::Ints(values) => Value::List(values.iter().map(|v| *v as f64).collect()),
                Setting::Text(text) => Value::Text(text.clone()),
                Setting::Handle(_) => {
                    let name = &self.name;
                    return Err(Error::failed(format!(
                        "`{key}` of the view `{name}` is neither a number nor a text"
                    )));
                }
            };
            params.insert(key.clone(), value);
        }
        let (name, kind) = (self.name.clone(), kind.to_owned());
        Ok(ViewRequest { name, kind, revision, count: self.copies, params })
    }
}
