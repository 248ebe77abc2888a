//! Where a run starts from: the recipe's `init`, weights of another program or run in its backbone.

use std::path::Path;

use candle_core::Tensor;

use super::step::Trainer;
use crate::config::Recipe;
use crate::plugin::Session;
use crate::run::NamedTensors;
use crate::state::{BufferId, State};
use crate::weights::{Expected, fit, read};
use crate::{Error, Result};

/// Weights that fit a backbone; none where the recipe names none.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// What the names of the student's backbone, and of the teacher's if there is one, start with.
    prefixes: Vec<String>,
    tensors: NamedTensors,
    notes: Vec<String>,
}

impl Start {
    /// Reads the weights at the recipe's `init` for the student's backbone, and changes nothing.
    ///
    /// # Errors
    /// When they can't be read, or are not those of such a backbone.
    pub(super) fn read(recipe: &Recipe, session: &Session, trainer: &Trainer) -> Result<Self> {
        if recipe.init.is_empty() {
            return Ok(Self::default());
        }
        let kind = &recipe.backbone.kind;
        let mut prefixes: Vec<String> =
            [false, true].map(|teacher| session.backbone_prefix(&trainer.state, teacher)).into();
        prefixes.retain(|prefix| !prefix.is_empty());
        let Some(student) = prefixes.first() else {
            return Err(Error::asked_wrongly(format!("the backbone `{kind}` has no weights"))
                .hint("leave out `init`, or take one that has, such as `backbone=vit`"));
        };
        let backbone = session.backbone();
        let fact = |name| backbone.as_ref().and_then(|b| b.fact(name)).unwrap_or(0) as usize;
        let expected = Expected {
            kind,
            tensors: tensors_below(&trainer.state, student),
            grid: [fact("rows"), fact("cols")],
        };
        let (tensors, mut notes) = fit(read(Path::new(&recipe.init))?, &expected)?;
        let n = tensors.len();
        notes.push(format!("the backbone starts from {n} tensors of `{}`", recipe.init));
        Ok(Self { prefixes, tensors, notes })
    }

    /// Puts the weights into the student and its teacher. Returns what there is to say, in a line each.
    pub(super) fn apply(self, trainer: &mut Trainer) -> Result<Vec<String>> {
        let state = &mut trainer.state;
        for prefix in &self.prefixes {
            for (name, tensor) in &self.tensors {
                put(state, &format!("{prefix}{name}"), tensor)?;
            }
        }
        trainer.averages.iter().try_for_each(|average| average.reset(&trainer.state))?;
        Ok(self.notes)
    }
}

/// Parameters and buffers whose names start with `prefix`, by the rest of their names.
pub(super) fn tensors_below(state: &State, prefix: &str) -> NamedTensors {
    let parameters = state.parameters().iter().map(|p| (&p.name, &p.value));
    let all = parameters.chain(state.buffers().iter().map(|b| (&b.name, &b.value)));
    all.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
        .collect()
}

/// Writes `value` over the parameter or buffer called `name`.
fn put(state: &mut State, name: &str, value: &Tensor) -> Result<()> {
    if let Some(id) = state.find(name) {
        return state.assign(id, value);
    }
    match state.buffers().iter().position(|buffer| buffer.name == name) {
        Some(index) => state.set_buffer(BufferId(index), value.clone()),
        None => Err(Error::failed(format!("there is no tensor `{name}`"))),
    }
}
