//! Between a method's views and the loader's: what was asked for, and the batch that arrived.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::data::batch::Batch;
use crate::data::dataset::Content;
use crate::data::field::{Form, Values};
use crate::data::transform::preprocess::Preprocess;
use crate::data::view::{Grid, View, ViewPlan};
use crate::engine::cuda::upload::upload;
use crate::engine::{Var, storage};
use crate::module::registry;
use crate::plugin::{AskedView, ViewSource};
use crate::{Error, Result};

/// The loader's plan for the views that a method asked for; masks cover the tokens that the backbone
/// `kind` with `options` makes of a view.
///
/// # Errors
/// When a view's kind or a setting is not offered, or there is no such backbone.
pub fn plan(
    asked: &[AskedView],
    kind: &str,
    options: &BTreeMap<String, toml::Value>,
) -> Result<ViewPlan> {
    let views = asked.iter().map(AskedView::request).collect::<Result<Vec<_>>>()?;
    for view in &views {
        view.resolve()?;
    }
    let tokens = registry::backbone_grid(kind, options)?;
    Ok(ViewPlan { views, grid: tokens.map(Grid::new).unwrap_or_default() })
}

/// Shape of one sample of the largest view that a backbone takes, if there is one: what its positions
/// are made for; and what that view does to every sample.
///
/// # Errors
/// As [`plan`], or when a view can't be made of data of `content`.
pub fn largest_input(
    plan: &ViewPlan,
    content: Content,
) -> Result<Option<(Vec<usize>, Preprocess)>> {
    let mut largest: Option<(Form, Preprocess)> = None;
    for request in &plan.views {
        if let View::Sample(view) = request.resolve()? {
            let form = view.forms(content, &request.name)?.into_iter().next();
            let form = form.map(|form| (form, view.preprocess()));
            largest = form.into_iter().chain(largest).max_by_key(|(form, _)| form.len());
        }
    }
    Ok(largest.map(|(form, preprocess)| (form.shape, preprocess)))
}

/// Views of `samples` samples with normal numbers in them, for timing and planning.
///
/// # Errors
/// As [`plan`], or when the plan doesn't fit data of `content`.
pub fn random_views(
    plan: &ViewPlan,
    content: Content,
    samples: usize,
    seed: u64,
) -> Result<BatchViews> {
    BatchViews::new(crate::data::rehearse(plan, content, samples, seed)?, plan)
}

/// The fields of one copy of a view, by name.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(String, Tensor)>);

impl Fields {
    /// A view's only field.
    pub fn one(name: &str, tensor: Tensor) -> Self {
        Self::default().with(name, tensor)
    }

    /// With one more field, `[B, ...]`.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.0.push((name.to_owned(), tensor));
        self
    }

    /// The field called `name`.
    fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    fn names(&self) -> String {
        self.0.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

/// A batch, as a method's step finds its views in it.
#[derive(Clone, Debug)]
pub struct BatchViews {
    /// By view and copy, in the order of the plan.
    views: Vec<Vec<Fields>>,
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
                let mut fields = Fields::default();
                for field in view.fields {
                    fields.0.push((field.name.to_owned(), tensor(field.values, field.shape)?));
                }
                copies.push(fields);
            }
            views.push(copies);
        }
        Ok(Self { views, samples })
    }

    /// The same views on `device`.
    ///
    /// # Errors
    /// When the device has no room for them.
    pub fn move_to(mut self, device: &Device) -> Result<Self> {
        for (_, tensor) in self.views.iter_mut().flatten().flat_map(|fields| &mut fields.0) {
            *tensor = upload(tensor, device)?;
        }
        Ok(self)
    }

    /// Views given as tensors, `[B, ...]` each, by view and copy: for recorded batches.
    pub fn recorded(views: Vec<Vec<Fields>>) -> Self {
        let mut fields = views.iter().flatten().flat_map(|fields| &fields.0);
        let samples = fields.next().map_or(0, |(_, tensor)| tensor.dims()[0]);
        Self { views, samples }
    }

    /// Every field with its view, copy and name.
    pub fn fields(&self) -> impl Iterator<Item = (usize, usize, &str, &Tensor)> {
        self.views.iter().enumerate().flat_map(|(view, copies)| {
            copies.iter().enumerate().flat_map(move |(copy, fields)| {
                fields.0.iter().map(move |(name, tensor)| (view, copy, name.as_str(), tensor))
            })
        })
    }
}

