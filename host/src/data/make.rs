//! Makes views: a plan checked against the data (`Slots`), the views of one sample (`Maker`), and those
//! that are drawn for the whole batch.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Pool, Trace, ViewBatch};
use super::dataset::{Content, Dataset, Sample};
use super::field::{Form, Values};
use super::view::{Asked, BatchView, Drawing, Grid, SampleView, Tools, View, ViewPlan};
use super::{BrokenSample, units::Units, view::draw_key};
use crate::random::Stream;
use crate::{Error, Result};

/// One copy of a view that is made of each sample.
#[derive(Debug)]
struct SampleSlot {
    view: Arc<dyn SampleView>,
    /// Its fields at their largest.
    forms: Vec<Form>,
    /// Place among the entries of a batch.
    entry: usize,
    /// Name of its stream, `view:NAME:COPY`.
    stream: String,
}

/// All copies of a view that is drawn for the batch.
#[derive(Debug)]
struct BatchSlot {
    view: Arc<dyn BatchView>,
    name: String,
    copies: usize,
    /// Place of its first copy among the entries of a batch.
    entry: usize,
    /// Place of the view that it masks.
    masked: Option<usize>,
}

/// A plan checked against the data: what a batch has, in order.
#[derive(Debug)]
pub(super) struct Slots {
    samples: Vec<SampleSlot>,
    batches: Vec<BatchSlot>,
    /// Name and copy of each entry of a batch.
    entries: Vec<(String, usize)>,
    grid: Grid,
}

/// A batch, as far as draws depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn<'a> {
    pub seed: u64,
    pub epoch: u64,
    pub step: u64,
    /// The samples that were asked for.
    pub indices: &'a [usize],
    /// The samples that were read.
    pub sources: &'a [usize],
    /// What stages have found.
    pub units: &'a Units,
}

impl<'a> Drawn<'a> {
    /// What `copies` of the view `name`, which masks no other, draw from.
    fn drawing(self, name: &'a str, copies: usize, grid: &'a Grid) -> Drawing<'a> {
        let Self { seed, epoch, step, indices, sources, units } = self;
        let masked = None;
        Drawing { name, copies, seed, epoch, step, indices, sources, masked, grid, units }
    }
}

impl Slots {
    /// Checks `plan` against data of `content`.
    pub(super) fn new(plan: &ViewPlan, content: Content) -> Result<Self> {
        let grid = plan.grid.clone();
        let mut slots =
            Self { samples: Vec::new(), batches: Vec::new(), entries: Vec::new(), grid };
        for request in &plan.views {
            let (name, copies) = (&request.name, request.count);
            let entry = slots.entries.len();
            slots.entries.extend((0..copies).map(|copy| (name.clone(), copy)));
            match request.resolve()? {
                View::Sample(view) => {
                    let forms = view.forms(content, name)?;
                    slots.samples.extend((0..copies).map(|copy| SampleSlot {
                        view: Arc::clone(&view),
                        forms: forms.clone(),
                        entry: entry + copy,
                        stream: format!("view:{name}:{copy}"),
                    }));
                }
                View::Batch(view) => {
                    let (name, masked) = (name.clone(), None);
                    slots.batches.push(BatchSlot { view, name, copies, entry, masked });
                }
            }
        }
        slots.resolve_masked()?;
        Ok(slots)
    }

