//! Features of whole samples, frame by frame, for a stage: pixels of patches, a vector, or what a
//! backbone makes of the sample as it is, without any augmentation.

use std::cell::RefCell;
use std::rc::Rc;

use super::prepare::Prepared;
use crate::data::dataset::{Content, Image, Sample, Sound};
use crate::data::sound::{FRAMES_PER_SECOND, mfcc};
use crate::data::transform::crop::CropBox;
use crate::data::transform::resize::Resample;
use crate::engine::cuda::upload::upload;
use crate::engine::ops::patchify::patchify;
use crate::engine::{Precision, Tape, Var, storage};
use crate::module::{Forward, Input, Module};
use crate::plugin::{AskedStage, StageFeatures};
use crate::random::Stream;
use crate::state::StepVars;
use crate::store::Layout;
use crate::{Error, Result};

/// How much shorter or longer than a sound its frames may be, in seconds: they end before its end.
const ROUNDED: f64 = 0.1;
/// Pictures that go through a backbone at a time.
pub(super) const BATCH: usize = 64;

/// Computes features of samples.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    prepared: &'a Prepared,
    features: StageFeatures,
    precision: Precision,
    backbone: Rc<dyn Module>,
    /// Whether each sample's features get mean 0 and deviation 1 over its frames, where it has two or more.
    standardise: bool,
    resample: Resample,
}

/// The features of one sample, `[F, D]`; empty for a sample that can't be read or is shorter than a frame.
pub(super) type SampleFrames = Vec<f32>;

/// Features of several samples.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// One per sample.
    pub(super) samples: Vec<SampleFrames>,
    /// D; 0 where no sample could be read.
    pub(super) width: usize,
    /// How frames lie in a sample.
    pub(super) layout: Layout,
}

impl<'a> Frames<'a> {
    /// The features that `stage` asks of the data of `prepared`, with its backbone as it is.
    ///
    /// # Errors
    /// When such data or such a backbone don't have these features.
    pub(super) fn new(
        prepared: &'a Prepared,
        stage: &AskedStage,
        precision: Precision,
    ) -> Result<Self> {
        let (features, standardise) = (stage.features, stage.normalise);
        let session = &prepared.session;
        let teacher = matches!(features, StageFeatures::Layer { teacher: true, .. });
        let backbone = if teacher { session.teacher_backbone() } else { session.backbone() };
        let backbone = backbone.ok_or_else(|| {
            let whose = if teacher { "teacher with a backbone" } else { "backbone" };
            Error::failed(format!("`{features}` needs a {whose}, and the method declares none"))
        })?;
        let content = prepared.data.content();
        let fits = match features {
            StageFeatures::Patches => matches!(content, Content::Images),
            StageFeatures::Values => matches!(content, Content::Vectors { .. }),
            StageFeatures::Mfcc => matches!(content, Content::Sounds { .. }),
            StageFeatures::Layer { .. } => !matches!(content, Content::Vectors { .. }),
        };
        if !fits {
            let data = prepared.data.describe();
            return Err(Error::asked_wrongly(format!("these data have no features `{features}`"))
                .because(format!("they are {data}"))
                .hint("choose other features in the method's options, or other data"));
        }
        let resample = Resample::default();
        Ok(Self { prepared, features, precision, backbone, standardise, resample })
    }

    /// The features of the samples `indices`.
    ///
    /// # Errors
    /// When the backbone refuses its input.
    pub(super) fn of(&mut self, indices: &[usize]) -> Result<Made> {
        // A broken sample has no frames, as one shorter than a frame, and so no units: none of its tokens is known in training.
        let read = |index: &usize| self.prepared.data.sample(*index).ok();
        let samples: Vec<Option<Sample>> = indices.iter().map(read).collect();
        let mut made = match self.prepared.data.content() {
            Content::Vectors { .. } => vectors(&samples),
            Content::Sounds { rate } => self.sounds(&samples, rate)?,
            Content::Images => self.pictures(&samples)?,
        };
        if self.standardise {
            made.samples.iter_mut().for_each(|frames| standardise(frames, made.width));
        }
        Ok(made)
    }

