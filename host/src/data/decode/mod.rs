//! Decoding: file bytes to pixels, or to a waveform at the rate that was asked for.

pub mod image;
mod resample;
pub mod sound;

use crate::Result;
use crate::data::dataset::Sample;

/// What a file holds, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Medium {
    /// A picture: JPEG or PNG.
    Picture,
    /// A sound: WAV or FLAC.
    Sound,
}

impl Medium {
    /// What a file of this name holds; none where no decoder knows it.
    pub fn of(name: &str) -> Option<Self> {
        if image::is_image(name) {
            Some(Self::Picture)
        } else if sound::is_sound(name) {
            Some(Self::Sound)
        } else {
            None
        }
    }

    /// The medium of most of `names`, by which a source of both is taken for one of them; none where no
    /// file can be decoded.
    pub fn of_most(names: &[String]) -> Option<Self> {
        let count = |medium| names.iter().filter(|name| Self::of(name) == Some(medium)).count();
        match (count(Self::Picture), count(Self::Sound)) {
            (0, 0) => None,
            (pictures, sounds) if sounds > pictures => Some(Self::Sound),
            _ => Some(Self::Picture),
        }
    }

    /// The word for several samples.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Picture => "images",
            Self::Sound => "sounds",
        }
    }

    /// Decodes a file's `bytes` into `sample`, reusing its buffer; a sound comes at `rate` values a second.
    ///
    /// # Errors
    /// When the bytes are no file of this medium, are truncated, or are broken.
    pub fn decode(self, bytes: &[u8], rate: u32, sample: &mut Sample) -> Result<()> {
        match self {
            Self::Picture => image::decode(bytes, sample.image_mut()),
            Self::Sound => {
                let sound = sample.sound_mut();
                sound.rate = rate;
                sound::decode(bytes, rate, &mut sound.wave)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_both_media_is_what_most_of_its_files_are() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(Medium::of_most(&names(&["a.wav", "b.FLAC", "cover.png"])), Some(Medium::Sound));
        assert_eq!(Medium::of_most(&names(&["a.wav", "b.jpg"])), Some(Medium::Picture));
        assert_eq!(Medium::of_most(&names(&["notes.txt"])), None);
    }
}
