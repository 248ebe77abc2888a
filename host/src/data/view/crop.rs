//! `crop@1`: an augmented crop of a picture, or of a sound's spectrogram.

use std::sync::Arc;

use super::kind::{SampleView, Tools, View, ViewDef};
use super::settings::Settings;
use crate::data::batch::Trace;
use crate::data::dataset::{Content, Sample, Sound};
use crate::data::field::{Form, Values};
use crate::data::sound::spectrogram::BANDS;
use crate::data::transform::jitter::Strength;
use crate::data::transform::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use crate::data::transform::preprocess::Preprocess;
use crate::data::transform::{crop, flip, grayscale, jitter, normalize, solarize};
use crate::random::Stream;
use crate::{Error, Result};

/// Parameters of `crop@1`; field `pixels` f32 `[3, size, size]`. The transforms act in this order: box,
/// resize, flip, jitter, grayscale, blur, solarize, normalise.
#[derive(Clone, Debug, PartialEq)]
struct Crop {
    /// Side of the view in pixels.
    size: usize,
    /// Area of the box as a share of the picture, lowest and highest.
    scale: (f64, f64),
    /// Width / height of the box, lowest and highest.
    ratio: (f64, f64),
    /// Probability of a horizontal flip.
    flip: f64,
    /// Probability of colour jitter.
    jitter: f64,
    /// How strong the jitter is.
    strength: Strength,
    /// Probability of grayscale.
    grayscale: f64,
    /// Probability of blur.
    blur: f64,
    /// Standard deviation of the blur in pixels of the view, lowest and highest.
    blur_sigma: (f64, f64),
    /// Probability of solarization.
    solarize: f64,
    /// Values from here on (0 to 256) are turned.
    solarize_threshold: f32,
    /// Taken from each channel (0 to 1).
    mean: [f32; 3],
    /// Each channel is divided by it.
    std: [f32; 3],
}

const KEYS: &[&str] = &[
    "size",
    "scale_min",
    "scale_max",
    "ratio_min",
    "ratio_max",
    "flip",
    "jitter",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grayscale",
    "blur",
    "blur_min",
    "blur_max",
    "solarize",
    "solarize_threshold",
    "mean",
    "std",
];

