//! Random resized crop: which part of the picture a view sees. As torchvision's `RandomResizedCrop`.

use crate::random::Stream;

/// A part of a picture, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl CropBox {
    /// All of a picture.
    pub fn whole(width: usize, height: usize) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// The middle `width` x `height` of a picture of `of_width` x `of_height`, which are at least as large.
    pub fn centre(width: usize, height: usize, of_width: usize, of_height: usize) -> Self {
        Self { left: (of_width - width) / 2, top: (of_height - height) / 2, width, height }
    }

    /// Left, top, width and height as shares (0 to 1) of a picture's width and height.
    pub fn relative(&self, width: usize, height: usize) -> [f32; 4] {
        let (w, h) = (width as f32, height as f32);
        [self.left as f32 / w, self.top as f32 / h, self.width as f32 / w, self.height as f32 / h]
    }
}

/// How often a box is drawn before the middle of the picture is taken.
const TRIES: usize = 10;

/// Draws a box: its area is uniform in `scale` (shares of the picture's area), the logarithm of its
/// width / height uniform between those of `ratio`. A box that doesn't fit is drawn again, ten times;
/// then the largest middle box with an allowed ratio is taken.
pub fn draw(
    stream: &mut Stream,
    (width, height): (usize, usize),
    scale: (f64, f64),
    ratio: (f64, f64),
) -> CropBox {
    let area = (width * height) as f64;
    for _ in 0..TRIES {
        let target = area * stream.range(scale.0, scale.1);
        let aspect = stream.range(ratio.0.ln(), ratio.1.ln()).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return CropBox { left, top, width: w, height: h };
        }
    }
    middle((width, height), ratio)
}

fn middle((width, height): (usize, usize), ratio: (f64, f64)) -> CropBox {
    let present = width as f64 / height as f64;
    let (w, h) = if present < ratio.0 {
        (width, (width as f64 / ratio.0).round_ties_even() as usize)
    } else if present > ratio.1 {
        ((height as f64 * ratio.1).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    CropBox::centre(w.clamp(1, width), h.clamp(1, height), width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

    #[test]
    fn boxes_lie_inside_and_have_the_asked_areas_and_ratios() {
        let mut stream = Stream::new(1, "crop", 0, 0);
        let mut areas = 0.0;
        for _ in 0..2000 {
            let b = draw(&mut stream, (200, 150), (0.2, 0.6), RATIO);
            assert!(b.left + b.width <= 200 && b.top + b.height <= 150);
            let share = (b.width * b.height) as f64 / 30_000.0;
            let ratio = b.width as f64 / b.height as f64;
            assert!((0.19..0.61).contains(&share) && (0.73..1.36).contains(&ratio));
            areas += share / 2000.0;
        }
        assert!((areas - 0.4).abs() < 0.01);
    }

    #[test]
    fn a_long_picture_falls_back_to_its_middle() {
        let mut stream = Stream::new(1, "crop", 0, 0);
        let b = draw(&mut stream, (1000, 30), (0.9, 1.0), RATIO);
        assert_eq!(b, CropBox { left: 480, top: 0, width: 40, height: 30 });
        let b = draw(&mut stream, (30, 1000), (0.9, 1.0), RATIO);
        assert_eq!(b, CropBox { left: 0, top: 480, width: 30, height: 40 });
    }

    #[test]
    fn a_pixel_can_be_cropped() {
        let mut stream = Stream::new(1, "crop", 0, 0);
        assert_eq!(draw(&mut stream, (1, 1), (0.05, 0.4), RATIO), CropBox::whole(1, 1));
    }

    #[test]
    fn a_box_in_shares_of_the_picture() {
        let b = CropBox { left: 5, top: 10, width: 10, height: 20 };
        assert_eq!(b.relative(20, 40), [0.25, 0.25, 0.5, 0.5]);
    }
}
