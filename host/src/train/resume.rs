//! Going on with a run: what may change on the way, and where each change is written down.

use std::path::Path;

use toml::{Table, Value};

use super::event::{Event, Observer};
use super::prepare::{Opened, Prepared, check_place, prepare_training, restore, training_in};
use super::run::{Request, manifest};
use crate::config::Recipe;
use crate::run::{Checkpoint, Resumption, Run};
use crate::{Error, Result};

/// A run to go on with.
#[derive(Clone, Copy, Debug)]
pub struct Resume<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// Its recipe as it was before this time: what [`Request`] has may differ in some keys.
    pub before: &'a Recipe,
}

/// Sections and keys that make a run the one it is: its place, and what weights, moments, baselines and records of before
/// belong to.
const FIXED: [&str; 7] = ["method", "seed", "run", "runs", "init", "backbone", "train.optimizer"];

impl Resume<'_> {
    /// Refuses to go on with `recipe` where it would be another run.
    ///
    /// # Errors
    /// When a key differs that can't change in a run that has begun.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let changes = changes(&self.before.to_table()?, &recipe.to_table()?);
        refuse_fixed(&changes, self.folder)
    }

    /// Takes the run's folder, refuses what its checkpoint doesn't fit, and writes down what changes.
    pub(super) fn open(
        &self,
        request: &Request<'_>,
        opened: &Opened,
        prepared: &Prepared,
        observer: &mut dyn Observer,
    ) -> Result<(Run, Option<Checkpoint>)> {
        let (recipe, path) = (&request.recipe, self.folder);
        let changes = changes(&self.before.to_table()?, &recipe.to_table()?);
        let (folder, found) = Run::resume(path)?;
        found.warnings.into_iter().for_each(|warning| observer.event(Event::Warning(warning)));
        let checkpoint = found.newest.map(|(_, checkpoint)| checkpoint);
        let done = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        if let Some(checkpoint) = &checkpoint {
            check_length(path, done, prepared.run_steps())?;
            check_place(prepared, checkpoint)?;
            if !changes.is_empty() {
                check_fit(request, opened, checkpoint, path)?;
            }
        }
        for change in &changes {
            observer.event(Event::Note(format!("from here on {}", change.text())));
        }
        // A record only: a run whose manifest was lost goes on all the same.
        let steps = prepared.run_steps();
        let mut manifest = Run::read_manifest(path).unwrap_or_else(|error| {
            observer.event(Event::Warning(format!("{}: a new one is written", error.message())));
            manifest(request, steps)
        });
        manifest.steps = steps;
        manifest.resumed.push(Resumption {
            at: crate::run::utc(std::time::SystemTime::now()),
            from_step: done,
            threads: rayon::current_num_threads(),
            plugin_sha256: request.plugin.sha256.clone(),
            changed: changes.iter().map(Change::text).collect(),
        });
        // The record first: a change that was not made is a smaller lie than one that nobody knows of.
        folder.write_manifest(&manifest)?;
        if !changes.is_empty() {
            folder.write_recipe(&recipe.to_table()?)?;
        }
        Ok((folder, checkpoint))
    }
}

/// A key that has another value from here on.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    /// The key with its section.
    path: String,
    /// None where the recipe had no such key.
    was: Option<Value>,
    /// None where it has none now.
    now: Option<Value>,
}

impl Change {
    fn text(&self) -> String {
        let text = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| "unset".to_owned(), Value::to_string)
        };
        format!("{} = {} (was {})", self.path, text(&self.now), text(&self.was))
    }

    /// Whether a run's weights or records hang on the key.
    fn is_fixed(&self) -> bool {
        let section = self.path.split('.').next().unwrap_or_default();
        FIXED.contains(&section) || FIXED.contains(&self.path.as_str())
    }
}

