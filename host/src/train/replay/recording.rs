//! The recorded batches: found by name, checked against what the method asked for, put on the tape.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::names::Listed;
use super::refused;
use crate::config::Recipe;
use crate::engine::{Tape, Var};
use crate::error::did_you_mean;
use crate::plugin::ViewSource;
use crate::run::{NamedTensors, read_tensors};
use crate::{Error, Result};

/// A field that the method's views have: which view and copy it is of, and what its tensor must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) view: usize,
    pub(super) copy: usize,
    pub(super) name: String,
    pub(super) listed: Listed,
}

/// A file of recorded batches.
#[derive(Debug)]
pub(super) struct Recording {
    file: String,
    /// By step; one that serves every step where the names tell no steps apart.
    steps: Vec<BTreeMap<String, Tensor>>,
    /// Whether names start with `step.J.`.
    numbered: bool,
}

impl Recording {
    /// Reads the file: `VIEW.COPY.FIELD`, or `step.J.VIEW.COPY.FIELD` for several steps.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::new(path.display().to_string(), read_tensors(path)?)
    }

    fn new(file: String, tensors: NamedTensors) -> Result<Self> {
        let step_of = |name: &str| -> Option<(usize, String)> {
            let (number, rest) = name.strip_prefix("step.")?.split_once('.')?;
            Some((number.parse().ok()?, rest.to_owned()))
        };
        let numbered = tensors.iter().any(|(name, _)| step_of(name).is_some());
        let mut steps: BTreeMap<usize, BTreeMap<String, Tensor>> = BTreeMap::new();
        for (name, tensor) in tensors {
            let (number, name) = match (numbered, step_of(&name)) {
                (true, Some(found)) => found,
                (true, None) => {
                    let message = format!("`{file}` has steps, and `{name}` belongs to none");
                    return Err(refused(message, format!("call it `step.0.{name}`")));
                }
                (false, _) => (0, name),
            };
            steps.entry(number).or_default().insert(name, tensor);
        }
        if let Some(missing) = (0..steps.len()).find(|number| !steps.contains_key(number)) {
            let message = format!("`{file}` has no step {missing}");
            return Err(refused(message, "steps count from 0 without a gap".to_owned()));
        }
        if steps.is_empty() {
            let hint = "`pretext step METHOD --names` lists what belongs in it".to_owned();
            return Err(refused(format!("`{file}` holds no tensor"), hint));
        }
        Ok(Self { file, steps: steps.into_values().collect(), numbered })
    }

    /// How many steps are recorded.
    pub(super) fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    /// What the names of step `number` of `n` start with in the file that is written.
    pub(super) fn prefix(&self, number: u64, n: u64) -> String {
        if self.numbered || n > 1 { format!("step.{number}.") } else { String::new() }
    }

    /// `recipe` for these batches: learning rates that go by the batch go by the one recorded.
    pub(super) fn recipe(&self, recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        recipe.train.batch = self.samples().unwrap_or(recipe.train.batch);
        recipe.train.accumulate = 1;
        recipe
    }

    /// Samples of the first batch.
    fn samples(&self) -> Option<usize> {
        self.steps[0].values().find_map(|tensor| tensor.dims().first().copied())
    }

    /// How long the recorded vectors of `view` are.
    pub(super) fn dim(&self, view: &str) -> Result<usize> {
        let name = format!("{view}.0.values");
        match self.steps[0].get(&name).map(Tensor::dims) {
            Some(&[_, dim]) => Ok(dim),
            Some(dims) => Err(refused(
                format!("`{name}` in `{}` has shape {dims:?}", self.file),
                "vectors are `[B, D]`".to_owned(),
            )),
            None => Err(refused(
                format!("`{}` has no tensor `{name}`", self.file),
                format!("a batch of vectors needs it, `[B, D]` in f32; it has {}", self.has()),
            )),
        }
    }

    /// The names in the first batch.
    fn has(&self) -> String {
        let names: Vec<&str> = self.steps[0].keys().map(String::as_str).collect();
        format!("`{}`", names.join("`, `"))
    }

    /// The batch of step `number`, whose tensors must be those `expected`.
    pub(super) fn step(&self, number: u64, expected: &[Field]) -> Result<Recorded> {
        let tensors = match (self.steps.get(number as usize), self.numbered) {
            (Some(tensors), true) => tensors,
            (None, true) => {
                let (file, n) = (&self.file, self.steps.len());
                return Err(refused(
                    format!("`{file}` holds {n} steps, so no step {number}"),
                    format!("ask for `--steps {n}` or fewer"),
                ));
            }
            (_, false) => &self.steps[0],
        };
        let known = |name: &str| expected.iter().any(|field| field.listed.name == name);
        if let Some(name) = tensors.keys().find(|name| !known(name)) {
            let names = expected.iter().map(|field| field.listed.name.as_str());
            let hint = match did_you_mean(name, names) {
                Some(near) => format!("did you mean `{near}`? {}", needs(expected)),
                None => needs(expected),
            };
            let message = format!("`{}` has a tensor `{name}` that no view has", self.file);
            return Err(refused(message, hint));
        }
        let mut batch = None;
        let mut fields = Vec::with_capacity(expected.len());
        for field in expected {
            let name = &field.listed.name;
            let tensor = tensors.get(name).ok_or_else(|| {
                refused(format!("`{}` has no tensor `{name}`", self.file), needs(expected))
            })?;
            let fits = field.listed.fits(tensor.dims());
            let samples = *batch.get_or_insert_with(|| tensor.dims().first().copied().unwrap_or(0));
            if !fits || tensor.dims().first() != Some(&samples) {
                let (file, dims) = (&self.file, tensor.dims());
                let wanted = field.listed.shape_text();
                let message = format!("`{name}` in `{file}` has shape {dims:?}, not {wanted}");
                return Err(refused(message, needs(expected)));
            }
            fields.push((field.clone(), field.listed.converted(tensor, &self.file)?));
        }
        Ok(Recorded::new(fields, batch.unwrap_or(0)))
    }
}

