//! In which order samples are seen: every epoch a permutation drawn from (seed, epoch), cut into batches, if
//! asked for with samples of about one length in each.

use crate::random::Stream;
use crate::{Error, Result};

/// The order of samples over all epochs. A step's samples depend on nothing but the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    len: usize,
    batch: usize,
    seed: u64,
    shuffle: bool,
    drop_last: bool,
    /// How long each sample is.
    extents: Option<Vec<u64>>,
}

/// Batches' worth of samples that are put in order of length at a time: enough to make lengths alike, few enough
/// that a sample meets others in every epoch.
const SORTED: usize = 50;

impl Sampler {
    /// Batches of `batch` out of `len` samples. `drop_last` leaves out a last batch that isn't full;
    /// without `shuffle` every epoch has the dataset's own order.
    ///
    /// # Errors
    /// When `batch` is 0, or no batch can be filled.
    pub fn new(
        len: usize,
        batch: usize,
        seed: u64,
        shuffle: bool,
        drop_last: bool,
    ) -> Result<Self> {
        if batch == 0 {
            return Err(Error::asked_wrongly("`batch` is 0").hint("batch=64"));
        }
        if len == 0 {
            return Err(Error::asked_wrongly("the data holds no sample"));
        }
        if drop_last && len < batch {
            return Err(Error::asked_wrongly(format!(
                "the data has {len} samples, fewer than the batch of {batch}"
            ))
            .hint(format!("batch={len}")));
        }
        Ok(Self { len, batch, seed, shuffle, drop_last, extents: None })
    }

    /// With samples of about one length in each batch, by the `extents` of all of them, if they are known.
    /// The order of the batches stays random.
    #[must_use]
    pub fn by_extent(self, extents: Option<Vec<u64>>) -> Self {
        Self { extents: extents.filter(|extents| extents.len() == self.len), ..self }
    }

    /// How many batches an epoch has.
    pub fn steps_per_epoch(&self) -> u64 {
        let steps =
            if self.drop_last { self.len / self.batch } else { self.len.div_ceil(self.batch) };
        steps as u64
    }

    /// Epoch and batch inside it of a step.
    pub fn position(&self, step: u64) -> (u64, u64) {
        let steps = self.steps_per_epoch();
        (step / steps, step % steps)
    }

    /// How many samples batch `batch` of an epoch has.
    pub fn size(&self, batch: u64) -> usize {
        self.batch.min(self.len.saturating_sub(batch as usize * self.batch))
    }

    /// The order of all samples in `epoch`.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        if self.shuffle {
            Stream::new(self.seed, "epoch", epoch, 0).shuffle(&mut order);
        }
        match &self.extents {
            Some(extents) => self.alike(order, extents, epoch),
            None => order,
        }
    }

    /// `order` with the samples of each full batch of about one length. What doesn't fill a batch stays where the
    /// permutation put it, so that no length is left out more often.
    fn alike(&self, mut order: Vec<usize>, extents: &[u64], epoch: u64) -> Vec<usize> {
        let rest = order.split_off(self.len / self.batch * self.batch);
        for window in order.chunks_mut(self.batch * SORTED) {
            window.sort_by_key(|index| extents[*index]);
        }
        let mut batches: Vec<&[usize]> = order.chunks(self.batch).collect();
        Stream::new(self.seed, "batches", epoch, 0).shuffle(&mut batches);
        batches.into_iter().flatten().copied().chain(rest).collect()
    }

    /// The samples of batch `batch` in an epoch's `order`.
    pub fn batch<'a>(&self, order: &'a [usize], batch: u64) -> &'a [usize] {
        let start = (batch as usize * self.batch).min(order.len());
        &order[start..start + self.size(batch)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_sample_once_in_its_own_order() {
        let sampler = Sampler::new(10, 3, 7, true, false).unwrap();
        assert_eq!((sampler.steps_per_epoch(), sampler.position(5)), (4, (1, 1)));
        let order = sampler.order(0);
        let mut seen: Vec<usize> = (0..4).flat_map(|b| sampler.batch(&order, b).to_vec()).collect();
        assert_eq!(sampler.batch(&order, 3).len(), 1);
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_eq!(order, Sampler::new(10, 5, 7, true, true).unwrap().order(0));
        assert_ne!(order, sampler.order(1));
        assert_ne!(order, Sampler::new(10, 3, 8, true, false).unwrap().order(0));
    }

    #[test]
    fn samples_of_a_batch_are_of_about_one_length_and_batches_in_random_order() {
        let extents: Vec<u64> = (0..1003).map(|index| index * 7919 % 1009).collect();
        let plain = Sampler::new(1003, 10, 7, true, false).unwrap();
        let sampler = plain.clone().by_extent(Some(extents.clone()));
        let order = sampler.order(0);
        let mut seen = order.clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..1003).collect::<Vec<_>>());
        assert_eq!(order[1000..], plain.order(0)[1000..]);
        let widest = |order: &[usize]| {
            let of = |batch: &[usize]| {
                let lengths = || batch.iter().map(|index| extents[*index]);
                lengths().max().unwrap() - lengths().min().unwrap()
            };
            order[..1000].chunks(10).map(of).max().unwrap()
        };
        assert!(widest(&order) < 60 && widest(&plain.order(0)) > 500);
        let firsts: Vec<u64> = order[..1000].chunks(10).map(|batch| extents[batch[0]]).collect();
        assert!(!firsts[..50].is_sorted());
        assert_eq!(order, sampler.order(0));
        assert_ne!(order, sampler.order(1));
    }

    #[test]
    fn dropping_the_last_batch_keeps_only_full_ones() {
        let sampler = Sampler::new(10, 4, 0, false, true).unwrap();
        assert_eq!((sampler.steps_per_epoch(), sampler.position(2)), (2, (1, 0)));
        assert_eq!(sampler.batch(&sampler.order(3), 1), [4, 5, 6, 7]);
    }

    #[test]
    fn a_batch_larger_than_the_data_is_refused_with_one_that_fits() {
        let error = Sampler::new(40, 64, 0, true, true).unwrap_err();
        assert_eq!(error.message(), "the data has 40 samples, fewer than the batch of 64");
        assert_eq!(error.hint_text(), Some("batch=40"));
        assert!(Sampler::new(40, 0, 0, true, true).is_err());
        assert_eq!(Sampler::new(40, 64, 0, true, false).unwrap().steps_per_epoch(), 1);
    }
}
