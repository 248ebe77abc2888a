//! Views: what a method asks the loader to make of each sample, and what arrives.

use std::collections::BTreeMap;

use crate::abi::call;
use crate::abi::value::{Handle, Value};
use crate::error::{Error, Result};
use crate::stage;
use crate::tensor::Tensor;

/// A view that a method asks for: a kind with a revision, copies, and the kind's settings.
#[derive(Clone, Debug)]
pub struct ViewRequest {
    name: String,
    kind: &'static str,
    copies: usize,
    settings: Vec<(&'static str, Setting)>,
}

#[derive(Clone, Debug)]
enum Setting {
    Int(i64),
    Float(f64),
    Floats(Vec<f64>),
    Text(String),
}

impl ViewRequest {
    /// `copies` of a view of `kind` (such as `crop@1`), to be found under `name`.
    ///
    /// Kinds and their settings are listed in `docs/abi.md`; unknown settings are refused by name.
    pub fn new(name: &str, kind: &'static str, copies: usize) -> Self {
        Self { name: name.to_owned(), kind, copies, settings: Vec::new() }
    }

    /// Sets a whole number.
    #[must_use]
    pub fn int(mut self, key: &'static str, value: i64) -> Self {
        self.settings.push((key, Setting::Int(value)));
        self
    }

    /// Sets a real number.
    #[must_use]
    pub fn float(mut self, key: &'static str, value: f64) -> Self {
        self.settings.push((key, Setting::Float(value)));
        self
    }

    /// Sets a word, such as the name of another view or of a stage.
    #[must_use]
    pub fn text(mut self, key: &'static str, value: &str) -> Self {
        self.settings.push((key, Setting::Text(value.to_owned())));
        self
    }

    /// Sets a list of real numbers.
    #[must_use]
    pub fn floats(mut self, key: &'static str, values: &[f64]) -> Self {
        self.settings.push((key, Setting::Floats(values.to_vec())));
        self
    }
}

/// The views of a run, while the method plans them.
#[derive(Debug, Default)]
pub struct ViewPlan {
    pub(crate) views: BTreeMap<String, View>,
}

impl ViewPlan {
    /// Which of the run's trainings this is, from 0.
    ///
    /// # Errors
    /// When an earlier declaration failed.
    pub fn training(&self) -> Result<usize> {
        stage::training()
    }

    /// Asks for a view.
    ///
    /// # Errors
    /// When the host doesn't offer the kind, or refuses a setting.
    pub fn ask(&mut self, request: ViewRequest) -> Result<()> {
        let ViewRequest { name, kind, copies, settings } = request;
        let mut values = vec![("copies", Value::int(copies.cast_signed() as i64))];
        values.extend(settings.iter().map(|(key, setting)| {
            let value = match setting {
                Setting::Int(value) => Value::int(*value),
                Setting::Float(value) => Value::float(*value),
                Setting::Floats(values) => Value::floats(values),
                Setting::Text(value) => Value::text(value),
            };
            (*key, value)
        }));
        values.push(("kind", Value::text(kind)));
        let handle = call::declare("view@1", &name, &values)?;
        self.views.insert(name, View { handle, copies });
        Ok(())
    }
}

/// One view of the present batch, in all its copies.
#[derive(Clone, Copy, Debug)]
pub struct View {
    handle: Handle,
    copies: usize,
}

impl View {
    /// How many copies there are.
    pub fn copies(self) -> usize {
        self.copies
    }

    /// A field of copy `index`: `pixels` `[B, C, H, W]` of a crop, `values` `[B, D]` of a vector,
    /// `target` `[B, K]` of a mask, ...
    pub fn field(self, index: usize, field: &str) -> Tensor {
        Tensor::new(call::view(self.handle, index as u64, field))
    }

    /// A field of all copies, one after the other: `[copies B, ...]`.
    pub fn all(self, field: &str) -> Tensor {
        match self.copies {
            1 => self.field(0, field),
            n => {
                let copies: Vec<Tensor> = (0..n).map(|i| self.field(i, field)).collect();
                Tensor::cat(0, &copies)
            }
        }
    }
}

/// The views of the present batch, by name.
#[derive(Debug)]
pub struct Views<'a>(pub(crate) &'a BTreeMap<String, View>);

impl Views<'_> {
    /// The view that was asked for under `name`.
    ///
    /// # Errors
    /// When the method's plan asked for no such view.
    pub fn get(&self, name: &str) -> Result<View> {
        self.find(name)
            .ok_or_else(|| Error::failed(format!("no view `{name}` was asked for in `plan`")))
    }

    /// The view `name`, or none where the plan asked for none.
    pub fn find(&self, name: &str) -> Option<View> {
        self.0.get(name).copied()
    }
}
