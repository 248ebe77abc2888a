//! The kinds of module that a recipe or a method can ask for by name, and their options.
//!
//! A new kind is a new file with one [`ModuleDef`] and its `mod` line.

use std::collections::BTreeMap;
use std::rc::Rc;

use toml::Value;

use super::Module;
use super::declare::Declare;
use crate::config::{self, OptionSpec};
use crate::error::did_you_mean;
use crate::state::State;
use crate::{Error, Result};

/// What a kind of module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Turns views into features; the recipe chooses it.
    Backbone,
    /// A part of a head or predictor; the method asks for it.
    Block,
}

/// The type, default and range of an option. Without a default the option is either derived from the
/// others or must be given, as its help says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number from `low` to `high`.
    Int {
        /// The value where none is given.
        default: Option<i64>,
        /// Smallest value.
        low: i64,
        /// Largest value.
        high: i64,
    },
    /// A real number from `low` to `high`.
    Float {
        /// The value where none is given.
        default: Option<f64>,
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
    },
    /// True or false.
    Bool {
        /// The value where none is given.
        default: bool,
    },
    /// One of a few words.
    Choice {
        /// The word where none is given.
        default: &'static str,
        /// All of them.
        of: &'static [&'static str],
    },
    /// A list of whole numbers, each from `low` to `high`.
    Ints {
        /// The list where none is given.
        default: &'static [i64],
        /// Smallest number.
        low: i64,
        /// Largest number.
        high: i64,
    },
}

/// One option of a kind of module.
#[derive(Clone, Copy, Debug)]
pub struct OptionDef {
    /// Its name in the recipe.
    pub name: &'static str,
    /// Its type, default and range.
    pub kind: Kind,
    /// One line of advice.
    pub help: &'static str,
}

/// Declares a module's parameters for data of a shape.
pub type Build = fn(&Options, &[usize], Declare<'_>) -> Result<Rc<dyn Module>>;

/// The tokens that a backbone makes of data of a shape: `[H / p, W / p]` of `[C, H, W]`, `[F]` of `[T]`.
pub type GridOf = fn(&Options, &[usize]) -> Result<Vec<usize>>;

/// A [`GridOf`] with its options.
pub type Tokens = Box<dyn Fn(&[usize]) -> Result<Vec<usize>> + Send + Sync>;

/// A kind of module.
#[derive(Debug)]
pub struct ModuleDef {
    /// Its name, such as `vit`.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// What it is for.
    pub role: Role,
    /// Its options.
    pub options: &'static [OptionDef],
    /// Declares its parameters for data of the given shape: `[C, H, W]` of an image, `[D]` of a vector,
    /// empty for blocks.
    pub build: Build,
    /// The tokens that a backbone makes of its input, where it cuts it into tokens: what masks cover.
    pub grid: Option<GridOf>,
}

inventory::collect!(ModuleDef);

/// Every kind of module for `role`, ordered by name.
pub fn kinds(role: Role) -> Vec<&'static ModuleDef> {
    let mut kinds: Vec<&ModuleDef> =
        inventory::iter::<ModuleDef>.into_iter().filter(|def| def.role == role).collect();
    kinds.sort_by_key(|def| def.name);
    kinds
}

/// The kind called `name` for `role`.
///
/// # Errors
/// When there is none, with the nearest name as a hint.
pub fn find(role: Role, name: &str) -> Result<&'static ModuleDef> {
    let kinds = kinds(role);
    if let Some(def) = kinds.iter().find(|def| def.name == name) {
        return Ok(def);
    }
    let word = match role {
        Role::Backbone => "backbone",
        Role::Block => "block",
    };
    let names: Vec<&str> = kinds.iter().map(|def| def.name).collect();
    Err(unknown(&format!("there is no {word} called `{name}`"), name, &names))
}

/// Builds a block (`linear`, `mlp`, `transformer`) with its parameters under `prefix` in `state`.
///
/// # Errors
/// When the kind or an option is unknown or out of range, or a name is taken.
pub fn build_block(
    name: &str,
    options: &BTreeMap<String, Value>,
    prefix: &str,
    state: &mut State,
    trainable: bool,
) -> Result<Rc<dyn Module>> {
    let def = find(Role::Block, name)?;
    (def.build)(&Options::new(def, options)?, &[], Declare::new(state, prefix, trainable))
}

