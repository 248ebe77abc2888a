//! What a method says of itself before anything runs: name, options, needs, recipes.
//!
//! A [`Descriptor`] is a constant; [`export_methods!`](crate::export_methods) writes it as JSON into
//! a section of the library, where the host reads it without running a line of the plugin.

/// A method, described.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its name in lower case, as typed after `pretext train`.
    pub name: &'static str,
    /// One line that says what it is.
    pub summary: &'static str,
    /// Its paper, as a link.
    pub paper: &'static str,
    /// Kinds of data it can learn from: `image`, `audio`, `vector`.
    pub modalities: &'static [&'static str],
    /// Its options.
    pub options: &'static [OptionSpec],
    /// Kinds of view it asks for, such as `crop@1`.
    pub views: &'static [&'static str],
    /// Ops it calls, such as `softmax@1`; a host that lacks one refuses the plugin at once.
    pub ops: &'static [&'static str],
    /// Recipes (name, TOML); the one called `default` is what `pretext train NAME` runs.
    pub recipes: &'static [(&'static str, &'static str)],
}

/// One option of a method.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// Type, default and range.
    pub kind: OptionKind,
    /// One line of advice: when to change it, and what goes wrong beyond.
    pub advice: &'static str,
}

/// Type, default and range of an option.
#[derive(Clone, Copy, Debug)]
pub enum OptionKind {
    /// True or false.
    Bool {
        /// Where the recipe says nothing.
        default: bool,
    },
    /// A whole number.
    Int {
        /// Where the recipe says nothing.
        default: i64,
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// A real number.
    Float {
        /// Where the recipe says nothing.
        default: f64,
        /// Smallest value allowed.
        min: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// One of several words.
    Choice {
        /// Where the recipe says nothing.
        default: &'static str,
        /// The words allowed.
        choices: &'static [&'static str],
    },
}

impl OptionSpec {
    /// A flag.
    pub const fn flag(name: &'static str, default: bool, advice: &'static str) -> Self {
        Self { name, kind: OptionKind::Bool { default }, advice }
    }

    /// A whole number within `range` (both ends allowed).
    pub const fn int(
        name: &'static str,
        default: i64,
        range: (i64, i64),
        advice: &'static str,
    ) -> Self {
        Self { name, kind: OptionKind::Int { default, min: range.0, max: range.1 }, advice }
    }

    /// A real number within `range` (both ends allowed).
    pub const fn float(
        name: &'static str,
        default: f64,
        range: (f64, f64),
        advice: &'static str,
    ) -> Self {
        Self { name, kind: OptionKind::Float { default, min: range.0, max: range.1 }, advice }
    }

    /// One of several words.
    pub const fn choice(
        name: &'static str,
        default: &'static str,
        choices: &'static [&'static str],
        advice: &'static str,
    ) -> Self {
        Self { name, kind: OptionKind::Choice { default, choices }, advice }
    }
}
