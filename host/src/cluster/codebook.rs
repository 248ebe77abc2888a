//! A codebook: centroids, and which of them lies nearest to a feature.

use rayon::prelude::*;

use crate::engine::kernel::packed::{self, Format, Left, Panels};
use crate::{Error, Result};

/// Rows whose distances are computed at a time, a multiple of 12: with 500 centroids half a MiB.
const BLOCK: usize = 240;

/// K centroids `[K, D]`, ready to be looked through.
#[derive(Clone, Debug)]
pub struct Codebook {
    centroids: Vec<f32>,
    width: usize,
    /// |c|^2 of each centroid.
    squares: Vec<f32>,
    panels: Panels<'static>,
}

/// The nearest centroid of every row, and how far it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nearest {
    /// The unit of each row; among equals the lowest.
    pub units: Vec<u32>,
    /// The squared distance of each row to its centroid.
    pub distances: Vec<f32>,
}

impl Nearest {
    /// The mean squared distance: k-means' inertia over the number of rows; 0 of no rows.
    pub fn mean_distance(&self) -> f64 {
        let sum: f64 = self.distances.iter().map(|distance| f64::from(*distance)).sum();
        sum / self.distances.len().max(1) as f64
    }
}

impl Codebook {
    /// From centroids `[K, D]` with D = `width`.
    ///
    /// # Errors
    /// When there is no centroid, or one is not finite.
    pub fn new(centroids: Vec<f32>, width: usize) -> Result<Self> {
        if centroids.is_empty() || width == 0 || !centroids.len().is_multiple_of(width) {
            let n = centroids.len();
            return Err(Error::failed(format!("{n} numbers are not centroids of {width}")));
        }
        if let Some(at) = centroids.iter().position(|x| !x.is_finite()) {
            return Err(Error::failed(format!("centroid {} is not finite", at / width)));
        }
        let squares = squares(&centroids, width);
        let panels = Panels::from_columns(Format::F32, &centroids, squares.len(), width);
        Ok(Self { centroids, width, squares, panels })
    }

    /// The centroids `[K, D]`.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// K.
    pub fn clusters(&self) -> usize {
        self.squares.len()
    }

    /// D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The nearest centroid of every row of `rows` `[N, D]`.
    ///
    /// # Panics
    /// When `rows` are not of this width.
    pub fn nearest(&self, rows: &[f32]) -> Nearest {
        let mut nearest = Nearest::default();
        for (units, distances) in self.by_block(rows, |dots, squares, clusters| {
            let lowest = |row: &[f32]| lowest(row, &self.squares);
            let found = dots.chunks_exact(clusters).zip(squares).map(|(row, square)| {
                let (unit, score) = lowest(row);
                (unit as u32, (square + score).max(0.0))
            });
            found.unzip::<u32, f32, Vec<u32>, Vec<f32>>()
        }) {
            nearest.units.extend(units);
            nearest.distances.extend(distances);
        }
        nearest
    }

    /// Squared distances of every row to every centroid, `[N, K]`.
    pub(super) fn distances(&self, rows: &[f32]) -> Vec<f32> {
        let blocks = self.by_block(rows, |dots, squares, clusters| {
            let rows = dots.chunks_exact(clusters).zip(squares);
            let distance = |((dot, centroid), square): ((&f32, &f32), f32)| {
                (square - 2.0 * dot + centroid).max(0.0)
            };
            rows.flat_map(|(row, square)| {
                row.iter().zip(&self.squares).map(move |pair| distance((pair, *square)))
            })
            .collect::<Vec<_>>()
        });
        blocks.concat()
    }

    /// What `body` makes of the products with the centroids `[n, K]`, the squares `[n]` and K of each
    /// block of rows, in order.
    fn by_block<T: Send>(
        &self,
        rows: &[f32],
        body: impl Fn(&[f32], &[f32], usize) -> T + Sync,
    ) -> Vec<T> {
        assert!(rows.len().is_multiple_of(self.width), "rows of {}", self.width);
        let (width, clusters) = (self.width, self.clusters());
        rows.par_chunks(BLOCK * width)
            .map_init(Vec::new, |dots: &mut Vec<f32>, block| {
                let n = block.len() / width;
                dots.resize(n * clusters, 0.0);
                let left = Left::from_rows(Format::F32, block, n, width);
                packed::multiply(&left, 0, &self.panels, dots, false);
                body(dots, &squares(block, width), clusters)
            })
            .collect()
    }
}

/// The centroid with the least |c|^2 - 2 x c, and that: `dots` are x c, `squares` |c|^2.
fn lowest(dots: &[f32], squares: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (unit, (dot, square)) in dots.iter().zip(squares).enumerate() {
        let score = square - 2.0 * dot;
        if score < best.1 {
            best = (unit, score);
        }
    }
    best
}

/// |x|^2 of each row.
fn squares(rows: &[f32], width: usize) -> Vec<f32> {
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    rows.chunks_exact(width).map(|row| square(row) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn the_nearest_centroid_is_the_one_that_a_plain_search_finds() {
        let mut stream = Stream::new(0, "codebook", 0, 0);
        let (n, clusters, width) = (1000, 37, 13);
        let mut draw = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
        let (rows, centroids) = (draw(n * width), draw(clusters * width));
        let book = Codebook::new(centroids.clone(), width).unwrap();
        let found = book.nearest(&rows);
        for (i, row) in rows.chunks(width).enumerate() {
            let far = |c: &[f32]| row.iter().zip(c).map(|(x, c)| (x - c).powi(2)).sum::<f32>();
            let plain: Vec<f32> = centroids.chunks(width).map(far).collect();
            let best = plain.iter().copied().fold(f32::INFINITY, f32::min);
            assert!((plain[found.units[i] as usize] - best).abs() < 1e-4);
            assert!((found.distances[i] - best).abs() < 1e-4);
        }
        assert_eq!(book.distances(&rows).len(), n * clusters);
    }

    #[test]
    fn among_equals_the_lowest_unit_is_taken_and_no_row_gives_none() {
        let book = Codebook::new(vec![1.0, 1.0, 1.0, 1.0], 2).unwrap();
        assert_eq!(book.nearest(&[3.0, 4.0]).units, [0]);
        assert_eq!(book.nearest(&[]), Nearest::default());
        assert!(Codebook::new(vec![f32::NAN, 0.0], 2).is_err());
        assert!(Codebook::new(Vec::new(), 2).is_err());
    }
}