    /// Finds the view that each mask covers, and checks that it can.
    fn resolve_masked(&mut self) -> Result<()> {
        let firsts: Vec<&SampleSlot> =
            self.samples.iter().filter(|slot| self.entries[slot.entry].1 == 0).collect();
        for batch in &mut self.batches {
            let Some(of) = batch.view.of() else { continue };
            let name = |slot: &SampleSlot| self.entries[slot.entry].0.clone();
            let found = match firsts.as_slice() {
                [only] if of.is_empty() => Some(only),
                all => all.iter().find(|slot| name(slot) == of),
            };
            let Some(masked) = found else {
                let names: Vec<String> = firsts.iter().map(|slot| name(slot)).collect();
                let message = if of.is_empty() {
                    format!("the view `{}` doesn't say what it masks", batch.name)
                } else {
                    format!("the view `{}` masks `{of}`, which there is not", batch.name)
                };
                return Err(Error::asked_wrongly(message)
                    .hint(format!("set its `of` to one of `{}`", names.join("`, `"))));
            };
            let shape = masked.forms.first().map_or(&[][..], |form| &form.shape);
            let tokens = self.grid.tokens(shape);
            let checked = tokens.and_then(|tokens| batch.view.check(&tokens));
            checked.map_err(|error| {
                error.context(format!("the view `{}` can't be drawn", batch.name))
            })?;
            batch.masked = Some(masked.entry);
        }
        Ok(())
    }

    /// Whether batches are cheaper with samples of about one length.
    pub(super) fn follow_length(&self) -> bool {
        self.samples.iter().any(|slot| slot.view.follows_length())
    }

    /// The fields of each copy of a sample's views in the batch `asked`.
    pub(super) fn forms(&self, asked: &Asked<'_>) -> Vec<Vec<Form>> {
        self.samples.iter().map(|slot| slot.view.forms_of(asked, &slot.forms)).collect()
    }

    /// Entries of a batch of `samples` samples with the fields `forms`, to be filled.
    pub(super) fn entries(
        &self,
        forms: &[Vec<Form>],
        samples: usize,
        pool: &Pool,
    ) -> Vec<ViewBatch> {
        let named = self.entries.iter().map(|(name, copy)| ViewBatch {
            name: name.clone(),
            copy: *copy,
            ..ViewBatch::default()
        });
        let mut entries: Vec<ViewBatch> = named.collect();
        for (slot, forms) in self.samples.iter().zip(forms) {
            let entry = &mut entries[slot.entry];
            entry.fields = forms.iter().map(|form| pool.field(form, samples)).collect();
            entry.traces = vec![Trace::default(); samples];
        }
        entries
    }

    /// Writes what `maker` made to place `place` of a batch.
    pub(super) fn store(&self, entries: &mut [ViewBatch], place: usize, maker: &Maker) {
        for (slot, made) in self.samples.iter().zip(&maker.made) {
            let entry = &mut entries[slot.entry];
            for (field, values) in entry.fields.iter_mut().zip(&made.fields) {
                field.values.put(place, values);
            }
            entry.traces[place] = made.trace;
        }
    }

    /// Finishes the views of the samples, which are all made, and draws those of the whole batch.
    pub(super) fn draw(&self, entries: &mut [ViewBatch], drawn: Drawn<'_>) -> Result<()> {
        for slot in &self.samples {
            let (name, _) = &self.entries[slot.entry];
            slot.view.finish(&mut entries[slot.entry], &drawn.drawing(name, 1, &self.grid))?;
        }
        for slot in &self.batches {
            let drawing = Drawing {
                masked: slot.masked.map(|entry| &entries[entry]),
                ..drawn.drawing(&slot.name, slot.copies, &self.grid)
            };
            let copies = slot.view.draw(&drawing).map_err(|error| {
                error.context(format!("the view `{}` can't be drawn", slot.name))
            })?;
            for (entry, fields) in entries[slot.entry..].iter_mut().zip(copies) {
                entry.fields = fields;
            }
        }
        Ok(())
    }
}

/// Checks that every view of `plan` can be made of data of `content`, and every mask be drawn.
///
/// # Errors
/// When one can't.
pub fn check(plan: &ViewPlan, content: Content) -> Result<()> {
    Slots::new(plan, content).map(|_| ())
}

