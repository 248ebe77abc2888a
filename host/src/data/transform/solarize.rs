//! Solarize: light values turn dark.

/// Turns `x` into `1 - x` where `x`, as the nearest 8-bit value, is at least `threshold` (0 to 256).
pub fn apply(planes: &mut [f32], threshold: f32) {
    let limit = (threshold - 0.5) / 255.0;
    for x in planes {
        *x = if *x >= limit { 1.0 - *x } else { *x };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_the_threshold_on_are_turned() {
        let mut planes = [0.0, 127.0 / 255.0, 128.0 / 255.0, 1.0];
        apply(&mut planes, 128.0);
        assert_eq!(planes, [0.0, 127.0 / 255.0, 1.0 - 128.0 / 255.0, 0.0]);
    }
}
