//! One stage: features of some samples, their clusters, and the units of all samples. Each of the three
//! is a file of the run folder that is whole or absent, so what is there is never made again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::event::{Event, Observer};
use super::frames::{BATCH, Frames};
use super::prepare::Prepared;
use crate::cluster::{Census, Codebook, KMeans};
use crate::config::Recipe;
use crate::data::dataset::Dataset;
use crate::error::Class;
use crate::plugin::AskedStage;
use crate::random::Stream;
use crate::run::disk::sha256;
use crate::store::{About, Element, Layout, Store, Writer};
use crate::{Error, Result};

/// Samples that a warning names.
const NAMED: usize = 3;

/// What a stage is run with.
pub(super) struct Stages<'a> {
    /// The run folder.
    pub(super) run: &'a Path,
    pub(super) recipe: &'a Recipe,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) stop: &'a AtomicBool,
}

/// Everything that decides what a stage finds: where it disagrees, a file was made from something else.
pub(super) fn inputs(
    stage: &AskedStage,
    recipe: &Recipe,
    samples: &str,
    (before, step): (&str, u64),
) -> Result<String> {
    let data = &recipe.data;
    // Only a network that was trained depends on how.
    let train = (step > 0).then(|| {
        let train = crate::config::Train {
            keep: 0,
            log_every: 0,
            checkpoint_every: 0,
            ..recipe.train.clone()
        };
        (step, train)
    });
    let all = (
        (stage, before, recipe.seed, &recipe.method),
        (samples, &data.split, data.size, data.rate),
        (&recipe.backbone, &recipe.init, &recipe.options, format!("{:?}", recipe.precision), train),
    );
    let text = serde_json::to_vec(&all)
        .map_err(|error| Error::failed("a stage's inputs have no JSON form").because(error))?;
    Ok(sha256(&text))
}

/// The hash of which samples of `source` there are, and in which order: units are found by a sample's place.
pub(super) fn samples(source: &str, data: &dyn Dataset) -> Result<String> {
    let names: Vec<String> = (0..data.len()).map(|index| data.name(index)).collect();
    let text = serde_json::to_vec(&(source, names))
        .map_err(|error| Error::failed("the names of samples have no JSON form").because(error))?;
    Ok(sha256(&text))
}

