//! What a method asks for, in the words of its declaration: a kind with a revision, a count, and
//! parameters by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::kind::{View, ViewDef};
use super::settings::Settings;
use crate::error::did_you_mean;
use crate::{Error, Result};

/// A parameter of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number; flags are 0 and 1.
    Number(f64),
    /// Several, such as one per channel.
    List(Vec<f64>),
    /// A word, such as the name of another view.
    Text(String),
}

/// Views of one set of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRequest {
    /// What the method calls them: `global`, `local`.
    pub name: String,
    /// The kind, such as `crop`.
    pub kind: String,
    /// Revision of the kind, from 1.
    pub revision: u32,
    /// How many, each drawn anew.
    pub count: usize,
    /// Parameters by name; those left out have the kind's defaults.
    pub params: BTreeMap<String, Value>,
}

/// From the shape of one sample's view, `[C, H, W]` or `[T]`, to the tokens that a network makes of it.
type Tokens = dyn Fn(&[usize]) -> Result<Vec<usize>> + Send + Sync;

/// How the network that is trained cuts a view into tokens; masks cover these.
#[derive(Clone, Default)]
pub struct Grid(Option<Arc<Tokens>>);

impl Grid {
    /// The grid that `tokens` computes.
    pub fn new(tokens: impl Fn(&[usize]) -> Result<Vec<usize>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tokens)))
    }

    /// Rows and columns of patches `[H / p, W / p]` of a picture, or frames `[F]` of a sound.
    ///
    /// # Errors
    /// When nothing makes tokens, or a view of this shape can't be cut into them.
    pub fn tokens(&self, shape: &[usize]) -> Result<Vec<usize>> {
        match &self.0 {
            Some(tokens) => tokens(shape),
            None => Err(Error::asked_wrongly("there are no tokens to mask")
                .hint("choose a backbone that cuts its input into tokens, such as `backbone=vit`")),
        }
    }
}

impl fmt::Debug for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Grid" } else { "Grid(none)" })
    }
}

/// All views of a sample.
#[derive(Clone, Debug, Default)]
pub struct ViewPlan {
    /// In the order of the batch.
    pub views: Vec<ViewRequest>,
    /// What the network makes of a view; needed by the views that mask another.
    pub grid: Grid,
}

impl ViewPlan {
    /// A plan of `views`, none of which masks another.
    pub fn of(views: Vec<ViewRequest>) -> Self {
        Self { views, grid: Grid::default() }
    }
}

impl ViewRequest {
    /// A request without parameters.
    pub fn new(name: &str, kind: &str, revision: u32, count: usize) -> Self {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Self { name, kind, revision, count, params: BTreeMap::new() }
    }

    /// With a number set.
    #[must_use]
    pub fn with(mut self, key: &str, value: f64) -> Self {
        self.params.insert(key.to_owned(), Value::Number(value));
        self
    }

    /// With a list set.
    #[must_use]
    pub fn with_list(mut self, key: &str, values: &[f64]) -> Self {
        self.params.insert(key.to_owned(), Value::List(values.to_vec()));
        self
    }

    /// With a word set.
    #[must_use]
    pub fn with_text(mut self, key: &str, value: &str) -> Self {
        self.params.insert(key.to_owned(), Value::Text(value.to_owned()));
        self
    }

    /// Checks kind, revision and parameters.
    ///
    /// # Errors
    /// When the host doesn't offer the kind, or a parameter is unknown, missing or out of range.
    pub fn resolve(&self) -> Result<View> {
        let def = self.definition()?;
        let settings = Settings::new(self);
        settings.known(def.settings)?;
        (def.resolve)(&settings)
    }

    /// Checks that this host has the kind, in that revision.
    ///
    /// # Errors
    /// When it does not, with what it has.
    pub fn offered(&self) -> Result<()> {
        self.definition().map(|_| ())
    }

    fn definition(&self) -> Result<&'static ViewDef> {
        let offered = ViewDef::all();
        let same = |def: &&ViewDef| def.name == self.kind && def.revision == self.revision;
        offered.iter().copied().find(same).ok_or_else(|| self.not_offered(&offered))
    }

    fn not_offered(&self, offered: &[&'static ViewDef]) -> Error {
        let message = format!("this host offers no view kind `{}@{}`", self.kind, self.revision);
        let error = Error::asked_wrongly(message);
        if let Some(def) = offered.iter().rev().find(|def| def.name == self.kind) {
            let (name, revision) = (def.name, def.revision);
            let hint = format!("it offers `{name}@{revision}`; a newer host may offer more");
            return error.hint(hint);
        }
        match did_you_mean(&self.kind, offered.iter().map(|def| def.name)) {
            Some(near) => error.hint(format!("did you mean `{near}@1`?")),
            None => {
                let names = offered.iter().map(|def| format!("`{}@{}`", def.name, def.revision));
                error.hint(format!("it offers {}", names.collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_not_offered_are_refused_in_words() {
        let error = ViewRequest::new("m", "crop-box", 1, 1).resolve().unwrap_err();
        assert_eq!(error.message(), "this host offers no view kind `crop-box@1`");
        assert!(error.hint_text().unwrap().starts_with("it offers `"), "{error:?}");
        let error = ViewRequest::new("g", "crop", 2, 1).resolve().unwrap_err();
        assert_eq!(error.message(), "this host offers no view kind `crop@2`");
        let error = ViewRequest::new("g", "corp", 1, 1).resolve().unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `crop@1`?"));
    }

    #[test]
    fn a_plan_without_a_grid_has_nothing_to_mask() {
        let error = Grid::default().tokens(&[3, 8, 8]).unwrap_err();
        assert_eq!(error.message(), "there are no tokens to mask");
        let halves = Grid::new(|shape| Ok(vec![shape[0] / 2]));
        assert_eq!(halves.tokens(&[8]).unwrap(), [4]);
    }
}
