//! Queries, keys and values: one tensor here, three elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::Tensors;
use crate::Result;

/// How many.
const THREE: usize = 3;

/// Thirds of tensors, on their way to be whole.
#[derive(Debug, Default)]
pub(super) struct Thirds(BTreeMap<(String, usize), Tensor>);

impl Thirds {
    /// Third number `third` (queries, keys, values) of the tensor called `whole`.
    pub(super) fn take(&mut self, whole: String, third: usize, tensor: Tensor) {
        self.0.insert((whole, third), tensor);
    }

    /// Puts those of which all three are there into `tensors`, one below the other.
    pub(super) fn finish(self, tensors: &mut Tensors) -> Result<()> {
        let names: BTreeSet<&String> = self.0.keys().map(|(name, _)| name).collect();
        for name in names {
            let thirds = (0..THREE).filter_map(|third| self.0.get(&(name.clone(), third)));
            let thirds: Vec<&Tensor> = thirds.collect();
            if thirds.len() == THREE {
                tensors.insert(name.clone(), Tensor::cat(&thirds, 0)?);
            }
        }
        Ok(())
    }
}

/// Queries, keys and values of `whole`, `[3 D, ...]`.
pub(super) fn apart(whole: &Tensor) -> Result<[Tensor; THREE]> {
    let width = whole.dims().first().copied().unwrap_or(0) / THREE;
    let third = |third: usize| whole.narrow(0, third * width, width)?.contiguous();
    Ok([third(0)?, third(1)?, third(2)?])
}
