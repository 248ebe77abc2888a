//! `waveform@1`: a part of a sound, as it is.

use std::sync::Arc;

use super::kind::{Drawing, SampleView, Tools, View, ViewDef};
use super::settings::Settings;
use crate::data::batch::{Trace, ViewBatch};
use crate::data::dataset::{Content, Sample};
use crate::data::field::{Form, Values};
use crate::data::transform::preprocess::Preprocess;
use crate::random::Stream;
use crate::{Error, Result};

/// Parameters of `waveform@1`; fields `samples` f32 `[T]`, `lengths` u32: how many of them are sound, the rest
/// is silence. T is the same for a batch, no longer than its samples need.
#[derive(Clone, Debug, PartialEq)]
struct Waveform {
    /// Longer sounds are cut at a random place.
    max_seconds: f64,
    /// Shorter sounds go on in silence.
    min_seconds: f64,
    /// Whether a batch is as long as its longest sound; else every sound is cut at random to the shortest, as
    /// the authors of wav2vec 2.0 and HuBERT do.
    pad: bool,
    /// What else is done to each sound.
    preprocess: Preprocess,
}

impl Waveform {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        let (min_seconds, max_seconds) =
            settings.pair(["min_seconds", "max_seconds"], (0.1, 15.625), (0.001, 3600.0))?;
        let normalise = settings.flag("normalise", false)?;
        let preprocess = Preprocess { normalise, ..Preprocess::default() };
        Ok(Self { max_seconds, min_seconds, pad: settings.flag("pad", false)?, preprocess })
    }

    fn values(seconds: f64, rate: u32) -> usize {
        ((seconds * f64::from(rate)).round() as usize).max(1)
    }
}

impl SampleView for Waveform {
    fn forms(&self, content: Content, name: &str) -> Result<Vec<Form>> {
        let Content::Sounds { rate } = content else {
            return Err(Error::asked_wrongly(format!(
                "the view `{name}` needs sounds and the data are {}",
                content.noun()
            ))
            .hint("give a folder or tar of .wav or .flac files as data, or `data=speech`"));
        };
        let longest = Self::values(self.max_seconds, rate);
        Ok(vec![Form::f32("samples", &[longest]), Form::u32("lengths", &[])])
    }