/// The options of a kind of backbone, as a recipe checks them.
///
/// # Errors
/// When there is no such kind.
pub fn backbone_options(kind: &str) -> Result<Vec<OptionSpec>> {
    Ok(find(Role::Backbone, kind)?.options.iter().map(OptionDef::spec).collect())
}

/// From the shape of an input to the tokens that the backbone `kind` with `options` makes of it; none
/// where it makes no tokens.
///
/// # Errors
/// When there is no such kind, or an option is unknown or out of range.
pub fn backbone_grid(kind: &str, options: &BTreeMap<String, Value>) -> Result<Option<Tokens>> {
    let def = find(Role::Backbone, kind)?;
    let options = Options::new(def, options)?;
    Ok(def.grid.map(|grid| -> Tokens { Box::new(move |shape| grid(&options, shape)) }))
}

impl OptionDef {
    fn spec(&self) -> OptionSpec {
        let (kind, min, max, choices) = match self.kind {
            Kind::Int { low, high, .. } => {
                (config::Kind::Int, Some(low as f64), Some(high as f64), &[][..])
            }
            Kind::Float { low, high, .. } => (config::Kind::Float, Some(low), Some(high), &[][..]),
            Kind::Bool { .. } => (config::Kind::Bool, None, None, &[][..]),
            Kind::Choice { of, .. } => (config::Kind::Choice, None, None, of),
            Kind::Ints { low, high, .. } => {
                (config::Kind::Numbers, Some(low as f64), Some(high as f64), &[][..])
            }
        };
        OptionSpec {
            name: self.name.to_owned(),
            kind,
            default: self.kind.default(),
            min,
            max,
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            advice: self.help.to_owned(),
        }
    }
}

fn unknown(message: &str, name: &str, known: &[&str]) -> Error {
    let hint = match did_you_mean(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of `{}`", known.join("`, `")),
    };
    Error::asked_wrongly(message).hint(hint)
}

/// The checked options of one module: every value has its type and lies in its range.
#[derive(Clone, Debug)]
pub struct Options {
    kind: &'static str,
    values: BTreeMap<&'static str, Value>,
}

impl Options {
    /// Checks `given` against what `def` declares and fills in the defaults.
    ///
    /// # Errors
    /// When an option is unknown, has the wrong type or is out of range.
    pub fn new(def: &'static ModuleDef, given: &BTreeMap<String, Value>) -> Result<Self> {
        for name in given.keys() {
            if !def.options.iter().any(|option| option.name == name) {
                let known: Vec<&str> = def.options.iter().map(|option| option.name).collect();
                let message = format!("`{}` has no option `{name}`", def.name);
                return Err(unknown(&message, name, &known));
            }
        }
        let mut values = BTreeMap::new();
        for option in def.options {
            let value = match given.get(option.name) {
                Some(value) => Some(option.kind.check(value).map_err(|expected| {
                    Error::asked_wrongly(format!(
                        "`{}` of `{}` is {expected}, not `{value}`",
                        option.name, def.name
                    ))
                    .hint(format!("`{}`: {}", option.name, option.help))
                })?),
                None => option.kind.default(),
            };
            if let Some(value) = value {
                values.insert(option.name, value);
            }
        }
        Ok(Self { kind: def.name, values })
    }

