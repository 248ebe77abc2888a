//! The phones that built-in speech is made of, and its words.

/// One part of a phone with a steady target; a stop is a closure, a burst and a breath.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Length of time at a medium rate, in seconds.
    pub seconds: f32,
    /// The first three formants of a medium vocal tract, in Hz.
    pub formants: [f32; 3],
    /// Strength of the voice.
    pub voice: f32,
    /// Strength of the noise of a narrow passage.
    pub noise: f32,
    /// Where that noise is loudest, and how wide it is, in Hz.
    pub noise_band: [f32; 2],
}

/// A phone without noise.
const fn voiced(seconds: f32, formants: [f32; 3], voice: f32) -> Segment {
    Segment { seconds, formants, voice, noise: 0.0, noise_band: [4000.0, 1000.0] }
}

/// Noise of a passage, while the tract is held at `formants`.
const fn hiss(seconds: f32, formants: [f32; 3], noise: f32, noise_band: [f32; 2]) -> Segment {
    Segment { seconds, formants, voice: 0.0, noise, noise_band }
}

/// The phone written as `letter`. Vowels as men say them (Peterson and Barney 1952), consonants by the usual
/// loci (Stevens 1998).
fn phone(letter: char) -> &'static [Segment] {
    const ALVEOLAR: [f32; 3] = [220.0, 1750.0, 2650.0];
    const VELAR: [f32; 3] = [220.0, 1900.0, 2150.0];
    const DENTAL: [f32; 3] = [300.0, 1100.0, 2200.0];
    match letter {
        'a' => const { &[voiced(0.13, [730.0, 1090.0, 2440.0], 1.0)] },
        'e' => const { &[voiced(0.12, [530.0, 1840.0, 2480.0], 0.9)] },
        'i' => const { &[voiced(0.12, [270.0, 2290.0, 3010.0], 0.8)] },
        'o' => const { &[voiced(0.13, [570.0, 840.0, 2410.0], 0.9)] },
        'u' => const { &[voiced(0.12, [300.0, 870.0, 2240.0], 0.8)] },
        'm' => const { &[voiced(0.08, [280.0, 1000.0, 2200.0], 0.35)] },
        'n' => const { &[voiced(0.08, [280.0, 1700.0, 2600.0], 0.35)] },
        'l' => const { &[voiced(0.08, [360.0, 1300.0, 2700.0], 0.5)] },
        'r' => const { &[voiced(0.09, [420.0, 1300.0, 1600.0], 0.5)] },
        'w' => const { &[voiced(0.08, [290.0, 610.0, 2150.0], 0.5)] },
        's' => const { &[hiss(0.12, ALVEOLAR, 0.35, [5800.0, 1500.0])] },
        'f' => const { &[hiss(0.11, DENTAL, 0.12, [4200.0, 4000.0])] },
        't' => {
            const {
                &[
                    hiss(0.06, ALVEOLAR, 0.0, [4000.0, 2000.0]),
                    hiss(0.015, ALVEOLAR, 0.6, [4000.0, 2000.0]),
                    hiss(0.03, ALVEOLAR, 0.1, [3000.0, 3000.0]),
                ]
            }
        }
        'k' => {
            const {
                &[
                    hiss(0.06, VELAR, 0.0, [1900.0, 500.0]),
                    hiss(0.02, VELAR, 0.6, [1900.0, 500.0]),
                    hiss(0.035, VELAR, 0.1, [1900.0, 1500.0]),
                ]
            }
        }
        'd' => {
            const {
                &[
                    voiced(0.05, ALVEOLAR, 0.12),
                    Segment {
                        noise: 0.35,
                        noise_band: [3600.0, 2000.0],
                        ..voiced(0.012, ALVEOLAR, 0.3)
                    },
                ]
            }
        }
        _ => &[],
    }
}

/// The words: in each pair the same two syllables in either order, so that the sounds alone, without their
/// order, don't tell a word.
pub(super) const WORDS: [&str; 10] =
    ["sami", "misa", "tako", "kota", "luna", "nalu", "fedo", "dofe", "riwa", "wari"];

/// The segments of a word in order, each with whether it belongs to the second syllable.
pub(super) fn segments(word: &str) -> impl Iterator<Item = (Segment, bool)> + '_ {
    word.chars()
        .enumerate()
        .flat_map(|(place, letter)| phone(letter).iter().map(move |part| (*part, place >= 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_of_every_word_has_a_sound() {
        for word in WORDS {
            assert!(word.chars().all(|letter| !phone(letter).is_empty()), "{word}");
            assert!(segments(word).count() >= 4);
        }
    }

    #[test]
    fn a_pair_of_words_has_the_same_letters() {
        for [a, b] in WORDS.as_chunks::<2>().0 {
            let sorted = |word: &str| {
                let mut letters: Vec<char> = word.chars().collect();
                letters.sort_unstable();
                letters
            };
            assert!(a != b && sorted(a) == sorted(b));
        }
    }
}