    /// Sounds one by one, each in its own length: none is padded, so none sees silence that is not its own.
    fn sounds(&self, samples: &[Option<Sample>], rate: u32) -> Result<Made> {
        let values = f64::from(rate);
        let frames = match self.features {
            StageFeatures::Mfcc => FRAMES_PER_SECOND as f64,
            _ => values / self.sound_fact("frame_stride")? as f64,
        };
        let mut made = Made { layout: Layout::Rate { frames, values }, ..Made::default() };
        for sample in samples {
            let Some(Sample::Sound(Sound { wave, .. })) = sample else {
                made.samples.push(Vec::new());
                continue;
            };
            let (rows, width) = match self.features {
                StageFeatures::Layer { layer, .. } => self.tokens_of(wave, layer)?,
                _ => (mfcc::mfcc(wave, rate), mfcc::WIDTH),
            };
            made.width = made.width.max(width);
            let (lasts, sound) =
                (rows.len() as f64 / width.max(1) as f64 / frames, wave.len() as f64 / values);
            if !rows.is_empty() && (lasts - sound).abs() > ROUNDED {
                return Err(Error::failed(format!(
                    "`{}` of a sound of {sound:.2} s last {lasts:.2} s at {frames:.1} frames a second",
                    self.features
                )));
            }
            made.samples.push(rows);
        }
        Ok(made)
    }

    /// Tokens after block `layer` of one sound, and their width; none of one that is too short for a frame.
    fn tokens_of(&self, wave: &[f32], layer: usize) -> Result<(Vec<f32>, usize)> {
        if (wave.len() as i64) < self.sound_fact("frame_size")? {
            return Ok((Vec::new(), 0));
        }
        let mut wave = wave.to_vec();
        self.prepared.preprocess.sound(&mut wave);
        let n = wave.len();
        let tape = self.tape();
        let wave = upload(&storage::tensor(wave, (1, n))?, tape.device())?;
        let wave = Var::constant(wave);
        let tokens = self.layer(&tape, "waveforms", wave, layer)?;
        let &[_, _, width] = tokens.dims() else {
            return Err(Error::failed(format!("`{}` gave {:?}", self.features, tokens.dims())));
        };
        Ok((storage::to_f32(tokens.value())?, width))
    }

    fn tape(&self) -> Tape {
        Tape::new(self.precision).on(self.prepared.trainer.state.device())
    }

    fn sound_fact(&self, name: &str) -> Result<i64> {
        self.backbone.fact(name).filter(|value| *value > 0).ok_or_else(|| {
            Error::asked_wrongly(format!("`{}` needs a backbone for sound", self.features))
                .hint("`backbone=wave`")
        })
    }

    fn pictures(&mut self, samples: &[Option<Sample>]) -> Result<Made> {
        let &[_, _, side] = self.prepared.shape.as_slice() else {
            return Err(Error::failed(format!("`{}` needs views of pictures", self.features)));
        };
        let patch = self.backbone.fact("patch").map(|patch| patch as usize);
        let Some(patch) = patch.filter(|patch| *patch > 0 && side.is_multiple_of(*patch)) else {
            return Err(Error::asked_wrongly(format!("`{}` needs patches", self.features)).hint(
                "choose a backbone that cuts pictures into patches, such as `backbone=vit`",
            ));
        };
        let mut pixels = Vec::new();
        for sample in samples {
            match sample {
                Some(Sample::Image(image)) => self.push_picture(image, side, &mut pixels)?,
                _ => pixels.resize(pixels.len() + 3 * side * side, 0.0),
            }
        }
        let images = storage::tensor(pixels, (samples.len(), 3, side, side))?;
        let tape = self.tape();
        let images = Var::constant(upload(&images, tape.device())?);
        let frames = match self.features {
            StageFeatures::Layer { layer, .. } => self.layer(&tape, "images", images, layer)?,
            _ => tape.no_grad(|| patchify(&tape, &images, patch))?,
        };
        let &[_, n, width] = frames.dims() else {
            return Err(Error::failed(format!("`{}` gave {:?}", self.features, frames.dims())));
        };
        let rows = side / patch;
        if n != rows * rows {
            return Err(Error::failed(format!(
                "`{}` has {n} tokens, and pictures of {side} pixels have {rows} x {rows} patches",
                self.features
            )));
        }
        let values = storage::to_f32(frames.value())?;
        let of = |(sample, frames): (&Option<Sample>, &[f32])| match sample {
            Some(_) => frames.to_vec(),
            None => Vec::new(),
        };
        let samples = samples.iter().zip(values.chunks_exact(n * width)).map(of).collect();
        Ok(Made { samples, width, layout: Layout::Grid { rows, cols: rows } })
    }

