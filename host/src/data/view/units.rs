//! `units@1`: the unit of each token of another view, which a stage found.

use std::sync::Arc;

use super::kind::{BatchView, Drawing, View, ViewDef};
use super::settings::Settings;
use crate::data::batch::Trace;
use crate::data::field::Field;
use crate::store::{Layout, Store};
use crate::{Error, Result};

/// How far behind the last unit of a sound a token may lie, in seconds: networks round lengths otherwise.
const BEHIND: f64 = 0.1;

/// Parameters of `units@1`; fields `units` u32 `[B, N]`, and `known` u8 `[B, N]`, 0 in padding and in samples without units.
#[derive(Clone, Debug, PartialEq)]
struct UnitsView {
    of: String,
    stage: String,
}

impl UnitsView {
    fn new(settings: &Settings<'_>) -> Result<Self> {
        let (of, stage) = (settings.text("of")?.to_owned(), settings.text("stage")?.to_owned());
        if stage.is_empty() {
            return Err(Error::asked_wrongly(format!(
                "the view `{}` doesn't say whose units it wants",
                settings.name()
            ))
            .hint("set its `stage` to the name of one"));
        }
        Ok(Self { of, stage })
    }
}

impl BatchView for UnitsView {
    fn of(&self) -> Option<&str> {
        Some(&self.of)
    }

    fn draw(&self, drawing: &Drawing<'_>) -> Result<Vec<Vec<Field>>> {
        let tokens = drawing.tokens()?;
        let width = tokens.iter().product();
        let (mut units, mut known) = (Vec::new(), Vec::new());
        let mut own = Vec::new();
        for place in 0..drawing.samples() {
            let row = match drawing.units.get(&self.stage)? {
                Some(store) => self.row(drawing, store, (place, &tokens), &mut own)?,
                None => vec![0; width],
            };
            known.push((0..width).map(|token| u8::from(token < row.len())).collect());
            units.push([row, vec![0; width]].concat()[..width].to_vec());
        }
        let fields = vec![Field::u32_rows("units", &units), Field::u8_rows("known", &known)];
        Ok(vec![fields; drawing.copies])
    }
}

impl UnitsView {
    /// The units of the tokens of the sample at `place`, of those that aren't padding; none where the stage has none of
    /// the sample. `own` is room for the sample's units.
    fn row(
        &self,
        drawing: &Drawing<'_>,
        store: &Store<u32>,
        (place, tokens): (usize, &[usize]),
        own: &mut Vec<u32>,
    ) -> Result<Vec<u32>> {
        let masked = drawing.masked()?;
        let sample = drawing.sources[place];
        store.read(sample, own)?;
        if own.is_empty() {
            // It could not be read then, or is shorter than a frame: none of its tokens has a known unit.
            return Ok(Vec::new());
        }
        let trace = masked.traces.get(place).copied().unwrap_or_default();
        match (store.layout(), tokens) {
            (Layout::Grid { rows, cols }, &[down, across]) => {
                let at = |token: usize| {
                    let [x, y] =
                        in_picture(trace, [token % across, token / across], [across, down]);
                    own[y.min_of(rows) * cols + x.min_of(cols)]
                };
                Ok((0..down * across).map(at).collect())
            }
            (Layout::Rate { frames, values }, &[_]) => {
                let length = masked.fields.first().map_or(0, |field| field.shape[1]);
                let length = match masked.field("lengths") {
                    Some(lengths) => lengths.values.u32()[place] as usize,
                    None => length,
                };
                let (count, stride) = drawing.frames(length)?;
                let time = |token: usize| (trace.start as f64 + token as f64 * stride) / values;
                self.by_time((0..count).map(time), frames, own)
            }
            (Layout::Single, _) => Ok(vec![own[0]; tokens.iter().product()]),
            (layout, _) => Err(Error::failed(format!(
                "the units of the stage `{}` lie in a {}, and the view has tokens {tokens:?}",
                self.stage,
                layout.noun()
            ))),
        }
    }

