//! What probes give to a backbone: samples in memory, as pictures, vectors or waveforms.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rayon::prelude::*;

use super::sketch;
use crate::data::dataset::{Content, Dataset, Image, Sample, Sound};
use crate::data::sound::mfcc;
use crate::data::sound::spectrogram::{BANDS, Pictures};
use crate::data::transform::crop::CropBox;
use crate::data::transform::preprocess::Preprocess;
use crate::data::transform::resize::Resample;
use crate::data::view::Grid;
use crate::engine::cuda::upload::upload;
use crate::engine::{Precision, Tape, Var, storage};
use crate::module::{Forward, Input, Module};
use crate::random::Stream;
use crate::report::Picture;
use crate::state::{State, StepVars};
use crate::{Error, Result};

/// Samples that go through the backbone at a time.
const BATCH: usize = 128;
/// Values of sound that go through it at a time, with the silence that makes them equally long.
const BATCH_VALUES: usize = 1 << 21;

/// How a backbone takes samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// `vectors` `[B, D]`, as they are.
    Vectors(usize),
    /// `images` `[B, C, S, S]`: pictures, or spectrograms of sounds.
    Pictures {
        /// C: 3 for pictures, 1 for spectrograms.
        channels: usize,
        /// S.
        side: usize,
    },
    /// `waveforms` `[B, T]` with `lengths` `[B]`.
    Waves,
}

/// What is read for a probe.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How the backbone takes samples.
    pub form: Form,
    /// What training's views do to every sample.
    pub preprocess: Preprocess,
    /// The middle of a sound that is longer is taken; 0 takes all.
    pub max_seconds: f64,
    /// Seed of the choice of samples.
    pub seed: u64,
}

/// One sample.
#[derive(Debug, Default)]
struct One {
    /// What the backbone takes.
    values: Vec<f32>,
    /// The raw baseline's features, where they aren't the values.
    raw: Vec<f32>,
    picture: Option<Picture>,
}

/// Samples of one part of the data, in memory.
#[derive(Debug)]
pub struct Inputs {
    form: Form,
    samples: Vec<One>,
    /// The classes; empty where the data has none.
    pub labels: Vec<u32>,
    /// Places in the dataset.
    pub indices: Vec<usize>,
}

/// A backbone to be asked, and for what.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The network.
    pub backbone: &'a Rc<dyn Module>,
    /// Its weights.
    pub state: &'a State,
    /// Arithmetic of products.
    pub precision: Precision,
    /// `pooled`, or an output of tokens `[B, N, D]` whose mean is taken, such as `layer.6`.
    pub output: &'a str,
    /// From the length of a sound to the number of its tokens.
    pub grid: &'a Grid,
}

impl Inputs {
    /// At most `limit` samples of `data`. Broken ones are left out.
    ///
    /// # Errors
    /// When a sample can't be brought to the form.
    pub fn read(data: &Arc<dyn Dataset>, limit: usize, wanted: &Wanted) -> Result<Self> {
        let mut order: Vec<usize> = (0..data.len()).collect();
        Stream::new(wanted.seed, "probe", 0, 0).shuffle(&mut order);
        order.truncate(limit);
        Self::of(data, &order, wanted)
    }

