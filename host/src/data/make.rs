//! Makes the views of one sample: decodes once, then draws and transforms every copy of every view.

use super::dataset::{Content, Dataset, Image, Sample};
use super::transform::crop::CropBox;
use super::transform::{
    blur::Blur, crop, flip, grayscale, jitter, normalize, resize::Resample, solarize,
};
use super::view::{Crop, VectorView, View, ViewPlan};
use super::{BrokenSample, batch::ViewBatch};
use crate::random::Stream;
use crate::{Error, Result};

/// One copy of one view.
#[derive(Debug)]
pub(super) struct Slot {
    pub name: String,
    pub copy: usize,
    pub view: View,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Numbers of one sample.
    pub len: usize,
    /// Name of its stream, `view:NAME:COPY`.
    stream: String,
}

/// Checks a plan against the data and lists its copies in order.
pub(super) fn slots(plan: &ViewPlan, content: Content) -> Result<Vec<Slot>> {
    let mut slots = Vec::new();
    for request in &plan.views {
        let view = request.resolve()?;
        view.check(content, &request.name)?;
        for copy in 0..request.count {
            let shape = view.shape(content);
            let len = if shape.is_empty() { 0 } else { shape.iter().product() };
            let stream = format!("view:{}:{copy}", request.name);
            let (name, view) = (request.name.clone(), view.clone());
            slots.push(Slot { name, copy, view, shape, len, stream });
        }
    }
    Ok(slots)
}

impl Slot {
    /// An empty entry for a batch of `samples`.
    pub(super) fn entry(&self, samples: usize, data: Vec<f32>) -> ViewBatch {
        let crops = if matches!(self.view, View::Crop(_)) { samples } else { 0 };
        ViewBatch {
            name: self.name.clone(),
            copy: self.copy,
            shape: std::iter::once(samples).chain(self.shape.iter().copied()).collect(),
            data,
            boxes: vec![[0.0; 4]; crops],
            flips: vec![false; crops],
        }
    }
}

/// What is known of a made crop besides its pixels.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trace {
    pub part: [f32; 4],
    pub flipped: bool,
}

/// Buffers of one worker: nothing is allocated per sample once they have grown.
#[derive(Debug, Default)]
pub(super) struct Maker {
    sample: Sample,
    pixels: Vec<u8>,
    resample: Resample,
    blur: Blur,
    /// The views of the sample, one after another.
    pub values: Vec<f32>,
    /// One per view.
    pub traces: Vec<Trace>,
    /// Samples that couldn't be read on the way to this one.
    pub broken: Vec<BrokenSample>,
}

/// How many neighbours are tried in the place of a broken sample.
const NEIGHBOURS: usize = 64;

impl Maker {
    /// Makes every view of sample `index` in `epoch`.
    ///
    /// # Errors
    /// When neither the sample nor one of the next ones can be read, or a transform fails.
    pub(super) fn make(
        &mut self,
        dataset: &dyn Dataset,
        slots: &[Slot],
        seed: u64,
        epoch: u64,
        index: usize,
    ) -> Result<()> {
        self.broken.clear();
        self.read(dataset, index)?;
        self.values.resize(slots.iter().map(|slot| slot.len).sum(), 0.0);
        self.traces.clear();
        let mut values = std::mem::take(&mut self.values);
        let mut rest = values.as_mut_slice();
        for slot in slots {
            let (out, later) = rest.split_at_mut(slot.len);
            rest = later;
            // 40 bits for the sample leave 24 for the epoch.
            let mut stream = Stream::new(seed, &slot.stream, epoch << 40 | index as u64, 0);
            let trace = self.view(&slot.view, &mut stream, out)?;
            self.traces.push(trace);
        }
        self.values = values;
        Ok(())
    }

