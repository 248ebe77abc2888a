//! In which order samples are seen: every epoch a permutation drawn from (seed, epoch), cut into batches.

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
}

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
        Ok(Self { len, batch, seed, shuffle, drop_last })
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
        order
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
