//! What the loader shall make of every sample, in the words of a method's declaration: a kind with a
//! revision, a count, and parameters by name.

use std::collections::BTreeMap;

use super::dataset::Content;
use super::transform::jitter::Strength;
use super::transform::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use crate::error::did_you_mean;
use crate::{Error, Result};

/// A parameter of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number; flags are 0 and 1.
    Number(f64),
    /// Several, such as one per channel.
    List(Vec<f64>),
}

/// Views of one set of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRequest {
    /// What the method calls them: `global`, `local`.
    pub name: String,
    /// The kind, such as `crop`.
    pub kind: String,
    /// Revision of the kind, from 1.
    pub revision: u32,
    /// How many, each drawn anew.
    pub count: usize,
    /// Parameters by name; those left out have the kind's defaults.
    pub params: BTreeMap<String, Value>,
}

/// All views of a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewPlan {
    /// In the order of the batch.
    pub views: Vec<ViewRequest>,
}

/// A checked view.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum View {
    /// `crop@1`: an augmented crop of a picture, `[3, size, size]`.
    Crop(Crop),
    /// `vector@1`: a vector, maybe noisy, `[D]`.
    Vector(VectorView),
    /// `sample-index@1`: which sample it is; comes with every batch.
    SampleIndex,
}

/// Kinds that a method may ask for and this host doesn't offer yet.
const LATER: [&str; 7] =
    ["block-mask", "crop-box", "random-mask", "span-mask", "spectrogram", "units", "waveform"];

const OFFERED: [&str; 3] = ["crop", "sample-index", "vector"];

/// Parameters of `crop@1`. The transforms act in this order: box, resize, flip, jitter, grayscale, blur,
/// solarize, normalise.
#[derive(Clone, Debug, PartialEq)]
pub struct Crop {
    /// Side of the view in pixels.
    pub size: usize,
    /// Area of the box as a share of the picture, lowest and highest.
    pub scale: (f64, f64),
    /// Width / height of the box, lowest and highest.
    pub ratio: (f64, f64),
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Probability of colour jitter.
    pub jitter: f64,
    /// How strong the jitter is.
    pub strength: Strength,
    /// Probability of grayscale.
    pub grayscale: f64,
    /// Probability of blur.
    pub blur: f64,
    /// Standard deviation of the blur in pixels of the view, lowest and highest.
    pub blur_sigma: (f64, f64),
    /// Probability of solarization.
    pub solarize: f64,
    /// Values from here on (0 to 256) are turned.
    pub solarize_threshold: f32,
    /// Taken from each channel (0 to 1).
    pub mean: [f32; 3],
    /// Each channel is divided by it.
    pub std: [f32; 3],
}

/// Parameters of `vector@1`.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorView {
    /// Standard deviation of noise added to each element.
    pub noise: f64,
    /// Probability that an element becomes 0 (the others keep their size).
    pub dropout: f64,
}

