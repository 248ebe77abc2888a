//! Built-in pictures of figures, so that the first command needs no download.
//!
//! The classes differ in form only. Colours of figure and ground, texture, light, size, place, tilt and
//! noise are drawn without regard to the class, so that neighbours in pixels are rarely of one class.
//! Grounds are of middling light: were a ground as bright or dark as it likes, its light would tell
//! pictures apart before any form does, and methods that tell pictures apart would learn nothing else.
//! Sample `i` of a split is a pure function of (seed, split, i).

use std::sync::Arc;

use super::figures::{FIGURES, Figure};
use super::{Certainty, Dataset, Kind, MOST_SAMPLES, OpenOptions, Sample, Split, counted};
use crate::random::Stream;
use crate::{Error, Result};

const SIDE: usize = 32;
const SIDES: std::ops::RangeInclusive<usize> = 32..=224;
const TRAIN: usize = 10_000;
const TEST: usize = 2_000;
/// Grains of a surface along each side.
const GRAINS: usize = 16;
/// How far a channel may lie from the grey of its light.
const TINT: f32 = 0.25;

inventory::submit! {
    Kind {
        name: "shapes",
        opens: "shapes, shapes:SIDE or shapes:SIDE:COUNT",
        help: "built-in pictures of 12 figures, 32 to 224 pixels wide (32), COUNT to learn from (10000)",
        recognise: |source| if source == "shapes" { Certainty::Yes } else { Certainty::No },
        open: |source, options| Ok(Arc::new(Shapes::open(source, options)?)),
    }
}

#[derive(Debug)]
struct Shapes {
    side: usize,
    len: usize,
    seed: u64,
    split: Split,
    class_names: Vec<String>,
}

impl Shapes {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let wrong = || {
            Error::asked_wrongly(format!("`shapes:{source}` is no size of built-in pictures")).hint(
                "write `shapes:SIDE` with 32 to 224 pixels or `shapes:SIDE:COUNT`, such as `shapes:64:5000`",
            )
        };
        let source = source.strip_prefix("shapes").unwrap_or(source);
        let mut parts = source.split(':');
        let mut number = |default: usize| match parts.next() {
            None | Some("") => Ok(default),
            Some(text) => text.parse::<usize>().map_err(|_| wrong()),
        };
        let (side, count) = (number(SIDE)?, number(TRAIN)?);
        if !SIDES.contains(&side) || !(1..=MOST_SAMPLES).contains(&count) || parts.next().is_some()
        {
            return Err(wrong());
        }
        let len = match options.split {
            Split::Train => count,
            Split::Test => TEST,
        };
        let class_names = FIGURES.iter().map(|figure| figure.name.to_owned()).collect();
        Ok(Self { side, len, seed: options.seed, split: options.split, class_names })
    }

    fn stream_name(&self) -> &'static str {
        match self.split {
            Split::Train => "shapes:train",
            Split::Test => "shapes:test",
        }
    }
}

/// A surface: a colour, a light that changes along one direction, and grains.
struct Surface {
    /// Colour, 0 to 1.
    colour: [f32; 3],
    /// Change of light across the picture, `[along x, along y]`.
    slope: [f32; 2],
    /// Light of each grain, `GRAINS` by `GRAINS` of them: a texture that no two pictures share and none is
    /// known by, as stripes would be.
    grains: Vec<f32>,
}

fn between(stream: &mut Stream, low: f32, high: f32) -> f32 {
    stream.range(f64::from(low), f64::from(high)) as f32
}

impl Surface {
    fn draw(stream: &mut Stream, colour: [f32; 3]) -> Self {
        let height = if stream.chance(0.5) { between(stream, 0.02, 0.08) } else { 0.0 };
        let slope = [between(stream, -0.03, 0.03), between(stream, -0.03, 0.03)];
        let grains = (0..GRAINS * GRAINS).map(|_| between(stream, -height, height)).collect();
        Self { colour, slope, grains }
    }

    /// Light to be added to the colour at `(u, v)`, both from -0.5 to 0.5.
    fn light(&self, u: f32, v: f32) -> f32 {
        let at = |w: f32| (((w + 0.5) * GRAINS as f32) as usize).min(GRAINS - 1);
        self.slope[0] * u + self.slope[1] * v + self.grains[at(v) * GRAINS + at(u)]
    }
}

fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// A colour around a middle grey of light `light`.
fn tint(stream: &mut Stream, light: f32) -> [f32; 3] {
    let tinted = [0; 3].map(|_| light + between(stream, -TINT, TINT));
    let off = light - luma(tinted);
    tinted.map(|channel| (channel + off).clamp(0.0, 1.0))
}

/// Colours of figure and ground: any hue, and light that tells the two apart, whichever is brighter.
fn colours(stream: &mut Stream) -> [[f32; 3]; 2] {
    let ground = between(stream, 0.5, 0.6);
    let figure = ground - between(stream, 0.25, 0.35);
    [tint(stream, figure), tint(stream, ground)]
}

/// Where the figure lies: from picture coordinates to the figure's plane.
struct Pose {
    centre: [f32; 2],
    /// Rows of the matrix from picture to figure.
    to_figure: [[f32; 2]; 2],
    /// How wide a pixel is in the figure's plane.
    pixel: f32,
}

