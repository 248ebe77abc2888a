//! Part of another dataset: chosen indices, a seeded limit, a held-out share.

use std::sync::Arc;

use super::{Content, Dataset, Sample, Split};
use crate::Result;
use crate::random::Stream;

/// Some samples of another dataset, in a given order.
#[derive(Debug)]
pub struct Subset {
    whole: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The samples `indices` of `whole`; indices beyond its end are left out.
    pub fn new(whole: Arc<dyn Dataset>, mut indices: Vec<usize>) -> Self {
        indices.retain(|index| *index < whole.len());
        Self { whole, indices }
    }

    /// The first `limit` samples of a permutation drawn from `seed`.
    pub fn limit(whole: Arc<dyn Dataset>, limit: usize, seed: u64) -> Self {
        let mut indices = permuted(whole.len(), seed, "limit");
        indices.truncate(limit);
        Self { whole, indices }
    }

    /// Cuts `whole` into a rest and a held-out `share` (0 to 1), at random by `seed`.
    pub fn hold_out(whole: &Arc<dyn Dataset>, share: f64, seed: u64) -> (Self, Self) {
        let mut rest = permuted(whole.len(), seed, "hold-out");
        let kept = ((1.0 - share.clamp(0.0, 1.0)) * rest.len() as f64).round() as usize;
        let held = rest.split_off(kept);
        (Self { whole: Arc::clone(whole), indices: rest }, Self::new(Arc::clone(whole), held))
    }
}

fn permuted(len: usize, seed: u64, stream: &str) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..len).collect();
    Stream::new(seed, stream, 0, 0).shuffle(&mut indices);
    indices
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn content(&self) -> Content {
        self.whole.content()
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        self.whole.read(self.indices[index], sample)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.whole.label(self.indices[index])
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn name(&self, index: usize) -> String {
        self.whole.name(self.indices[index])
    }

    fn extent(&self, index: usize) -> Option<u64> {
        self.whole.extent(self.indices[index])
    }

    fn split(&self) -> Split {
        self.whole.split()
    }

    fn describe(&self) -> String {
        format!("{} of {}", self.indices.len(), self.whole.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, open};

    fn names(dataset: &dyn Dataset) -> Vec<String> {
        (0..dataset.len()).map(|index| dataset.name(index)).collect()
    }

    #[test]
    fn a_limit_is_the_same_for_the_same_seed_and_a_prefix_of_a_larger_one() {
        let whole = open("shapes", &OpenOptions::default()).unwrap();
        let take = |n, seed| names(&Subset::limit(Arc::clone(&whole), n, seed));
        assert_eq!(take(20, 1), take(20, 1));
        assert_eq!(take(20, 1), take(50, 1)[..20]);
        assert_ne!(take(20, 1), take(20, 2));
    }

    #[test]
    fn a_held_out_share_and_its_rest_are_the_whole() {
        let whole = open("shapes", &OpenOptions { limit: Some(50), ..Default::default() }).unwrap();
        let (rest, held) = Subset::hold_out(&whole, 0.2, 3);
        assert_eq!((rest.len(), held.len()), (40, 10));
        let mut both = [names(&rest), names(&held)].concat();
        both.sort();
        let mut all = names(whole.as_ref());
        all.sort();
        assert_eq!(both, all);
    }
}