    /// The whole number `name`, if given or with a default.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.values.get(name).and_then(Value::as_integer)
    }

    /// The size `name`, if given or with a default.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.int(name).and_then(|value| usize::try_from(value).ok())
    }

    /// The size `name`, which must be given.
    pub fn required(&self, name: &str) -> Result<usize> {
        self.size(name).ok_or_else(|| {
            Error::asked_wrongly(format!("`{}` needs the option `{name}`", self.kind))
                .hint(format!("add `{name} = ...`"))
        })
    }

    /// The real number `name`; 0 where it has none.
    pub fn float(&self, name: &str) -> f64 {
        self.values.get(name).and_then(Value::as_float).unwrap_or(0.0)
    }

    /// The flag `name`; false where it has none.
    pub fn flag(&self, name: &str) -> bool {
        self.values.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The sizes in the list `name`; empty where it has none.
    pub fn sizes(&self, name: &str) -> Vec<usize> {
        let list = self.values.get(name).and_then(Value::as_array);
        let sizes = list.into_iter().flatten().filter_map(Value::as_integer);
        sizes.filter_map(|size| usize::try_from(size).ok()).collect()
    }

    /// The word `name`; empty where it has none.
    pub fn word(&self, name: &str) -> &str {
        self.values.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

impl Kind {
    /// The value where none is given, if there is one.
    pub fn default(&self) -> Option<Value> {
        match *self {
            Self::Int { default, .. } => default.map(Value::Integer),
            Self::Float { default, .. } => default.map(Value::Float),
            Self::Bool { default } => Some(Value::Boolean(default)),
            Self::Choice { default, .. } => Some(Value::String(default.to_owned())),
            Self::Ints { default, .. } => {
                Some(Value::Array(default.iter().map(|n| Value::Integer(*n)).collect()))
            }
        }
    }

    /// `value` in its type, or what was expected, in words.
    fn check(&self, value: &Value) -> Result<Value, String> {
        let checked = match (*self, value) {
            (Self::Int { low, high, .. }, Value::Integer(n)) => {
                (low..=high).contains(n).then(|| value.clone())
            }
            (Self::Float { low, high, .. }, _) => value
                .as_float()
                .or_else(|| value.as_integer().map(|n| n as f64))
                .filter(|x| (low..=high).contains(x))
                .map(Value::Float),
            (Self::Bool { .. }, Value::Boolean(_)) => Some(value.clone()),
            (Self::Choice { of, .. }, Value::String(word)) => {
                of.contains(&word.as_str()).then(|| value.clone())
            }
            (Self::Ints { low, high, .. }, Value::Array(list)) => list
                .iter()
                .map(|item| whole(item).filter(|n| (low..=high).contains(n)).map(Value::Integer))
                .collect::<Option<_>>()
                .map(Value::Array),
            _ => None,
        };
        checked.ok_or_else(|| match *self {
            Self::Int { low, high, .. } => format!("a whole number from {low} to {high}"),
            Self::Float { low, high, .. } => format!("a number from {low} to {high}"),
            Self::Bool { .. } => "true or false".to_owned(),
            Self::Choice { of, .. } => format!("one of `{}`", of.join("`, `")),
            Self::Ints { low, high, .. } => {
                format!("a list of whole numbers from {low} to {high}")
            }
        })
    }
}

/// A whole number, also one that a recipe's list of numbers holds as a real one.
fn whole(value: &Value) -> Option<i64> {
    let real = || value.as_float().filter(|x| x.fract() == 0.0).map(|x| x as i64);
    value.as_integer().or_else(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> BTreeMap<String, Value> {
        toml::from_str(text).unwrap()
    }

    fn refused(kind: &str, text: &str) -> Error {
        build_block(kind, &options(text), "head", &mut State::new(0), true).unwrap_err()
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_name() {
        let error = refused("mlp", "in = 4\nout = 2\nhiden = 8");
        assert_eq!(error.to_string(), "`mlp` has no option `hiden`");
        assert_eq!(error.hint_text(), Some("did you mean `hidden`?"));
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_nearest_name() {
        assert_eq!(refused("linaer", "").hint_text(), Some("did you mean `linear`?"));
    }

    #[test]
    fn a_value_out_of_range_or_of_another_type_is_refused() {
        assert!(refused("mlp", "in = 4\nout = 2\nlayers = 0").to_string().contains("from 1 to"));
        assert!(
            refused("linear", "in = 4\nout = 2\nbias = 1").to_string().contains("true or false")
        );
        assert!(
            refused("mlp", "in = 4\nout = 2\nactivation = \"x\"").to_string().contains("`relu`")
        );
    }

    #[test]
    fn a_missing_size_is_named() {
        assert_eq!(refused("linear", "in = 4").to_string(), "`linear` needs the option `out`");
    }
}
