//! How features change in time: the slope of a line through five frames.

/// Frames to each side.
const REACH: isize = 2;
/// Sum of the squares of -2 to 2.
const SQUARES: f32 = 10.0;

/// Writes the slopes of columns `from..from + width` of `rows` `[frames, stride]` into the columns that
/// follow them. Beyond the ends the first and last frame go on.
pub(super) fn append(rows: &mut [f32], stride: usize, from: usize, width: usize) {
    let frames = (rows.len() / stride) as isize;
    for frame in 0..frames {
        for column in from..from + width {
            let at = |offset: isize| {
                rows[(frame + offset).clamp(0, frames - 1) as usize * stride + column]
            };
            let slope = (1..=REACH).map(|n| n as f32 * (at(n) - at(-n))).sum::<f32>() / SQUARES;
            rows[frame as usize * stride + column + width] = slope;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_has_its_slope_inside_and_less_at_the_ends() {
        let mut rows: Vec<f32> = (0..6).flat_map(|i| [3.0 * i as f32, 0.0]).collect();
        super::append(&mut rows, 2, 0, 1);
        let slopes: Vec<f32> = rows.iter().skip(1).step_by(2).copied().collect();
        // At the first frame: (1 * 3 + 2 * 6) / 10.
        for (slope, want) in slopes.iter().zip([1.5, 2.4, 3.0, 3.0, 2.4, 1.5]) {
            assert!((slope - want).abs() < 1e-6, "{slopes:?}");
        }
    }
}
