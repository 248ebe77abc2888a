//! L-BFGS: finds the least of a smooth convex function from its values and gradients.
//! Nocedal and Wright 2006, "Numerical optimization", algorithms 7.4 and 7.5.

use std::collections::VecDeque;

/// Pairs of steps and changes of the gradient that the curvature is known from.
const PAIRS: usize = 10;
/// A step must lower the value by this share of what the slope promises,
const DECREASE: f64 = 1e-4;
/// and leave at most this share of the slope.
const CURVATURE: f64 = 0.9;
/// Steps tried along one direction.
const TRIES: usize = 25;

/// When a search ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// At most so many directions.
    pub iterations: usize,
    /// Enough when no element of the gradient is larger.
    pub gradient: f64,
}

/// A point with the function's value and gradient there.
#[derive(Clone, Debug)]
struct Place {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// A step that was taken, and how the gradient changed over it.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Their product.
    product: f64,
}

/// Goes down from `start`. `function` writes the gradient and returns the value.
pub(super) fn minimize(
    start: Vec<f64>,
    limits: Limits,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Vec<f64> {
    let mut evaluate = |x: Vec<f64>| {
        let mut gradient = vec![0.0; x.len()];
        let value = function(&x, &mut gradient);
        Place { x, value, gradient }
    };
    let mut at = evaluate(start);
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    for _ in 0..limits.iterations {
        let largest = at.gradient.iter().fold(0.0_f64, |most, g| most.max(g.abs()));
        if largest <= limits.gradient {
            break;
        }
        let direction = direction(&at.gradient, &pairs);
        let slope = dot(&at.gradient, &direction);
        // Without any curvature the first step has length 1.
        let length = if pairs.is_empty() { 1.0 / dot(&direction, &direction).sqrt() } else { 1.0 };
        let Some(next) = search(&at, &direction, (slope, length), &mut evaluate) else { break };
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        let (step, change): (Vec<f64>, Vec<f64>) =
            (difference(&next.x, &at.x), difference(&next.gradient, &at.gradient));
        let product = dot(&step, &change);
        if product > 1e-12 * dot(&change, &change) {
            pairs.truncate(PAIRS - 1);
            pairs.push_front(Pair { step, change, product });
        }
        at = next;
    }
    at.x
}

/// Minus the gradient times the inverse curvature that the pairs, the newest first, make known.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let share = dot(&pair.step, &q) / pair.product;
        add(&mut q, -share, &pair.change);
        shares.push(share);
    }
    if let Some(newest) = pairs.front() {
        let scale = newest.product / dot(&newest.change, &newest.change);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (pair, share) in pairs.iter().zip(shares).rev() {
        let back = dot(&pair.change, &q) / pair.product;
        add(&mut q, share - back, &pair.step);
    }
    q
}

/// The place along `direction` where the value has fallen and the slope has flattened enough (the weak
/// Wolfe conditions, by doubling and halving); none where rounding hides any fall.
fn search(
    from: &Place,
    direction: &[f64],
    (slope, mut length): (f64, f64),
    evaluate: &mut impl FnMut(Vec<f64>) -> Place,
) -> Option<Place> {
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut best: Option<Place> = None;
    for _ in 0..TRIES {
        let mut x = from.x.clone();
        add(&mut x, length, direction);
        let place = evaluate(x);
        let falls = place.value <= from.value + DECREASE * length * slope;
        if !falls {
            high = length;
        } else if dot(&place.gradient, direction) < CURVATURE * slope {
            low = length;
            best = Some(place);
        } else {
            return Some(place);
        }
        length = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * length };
    }
    best
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `a += factor b`.
fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_least_of_a_badly_scaled_bowl() {
        let scales = [1.0, 100.0, 1e4, 3.0];
        let bowl = |x: &[f64], gradient: &mut [f64]| {
            let mut value = 0.0;
            for (i, scale) in scales.iter().enumerate() {
                let d = x[i] - i as f64;
                value += 0.5 * scale * d * d;
                gradient[i] = scale * d;
            }
            value
        };
        let limits = Limits { iterations: 100, gradient: 1e-9 };
        let found = minimize(vec![5.0; 4], limits, bowl);
        for (i, x) in found.iter().enumerate() {
            assert!((x - i as f64).abs() < 1e-8, "{found:?}");
        }
    }

    #[test]
    fn it_finds_the_least_of_a_log_sum_exp() {
        let function = |x: &[f64], gradient: &mut [f64]| {
            let (a, b) = ((x[0] + 3.0 * x[1] - 0.1).exp(), (x[0] - 3.0 * x[1] - 0.1).exp());
            let c = (-x[0] - 0.1).exp();
            gradient.copy_from_slice(&[a + b - c, 3.0 * a - 3.0 * b]);
            a + b + c
        };
        let limits = Limits { iterations: 60, gradient: 1e-8 };
        let found = minimize(vec![1.0, -0.5], limits, function);
        assert!((found[0] + 0.5 * 2.0_f64.ln()).abs() < 1e-6 && found[1].abs() < 1e-6, "{found:?}");
    }
}
