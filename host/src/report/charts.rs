//! Line charts as SVG: axes, a curve, reference lines, and values on hover without a script.

use super::text::{add, escape, number, percent};

/// Curves with more points are drawn through the lowest and highest of each stretch.
const MOST_POINTS: usize = 480;
/// Stretches of the x axis that show a value on hover.
const HOVERS: usize = 72;
const MARGIN: [f64; 4] = [10.0, 14.0, 26.0, 52.0];

/// How the y axis is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// As a number.
    Number,
    /// A share, as a percentage.
    Share,
}

impl Unit {
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Self::Number => number(value),
            Self::Share => percent(value),
        }
    }

    fn tick(self, value: f64) -> String {
        match self {
            Self::Number => number(value),
            Self::Share => format!("{} %", number(100.0 * value)),
        }
    }
}

/// One chart.
#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    /// What is drawn.
    pub title: &'a str,
    /// (x, y), x rising; points that aren't finite are left out.
    pub points: &'a [(f64, f64)],
    /// Horizontal lines to compare with: name and height.
    pub references: &'a [(String, f64)],
    /// Whether a running mean is drawn over a noisy curve.
    pub smooth: bool,
    /// Whether the y axis starts at 0.
    pub from_zero: bool,
    /// How y is written.
    pub unit: Unit,
    /// Width and height in CSS pixels.
    pub size: (f64, f64),
}

/// Maps values to places.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Scale {
    fn new(chart: &Chart<'_>, points: &[(f64, f64)]) -> Self {
        let xs = range(points.iter().map(|(x, _)| *x));
        let lines = chart.references.iter().map(|(_, y)| *y);
        let zero = chart.from_zero.then_some(0.0);
        let (low, high) = range(points.iter().map(|(_, y)| *y).chain(lines).chain(zero));
        let pad = match high - low {
            0.0 => 0.05 * high.abs().max(0.1),
            span => 0.06 * span,
        };
        let low = if chart.from_zero && low >= 0.0 { low } else { low - pad };
        let [top, right, bottom, left] = MARGIN;
        Self {
            x: if xs.0 == xs.1 { (xs.0 - 0.5, xs.1 + 0.5) } else { xs },
            y: (low, high + pad),
            left,
            top,
            width: chart.size.0 - left - right,
            height: chart.size.1 - top - bottom,
        }
    }

    fn place_x(&self, x: f64) -> f64 {
        self.left + self.width * (x - self.x.0) / (self.x.1 - self.x.0)
    }

    fn place_y(&self, y: f64) -> f64 {
        self.top + self.height * (self.y.1 - y) / (self.y.1 - self.y.0)
    }
}

/// The chart as an `<svg>` element; empty without points.
pub(super) fn line(chart: &Chart<'_>) -> String {
    let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
    let points: Vec<_> = chart.points.iter().copied().filter(finite).collect();
    if points.is_empty() {
        return String::new();
    }
    let scale = Scale::new(chart, &points);
    let (w, h) = chart.size;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{}\">",
        escape(&format!(
            "{}: {} at the end",
            chart.title,
            chart.unit.write(points[points.len() - 1].1)
        ))
    );
    axes(&mut svg, chart, &scale);
    references(&mut svg, chart, &scale);
    let few = points.len() <= 40;
    let noisy = chart.smooth && !few;
    let class = if noisy { "curve faint" } else { "curve" };
    curve(&mut svg, &scale, &thinned(&points), class);
    if noisy {
        curve(&mut svg, &scale, &thinned(&running_mean(&points)), "curve");
    }
    if few {
        dots(&mut svg, &scale, &points);
    }
    hovers(&mut svg, chart, &scale, &points);
    svg.push_str("</svg>");
    svg
}

fn axes(svg: &mut String, chart: &Chart<'_>, scale: &Scale) {
    let (right, bottom) = (scale.left + scale.width, scale.top + scale.height);
    for tick in ticks(scale.y, (scale.height / 42.0) as usize) {
        let (y, left) = (scale.place_y(tick), scale.left);
        add(svg, format_args!("<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>"));
        let (x, y, label) = (left - 8.0, y + 3.5, chart.unit.tick(tick));
        add(svg, format_args!("<text class=\"tick end\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>"));
    }
    for tick in ticks(scale.x, (scale.width / 90.0) as usize) {
        let (x, y, label) = (scale.place_x(tick), bottom + 17.0, number(tick));
        add(svg, format_args!("<text class=\"tick mid\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>"));
    }
    let left = scale.left;
    add(svg, format_args!("<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>"));
}