    fn make(
        &self,
        sample: &Sample,
        stream: &mut Stream,
        _: &mut Tools,
        fields: &mut [Values],
    ) -> Result<Trace> {
        let (Sample::Sound(sound), [samples, lengths]) = (sample, fields) else {
            return Err(Error::failed("a sample is no sound, though the data are"));
        };
        let out = samples.f32_mut();
        let length = sound.wave.len().min(out.len());
        let start = stream.below(sound.wave.len() - length + 1);
        let (kept, rest) = out.split_at_mut(length);
        kept.copy_from_slice(&sound.wave[start..start + length]);
        self.preprocess.sound(kept);
        rest.fill(0.0);
        lengths.u32_mut().fill(length as u32);
        Ok(Trace { start, ..Trace::default() })
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    fn follows_length(&self) -> bool {
        true
    }

    fn finish(&self, view: &mut ViewBatch, drawing: &Drawing<'_>) -> Result<()> {
        let ViewBatch { copy, fields, traces, .. } = view;
        let [samples, lengths] = fields.as_mut_slice() else { return Ok(()) };
        let longest = samples.shape[1];
        let shortest = (longest as f64 * self.min_seconds / self.max_seconds).round() as usize;
        let present = lengths.values.u32();
        let most = if self.pad { present.iter().max() } else { present.iter().min() };
        let long = most.map_or(longest, |most| (*most as usize).max(shortest));
        let (Values::F32(values), Values::U32(present)) =
            (&mut samples.values, &mut lengths.values)
        else {
            return Ok(());
        };
        for (row, (length, trace)) in present.iter_mut().zip(traces).enumerate() {
            let spare = (*length as usize).saturating_sub(long);
            let start = match spare {
                0 => 0,
                spare => drawing.sample_stream(*copy, row).below(spare + 1),
            };
            let from = row * longest + start;
            // Rows only move to the front, so none is written over before it has moved.
            values.copy_within(from..from + long, row * long);
            *length -= spare as u32;
            trace.start += start;
        }
        values.truncate(present.len() * long);
        samples.shape[1] = long;
        Ok(())
    }

    fn rehearse(&self, stream: &mut Stream, fields: &mut [Values]) {
        let [samples, lengths] = fields else { return };
        samples.f32_mut().fill_with(|| stream.normal() as f32);
        lengths.u32_mut().fill(samples.len() as u32);
    }
}

inventory::submit! {
    ViewDef {
        name: "waveform",
        revision: 1,
        settings: &["max_seconds", "min_seconds", "pad", "normalise"],
        resolve: |settings| Ok(View::Sample(Arc::new(Waveform::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Batch, Loader, LoaderOptions, OpenOptions, ViewPlan, ViewRequest, open};

    fn batch(settings: &[(&str, f64)], workers: usize) -> Batch {
        let data = open("speech:60", &OpenOptions::default()).unwrap();
        let request = ViewRequest::new("wave", "waveform", 1, 1);
        let request = settings.iter().fold(request, |r, (key, value)| r.with(key, *value));
        let options = LoaderOptions { batch: 6, workers, end: Some(1), ..LoaderOptions::default() };
        let mut loader = Loader::new(data, &ViewPlan::of(vec![request]), options).unwrap();
        loader.next_batch().unwrap().unwrap()
    }

    fn wave(index: usize) -> Vec<f32> {
        let data = open("speech:60", &OpenOptions::default()).unwrap();
        let Sample::Sound(sound) = data.sample(index).unwrap() else { panic!("a sound") };
        sound.wave
    }

    #[test]
    fn every_sound_is_cut_to_the_shortest_of_its_batch_at_the_place_that_is_noted() {
        let batch = batch(&[], 2);
        let view = &batch.views[0];
        let (samples, lengths) = (view.field("samples").unwrap(), view.field("lengths").unwrap());
        let shortest = batch.indices.iter().map(|index| wave(*index).len()).min().unwrap();
        assert_eq!((&samples.shape[..], &lengths.shape[..]), (&[6, shortest][..], &[6][..]));
        assert_eq!(lengths.values.u32(), [shortest as u32; 6]);
        for (row, index) in batch.indices.iter().enumerate() {
            let start = view.traces[row].start;
            let got = &samples.values.f32()[row * shortest..][..shortest];
            assert_eq!(got, &wave(*index)[start..start + shortest], "row {row}");
        }
        assert!(view.traces.iter().any(|trace| trace.start > 0));
    }

    #[test]
    fn padded_sounds_are_whole_and_silent_behind_their_length() {
        let batch = batch(&[("pad", 1.0)], 2);
        let view = &batch.views[0];
        let (samples, lengths) = (view.field("samples").unwrap(), view.field("lengths").unwrap());
        let long = samples.shape[1];
        assert_eq!(*lengths.values.u32().iter().max().unwrap() as usize, long);
        for (row, index) in batch.indices.iter().enumerate() {
            let got = &samples.values.f32()[row * long..][..long];
            let (kept, rest) = got.split_at(lengths.values.u32()[row] as usize);
            assert_eq!(kept, wave(*index));
            assert!(rest.iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn long_sounds_are_cut_and_short_ones_go_on_in_silence() {
        let cut = batch(&[("max_seconds", 0.2)], 2);
        assert_eq!(cut.views[0].fields[0].shape, [6, 3200]);
        let longer = [("min_seconds", 3.0), ("normalise", 1.0)];
        let padded = batch(&longer, 2);
        let (samples, lengths) = (&padded.views[0].fields[0], &padded.views[0].fields[1]);
        assert_eq!(samples.shape, [6, 48_000]);
        let length = lengths.values.u32()[0] as usize;
        let kept = &samples.values.f32()[..length];
        let mean = kept.iter().sum::<f32>() / length as f32;
        let power = kept.iter().map(|x| x * x).sum::<f32>() / length as f32;
        assert!(mean.abs() < 1e-3 && (power - 1.0).abs() < 0.02, "{mean} {power}");
    }

    #[test]
    fn the_same_batch_comes_from_any_number_of_workers() {
        let with = |workers| {
            let batch = batch(&[], workers);
            let starts: Vec<usize> = batch.views[0].traces.iter().map(|t| t.start).collect();
            (batch.views[0].fields.clone(), starts)
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn pictures_and_wrong_lengths_are_refused() {
        let refused = |request: ViewRequest| {
            let data = open("shapes:32:20", &OpenOptions::default()).unwrap();
            let options = LoaderOptions { batch: 2, ..LoaderOptions::default() };
            Loader::new(data, &ViewPlan::of(vec![request]), options).unwrap_err().to_string()
        };
        let request = || ViewRequest::new("wave", "waveform", 1, 1);
        assert!(refused(request()).contains("needs sounds and the data are pictures"));
        let wrong = refused(request().with("min_seconds", 9.0).with("max_seconds", 1.0));
        assert!(wrong.contains("`min_seconds`"), "{wrong}");
    }
}
