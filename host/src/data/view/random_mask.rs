//! `random-mask@1`: an exact share of the tokens of each sample, drawn one by one.

use std::sync::Arc;

use super::kind::{BatchView, Drawing, View, ViewDef};
use super::settings::Settings;
use crate::data::field::Field;
use crate::{Error, Result};

/// Parameters of `random-mask@1`; field `mask` u8 `[B, N]`, 1 where a token is hidden.
#[derive(Clone, Debug, PartialEq)]
struct RandomMask {
    of: String,
    /// Share of the tokens that is hidden; int(N (1 - ratio)) stay, as in MAE.
    ratio: f64,
}

impl RandomMask {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        let (of, ratio) = (settings.text("of")?.to_owned(), settings.chance("ratio", 0.75)?);
        Ok(Self { of, ratio })
    }

    /// How many of `tokens` are hidden.
    fn hidden(&self, tokens: usize) -> usize {
        tokens - (tokens as f64 * (1.0 - self.ratio)) as usize
    }
}

impl BatchView for RandomMask {
    fn of(&self) -> Option<&str> {
        Some(&self.of)
    }

    fn check(&self, grid: &[usize]) -> Result<()> {
        let tokens = grid.iter().product();
        match self.hidden(tokens) {
            0 => Err(Error::asked_wrongly(format!(
                "a ratio of {} hides none of {tokens} tokens",
                self.ratio
            ))
            .hint("raise `ratio`, or make more tokens")),
            _ => Ok(()),
        }
    }

    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>> {
        let tokens = drawing.tokens()?.iter().product();
        let row = |copy: usize, place: usize| {
            let mut row = vec![0; tokens];
            for token in drawing.sample_stream(copy, place).choose(tokens, self.hidden(tokens)) {
                row[token] = 1;
            }
            row
        };
        let copy = |copy: usize| {
            let rows: Vec<Vec<u8>> = (0..drawing.samples()).map(|place| row(copy, place)).collect();
            vec![Field::u8_rows("mask", &rows)]
        };
        Ok((0..drawing.copies).map(copy).collect())
    }
}

inventory::submit! {
    ViewDef {
        name: "random-mask",
        revision: 1,
        settings: &["of", "ratio"],
        resolve: |settings| Ok(View::Batch(Arc::new(RandomMask::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use crate::data::dataset::Content;
    use crate::data::view::{Grid, ViewPlan, ViewRequest};
    use crate::data::{Batch, rehearse};

    fn batch(ratio: f64, seed: u64) -> crate::Result<Batch> {
        let image = ViewRequest::new("image", "crop", 1, 1).with("size", 32.0);
        let mask = ViewRequest::new("mask", "random-mask", 1, 2).with("ratio", ratio);
        let grid = Grid::new(|shape| Ok(vec![shape[1] / 4, shape[2] / 4]));
        rehearse(&ViewPlan { views: vec![image, mask], grid }, Content::Images, 50, seed)
    }

    #[test]
    fn every_sample_hides_the_same_number_of_tokens_and_every_token_is_as_likely() {
        let mut times = [0_u32; 64];
        for seed in 0..20 {
            let batch = batch(0.6, seed).unwrap();
            for view in batch.named("mask") {
                let field = view.field("mask").unwrap();
                assert_eq!(field.shape, [50, 64]);
                for row in field.values.u8().chunks(64) {
                    assert_eq!(row.iter().map(|hidden| u32::from(*hidden)).sum::<u32>(), 64 - 25);
                    times.iter_mut().zip(row).for_each(|(sum, hidden)| *sum += u32::from(*hidden));
                }
            }
        }
        // 2000 rows: 1219 times each, with a deviation of 22.
        assert!(times.iter().all(|n| n.abs_diff(1219) < 110), "{times:?}");
    }

    #[test]
    fn copies_differ_and_a_ratio_that_hides_nothing_is_refused() {
        let batch = batch(0.5, 3).unwrap();
        let copies: Vec<_> = batch.named("mask").map(|view| view.fields[0].clone()).collect();
        assert_ne!(copies[0], copies[1]);
        assert!(self::batch(0.0, 3).unwrap_err().to_string().contains("hides none of 64 tokens"));
    }
}