/// Every tensor of a batch, in words.
fn needs(expected: &[Field]) -> String {
    let all: Vec<String> = expected.iter().map(|field| field.listed.to_string()).collect();
    format!("a batch is: {}", all.join(", "))
}

/// One batch, as the method's step finds its views in it: numbers are leaves of the tape, so that gradients
/// with respect to them arrive; places, masks and units are constants.
#[derive(Debug)]
pub(super) struct Recorded {
    fields: Vec<(Field, Tensor)>,
    vars: RefCell<Vec<Var>>,
    samples: usize,
}

impl Recorded {
    pub(super) fn new(fields: Vec<(Field, Tensor)>, samples: usize) -> Self {
        Self { fields, vars: RefCell::default(), samples }
    }

    /// Makes the fields leaves of `tape`, on its device.
    pub(super) fn put_on(&self, tape: &Tape) -> Result<()> {
        let var = |(_, tensor): &(Field, Tensor)| {
            let tensor = tensor.to_device(tape.device())?;
            Ok(if tensor.dtype() == DType::F32 { tape.leaf(tensor) } else { Var::constant(tensor) })
        };
        *self.vars.borrow_mut() = self.fields.iter().map(var).collect::<Result<_>>()?;
        Ok(())
    }

    /// The fields that are leaves, by name.
    pub(super) fn leaves(&self) -> Vec<(String, Var)> {
        let vars = self.vars.borrow();
        let named = self.fields.iter().zip(vars.iter());
        let leaves = named.filter(|(_, var)| var.tracked());
        leaves.map(|((field, _), var)| (field.listed.name.clone(), var.clone())).collect()
    }
}

impl ViewSource for Recorded {
    fn field(&self, view: usize, copy: usize, field: &str) -> Result<Var> {
        let at = self
            .fields
            .iter()
            .position(|(known, _)| known.view == view && known.copy == copy && known.name == field);
        at.and_then(|at| self.vars.borrow().get(at).cloned()).ok_or_else(|| {
            Error::failed(format!("the view has no field `{field}` in copy {copy}"))
                .hint("copies count from 0; `docs/abi.md` lists the fields of each kind of view")
        })
    }

    fn samples(&self) -> usize {
        self.samples
    }
}
