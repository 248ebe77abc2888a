//! What a view does to every sample alike, with nothing drawn: whoever asks the network about samples does it too,
//! or the network meets what it never learned from.

use super::normalize::{IMAGENET_MEAN, IMAGENET_STD, planes_of};
use super::{channels, grayscale, normalize};

/// Added to the variance of a sound, as layer norm does.
const EPS: f32 = 1e-5;

/// Preprocessing of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocess {
    /// Whether pictures lose their colour.
    pub grayscale: bool,
    /// Taken from each channel of a picture, whose values are 0 to 1.
    pub mean: [f32; 3],
    /// Each channel of a picture is divided by it.
    pub std: [f32; 3],
    /// Whether each sound gets mean 0 and variance 1.
    pub normalise: bool,
}

impl Default for Preprocess {
    fn default() -> Self {
        Self { grayscale: false, mean: IMAGENET_MEAN, std: IMAGENET_STD, normalise: false }
    }
}

impl Preprocess {
    /// A picture `rgb` `[H, W, 3]` as a network takes it, `[3, H, W]`.
    pub fn picture(&self, rgb: &[u8]) -> Vec<f32> {
        let mut planes = vec![0.0; rgb.len()];
        planes_of(rgb, &mut planes);
        if self.grayscale {
            grayscale::apply(&mut planes);
        }
        normalize::apply(&mut planes, self.mean, self.std);
        planes
    }

    /// From `planes` `[3, H, W]` as a network takes them to a picture `[H, W, 3]` for people.
    pub fn shown(&self, planes: &[f32]) -> Vec<u8> {
        let mut planes = planes.to_vec();
        let mut rgb = vec![0; planes.len()];
        for (channel, plane) in channels(&mut planes).into_iter().enumerate() {
            for (pixel, value) in rgb[channel..].iter_mut().step_by(3).zip(plane) {
                let shade = 255.0 * (*value * self.std[channel] + self.mean[channel]);
                *pixel = shade.round().clamp(0.0, 255.0) as u8;
            }
        }
        rgb
    }

    /// Brings a sound `wave` to what a network takes.
    pub fn sound(&self, wave: &mut [f32]) {
        if !self.normalise {
            return;
        }
        let n = wave.len().max(1) as f32;
        let mean = wave.iter().sum::<f32>() / n;
        let variance = wave.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
        let scale = 1.0 / (variance + EPS).sqrt();
        wave.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_comes_back_from_what_a_network_takes() {
        let rgb: Vec<u8> = (0..48).map(|i| (i * 5) as u8).collect();
        let preprocess = Preprocess { std: [0.5; 3], ..Preprocess::default() };
        assert_eq!(preprocess.shown(&preprocess.picture(&rgb)), rgb);
    }

    #[test]
    fn a_gray_picture_has_the_light_of_its_pixels_in_every_channel() {
        let plain = Preprocess { mean: [0.0; 3], std: [1.0; 3], ..Preprocess::default() };
        let gray = Preprocess { grayscale: true, ..plain };
        let planes = gray.picture(&[255, 0, 0, 255, 255, 255]);
        for (value, light) in planes.iter().zip([0.299, 1.0, 0.299, 1.0, 0.299, 1.0]) {
            assert!((value - light).abs() < 1e-5, "{value} {light}");
        }
    }

    #[test]
    fn a_sound_changes_only_where_it_is_asked_to() {
        let mut wave = [1.0, 3.0];
        Preprocess::default().sound(&mut wave);
        assert_eq!(wave, [1.0, 3.0]);
        Preprocess { normalise: true, ..Preprocess::default() }.sound(&mut wave);
        assert!((wave[0] + 1.0).abs() < 1e-4 && (wave[1] - 1.0).abs() < 1e-4, "{wave:?}");
    }
}
