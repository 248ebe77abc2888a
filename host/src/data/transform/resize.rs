//! Resampling a box of a picture to a size: bicubic (a = -1/2) widened when shrinking, on 8-bit values,
//! which is PIL's `BICUBIC` with its antialiasing. Pixels outside the box don't count, as if it had been cut out.
//! A plane of f32, such as a spectrogram, is resampled by the same cubic.

use fast_image_resize::images::{CroppedImage, Image as Target, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::crop::CropBox;
use crate::data::dataset::Image;
use crate::{Error, Result};

/// A resampler with its buffers; one per thread.
#[derive(Debug, Default)]
pub struct Resample {
    resizer: Resizer,
}

impl Resample {
    /// Resamples `part` of `image` to `width` x `height` pixels of RGB in `out`.
    ///
    /// # Errors
    /// When the part doesn't lie inside the image, or a size is zero.
    pub fn apply(
        &mut self,
        image: &Image,
        part: CropBox,
        (width, height): (usize, usize),
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.resize(width * height * 3, 0);
        let wrong = |e: &dyn std::fmt::Display| {
            Error::failed(format!(
                "can't resample {part:?} of {} x {} pixels to {width} x {height}",
                image.width, image.height
            ))
            .because(e)
        };
        let kind = PixelType::U8x3;
        let source = ImageRef::new(image.width as u32, image.height as u32, &image.pixels, kind)
            .map_err(|e| wrong(&e))?;
        let cut = CroppedImage::new(
            &source,
            part.left as u32,
            part.top as u32,
            part.width as u32,
            part.height as u32,
        )
        .map_err(|e| wrong(&e))?;
        let mut target =
            Target::from_slice_u8(width as u32, height as u32, out, kind).map_err(|e| wrong(&e))?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
            .use_alpha(false);
        self.resizer.resize(&cut, &mut target, &options).map_err(|e| wrong(&e))
    }

    /// Resamples `part` (left, top, width and height, in elements and parts of them) of a `plane` of
    /// `from` (width, height) to `to` in `out`.
    ///
    /// # Errors
    /// When the part doesn't lie inside the plane, or a size is zero or not that of the numbers given.
    pub fn plane(
        &mut self,
        (plane, from): (&[f32], (usize, usize)),
        part: [f64; 4],
        (out, to): (&mut [f32], (usize, usize)),
    ) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::failed(format!("can't resample {part:?} of {from:?} to {to:?}")).because(e)
        };
        let source = ImageRef::new(
            from.0 as u32,
            from.1 as u32,
            bytemuck::cast_slice(plane),
            PixelType::F32,
        )
        .map_err(|e| wrong(&e))?;
        let mut target = Target::from_slice_u8(
            to.0 as u32,
            to.1 as u32,
            bytemuck::cast_slice_mut(out),
            PixelType::F32,
        )
        .map_err(|e| wrong(&e))?;
        let [left, top, width, height] = part;
        let (width, height) = (within(left, width, from.0), within(top, height, from.1));
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
            .crop(left, top, width, height);
        self.resizer.resize(&source, &mut target, &options).map_err(|e| wrong(&e))
    }
}

/// The length of a box that starts at `start` of a side of `side` elements, without what rounding a share of the side
/// has put beyond its end.
fn within(start: f64, length: f64, side: usize) -> f64 {
    const ROUNDING: f64 = 1e-3;
    let room = side as f64 - start;
    if length > room && length < room + ROUNDING { room } else { length }
}

/// The middle of a picture that is left when its shorter side is resized to `resize` and the middle
/// `crop` x `crop` pixels are kept, as a box in the picture before resizing. `resize` must be at least `crop`.
///
/// Cutting first and resizing once is half the work; it moves the box by less than a pixel.
pub fn middle_part((width, height): (usize, usize), crop: usize, resize: usize) -> CropBox {
    let shorter = width.min(height) as f64;
    let side = (shorter * crop as f64 / resize.max(crop).max(1) as f64).round() as usize;
    let side = side.clamp(1, width.min(height).max(1));
    CropBox::centre(side, side, width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, shades: &[u8]) -> Image {
        let pixels = shades.iter().flat_map(|shade| [*shade; 3]).collect();
        Image { width, height, pixels }
    }

    fn reds(image: &Image, part: CropBox, size: (usize, usize)) -> Vec<u8> {
        let mut out = Vec::new();
        Resample::default().apply(image, part, size, &mut out).unwrap();
        out.iter().step_by(3).copied().collect()
    }

    #[test]
    fn two_pixels_shrink_to_their_mean_and_stretch_by_the_cubic() {
        let image = grey(2, 1, &[0, 200]);
        assert_eq!(reds(&image, CropBox::whole(2, 1), (1, 1)), [100]);
        // Weights at distance 1/4 and 3/4 of a = -1/2: 0.8671875, 0.2265625
        // and -0.0703125 at 5/4. First: -0.0703125 * 200 / 0.796875 < 0. Second: 0.2265625 * 200 / 1.09375 = 41.4.
        // Last: 0.8671875 * 200 / 0.796875 = 217.6.
        let wide = reds(&image, CropBox::whole(2, 1), (4, 1));
        assert_eq!(wide, [0, 41, 159, 218]);
    }

    #[test]
    fn pixels_outside_the_part_do_not_count() {
        let image = grey(4, 1, &[255, 80, 80, 255]);
        let part = CropBox { left: 1, top: 0, width: 2, height: 1 };
        assert_eq!(reds(&image, part, (5, 1)), [80; 5]);
    }

    #[test]
    fn a_part_outside_the_picture_is_an_error() {
        let image = grey(2, 1, &[0, 200]);
        let part = CropBox { left: 1, top: 0, width: 2, height: 1 };
        assert!(Resample::default().apply(&image, part, (2, 2), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_part_of_a_plane_is_resampled_and_a_whole_one_of_its_size_left_alone() {
        let plane: Vec<f32> = (0..12).map(|i| (i % 4) as f32).collect();
        let mut same = vec![9.0; 12];
        let whole = [0.0, 0.0, 4.0, 3.0];
        Resample::default().plane((&plane, (4, 3)), whole, (&mut same, (4, 3))).unwrap();
        assert_eq!(same, plane);
        let mut middle = vec![9.0; 1];
        let part = [0.5, 0.5, 3.0, 2.0];
        Resample::default().plane((&plane, (4, 3)), part, (&mut middle, (1, 1))).unwrap();
        assert!((middle[0] - 1.5).abs() < 1e-5, "{middle:?}");
        // A share of a side in f32, times the side.
        let rounded = [2.000_000_2, 0.0, 2.0, 3.0];
        Resample::default().plane((&plane, (4, 3)), rounded, (&mut middle, (1, 1))).unwrap();
        let outside = [3.0, 0.0, 2.0, 3.0];
        assert!(
            Resample::default().plane((&plane, (4, 3)), outside, (&mut middle, (1, 1))).is_err()
        );
    }

    #[test]
    fn the_middle_part_keeps_the_share_of_the_shorter_side() {
        let part = middle_part((500, 400), 224, 256);
        assert_eq!(part, CropBox { left: 75, top: 25, width: 350, height: 350 });
        assert_eq!(middle_part((32, 32), 32, 32), CropBox::whole(32, 32));
    }
}