    /// The units at `times` in seconds, of which there are `rate` a second.
    fn by_time(
        &self,
        times: impl Iterator<Item = f64>,
        rate: f64,
        own: &[u32],
    ) -> Result<Vec<u32>> {
        let end = own.len() as f64 / rate;
        times
            .map(|time| {
                if time > end + BEHIND {
                    return Err(Error::failed(format!(
                        "the units of the stage `{}` end after {end:.2} s of a sample, and the network \
                         has a frame at {time:.2} s",
                        self.stage
                    ))
                    .because(format!("there are {} units, {rate:.1} a second", own.len()))
                    .hint("the data have changed since: start a new run"));
                }
                // A hair more, for a time that is a frame's begin but for rounding.
                Ok(own[((time * rate + 1e-6) as usize).min(own.len() - 1)])
            })
            .collect()
    }
}

/// A share of a picture's side, which may lie a bit outside.
struct Share(f64);

impl Share {
    /// The one of `n` equal parts that it lies in.
    fn min_of(&self, n: usize) -> usize {
        ((self.0 * n as f64).max(0.0) as usize).min(n - 1)
    }
}

/// Where in the whole picture the centre of a token of a crop lies: `[column, row]` of `[columns, rows]`.
fn in_picture(trace: Trace, at: [usize; 2], of: [usize; 2]) -> [Share; 2] {
    let [left, top, width, height] = trace.part.map(f64::from);
    let centre = |axis: usize| (at[axis] as f64 + 0.5) / of[axis] as f64;
    let x = if trace.flipped { 1.0 - centre(0) } else { centre(0) };
    [Share(left + x * width), Share(top + centre(1) * height)]
}

