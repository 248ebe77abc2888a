//! Normalise: `(x - mean) / std`, channel by channel; and the way from 8 bits to planes.

use super::channels;

/// Mean of ImageNet's channels, which most published backbones expect.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of ImageNet's channels.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Interleaved RGB bytes `[H, W, 3]` to planes `[3, H, W]` from 0 to 1.
pub fn planes_of(pixels: &[u8], planes: &mut [f32]) {
    const SCALE: f32 = 1.0 / 255.0;
    let [red, green, blue] = channels(planes);
    for (((pixel, r), g), b) in pixels.as_chunks::<3>().0.iter().zip(red).zip(green).zip(blue) {
        *r = f32::from(pixel[0]) * SCALE;
        *g = f32::from(pixel[1]) * SCALE;
        *b = f32::from(pixel[2]) * SCALE;
    }
}

/// Normalises `planes` `[3, H, W]` in place.
pub fn apply(planes: &mut [f32], mean: [f32; 3], std: [f32; 3]) {
    for ((plane, mean), std) in channels(planes).into_iter().zip(mean).zip(std) {
        let (scale, offset) = (1.0 / std, -mean / std);
        for x in plane {
            *x = *x * scale + offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_planes() {
        let mut planes = [0.0; 6];
        planes_of(&[255, 0, 51, 0, 255, 102], &mut planes);
        let expected = [1.0, 0.0, 0.0, 1.0, 0.2, 0.4];
        assert!(planes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn mean_goes_and_deviation_becomes_one() {
        let mut planes = [0.5, 0.7, 0.2, 0.4, 0.0, 1.0];
        apply(&mut planes, [0.5, 0.2, 0.0], [0.1, 0.2, 0.5]);
        let expected = [0.0, 2.0, 0.0, 1.0, 0.0, 2.0];
        assert!(planes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
