//! Built-in speech, so that methods for sound need no download: ten words of two syllables, said by synthetic
//! speakers who differ in vocal tract, pitch, pace and breath, in rooms of their own.
//!
//! The speakers of the test split are not those of the train split. Words come in pairs of the same syllables in
//! either order, so that what is heard on the average doesn't tell a word. Sample `i` of a split is a pure
//! function of (seed, split, i, rate).

use std::sync::Arc;

use super::phones::WORDS;
use super::voice::{Speaker, Utterance, speak};
use super::{Certainty, Content, Dataset, Kind, MOST_SAMPLES, OpenOptions, Sample, Split, counted};
use crate::random::Stream;
use crate::{Error, Result};

const TRAIN: usize = 4_000;
const TEST: usize = 1_000;
/// Speakers to learn from, and those that probes ask about.
const SPEAKERS: [u64; 2] = [24, 8];

inventory::submit! {
    Kind {
        name: "speech",
        opens: "speech or speech:COUNT",
        help: "built-in speech: 10 words by 24 synthetic speakers, COUNT to learn from (4000), asked about by 8 others",
        recognise: |source| if source == "speech" { Certainty::Yes } else { Certainty::No },
        open: |source, options| Ok(Arc::new(Speech::open(source, options)?)),
    }
}

#[derive(Debug)]
struct Speech {
    len: usize,
    seed: u64,
    split: Split,
    rate: u32,
    class_names: Vec<String>,
}

impl Speech {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let train = match source.strip_prefix("speech").unwrap_or(source).trim_start_matches(':') {
            "" => TRAIN,
            text => text
                .parse()
                .ok()
                .filter(|count| (1..=MOST_SAMPLES).contains(count))
                .ok_or_else(|| {
                    Error::asked_wrongly(format!("`speech:{text}` is no count of built-in sounds"))
                        .hint("write `speech:COUNT`, such as `speech:1000`")
                })?,
        };
        let len = if options.split == Split::Train { train } else { TEST };
        let class_names = WORDS.map(str::to_owned).to_vec();
        Ok(Self { len, seed: options.seed, split: options.split, rate: options.rate, class_names })
    }

    /// The number of the speaker of sample `index`; no speaker has a word of their own.
    fn speaker_of(&self, index: usize) -> u64 {
        let [train, test] = SPEAKERS;
        let turn = (index / WORDS.len()) as u64;
        if self.split == Split::Train { turn % train } else { train + turn % test }
    }

    fn word_of(index: usize) -> &'static str {
        WORDS[index % WORDS.len()]
    }

    /// What sample `index` will be, and the stream that goes on making it.
    fn plan(&self, index: usize) -> (Speaker, Utterance, Stream) {
        let number = self.speaker_of(index);
        let speaker = Speaker::draw(&mut Stream::new(self.seed, "speech:speaker", number, 0));
        let name = if self.split == Split::Train { "speech:train" } else { "speech:test" };
        let mut stream = Stream::new(self.seed, name, index as u64, 0);
        let utterance = Utterance::draw(Self::word_of(index), &speaker, &mut stream);
        (speaker, utterance, stream)
    }
}

/// The way to the listener: loudness, a tilt of the spectrum, and noise behind it all.
fn room(stream: &mut Stream, wave: &mut [f32]) {
    let between = |stream: &mut Stream, low, high| stream.range(low, high) as f32;
    let gain = 10_f32.powf(between(stream, -20.0, -3.0) / 20.0);
    let floor = gain * 10_f32.powf(between(stream, -50.0, -25.0) / 20.0);
    let tilt = between(stream, -0.5, 0.5);
    let mut past = 0.0;
    for value in wave {
        let present = *value;
        *value = gain * (present - tilt * past) + floor * stream.normal() as f32;
        past = present;
    }
}

impl Dataset for Speech {
    fn len(&self) -> usize {
        self.len
    }