/// A batch of `samples` samples that aren't there: numbers drawn from `seed` in fields of the largest
/// shape, and masks as ever. For timing and planning.
///
/// # Errors
/// When the plan doesn't fit data of `content`.
pub fn rehearse(plan: &ViewPlan, content: Content, samples: usize, seed: u64) -> Result<Batch> {
    let slots = Slots::new(plan, content)?;
    let forms: Vec<Vec<Form>> = slots.samples.iter().map(|slot| slot.forms.clone()).collect();
    let pool = Arc::new(Pool::default());
    let mut views = slots.entries(&forms, samples, &pool);
    let mut maker = Maker::default();
    for place in 0..samples {
        maker.size(&forms);
        for (slot, made) in slots.samples.iter().zip(&mut maker.made) {
            let mut stream = Stream::new(seed, &slot.stream, place as u64, 0);
            slot.view.rehearse(&mut stream, &mut made.fields);
        }
        slots.store(&mut views, place, &maker);
    }
    let indices: Vec<usize> = (0..samples).collect();
    let units = Units::blank();
    let drawn =
        Drawn { seed, epoch: 0, step: 0, indices: &indices, sources: &indices, units: &units };
    slots.draw(&mut views, drawn)?;
    let (labels, broken) = (None, Vec::new());
    Ok(Batch { step: 0, epoch: 0, views, indices, labels, broken, wait: Duration::ZERO, pool })
}

/// One copy of one view of one sample.
#[derive(Debug, Default)]
struct Made {
    fields: Vec<Values>,
    trace: Trace,
}

/// Buffers of one worker: nothing is allocated per sample once they have grown.
#[derive(Debug, Default)]
pub(super) struct Maker {
    sample: Sample,
    tools: Tools,
    /// One per slot of a sample.
    made: Vec<Made>,
    /// The sample that was read.
    pub source: usize,
    /// Samples that couldn't be read on the way to this one.
    pub broken: Vec<BrokenSample>,
}

/// What a worker makes samples for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work<'a> {
    pub dataset: &'a dyn Dataset,
    pub slots: &'a Slots,
    /// The fields of each slot in this batch.
    pub forms: &'a [Vec<Form>],
    pub seed: u64,
    pub epoch: u64,
    /// Longer sounds are cut to a random part of this length; 0 cuts none.
    pub max_seconds: f64,
}

/// How many neighbours are tried in the place of a broken sample.
const NEIGHBOURS: usize = 64;

impl Maker {
    /// Makes every view of sample `index`.
    ///
    /// # Errors
    /// When neither the sample nor one of the next ones can be read, or a transform fails.
    pub(super) fn make(&mut self, work: &Work<'_>, index: usize) -> Result<()> {
        self.broken.clear();
        self.read(work.dataset, index)?;
        self.cut(work, index);
        self.tools.pictures.forget();
        self.size(work.forms);
        for (slot, made) in work.slots.samples.iter().zip(&mut self.made) {
            let key = draw_key(work.epoch, index);
            let mut stream = Stream::new(work.seed, &slot.stream, key, 0);
            made.trace =
                slot.view.make(&self.sample, &mut stream, &mut self.tools, &mut made.fields)?;
        }
        Ok(())
    }

    /// Cuts a sound that is longer than the work allows to a random part, the same for all views.
    fn cut(&mut self, work: &Work<'_>, index: usize) {
        let Sample::Sound(sound) = &mut self.sample else { return };
        let most = (work.max_seconds * f64::from(sound.rate)).round() as usize;
        let spare = sound.wave.len().saturating_sub(most);
        if most == 0 || spare == 0 {
            return;
        }
        let mut stream = Stream::new(work.seed, "part", draw_key(work.epoch, index), 0);
        let start = stream.below(spare + 1);
        sound.wave.copy_within(start..start + most, 0);
        sound.wave.truncate(most);
    }

