//! Embeddings of past batches, which make an assignment of a small batch fair (section 5.2 of the paper).

use pretext_plugin_api::{Buffer, Builder, Init, Options, Result, Step, Tensor, no_grad};

use crate::ASSIGNED;
use crate::head::Prototypes;

/// A queue for each assigned crop.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `[L, D]` each, the newest rows first.
    rows: [Buffer; ASSIGNED],
    /// L.
    length: usize,
    /// Epochs before the first rows are put in.
    start_epoch: u64,
}

impl Queue {
    /// Queues of embeddings of width `dim`, if the options ask for them.
    pub(crate) fn declare(
        options: Options,
        host: &mut Builder,
        dim: usize,
    ) -> Result<Option<Self>> {
        let length = options.size("queue_length")?;
        if length == 0 {
            return Ok(None);
        }
        let mut rows = |name| host.buffer(name, &[length, dim], Init::Constant(0.0));
        Ok(Some(Self {
            rows: [rows("queue_0")?, rows("queue_1")?],
            length,
            start_epoch: options.int("queue_start_epoch")?.cast_unsigned(),
        }))
    }

    /// Batches put in before this step; none before the queue starts.
    fn batches(&self, step: &Step) -> Result<Option<u64>> {
        let start = self.start_epoch * step.steps_per_epoch()?;
        Ok(step.number()?.checked_sub(start))
    }

    /// Scores `[L, K]` of the rows of queue `crop` by the present prototypes. None until its last row has been
    /// filled: the authors ask whether that row is still 0.
    pub(crate) fn scores(
        &self,
        crop: usize,
        prototypes: Option<Prototypes>,
        step: &Step,
    ) -> Result<Option<Tensor>> {
        let filled = self.batches(step)?.unwrap_or(0) * step.batch()? as u64;
        if filled < self.length as u64 {
            return Ok(None);
        }
        Ok(Some(no_grad(|| {
            let rows = self.rows[crop].tensor();
            prototypes.map_or(rows, |prototypes| prototypes.scores(rows))
        })))
    }

    /// Puts this batch's embeddings `[B, D]` in, where the queue has started.
    pub(crate) fn push(&self, crop: usize, embedded: Tensor, step: &Step) -> Result<()> {
        if self.batches(step)?.is_none() {
            return Ok(());
        }
        let rows = self.rows[crop];
        rows.set(no_grad(|| rows.tensor().queue_push(embedded)))
    }
}
