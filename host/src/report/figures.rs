//! What the page says in numbers: the cards, the probe's bars, and a chart per key of the records.

use super::charts::{Chart, Unit, line};
use super::text::{add, duration, escape, number, percent, words};
use super::{ProbeFigures, ReportInput};
use crate::metric;
use crate::run::Record;

/// Keys of a record that say where it belongs.
const PLACES: [&str; 2] = ["step", "epoch"];
const LOSS: &str = "loss";
/// Keys that start so are shares of right answers.
const PROBES: [&str; 2] = ["knn", "linear"];

/// One number in large type.
struct Card {
    name: &'static str,
    value: String,
    note: String,
}

/// The row of cards.
pub(super) fn cards(input: &ReportInput) -> String {
    let mut out = String::from("<div class=\"cards\">");
    for card in list(input) {
        let Card { name, value, note } = card;
        add(
            &mut out,
            format_args!("<div class=\"card\"><h3>{name}</h3><b>{value}</b><p>{note}</p></div>"),
        );
    }
    out.push_str("</div>");
    out
}

fn list(input: &ReportInput) -> Vec<Card> {
    let mut cards = Vec::new();
    let mut add = |name, value, note| cards.push(Card { name, value, note });
    for (name, probe) in [("Nearest neighbours", input.knn), ("Linear probe", input.linear)] {
        let Some(probe) = probe else { continue };
        let note = probe.untrained.map_or_else(String::new, |before| {
            format!("{:+.1} points over the untrained network", 100.0 * (probe.trained - before))
        });
        add(name, percent(probe.trained), note);
    }
    if let Some((rank, width)) = input.rank {
        add("Rank", number(rank), format!("RankMe: dimensions in use, of {width}"));
    }
    if let Some(spread) = input.spread {
        add("Spread", number(spread), "0 is collapse, 1 fills the sphere".to_owned());
    }
    let losses = series(&input.metrics, LOSS);
    if let (Some((_, first)), Some((steps, last))) = (losses.first(), losses.last()) {
        let note = format!("from {} in {} steps", number(*first), number(*steps));
        add("Loss", number(*last), note);
    }
    if let Some(speed) = input.samples_per_second {
        add("Speed", number(speed), "images per second, over the run".to_owned());
    }
    if let Some(seconds) = input.wall_seconds {
        add("Wall time", duration(seconds), "stops left out".to_owned());
    }
    cards
}

/// The probes' figures side by side, each with a sentence; empty without a probe.
pub(super) fn probes(input: &ReportInput) -> String {
    let neighbours = "The nearest neighbours of a test image tell its class";
    let linear = "A logistic regression tells the class of a test image";
    probe(neighbours, input.knn) + &probe(linear, input.linear)
}

fn probe(told: &str, figures: Option<ProbeFigures>) -> String {
    let Some(knn) = figures else { return String::new() };
    let bars = [
        ("trained", Some(knn.trained)),
        ("untrained network", knn.untrained),
        ("raw pixels", knn.pixels),
        ("most frequent class", knn.chance),
    ];
    let known: Vec<_> = bars.into_iter().filter_map(|(name, v)| Some((name, v?))).collect();
    let highest = known.iter().fold(f64::MIN_POSITIVE, |high, (_, value)| high.max(*value));
    let mut out = format!("<p class=\"lead\">{}</p><div class=\"bars\">", sentence(told, knn));
    for (i, (name, value)) in known.iter().enumerate() {
        let (class, width) = (if i == 0 { "best" } else { "" }, 100.0 * value / highest);
        add(
            &mut out,
            format_args!(
                "<span>{name}</span><div><i class=\"{class}\" style=\"width:{width:.1}%\"></i></div>\
                 <b>{}</b>",
                percent(*value)
            ),
        );
    }
    out.push_str("</div>");
    out
}

fn sentence(told: &str, knn: ProbeFigures) -> String {
    let mut others = Vec::new();
    for (name, value) in [("the untrained network's", knn.untrained), ("raw pixels", knn.pixels)] {
        others.extend(value.map(|value| format!("{name} for {}", percent(value))));
    }
    let start =
        format!("{told} for <b>{}</b> of them by the trained features", percent(knn.trained));
    if others.is_empty() {
        format!("{start}.")
    } else {
        format!("{start}, by {}.", others.join(", and by "))
    }
}

/// The loss, wide.
pub(super) fn loss(input: &ReportInput) -> String {
    let points = series(&input.metrics, LOSS);
    figure(&Chart {
        title: LOSS,
        points: &points,
        references: &[],
        smooth: true,
        from_zero: false,
        unit: Unit::Number,
        size: (1080.0, 280.0),
    })
}

/// A small chart for each further key of the records that isn't a schedule.
pub(super) fn curves(input: &ReportInput) -> String {
    let shown = |key: &&String| *key != LOSS && !input.schedules.contains(key);
    grid(input, &keys(&input.metrics).iter().filter(shown).cloned().collect::<Vec<_>>())
}

