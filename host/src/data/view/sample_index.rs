//! `sample-index@1`: which samples the batch holds.

use std::sync::Arc;

use super::kind::{BatchView, Drawing, View, ViewDef};
use crate::data::field::{Field, Values};
use crate::{Error, Result};

/// Field `values` u32 `[B]`, the same in every copy.
#[derive(Debug)]
struct SampleIndex;

impl BatchView for SampleIndex {
    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>> {
        let numbers = drawing.indices.iter().map(|index| u32::try_from(*index));
        let numbers = numbers.collect::<Result<Vec<_>, _>>().map_err(|_| {
            Error::failed("the data have more samples than `sample-index@1` can count, 2^32")
        })?;
        let shape = vec![numbers.len()];
        let field = Field { name: "values", shape, values: Values::U32(numbers) };
        Ok(vec![vec![field]; drawing.copies])
    }
}

inventory::submit! {
    ViewDef {
        name: "sample-index",
        revision: 1,
        settings: &[],
        resolve: |_| Ok(View::Batch(Arc::new(SampleIndex))),
    }
}