    /// The samples of `data` at the places in `order`. Broken ones are left out.
    ///
    /// # Errors
    /// When a sample can't be brought to the form.
    pub fn of(data: &Arc<dyn Dataset>, order: &[usize], wanted: &Wanted) -> Result<Self> {
        let labelled = order.iter().all(|index| data.label(*index).is_some());
        let made: Vec<Option<Result<One>>> = order
            .par_iter()
            .map_init(Reader::default, |reader, index| reader.read(data, *index, wanted))
            .collect();
        let mut inputs = Self {
            form: wanted.form.clone(),
            samples: Vec::with_capacity(made.len()),
            labels: Vec::new(),
            indices: Vec::new(),
        };
        for (&index, one) in order.iter().zip(made) {
            let Some(one) = one else { continue };
            inputs.samples.push(one?);
            inputs.indices.push(index);
            if let (true, Some(label)) = (labelled, data.label(index)) {
                inputs.labels.push(label);
            }
        }
        Ok(inputs)
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Whether they are sounds.
    pub fn is_sound(&self) -> bool {
        matches!(self.form, Form::Waves | Form::Pictures { channels: 1, .. })
    }

    /// Sample `index` for people; none of a vector.
    pub fn picture(&self, index: usize) -> Option<Picture> {
        self.samples.get(index)?.picture.clone()
    }

    /// The raw baseline's features, `[N, D]` row by row, and D: pixels in their colours, elements, of sounds mean
    /// and deviation of MFCC and their slopes. They don't depend on the method.
    pub fn raw(&self) -> (Vec<f32>, usize) {
        let of = |one: &One| if one.raw.is_empty() { one.values.len() } else { one.raw.len() };
        let width = self.samples.first().map_or(0, of);
        let rows = self.samples.iter().flat_map(|one| {
            let row = if one.raw.is_empty() { &one.values } else { &one.raw };
            row.iter().copied()
        });
        (rows.collect(), width)
    }

    /// What the backbone makes of every sample, `[N, D]` row by row, and D.
    ///
    /// # Errors
    /// When the backbone refuses the input or has no such output.
    pub fn features(&self, asked: &Asked<'_>) -> Result<(Vec<f32>, usize)> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        // Sounds of about one length go together, so that little silence is computed.
        order.sort_by_key(|index| self.samples[*index].values.len());
        let (mut rows, mut dim) = (vec![Vec::new(); self.len()], 0);
        for batch in self.batches(&order) {
            let inputs = self.batch(batch)?;
            let features = self.ask(batch, &inputs, asked)?;
            dim = features.len() / batch.len();
            for (index, row) in batch.iter().zip(features.chunks_exact(dim.max(1))) {
                rows[*index] = row.to_vec();
            }
        }
        Ok((rows.concat(), dim))
    }

    /// `order` cut into batches that fit.
    fn batches<'a>(&self, order: &'a [usize]) -> Vec<&'a [usize]> {
        let mut batches = Vec::new();
        let mut rest = order;
        while !rest.is_empty() {
            let longest = |n: usize| self.samples[rest[n - 1]].values.len();
            let mut n = rest.len().min(BATCH);
            while n > 1 && n * longest(n) > BATCH_VALUES {
                n = n.div_ceil(2);
            }
            let (batch, later) = rest.split_at(n);
            batches.push(batch);
            rest = later;
        }
        batches
    }

    /// The backbone's inputs.
    fn batch(&self, batch: &[usize]) -> Result<Vec<Input>> {
        let n = batch.len();
        let input =
            |name: &str, value| Input { name: name.to_owned(), value: Var::constant(value) };
        let values = |index: &usize| self.samples[*index].values.as_slice();
        Ok(match self.form {
            Form::Vectors(dim) => {
                let all: Vec<f32> = batch.iter().flat_map(values).copied().collect();
                vec![input("vectors", storage::tensor(all, (n, dim))?)]
            }
            Form::Pictures { channels, side } => {
                let all: Vec<f32> = batch.iter().flat_map(values).copied().collect();
                vec![input("images", storage::tensor(all, (n, channels, side, side))?)]
            }
            Form::Waves => {
                let longest = batch.iter().map(|index| values(index).len()).max().unwrap_or(0);
                let mut all = vec![0.0; n * longest];
                for (row, index) in all.chunks_exact_mut(longest.max(1)).zip(batch) {
                    row[..values(index).len()].copy_from_slice(values(index));
                }
                let lengths: Vec<u32> = batch.iter().map(|i| values(i).len() as u32).collect();
                vec![
                    input("waveforms", storage::tensor(all, (n, longest))?),
                    input("lengths", storage::tensor(lengths, n)?),
                ]
            }
        })
    }

    /// The asked output of one batch, `[B, D]` row by row; of tokens the mean over those of the sample.
    fn ask(&self, batch: &[usize], inputs: &[Input], asked: &Asked<'_>) -> Result<Vec<f32>> {
        let tape = Tape::new(asked.precision).on(asked.state.device());
        let vars = StepVars::new(asked.state);
        let stream = Rc::new(RefCell::new(Stream::new(0, "probe", 0, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: false, stream };
        let moved = inputs.iter().map(|input| {
            let value = upload(input.value.value(), asked.state.device())?;
            Ok(Input { name: input.name.clone(), value: Var::constant(value) })
        });
        let inputs = moved.collect::<Result<Vec<_>>>()?;
        let made = tape.no_grad(|| asked.backbone.call(&forward, &inputs, &[asked.output]))?;
        let values = storage::to_f32(made[0].value())?;
        let &[_, tokens, dim] = made[0].dims() else { return Ok(values) };
        let mut means = Vec::with_capacity(batch.len() * dim);
        for (index, rows) in batch.iter().zip(values.chunks_exact((tokens * dim).max(1))) {
            let own = match self.form {
                Form::Waves => {
                    let length = self.samples[*index].values.len();
                    asked.grid.tokens(&[length])?.iter().product::<usize>().clamp(1, tokens)
                }
                _ => tokens,
            };
            let sum = |j: usize| rows.iter().skip(j).step_by(dim).take(own).sum::<f32>();
            means.extend((0..dim).map(|j| sum(j) / own as f32));
        }
        Ok(means)
    }
}

/// Brings samples to a form; one per thread.
#[derive(Debug, Default)]
struct Reader {
    sample: Sample,
    resizer: Resample,
    pictures: Pictures,
}

impl Reader {
    /// None where the sample is broken.
    fn read(
        &mut self,
        data: &Arc<dyn Dataset>,
        index: usize,
        wanted: &Wanted,
    ) -> Option<Result<One>> {
        data.read(index, &mut self.sample).ok()?;
        let sample = std::mem::take(&mut self.sample);
        let one = match (&sample, &wanted.form) {
            (Sample::Vector(vector), _) => Ok(One { values: vector.clone(), ..One::default() }),
            (Sample::Image(image), Form::Pictures { side, .. }) => self.image(image, *side, wanted),
            (Sample::Sound(sound), _) => self.sound(&middle(sound, wanted.max_seconds), wanted),
            (Sample::Image(_), _) => Err(Error::failed("the backbone takes no pictures")),
        };
        self.sample = sample;
        Some(one)
    }

    /// Resizes the shorter side to `side`, cuts the middle square, preprocesses.
    fn image(&mut self, image: &Image, side: usize, wanted: &Wanted) -> Result<One> {
        let short = image.width.min(image.height);
        let middle = CropBox::centre(short, short, image.width, image.height);
        let mut rgb = Vec::new();
        self.resizer.apply(image, middle, (side, side), &mut rgb)?;
        let (asked, plain) = (wanted.preprocess, Preprocess::default());
        let values = asked.picture(&rgb);
        let raw = if asked == plain { Vec::new() } else { plain.picture(&rgb) };
        let picture = Some(Picture { width: side, height: side, rgb });
        Ok(One { values, raw, picture })
    }

    /// The waveform, or the whole spectrogram resized to a square.
    fn sound(&mut self, sound: &Sound, wanted: &Wanted) -> Result<One> {
        self.pictures.forget();
        let (picture, frames) = self.pictures.of(sound, BANDS);
        let shown = Some(sketch::spectrogram(picture, (BANDS, frames)));
        let values = match &wanted.form {
            Form::Pictures { side, .. } => {
                let mut square = vec![0.0; side * side];
                let whole = [0.0, 0.0, frames as f64, BANDS as f64];
                let (from, to) = ((picture, (frames, BANDS)), (&mut *square, (*side, *side)));
                self.resizer.plane(from, whole, to)?;
                square
            }
            _ => {
                let mut wave = sound.wave.clone();
                wanted.preprocess.sound(&mut wave);
                wave
            }
        };
        Ok(One { values, raw: mfcc::summary(&sound.wave, sound.rate), picture: shown })
    }
}

/// The middle `seconds` of a longer sound; all of it where they are 0.
fn middle(sound: &Sound, seconds: f64) -> Sound {
    let most = (seconds * f64::from(sound.rate)).round() as usize;
    if most == 0 || sound.wave.len() <= most {
        return sound.clone();
    }
    let start = (sound.wave.len() - most) / 2;
    Sound { rate: sound.rate, wave: sound.wave[start..start + most].to_vec() }
}

impl Form {
    /// How a backbone takes data of `content`, whose view of one sample has `shape`.
    pub fn of(content: Content, shape: &[usize], side: usize) -> Self {
        match (content, shape) {
            (Content::Vectors { dim }, _) => Self::Vectors(dim),
            (Content::Images, _) => Self::Pictures { channels: 3, side },
            (Content::Sounds { .. }, [_]) => Self::Waves,
            (Content::Sounds { .. }, _) => Self::Pictures { channels: 1, side },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OpenOptions, open};

    fn read(source: &str, form: Form, preprocess: Preprocess) -> Inputs {
        let data = open(source, &OpenOptions { limit: Some(3), ..Default::default() }).unwrap();
        let wanted = Wanted { form, preprocess, max_seconds: 0.5, seed: 0 };
        Inputs::of(&data, &[0, 1, 2], &wanted).unwrap()
    }

    #[test]
    fn a_network_that_learned_gray_pictures_is_asked_about_gray_ones_and_the_baseline_keeps_colours()
     {
        let form = Form::Pictures { channels: 3, side: 8 };
        let plain = read("shapes", form.clone(), Preprocess::default());
        let gray = read("shapes", form, Preprocess { grayscale: true, ..Preprocess::default() });
        assert_eq!(gray.raw(), plain.raw());
        let [red, green, _] = channels_of(&gray.samples[1].values);
        let light = |(value, channel): (&f32, usize)| value * STD[channel] + MEAN[channel];
        for (r, g) in red.iter().zip(green) {
            assert!((light((r, 0)) - light((g, 1))).abs() < 1e-5);
        }
        let [red, green, _] = channels_of(&plain.samples[1].values);
        assert!(red.iter().zip(green).any(|(r, g)| (light((r, 0)) - light((g, 1))).abs() > 0.1));
    }

    const MEAN: [f32; 3] = crate::data::transform::normalize::IMAGENET_MEAN;
    const STD: [f32; 3] = crate::data::transform::normalize::IMAGENET_STD;

    fn channels_of(values: &[f32]) -> [&[f32]; 3] {
        let n = values.len() / 3;
        [&values[..n], &values[n..2 * n], &values[2 * n..]]
    }

    #[test]
    fn a_network_that_learned_normalised_sounds_is_asked_about_normalised_ones() {
        let plain = read("speech", Form::Waves, Preprocess::default());
        let normal = Preprocess { normalise: true, ..Preprocess::default() };
        let normalised = read("speech", Form::Waves, normal);
        let variance = |inputs: &Inputs| {
            let wave = &inputs.samples[2].values;
            wave.iter().map(|x| x * x).sum::<f32>() / wave.len() as f32
        };
        assert!((variance(&normalised) - 1.0).abs() < 0.1);
        assert!((variance(&plain) - 1.0).abs() > 0.5);
        assert_eq!(plain.raw(), normalised.raw());
    }
}
