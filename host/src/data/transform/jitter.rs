//! Colour jitter: brightness, contrast, saturation and hue in a random order. As torchvision's
//! `ColorJitter` on float tensors: values are clamped to 0..1 after each of the first three, never rounded.

use super::{LUMA, channels};
use crate::random::Stream;

/// How strong each change may be; 0 leaves it out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strength {
    /// Factor uniform in `[max(0, 1 - b), 1 + b]`.
    pub brightness: f64,
    /// Factor uniform in `[max(0, 1 - c), 1 + c]`.
    pub contrast: f64,
    /// Factor uniform in `[max(0, 1 - s), 1 + s]`.
    pub saturation: f64,
    /// Turn uniform in `[-h, h]`, in whole turns of the colour circle; at most 0.5.
    pub hue: f64,
}

/// One change, with its drawn factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Every value times the factor.
    Brightness(f32),
    /// Away from (above 1) or towards the mean light of the picture.
    Contrast(f32),
    /// Away from (above 1) or towards the light of each pixel.
    Saturation(f32),
    /// A turn of the colour circle, -0.5 to 0.5.
    Hue(f32),
}

/// Draws the order and the factors.
pub fn draw(stream: &mut Stream, strength: &Strength) -> [Option<Change>; 4] {
    let mut factor = |by: f64| stream.range((1.0 - by).max(0.0), 1.0 + by) as f32;
    let brightness = factor(strength.brightness);
    let contrast = factor(strength.contrast);
    let saturation = factor(strength.saturation);
    let hue = stream.range(-strength.hue, strength.hue) as f32;
    let mut changes = [
        (strength.brightness > 0.0).then_some(Change::Brightness(brightness)),
        (strength.contrast > 0.0).then_some(Change::Contrast(contrast)),
        (strength.saturation > 0.0).then_some(Change::Saturation(saturation)),
        (strength.hue > 0.0).then_some(Change::Hue(hue)),
    ];
    stream.shuffle(&mut changes);
    changes
}

/// Applies a change to `planes` `[3, H, W]` of values 0 to 1.
pub fn apply(planes: &mut [f32], change: Change) {
    match change {
        Change::Brightness(factor) => brighten(planes, factor),
        Change::Contrast(factor) => contrast(planes, factor),
        Change::Saturation(factor) => saturate(planes, factor),
        Change::Hue(turn) => turn_hue(planes, turn),
    }
}

#[inline]
fn unit(x: f32) -> f32 {
    x.clamp(0.0, 1.0)
}

fn brighten(planes: &mut [f32], factor: f32) {
    for x in planes {
        *x = unit(*x * factor);
    }
}

fn contrast(planes: &mut [f32], factor: f32) {
    let offset = (1.0 - factor) * mean_light(planes);
    for x in planes {
        *x = unit(*x * factor + offset);
    }
}

/// The mean of `0.299 R + 0.587 G + 0.114 B`.
fn mean_light(planes: &mut [f32]) -> f32 {
    let [red, green, blue] = channels(planes);
    let pixels = red.len().max(1) as f32;
    (LUMA[0] * sum(red) + LUMA[1] * sum(green) + LUMA[2] * sum(blue)) / pixels
}

/// Sum in eight lanes, so that it is fast and close to the exact sum.
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        for (lane, value) in lanes.iter_mut().zip(eight) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).sum()
}

fn saturate(planes: &mut [f32], factor: f32) {
    let [red, green, blue] = channels(planes);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let offset = (1.0 - factor) * (LUMA[0] * *r + LUMA[1] * *g + LUMA[2] * *b);
        *r = unit(*r * factor + offset);
        *g = unit(*g * factor + offset);
        *b = unit(*b * factor + offset);
    }
}

/// HSV with only the hue changed: with `V` the largest channel, `C = V - smallest` and `h` in sixths of a
/// turn, a channel is `V - C clamp(min(k, 4 - k), 0, 1)` with `k = (n + h) mod 6` and n = 5, 3, 1 for R, G, B.
fn turn_hue(planes: &mut [f32], turn: f32) {
    // Between 0 and 6, so that one subtraction brings the sum below back into range.
    let turn = turn.rem_euclid(1.0) * 6.0;
    let [red, green, blue] = channels(planes);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let (x, y, z) = (*r, *g, *b);
        let value = x.max(y).max(z);
        let chroma = value - x.min(y).min(z);
        let scale = 1.0 / if chroma > 0.0 { chroma } else { 1.0 };
        let sixth = if value == x {
            let h = (y - z) * scale;
            if h < 0.0 { h + 6.0 } else { h }
        } else if value == y {
            (z - x) * scale + 2.0
        } else {
            (x - y) * scale + 4.0
        };
        let h = sixth + turn;
        *r = channel(value, chroma, h + 5.0);
        *g = channel(value, chroma, h + 3.0);
        *b = channel(value, chroma, h + 1.0);
    }
}