impl Stages<'_> {
    /// The units of `stage` if it is done, from `inputs`.
    pub(super) fn done(&mut self, stage: &AskedStage, inputs: &str) -> Option<Store<u32>> {
        let units = self.open(stage, "units", inputs)?;
        self.forget_features(stage);
        Some(units)
    }

    /// Features are the largest of the three files, and nobody asks for them once there are units.
    fn forget_features(&self, stage: &AskedStage) {
        std::fs::remove_file(self.path(stage, "features")).ok();
    }

    /// Runs what of `stage` is not done yet, with the network of `source`.
    ///
    /// # Errors
    /// When it can't be run, or was stopped; what is done stays.
    pub(super) fn run(
        &mut self,
        stage: &AskedStage,
        inputs: &str,
        source: &Prepared,
    ) -> Result<Store<u32>> {
        let name = &stage.name;
        let context = |error: Error| error.context(format!("the stage `{name}` failed"));
        let mut frames = Frames::new(source, stage, self.recipe.precision).map_err(context)?;
        let features = match self.open::<f32>(stage, "features", inputs) {
            Some(store) => store,
            None => self.features(stage, inputs, &mut frames, source)?,
        };
        let codebook = match self.open::<f32>(stage, "codebook", inputs) {
            Some(store) => {
                let mut centroids = Vec::new();
                store.read(0, &mut centroids)?;
                Codebook::new(centroids, store.width())?
            }
            None => self.codebook(stage, inputs, &features)?,
        };
        let units = self.units(stage, inputs, (&features, &codebook), &mut frames, source)?;
        self.forget_features(stage);
        Ok(units)
    }

    fn path(&self, stage: &AskedStage, part: &str) -> PathBuf {
        self.run.join("stages").join(format!("{}.{part}", stage.name))
    }

    /// The store of a part that was made from `inputs`; none where it must be made.
    fn open<T: Element>(
        &mut self,
        stage: &AskedStage,
        part: &str,
        inputs: &str,
    ) -> Option<Store<T>> {
        let path = self.path(stage, part);
        if !path.exists() {
            return None;
        }
        match Store::open(&path) {
            Ok(store) if store.about().inputs == inputs => Some(store),
            Ok(_) => {
                let path = path.display();
                self.warn(format!("`{path}` was made from another recipe; it is made again"));
                None
            }
            Err(error) => {
                self.warn(format!("{error}; it is made again"));
                None
            }
        }
    }

    fn warn(&mut self, line: String) {
        self.observer.event(Event::Warning(line));
    }

    fn phase(&mut self, stage: &AskedStage, what: &str) {
        self.observer.event(Event::Phase(format!("stage `{}`: {what}", stage.name)));
    }

    /// An error once the run is to be stopped.
    fn go_on(&self, stage: &AskedStage) -> Result<()> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let run = self.run.display();
        Err(Error::interrupted(format!("interrupted in the stage `{}`", stage.name))
            .hint(format!("go on with `pretext train --resume {run}`")))
    }

    /// Features of the samples whose clusters are sought.
    fn features(
        &mut self,
        stage: &AskedStage,
        inputs: &str,
        frames: &mut Frames<'_>,
        source: &Prepared,
    ) -> Result<Store<f32>> {
        let n = source.data.len();
        let chosen = chosen(n, stage.share, self.recipe.seed);
        let count = chosen.iter().filter(|chosen| **chosen).count();
        self.phase(stage, &format!("{} of {count} samples", stage.features));
        let mut writer: Option<Writer<f32>> = None;
        let (mut about, mut skipped) = (About { inputs: inputs.to_owned(), ..About::default() }, 0);
        for block in (0..n).collect::<Vec<_>>().chunks(BATCH) {
            self.go_on(stage)?;
            let asked: Vec<usize> = block.iter().copied().filter(|index| chosen[*index]).collect();
            let made = frames.of(&asked)?;
            if made.width == 0 {
                // Nothing of it can be read, or nothing was chosen: these samples have no frames.
                skipped += if writer.is_none() { block.len() } else { 0 };
                if let Some(writer) = &mut writer {
                    block.iter().try_for_each(|_| writer.push(&[]))?;
                }
                continue;
            }
            about.layout = made.layout;
            let path = self.path(stage, "features");
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    let new = writer.insert(Writer::new(&path, n, made.width)?);
                    (0..skipped).try_for_each(|_| new.push(&[]))?;
                    new
                }
            };
            let mut made = made.samples.iter();
            for index in block {
                let frames = if chosen[*index] { made.next() } else { None };
                writer.push(frames.map_or(&[], Vec::as_slice))?;
            }
        }
        let writer = writer.ok_or_else(|| {
            Error::failed(format!(
                "the stage `{}` found features in none of {count} samples",
                stage.name
            ))
            .because("each can't be read or is shorter than a frame")
            .hint("`pretext data info PATH` says what is broken")
        })?;
        writer.finish(&about)
    }

    /// Seeks the clusters.
    fn codebook(&mut self, stage: &AskedStage, inputs: &str, of: &Store<f32>) -> Result<Codebook> {
        let what = format!("{} clusters of {} features", stage.clusters, of.frames());
        self.phase(stage, &what);
        let search = KMeans {
            clusters: stage.clusters,
            batch: stage.batch,
            epochs: stage.epochs,
            tries: stage.tries,
            patience: stage.patience,
            reassign: stage.reassign,
            seed: self.recipe.seed,
        };
        let found =
            search.fit(of, |_, _| self.go_on(stage)).map_err(|error| match error.class() {
                Class::Interrupted => error,
                _ => error.context(format!("the stage `{}` found no clusters", stage.name)),
            })?;
        let path = self.path(stage, "codebook");
        let mut writer = Writer::new(&path, 1, found.codebook.width())?;
        writer.push(found.codebook.centroids())?;
        let figures = vec![("batches".to_owned(), found.batches as f64)];
        let (inputs, clusters) = (inputs.to_owned(), stage.clusters);
        writer.finish(&About { inputs, layout: Layout::Single, clusters, figures })?;
        Ok(found.codebook)
    }

    /// Gives every frame of every sample its unit, and counts them.
    fn units(
        &mut self,
        stage: &AskedStage,
        inputs: &str,
        (features, codebook): (&Store<f32>, &Codebook),
        frames: &mut Frames<'_>,
        source: &Prepared,
    ) -> Result<Store<u32>> {
        let (data, n) = (&source.data, source.data.len());
        self.phase(stage, &format!("units of {n} samples"));
        let all = stage.share >= 1.0;
        let mut census = Census::new(stage.clusters, data.class_names().len());
        let mut writer = Writer::new(&self.path(stage, "units"), n, 1)?;
        let (mut row, mut without) = (Vec::new(), Vec::new());
        for block in (0..n).collect::<Vec<_>>().chunks(BATCH) {
            self.go_on(stage)?;
            let made = if all { None } else { Some(frames.of(block)?.samples) };
            for (place, index) in block.iter().enumerate() {
                if let Some(made) = &made {
                    row.clone_from(&made[place]);
                } else {
                    features.read(*index, &mut row)?;
                }
                if row.is_empty() {
                    without.push(*index);
                }
                let nearest = codebook.nearest(&row);
                let distance = nearest.distances.iter().map(|d| f64::from(*d)).sum();
                census.add(&nearest.units, data.label(*index), distance);
                writer.push(&nearest.units)?;
            }
        }
        let mut figures = census.health().named();
        if !without.is_empty() {
            let named: Vec<_> = without.iter().take(NAMED).map(|index| data.name(*index)).collect();
            let more = if without.len() > NAMED { ", ..." } else { "" };
            self.warn(format!(
                "the stage `{}` has no units of {} of {n} samples, which can't be read or are shorter than a frame: \
                 {}{more}",
                stage.name,
                without.len(),
                named.join(", ")
            ));
            figures.push(("samples_without_units".to_owned(), without.len() as f64));
        }
        let (inputs, layout) = (inputs.to_owned(), features.layout());
        writer.finish(&About { inputs, layout, clusters: stage.clusters, figures })
    }
}

