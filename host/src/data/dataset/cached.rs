//! Keeps decoded samples in memory, for data small enough that decoding it again every epoch is waste.

use std::sync::{Arc, OnceLock};

use super::{Content, Dataset, Sample, Split};
use crate::Result;

/// A dataset whose samples are decoded once.
#[derive(Debug)]
pub struct Cached {
    whole: Arc<dyn Dataset>,
    samples: Vec<OnceLock<Sample>>,
}

/// How many samples are read to guess the size of all.
const PROBED: usize = 16;

/// `dataset` with its samples kept in memory if they take at most `bytes` in all, judged by a few of
/// them; `dataset` itself otherwise. Vectors are in memory already.
pub fn if_it_fits(dataset: Arc<dyn Dataset>, bytes: usize) -> Arc<dyn Dataset> {
    let len = dataset.len();
    if bytes == 0 || len == 0 || matches!(dataset.content(), Content::Vectors { .. }) {
        return dataset;
    }
    let step = len.div_ceil(PROBED);
    let largest = (0..len)
        .step_by(step)
        .filter_map(|index| match dataset.sample(index) {
            Ok(Sample::Image(image)) => Some(image.pixels.len()),
            Ok(Sample::Sound(sound)) => Some(size_of_val(sound.wave.as_slice())),
            _ => None,
        })
        .max();
    match largest {
        Some(largest) if largest.saturating_mul(len) <= bytes => Arc::new(Cached::new(dataset)),
        _ => dataset,
    }
}

impl Cached {
    /// Keeps every sample of `whole` once it was read.
    pub fn new(whole: Arc<dyn Dataset>) -> Self {
        let samples = (0..whole.len()).map(|_| OnceLock::new()).collect();
        Self { whole, samples }
    }
}

impl Dataset for Cached {
    fn len(&self) -> usize {
        self.whole.len()
    }

    fn content(&self) -> Content {
        self.whole.content()
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        if let Some(kept) = self.samples[index].get() {
            copy(kept, sample);
            return Ok(());
        }
        self.whole.read(index, sample)?;
        // Two threads may have read it at once; either copy will do.
        drop(self.samples[index].set(sample.clone()));
        Ok(())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.whole.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn name(&self, index: usize) -> String {
        self.whole.name(index)
    }

    fn extent(&self, index: usize) -> Option<u64> {
        self.whole.extent(index)
    }

    fn split(&self) -> Split {
        self.whole.split()
    }

    fn describe(&self) -> String {
        format!("{}, kept in memory", self.whole.describe())
    }
}

fn copy(kept: &Sample, sample: &mut Sample) {
    match kept {
        Sample::Image(kept) => {
            let image = sample.image_mut();
            image.width = kept.width;
            image.height = kept.height;
            image.pixels.clone_from(&kept.pixels);
        }
        Sample::Vector(kept) => sample.vector_mut().clone_from(kept),
        Sample::Sound(kept) => {
            let sound = sample.sound_mut();
            sound.rate = kept.rate;
            sound.wave.clone_from(&kept.wave);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, open};

    #[test]
    fn a_kept_sample_is_the_sample_and_large_data_is_not_kept() {
        let options = OpenOptions { limit: Some(5), ..Default::default() };
        let plain = open("shapes", &options).unwrap();
        let kept = if_it_fits(Arc::clone(&plain), 5 * 32 * 32 * 3);
        assert!(kept.describe().ends_with("kept in memory"));
        for _ in 0..2 {
            assert_eq!(kept.sample(3).unwrap(), plain.sample(3).unwrap());
        }
        let not = if_it_fits(plain, 5 * 32 * 32 * 3 - 1);
        assert!(!not.describe().ends_with("kept in memory"));
    }
}