/// A small chart for each schedule.
pub(super) fn schedules(input: &ReportInput) -> String {
    grid(input, &input.schedules)
}

fn grid(input: &ReportInput, keys: &[String]) -> String {
    let charts: Vec<_> = keys.iter().map(|key| small(input, key)).collect();
    if charts.iter().all(String::is_empty) {
        String::new()
    } else {
        format!("<div class=\"grid2\">{}</div>", charts.concat())
    }
}

fn small(input: &ReportInput, key: &str) -> String {
    let points = series(&input.metrics, key);
    let is_probe = PROBES.iter().any(|probe| key.starts_with(probe));
    let figures = if key.starts_with("linear") { input.linear } else { input.knn };
    let references = match figures.filter(|_| is_probe) {
        Some(knn) => [("untrained", knn.untrained), ("raw pixels", knn.pixels)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        None => Vec::new(),
    };
    figure(&Chart {
        title: key,
        points: &points,
        references: &references,
        smooth: !input.schedules.iter().any(|schedule| schedule == key),
        from_zero: is_probe,
        unit: if is_probe { Unit::Share } else { Unit::Number },
        size: (528.0, 220.0),
    })
}

/// A chart under its name, last value and, for a registered metric, advice.
fn figure(chart: &Chart<'_>) -> String {
    let svg = line(chart);
    let Some((_, last)) = chart.points.iter().rfind(|(_, y)| y.is_finite()) else {
        return String::new();
    };
    let advice = metric::all().into_iter().find(|metric| metric.name == chart.title);
    let advice = advice.map_or_else(String::new, |metric| escape(metric.summary));
    format!(
        "<figure class=\"chart\"><figcaption><span>{}</span><b>{}</b><small>{advice}</small>\
         </figcaption>{svg}</figure>",
        escape(&words(chart.title)),
        chart.unit.write(*last)
    )
}

/// (step, value) of each record that has a number called `key`.
fn series(records: &[Record], key: &str) -> Vec<(f64, f64)> {
    let point = |record: &Record| Some((record.get("step")?.as_f64()?, record.get(key)?.as_f64()?));
    records.iter().filter_map(point).collect()
}

/// The names of numbers in the records, in order of appearance.
fn keys(records: &[Record]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let mut last: Vec<&String> = Vec::new();
    for record in records {
        let now: Vec<_> =
            record.iter().filter(|(_, v)| v.is_number()).map(|(key, _)| key).collect();
        // Most records have the keys of the one before.
        if now != last {
            for key in &now {
                if !PLACES.contains(&key.as_str()) && !keys.contains(key) {
                    keys.push((*key).clone());
                }
            }
            last = now;
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, pairs: &[(&str, f64)]) -> Record {
        let mut record = Record::new();
        record.insert("step".to_owned(), step.into());
        for (key, value) in pairs {
            record.insert((*key).to_owned(), (*value).into());
        }
        record
    }

    fn input() -> ReportInput {
        ReportInput {
            metrics: vec![
                record(1, &[("loss", 4.0), ("lr", 0.1)]),
                record(2, &[("loss", 3.0), ("lr", 0.2)]),
                record(2, &[("knn", 0.5)]),
            ],
            schedules: vec!["lr".to_owned()],
            knn: Some(ProbeFigures {
                trained: 0.5,
                untrained: Some(0.3),
                ..ProbeFigures::default()
            }),
            ..ReportInput::default()
        }
    }

    #[test]
    fn keys_come_in_order_of_appearance_without_places() {
        assert_eq!(keys(&input().metrics), ["loss", "lr", "knn"]);
        assert_eq!(series(&input().metrics, "knn"), [(2.0, 0.5)]);
    }

    #[test]
    fn schedules_stand_apart_from_curves() {
        let input = input();
        let (curves, schedules) = (curves(&input), schedules(&input));
        assert!(curves.contains(">knn<") && !curves.contains(">lr<"));
        assert!(schedules.contains(">lr<") && !schedules.contains(">knn<"));
        assert!(curves.contains("untrained 30.0 %"));
    }

    #[test]
    fn cards_say_how_far_training_went() {
        let html = cards(&input());
        assert!(html.contains("50.0 %") && html.contains("+20.0 points"));
        assert!(html.contains("from 4 in 2 steps"));
    }

    #[test]
    fn the_longest_bar_is_the_best_and_what_is_unknown_is_left_out() {
        let html = probes(&input());
        assert!(html.contains("width:100.0%") && html.contains("width:60.0%"));
        assert!(!html.contains("raw pixels"));
        assert_eq!(probes(&ReportInput::default()), "");
        let both = probes(&ReportInput { linear: input().knn, ..input() });
        assert!(both.contains("nearest neighbours") && both.contains("logistic regression"));
    }
}
