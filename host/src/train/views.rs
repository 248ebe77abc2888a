//! Between a method's views and the loader's: what was asked for, and the batch that arrived.

use candle_core::Tensor;

use crate::data::batch::Batch;
use crate::data::dataset::Content;
use crate::data::view::{View, ViewPlan};
use crate::engine::{Var, storage};
use crate::plugin::{AskedView, ViewSource};
use crate::random::Stream;
use crate::state::Init;
use crate::{Error, Result};

/// The loader's plan for the views that a method asked for.
///
/// # Errors
/// When a view's kind or a setting is not offered.
pub fn plan(asked: &[AskedView]) -> Result<ViewPlan> {
    let views = asked.iter().map(AskedView::request).collect::<Result<Vec<_>>>()?;
    for view in &views {
        view.resolve()?;
    }
    Ok(ViewPlan { views })
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
        let view = request.resolve()?;
        if matches!(view, View::SampleIndex) {
            let numbers: Vec<usize> = (0..samples).collect();
            views.push(vec![indices(&numbers)?; request.count]);
            continue;
        }
        let mut shape = vec![samples];
        shape.extend(view.shape(content));
        let normal = Init::Normal { std: 1.0 };
        let copies = (0..request.count).map(|_| normal.tensor(&shape, &mut stream));
        views.push(copies.collect::<Result<Vec<_>>>()?);
    }
    Ok(BatchViews::recorded(views))
}

/// Numbers of samples, as `sample-index@1` gives them: u32 `[B]`.
fn indices(samples: &[usize]) -> Result<Tensor> {
    let numbers = samples.iter().map(|index| u32::try_from(*index)).collect::<Result<Vec<_>, _>>();
    let numbers = numbers.map_err(|_| {
        Error::failed("the data have more samples than `sample-index@1` can count, 2^32")
    })?;
    storage::tensor(numbers, samples.len())
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
            let index = matches!(request.resolve()?, View::SampleIndex);
            let mut copies = Vec::with_capacity(request.count);
            for _ in 0..request.count {
                let view = arrived
                    .next()
                    .filter(|view| view.name == request.name)
                    .ok_or_else(|| Error::failed(format!("a batch lacks `{}`", request.name)))?;
                copies.push(if index {
                    indices(&batch.indices)?
                } else {
                    storage::tensor(view.data, view.shape)?
                });
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
        let copies = self.views.get(view);
        let tensor = copies.and_then(|copies| copies.get(copy)).ok_or_else(|| {
            let copies = copies.map_or(0, Vec::len);
            Error::failed(format!("the view has {copies} copies, so no copy {copy}"))
                .hint("copies count from 0")
        })?;
        // Pictures are `[B, C, H, W]`; vectors and numbers of samples have less.
        let has = if tensor.rank() == 4 { "pixels" } else { "values" };
        if field != has {
            return Err(Error::failed(format!("the view has no field `{field}`"))
                .hint(format!("it has `{has}`")));
        }
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
        let plan = ViewPlan { views: vec![crop, index] };
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
        let random = random_views(&plan, content, 3, 0).unwrap();
        let values = random.field(1, 1, "values").unwrap();
        assert_eq!(values.value().to_vec1::<u32>().unwrap(), [0, 1, 2]);
    }
}
