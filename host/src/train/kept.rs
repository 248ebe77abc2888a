//! What a run was made for: its backbone, written for other programs.

use std::path::Path;
use std::rc::Rc;

use super::absent::prepare_without_data;
use super::again::newest;
use super::prepare::{Prepared, restore, training_in};
use super::start::tensors_below;
use crate::config::Recipe;
use crate::module::Module;
use crate::plugin::Found;
use crate::run::{NamedTensors, check_place};
use crate::weights::{self, Sizes, Tensors};
use crate::{Error, Result};

/// Whose weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Those that gradients moved.
    Student,
    /// Those that followed by average.
    Teacher,
}

impl Network {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Student => "student",
            Self::Teacher => "teacher",
        }
    }
}

/// A run, and which of its networks is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The run's folder.
    pub folder: &'a Path,
    /// Its recipe, maybe with other keys on top.
    pub recipe: &'a Recipe,
    /// The plugin that holds its method.
    pub plugin: &'a Found,
    /// Whose weights; without it the teacher's, or the student's where there is no teacher.
    pub network: Option<Network>,
}

/// Steps of an epoch where nothing is trained: enough for every training of any course.
const MANY: u64 = 1000;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whose weights they are.
    pub network: Network,
    /// Steps done.
    pub step: u64,
    /// How many tensors.
    pub tensors: usize,
    /// One line for each damaged checkpoint that was passed over.
    pub warnings: Vec<String>,
}

impl Kept<'_> {
    /// The network asked for, and its backbone.
    pub(super) fn backbone(&self, prepared: &Prepared) -> Result<(Network, Rc<dyn Module>)> {
        let session = &prepared.session;
        let (teacher, student) = (session.teacher_backbone(), session.backbone());
        let found = match self.network {
            Some(Network::Student) => student.map(|module| (Network::Student, module)),
            Some(Network::Teacher) => teacher.map(|module| (Network::Teacher, module)),
            None => teacher
                .map(|module| (Network::Teacher, module))
                .or(student.map(|module| (Network::Student, module))),
        };
        found.ok_or_else(|| {
            let asked = self.network.unwrap_or(Network::Student).word();
            Error::asked_wrongly(format!(
                "the method `{}` has no {asked} with a backbone",
                self.recipe.method
            ))
            .hint("ask for `--which student`")
        })
    }

    /// Writes the backbone to `out` as `format` has it.
    ///
    /// # Errors
    /// When the run has no checkpoint or no such network, the format can't hold its backbone, or the file has no
    /// folder.
    pub fn export(&self, format: &str, out: &Path) -> Result<Written> {
        let kind = &self.recipe.backbone.kind;
        let dialect = weights::dialect(format, kind)?;
        if !dialect.is_some_and(weights::Dialect::is_folder) {
            check_place(out)?;
        } else if out.is_file() {
            let message =
                format!("`{}` is a file, and `{format}` is written as a folder", out.display());
            return Err(Error::asked_wrongly(message)
                .hint(format!("name a folder, such as `--out {}-{format}`", out.display())));
        }
        let (checkpoint, warnings) = newest(self.folder)?;
        let step = checkpoint.step;
        let mut prepared = prepare_without_data(
            self.recipe,
            self.plugin,
            (MANY, training_in(&checkpoint)),
            |_| Ok(1),
        )?;
        let (network, module) = self.backbone(&prepared)?;
        if module.parameters().is_empty() {
            return Err(Error::asked_wrongly(format!("the backbone `{kind}` has no weights"))
                .hint("train one that has, such as `backbone=vit`"));
        }
        restore(&mut prepared.trainer, checkpoint)?;
        let state = &prepared.trainer.state;
        let facts = |name: &str| module.fact(name);
        let sizes = Sizes { facts: &facts, options: &self.recipe.backbone.options };
        let prefix = prepared.session.backbone_prefix(state, network == Network::Teacher);
        let tensors: Tensors = tensors_below(state, &prefix).into_iter().collect();
        let tensors = weights::export((format, kind), tensors, &sizes, out)?;
        Ok(Written { network, step, tensors, warnings })
    }

    /// Everything of one network, head and all, by the names that a run gives below `student.` or
    /// `teacher.`.
    ///
    /// # Errors
    /// When the run has no checkpoint or no such network, or the file has no folder or can't be written.
    pub fn export_whole(&self, out: &Path) -> Result<Written> {
        check_place(out)?;
        let (checkpoint, warnings) = newest(self.folder)?;
        let below = |network: Network| -> NamedTensors {
            let prefix = format!("{}.", network.word());
            let parameters = checkpoint.parameters.iter();
            let named = parameters.filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?, t)));
            named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
        };
        let choices = match self.network {
            Some(network) => vec![network],
            None => vec![Network::Teacher, Network::Student],
        };
        let found = choices.into_iter().map(|network| (network, below(network)));
        let Some((network, tensors)) = found.into_iter().find(|(_, found)| !found.is_empty())
        else {
            return Err(Error::asked_wrongly(format!(
                "`{}` has no weights of a {}",
                self.folder.display(),
                self.network.unwrap_or(Network::Student).word()
            ))
            .hint("ask for `--which student`"));
        };
        crate::run::write_tensors(out, &tensors)?;
        Ok(Written { network, step: checkpoint.step, tensors: tensors.len(), warnings })
    }
}
