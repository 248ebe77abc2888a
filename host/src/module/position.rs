//! Position embeddings of a grid of patches: learned or sin-cos, resized where a crop has another grid.

use candle_core::Tensor;

use super::Forward;
use super::declare::{Declare, WEIGHT};
use crate::Result;
use crate::engine::ops::narrow::narrow;
use crate::engine::ops::permute::permute;
use crate::engine::ops::reshape::reshape;
use crate::engine::ops::resize_bicubic::resize_bicubic;
use crate::engine::{Var, storage};
use crate::state::ParamId;

/// One embedding per place: `pos_embed` `[1, P + rows * cols, D]`, the class token's first (P is 1 or 0).
#[derive(Clone, Debug)]
pub struct Positions {
    embedding: ParamId,
    /// Whether the first embedding is the class token's.
    class: bool,
    grid: [usize; 2],
    width: usize,
    /// What [`resize_bicubic`] adds to the new size; 0.1 in DINO's released code.
    offset: f64,
}

/// How a place gets its embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trained, from a normal of 0.02.
    Learned,
    /// Fixed: sines and cosines of row and column (as MAE and I-JEPA have them).
    SinCos,
}

impl Positions {
    /// Declares `pos_embed` for `grid` places, and one for the class token where `class`.
    pub fn declare(
        declare: &mut Declare<'_>,
        kind: Kind,
        (grid, width): ([usize; 2], usize),
        class: bool,
        offset: f64,
    ) -> Result<Self> {
        let count = usize::from(class) + grid[0] * grid[1];
        let embedding = match kind {
            Kind::Learned => declare.parameter("pos_embed", &[1, count, width], WEIGHT)?,
            Kind::SinCos => declare.fixed("pos_embed", &sin_cos(grid, width, class)?)?,
        };
        Ok(Self { embedding, class, grid, width, offset })
    }

    /// The class token's embedding `[1, 1, D]` if there is one, and those of `grid` places
    /// `[1, rows * cols, D]`, resized from the declared grid where it is another.
    pub fn of(&self, forward: &Forward<'_>, grid: [usize; 2]) -> Result<(Option<Var>, Var)> {
        let (tape, all) = (forward.tape, forward.param(self.embedding));
        let prefix = usize::from(self.class);
        let class = self.class.then(|| narrow(tape, &all, 1, 0, 1)).transpose()?;
        let count = self.grid[0] * self.grid[1];
        let places = if prefix == 0 { all } else { narrow(tape, &all, 1, prefix, count)? };
        if grid == self.grid {
            return Ok((class, places));
        }
        let image = reshape(tape, &places, &[1, self.grid[0], self.grid[1], self.width])?;
        let image = permute(tape, &image, &[0, 3, 1, 2])?;
        let resized = resize_bicubic(tape, &image, grid, self.offset)?;
        let rows = permute(tape, &resized, &[0, 2, 3, 1])?;
        Ok((class, reshape(tape, &rows, &[1, grid[0] * grid[1], self.width])?))
    }
}

/// `[1, P + rows * cols, D]`: for each place, a quarter of D each of sin and cos of the column, then of
/// the row, at frequencies `10000^(-i / (D / 4))`; zeros for the class token.
fn sin_cos([rows, cols]: [usize; 2], width: usize, class: bool) -> Result<Tensor> {
    let quarter = width / 4;
    let mut values = vec![0.0_f32; if class { width } else { 0 }];
    for row in 0..rows {
        for col in 0..cols {
            for place in [col, row] {
                let angles =
                    (0..quarter).map(|i| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64));
                let angles: Vec<f64> = angles.collect();
                values.extend(angles.iter().map(|angle| angle.sin() as f32));
                values.extend(angles.iter().map(|angle| angle.cos() as f32));
            }
        }
    }
    storage::tensor(values, (1, usize::from(class) + rows * cols, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sin_cos_positions_have_the_column_first_and_nothing_for_the_class_token() {
        let table = storage::to_f32(&sin_cos([2, 2], 8, true).unwrap()).unwrap();
        assert_eq!(table[..8], [0.0; 8]);
        let second = &table[16..24];
        assert!(
            (second[0] - 1.0_f32.sin()).abs() < 1e-6 && (second[2] - 1.0_f32.cos()).abs() < 1e-6
        );
        assert_eq!(second[4..6], [0.0, 0.0]);
        assert_eq!(second[6..8], [1.0, 1.0]);
    }
}