impl Pose {
    fn draw(stream: &mut Stream, side: usize) -> Self {
        let radius = between(stream, 0.2, 0.38);
        let room = 0.5 - radius * 0.9;
        let centre = [between(stream, -room, room), between(stream, -room, room)];
        // A tilt, not a turn: which way up a figure stands is part of its form.
        let (sin, cos) = between(stream, -0.3, 0.3).sin_cos();
        // A little squeeze along a direction of the picture, so that figures aren't all one outline.
        let squeeze = between(stream, 0.85, 1.15);
        let (a, b) = (1.0 / (radius * squeeze), squeeze / radius);
        Self {
            centre,
            to_figure: [[cos * a, sin * b], [-sin * a, cos * b]],
            pixel: 1.0 / (radius * side as f32),
        }
    }

    /// The share of a pixel at `(u, v)` that the figure covers.
    fn coverage(&self, figure: &Figure, u: f32, v: f32) -> f32 {
        let (x, y) = (u - self.centre[0], v - self.centre[1]);
        let [first, second] = self.to_figure;
        let distance =
            (figure.distance)(first[0] * x + first[1] * y, second[0] * x + second[1] * y);
        (0.5 - distance / self.pixel).clamp(0.0, 1.0)
    }
}

fn paint(figure: &Figure, side: usize, stream: &mut Stream, pixels: &mut Vec<u8>) {
    let [figure_colour, ground_colour] = colours(stream);
    let pose = Pose::draw(stream, side);
    let front = Surface::draw(stream, figure_colour);
    let back = Surface::draw(stream, ground_colour);
    let noise = between(stream, 0.02, 0.06);
    pixels.clear();
    for row in 0..side {
        let v = (row as f32 + 0.5) / side as f32 - 0.5;
        for column in 0..side {
            let u = (column as f32 + 0.5) / side as f32 - 0.5;
            let share = pose.coverage(figure, u, v);
            let light = share * front.light(u, v) + (1.0 - share) * back.light(u, v);
            let grain = stream.u32().to_le_bytes();
            for ((grain, front), back) in grain.into_iter().zip(front.colour).zip(back.colour) {
                let colour = share * front + (1.0 - share) * back + light;
                let noisy = colour + noise * (f32::from(grain) / 127.5 - 1.0);
                pixels.push((noisy * 255.0).round().clamp(0.0, 255.0) as u8);
            }
        }
    }
}

impl Dataset for Shapes {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        let mut stream = Stream::new(self.seed, self.stream_name(), index as u64, 0);
        let image = sample.image_mut();
        image.width = self.side;
        image.height = self.side;
        paint(&FIGURES[index % FIGURES.len()], self.side, &mut stream, &mut image.pixels);
        Ok(())
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some((index % FIGURES.len()) as u32)
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        format!("shapes:{}:{index}", self.split)
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        let side = self.side;
        format!(
            "built-in shapes: {}",
            counted(self, &format!("pictures of {side} x {side} pixels"))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;

    fn split(split: Split, limit: Option<usize>) -> Arc<dyn Dataset> {
        open("shapes", &OpenOptions { split, limit, ..Default::default() }).unwrap()
    }

    fn pixels(dataset: &dyn Dataset, index: usize) -> Vec<f32> {
        let Sample::Image(image) = dataset.sample(index).unwrap() else { panic!("a picture") };
        image.pixels.iter().map(|p| f32::from(*p)).collect()
    }

    #[test]
    fn a_sample_depends_on_seed_split_and_index_only() {
        let (train, test) = (split(Split::Train, None), split(Split::Test, None));
        assert_eq!((train.len(), test.len(), train.class_names().len()), (10_000, 2_000, 12));
        assert_eq!(pixels(train.as_ref(), 5), pixels(train.as_ref(), 5));
        assert_ne!(pixels(train.as_ref(), 5), pixels(test.as_ref(), 5));
        assert_ne!(pixels(train.as_ref(), 5), pixels(train.as_ref(), 17));
        let other = open("shapes", &OpenOptions { seed: 1, ..Default::default() }).unwrap();
        assert_ne!(pixels(train.as_ref(), 5), pixels(other.as_ref(), 5));
    }

    #[test]
    fn the_side_and_count_are_asked_for_and_checked() {
        let data = open("shapes:64:50", &OpenOptions::default()).unwrap();
        assert_eq!((data.len(), pixels(data.as_ref(), 0).len()), (50, 64 * 64 * 3));
        for wrong in ["shapes:16", "shapes:x", "shapes:64:0", "shapes:64:5:5"] {
            assert!(open(wrong, &OpenOptions::default()).unwrap_err().hint_text().is_some());
        }
    }

    #[test]
    fn neighbours_in_pixels_say_little_about_the_class() {
        let bank = split(Split::Train, Some(600));
        let queries = split(Split::Test, Some(120));
        let unit = |mut v: Vec<f32>| {
            let mean = v.iter().sum::<f32>() / v.len() as f32;
            for x in &mut v {
                *x -= mean;
            }
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            for x in &mut v {
                *x /= norm;
            }
            v
        };
        let rows: Vec<_> = (0..bank.len()).map(|i| unit(pixels(bank.as_ref(), i))).collect();
        let right = (0..queries.len())
            .filter(|query| {
                let q = unit(pixels(queries.as_ref(), *query));
                let near = |row: &Vec<f32>| row.iter().zip(&q).map(|(a, b)| a * b).sum::<f32>();
                let best =
                    (0..rows.len()).max_by(|a, b| near(&rows[*a]).total_cmp(&near(&rows[*b])));
                bank.label(best.unwrap()) == queries.label(*query)
            })
            .count();
        assert!(right < 40, "{right} of 120 found by pixels");
    }
}