    /// Reads the sample, or the next one that can be read.
    fn read(&mut self, dataset: &dyn Dataset, index: usize) -> Result<()> {
        let len = dataset.len();
        for offset in 0..NEIGHBOURS.min(len) {
            let index = (index + offset) % len;
            match dataset.read(index, &mut self.sample) {
                Ok(()) => return Ok(()),
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

    fn view(&mut self, view: &View, stream: &mut Stream, out: &mut [f32]) -> Result<Trace> {
        match (view, &self.sample) {
            (View::Crop(crop), Sample::Image(image)) => {
                let part = crop::draw(stream, (image.width, image.height), crop.scale, crop.ratio);
                let size = (crop.size, crop.size);
                self.resample.apply(image, part, size, &mut self.pixels)?;
                let part = relative(part, image);
                let flipped = augment(crop, stream, &self.pixels, &mut self.blur, out);
                Ok(Trace { part, flipped })
            }
            (View::Vector(view), Sample::Vector(vector)) => {
                noisy(view, stream, vector, out);
                Ok(Trace::default())
            }
            (View::SampleIndex, _) => Ok(Trace::default()),
            _ => Err(Error::failed("the data holds pictures and vectors")),
        }
    }
}

fn relative(part: CropBox, image: &Image) -> [f32; 4] {
    part.relative(image.width, image.height)
}

/// From cropped 8-bit pixels to the normalised view; says whether it was flipped.
fn augment(
    crop: &Crop,
    stream: &mut Stream,
    pixels: &[u8],
    blur: &mut Blur,
    out: &mut [f32],
) -> bool {
    normalize::planes_of(pixels, out);
    let flipped = stream.chance(crop.flip);
    if flipped {
        flip::apply(out, crop.size);
    }
    if stream.chance(crop.jitter) {
        for change in jitter::draw(stream, &crop.strength).into_iter().flatten() {
            jitter::apply(out, change);
        }
    }
    if stream.chance(crop.grayscale) {
        grayscale::apply(out);
    }
    if stream.chance(crop.blur) {
        let sigma = stream.range(crop.blur_sigma.0, crop.blur_sigma.1) as f32;
        blur.apply(out, (crop.size, crop.size), sigma);
    }
    if stream.chance(crop.solarize) {
        solarize::apply(out, crop.solarize_threshold);
    }
    normalize::apply(out, crop.mean, crop.std);
    flipped
}

fn noisy(view: &VectorView, stream: &mut Stream, vector: &[f32], out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(vector) {
        let noise = if view.noise > 0.0 { view.noise * stream.normal() } else { 0.0 };
        let dropped = view.dropout > 0.0 && stream.chance(view.dropout);
        *o = if dropped { 0.0 } else { x + noise as f32 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, ViewRequest, open};

    fn made(request: ViewRequest, epoch: u64, index: usize) -> (Vec<f32>, Vec<Trace>) {
        let data = open("shapes", &OpenOptions::default()).unwrap();
        let slots = slots(&ViewPlan { views: vec![request] }, data.content()).unwrap();
        let mut maker = Maker::default();
        maker.make(data.as_ref(), &slots, 5, epoch, index).unwrap();
        (maker.values, maker.traces)
    }

    fn full(count: usize) -> ViewRequest {
        let keys = ["jitter", "brightness", "contrast", "saturation", "grayscale", "blur"];
        let request = ViewRequest::new("g", "crop", 1, count).with("size", 16.0).with("hue", 0.1);
        keys.iter().fold(request, |request, key| request.with(key, 0.5)).with("solarize", 0.5)
    }

    #[test]
    fn copies_epochs_and_samples_differ_and_the_same_repeats() {
        let (values, traces) = made(full(2), 0, 3);
        assert_eq!((values.len(), traces.len()), (2 * 3 * 16 * 16, 2));
        assert_ne!(values[..768], values[768..]);
        assert_eq!(values, made(full(2), 0, 3).0);
        assert_eq!(values[..768], made(full(1), 0, 3).0, "a copy doesn't depend on the others");
        assert_ne!(values, made(full(2), 1, 3).0);
        assert_ne!(values, made(full(2), 0, 4).0);
        assert!(values.iter().all(|x| x.is_finite() && x.abs() < 3.0));
    }

    #[test]
    fn a_plain_view_is_the_normalised_picture() {
        let request = ViewRequest::new("g", "crop", 1, 1).with("size", 32.0).with("flip", 0.0);
        let request = request.with("scale_min", 1.0).with("ratio_min", 1.0).with("ratio_max", 1.0);
        let (values, traces) = made(request.with("mean", 0.5).with("std", 0.25), 0, 9);
        let data = open("shapes", &OpenOptions::default()).unwrap();
        let Sample::Image(image) = data.sample(9).unwrap() else { panic!("a picture") };
        assert_eq!((traces[0].part, traces[0].flipped), ([0.0, 0.0, 1.0, 1.0], false));
        for (i, pixel) in image.pixels.chunks(3).enumerate() {
            let expected = (f32::from(pixel[1]) / 255.0 - 0.5) / 0.25;
            assert!((values[1024 + i] - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn vectors_get_noise_and_holes() {
        let mut stream = Stream::new(0, "v", 0, 0);
        let vector = vec![1.0; 4000];
        let mut out = vec![0.0; 4000];
        noisy(&VectorView { noise: 0.1, dropout: 0.25 }, &mut stream, &vector, &mut out);
        let holes = out.iter().filter(|x| **x == 0.0).count();
        let mean = out.iter().sum::<f32>() / (4000 - holes) as f32;
        assert!((900..1100).contains(&holes) && (mean - 1.0).abs() < 0.01);
        noisy(&VectorView { noise: 0.0, dropout: 0.0 }, &mut stream, &vector, &mut out);
        assert_eq!(out, vector);
    }
}
