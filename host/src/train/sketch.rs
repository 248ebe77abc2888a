//! Pictures of what is no picture: sounds, for people.

use crate::report::Picture;

/// A normalised spectrogram `[bands, frames]`, the lowest band first, as it is usually drawn: low below, loud
/// bright.
pub(super) fn spectrogram(values: &[f32], (bands, frames): (usize, usize)) -> Picture {
    /// Deviations from the mean that are black and white.
    const DARKEST: f32 = -1.5;
    const BRIGHTEST: f32 = 2.5;
    let rows = values.chunks_exact(frames.max(1)).take(bands).rev();
    let shade = |value: &f32| {
        let light = ((value - DARKEST) / (BRIGHTEST - DARKEST)).clamp(0.0, 1.0);
        // From black over violet and orange to white, so that small differences are seen.
        [light.sqrt(), light * light, (light * std::f32::consts::PI).sin().max(light.powi(4))]
            .map(|part| (part * 255.0).round() as u8)
    };
    let rgb = rows.flatten().flat_map(shade).collect();
    Picture { width: frames, height: bands, rgb }
}

/// A waveform as a line: what is heard between its lowest and highest value in each column.
pub(super) fn waveform(wave: &[f32]) -> Picture {
    const WIDTH: usize = 128;
    const HEIGHT: usize = 64;
    let mut rgb = vec![255; WIDTH * HEIGHT * 3];
    let loudest = wave.iter().fold(1e-6_f32, |most, x| most.max(x.abs()));
    let row = |value: f32| {
        let down = 0.5 - 0.5 * value / loudest;
        ((down * HEIGHT as f32) as usize).min(HEIGHT - 1)
    };
    for column in 0..WIDTH {
        let range = column * wave.len() / WIDTH..((column + 1) * wave.len()).div_ceil(WIDTH);
        let part = &wave[range];
        if part.is_empty() {
            continue;
        }
        let highest = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = part.iter().copied().fold(f32::INFINITY, f32::min);
        for y in row(highest)..=row(lowest) {
            rgb[(y * WIDTH + column) * 3..][..3].copy_from_slice(&[30, 60, 120]);
        }
    }
    Picture { width: WIDTH, height: HEIGHT, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_band_lies_below_and_loud_is_brighter() {
        let picture = spectrogram(&[2.0, -1.0, 0.0, 0.0], (2, 2));
        assert_eq!((picture.width, picture.height), (2, 2));
        let light = |pixel: usize| {
            picture.rgb[3 * pixel..][..3].iter().map(|x| usize::from(*x)).sum::<usize>()
        };
        assert!(light(2) > light(0) && light(3) < light(0), "{:?}", picture.rgb);
    }

    #[test]
    fn a_line_is_drawn_through_every_column_of_any_sound() {
        for len in [1, 100, 5_000] {
            let wave: Vec<f32> = (0..len).map(|i| (i as f32 * 0.1).sin()).collect();
            let picture = waveform(&wave);
            for column in 0..picture.width {
                let dark = (0..picture.height)
                    .any(|y| picture.rgb[(y * picture.width + column) * 3] < 255);
                assert!(dark, "column {column} of {len} values");
            }
        }
        assert_eq!(waveform(&[]).rgb.len(), 128 * 64 * 3);
    }
}