/// Which of `n` samples make up `share` of them, at least one.
fn chosen(n: usize, share: f64, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(seed, "stage", 0, 0).shuffle(&mut order);
    let mut chosen = vec![false; n];
    order.truncate(((n as f64 * share).round() as usize).max(1));
    order.into_iter().for_each(|index| chosen[index] = true);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::{Sample, Split};

    /// Samples that have nothing but names.
    #[derive(Debug)]
    struct Named(&'static [&'static str]);

    impl Dataset for Named {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn read(&self, _: usize, _: &mut Sample) -> Result<()> {
            Err(Error::failed("there is nothing but names"))
        }

        fn label(&self, _: usize) -> Option<u32> {
            None
        }

        fn class_names(&self) -> &[String] {
            &[]
        }

        fn name(&self, index: usize) -> String {
            self.0[index].to_owned()
        }

        fn split(&self) -> Split {
            Split::Train
        }

        fn describe(&self) -> String {
            "names".to_owned()
        }
    }

    #[test]
    fn samples_that_came_went_or_changed_places_are_others() {
        let of = |names| samples("sounds", &Named(names)).unwrap();
        let before = of(&["a.wav", "b.wav", "c.wav"]);
        assert_eq!(of(&["a.wav", "b.wav", "c.wav"]), before);
        for names in [
            &["a.wav", "c.wav"][..],
            &["b.wav", "a.wav", "c.wav"],
            &["a.wav", "b.wav", "c.wav", "d.wav"],
        ] {
            assert_ne!(of(names), before, "{names:?}");
        }
    }

    #[test]
    fn a_share_of_the_samples_is_chosen_by_the_seed() {
        let count = |chosen: &[bool]| chosen.iter().filter(|chosen| **chosen).count();
        assert_eq!(count(&chosen(50, 0.1, 0)), 5);
        assert_eq!(count(&chosen(50, 1.0, 0)), 50);
        assert_eq!(count(&chosen(3, 0.01, 0)), 1);
        assert_eq!(chosen(50, 0.5, 1), chosen(50, 0.5, 1));
        assert_ne!(chosen(50, 0.5, 1), chosen(50, 0.5, 2));
    }
}
