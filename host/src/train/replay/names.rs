//! Which tensors a replay reads and writes: from what the method declares, nothing written by hand.

use std::fmt;

use candle_core::{DType, Tensor};

use super::recording::{Field, Recorded, Recording};
use super::{refused, take};
use crate::config::Recipe;
use crate::data::dataset::Content;
use crate::data::view::ViewPlan;
use crate::engine::storage;
use crate::plugin::Found;
use crate::schedule::Progress;
use crate::train::absent::prepare_without_data;
use crate::train::prepare::{Opened, Prepared};
use crate::train::views::random_views;
use crate::{Error, Result};

/// The file that a tensor stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The recorded batch: fields of views.
    Batch,
    /// The weights to start from: parameters and buffers.
    Weights,
    /// What a step makes.
    Out,
}

impl Place {
    /// The word for it: the option that names the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Weights => "weights",
            Self::Out => "out",
        }
    }
}

/// One tensor of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Where it stands.
    pub place: Place,
    /// Its name there.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its sizes; where one is none the recording decides.
    pub sizes: Vec<Option<usize>>,
}

impl fmt::Display for Listed {
    /// Name, type and shape.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} {}", self.name, self.dtype.as_str(), self.shape_text())
    }
}

impl Listed {
    /// A tensor of fixed sizes.
    fn fixed(place: Place, name: &str, tensor: &Tensor) -> Self {
        let sizes = tensor.dims().iter().map(|size| Some(*size)).collect();
        Self { place, name: name.to_owned(), dtype: tensor.dtype(), sizes }
    }

    /// A field of a view: the batch is the recording's, and so is the length of places, masks and units, and
    /// that of waveforms, which are `[B, T]` as vectors are.
    fn of_view(place: Place, name: String, tensor: &Tensor, content: Content) -> Self {
        let vectors = matches!(content, Content::Vectors { .. });
        let free = tensor.dtype() != DType::F32 || tensor.rank() == 2 && !vectors;
        let sizes = tensor.dims().iter().enumerate();
        let sizes = sizes.map(|(i, size)| (i > 0 && !free).then_some(*size)).collect();
        Self { place, name, dtype: tensor.dtype(), sizes }
    }

    /// The shape in words: `[B, 3, 32, 32]`; `*` is any size.
    pub fn shape_text(&self) -> String {
        let size = |(i, size): (usize, &Option<usize>)| match (i, size) {
            (_, Some(size)) => size.to_string(),
            (0, None) => "B".to_owned(),
            (_, None) => "*".to_owned(),
        };
        let sizes: Vec<String> = self.sizes.iter().enumerate().map(size).collect();
        format!("[{}]", sizes.join(", "))
    }

    /// Whether a tensor of these sizes can be it.
    pub(super) fn fits(&self, dims: &[usize]) -> bool {
        dims.len() == self.sizes.len()
            && dims.iter().zip(&self.sizes).all(|(dim, size)| size.is_none_or(|size| size == *dim))
    }

    /// `tensor` of `file` in this type: reals become f32, whole numbers of any width u32 or u8.
    pub(super) fn converted(&self, tensor: &Tensor, file: &str) -> Result<Tensor> {
        let (from, to) = (tensor.dtype(), self.dtype);
        let real = |dtype: DType| dtype.is_float();
        let fits = real(from) == real(to)
            && (real(to)
                || storage::to_f64(tensor)?.iter().all(|x| *x >= 0.0 && *x <= largest(to)));
        if fits {
            return Ok(tensor.to_dtype(to)?.contiguous()?);
        }
        let message = format!(
            "`{}` in `{file}` is {}, which can't be {}",
            self.name,
            from.as_str(),
            to.as_str()
        );
        Err(refused(message, format!("store {self}")))
    }
}

/// The largest whole number that `dtype` holds.
fn largest(dtype: DType) -> f64 {
    if dtype == DType::U8 { f64::from(u8::MAX) } else { f64::from(u32::MAX) }
}

/// Samples of the batch that stands for any.
const SOME: usize = 2;

/// Every tensor of a replay of `recipe`: those of the recorded batch, of the weights, and those that a step
/// makes, which is taken once on random views to know. Vectors are as long as those of `recording`, or of
/// the recipe's data where none is given.
///
/// # Errors
/// When the recipe can't be built, or the step fails.
pub fn names(
    recipe: &Recipe,
    plugin: &Found,
    recording: Option<&std::path::Path>,
) -> Result<Vec<Listed>> {
    let recording = recording.map(Recording::open).transpose()?;
    let mut recipe = recipe.clone();
    recipe.train.accumulate = 1;
    let prepared = prepare_without_data(&recipe, plugin, (1, 0), |view| match &recording {
        Some(recording) => recording.dim(view),
        None => match Opened::new(&recipe)?.data.content() {
            Content::Vectors { dim } => Ok(dim),
            _ => Err(refused(
                format!("the view `{view}` needs vectors, and the recipe's data are none"),
                "name some with `data=PATH`, or a recorded batch with `--batch FILE`".to_owned(),
            )),
        },
    })?;
    let Prepared { mut session, mut trainer, plan, data, .. } = prepared;
    let (fields, views) = random(&plan, data.content())?;
    let mut all: Vec<Listed> = fields.iter().map(|field| field.listed.clone()).collect();
    let state = &trainer.state;
    let parameters = state.parameters().iter().map(|p| (&p.name, &p.value));
    let weights = parameters.chain(state.buffers().iter().map(|b| (&b.name, &b.value)));
    all.extend(weights.map(|(name, value)| Listed::fixed(Place::Weights, name, value)));
    let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 1 };
    let (_, made) = take(&mut session, &mut trainer, at, &views)?;
    let of_view = |name: &str| {
        let field = name.strip_prefix("gradient.")?;
        fields.iter().find(|known| known.listed.name == field)
    };
    all.extend(made.iter().map(|(name, tensor)| match of_view(name) {
        Some(_) => Listed::of_view(Place::Out, name.clone(), tensor, data.content()),
        None => Listed::fixed(Place::Out, name, tensor),
    }));
    Ok(all)
}

/// The fields of the views in `plan`.
pub(super) fn fields(plan: &ViewPlan, content: Content) -> Result<Vec<Field>> {
    Ok(random(plan, content)?.0)
}

/// The fields of the views in `plan`, and a batch with anything in them.
fn random(plan: &ViewPlan, content: Content) -> Result<(Vec<Field>, Recorded)> {
    let views = random_views(plan, content, SOME, 0)?;
    let mut fields = Vec::new();
    for (view, copy, field, tensor) in views.fields() {
        let request = plan.views.get(view).ok_or_else(|| Error::failed("a view has no name"))?;
        let name = format!("{}.{copy}.{field}", request.name);
        let listed = Listed::of_view(Place::Batch, name, tensor, content);
        fields.push((Field { view, copy, name: field.to_owned(), listed }, tensor.clone()));
    }
    let listed = fields.iter().map(|(field, _)| field.clone()).collect();
    Ok((listed, Recorded::new(fields, SOME)))
}
