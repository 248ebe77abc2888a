//! `block-mask@1`: blocks of patches to predict, and the block that they are predicted from.
//! Assran et al. 2023, <https://arxiv.org/abs/2301.08243>, section 3, as the authors' code samples them.

use std::sync::Arc;

use super::kind::{BatchView, Drawing, View, ViewDef};
use super::settings::Settings;
use crate::data::field::Field;
use crate::random::Stream;
use crate::{Error, Result};

/// How large a kind of block is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Extent {
    /// Area as a share of the grid, lowest and highest.
    scale: (f64, f64),
    /// Rows / columns, lowest and highest.
    ratio: (f64, f64),
}

/// Which tokens stay where masks of a batch are cut to one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The first ones in raster order, so that the lower rows are dropped.
    Raster,
    /// Any, each as likely.
    Random,
}

/// Parameters of `block-mask@1`. Copy i has the fields `target` u32 `[B, Kt]`, the patches of block i in
/// raster order, and `context` u32 `[B, Kc]`, which is the same for every copy.
#[derive(Clone, Debug, PartialEq)]
struct BlockMask {
    of: String,
    context: Extent,
    target: Extent,
    /// Every mask holds more patches than this before it is cut.
    min_keep: usize,
    /// Failed draws of a context before it may overlap one more target.
    tries: usize,
    /// Whether one uniform draw gives both scale and ratio, as in the authors' code.
    shared_draw: bool,
    /// Whether a block may touch the last row or column; in the authors' code none does.
    touch_edges: bool,
    /// Whether the context may hold patches of targets.
    overlap: bool,
    cut: Cut,
}

const KEYS: &[&str] = &[
    "of",
    "context_scale_min",
    "context_scale_max",
    "context_ratio_min",
    "context_ratio_max",
    "target_scale_min",
    "target_scale_max",
    "target_ratio_min",
    "target_ratio_max",
    "min_keep",
    "tries",
    "shared_draw",
    "touch_edges",
    "overlap",
    "cut",
];

/// Rows and columns.
type Size = [usize; 2];

/// A block: its first row and column, its rows and columns.
#[derive(Clone, Copy, Debug)]
struct Block {
    at: Size,
    size: Size,
}

impl Block {
    fn holds(&self, row: usize, col: usize) -> bool {
        let within =
            |x: usize, dim: usize| (self.at[dim]..self.at[dim] + self.size[dim]).contains(&x);
        within(row, 0) && within(col, 1)
    }

    /// Its patches outside of `taken`, in raster order.
    fn patches(&self, grid: Size, taken: &[Self]) -> Vec<u32> {
        let (rows, cols) =
            (self.at[0]..self.at[0] + self.size[0], self.at[1]..self.at[1] + self.size[1]);
        let all = rows.flat_map(|row| cols.clone().map(move |col| (row, col)));
        let free = all.filter(|(row, col)| !taken.iter().any(|block| block.holds(*row, *col)));
        free.map(|(row, col)| (row * grid[1] + col) as u32).collect()
    }
}

/// The masks of one sample.
struct Masks {
    targets: Vec<Vec<u32>>,
    context: Vec<u32>,
}

impl BlockMask {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        let scale = |keys, default| settings.pair(keys, default, (1e-3, 1.0));
        let ratio = |keys, default| settings.pair(keys, default, (1e-2, 1e2));
        Ok(Self {
            of: settings.text("of")?.to_owned(),
            context: Extent {
                scale: scale(["context_scale_min", "context_scale_max"], (0.85, 1.0))?,
                ratio: ratio(["context_ratio_min", "context_ratio_max"], (1.0, 1.0))?,
            },
            target: Extent {
                scale: scale(["target_scale_min", "target_scale_max"], (0.15, 0.2))?,
                ratio: ratio(["target_ratio_min", "target_ratio_max"], (0.75, 1.5))?,
            },
            min_keep: settings.whole("min_keep", 10.0, (0.0, 1e6))?,
            tries: settings.whole("tries", 20.0, (1.0, 1e6))?,
            shared_draw: settings.flag("shared_draw", true)?,
            touch_edges: settings.flag("touch_edges", false)?,
            overlap: settings.flag("overlap", false)?,
            cut: match settings.choice("cut", &["raster", "random"])? {
                "random" => Cut::Random,
                _ => Cut::Raster,
            },
        })
    }

    /// The largest block of a grid.
    fn largest(&self, grid: Size) -> Size {
        if self.touch_edges { grid } else { grid.map(|side| side.saturating_sub(1)) }
    }

    /// The block whose scale and ratio lie so far between their ends, from 0 to 1. A ratio r and an area
    /// of n patches give sqrt(n r) rows and sqrt(n / r) columns, rounded and cut to what fits.
    fn size(&self, grid: Size, extent: Extent, [scale, ratio]: [f64; 2]) -> Size {
        let between = |(low, high): (f64, f64), share: f64| low + share * (high - low);
        let area = ((grid[0] * grid[1]) as f64 * between(extent.scale, scale)).trunc();
        let ratio = between(extent.ratio, ratio);
        let largest = self.largest(grid);
        let sides = [(area * ratio).sqrt(), (area / ratio).sqrt()];
        let cut = |dim: usize| (sides[dim].round_ties_even() as usize).min(largest[dim]);
        [cut(0), cut(1)]
    }

    fn draw_size(&self, grid: Size, extent: Extent, stream: &mut Stream) -> Size {
        let scale = stream.uniform();
        let ratio = if self.shared_draw { scale } else { stream.uniform() };
        self.size(grid, extent, [scale, ratio])
    }

    fn draw_block(&self, grid: Size, size: Size, stream: &mut Stream) -> Block {
        // The authors draw below H - h and W - w, which leaves out the last place.
        let places = |dim: usize| grid[dim] - size[dim] + usize::from(self.touch_edges);
        Block { at: [stream.below(places(0)), stream.below(places(1))], size }
    }

    /// Draws the context until it holds enough patches outside of the targets. After so many failed tries
    /// the last of the targets that still count may be overlapped.
    fn draw_context(
        &self,
        grid: Size,
        size: Size,
        targets: &[Block],
        stream: &mut Stream,
    ) -> Vec<u32> {
        let mut counted = if self.overlap { 0 } else { targets.len() };
        loop {
            for _ in 0..self.tries {
                let block = self.draw_block(grid, size, stream);
                let patches = block.patches(grid, &targets[..counted]);
                // `check` has seen that a whole block holds enough.
                if patches.len() > self.min_keep || counted == 0 {
                    return patches;
                }
            }
            counted -= 1;
        }
    }

    fn masks(
        &self,
        grid: Size,
        [target, context]: [Size; 2],
        copies: usize,
        stream: &mut Stream,
    ) -> Masks {
        let targets: Vec<Block> =
            (0..copies).map(|_| self.draw_block(grid, target, stream)).collect();
        let context = self.draw_context(grid, context, &targets, stream);
        Masks { targets: targets.iter().map(|block| block.patches(grid, &[])).collect(), context }
    }

    /// Cuts `mask` to `len` patches.
    fn cut(&self, mask: &mut Vec<u32>, len: usize, stream: &mut Stream) {
        if mask.len() == len {
            return;
        }
        match self.cut {
            Cut::Raster => mask.truncate(len),
            Cut::Random => {
                *mask = stream.choose(mask.len(), len).into_iter().map(|i| mask[i]).collect();
            }
        }
    }
}