impl Crop {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        Ok(Self {
            size: settings.whole("size", 0.0, (1.0, 4096.0))?,
            scale: settings.pair(["scale_min", "scale_max"], (0.08, 1.0), (1e-6, 1.0))?,
            ratio: settings.pair(["ratio_min", "ratio_max"], (0.75, 4.0 / 3.0), (1e-3, 1e3))?,
            flip: settings.chance("flip", 0.5)?,
            jitter: settings.chance("jitter", 0.0)?,
            strength: Strength {
                brightness: settings.number("brightness", 0.0, (0.0, 10.0))?,
                contrast: settings.number("contrast", 0.0, (0.0, 10.0))?,
                saturation: settings.number("saturation", 0.0, (0.0, 10.0))?,
                hue: settings.number("hue", 0.0, (0.0, 0.5))?,
            },
            grayscale: settings.chance("grayscale", 0.0)?,
            blur: settings.chance("blur", 0.0)?,
            blur_sigma: settings.pair(["blur_min", "blur_max"], (0.1, 2.0), (0.0, 100.0))?,
            solarize: settings.chance("solarize", 0.0)?,
            solarize_threshold: settings.number("solarize_threshold", 128.0, (0.0, 256.0))? as f32,
            mean: settings.channels("mean", IMAGENET_MEAN, (-10.0, 10.0))?,
            std: settings.channels("std", IMAGENET_STD, (1e-6, 1e6))?,
        })
    }

    /// A crop of a sound's spectrogram, whose sides count as equally long: what turns, colours or blurs a
    /// picture means nothing there.
    fn hear(
        &self,
        sound: &Sound,
        stream: &mut Stream,
        tools: &mut Tools,
        pixels: &mut Values,
    ) -> Result<Trace> {
        /// Parts of a side that a box is drawn in: fine enough for any sound, since parts of frames count.
        const PARTS: usize = 1000;
        let part = crop::draw(stream, (PARTS, PARTS), self.scale, self.ratio);
        let part = part.relative(PARTS, PARTS);
        let (picture, frames) = tools.pictures.of(sound, BANDS);
        let [left, top, width, height] = part.map(f64::from);
        let (long, high) = (frames as f64, BANDS as f64);
        let cut = [left * long, top * high, width * long, height * high];
        let (from, to) = ((picture, (frames, BANDS)), (pixels.f32_mut(), (self.size, self.size)));
        tools.resample.plane(from, cut, to)?;
        let start = (left * sound.wave.len() as f64) as usize;
        Ok(Trace { part, start, ..Trace::default() })
    }

    /// From cropped 8-bit pixels to the normalised view; says whether it was flipped.
    fn augment(&self, stream: &mut Stream, tools: &mut Tools, out: &mut [f32]) -> bool {
        normalize::planes_of(&tools.pixels, out);
        let flipped = stream.chance(self.flip);
        if flipped {
            flip::apply(out, self.size);
        }
        if stream.chance(self.jitter) {
            for change in jitter::draw(stream, &self.strength).into_iter().flatten() {
                jitter::apply(out, change);
            }
        }
        if stream.chance(self.grayscale) {
            grayscale::apply(out);
        }
        if stream.chance(self.blur) {
            let sigma = stream.range(self.blur_sigma.0, self.blur_sigma.1) as f32;
            tools.blur.apply(out, (self.size, self.size), sigma);
        }
        if stream.chance(self.solarize) {
            solarize::apply(out, self.solarize_threshold);
        }
        normalize::apply(out, self.mean, self.std);
        flipped
    }
}

impl SampleView for Crop {
    fn forms(&self, content: Content, name: &str) -> Result<Vec<Form>> {
        match content {
            Content::Images => Ok(vec![Form::f32("pixels", &[3, self.size, self.size])]),
            Content::Sounds { .. } => Ok(vec![Form::f32("pixels", &[1, self.size, self.size])]),
            Content::Vectors { .. } => Err(Error::asked_wrongly(format!(
                "the view `{name}` needs pictures and the data are vectors"
            ))
            .hint("ask for `vector@1` views, or give pictures as data")),
        }
    }

    fn preprocess(&self) -> Preprocess {
        let (grayscale, mean, std) = (self.grayscale >= 1.0, self.mean, self.std);
        Preprocess { grayscale, mean, std, ..Preprocess::default() }
    }

    fn make(
        &self,
        sample: &Sample,
        stream: &mut Stream,
        tools: &mut Tools,
        fields: &mut [Values],
    ) -> Result<Trace> {
        let (image, pixels) = match (sample, fields) {
            (Sample::Image(image), [pixels]) => (image, pixels),
            (Sample::Sound(sound), [pixels]) => return self.hear(sound, stream, tools, pixels),
            _ => return Err(Error::failed("a sample is no picture, though the data are")),
        };
        let (width, height) = (image.width, image.height);
        let part = crop::draw(stream, (width, height), self.scale, self.ratio);
        tools.resample.apply(image, part, (self.size, self.size), &mut tools.pixels)?;
        let flipped = self.augment(stream, tools, pixels.f32_mut());
        Ok(Trace { part: part.relative(width, height), flipped, ..Trace::default() })
    }
}

