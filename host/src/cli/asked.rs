//! From words to a checked recipe and its plugin: what `train`, `probe`, `report` and `time` share.

use std::path::Path;

use super::plugin::Places;
use crate::config::{Draft, MethodTable, Recipe};
use crate::module::registry::backbone_options;
use crate::plugin::{Catalogue, Found};
use crate::run::Run;
use crate::train::resume;
use crate::{Error, Result};

/// A checked recipe and the plugin that has its method.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) recipe: Recipe,
    pub(super) plugin: Found,
}

impl Asked {
    /// A method's name or a recipe's path, and `key=value` words.
    ///
    /// # Errors
    /// When the method isn't found, or a key or value is wrong.
    pub(super) fn target(target: &str, words: &[String], places: &Places) -> Result<Self> {
        Self::resolve(&Draft::open(target, words)?, &places.catalogue()?)
    }

    /// The recipe of the run in `folder`, with `key=value` words on top.
    ///
    /// # Errors
    /// As [`target`](Self::target), or when the folder is no run.
    pub(super) fn run(folder: &Path, words: &[String], places: &Places) -> Result<Self> {
        Self::resolve(&draft_of_run(folder, words)?, &places.catalogue()?)
    }

    /// The same, beside the recipe without the words.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) fn changed(
        folder: &Path,
        words: &[String],
        places: &Places,
    ) -> Result<(Self, Recipe)> {
        let catalogue = places.catalogue()?;
        let own = draft_of_run(folder, &[])?;
        if words.is_empty() {
            let asked = Self::resolve(&own, &catalogue)?;
            let before = asked.recipe.clone();
            return Ok((asked, before));
        }
        let draft = draft_of_run(folder, words)?;
        resume::check_method(own.method(), draft.method(), folder)?;
        Ok((Self::resolve(&draft, &catalogue)?, Self::resolve(&own, &catalogue)?.recipe))
    }

    fn resolve(draft: &Draft, catalogue: &Catalogue) -> Result<Self> {
        let (plugin, method) = catalogue.method(draft.method())?;
        let name = draft.own_recipe();
        let recipe = match method.recipe(name) {
            Some(text) => text,
            None if name == "default" => "",
            None => {
                let known: Vec<&str> =
                    method.recipes.iter().map(|(name, _)| name.as_str()).collect();
                return Err(Error::asked_wrongly(format!(
                    "the method `{}` has no recipe `{name}`",
                    method.name
                ))
                .hint(format!("it has `{}`", known.join("`, `"))));
            }
        };
        let table = MethodTable { recipe, options: &method.options };
        let recipe = draft.resolve(&table, &backbone_options)?;
        Ok(Self { recipe, plugin: plugin.clone() })
    }

    /// Gives the engine as many threads as the recipe says, or as many as there are processors. The calling thread is
    /// one of them: a step is hundreds of short pieces of work, and one that handed each of them over and slept until it
    /// is done would be woken as often. Nothing that this thread waits for may need the engine's threads, since with one
    /// of them it is that one; the loader's own don't.
    ///
    /// # Errors
    /// When the engine has its threads already, or they can't be started.
    pub(super) fn take_threads(&self) -> Result<()> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.recipe.threads)
            .use_current_thread()
            .build_global()
            .map_err(|error| Error::failed("can't set the number of threads").because(error))
    }
}

/// The recipe of the run in `folder`, not yet checked, with `key=value` words on top.
fn draft_of_run(folder: &Path, words: &[String]) -> Result<Draft> {
    if !folder.join("recipe.toml").is_file() {
        return Err(Error::asked_wrongly(format!("`{}` is not a run", folder.display()))
            .hint("`pretext runs` lists those there are"));
    }
    let title = format!("recipe `{}`", folder.join("recipe.toml").display());
    Draft::from_table(&title, Run::read_recipe(folder)?, words)
}
