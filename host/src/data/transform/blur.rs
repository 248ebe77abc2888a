//! Gaussian blur with the picture's edge repeated outwards, as PIL's `GaussianBlur(radius)`, whose radius is
//! the standard deviation. PIL approximates the bell by three boxes; this is the bell itself, to three deviations.

/// How many deviations the kernel reaches.
const REACH: f32 = 3.0;

/// Buffers of the blur; one per thread.
#[derive(Debug, Default)]
pub struct Blur {
    /// Half of the kernel: weight at distance 0, 1, ...
    weights: Vec<f32>,
    /// The plane after the vertical pass, `[H, W + 2 reach]`.
    columns: Vec<f32>,
}

impl Blur {
    /// Blurs `planes` `[3, H, W]` with standard deviation `sigma` in pixels.
    pub fn apply(&mut self, planes: &mut [f32], (width, height): (usize, usize), sigma: f32) {
        if sigma <= 0.0 || width == 0 || height == 0 {
            return;
        }
        self.set_kernel(sigma);
        for plane in planes.chunks_exact_mut(width * height) {
            self.vertical(plane, width, height);
            self.horizontal(plane, width);
        }
    }

    fn set_kernel(&mut self, sigma: f32) {
        let reach = (REACH * sigma).ceil() as usize;
        self.weights.clear();
        self.weights.extend((0..=reach).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()));
        let total = self.weights[0] + 2.0 * self.weights[1..].iter().sum::<f32>();
        for weight in &mut self.weights {
            *weight /= total;
        }
    }

    /// Blurs along columns into `self.columns`, whose rows get their ends repeated.
    fn vertical(&mut self, plane: &[f32], width: usize, height: usize) {
        let reach = self.weights.len() - 1;
        let wide = width + 2 * reach;
        self.columns.resize(wide * height, 0.0);
        let row = |y: usize| &plane[y * width..][..width];
        for (y, out) in self.columns.chunks_exact_mut(wide).enumerate() {
            let middle = &mut out[reach..reach + width];
            for (o, x) in middle.iter_mut().zip(row(y)) {
                *o = self.weights[0] * x;
            }
            for (distance, weight) in self.weights.iter().enumerate().skip(1) {
                let above = row(y.saturating_sub(distance));
                let below = row((y + distance).min(height - 1));
                add_pair(middle, above, below, *weight);
            }
            let (first, last) = (middle[0], middle[width - 1]);
            out[..reach].fill(first);
            out[reach + width..].fill(last);
        }
    }

    /// Blurs `self.columns` along rows into `plane`.
    fn horizontal(&self, plane: &mut [f32], width: usize) {
        let reach = self.weights.len() - 1;
        let rows = self.columns.chunks_exact(width + 2 * reach);
        for (out, row) in plane.chunks_exact_mut(width).zip(rows) {
            for (o, x) in out.iter_mut().zip(&row[reach..]) {
                *o = self.weights[0] * x;
            }
            for (distance, weight) in self.weights.iter().enumerate().skip(1) {
                add_pair(out, &row[reach - distance..], &row[reach + distance..], *weight);
            }
        }
    }
}

/// `out += weight * (a + b)`, over the length of `out`.
#[inline]
fn add_pair(out: &mut [f32], a: &[f32], b: &[f32], weight: f32) {
    for ((o, x), y) in out.iter_mut().zip(a).zip(b) {
        *o += weight * (x + y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blurred(side: usize, at: &[(usize, f32)], sigma: f32) -> Vec<f32> {
        let mut planes = vec![0.0; 3 * side * side];
        for (i, value) in at {
            planes[*i] = *value;
        }
        Blur::default().apply(&mut planes, (side, side), sigma);
        planes
    }

    #[test]
    fn a_dot_becomes_the_product_of_two_bells() {
        let out = blurred(9, &[(4 * 9 + 4, 1.0)], 1.0);
        // Weights exp(-d^2 / 2) to distance 3: 1, 0.60653, 0.13534, 0.01111; their sum 2.50595.
        let near = 0.606_530_7 / 2.505_954;
        let centre = 1.0 / 2.505_954;
        assert!((out[4 * 9 + 4] - centre * centre).abs() < 1e-5);
        assert!((out[4 * 9 + 5] - centre * near).abs() < 1e-5);
        assert!((out[3 * 9 + 5] - near * near).abs() < 1e-5);
        assert!(out[81..].iter().all(|x| *x == 0.0), "planes must not mix");
    }

    #[test]
    fn light_is_kept_inside_and_the_edge_is_repeated() {
        let out = blurred(15, &[(7 * 15 + 7, 1.0)], 1.5);
        assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let mut flat = vec![0.3; 3 * 4];
        Blur::default().apply(&mut flat, (2, 2), 2.0);
        assert!(flat.iter().all(|x| (x - 0.3).abs() < 1e-6));
    }

    #[test]
    fn a_buffer_used_before_gives_the_same_pixels() {
        let mut blur = Blur::default();
        let mut first: Vec<f32> = (0..75).map(|i| (i * 7 % 13) as f32 / 13.0).collect();
        let mut second = first.clone();
        Blur::default().apply(&mut first, (5, 5), 0.7);
        blur.apply(&mut vec![0.5; 300], (10, 10), 2.0);
        blur.apply(&mut second, (5, 5), 0.7);
        assert_eq!(first, second);
    }
}