    fn content(&self) -> Content {
        Content::Sounds { rate: self.rate }
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        let (speaker, utterance, mut stream) = self.plan(index);
        let sound = sample.sound_mut();
        sound.rate = self.rate;
        speak(&utterance, &speaker, self.rate, &mut stream, &mut sound.wave);
        room(&mut stream, &mut sound.wave);
        Ok(())
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some((index % WORDS.len()) as u32)
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        let (word, speaker) = (Self::word_of(index), self.speaker_of(index));
        format!("speech:{}:{word}_{speaker}_{index}", self.split)
    }

    fn extent(&self, index: usize) -> Option<u64> {
        Some(self.plan(index).1.values(self.rate) as u64)
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        format!("built-in speech: {}", counted(self, &format!("sounds at {} Hz", self.rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;
    use crate::data::sound::mfcc;

    fn split(split: Split, limit: Option<usize>) -> Arc<dyn Dataset> {
        open("speech", &OpenOptions { split, limit, ..Default::default() }).unwrap()
    }

    fn wave(dataset: &dyn Dataset, index: usize) -> Vec<f32> {
        let Sample::Sound(sound) = dataset.sample(index).unwrap() else { panic!("a sound") };
        sound.wave
    }

    #[test]
    fn a_sound_depends_on_seed_split_and_index_only() {
        let (train, test) = (split(Split::Train, None), split(Split::Test, None));
        assert_eq!((train.len(), test.len(), train.class_names().len()), (4_000, 1_000, 10));
        assert_eq!(wave(train.as_ref(), 5), wave(train.as_ref(), 5));
        assert_ne!(wave(train.as_ref(), 5), wave(test.as_ref(), 5));
        let other = open("speech:20", &OpenOptions { seed: 1, ..Default::default() }).unwrap();
        assert_ne!(wave(train.as_ref(), 5), wave(other.as_ref(), 5));
        assert!(open("speech:none", &OpenOptions::default()).is_err());
    }

    #[test]
    fn sounds_are_finite_words_of_less_than_two_seconds_and_their_length_is_known_before() {
        let train = split(Split::Train, None);
        for index in (0..4_000).step_by(401) {
            let wave = wave(train.as_ref(), index);
            assert_eq!(train.extent(index), Some(wave.len() as u64));
            assert!((3_000..32_000).contains(&wave.len()), "{}: {}", index, wave.len());
            assert!(wave.iter().all(|x| x.abs() < 2.0));
        }
    }

    #[test]
    fn no_speaker_is_in_both_splits() {
        let speakers = |dataset: &dyn Dataset| {
            let of = |i| dataset.name(i).split('_').nth(1).unwrap().to_owned();
            (0..dataset.len()).map(of).collect::<std::collections::BTreeSet<_>>()
        };
        let (train, test) = (split(Split::Train, None), split(Split::Test, None));
        let (train, test) = (speakers(train.as_ref()), speakers(test.as_ref()));
        assert_eq!((train.len(), test.len()), (24, 8));
        assert!(train.is_disjoint(&test));
    }

    #[test]
    fn neighbours_in_mean_mfcc_leave_much_to_learn() {
        let (bank, queries) = (split(Split::Train, Some(500)), split(Split::Test, Some(150)));
        let of = |data: &dyn Dataset, i: usize| mfcc::summary(&wave(data, i), 16_000);
        let rows: Vec<_> = (0..bank.len()).map(|i| of(bank.as_ref(), i)).collect();
        let right = (0..queries.len())
            .filter(|query| {
                let asked = of(queries.as_ref(), *query);
                let far = |row: &Vec<f32>| {
                    row.iter().zip(&asked).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
                };
                let best = (0..rows.len()).min_by(|a, b| far(&rows[*a]).total_cmp(&far(&rows[*b])));
                bank.label(best.unwrap()) == queries.label(*query)
            })
            .count();
        assert!((20..90).contains(&right), "{right} of 150 found by mean MFCC");
    }
}