inventory::submit! {
    ViewDef {
        name: "units",
        revision: 1,
        settings: &["of", "stage"],
        resolve: |settings| Ok(View::Batch(Arc::new(UnitsView::new(settings)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::units::Units;
    use crate::data::view::{Grid, ViewPlan, ViewRequest};
    use crate::data::{Batch, Loader, LoaderOptions, OpenOptions, open, rehearse};
    use crate::store::{About, Writer};

    fn view() -> ViewRequest {
        ViewRequest::new("units", "units", 1, 1).with_text("stage", "s").with_text("of", "image")
    }

    fn plan(crop: ViewRequest, patch: usize) -> ViewPlan {
        let views = vec![crop.with("size", 32.0), view()];
        let grid = Grid::new(move |shape| Ok(vec![shape[1] / patch, shape[2] / patch]));
        ViewPlan { views, grid }
    }

    fn crop() -> ViewRequest {
        ViewRequest::new("image", "crop", 1, 1)
    }

    /// Units of 20 samples on a grid of 4 x 4: 100 times the sample, and the patch.
    fn units(folder: &std::path::Path, layout: Layout) -> Units {
        let mut writer = Writer::new(&folder.join("s.units"), 20, 1).unwrap();
        for sample in 0..20 {
            writer.push(&(0..16).map(|patch| 100 * sample + patch).collect::<Vec<u32>>()).unwrap();
        }
        let mut units = Units::default();
        let about = About { layout, ..About::default() };
        units.insert("s".to_owned(), writer.finish(&about).unwrap());
        units
    }

    fn batch(plan: &ViewPlan, units: Units) -> Result<Batch> {
        let data = open("shapes", &OpenOptions { limit: Some(20), ..Default::default() }).unwrap();
        let options = LoaderOptions { batch: 8, end: Some(1), units, ..Default::default() };
        Ok(Loader::new(data, plan, options)?.next_batch()?.unwrap())
    }

    const GRID: Layout = Layout::Grid { rows: 4, cols: 4 };

    #[test]
    fn a_whole_picture_has_the_units_of_its_sample_and_a_flip_turns_them() {
        let folder = tempfile::tempdir().unwrap();
        let whole = crop().with("scale_min", 1.0).with("ratio_min", 1.0).with("ratio_max", 1.0);
        for (flip, column) in [(0.0, [0, 1, 2, 3]), (1.0, [3, 2, 1, 0])] {
            let plan = plan(whole.clone().with("flip", flip), 8);
            let batch = batch(&plan, units(folder.path(), GRID)).unwrap();
            let row = batch.views[1].field("units").unwrap();
            assert_eq!(row.shape, [8, 16]);
            for (place, sample) in batch.indices.iter().enumerate() {
                let own = &row.values.u32()[place * 16..][..16];
                for (patch, unit) in own.iter().enumerate() {
                    let want = 100 * sample + patch / 4 * 4 + column[patch % 4];
                    assert_eq!(*unit as usize, want);
                }
            }
            assert!(batch.views[1].field("known").unwrap().values.u8().iter().all(|k| *k == 1));
        }
    }

    #[test]
    fn a_sample_that_the_stage_has_no_units_of_has_no_known_token() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(&folder.path().join("s.units"), 20, 1).unwrap();
        for sample in 0..20 {
            let own: &[u32] = if sample % 2 == 0 { &[] } else { &[7; 16] };
            writer.push(own).unwrap();
        }
        let mut units = Units::default();
        let about = About { layout: GRID, ..About::default() };
        units.insert("s".to_owned(), writer.finish(&about).unwrap());
        let batch = batch(&plan(crop(), 8), units).unwrap();
        let known = batch.views[1].field("known").unwrap().values.u8();
        for (place, sample) in batch.indices.iter().enumerate() {
            assert_eq!(known[place * 16..][..16], [(sample % 2) as u8; 16]);
        }
    }

    #[test]
    fn the_units_of_a_crop_are_those_of_the_place_it_shows() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(crop().with("scale_max", 0.3), 16);
        let batch = batch(&plan, units(folder.path(), GRID)).unwrap();
        let row = batch.views[1].field("units").unwrap().values.u32().to_vec();
        for (place, trace) in batch.views[0].traces.iter().enumerate() {
            let [left, top, width, height] = trace.part;
            for (token, unit) in row[place * 4..][..4].iter().enumerate() {
                let (x, y) = ((*unit % 100 % 4) as f32 / 4.0, (*unit % 100 / 4) as f32 / 4.0);
                assert!(
                    x + 0.25 >= left && x <= left + width,
                    "token {token} of {trace:?}: {unit}"
                );
                assert!(y + 0.25 >= top && y <= top + height, "token {token} of {trace:?}: {unit}");
            }
        }
    }

    #[test]
    fn a_stage_that_is_not_done_is_an_error_and_blank_units_are_zeros() {
        let plan = plan(crop(), 8);
        let error = batch(&plan, Units::default()).unwrap_err();
        assert!(error.to_string().contains("the stage `s` has found no units yet"), "{error}");
        let content = open("shapes", &OpenOptions::default()).unwrap().content();
        let batch = rehearse(&plan, content, 3, 0).unwrap();
        let units = batch.views[1].field("units").unwrap();
        assert_eq!((units.shape.as_slice(), units.values.u32()), (&[3, 16][..], &[0; 48][..]));
        let error = ViewRequest::new("u", "units", 1, 1).resolve().unwrap_err();
        assert!(error.message().contains("doesn't say whose units"), "{error}");
    }

    #[test]
    fn frames_get_the_units_of_their_time_and_lengths_that_disagree_are_refused() {
        let view = UnitsView { of: String::new(), stage: "s".to_owned() };
        let own: Vec<u32> = (0..100).collect();
        let units =
            view.by_time((0..49).map(|frame| 0.02 * f64::from(frame)), 100.0, &own).unwrap();
        assert_eq!(units, (0..49).map(|frame| 2 * frame).collect::<Vec<u32>>());
        let error = view.by_time([0.5, 1.2].into_iter(), 100.0, &own).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the units of the stage `s` end after 1.00 s of a sample, and the network has a frame at \
             1.20 s: there are 100 units, 100.0 a second"
        );
        assert_eq!(view.by_time([1.05].into_iter(), 100.0, &own).unwrap(), [99]);
    }

    #[test]
    fn units_of_sounds_do_not_fit_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let rate = Layout::Rate { frames: 50.0, values: 16_000.0 };
        let error = batch(&plan(crop(), 8), units(folder.path(), rate)).unwrap_err();
        assert!(error.to_string().contains("lie in a row of frames"), "{error}");
    }
}
