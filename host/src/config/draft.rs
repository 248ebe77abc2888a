//! What the user asked for, before the method is known: a method's name or a recipe file, and words.

use std::path::Path;

use toml::{Table, Value};

use crate::{Error, Result};

/// A request that was read but not yet checked against the tables of its method and backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub(super) method: String,
    recipe: Option<String>,
    pub(super) file: Option<Layer>,
    pub(super) words: Vec<Word>,
}

/// One recipe as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    /// What errors call it.
    pub(super) title: String,
    /// Its keys and sections.
    pub(super) table: Table,
}

/// One `key=value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Word {
    pub(super) key: String,
    pub(super) value: String,
}

impl Draft {
    /// Reads `target` and the `key=value` words after it. A target is a recipe's path (it ends in `.toml`
    /// or holds a `/`), a method's name, or `METHOD:NAME` for another recipe that the method brings.
    ///
    /// # Errors
    /// When the recipe can't be read or names no method, or a word has no `=`.
    pub fn open(target: &str, words: &[String]) -> Result<Self> {
        let path = Path::new(target);
        if path.extension().is_none_or(|end| end != "toml") && path.components().count() < 2 {
            let (method, recipe) = match target.split_once(':') {
                Some((method, recipe)) => (method, Some(recipe.to_owned())),
                None => (target, None),
            };
            return Ok(Self { recipe, ..Self::new(method, None, words)? });
        }
        let title = format!("recipe `{target}`");
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::asked_wrongly(format!("can't read {title}"))
                .because(error)
                .hint("name a method or a recipe file, as in `pretext train METHOD`; `pretext plugin list` shows methods")
        })?;
        Self::from_text(&title, &text, words)
    }

    /// A recipe from text, such as a run's `recipe.toml`; errors call it `title`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_text(title: &str, text: &str, words: &[String]) -> Result<Self> {
        Self::from_table(title, Layer::parse(title.to_owned(), text)?.table, words)
    }

    /// A recipe that was read already.
    ///
    /// # Errors
    /// When it names no method, or a word has no `=`.
    pub fn from_table(title: &str, table: Table, words: &[String]) -> Result<Self> {
        let layer = Layer { title: title.to_owned(), table };
        let method = layer.table.get("method").and_then(Value::as_str).unwrap_or("").to_owned();
        Self::new(&method, Some(layer), words)
    }

    fn new(method: &str, file: Option<Layer>, words: &[String]) -> Result<Self> {
        let words = words.iter().map(|word| Word::parse(word)).collect::<Result<Vec<_>>>()?;
        let method = match words.iter().rfind(|word| word.key == "method") {
            Some(word) => word.value.clone(),
            None => method.to_owned(),
        };
        if method.is_empty() {
            let title = file.as_ref().map_or("the recipe", |layer| layer.title.as_str());
            return Err(Error::asked_wrongly(format!("{title} names no method")).hint(
                "add a first line `method = \"NAME\"`; `pretext plugin list` shows methods",
            ));
        }
        Ok(Self { method, recipe: None, file, words })
    }

    /// The name of the method's own recipe that lies below the file and the words.
    pub fn own_recipe(&self) -> &str {
        self.recipe.as_deref().unwrap_or("default")
    }

    /// The method asked for; whether it exists is not known here.
    pub fn method(&self) -> &str {
        &self.method
    }
}

impl Layer {
    /// Reads TOML; errors start with `title`.
    pub(super) fn parse(title: String, text: &str) -> Result<Self> {
        match text.parse::<Table>() {
            Ok(table) => Ok(Self { title, table }),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start).min(text.len());
                let line = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
                Err(Error::asked_wrongly(format!("{title} is not TOML"))
                    .because(format!("line {line}: {}", error.message()))
                    .hint("a line reads `key = value`; texts stand in double quotes"))
            }
        }
    }
}

impl Word {
    fn parse(word: &str) -> Result<Self> {
        match word.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
            }
            _ => Err(Error::asked_wrongly(format!("`{word}` is not of the form key=value"))
                .hint("write for example `epochs=10` or `data=PATH`")),
        }
    }
}