inventory::submit! {
    ViewDef {
        name: "crop",
        revision: 1,
        settings: KEYS,
        resolve: |settings| Ok(View::Sample(Arc::new(Crop::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ViewRequest;

    fn crop(size: f64) -> ViewRequest {
        ViewRequest::new("global", "crop", 1, 2).with("size", size)
    }

    #[test]
    fn parameters_arrive_and_the_rest_has_defaults() {
        let request = crop(32.0).with("scale_min", 0.4).with("blur", 1.0).with("std", 0.5);
        let crop = Crop::new(&Settings::new(&request)).unwrap();
        assert_eq!((crop.size, crop.scale, crop.blur), (32, (0.4, 1.0), 1.0));
        assert_eq!((crop.flip, crop.jitter, crop.solarize_threshold), (0.5, 0.0, 128.0));
        assert_eq!((crop.mean, crop.std), (IMAGENET_MEAN, [0.5; 3]));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_a_suggestion() {
        let error = crop(32.0).with("solarise", 0.2).resolve().unwrap_err();
        assert_eq!(error.message(), "the view `global` (`crop@1`) has no parameter `solarise`");
        assert_eq!(error.hint_text(), Some("did you mean `solarize`?"));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (request, key) in [
            (crop(0.0), "size"),
            (crop(32.5), "size"),
            (crop(32.0).with("flip", 1.5), "flip"),
            (crop(32.0).with("hue", 0.6), "hue"),
            (crop(32.0).with("scale_min", 0.9).with("scale_max", 0.5), "scale_min"),
            (crop(32.0).with("blur", f64::NAN), "blur"),
            (crop(32.0).with_list("mean", &[0.5, 0.5]), "mean"),
            (crop(32.0).with("std", 0.0), "std"),
            (crop(32.0).with_list("flip", &[0.5]), "flip"),
            (crop(32.0).with_text("flip", "often"), "flip"),
        ] {
            let error = request.resolve().unwrap_err();
            assert!(error.message().contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn views_that_do_not_fit_the_data_are_refused() {
        let View::Sample(view) = crop(32.0).resolve().unwrap() else { panic!("of a sample") };
        let forms = view.forms(Content::Images, "global").unwrap();
        assert_eq!(forms, [Form::f32("pixels", &[3, 32, 32])]);
        assert!(view.forms(Content::Vectors { dim: 4 }, "global").is_err());
        let forms = view.forms(Content::Sounds { rate: 16_000 }, "global").unwrap();
        assert_eq!(forms, [Form::f32("pixels", &[1, 32, 32])]);
    }

    #[test]
    fn a_whole_crop_of_a_sound_is_its_spectrogram_and_a_part_has_its_share() {
        let wave: Vec<f32> = (0..16_000).map(|i| (i as f32 * i as f32 * 1e-5).sin()).collect();
        let sample = Sample::Sound(Sound { rate: 16_000, wave: wave.clone() });
        let made = |request: &ViewRequest| {
            let crop = Crop::new(&Settings::new(request)).unwrap();
            let mut fields = [Values::F32(vec![0.0; 64 * 64])];
            let (mut tools, mut stream) = (Tools::default(), Stream::new(0, "crop", 0, 0));
            let trace = crop.make(&sample, &mut stream, &mut tools, &mut fields).unwrap();
            (fields[0].f32().to_vec(), trace)
        };
        let square = |request: ViewRequest| request.with("ratio_min", 1.0).with("ratio_max", 1.0);
        let (whole, trace) = made(&square(crop(64.0).with("scale_min", 1.0)));
        assert_eq!(trace.part, [0.0, 0.0, 1.0, 1.0]);
        let mut picture = Vec::new();
        let mut spectrogram = crate::data::sound::spectrogram::Spectrogram::new(16_000, BANDS);
        let frames = spectrogram.normalised(&wave, &mut picture);
        let means = |rows: &[f32], width: usize| -> Vec<f32> {
            rows.chunks_exact(width).map(|row| row.iter().sum::<f32>() / width as f32).collect()
        };
        for (got, want) in means(&whole, 64).iter().zip(means(&picture, frames)) {
            assert!((got - want).abs() < 0.05, "{got}, not {want}");
        }
        let quarter = crop(64.0).with("scale_min", 0.25).with("scale_max", 0.25);
        let (_, trace) = made(&square(quarter));
        assert_eq!(trace.part[2..], [0.5, 0.5]);
    }
}