const CROP_KEYS: [&str; 19] = [
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

const VECTOR_KEYS: [&str; 2] = ["noise", "dropout"];

impl ViewRequest {
    /// A request without parameters.
    pub fn new(name: &str, kind: &str, revision: u32, count: usize) -> Self {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Self { name, kind, revision, count, params: BTreeMap::new() }
    }

    /// With a number set.
    #[must_use]
    pub fn with(mut self, key: &str, value: f64) -> Self {
        self.params.insert(key.to_owned(), Value::Number(value));
        self
    }

    /// With a list set.
    #[must_use]
    pub fn with_list(mut self, key: &str, values: &[f64]) -> Self {
        self.params.insert(key.to_owned(), Value::List(values.to_vec()));
        self
    }

    /// Checks kind, revision and parameters.
    ///
    /// # Errors
    /// When the host doesn't offer the kind, or a parameter is unknown, missing or out of range.
    pub fn resolve(&self) -> Result<View> {
        self.offered()?;
        match (self.kind.as_str(), self.revision) {
            ("crop", 1) => self.crop().map(View::Crop),
            ("vector", 1) => self.vector().map(View::Vector),
            ("sample-index", 1) => self.known(&[]).map(|()| View::SampleIndex),
            _ => Err(self.not_offered()),
        }
    }

    /// Checks that this host has the kind, in that revision.
    ///
    /// # Errors
    /// When it does not, with what it has.
    pub fn offered(&self) -> Result<()> {
        let known = self.revision == 1 && OFFERED.contains(&self.kind.as_str());
        if known { Ok(()) } else { Err(self.not_offered()) }
    }

    fn not_offered(&self) -> Error {
        let message = format!("this host offers no view kind `{}@{}`", self.kind, self.revision);
        let error = Error::asked_wrongly(message);
        if OFFERED.contains(&self.kind.as_str()) {
            return error.hint(format!("it offers `{}@1`; a newer host may offer more", self.kind));
        }
        let near = did_you_mean(&self.kind, OFFERED);
        match near.filter(|_| !LATER.contains(&self.kind.as_str())) {
            Some(near) => error.hint(format!("did you mean `{near}@1`?")),
            None => error.hint("it offers `crop@1`, `sample-index@1` and `vector@1`"),
        }
    }

    fn crop(&self) -> Result<Crop> {
        self.known(&CROP_KEYS)?;
        let size = self.number("size", 0.0, (1.0, 4096.0))?;
        if size.fract() != 0.0 {
            return Err(self.wrong("size", &format!("{size}"), "a whole number of pixels"));
        }
        Ok(Crop {
            size: size as usize,
            scale: self.pair(["scale_min", "scale_max"], (0.08, 1.0), (1e-6, 1.0))?,
            ratio: self.pair(["ratio_min", "ratio_max"], (0.75, 4.0 / 3.0), (1e-3, 1e3))?,
            flip: self.chance("flip", 0.5)?,
            jitter: self.chance("jitter", 0.0)?,
            strength: Strength {
                brightness: self.number("brightness", 0.0, (0.0, 10.0))?,
                contrast: self.number("contrast", 0.0, (0.0, 10.0))?,
                saturation: self.number("saturation", 0.0, (0.0, 10.0))?,
                hue: self.number("hue", 0.0, (0.0, 0.5))?,
            },
            grayscale: self.chance("grayscale", 0.0)?,
            blur: self.chance("blur", 0.0)?,
            blur_sigma: self.pair(["blur_min", "blur_max"], (0.1, 2.0), (0.0, 100.0))?,
            solarize: self.chance("solarize", 0.0)?,
            solarize_threshold: self.number("solarize_threshold", 128.0, (0.0, 256.0))? as f32,
            mean: self.channels("mean", IMAGENET_MEAN, (-10.0, 10.0))?,
            std: self.channels("std", IMAGENET_STD, (1e-6, 1e6))?,
        })
    }

    fn vector(&self) -> Result<VectorView> {
        self.known(&VECTOR_KEYS)?;
        Ok(VectorView {
            noise: self.number("noise", 0.0, (0.0, 1e6))?,
            dropout: self.chance("dropout", 0.0)?,
        })
    }

    /// Refuses parameters that aren't among `keys`.
    fn known(&self, keys: &[&'static str]) -> Result<()> {
        let Some(key) = self.params.keys().find(|key| !keys.contains(&key.as_str())) else {
            return Ok(());
        };
        let (kind, revision, name) = (&self.kind, self.revision, &self.name);
        let message = format!("the view `{name}` (`{kind}@{revision}`) has no parameter `{key}`");
        let error = Error::asked_wrongly(message);
        Err(match did_you_mean(key, keys.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if keys.is_empty() => error.hint("it has none"),
            None => error.hint(format!("it has: {}", keys.join(", "))),
        })
    }

    fn wrong(&self, key: &str, got: &str, expected: &str) -> Error {
        Error::asked_wrongly(format!("`{key}` of the view `{}` is {got}", self.name))
            .hint(format!("give {expected}"))
    }

    fn number(&self, key: &str, default: f64, (low, high): (f64, f64)) -> Result<f64> {
        let value = match self.params.get(key) {
            None => default,
            Some(Value::Number(value)) => *value,
            Some(Value::List(_)) => return Err(self.wrong(key, "a list", "one number")),
        };
        if (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(self.wrong(key, &format!("{value}"), &format!("a number from {low} to {high}")))
    }

    fn chance(&self, key: &str, default: f64) -> Result<f64> {
        self.number(key, default, (0.0, 1.0))
    }

    fn pair(
        &self,
        [low_key, high_key]: [&str; 2],
        default: (f64, f64),
        range: (f64, f64),
    ) -> Result<(f64, f64)> {
        let low = self.number(low_key, default.0, range)?;
        let high = self.number(high_key, default.1, range)?;
        if low > high {
            let expected = format!("a number up to `{high_key}`, which is {high}");
            return Err(self.wrong(low_key, &format!("{low}"), &expected));
        }
        Ok((low, high))
    }

    /// One number per channel, or one for all.
    fn channels(&self, key: &str, default: [f32; 3], (low, high): (f64, f64)) -> Result<[f32; 3]> {
        let values = match self.params.get(key) {
            None => return Ok(default),
            Some(Value::Number(value)) => [*value; 3],
            Some(Value::List(values)) => <[f64; 3]>::try_from(values.as_slice()).map_err(|_| {
                self.wrong(key, &format!("a list of {}", values.len()), "one or three numbers")
            })?,
        };
        match values.iter().find(|value| !(low..=high).contains(*value)) {
            None => Ok(values.map(|value| value as f32)),
            Some(bad) => {
                Err(self.wrong(key, &format!("{bad}"), &format!("numbers from {low} to {high}")))
            }
        }
    }
}

impl View {
    /// Shape of one sample's view, without the batch; empty for `sample-index`.
    pub fn shape(&self, content: Content) -> Vec<usize> {
        match (self, content) {
            (Self::Crop(crop), _) => vec![3, crop.size, crop.size],
            (Self::Vector(_), Content::Vectors { dim }) => vec![dim],
            (Self::Vector(_) | Self::SampleIndex, _) => Vec::new(),
        }
    }

    /// Refuses pictures where vectors are needed, and the reverse.
    pub(super) fn check(&self, content: Content, name: &str) -> Result<()> {
        let (wants, hint) = match (self, content) {
            (Self::Crop(_), Content::Vectors { .. }) => {
                ("pictures and the data are vectors", "`vector@1` views, or give pictures as data")
            }
            (Self::Vector(_), Content::Images) => {
                ("vectors and the data are pictures", "`crop@1` views, or give a .npy file as data")
            }
            _ => return Ok(()),
        };
        Err(Error::asked_wrongly(format!("the view `{name}` needs {wants}"))
            .hint(format!("ask for {hint}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crop(size: f64) -> ViewRequest {
        ViewRequest::new("global", "crop", 1, 2).with("size", size)
    }

    #[test]
    fn parameters_arrive_and_the_rest_has_defaults() {
        let request = crop(32.0).with("scale_min", 0.4).with("blur", 1.0).with("std", 0.5);
        let View::Crop(crop) = request.resolve().unwrap() else { panic!("a crop") };
        assert_eq!((crop.size, crop.scale, crop.blur), (32, (0.4, 1.0), 1.0));
        assert_eq!((crop.flip, crop.jitter, crop.solarize_threshold), (0.5, 0.0, 128.0));
        assert_eq!((crop.mean, crop.std), (IMAGENET_MEAN, [0.5; 3]));
        let vector = ViewRequest::new("v", "vector", 1, 1).with("noise", 0.1).resolve().unwrap();
        assert_eq!(vector, View::Vector(VectorView { noise: 0.1, dropout: 0.0 }));
        assert_eq!(
            ViewRequest::new("i", "sample-index", 1, 1).resolve().unwrap(),
            View::SampleIndex
        );
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
        ] {
            let error = request.resolve().unwrap_err();
            assert!(error.message().contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn kinds_that_are_not_offered_are_refused_in_words() {
        for kind in LATER {
            let error = ViewRequest::new("m", kind, 1, 1).resolve().unwrap_err();
            assert_eq!(error.message(), format!("this host offers no view kind `{kind}@1`"));
        }
        let error = ViewRequest::new("g", "crop", 2, 1).resolve().unwrap_err();
        assert_eq!(error.message(), "this host offers no view kind `crop@2`");
        let error = ViewRequest::new("g", "corp", 1, 1).resolve().unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `crop@1`?"));
    }

    #[test]
    fn views_that_do_not_fit_the_data_are_refused() {
        let view = crop(32.0).resolve().unwrap();
        assert_eq!(view.shape(Content::Images), [3, 32, 32]);
        assert!(view.check(Content::Images, "global").is_ok());
        assert!(view.check(Content::Vectors { dim: 4 }, "global").is_err());
    }
}
