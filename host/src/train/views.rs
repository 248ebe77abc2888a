//! Between a method's views and the loader's: what was asked for, and the batch that arrived.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::data::batch::Batch;
use crate::data::dataset::Content;
use crate::data::view::{Value, View, ViewPlan, ViewRequest};
use crate::engine::{Var, storage};
use crate::plugin::{AskedView, Setting, ViewSource};
use crate::random::Stream;
use crate::state::Init;
use crate::{Error, Result};

/// The loader's plan for the views that a method asked for.
///
/// # Errors
/// When a view's kind or a setting is not offered.
pub fn plan(asked: &[AskedView]) -> Result<ViewPlan> {
    let views = asked.iter().map(request).collect::<Result<Vec<_>>>()?;
    for view in &views {
        view.resolve()?;
    }
    Ok(ViewPlan { views })
}

fn request(asked: &AskedView) -> Result<ViewRequest> {
    let refuse = || {
        Error::failed(format!("`{}` is no kind of view with a revision", asked.kind))
            .hint("write it like `crop@1`")
    };
    let (kind, revision) = asked.kind.split_once('@').ok_or_else(refuse)?;
    let revision = revision.parse().map_err(|_| refuse())?;
    let mut params = BTreeMap::new();
    for (key, setting) in &asked.settings {
        let value = match setting {
            Setting::Int(value) => Value::Number(*value as f64),
            Setting::Float(value) => Value::Number(*value),
            Setting::Floats(values) => Value::List(values.clone()),
            Setting::Ints(values) => Value::List(values.iter().map(|v| *v as f64).collect()),
            other => {
                return Err(Error::failed(format!(
                    "view `{}` can't take {other:?} as `{key}`",
                    asked.name
                )));
            }
        };
        params.insert(key.clone(), value);
    }
    let (name, kind) = (asked.name.clone(), kind.to_owned());
    Ok(ViewRequest { name, kind, revision, count: asked.copies, params })
}

/// Side of the largest crop, if there is one: what a backbone's positions are made for.
///
/// # Errors
/// As [`plan`].
pub fn largest_crop(plan: &ViewPlan) -> Result<Option<usize>> {
    let mut largest = None;
    for view in &plan.views {
        if let View::Crop(crop) = view.resolve()? {
            largest = largest.max(Some(crop.size));
        }
    }
    Ok(largest)
}

/// Views of `samples` samples with normal numbers in them, for timing and planning.
///
/// # Errors
/// As [`plan`].
pub fn random_views(
    plan: &ViewPlan,
    content: Content,
    samples: usize,
    seed: u64,
) -> Result<BatchViews> {
    let mut stream = Stream::new(seed, "random-views", 0, 0);
    let mut views = Vec::with_capacity(plan.views.len());
    for request in &plan.views {
        let mut shape = vec![samples];
        shape.extend(request.resolve()?.shape(content));
        let normal = Init::Normal { std: 1.0 };
        let copies = (0..request.count).map(|_| normal.tensor(&shape, &mut stream));
        views.push(copies.collect::<Result<Vec<_>>>()?);
    }
    Ok(BatchViews::recorded(views))
}

/// A batch, as a method's step finds its views in it.
#[derive(Clone, Debug)]
pub struct BatchViews {
    /// By view and copy, in the order of the plan.
    views: Vec<Vec<Tensor>>,
    samples: usize,
}

impl BatchViews {
    /// The views of `batch`, whose buffers become tensors.
    ///
    /// # Errors
    /// When the batch lacks a view of `plan`.
    pub fn new(mut batch: Batch, plan: &ViewPlan) -> Result<Self> {
        let samples = batch.len();
        let mut arrived = std::mem::take(&mut batch.views).into_iter();
        let mut views = Vec::with_capacity(plan.views.len());
        for request in &plan.views {
            let mut copies = Vec::with_capacity(request.count);
            for _ in 0..request.count {
                let view = arrived
                    .next()
                    .filter(|view| view.name == request.name)
                    .ok_or_else(|| Error::failed(format!("a batch lacks `{}`", request.name)))?;
                copies.push(storage::tensor(view.data, view.shape)?);
            }
            views.push(copies);
        }
        Ok(Self { views, samples })
    }

    /// Views given as tensors, `[B, ...]` each, by view and copy: for recorded batches.
    pub fn recorded(views: Vec<Vec<Tensor>>) -> Self {
        let samples = views.iter().flatten().next().map_or(0, |view| view.dims()[0]);
        Self { views, samples }
    }
}

impl ViewSource for BatchViews {
    fn field(&self, view: usize, copy: usize, field: &str) -> Result<Var> {
        if !matches!(field, "pixels" | "values") {
            return Err(Error::failed(format!("a view has no field `{field}`"))
                .hint("a crop has `pixels`, a vector has `values`"));
        }
        self.views
            .get(view)
            .and_then(|copies| copies.get(copy))
            .map(|tensor| Var::constant(tensor.clone()))
            .ok_or_else(|| Error::failed(format!("view {view} has no copy {copy}")))
    }

    fn samples(&self) -> usize {
        self.samples
    }
}
