//! The map of features as SVG, coloured and named by class.

use super::MapInput;
use super::map::tsne;
use super::text::{add, escape};
use crate::Result;
use crate::metric::Features;

/// All pairs are computed: more would take too long and show less.
const MOST_POINTS: usize = 1000;
/// Classes that get a name in the legend.
const MOST_NAMES: usize = 20;
const SIZE: (f64, f64) = (760.0, 560.0);
const MARGIN: f64 = 26.0;

/// Hues that stay apart for most eyes, in both schemes; further classes take the golden angle.
const HUES: [&str; 10] = [
    "#4c78d8", "#f28e2b", "#3ba272", "#e15759", "#9467bd", "#a8743f", "#e377c2", "#7f8794",
    "#b8a800", "#17a2b8",
];

/// The map with its legend; empty without features.
pub(super) fn map(input: &MapInput) -> Result<String> {
    let rows = (input.features.len() / input.width.max(1)).min(MOST_POINTS);
    if rows < 3 {
        return Ok(String::new());
    }
    let features = Features::new(&input.features[..rows * input.width], input.width)?;
    let places = fitted(&tsne(features, input.seed)?);
    let class = |i: usize| input.labels.get(i).map(|label| *label as usize);
    let (w, h) = SIZE;
    let mut out = format!(
        "<div class=\"map\"><svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"map of the features\">"
    );
    for (i, [x, y]) in places.iter().enumerate() {
        let colour = class(i).map_or_else(|| "var(--accent)".to_owned(), hue);
        let title = class(i).map_or_else(String::new, |of| name(input, of));
        add(
            &mut out,
            format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.4\" fill=\"{colour}\"><title>{title}</title></circle>"
            ),
        );
    }
    let shown = present(&input.labels[..rows.min(input.labels.len())]);
    for (of, _) in shown.iter().take(MOST_NAMES) {
        let [x, y] = middle(&places, &input.labels, *of);
        let label = name(input, *of);
        add(
            &mut out,
            format_args!("<text class=\"place\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>"),
        );
    }
    out.push_str("</svg>");
    out.push_str(&legend(input, &shown));
    out.push_str("</div>");
    Ok(out)
}

fn name(input: &MapInput, class: usize) -> String {
    input.classes.get(class).map_or_else(|| format!("class {class}"), |name| escape(name))
}

fn hue(class: usize) -> String {
    match HUES.get(class) {
        Some(hue) => (*hue).to_owned(),
        None => format!("hsl({:.0} 60% 52%)", (class as f64 * 137.508) % 360.0),
    }
}

/// The classes among `labels` with their counts, by class.
fn present(labels: &[u32]) -> Vec<(usize, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for label in labels {
        *counts.entry(*label as usize).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

/// The medians of a class' places: a good place for its name.
fn middle(places: &[[f64; 2]], labels: &[u32], class: usize) -> [f64; 2] {
    [0, 1].map(|axis| {
        let of_class = places.iter().zip(labels).filter(|(_, label)| **label as usize == class);
        let mut values: Vec<f64> = of_class.map(|(place, _)| place[axis]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    })
}

fn legend(input: &MapInput, shown: &[(usize, usize)]) -> String {
    let mut out = String::from("<ul class=\"legend\">");
    for (class, count) in shown.iter().take(MOST_NAMES) {
        let (hue, name) = (hue(*class), name(input, *class));
        add(
            &mut out,
            format_args!("<li><i style=\"background:{hue}\"></i>{name}<span>{count}</span></li>"),
        );
    }
    if shown.len() > MOST_NAMES {
        add(&mut out, format_args!("<li>and {} more</li>", shown.len() - MOST_NAMES));
    }
    out.push_str("</ul>");
    out
}

/// `places` moved and scaled into the picture, each axis by itself.
fn fitted(places: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let bounds = [0, 1].map(|axis| {
        let values = places.iter().map(|place| place[axis]);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    });
    let room = [SIZE.0 - 2.0 * MARGIN, SIZE.1 - 2.0 * MARGIN];
    let fit = |place: &[f64; 2]| {
        [0, 1].map(|axis| {
            let (low, high) = bounds[axis];
            MARGIN + room[axis] * (place[axis] - low) / (high - low).max(1e-12)
        })
    };
    places.iter().map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_name_on_the_map_and_in_the_legend() {
        let input = MapInput {
            features: (0..40).flat_map(|i| [(i % 2) as f32 * 9.0, i as f32 / 40.0]).collect(),
            width: 2,
            labels: (0..40).map(|i| i % 2).collect(),
            classes: vec!["cat".to_owned(), "<dog>".to_owned()],
            seed: 0,
        };
        let svg = map(&input).unwrap();
        assert_eq!(svg.matches("<circle").count(), 40);
        assert!(svg.contains(">&lt;dog&gt;</text>") && svg.contains("cat<span>20</span>"));
    }

    #[test]
    fn features_without_labels_are_drawn_in_one_colour_and_none_give_nothing() {
        let features = (0..30).map(|i| (i * i % 7) as f32).collect();
        let input = MapInput { features, width: 3, ..MapInput::default() };
        let svg = map(&input).unwrap();
        assert_eq!(svg.matches("var(--accent)").count(), 10);
        assert_eq!(map(&MapInput::default()).unwrap(), "");
    }
}