    /// The whole picture, squeezed to a square, so that every place of it has a patch.
    fn push_picture(&mut self, image: &Image, side: usize, out: &mut Vec<f32>) -> Result<()> {
        let whole = CropBox::whole(image.width, image.height);
        let mut bytes = Vec::new();
        self.resample.apply(image, whole, (side, side), &mut bytes)?;
        out.extend(self.prepared.preprocess.picture(&bytes));
        Ok(())
    }

    /// Tokens after block `layer` for the input called `name`.
    fn layer(&self, tape: &Tape, name: &str, value: Var, layer: usize) -> Result<Var> {
        let vars = StepVars::new(&self.prepared.trainer.state);
        let stream = Rc::new(RefCell::new(Stream::new(0, "stage", 0, 0)));
        let forward = Forward { tape, vars: &vars, training: false, stream };
        let inputs = [Input { name: name.to_owned(), value }];
        let output = format!("layer.{layer}");
        let made = tape.no_grad(|| self.backbone.call(&forward, &inputs, &[&output]))?;
        made.into_iter().next().ok_or_else(|| Error::failed("the backbone gave nothing"))
    }
}

/// Vectors as they are, one frame each.
fn vectors(samples: &[Option<Sample>]) -> Made {
    let vector = |sample: &Option<Sample>| match sample {
        Some(Sample::Vector(vector)) => vector.clone(),
        _ => Vec::new(),
    };
    let samples: Vec<SampleFrames> = samples.iter().map(vector).collect();
    let width = samples.iter().map(Vec::len).max().unwrap_or(0);
    Made { samples, width, layout: Layout::Single }
}

/// What keeps a feature that never changes from being divided by 0.
const LEAST_DEVIATION: f32 = 1e-3;

/// Gives each of the `width` features of a sample's `frames` `[F, D]` mean 0 and deviation 1; one frame, which has no
/// deviation, stays as it is.
fn standardise(frames: &mut [f32], width: usize) {
    let count = frames.len() / width.max(1);
    if count < 2 {
        return;
    }
    let n = count as f32;
    for feature in 0..width {
        let values = || frames.iter().skip(feature).step_by(width);
        let mean = values().sum::<f32>() / n;
        let variance = values().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
        let scale = 1.0 / (variance.sqrt() + LEAST_DEVIATION);
        let values = frames.iter_mut().skip(feature).step_by(width);
        values.for_each(|x| *x = (*x - mean) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_a_sample_gets_mean_0_and_deviation_1_and_a_constant_one_is_0() {
        // Two features of four frames: 1, 2, 3, 4 and a constant.
        let mut frames = [1.0, 7.0, 2.0, 7.0, 3.0, 7.0, 4.0, 7.0];
        standardise(&mut frames, 2);
        // The deviation of 1, 2, 3, 4 is sqrt(1.25).
        let wanted = [-1.5, -0.5, 0.5, 1.5].map(|x: f32| x / 1.25f32.sqrt());
        for (frame, wanted) in frames.chunks_exact(2).zip(wanted) {
            assert!((frame[0] - wanted).abs() < 2e-3, "{frame:?} {wanted}");
            assert_eq!(frame[1], 0.0);
        }
        standardise(&mut [], 2);
    }

    #[test]
    fn a_sample_of_one_frame_stays_as_it_is() {
        let mut frames = [3.0, -1.0];
        standardise(&mut frames, 2);
        assert_eq!(frames, [3.0, -1.0]);
    }
}
