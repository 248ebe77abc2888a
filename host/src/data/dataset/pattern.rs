//! Which samples of a source are taken, by patterns on their names.

use std::sync::Arc;

use glob::Pattern;

use super::subset::Subset;
use super::{Dataset, OpenOptions};
use crate::{Error, Result};

/// Patterns such as `*_anna_*`; a name matches where one of them does.
///
/// A pattern without `/` is held against the file's name, one with `/` against the end of its path, from a
/// folder on. `*` stands for any text, `?` for one character, `[ab]` for one of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Reads patterns separated by commas; an empty text is none.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let patterns = parts.map(|part| {
            Pattern::new(part).map_err(|e| {
                Error::asked_wrongly(format!("`{part}` is no pattern"))
                    .because(e.msg)
                    .hint("write it like `*_anna_*`, several with commas between")
            })
        });
        patterns.collect::<Result<_>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Whether one of them matches `name`, a path that may stand behind a tar's and a colon.
    pub fn matches(&self, name: &str) -> bool {
        let ends = || {
            let starts = name.match_indices(['/', ':']).map(|(at, _)| &name[at + 1..]);
            std::iter::once(name).chain(starts)
        };
        let file = name.rsplit(['/', ':']).next().unwrap_or(name);
        self.0.iter().any(|pattern| {
            if pattern.as_str().contains('/') {
                ends().any(|end| pattern.matches(end))
            } else {
                pattern.matches(file)
            }
        })
    }
}

/// The samples of `whole` that `options` include and don't exclude.
///
/// # Errors
/// When none is left.
pub(super) fn select(whole: Arc<dyn Dataset>, options: &OpenOptions) -> Result<Arc<dyn Dataset>> {
    let OpenOptions { include, exclude, .. } = options;
    if include.is_empty() && exclude.is_empty() || whole.is_empty() {
        return Ok(whole);
    }
    let taken = |index: &usize| {
        let name = whole.name(*index);
        (include.is_empty() || include.matches(&name)) && !exclude.matches(&name)
    };
    let indices: Vec<usize> = (0..whole.len()).filter(taken).collect();
    if indices.is_empty() {
        return Err(Error::asked_wrongly(format!(
            "the patterns leave no sample of the {} in the {} split",
            whole.len(),
            whole.split()
        ))
        .hint(format!("names look like `{}`", whole.name(0))));
    }
    if indices.len() == whole.len() {
        return Ok(whole);
    }
    Ok(Arc::new(Subset::new(whole, indices)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;

    #[test]
    fn a_pattern_is_held_against_the_file_or_with_a_slash_against_the_path() {
        let of = |text: &str| Patterns::parse(text).unwrap();
        let name = "data/x.tar:recordings/0_anna_12.wav";
        for fits in ["*_anna_*", "0_*", "*_bob_*, *_anna_*", "recordings/*", "*/0_????_1[12].wav"] {
            assert!(of(fits).matches(name), "{fits}");
        }
        for other in ["anna", "recordings*", "ecordings/*", "*_anna_12", "0_anna_[34]*"] {
            assert!(!of(other).matches(name), "{other}");
        }
        assert!(of(" , ").is_empty() && !of("").matches(name));
        assert!(Patterns::parse("a[").unwrap_err().hint_text().is_some());
    }

    #[test]
    fn what_is_included_and_not_excluded_is_left_and_nothing_is_refused() {
        let patterns = |text: &str| Patterns::parse(text).unwrap();
        let open_with = |include: &str, exclude: &str| {
            let (include, exclude) = (patterns(include), patterns(exclude));
            open("shapes:32:100", &OpenOptions { include, exclude, ..Default::default() })
        };
        let some = open_with("1?", "*5").unwrap();
        let names: Vec<String> = (0..some.len()).map(|index| some.name(index)).collect();
        assert_eq!(names.len(), 9);
        assert!(names[0].ends_with(":10") && names[8].ends_with(":19"));
        let error = open_with("x*", "").unwrap_err();
        assert_eq!(error.hint_text(), Some("names look like `shapes:train:0`"));
    }
}