/// Steps between the ends of scale and ratio that a check looks at.
const STEPS: usize = 100;

fn rows_and_cols(grid: &[usize]) -> Result<Size> {
    <[usize; 2]>::try_from(grid).map_err(|_| {
        Error::asked_wrongly(format!("blocks need rows and columns, not a grid of {grid:?}"))
            .hint("mask a picture or a spectrogram")
    })
}

impl BatchView for BlockMask {
    fn of(&self) -> Option<&str> {
        Some(&self.of)
    }

    fn check(&self, grid: &[usize]) -> Result<()> {
        let grid = rows_and_cols(grid)?;
        let shares: Vec<f64> = (0..=STEPS).map(|i| i as f64 / STEPS as f64).collect();
        let draws = shares.iter().flat_map(|scale| {
            shares.iter().map(move |ratio| [*scale, if self.shared_draw { *scale } else { *ratio }])
        });
        let areas = draws.flat_map(|draw| {
            [self.target, self.context].map(|extent| self.size(grid, extent, draw))
        });
        let smallest = areas.map(|[rows, cols]| rows * cols).min().unwrap_or(0);
        if smallest > self.min_keep {
            return Ok(());
        }
        let [rows, cols] = grid;
        let error = Error::asked_wrongly(format!(
            "on a grid of {rows} x {cols} patches a block can have {smallest}, and `min_keep` of {} asks for more",
            self.min_keep
        ));
        Err(match smallest {
            0 => error.hint("cut the image into more patches"),
            _ => error.hint(format!(
                "set `min_keep={}`, or cut the image into more patches",
                smallest - 1
            )),
        })
    }

    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>> {
        let grid = rows_and_cols(&drawing.tokens()?)?;
        let mut sizes = drawing.batch_stream();
        let sizes =
            [self.target, self.context].map(|extent| self.draw_size(grid, extent, &mut sizes));
        let mut streams: Vec<Stream> =
            (0..drawing.samples()).map(|place| drawing.sample_stream(0, place)).collect();
        let mut masks: Vec<Masks> = streams
            .iter_mut()
            .map(|stream| self.masks(grid, sizes, drawing.copies, stream))
            .collect();
        let targets = masks.iter().flat_map(|masks| &masks.targets).map(Vec::len).min();
        let contexts = masks.iter().map(|masks| masks.context.len()).min();
        for (masks, stream) in masks.iter_mut().zip(&mut streams) {
            for target in &mut masks.targets {
                self.cut(target, targets.unwrap_or(0), stream);
            }
            self.cut(&mut masks.context, contexts.unwrap_or(0), stream);
        }
        let contexts: Vec<Vec<u32>> =
            masks.iter_mut().map(|masks| std::mem::take(&mut masks.context)).collect();
        let context = Field::u32_rows("context", &contexts);
        let copy = |copy: usize| {
            let rows: Vec<Vec<u32>> =
                masks.iter_mut().map(|masks| std::mem::take(&mut masks.targets[copy])).collect();
            vec![Field::u32_rows("target", &rows), context.clone()]
        };
        Ok((0..drawing.copies).map(copy).collect())
    }
}

inventory::submit! {
    ViewDef {
        name: "block-mask",
        revision: 1,
        settings: KEYS,
        resolve: |settings| Ok(View::Batch(Arc::new(BlockMask::new(settings)?))),
    }
}

#[cfg(test)]
#[path = "block_mask_tests.rs"]
mod tests;
