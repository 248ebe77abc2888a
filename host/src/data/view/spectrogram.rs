//! `spectrogram@1`: a part of a sound as a picture of the energies of its mel bands.

use std::sync::Arc;

use super::kind::{SampleView, Tools, View, ViewDef};
use super::settings::Settings;
use crate::data::batch::Trace;
use crate::data::dataset::{Content, Sample};
use crate::data::field::{Form, Values};
use crate::random::Stream;
use crate::{Error, Result};

/// Parameters of `spectrogram@1`; field `pixels` f32 `[1, bands, frames]`, the lowest band first, with mean 0 and
/// deviation 1 over the whole sound. Order: part in time, resize, masks.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    bands: usize,
    frames: usize,
    /// Whether the part is stretched to `frames`; else `frames` are cut at 100 a second, and a shorter sound goes
    /// on in silence.
    stretch: bool,
    /// Length of the part as a share of the sound, where it is stretched.
    scale: (f64, f64),
    /// How many stretches of time are hidden, and how long each is at most, as a share of the frames.
    time_masks: (usize, f64),
    /// How many ranges of bands are hidden, and how wide each is at most, as a share of the bands.
    band_masks: (usize, f64),
}

const KEYS: &[&str] = &[
    "bands",
    "frames",
    "stretch",
    "scale_min",
    "scale_max",
    "time_masks",
    "time_mask_max",
    "band_masks",
    "band_mask_max",
];

impl Part {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        let masks = (0.0, 100.0);
        Ok(Self {
            bands: settings.whole("bands", 64.0, (1.0, 512.0))?,
            frames: settings.whole("frames", 96.0, (1.0, 1e5))?,
            stretch: settings.flag("stretch", true)?,
            scale: settings.pair(["scale_min", "scale_max"], (1.0, 1.0), (1e-3, 1.0))?,
            time_masks: (
                settings.whole("time_masks", 0.0, masks)?,
                settings.chance("time_mask_max", 0.2)?,
            ),
            band_masks: (
                settings.whole("band_masks", 0.0, masks)?,
                settings.chance("band_mask_max", 0.2)?,
            ),
        })
    }

    /// Cuts `frames` frames of `picture` `[bands, present]` from a random one on; returns the first.
    fn cut(
        &self,
        stream: &mut Stream,
        (picture, present): (&[f32], usize),
        out: &mut [f32],
    ) -> usize {
        let kept = self.frames.min(present);
        let start = stream.below(present - kept + 1);
        let silence = picture.iter().copied().fold(f32::INFINITY, f32::min);
        for (row, out) in picture.chunks_exact(present).zip(out.chunks_exact_mut(self.frames)) {
            out[..kept].copy_from_slice(&row[start..start + kept]);
            out[kept..].fill(silence);
        }
        start
    }

    /// Hides stretches of time and ranges of bands: they get 0, the mean (Park et al. 2019, `SpecAugment`).
    fn mask(&self, stream: &mut Stream, out: &mut [f32]) {
        let mut range = |of: usize, most: f64| {
            let width = stream.below((most * of as f64).round() as usize + 1);
            let start = stream.below(of - width + 1);
            start..start + width
        };
        for _ in 0..self.time_masks.0 {
            let hidden = range(self.frames, self.time_masks.1);
            out.chunks_exact_mut(self.frames).for_each(|row| row[hidden.clone()].fill(0.0));
        }
        for _ in 0..self.band_masks.0 {
            let hidden = range(self.bands, self.band_masks.1);
            out[hidden.start * self.frames..hidden.end * self.frames].fill(0.0);
        }
    }
}

impl SampleView for Part {
    fn forms(&self, content: Content, name: &str) -> Result<Vec<Form>> {
        match content {
            Content::Sounds { .. } => Ok(vec![Form::f32("pixels", &[1, self.bands, self.frames])]),
            other => Err(Error::asked_wrongly(format!(
                "the view `{name}` needs sounds and the data are {}",
                other.noun()
            ))
            .hint("give a folder or tar of .wav or .flac files as data, or `data=speech`")),
        }
    }

