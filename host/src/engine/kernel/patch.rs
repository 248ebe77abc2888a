//! Images to patches and back.

use super::threads;

/// The sizes of a batch of images and of the patches that they are cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patches {
    /// Images, B.
    pub batch: usize,
    /// Channels, C.
    pub channels: usize,
    /// Height of an image, a multiple of the patch's side.
    pub height: usize,
    /// Width of an image, a multiple of the patch's side.
    pub width: usize,
    /// The side of a patch, P.
    pub side: usize,
}

impl Patches {
    /// Patches per image, N.
    pub fn count(&self) -> usize {
        (self.height / self.side) * (self.width / self.side)
    }

    /// Elements of all images, and of all patches.
    fn len(&self) -> usize {
        self.batch * self.channels * self.height * self.width
    }

    fn check(&self, images: usize, patches: usize) {
        let fit = self.side > 0
            && self.height.is_multiple_of(self.side)
            && self.width.is_multiple_of(self.side);
        assert!(fit, "the sides of an image are multiples of a patch's side");
        assert_eq!([images, patches], [self.len(); 2], "images and patches hold the same pixels");
    }

    /// Where row `y` of channel `c` begins in the patch that begins at `patch`.
    fn row(&self, patch: usize, c: usize, y: usize) -> usize {
        patch + (c * self.side + y) * self.side
    }
}

/// Cuts images `[B, C, H, W]` into patches `[B, N, C P P]`: patches row by row, each in the order
/// (channel, y, x) of a convolution's weight `[D, C, P, P]`.
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn patchify<T: Copy + Send + Sync>(images: &[T], sizes: Patches, patches: &mut [T]) {
    sizes.check(images.len(), patches.len());
    if images.is_empty() {
        return;
    }
    let Patches { channels, height, width, side, .. } = sizes;
    let (across, down) = (width / side, height / side);
    let patch_len = channels * side * side;
    // One piece of work is one row of patches.
    threads::chunks(patches, across * patch_len, |i, to| {
        let (image, row) = (i / down, i % down);
        for (c, y) in pairs(channels, side) {
            let line = ((image * channels + c) * height + row * side + y) * width;
            let line = &images[line..][..width];
            for (x, from) in line.chunks_exact(side).enumerate() {
                to[sizes.row(x * patch_len, c, y)..][..side].copy_from_slice(from);
            }
        }
    });
}

/// Puts patches `[B, N, C P P]` back into images `[B, C, H, W]`: the inverse of [`patchify`], and its
/// gradient.
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn fold<T: Copy + Send + Sync>(patches: &[T], sizes: Patches, images: &mut [T]) {
    sizes.check(images.len(), patches.len());
    if images.is_empty() {
        return;
    }
    let Patches { channels, height, width, side, .. } = sizes;
    let across = width / side;
    let patch_len = channels * side * side;
    // One piece of work is one channel of one image.
    threads::chunks(images, height * width, |i, plane| {
        let (image, c) = (i / channels, i % channels);
        let first = image * sizes.count() * patch_len;
        for (line, y) in plane.chunks_exact_mut(width).zip(0..) {
            let row = first + y / side * across * patch_len;
            for (x, to) in line.chunks_exact_mut(side).enumerate() {
                let from = sizes.row(row + x * patch_len, c, y % side);
                to.copy_from_slice(&patches[from..][..side]);
            }
        }
    });
}

fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |a| (0..inner).map(move |b| (a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_hold_their_pixels_channel_by_channel() {
        // Two channels of 2 x 4 pixels, numbered.
        let image: Vec<u32> = (0..16).collect();
        let sizes = Patches { batch: 1, channels: 2, height: 2, width: 4, side: 2 };
        let mut patches = vec![0; 16];
        patchify(&image, sizes, &mut patches);
        assert_eq!(patches, [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]);
    }

    #[test]
    fn folding_is_the_inverse_of_cutting() {
        for [batch, channels, down, across, side] in
            [[1, 1, 1, 1, 1], [3, 3, 2, 5, 4], [2, 1, 3, 1, 7], [0, 3, 2, 2, 8]]
        {
            let sizes =
                Patches { batch, channels, height: down * side, width: across * side, side };
            assert_eq!(sizes.count(), down * across);
            let images: Vec<usize> = (0..sizes.len()).collect();
            let (mut patches, mut back) = (vec![0; sizes.len()], vec![0; sizes.len()]);
            patchify(&images, sizes, &mut patches);
            fold(&patches, sizes, &mut back);
            assert_eq!(back, images);
        }
    }
}
