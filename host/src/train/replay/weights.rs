//! Weights to start a replay from, under the names that the run itself gives them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::refused;
use crate::Result;
use crate::error::did_you_mean;
use crate::run::read_tensors;
use crate::state::{BufferId, ParamId};
use crate::train::step::Trainer;

/// How many missing names an error says.
const SAID: usize = 6;

/// Puts the tensors of the file at `path` into parameters and buffers. A file without any tensor of a
/// teacher leaves it equal to its student, as at the start of a run; a buffer that is left out starts as
/// the method declared it. Returns what was left out, in a line each.
pub(super) fn load(trainer: &mut Trainer, path: &Path, method: &str) -> Result<Vec<String>> {
    let file = path.display().to_string();
    let mut given: BTreeMap<String, Tensor> = read_tensors(path)?.into_iter().collect();
    let followers: Vec<ParamId> =
        trainer.averages.iter().flat_map(|average| &average.pairs).map(|pair| pair.1).collect();
    let state = &mut trainer.state;
    let names: Vec<String> = state.parameters().iter().map(|p| p.name.clone()).collect();
    let taught = followers.iter().any(|id| given.contains_key(&names[id.0]));
    let mut missing = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let id = ParamId(index);
        match given.remove(name) {
            Some(tensor) => {
                fits(name, &tensor, state.get(id).value.dims(), &file)?;
                state.assign(id, &tensor)?;
            }
            None if followers.contains(&id) && !taught => {}
            None => missing.push(name.as_str()),
        }
    }
    let mut notes = Vec::new();
    for index in 0..state.buffers().len() {
        let (name, value) = (state.buffers()[index].name.clone(), &state.buffers()[index].value);
        match given.remove(&name) {
            Some(tensor) => {
                fits(&name, &tensor, value.dims(), &file)?;
                let value = tensor.to_dtype(value.dtype())?.contiguous()?;
                state.set_buffer(BufferId(index), value)?;
            }
            None => notes.push(format!("`{file}` has no `{name}`: it starts as declared")),
        }
    }
    let hint = format!("`pretext step {method} --names` lists the weights, with their shapes");
    if !missing.is_empty() {
        let (n, some) = (missing.len(), missing[..missing.len().min(SAID)].join("`, `"));
        let more = if n > SAID { format!(" and {} more", n - SAID) } else { String::new() };
        return Err(refused(format!("`{file}` lacks `{some}`{more}"), hint));
    }
    if let Some(name) = given.keys().next() {
        let buffers: Vec<&str> = state.buffers().iter().map(|b| b.name.as_str()).collect();
        let known = names.iter().map(String::as_str).chain(buffers);
        let hint = match did_you_mean(name, known) {
            Some(near) => format!("did you mean `{near}`? {hint}"),
            None => hint,
        };
        return Err(refused(format!("`{file}` has a tensor `{name}` that nothing takes"), hint));
    }
    if !taught && !followers.is_empty() {
        trainer.averages.iter().try_for_each(|average| average.reset(&trainer.state))?;
        notes.push(format!("`{file}` has no teacher: it starts equal to the student"));
    }
    Ok(notes)
}

/// Refuses a tensor of another shape, or of whole numbers.
fn fits(name: &str, tensor: &Tensor, wanted: &[usize], file: &str) -> Result<()> {
    let dims = tensor.dims();
    if dims != wanted {
        let message = format!("`{name}` in `{file}` has shape {dims:?}, not {wanted:?}");
        return Err(refused(message, "give the recipe the sizes of these weights".to_owned()));
    }
    if !tensor.dtype().is_float() {
        let message = format!("`{name}` in `{file}` is {}", tensor.dtype().as_str());
        return Err(refused(message, "store real numbers, best f32".to_owned()));
    }
    Ok(())
}
