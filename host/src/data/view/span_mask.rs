//! `span-mask@1`: spans of frames to predict.
//! Hsu et al. 2021, <https://arxiv.org/abs/2106.07447>, section II.B, after wav2vec 2.0, as the authors'
//! code draws them.

use std::sync::Arc;

use super::kind::{BatchView, Drawing, View, ViewDef};
use super::settings::Settings;
use crate::data::field::Field;
use crate::random::Stream;
use crate::{Error, Result};

/// Parameters of `span-mask@1`; field `mask` u8 `[B, F]`, 1 where a token is hidden.
#[derive(Clone, Debug, PartialEq)]
struct SpanMask {
    of: String,
    /// Tokens of a span.
    length: usize,
    /// Spans times length, as a share of the tokens; overlaps make the hidden share smaller.
    probability: f64,
    /// Spans of a sample, at least.
    min_spans: usize,
    /// Whether spans may overlap.
    overlap: bool,
    /// Whether every sample of a batch hides as many tokens as the one that hides fewest, of those with two tokens or more.
    same_count: bool,
}

impl SpanMask {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        Ok(Self {
            of: settings.text("of")?.to_owned(),
            length: settings.whole("length", 10.0, (1.0, 1e6))?,
            probability: settings.chance("probability", 0.8)?,
            min_spans: settings.whole("min_spans", 2.0, (1.0, 1e6))?,
            overlap: settings.flag("overlap", true)?,
            same_count: settings.flag("same_count", true)?,
        })
    }

    /// The hidden ones of `frames` tokens, in order. Where a span would leave none, all but the last are hidden: one
    /// sound that is shorter than the others must not end a run.
    fn row(&self, frames: usize, stream: &mut Stream) -> Vec<usize> {
        if frames <= self.length {
            return (0..frames.saturating_sub(1)).collect();
        }
        let wanted = self.probability * frames as f64 / self.length as f64 + stream.uniform();
        let spans = (wanted as usize).max(self.min_spans);
        let starts = if self.overlap {
            // The last possible start is left out, as in the authors' code: the last token stays.
            stream.choose(frames - self.length, spans)
        } else {
            // Any choice of gaps is as likely: spans shrink to one token each, and grow again in order.
            let spans = spans.min((frames - 1) / self.length);
            let places = stream.choose(frames - spans * (self.length - 1), spans);
            places.iter().enumerate().map(|(i, place)| place + i * (self.length - 1)).collect()
        };
        let mut hidden = vec![false; frames];
        for start in starts {
            hidden[start..start + self.length].fill(true);
        }
        (0..frames).filter(|frame| hidden[*frame]).collect()
    }

    /// The tokens of each sample: those of its own length, where the masked view is padded.
    fn frames(drawing: &Drawing<'_>) -> Result<Vec<usize>> {
        match drawing.masked()?.field("lengths") {
            Some(lengths) => {
                let of =
                    |length: &u32| Ok(drawing.grid.tokens(&[*length as usize])?.iter().product());
                lengths.values.u32().iter().map(of).collect()
            }
            None => Ok(vec![drawing.tokens()?.iter().product(); drawing.samples()]),
        }
    }
}

/// Leaves as many tokens of every sample hidden as of the one that hides fewest; which ones is drawn. A sample that can hide
/// none doesn't count: it must not uncover all the others.
fn uncover(hidden: &mut [Vec<usize>], streams: &mut [Stream]) {
    let least = hidden.iter().map(Vec::len).filter(|n| *n > 0).min().unwrap_or(0);
    for (row, stream) in hidden.iter_mut().zip(streams).filter(|(row, _)| !row.is_empty()) {
        *row = stream.choose(row.len(), least).into_iter().map(|i| row[i]).collect();
    }
}

impl BatchView for SpanMask {
    fn of(&self) -> Option<&str> {
        Some(&self.of)
    }