/// A tensor of a field's numbers, without a copy.
fn tensor(values: Values, shape: Vec<usize>) -> Result<Tensor> {
    match values {
        Values::F32(values) => storage::tensor(values, shape),
        Values::U32(values) => storage::tensor(values, shape),
        Values::U8(values) => storage::tensor(values, shape),
    }
}

impl ViewSource for BatchViews {
    fn field(&self, view: usize, copy: usize, field: &str) -> Result<Var> {
        let copies = self.views.get(view);
        let fields = copies.and_then(|copies| copies.get(copy)).ok_or_else(|| {
            let copies = copies.map_or(0, Vec::len);
            Error::failed(format!("the view has {copies} copies, so no copy {copy}"))
                .hint("copies count from 0")
        })?;
        let tensor = fields.get(field).ok_or_else(|| {
            Error::failed(format!("the view has no field `{field}`"))
                .hint(format!("it has {}", fields.names()))
        })?;
        Ok(Var::constant(tensor.clone()))
    }

    fn samples(&self) -> usize {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Loader, LoaderOptions, OpenOptions, ViewRequest, open};

    #[test]
    fn sample_index_gives_the_numbers_of_the_samples_of_the_batch() {
        let data = open("shapes", &OpenOptions { limit: Some(20), ..Default::default() }).unwrap();
        let crop = ViewRequest::new("crop", "crop", 1, 1).with("size", 8.0);
        let index = ViewRequest::new("index", "sample-index", 1, 2);
        let plan = ViewPlan::of(vec![crop, index]);
        let options = LoaderOptions { batch: 8, end: Some(1), ..Default::default() };
        let content = data.content();
        let batch = Loader::new(data, &plan, options).unwrap().next_batch().unwrap().unwrap();
        let expected: Vec<u32> = batch.indices.iter().map(|index| *index as u32).collect();
        let views = BatchViews::new(batch, &plan).unwrap();
        for copy in 0..2 {
            let values = views.field(1, copy, "values").unwrap();
            assert_eq!(values.value().to_vec1::<u32>().unwrap(), expected);
        }
        assert_eq!(views.field(0, 0, "pixels").unwrap().dims(), [8, 3, 8, 8]);
        for (view, copy, field) in [(0, 0, "values"), (1, 0, "pixels"), (1, 2, "values")] {
            assert!(views.field(view, copy, field).is_err(), "{field} {copy} of view {view}");
        }
        let error = views.field(0, 0, "values").unwrap_err();
        assert_eq!(error.hint_text(), Some("it has `pixels`"));
        let random = random_views(&plan, content, 3, 0).unwrap();
        let values = random.field(1, 1, "values").unwrap();
        assert_eq!(values.value().to_vec1::<u32>().unwrap(), [0, 1, 2]);
    }

    #[test]
    fn the_largest_view_says_what_a_backbone_is_built_for() {
        let crop = |name, size| ViewRequest::new(name, "crop", 1, 1).with("size", size);
        let plan = ViewPlan::of(vec![crop("a", 8.0), crop("b", 24.0), crop("c", 16.0)]);
        let (shape, _) = largest_input(&plan, Content::Images).unwrap().unwrap();
        assert_eq!(shape, [3, 24, 24]);
        assert!(largest_input(&plan, Content::Vectors { dim: 3 }).is_err());
        let index = ViewPlan::of(vec![ViewRequest::new("i", "sample-index", 1, 1)]);
        assert_eq!(largest_input(&index, Content::Images).unwrap(), None);
    }

    #[test]
    fn a_view_says_what_it_does_to_every_sample() {
        let crop = ViewRequest::new("crop", "crop", 1, 1).with("size", 8.0);
        let of = |request: ViewRequest, content| {
            largest_input(&ViewPlan::of(vec![request]), content).unwrap().unwrap().1
        };
        let images = |request| of(request, Content::Images);
        assert_eq!(images(crop.clone()), Preprocess::default());
        // What is drawn for some samples is not done to every one.
        assert!(!images(crop.clone().with("grayscale", 0.5)).grayscale);
        assert!(images(crop.clone().with("grayscale", 1.0)).grayscale);
        assert_eq!(images(crop.with("mean", 0.5)).mean, [0.5; 3]);
        let wave = ViewRequest::new("wave", "waveform", 1, 1).with("normalise", 1.0);
        assert!(of(wave, Content::Sounds { rate: 16_000 }).normalise);
    }
}