    /// Gives every field its size.
    fn size(&mut self, forms: &[Vec<Form>]) {
        self.made.resize_with(forms.len(), Made::default);
        for (made, forms) in self.made.iter_mut().zip(forms) {
            if made.fields.len() != forms.len() {
                made.fields = forms.iter().map(|form| Values::empty(form.element)).collect();
            }
            for (values, form) in made.fields.iter_mut().zip(forms) {
                values.resize(form.len());
            }
        }
    }

    /// Reads the sample, or the next one that can be read.
    fn read(&mut self, dataset: &dyn Dataset, index: usize) -> Result<()> {
        let len = dataset.len();
        for offset in 0..NEIGHBOURS.min(len) {
            let index = (index + offset) % len;
            match dataset.read(index, &mut self.sample) {
                Ok(()) => {
                    self.source = index;
                    return Ok(());
                }
                Err(error) => self.broken.push(BrokenSample {
                    index,
                    name: dataset.name(index),
                    reason: error.to_string(),
                }),
            }
        }
        Err(Error::failed(format!(
            "{} samples in a row can't be read, from `{}` on",
            self.broken.len(),
            dataset.name(index)
        ))
        .because(self.broken.first().map_or("", |broken| broken.reason.as_str()))
        .hint("look at the files by hand, or copy the data again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, ViewRequest, open};

    fn made(request: ViewRequest, epoch: u64, index: usize) -> Vec<(Vec<f32>, Trace)> {
        let data = open("shapes", &OpenOptions::default()).unwrap();
        let slots = Slots::new(&ViewPlan::of(vec![request]), data.content()).unwrap();
        let dataset = data.as_ref();
        let forms = slots.forms(&Asked { dataset, indices: &[index] });
        let mut maker = Maker::default();
        let work = Work { dataset, slots: &slots, forms: &forms, seed: 5, epoch, max_seconds: 0.0 };
        maker.make(&work, index).unwrap();
        let values = |made: Made| (made.fields[0].f32().to_vec(), made.trace);
        maker.made.into_iter().map(values).collect()
    }

    fn full(count: usize) -> ViewRequest {
        let keys = ["jitter", "brightness", "contrast", "saturation", "grayscale", "blur"];
        let request = ViewRequest::new("g", "crop", 1, count).with("size", 16.0).with("hue", 0.1);
        keys.iter().fold(request, |request, key| request.with(key, 0.5)).with("solarize", 0.5)
    }

    #[test]
    fn copies_epochs_and_samples_differ_and_the_same_repeats() {
        let both = made(full(2), 0, 3);
        assert_eq!((both.len(), both[0].0.len()), (2, 3 * 16 * 16));
        assert_ne!(both[0], both[1]);
        assert_eq!(both, made(full(2), 0, 3));
        assert_eq!(both[..1], made(full(1), 0, 3), "a copy doesn't depend on the others");
        assert_ne!(both, made(full(2), 1, 3));
        assert_ne!(both, made(full(2), 0, 4));
        assert!(both.iter().flat_map(|copy| &copy.0).all(|x| x.is_finite() && x.abs() < 3.0));
    }

    #[test]
    fn a_plain_view_is_the_normalised_picture() {
        let request = ViewRequest::new("g", "crop", 1, 1).with("size", 32.0).with("flip", 0.0);
        let request = request.with("scale_min", 1.0).with("ratio_min", 1.0).with("ratio_max", 1.0);
        let (values, trace) = made(request.with("mean", 0.5).with("std", 0.25), 0, 9).remove(0);
        let data = open("shapes", &OpenOptions::default()).unwrap();
        let Sample::Image(image) = data.sample(9).unwrap() else { panic!("a picture") };
        assert_eq!((trace.part, trace.flipped), ([0.0, 0.0, 1.0, 1.0], false));
        for (i, pixel) in image.pixels.chunks(3).enumerate() {
            let expected = (f32::from(pixel[1]) / 255.0 - 0.5) / 0.25;
            assert!((values[1024 + i] - expected).abs() < 1e-5);
        }
    }
}
