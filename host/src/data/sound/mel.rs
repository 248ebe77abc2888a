//! Bands of equal width on the mel scale, as triangles over the frequencies of a transform.

/// The lowest frequency of the lowest band, in Hz.
const LOWEST: f64 = 20.0;

/// A triangle: the weights of the frequencies from `first` on.
#[derive(Clone, Debug)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// The bands of one rate.
#[derive(Clone, Debug)]
pub(super) struct Bands(Vec<Band>);

fn mel(hz: f64) -> f64 {
    1127.0 * (1.0 + hz / 700.0).ln()
}

impl Bands {
    /// `count` bands from 20 Hz to half of `rate`, for a transform of `transform_len` values.
    pub(super) fn new(count: usize, rate: u32, transform_len: usize) -> Self {
        let (low, high) = (mel(LOWEST), mel(f64::from(rate) / 2.0));
        let step = (high - low) / (count + 1) as f64;
        let bin = f64::from(rate) / transform_len as f64;
        let band = |index: usize| {
            let left = low + index as f64 * step;
            let weight = |k: usize| {
                let up = (mel(k as f64 * bin) - left) / step;
                up.min(2.0 - up).max(0.0) as f32
            };
            // The highest frequency of all belongs to no band.
            let inside: Vec<usize> = (0..transform_len / 2).filter(|k| weight(*k) > 0.0).collect();
            let first = inside.first().copied().unwrap_or(0);
            let end = inside.last().map_or(first, |last| last + 1);
            Band { first, weights: (first..end).map(weight).collect() }
        };
        Self((0..count).map(band).collect())
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The logarithm of each band's energy, of power at every frequency.
    pub(super) fn log_energies(&self, power: &[f32], out: &mut [f32]) {
        for (out, band) in out.iter_mut().zip(&self.0) {
            let inside = &power[band.first..][..band.weights.len()];
            let energy: f32 = band.weights.iter().zip(inside).map(|(w, p)| w * p).sum();
            *out = energy.max(super::FLOOR).ln();
        }
    }
}
