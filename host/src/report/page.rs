//! The page: its parts in order, each left out when there is nothing to show.

use super::text::{add, escape, number, words};
use super::{ReportInput, figures, scatter, sheet};
use crate::Result;

const STYLE: &str = include_str!("page.css");

pub(super) fn render(input: &ReportInput) -> Result<String> {
    let mut page = String::with_capacity(1 << 20);
    add(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{} · pretext</title><style>{STYLE}</style></head><body><main>",
            escape(&input.run)
        ),
    );
    page.push_str(&header(input));
    page.push_str(&warnings(&input.warnings));
    page.push_str(&figures::cards(input));
    let map = input.map.as_ref().map_or_else(|| Ok(String::new()), scatter::map)?;
    for (title, about, content) in [
        ("What the features know", "", figures::probes(input)),
        ("Loss", "", figures::loss(input)),
        (
            "Nearest neighbours",
            "Test images, and the training images whose features are most similar. ✓ same class, ✗ another.",
            sheet::neighbours(&input.queries)?,
        ),
        (
            "Map of the features",
            "t-SNE of the features of test images: near each other means alike to the backbone.",
            map,
        ),
        (
            "Stages",
            "The clusters that each stage found. Purity is the share of frames whose class is the most frequent one of their cluster; mutual information is 0 to 1.",
            stages(&input.stages),
        ),
        ("Curves", "", figures::curves(input)),
        ("Schedules", "", figures::schedules(input)),
        (
            "What the method saw",
            "The views of a few samples, one sample a row, after all transforms.",
            sheet::views(&input.views)?,
        ),
        ("Recipe", "", recipe(&input.recipe)),
        ("Manifest", "", manifest(&input.manifest)),
    ] {
        section(&mut page, title, about, &content);
    }
    page.push_str("</main></body></html>\n");
    Ok(page)
}

fn section(page: &mut String, title: &str, about: &str, content: &str) {
    if content.is_empty() {
        return;
    }
    let about = if about.is_empty() { String::new() } else { format!("<p>{about}</p>") };
    add(page, format_args!("<section><h2>{title}</h2>{about}{content}</section>"));
}

fn header(input: &ReportInput) -> String {
    let facts: String =
        [("method", &input.method), ("data", &input.data), ("backbone", &input.backbone)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("<li><span>{name}</span>{}</li>", escape(value)))
            .collect();
    format!(
        "<header><p class=\"brand\">pretext</p><h1>{}</h1><ul class=\"facts\">{facts}</ul></header>",
        escape(&input.run)
    )
}

fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let items: String = warnings.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
    format!("<ul class=\"warnings\">{items}</ul>")
}

/// One row per stage, one column per figure that any of them has.
fn stages(stages: &[(String, Vec<(String, f64)>)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in stages.iter().flat_map(|(_, figures)| figures) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let heading: String = names.iter().map(|name| format!("<th>{}</th>", words(name))).collect();
    let row = |(stage, figures): &(String, Vec<(String, f64)>)| {
        let value = |name: &&str| {
            let found = figures.iter().find(|(known, _)| known == name);
            let text = found.map_or_else(String::new, |(_, value)| number(*value));
            format!("<td>{text}</td>")
        };
        format!(
            "<tr><th>{}</th>{}</tr>",
            escape(stage),
            names.iter().map(value).collect::<String>()
        )
    };
    format!(
        "<table><tr><th></th>{heading}</tr>{}</table>",
        stages.iter().map(row).collect::<String>()
    )
}

fn recipe(recipe: &str) -> String {
    match recipe.trim() {
        "" => String::new(),
        recipe => format!("<pre>{}</pre>", escape(recipe)),
    }
}

fn manifest(rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let row = |(name, value): &(String, String)| {
        format!("<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value))
    };
    format!("<table>{}</table>", rows.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Labelled, MapInput, Picture, ProbeFigures, Query, ViewSheet};
    use crate::run::Record;

    fn picture(hue: u8, side: usize) -> Picture {
        let pixel = |i: usize| [hue, (i * 8 / side) as u8, 255 - hue];
        Picture { width: side, height: side, rgb: (0..side * side).flat_map(pixel).collect() }
    }

    fn labelled(class: u32) -> Labelled {
        Labelled { picture: picture(40 * class as u8, 32), class: Some(format!("class {class}")) }
    }

    /// A run of `n` steps with everything that a page can show.
    fn full(n: u64) -> ReportInput {
        let record = |step: u64| {
            let mut record = Record::new();
            record.insert("step".to_owned(), step.into());
            let loss = 4.0 + 7.0 / (1.0 + step as f64 / 50.0) + 0.2 * (step as f64 * 1.7).sin();
            record.insert("loss".to_owned(), loss.into());
            record.insert("lr".to_owned(), (1e-3 * step as f64).into());
            record
        };
        ReportInput {
            run: "try <1>".to_owned(),
            method: "a method".to_owned(),
            data: "synthetic".to_owned(),
            backbone: "vit".to_owned(),
            knn: Some(ProbeFigures { trained: 0.612, ..ProbeFigures::default() }),
            linear: None,
            rank: Some((84.0, 192)),
            spread: Some(0.9),
            samples_per_second: Some(512.0),
            wall_seconds: Some(75.0),
            metrics: (1..=n).map(record).collect(),
            stages: vec![
                ("units-1".to_owned(), vec![("clusters_used".to_owned(), 64.0)]),
                ("units-2".to_owned(), vec![("purity".to_owned(), 0.5)]),
            ],
            schedules: vec!["lr".to_owned()],
            warnings: vec!["3 files were skipped".to_owned()],
            views: ViewSheet {
                names: vec!["global".to_owned(), "local".to_owned()],
                samples: vec![vec![picture(9, 32), picture(90, 16)]],
            },
            queries: vec![Query {
                sample: labelled(1),
                neighbours: vec![(labelled(1), 0.9), (labelled(2), 0.8)],
            }],
            map: Some(MapInput {
                features: (0..90).map(|i| (i * i % 17) as f32).collect(),
                width: 3,
                labels: (0..30).map(|i| i % 3).collect(),
                classes: (0..3).map(|i| format!("class {i}")).collect(),
                seed: 0,
            }),
            recipe: "seed = 0\n[train]\nlr = 1e-3".to_owned(),
            manifest: vec![("pretext".to_owned(), "0.1.0".to_owned())],
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = render(&full(100)).unwrap();
        for outside in ["http:", "https:", "//", "<script", "<link", "@import"] {
            let found = page.replace("data:image/png;base64,", "").contains(outside);
            // Base64 may hold `//`: look at the rest alone.
            assert!(outside == "//" || !found, "{outside}");
        }
        assert!(page.contains("try &lt;1&gt;") && !page.contains("try <1>"));
    }

    #[test]
    fn every_part_is_there_when_given_and_left_out_when_not() {
        let (full, bare) = (render(&full(100)).unwrap(), render(&ReportInput::default()).unwrap());
        for title in [
            "What the features know",
            "Loss",
            "Nearest neighbours",
            "Map of the features",
            "Stages",
            "Schedules",
            "What the method saw",
            "Recipe",
            "Manifest",
        ] {
            let heading = format!("<h2>{title}</h2>");
            assert!(full.contains(&heading) && !bare.contains(&heading), "{title}");
        }
        assert!(full.contains("3 files were skipped"));
    }

    #[test]
    fn tags_are_closed() {
        let page = render(&full(100)).unwrap();
        for tag in ["div", "section", "figure", "svg", "ul", "table", "g", "main"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