    fn check(&self, grid: &[usize]) -> Result<()> {
        let frames: usize = grid.iter().product();
        if frames > self.length {
            return Ok(());
        }
        let length = self.length;
        Err(Error::asked_wrongly(format!("a span of {length} leaves none of {frames} tokens"))
            .hint("give longer samples, or shorter spans"))
    }

    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>> {
        let (width, frames) = (drawing.tokens()?.iter().product(), Self::frames(drawing)?);
        let copy = |copy: usize| {
            let mut streams: Vec<Stream> =
                (0..drawing.samples()).map(|place| drawing.sample_stream(copy, place)).collect();
            let mut hidden: Vec<Vec<usize>> = (streams.iter_mut().zip(&frames))
                .map(|(stream, frames)| self.row(*frames, stream))
                .collect();
            if self.same_count {
                uncover(&mut hidden, &mut streams);
            }
            let rows = hidden.iter().map(|hidden| {
                let mut row = vec![0; width];
                hidden.iter().for_each(|frame| row[*frame] = 1);
                row
            });
            Ok(vec![Field::u8_rows("mask", &rows.collect::<Vec<_>>())])
        };
        (0..drawing.copies).map(copy).collect()
    }
}

inventory::submit! {
    ViewDef {
        name: "span-mask",
        revision: 1,
        settings: &["of", "length", "probability", "min_spans", "overlap", "same_count"],
        resolve: |settings| Ok(View::Batch(Arc::new(SpanMask::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ViewRequest;

    fn mask(request: &ViewRequest) -> SpanMask {
        SpanMask::new(&Settings::new(request)).unwrap()
    }

    fn request() -> ViewRequest {
        ViewRequest::new("mask", "span-mask", 1, 1)
    }

    #[test]
    fn spans_are_as_long_and_as_many_as_asked() {
        let apart =
            mask(&request().with("overlap", 0.0).with("length", 4.0).with("probability", 0.5));
        let mut stream = Stream::new(0, "spans", 0, 0);
        let (mut total, mut first, mut last) = (0, 0, 0);
        for _ in 0..2000 {
            let hidden = apart.row(50, &mut stream);
            // 0.5 50 / 4 = 6.25 spans: six, or seven in a quarter of the rows.
            assert!([24, 28].contains(&hidden.len()), "{hidden:?}");
            total += hidden.len() / 4;
            first += usize::from(hidden[0] == 0);
            last += usize::from(hidden[hidden.len() - 1] == 49);
        }
        assert!((f64::from(total as u32) / 2000.0 - 6.25).abs() < 0.05);
        assert!(first.abs_diff(last) < 120 && first > 200, "{first} {last}");
    }

    #[test]
    fn the_last_token_is_never_hidden_not_even_of_a_sample_shorter_than_a_span() {
        let plain = mask(&request());
        let mut stream = Stream::new(0, "spans", 1, 0);
        for _ in 0..500 {
            let hidden = plain.row(30, &mut stream);
            assert!(hidden[hidden.len() - 1] < 29 && hidden.len() >= 11, "{hidden:?}");
            assert!(plain.row(11, &mut stream).len() == 10);
        }
        for (frames, hidden) in [(10, 9), (2, 1), (1, 0), (0, 0)] {
            assert_eq!(plain.row(frames, &mut stream).len(), hidden, "{frames} tokens");
        }
    }

    #[test]
    fn a_batch_hides_as_many_tokens_of_each_sample_as_of_the_one_with_fewest_but_for_one_that_hides_none()
     {
        let rows = [vec![1, 2, 3, 7, 8], vec![], vec![4, 5, 6]];
        let mut hidden = rows.clone();
        let mut streams: Vec<_> = (0..3).map(|row| Stream::new(0, "spans", 2, row)).collect();
        uncover(&mut hidden, &mut streams);
        assert_eq!(hidden.each_ref().map(Vec::len), [3, 0, 3]);
        for (left, row) in hidden.iter().zip(&rows) {
            assert!(left.iter().all(|token| row.contains(token)), "{left:?} of {row:?}");
        }
    }

    #[test]
    fn spans_that_leave_no_token_of_the_longest_sample_are_refused() {
        let error = mask(&request()).check(&[10]).unwrap_err();
        assert_eq!(error.message(), "a span of 10 leaves none of 10 tokens");
        assert!(mask(&request()).check(&[11]).is_ok());
    }
}
