//! What arrives for a step: every view of every sample, and which samples they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Keeps buffers of delivered batches for the next ones, so that memory is asked for once.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Vec<f32>>>);

impl Pool {
    /// A buffer of `len` numbers, with anything in it.
    pub(super) fn take(&self, len: usize) -> Vec<f32> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = kept.iter().position(|buffer| buffer.capacity() >= len && len > 0);
        let mut buffer = fitting.map(|at| kept.swap_remove(at)).unwrap_or_default();
        drop(kept);
        buffer.resize(len, 0.0);
        buffer
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

/// One copy of one view, for all samples of a batch.
#[derive(Debug)]
pub struct ViewBatch {
    /// The name in the plan.
    pub name: String,
    /// Which copy, from 0 to the view's count.
    pub copy: usize,
    /// `[B, 3, H, W]` for crops, `[B, D]` for vectors, `[B]` for `sample-index`.
    pub shape: Vec<usize>,
    /// The values, contiguous; may be taken out. Empty for `sample-index`, whose values are [`Batch::indices`].
    pub data: Vec<f32>,
    /// Left, top, width and height of each crop as shares of its picture; empty for other kinds.
    pub boxes: Vec<[f32; 4]>,
    /// Whether each crop was flipped; empty for other kinds.
    pub flips: Vec<bool>,
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
        for view in &mut self.views {
            self.pool.give(std::mem::take(&mut view.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_batch_gives_its_buffers_back() {
        let pool = Arc::new(Pool::default());
        let data = pool.take(10);
        let address = data.as_ptr();
        let view = ViewBatch {
            name: "v".to_owned(),
            copy: 0,
            shape: vec![10],
            data,
            boxes: Vec::new(),
            flips: Vec::new(),
        };
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
        let again = pool.take(8);
        assert_eq!((again.as_ptr(), again.len()), (address, 8));
        let other = pool.take(10);
        assert_ne!(other.as_ptr(), address);
    }
}