/// The keys in which two recipes differ.
fn changes(before: &Table, now: &Table) -> Vec<Change> {
    let flat = |table: &Table| -> Vec<(String, Value)> {
        let mut keys = Vec::new();
        for (name, value) in table {
            match value {
                Value::Table(section) => keys.extend(
                    section.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())),
                ),
                value => keys.push((name.clone(), value.clone())),
            }
        }
        keys
    };
    let (before, now) = (flat(before), flat(now));
    let find = |keys: &[(String, Value)], path: &str| {
        keys.iter().find(|(name, _)| name == path).map(|(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(path, _)| find(&now, path).is_none());
    let all = now.iter().chain(gone).map(|(path, _)| Change {
        path: path.clone(),
        was: find(&before, path),
        now: find(&now, path),
    });
    all.filter(|change| change.was != change.now).collect()
}

/// Refuses another method than the run's: asked first, or the run's own keys would be refused as unknown to that method.
///
/// # Errors
/// When `now` is not what it `was`.
pub fn check_method(was: &str, now: &str, run: &Path) -> Result<()> {
    let [was, now] = [was, now].map(|name| Some(Value::from(name)));
    if was == now {
        return Ok(());
    }
    refuse_fixed(&[Change { path: "method".to_owned(), was, now }], run)
}

fn refuse_fixed(changes: &[Change], run: &Path) -> Result<()> {
    let Some(change) = changes.iter().find(|change| change.is_fixed()) else { return Ok(()) };
    Err(Error::asked_wrongly(format!(
        "`{}` can't change in a run that has begun: {}",
        change.path,
        change.text()
    ))
    .hint(as_it_was(run)))
}

/// What is left to whoever asked for another run than the one in `run`.
fn as_it_was(run: &Path) -> String {
    let run = run.display();
    format!("go on as it was with `pretext train --resume {run}`, or start another run")
}

/// Refuses to go on with a run that has gone further than it is to go.
fn check_length(run: &Path, done: u64, steps: u64) -> Result<()> {
    if done <= steps {
        return Ok(());
    }
    let run = run.display();
    Err(Error::asked_wrongly(format!("`{run}` has done {done} steps, not {steps}"))
        .hint(format!("ask for more, such as `pretext train --resume {run} steps={}`", 2 * done)))
}

/// Refuses changes that the checkpoint's weights don't fit, before they are written down.
fn check_fit(
    request: &Request<'_>,
    opened: &Opened,
    checkpoint: &Checkpoint,
    run: &Path,
) -> Result<()> {
    let training = training_in(checkpoint);
    let mut there = prepare_training(&request.recipe, request.plugin, opened, training)?;
    restore(&mut there.trainer, checkpoint.clone()).map_err(|error| {
        Error::asked_wrongly("what is changed would be another network than the run's")
            .because(error)
            .hint(as_it_was(run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn changes_are_named_by_section_and_key_with_both_values() {
        let before = table("seed = 1\n[train]\nlr = 0.1\nbatch = 8\n[options]\nold = 1");
        let now = table("seed = 1\n[train]\nlr = 0.2\nbatch = 8\n[options]\nnew = 'x'");
        let texts: Vec<String> = changes(&before, &now).iter().map(Change::text).collect();
        let want = [
            "train.lr = 0.2 (was 0.1)",
            "options.new = \"x\" (was unset)",
            "options.old = unset (was 1)",
        ];
        assert_eq!(texts.len(), want.len());
        assert!(want.iter().all(|want| texts.iter().any(|text| text == want)), "{texts:?}");
        assert_eq!(changes(&before, &before), []);
    }

    #[test]
    fn a_run_keeps_its_method() {
        let error = check_method("a", "b", Path::new("runs/it")).unwrap_err();
        assert_eq!(
            error.message(),
            "`method` can't change in a run that has begun: method = \"b\" (was \"a\")"
        );
        assert!(check_method("a", "a", Path::new("runs/it")).is_ok());
    }

    #[test]
    fn a_run_keeps_its_seed_and_its_backbone_but_not_its_rate() {
        let change = |old: &str, new: &str| {
            refuse_fixed(&changes(&table(old), &table(new)), Path::new("runs/it"))
        };
        let error = change("seed = 0", "seed = 3").unwrap_err();
        assert_eq!(
            error.message(),
            "`seed` can't change in a run that has begun: seed = 3 (was 0)"
        );
        assert_eq!(error.exit_code(), 2);
        assert!(change("[backbone]\nwidth = 64", "[backbone]\nwidth = 96").is_err());
        let (sgd, adamw) = ("[train]\noptimizer = 'sgd'", "[train]\noptimizer = 'adamw'");
        assert!(change(sgd, adamw).is_err(), "its moments would be taken for another rule's");
        assert!(change("[train]\nlr = 0.1", "[train]\nlr = 0.2").is_ok());
    }
}
