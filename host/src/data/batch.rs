//! What arrives for a step: every view of every sample, and which samples they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::field::{Element, Field, Form, Values};

/// Keeps buffers of delivered batches for the next ones, so that memory is asked for once.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Vec<f32>>>);

impl Pool {
    /// A field of `samples` samples, with anything in it.
    pub(super) fn field(&self, form: &Form, samples: usize) -> Field {
        let len = samples * form.len();
        let mut values = match form.element {
            Element::F32 => Values::F32(self.take(len)),
            other => Values::empty(other),
        };
        values.resize(len);
        let shape = std::iter::once(samples).chain(form.shape.iter().copied()).collect();
        Field { name: form.name, shape, values }
    }

    fn take(&self, len: usize) -> Vec<f32> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = kept.iter().position(|buffer| buffer.capacity() >= len && len > 0);
        fitting.map(|at| kept.swap_remove(at)).unwrap_or_default()
    }

    fn give(&self, buffer: Vec<f32>) {
        /// More than any plan's views in flight; only a guard against growing without end.
        const MOST: usize = 256;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() > 0 && kept.len() < MOST {
            kept.push(buffer);
        }
    }
}

/// What is known of one sample's view besides its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trace {
    /// Left, top, width and height of a crop as shares of its picture; zeros for other kinds.
    pub part: [f32; 4],
    /// Whether a crop was flipped.
    pub flipped: bool,
    /// Where in the sample the view begins, in the sample's own steps: the first sample of a sound.
    pub start: usize,
}

/// One copy of one view, for all samples of a batch.
#[derive(Clone, Debug, Default)]
pub struct ViewBatch {
    /// The name in the plan.
    pub name: String,
    /// Which copy, from 0 to the view's count.
    pub copy: usize,
    /// Its fields.
    pub fields: Vec<Field>,
    /// One per sample; empty for views that are drawn for the batch.
    pub traces: Vec<Trace>,
}

impl ViewBatch {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// A sample that couldn't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenSample {
    /// Its index in the dataset.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A batch. Buffers that are still in it when it is dropped are used again.
#[derive(Debug)]
pub struct Batch {
    /// Step since the start of the run, from 0.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// One entry per copy of each view, in the order of the plan.
    pub views: Vec<ViewBatch>,
    /// The sample's index in the dataset, `[B]`. Where a broken sample was replaced it is the broken one's.
    pub indices: Vec<usize>,
    /// The classes `[B]`, only if the loader was asked for them.
    pub labels: Option<Vec<Option<u32>>>,
    /// Samples of this batch that couldn't be read.
    pub broken: Vec<BrokenSample>,
    /// How long the caller waited for this batch.
    pub wait: Duration,
    pub(super) pool: Arc<Pool>,
}

impl Batch {
    /// How many samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// All copies of the view called `name`.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ViewBatch> {
        self.views.iter().filter(move |view| view.name == name)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for field in self.views.iter_mut().flat_map(|view| &mut view.fields) {
            if let Values::F32(values) = &mut field.values {
                self.pool.give(std::mem::take(values));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_batch_gives_its_buffers_back() {
        let pool = Arc::new(Pool::default());
        let form = Form::f32("values", &[5]);
        let field = pool.field(&form, 2);
        let address = field.values.f32().as_ptr();
        let view = ViewBatch { name: "v".to_owned(), fields: vec![field], ..Default::default() };
        drop(Batch {
            step: 0,
            epoch: 0,
            views: vec![view],
            indices: Vec::new(),
            labels: None,
            broken: Vec::new(),
            wait: Duration::ZERO,
            pool: Arc::clone(&pool),
        });
        let again = pool.field(&Form::f32("values", &[4]), 2);
        assert_eq!((again.values.f32().as_ptr(), again.values.len()), (address, 8));
        let other = pool.field(&form, 2);
        assert_ne!(other.values.f32().as_ptr(), address);
    }
}