/// `k` is from 0 to 17: it is brought into 0..6 by at most two subtractions.
#[inline]
fn channel(value: f32, chroma: f32, k: f32) -> f32 {
    let k = if k >= 12.0 { k - 12.0 } else { k };
    let k = if k >= 6.0 { k - 6.0 } else { k };
    value - chroma * unit(k.min(4.0 - k))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(pixel: [f32; 3], change: Change) -> [f32; 3] {
        let mut planes = pixel;
        apply(&mut planes, change);
        planes
    }

    fn close(a: [f32; 3], b: [f32; 3]) -> bool {
        a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5)
    }

    #[test]
    fn brightness_scales_and_clamps() {
        assert!(close(changed([0.2, 0.4, 0.8], Change::Brightness(1.5)), [0.3, 0.6, 1.0]));
    }

    #[test]
    fn saturation_moves_from_the_light_of_the_pixel() {
        // Light 0.299; half way to it: (1 + 0.299) / 2 and 0.299 / 2.
        let half = changed([1.0, 0.0, 0.0], Change::Saturation(0.5));
        assert!(close(half, [0.6495, 0.1495, 0.1495]));
        assert!(close(changed([0.3, 0.5, 0.7], Change::Saturation(1.0)), [0.3, 0.5, 0.7]));
    }

    #[test]
    fn contrast_moves_from_the_mean_light() {
        // A black and a white pixel: mean light 0.5.
        let mut planes = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        apply(&mut planes, Change::Contrast(0.5));
        assert!(planes.iter().step_by(2).all(|x| (x - 0.25).abs() < 1e-6));
        assert!(planes.iter().skip(1).step_by(2).all(|x| (x - 0.75).abs() < 1e-6));
    }

    #[test]
    fn a_third_of_a_turn_moves_red_to_green_to_blue() {
        let turn = Change::Hue(1.0 / 3.0);
        assert!(close(changed([0.9, 0.1, 0.1], turn), [0.1, 0.9, 0.1]));
        assert!(close(changed([0.1, 0.9, 0.1], turn), [0.1, 0.1, 0.9]));
        assert!(close(changed([0.1, 0.1, 0.9], turn), [0.9, 0.1, 0.1]));
        // Red by a sixth is yellow, backwards it is magenta.
        assert!(close(changed([0.9, 0.1, 0.1], Change::Hue(1.0 / 6.0)), [0.9, 0.9, 0.1]));
        assert!(close(changed([0.9, 0.1, 0.1], Change::Hue(-1.0 / 6.0)), [0.9, 0.1, 0.9]));
    }

    #[test]
    fn grey_has_no_hue_and_turning_back_gives_the_colour() {
        assert!(close(changed([0.4; 3], Change::Hue(0.37)), [0.4; 3]));
        let mut stream = Stream::new(3, "colours", 0, 0);
        for _ in 0..200 {
            let pixel = [0; 3].map(|_| stream.uniform() as f32);
            let there = changed(pixel, Change::Hue(0.21));
            assert!(close(changed(there, Change::Hue(-0.21)), pixel), "{pixel:?}");
        }
    }

    #[test]
    fn the_same_stream_draws_the_same_changes_in_any_order() {
        let strength = Strength { brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 };
        let draw_at = |step| draw(&mut Stream::new(0, "jitter", step, 0), &strength);
        assert_eq!(draw_at(4), draw_at(4));
        let first: Vec<_> = (0..200).map(|step| draw_at(step)[0].unwrap()).collect();
        let hues = first.iter().filter(|change| matches!(change, Change::Hue(_))).count();
        assert!((25..75).contains(&hues));
        for change in first {
            match change {
                Change::Brightness(f) | Change::Contrast(f) => assert!((0.6..1.4).contains(&f)),
                Change::Saturation(f) => assert!((0.8..1.2).contains(&f)),
                Change::Hue(turn) => assert!(turn.abs() <= 0.1),
            }
        }
        let none = draw(&mut Stream::new(0, "jitter", 0, 0), &Strength::default());
        assert_eq!(none, [None; 4]);
    }
}
