//! Grayscale: every channel becomes the pixel's light, `0.299 R + 0.587 G + 0.114 B`.

use super::{LUMA, channels};

/// Takes the colour out of `planes` `[3, H, W]`.
pub fn apply(planes: &mut [f32]) {
    let [red, green, blue] = channels(planes);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let light = LUMA[0] * *r + LUMA[1] * *g + LUMA[2] * *b;
        *r = light;
        *g = light;
        *b = light;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_becomes_its_light_in_every_channel() {
        let mut planes = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5];
        apply(&mut planes);
        let (red, cyan) = (0.299 + 0.057, 0.587 + 0.057);
        for (i, value) in planes.iter().enumerate() {
            let expected = if i % 2 == 0 { red } else { cyan };
            assert!((value - expected).abs() < 1e-6);
        }
    }
}