    fn make(
        &self,
        sample: &Sample,
        stream: &mut Stream,
        tools: &mut Tools,
        fields: &mut [Values],
    ) -> Result<Trace> {
        let (Sample::Sound(sound), [pixels]) = (sample, fields) else {
            return Err(Error::failed("a sample is no sound, though the data are"));
        };
        let out = pixels.f32_mut();
        let (picture, present) = tools.pictures.of(sound, self.bands);
        let part = if self.stretch {
            let share = stream.range(self.scale.0, self.scale.1);
            let left = stream.range(0.0, 1.0 - share);
            let long = present as f64;
            let cut = [left * long, 0.0, share * long, self.bands as f64];
            let (from, to) = ((present, self.bands), (self.frames, self.bands));
            tools.resample.plane((picture, from), cut, (&mut *out, to))?;
            [left as f32, 0.0, share as f32, 1.0]
        } else {
            let start = self.cut(stream, (picture, present), out);
            let share = |frames: usize| frames as f32 / present as f32;
            [share(start), 0.0, share(self.frames.min(present)), 1.0]
        };
        self.mask(stream, out);
        let start = (f64::from(part[0]) * sound.wave.len() as f64) as usize;
        Ok(Trace { part, start, ..Trace::default() })
    }
}

inventory::submit! {
    ViewDef {
        name: "spectrogram",
        revision: 1,
        settings: KEYS,
        resolve: |settings| Ok(View::Sample(Arc::new(Part::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sound::spectrogram::Spectrogram;
    use crate::data::{Loader, LoaderOptions, OpenOptions, ViewBatch, ViewPlan, ViewRequest, open};

    fn view(settings: &[(&str, f64)]) -> (ViewBatch, Vec<usize>) {
        let data = open("speech:60", &OpenOptions::default()).unwrap();
        let request = ViewRequest::new("s", "spectrogram", 1, 1);
        let request = settings.iter().fold(request, |r, (key, value)| r.with(key, *value));
        let options = LoaderOptions { batch: 4, end: Some(1), ..LoaderOptions::default() };
        let mut loader = Loader::new(data, &ViewPlan::of(vec![request]), options).unwrap();
        let mut batch = loader.next_batch().unwrap().unwrap();
        (batch.views.remove(0), batch.indices.clone())
    }

    fn whole(index: usize, bands: usize) -> (Vec<f32>, usize) {
        let data = open("speech:60", &OpenOptions::default()).unwrap();
        let Sample::Sound(sound) = data.sample(index).unwrap() else { panic!("a sound") };
        let mut picture = Vec::new();
        let frames = Spectrogram::new(sound.rate, bands).normalised(&sound.wave, &mut picture);
        (picture, frames)
    }

    #[test]
    fn frames_cut_at_their_own_pace_are_those_of_the_sound() {
        let settings = [("bands", 20.0), ("frames", 30.0), ("stretch", 0.0)];
        let (view, indices) = view(&settings);
        let field = view.field("pixels").unwrap();
        assert_eq!(field.shape, [4, 1, 20, 30]);
        for (row, index) in indices.iter().enumerate() {
            let (picture, present) = whole(*index, 20);
            let start = (view.traces[row].part[0] * present as f32).round() as usize;
            let got = &field.values.f32()[row * 600..][..600];
            for (got, want) in got.chunks_exact(30).zip(picture.chunks_exact(present)) {
                assert_eq!(got, &want[start..start + 30]);
            }
        }
        let (longer, _) = self::view(&[("bands", 20.0), ("frames", 500.0), ("stretch", 0.0)]);
        let last = longer.fields[0].values.f32()[499];
        assert!(last < 0.0, "behind the sound is silence, not {last}");
    }

    #[test]
    fn a_stretched_part_has_its_share_and_masks_hide_no_more_than_asked() {
        let scale = [("bands", 16.0), ("frames", 32.0), ("scale_min", 0.3), ("scale_max", 0.6)];
        let (plain, _) = view(&scale);
        assert!(plain.traces.iter().all(|t| (0.3..=0.6).contains(&t.part[2])));
        let masks = [("time_masks", 2.0), ("time_mask_max", 0.25), ("band_masks", 1.0)];
        let (masked, _) = view(&[&scale[..], &masks[..]].concat());
        let (plain, masked) = (plain.fields[0].values.f32(), masked.fields[0].values.f32());
        let hidden = masked.iter().filter(|x| **x == 0.0).count();
        assert!(plain.iter().zip(masked).all(|(p, m)| *m == 0.0 || p == m));
        assert!(hidden > 0 && hidden < masked.len() * 7 / 10, "{hidden} of {}", masked.len());
    }

    #[test]
    fn pictures_are_refused_and_so_are_settings_out_of_range() {
        let View::Sample(view) = ViewRequest::new("s", "spectrogram", 1, 1).resolve().unwrap()
        else {
            panic!("of a sample")
        };
        assert!(view.forms(Content::Images, "s").unwrap_err().message().contains("pictures"));
        for (key, value) in [("bands", 0.0), ("frames", 1.5), ("scale_min", 0.0)] {
            let request = ViewRequest::new("s", "spectrogram", 1, 1).with(key, value);
            assert!(request.resolve().unwrap_err().message().contains(key));
        }
    }
}
