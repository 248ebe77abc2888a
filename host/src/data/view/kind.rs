//! What a kind of view is: either made of each sample by itself, or drawn for a whole batch.

use std::fmt;
use std::sync::Arc;

use super::request::Grid;
use super::settings::Settings;
use crate::data::batch::{Trace, ViewBatch};
use crate::data::dataset::{Content, Dataset, Sample};
use crate::data::field::{Field, Form, Values};
use crate::data::sound::spectrogram::Pictures;
use crate::data::transform::preprocess::Preprocess;
use crate::data::transform::{blur::Blur, resize::Resample};
use crate::data::units::Units;
use crate::random::Stream;
use crate::{Error, Result};

/// A kind of view.
#[derive(Debug)]
pub struct ViewDef {
    /// Its name, such as `crop`.
    pub name: &'static str,
    /// Its revision, from 1.
    pub revision: u32,
    /// The settings that it has; any other is refused.
    pub settings: &'static [&'static str],
    /// Checks the settings.
    pub resolve: fn(&Settings<'_>) -> Result<View>,
}

inventory::collect!(ViewDef);

impl ViewDef {
    /// Every kind, ordered by name and revision.
    pub fn all() -> Vec<&'static Self> {
        let mut all: Vec<&Self> = inventory::iter::<Self>.into_iter().collect();
        all.sort_by_key(|def| (def.name, def.revision));
        all
    }
}

/// A checked view.
#[derive(Clone, Debug)]
pub enum View {
    /// Made of each sample by itself, by the workers.
    Sample(Arc<dyn SampleView>),
    /// Drawn for the whole batch, when its samples are there.
    Batch(Arc<dyn BatchView>),
}

/// The samples of a batch that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Where they are read.
    pub dataset: &'a dyn Dataset,
    /// Their indices.
    pub indices: &'a [usize],
}

/// Buffers of one worker: nothing is allocated per sample once they have grown.
#[derive(Debug, Default)]
pub struct Tools {
    /// Resized pictures.
    pub pixels: Vec<u8>,
    /// Resizes them.
    pub resample: Resample,
    /// Blurs them.
    pub blur: Blur,
    /// Spectrograms of the sample, if it is a sound.
    pub pictures: Pictures,
}

/// A view that is made of each sample by itself. What it draws comes from the stream that it is given,
/// which depends on (seed, epoch, index of the sample, view, copy).
pub trait SampleView: fmt::Debug + Send + Sync {
    /// The fields of one sample, at their largest; the first is what a backbone takes.
    ///
    /// # Errors
    /// When the view can't be made of such data; `name` is what the method calls the view.
    fn forms(&self, content: Content, name: &str) -> Result<Vec<Form>>;

    /// The fields of one sample of the batch `asked`, where they differ between batches. `largest` is
    /// what [`SampleView::forms`] said.
    fn forms_of(&self, asked: &Asked<'_>, largest: &[Form]) -> Vec<Form> {
        let _ = asked;
        largest.to_vec()
    }

    /// Makes the fields of one sample, in the order and size of the forms.
    ///
    /// # Errors
    /// When the sample is of another content, or a transform fails.
    fn make(
        &self,
        sample: &Sample,
        stream: &mut Stream,
        tools: &mut Tools,
        fields: &mut [Values],
    ) -> Result<Trace>;

    /// What it does to every sample alike.
    fn preprocess(&self) -> Preprocess {
        Preprocess::default()
    }

    /// Puts the last hand to the view when all samples of the batch are made, before the views of the whole
    /// batch are drawn: sounds may be cut to one length.
    ///
    /// # Errors
    /// When the batch doesn't allow it.
    fn finish(&self, view: &mut ViewBatch, drawing: &Drawing<'_>) -> Result<()> {
        let _ = (view, drawing);
        Ok(())
    }

    /// Whether its size follows the length of the samples, so that batches of about one length are cheaper.
    fn follows_length(&self) -> bool {
        false
    }

