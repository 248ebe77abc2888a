//! Layers into one checked set of keys: host defaults, the method's recipe, the file, the words.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::draft::{Draft, Layer, Word};
use super::option::OptionSpec;
use super::recipe::Recipe;
use super::schema::SECTIONS;
use crate::error::did_you_mean;
use crate::{Error, Result};

/// What a method's metadata says about its recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct MethodTable<'a> {
    /// The method's own recipe that [`Draft::own_recipe`] names, as TOML; may be empty.
    pub recipe: &'a str,
    /// Its options.
    pub options: &'a [OptionSpec],
}

/// The options of a kind of backbone, by its name; an error where there is no such kind.
pub type BackboneTable<'a> = &'a dyn Fn(&str) -> Result<Vec<OptionSpec>>;

/// The keys of every section that values may be given for, in this method and backbone.
pub(super) struct Tables {
    method: String,
    backbone: String,
    sections: Vec<(&'static str, Vec<OptionSpec>)>,
}

/// Values by section and key.
pub(super) type Given = BTreeMap<(&'static str, String), Value>;

impl Draft {
    /// Checks every layer against the tables and puts the recipe together.
    ///
    /// # Errors
    /// When a key is unknown, a value has another type or is out of range, or a bare word means two
    /// things.
    pub fn resolve(
        &self,
        method: &MethodTable<'_>,
        backbones: BackboneTable<'_>,
    ) -> Result<Recipe> {
        let own = format!("recipe `{}` of method `{}`", self.own_recipe(), self.method);
        let own = Layer::parse(own, method.recipe)?;
        let mut layers = vec![&own];
        layers.extend(&self.file);
        let kind = self.backbone_kind(&layers);
        let tables = Tables::new(&self.method, method.options, &kind, &backbones(&kind)?);
        let mut given = Given::new();
        let mut present = "vit";
        for layer in layers {
            if let Some(kind) = layer_kind(&layer.table) {
                // A layer that names the kind describes the whole backbone: sizes that an earlier layer
                // set would not fit it.
                present = kind;
                given.retain(|(section, _), _| *section != "backbone");
            }
            tables.apply_layer(layer, present == kind, &mut given)?;
        }
        let recipe = given.clone();
        for word in &self.words {
            tables.apply_word(word, &recipe, &mut given)?;
        }
        given.insert(("", "method".to_owned()), Value::String(self.method.clone()));
        given.insert(("backbone", "kind".to_owned()), Value::String(kind));
        Recipe::from_table(tables.fill(&given))
    }

    /// The kind of the last layer that names one.
    fn backbone_kind(&self, layers: &[&Layer]) -> String {
        let from_layers = layers.iter().rev().find_map(|layer| layer_kind(&layer.table));
        self.word_kind().or(from_layers).unwrap_or("vit").to_owned()
    }

    fn word_kind(&self) -> Option<&str> {
        let names_kind = |word: &&Word| matches!(full_key(&word.key), "backbone.kind" | "kind");
        self.words.iter().rfind(names_kind).map(|word| word.value.trim_matches('"'))
    }
}

fn layer_kind(table: &Table) -> Option<&str> {
    table.get("backbone")?.as_table()?.get("kind")?.as_str()
}

/// The short forms of whole sections.
fn full_key(key: &str) -> &str {
    match key {
        "data" => "data.source",
        "backbone" => "backbone.kind",
        other => other,
    }
}

impl Tables {
    fn new(method: &str, options: &[OptionSpec], kind: &str, backbone: &[OptionSpec]) -> Self {
        let sections = SECTIONS
            .iter()
            .map(|section| {
                let mut keys: Vec<OptionSpec> = section.keys.iter().map(super::Key::spec).collect();
                match section.name {
                    "backbone" => keys.extend(backbone.iter().cloned()),
                    "options" => keys.extend(options.iter().cloned()),
                    _ => {}
                }
                (section.name, keys)
            })
            .collect();
        Self { method: method.to_owned(), backbone: kind.to_owned(), sections }
    }

    /// Takes a layer's keys; those of its `[backbone]` only where the layer speaks of the kind that is
    /// built in the end, since the options of one kind mean nothing to another.
    fn apply_layer(&self, layer: &Layer, with_backbone: bool, given: &mut Given) -> Result<()> {
        let place = |error: Error| error.context(format!("{} can't be used", layer.title));
        for (name, value) in &layer.table {
            match (self.section(name), value) {
                (Some(("backbone", _)), Value::Table(_)) if !with_backbone => {}
                (Some((section, keys)), Value::Table(table)) => {
                    for (key, value) in table {
                        let spec = self.spec(section, keys, key).map_err(place)?;
                        let value = spec.check(&path(section, key), value).map_err(place)?;
                        given.insert((section, key.clone()), value);
                    }
                }
                (Some(_), _) => {
                    return Err(place(
                        Error::asked_wrongly(format!("`{name}` is a section")).hint(format!(
                            "write `[{name}]` on a line of its own, its keys below it"
                        )),
                    ));
                }
                (None, value) => {
                    let spec = self.top(name).map_err(place)?;
                    let value = spec.check(name, value).map_err(place)?;
                    given.insert(("", name.clone()), value);
                }
            }
        }
        Ok(())
    }

    fn section(&self, name: &str) -> Option<(&'static str, &[OptionSpec])> {
        self.sections
            .iter()
            .find(|(section, _)| !section.is_empty() && *section == name)
            .map(|(section, keys)| (*section, keys.as_slice()))
    }

    fn top(&self, name: &str) -> Result<&OptionSpec> {
        let keys = &self.sections[0].1;
        keys.iter().find(|key| key.name == name).ok_or_else(|| {
            let elsewhere: Vec<String> =
                self.meanings(name).iter().map(|(section, _)| path(section, name)).collect();
            let hint = match (elsewhere.first(), self.nearest(name)) {
                (Some(path), _) => format!("it belongs to a section: `{path}`"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => self.where_listed(),
            };
            Error::asked_wrongly(format!("`{name}` is no key of a recipe")).hint(hint)
        })
    }

    /// The key of a section.
    fn spec<'a>(&self, section: &str, keys: &'a [OptionSpec], key: &str) -> Result<&'a OptionSpec> {
        if let Some(spec) = keys.iter().find(|spec| spec.name == key) {
            return Ok(spec);
        }
        let message = match section {
            "options" => format!("method `{}` has no option `{key}`", self.method),
            "backbone" => format!("backbone `{}` has no option `{key}`", self.backbone),
            _ => format!("`{}` is no key of a recipe", path(section, key)),
        };
        let near = did_you_mean(key, keys.iter().map(|spec| spec.name.as_str()));
        let hint = match (near, self.meanings(key).first()) {
            (Some(near), _) => format!("did you mean `{}`?", path(section, near)),
            (None, Some((other, _))) => {
                format!("it belongs to another section: `{}`", path(other, key))
            }
            (None, None) => {
                let known: Vec<&str> = keys.iter().map(|spec| spec.name.as_str()).collect();
                format!("`[{section}]` takes `{}`", known.join("`, `"))
            }
        };
        Err(Error::asked_wrongly(message).hint(hint))
    }

    /// Takes a word of the command line, on top of what the `recipe` says.
    fn apply_word(&self, word: &Word, recipe: &Given, given: &mut Given) -> Result<()> {
        let key = full_key(&word.key);
        let (section, spec) = match key.split_once('.') {
            Some((section, key)) => {
                let (section, keys) =
                    self.section(section).ok_or_else(|| self.no_section(section))?;
                (section, self.spec(section, keys, key)?)
            }
            None => self.bare(key, &word.value)?,
        };
        let place = (section, spec.name.clone());
        // What an error calls the default is what the recipe has, not what the host would take.
        let default = recipe.get(&place).or(spec.default.as_ref()).cloned();
        let spec = OptionSpec { default, ..spec.clone() };
        let value = spec.check_word(&path(section, &spec.name), &word.value)?;
        given.insert(place, value);
        Ok(())
    }

    fn no_section(&self, section: &str) -> Error {
        let names: Vec<&str> = self.sections[1..].iter().map(|(name, _)| *name).collect();
        let hint = match did_you_mean(section, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("sections are `{}`", names.join("`, `")),
        };
        Error::asked_wrongly(format!("a recipe has no section `{section}`")).hint(hint)
    }

    /// The one key that a bare word can mean.
    fn bare(&self, key: &str, value: &str) -> Result<(&'static str, &OptionSpec)> {
        let meanings = self.meanings(key);
        match meanings.as_slice() {
            [one] => Ok(*one),
            [] => {
                let hint = match self.nearest(key) {
                    Some(near) => format!("did you mean `{near}={value}`?"),
                    None => self.where_listed(),
                };
                let message =
                    format!("`{key}` is no key of a recipe and no option of `{}`", self.method);
                Err(Error::asked_wrongly(message).hint(hint))
            }
            several => {
                let paths: Vec<String> =
                    several.iter().map(|(section, _)| path(section, key)).collect();
                let hint = format!("write it with its section, such as `{}={value}`", paths[0]);
                let message = format!("`{key}` can mean `{}`", paths.join("` or `"));
                Err(Error::asked_wrongly(message).hint(hint))
            }
        }
    }

    fn meanings(&self, key: &str) -> Vec<(&'static str, &OptionSpec)> {
        self.sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |spec| (*section, spec)))
            .filter(|(_, spec)| spec.name == key)
            .collect()
    }

    fn nearest(&self, key: &str) -> Option<&str> {
        let known = self.sections.iter().flat_map(|(_, keys)| keys);
        did_you_mean(key, known.map(|spec| spec.name.as_str()))
    }

    fn where_listed(&self) -> String {
        let method = &self.method;
        format!("`pretext plugin info {method}` and `pretext train --help` list what can be set")
    }

    /// Every key of every section: as given, or its default.
    fn fill(&self, given: &Given) -> Table {
        let mut table = Table::new();
        for (section, specs) in &self.sections {
            let mut keys = Table::new();
            for spec in specs {
                if let Some(value) = value_of(given, section, spec) {
                    keys.insert(spec.name.clone(), value);
                }
            }
            if section.is_empty() {
                table.extend(keys);
            } else {
                table.insert((*section).to_owned(), Value::Table(keys));
            }
        }
        table
    }
}

/// The value of a key: as given, its default, or that of the key it follows.
fn value_of(given: &Given, section: &'static str, spec: &OptionSpec) -> Option<Value> {
    // A default takes the option's type too, or a recipe that is written and read again would be another.
    let typed = |value: &Value| spec.check(&spec.name, value).unwrap_or_else(|_| value.clone());
    let default = || spec.default.as_ref().map(typed);
    if let Some(value) = given.get(&(section, spec.name.clone())).cloned().or_else(default) {
        return Some(value);
    }
    let keys = SECTIONS.iter().find(|host| host.name == section)?.keys;
    let follows = keys.iter().find(|key| key.name == spec.name)?.follows()?;
    let followed = keys.iter().find(|key| key.name == follows)?;
    value_of(given, section, &followed.spec())
}

/// `section.key`, or the key alone at the top.
fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

#[cfg(test)]
mod tests;
