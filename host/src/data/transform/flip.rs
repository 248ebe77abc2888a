//! Horizontal flip.

/// Mirrors every row of `width` values.
pub fn apply(planes: &mut [f32], width: usize) {
    for row in planes.chunks_exact_mut(width.max(1)) {
        row.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mirrored_and_twice_is_nothing() {
        let mut planes = [1., 2., 3., 4., 5., 6.];
        apply(&mut planes, 3);
        assert_eq!(planes, [3., 2., 1., 6., 5., 4.]);
        apply(&mut planes, 3);
        assert_eq!(planes, [1., 2., 3., 4., 5., 6.]);
    }
}
