//! The figures of the built-in pictures: signed distances (negative inside) in a plane where each figure
//! fills about the unit disc.

use std::f32::consts::{FRAC_PI_3, PI, TAU};

/// A figure: its name and its signed distance at `(x, y)`.
pub(super) struct Figure {
    /// The name of its class.
    pub name: &'static str,
    /// Signed distance to the edge, negative inside; near the edge its slope is about 1.
    pub distance: fn(x: f32, y: f32) -> f32,
}

/// Every figure, by name.
pub(super) const FIGURES: [Figure; 12] = [
    Figure { name: "arrow", distance: arrow },
    Figure { name: "bars", distance: bars },
    Figure { name: "crescent", distance: crescent },
    Figure { name: "cross", distance: cross },
    Figure { name: "disc", distance: disc },
    Figure { name: "dots", distance: dots },
    Figure { name: "ring", distance: ring },
    Figure { name: "spiral", distance: spiral },
    Figure { name: "square", distance: square },
    Figure { name: "star", distance: star },
    Figure { name: "triangle", distance: triangle },
    Figure { name: "zigzag", distance: zigzag },
];

/// A box around the origin with half sides `a` and `b`.
fn slab(x: f32, y: f32, a: f32, b: f32) -> f32 {
    (x.abs() - a).max(y.abs() - b)
}

/// A line of half width `w` from `(x0, y0)` to `(x1, y1)`.
fn stroke([x, y]: [f32; 2], [x0, y0]: [f32; 2], [x1, y1]: [f32; 2], w: f32) -> f32 {
    let (dx, dy) = (x1 - x0, y1 - y0);
    let t = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    (x - x0 - t * dx).hypot(y - y0 - t * dy) - w
}

fn arrow(x: f32, y: f32) -> f32 {
    let shaft = slab(x + 0.35, y, 0.6, 0.2);
    // The head: left edge at x = 0.05, slanted edges meeting at (0.95, 0).
    let head = (0.05 - x).max((x - 0.95) * 0.64 + y.abs() * 0.77);
    shaft.min(head)
}

fn bars(x: f32, y: f32) -> f32 {
    let middle = 0.6 * (y / 0.6).round().clamp(-1.0, 1.0);
    slab(x, y - middle, 0.8, 0.17)
}

fn crescent(x: f32, y: f32) -> f32 {
    (x.hypot(y) - 0.9).max(0.72 - (x - 0.45).hypot(y))
}

fn cross(x: f32, y: f32) -> f32 {
    slab(x, y, 0.9, 0.25).min(slab(x, y, 0.25, 0.9))
}

fn disc(x: f32, y: f32) -> f32 {
    x.hypot(y) - 0.8
}

fn dots(x: f32, y: f32) -> f32 {
    (x.abs() - 0.5).hypot(y.abs() - 0.5) - 0.33
}

fn ring(x: f32, y: f32) -> f32 {
    (x.hypot(y) - 0.68).abs() - 0.2
}

/// An Archimedean spiral of two and a half turns.
fn spiral(x: f32, y: f32) -> f32 {
    let (pitch, half_width) = (0.38, 0.095);
    let radius = x.hypot(y);
    let turn = radius / pitch - y.atan2(x) / TAU;
    ((turn - turn.round()).abs() * pitch - half_width).max(radius - 0.95)
}

fn square(x: f32, y: f32) -> f32 {
    slab(x, y, 0.68, 0.68)
}

/// Five points of radius 1, valleys of radius 0.42.
fn star(x: f32, y: f32) -> f32 {
    let fifth = TAU / 5.0;
    let angle = (y.atan2(x) + PI).rem_euclid(fifth) - fifth / 2.0;
    let (sin, cos) = angle.sin_cos();
    let radius = x.hypot(y);
    let (u, v) = (radius * cos, radius * sin.abs());
    // The edge runs from the point (1, 0) to the valley at half a fifth of a turn.
    let (valley_x, valley_y) = (0.42 * (fifth / 2.0).cos(), 0.42 * (fifth / 2.0).sin());
    let (dx, dy) = (valley_x - 1.0, valley_y);
    ((u - 1.0) * -dy + v * dx) / -dx.hypot(dy)
}

fn triangle(x: f32, y: f32) -> f32 {
    let side = |angle: f32| x * angle.cos() + y * angle.sin();
    side(PI).max(side(FRAC_PI_3)).max(side(-FRAC_PI_3)) - 0.48
}

fn zigzag(x: f32, y: f32) -> f32 {
    const CORNERS: [[f32; 2]; 5] =
        [[-0.84, -0.35], [-0.42, 0.35], [0.0, -0.35], [0.42, 0.35], [0.84, -0.35]];
    CORNERS
        .windows(2)
        .map(|ends| stroke([x, y], ends[0], ends[1], 0.13))
        .fold(f32::INFINITY, f32::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of the square from -1 to 1 that a figure covers.
    fn area(figure: &Figure) -> f32 {
        let n = 64;
        let at = |i: i32| (i as f32 + 0.5) / n as f32 * 2.0 - 1.0;
        let inside = (0..n * n).filter(|i| (figure.distance)(at(i % n), at(i / n)) < 0.0).count();
        inside as f32 / (n * n) as f32
    }

    #[test]
    fn every_figure_covers_a_fair_share_and_stays_in_its_disc() {
        for figure in &FIGURES {
            let share = area(figure);
            assert!((0.12..0.6).contains(&share), "{} covers {share}", figure.name);
            for step in 0..32 {
                let (sin, cos) = (step as f32 * TAU / 32.0).sin_cos();
                let outside = (figure.distance)(1.2 * cos, 1.2 * sin);
                assert!(outside > 0.0, "{} leaves its disc", figure.name);
            }
        }
    }

    #[test]
    fn a_disc_and_a_square_have_their_distances() {
        assert!((disc(0.8, 0.0)).abs() < 1e-6 && (square(0.0, -0.68)).abs() < 1e-6);
        assert!(star(1.0, 0.0).abs() < 0.7 && star(0.0, 0.0) < -0.2);
        assert!((ring(0.0, 0.68) + 0.2).abs() < 1e-6);
    }

    #[test]
    fn figures_are_sorted_by_name() {
        assert!(FIGURES.windows(2).all(|two| two[0].name < two[1].name));
    }
}