fn references(svg: &mut String, chart: &Chart<'_>, scale: &Scale) {
    let right = scale.left + scale.width;
    // Labels that would touch move up, from the lowest line on.
    let mut lines: Vec<_> = chart.references.iter().collect();
    lines.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut free = f64::INFINITY;
    for (name, value) in lines {
        let (y, left) = (scale.place_y(*value), scale.left);
        add(svg, format_args!("<path class=\"reference\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>"));
        let label = format!("{} {}", escape(name), chart.unit.write(*value));
        let at = (y - 5.0).min(free);
        free = at - 13.0;
        add(
            svg,
            format_args!("<text class=\"tick end\" x=\"{right:.1}\" y=\"{at:.1}\">{label}</text>"),
        );
    }
}

fn curve(svg: &mut String, scale: &Scale, points: &[(f64, f64)], class: &str) {
    add(svg, format_args!("<polyline class=\"{class}\" points=\""));
    for (x, y) in points {
        add(svg, format_args!("{:.1},{:.1} ", scale.place_x(*x), scale.place_y(*y)));
    }
    svg.push_str("\"/>");
}

fn dots(svg: &mut String, scale: &Scale, points: &[(f64, f64)]) {
    for (x, y) in points {
        let (x, y) = (scale.place_x(*x), scale.place_y(*y));
        add(svg, format_args!("<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>"));
    }
}

/// Invisible columns; the one under the pointer shows its point and, as its title, the values.
fn hovers(svg: &mut String, chart: &Chart<'_>, scale: &Scale, points: &[(f64, f64)]) {
    let n = points.len().min(HOVERS);
    let (top, height) = (scale.top, scale.height);
    let step = scale.width / n as f64;
    for i in 0..n {
        let (x, y) = points[if n == 1 { 0 } else { i * (points.len() - 1) / (n - 1) }];
        let (px, py) = (scale.place_x(x), scale.place_y(y));
        let left = px - step / 2.0;
        let title = format!("step {}: {}", number(x), chart.unit.write(y));
        add(
            svg,
            format_args!(
                "<g class=\"hover\"><rect x=\"{left:.1}\" y=\"{top}\" width=\"{step:.1}\" \
                 height=\"{height}\"/><path d=\"M{px:.1} {top}v{height}\"/>\
                 <circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3.6\"/><title>{title}</title></g>"
            ),
        );
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// Round numbers inside of `(low, high)`, about `wanted` of them: steps of 1, 2 or 5 times a power of 10.
fn ticks((low, high): (f64, f64), wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted.max(2) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // Multiplying whole numbers keeps 0.3 from becoming 0.30000000000000004 in most cases; `number` rounds the rest.
    (first..=last).map(|i| i as f64 * step).collect()
}

/// At most [`MOST_POINTS`] points with the same outline: the lowest and highest of each stretch.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let extremes = points.chunks(stretch).flat_map(|part| {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = part.iter().min_by(by_height).copied();
        let high = part.iter().max_by(by_height).copied();
        let mut both: Vec<_> = low.into_iter().chain(high).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both.dedup();
        both
    });
    extremes.collect()
}

/// The mean over a window of a fortieth of the curve on either side.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = (points.len() / 40).max(1);
    let window = |i: usize| &points[i.saturating_sub(reach)..points.len().min(i + reach + 1)];
    let mean = |part: &[(f64, f64)]| part.iter().map(|(_, y)| y).sum::<f64>() / part.len() as f64;
    points.iter().enumerate().map(|(i, (x, _))| (*x, mean(window(i)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart<'_> {
        Chart {
            title: "loss",
            points,
            references: &[],
            smooth: true,
            from_zero: false,
            unit: Unit::Number,
            size: (560.0, 220.0),
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 10.0), 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks((-0.3, 0.9), 3), [0.0, 0.5]);
        assert_eq!(ticks((1e-6, 5e-4), 4).len(), 2);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_peaks() {
        let mut points: Vec<_> = (0..20_000).map(|i| (f64::from(i), 1.0)).collect();
        points[12_345].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= MOST_POINTS && thin.contains(&(12_345.0, 9.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_chart_leaves_out_what_is_not_finite_and_names_the_last_value() {
        let points = [(1.0, 2.0), (2.0, f64::NAN), (3.0, 0.5)];
        let svg = line(&chart(&points));
        assert!(svg.contains("loss: 0.5 at the end") && !svg.contains("NaN"));
        assert_eq!(line(&chart(&[])), "");
    }

    #[test]
    fn one_point_and_a_flat_curve_have_a_place() {
        for points in [vec![(5.0, 0.0)], vec![(0.0, 3.0), (1.0, 3.0)]] {
            let svg = line(&chart(&points));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_running_mean_of_a_line_is_the_line_inside() {
        let points: Vec<_> = (0..100).map(|i| (f64::from(i), f64::from(i))).collect();
        assert_eq!(running_mean(&points)[50], (50.0, 50.0));
    }
}