    /// Writes numbers for a sample that isn't there, for timing and planning: normal ones into fields of
    /// f32, zeros into others.
    fn rehearse(&self, stream: &mut Stream, fields: &mut [Values]) {
        for field in fields {
            match field {
                Values::F32(values) => values.fill_with(|| stream.normal() as f32),
                Values::U32(values) => values.fill(0),
                Values::U8(values) => values.fill(0),
            }
        }
    }
}

/// A view that is drawn for the whole batch, when the views of its samples are there: masks, whose rows
/// are cut to one length, and what is looked up by sample.
pub trait BatchView: fmt::Debug + Send + Sync {
    /// The name of the view whose tokens it masks or describes, or an empty name for the only one there
    /// is; none where it has to do with no other view.
    fn of(&self) -> Option<&str> {
        None
    }

    /// Checks the settings against the largest grid of tokens that it can meet.
    ///
    /// # Errors
    /// When it can't be drawn on such a grid.
    fn check(&self, grid: &[usize]) -> Result<()> {
        let _ = grid;
        Ok(())
    }

    /// Draws the fields of every copy.
    ///
    /// # Errors
    /// When the batch doesn't allow it.
    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>>;
}

/// Values so many that a frame more or less at their end changes nothing.
const LONG: usize = 1 << 40;

/// What a [`BatchView`] draws from.
#[derive(Clone, Copy, Debug)]
pub struct Drawing<'a> {
    /// What the method calls the view.
    pub name: &'a str,
    /// How many copies it asks for.
    pub copies: usize,
    /// The run's seed.
    pub seed: u64,
    /// The batch's epoch.
    pub epoch: u64,
    /// The batch's number since the start of the run.
    pub step: u64,
    /// The samples that were asked for, `[B]`.
    pub indices: &'a [usize],
    /// The samples that were read: where one is broken, the one in its place.
    pub sources: &'a [usize],
    /// The view that [`BatchView::of`] names, in its first copy.
    pub masked: Option<&'a ViewBatch>,
    /// What the network makes of it.
    pub grid: &'a Grid,
    /// What stages have found.
    pub units: &'a Units,
}

impl Drawing<'_> {
    /// Draws of the batch: they depend on (seed, batch, view).
    pub fn batch_stream(&self) -> Stream {
        Stream::new(self.seed, &format!("batch:{}", self.name), self.step, 0)
    }

    /// Draws of the sample at `place`: they depend on (seed, epoch, index of the sample, view, copy).
    pub fn sample_stream(&self, copy: usize, place: usize) -> Stream {
        let name = format!("view:{}:{copy}", self.name);
        Stream::new(self.seed, &name, draw_key(self.epoch, self.indices[place]), 0)
    }

    /// The view that this one masks.
    ///
    /// # Errors
    /// When there is none.
    pub fn masked(&self) -> Result<&ViewBatch> {
        self.masked
            .ok_or_else(|| Error::failed(format!("the view `{}` has nothing to mask", self.name)))
    }

    /// The tokens of the masked view in this batch.
    ///
    /// # Errors
    /// When it can't be cut into tokens.
    pub fn tokens(&self) -> Result<Vec<usize>> {
        let first = self.masked()?.fields.first();
        self.grid.tokens(first.map_or(&[], |field| &field.shape[1..]))
    }

    /// How many frames the network makes of a sound of `length` values, and how many values lie between the
    /// begins of two.
    ///
    /// # Errors
    /// When it can't be cut into frames.
    pub fn frames(&self, length: usize) -> Result<(usize, f64)> {
        let count =
            |length: usize| -> Result<usize> { Ok(self.grid.tokens(&[length])?.iter().product()) };
        let (frames, many) = (count(length)?, count(length + LONG)?);
        Ok((frames, LONG as f64 / many.saturating_sub(frames).max(1) as f64))
    }

    /// How many samples.
    pub fn samples(&self) -> usize {
        self.indices.len()
    }
}

/// The step of a sample's stream: 40 bits for the sample leave 24 for the epoch.
pub(in crate::data) fn draw_key(epoch: u64, index: usize) -> u64 {
    epoch << 40 | index as u64
}
