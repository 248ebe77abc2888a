//! The run folder itself: made or taken, held for one process, written to as the run goes.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, Checkpoint, Found, Keep};
use super::disk::{cannot_read, replace};
use super::lock::Lock;
use super::log::{Log, Record};
use super::manifest::Manifest;
use super::name::Name;
use crate::{Error, Result};

/// A run folder that this process holds.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    metrics: Log,
    timings: Log,
    keep: Keep,
    _lock: Lock,
}

impl Run {
    /// Makes the folder of a new run under `root`.
    pub fn create(root: &Path, name: Name<'_>) -> Result<Self> {
        Self::hold(name.claim(root)?)
    }

    /// Takes the run folder `path` to go on: cuts its records back to its newest whole checkpoint
    /// (to nothing if there is none) and returns that.
    pub fn resume(path: &Path) -> Result<(Self, Found)> {
        if !path.join("recipe.toml").is_file() {
            return Err(Error::asked_wrongly(format!("`{}` is not a run", path.display()))
                .hint("see `pretext runs` for those there are"));
        }
        let mut run = Self::hold(path.to_owned())?;
        checkpoint::sweep(&run.checkpoints())?;
        let found = checkpoint::find_newest(&run.checkpoints())?;
        let step = found.newest.as_ref().map_or(0, |(_, checkpoint)| checkpoint.step);
        run.metrics.rewind(step)?;
        run.timings.rewind(step)?;
        Ok((run, found))
    }

    fn hold(path: PathBuf) -> Result<Self> {
        let lock = Lock::take(&path)?;
        let metrics = Log::open(path.join("metrics.jsonl"))?;
        let timings = Log::open(path.join("timings.jsonl"))?;
        Ok(Self { path, metrics, timings, keep: Keep::default(), _lock: lock })
    }

    /// Sets which checkpoints stay.
    #[must_use]
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Keeps the checkpoints after these steps besides: the ends of trainings.
    pub fn keep_steps(&mut self, steps: Vec<u64>) {
        self.keep.steps = steps;
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name: the run's.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Writes `recipe.toml`.
    pub fn write_recipe(&self, recipe: &toml::Table) -> Result<()> {
        let text = toml::to_string_pretty(recipe)
            .map_err(|error| Error::failed("the recipe has no TOML form").because(error))?;
        replace(&self.path.join("recipe.toml"), text.as_bytes())
    }

    /// The recipe of the run folder `path`.
    pub fn read_recipe(path: &Path) -> Result<toml::Table> {
        let path = path.join("recipe.toml");
        let text = fs::read_to_string(&path).map_err(|error| cannot_read(&path, &error))?;
        text.parse().map_err(|error: toml::de::Error| {
            cannot_read(&path, &error.message())
                .hint("it is the run's recipe; `pretext train METHOD --dry-run` prints such a one")
        })
    }

    /// Writes `manifest.json`.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        manifest.write(&self.path.join("manifest.json"))
    }

    /// The manifest of the run folder `path`.
    pub fn read_manifest(path: &Path) -> Result<Manifest> {
        Manifest::read(&path.join("manifest.json"))
    }

    /// Adds a record with its `step` to `metrics.jsonl`. Nothing in it may depend on the clock.
    pub fn metric(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(record)
    }

    /// Adds a record with its `step` to `timings.jsonl`: speed, waiting, wall time.
    pub fn timing(&mut self, record: &Record) -> Result<()> {
        self.timings.append(record)
    }

    /// Writes `checkpoint`, removes those that needn't be kept, and returns the new one's path.
    ///
    /// Call it after the records of its step: they are put on the disk first, so that a resumed run
    /// finds each record up to the checkpoint.
    pub fn save(&mut self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        self.metrics.sync()?;
        self.timings.sync()?;
        let path = checkpoint.write(&self.checkpoints())?;
        checkpoint::prune(&self.checkpoints(), checkpoint.step, &self.keep)?;
        Ok(path)
    }

    /// Writes `report.html` and returns its path.
    pub fn write_report(&self, html: &str) -> Result<PathBuf> {
        write_report(&self.path, html)
    }
}

/// Writes the `report.html` of the run folder `path` and returns its path.
///
/// # Errors
/// When the file can't be written.
pub fn write_report(path: &Path, html: &str) -> Result<PathBuf> {
    let path = path.join("report.html");
    replace(&path, html.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;

    fn checkpoint(step: u64) -> Checkpoint {
        let weights = |n: usize| (0..n).map(|i| step as f32 + i as f32 / 7.0).collect::<Vec<_>>();
        let tensor = |n, shape: &[usize]| storage::tensor::<f32>(weights(n), shape).unwrap();
        let mut state = Record::new();
        state.insert("updates".to_owned(), step.into());
        Checkpoint {
            step,
            parameters: vec![
                ("z.weight".to_owned(), tensor(6, &[2, 3])),
                ("a.bias".to_owned(), tensor(3, &[3])),
            ],
            buffers: vec![("queue".to_owned(), storage::tensor::<u32>(vec![7, 9], 2).unwrap())],
            moments: Vec::new(),
            state,
        }
    }

    fn record(step: u64) -> Record {
        let mut record = Record::new();
        record.insert("step".to_owned(), step.into());
        record
    }

    fn new_run(root: &Path) -> Run {
        let run = Run::create(root, Name::Given("it")).unwrap();
        run.write_recipe(&toml::Table::new()).unwrap();
        run
    }

    fn steps(run: &Path) -> Vec<u64> {
        let list = checkpoint::list(&run.join("checkpoints")).unwrap();
        list.into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn a_checkpoint_that_stepped_aside_comes_back_where_its_successor_never_came() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path());
        let path = run.save(&checkpoint(12)).unwrap();
        let folder = run.path().to_owned();
        drop(run);
        // As a crash between the two renames leaves them.
        fs::rename(&path, path.with_file_name(".step-000012.old")).unwrap();
        fs::create_dir(path.with_file_name(".step-000012.partial")).unwrap();
        let (_run, found) = Run::resume(&folder).unwrap();
        assert_eq!(found.newest.unwrap().1.step, 12);
        assert!(!path.with_file_name(".step-000012.partial").exists());
    }

    #[test]
    fn a_checkpoint_comes_back_in_its_order_and_its_bits() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path());
        let path = run.save(&checkpoint(12)).unwrap();
        assert!(path.ends_with("checkpoints/step-000012"));
        let (want, got) = (checkpoint(12), Checkpoint::read(&path).unwrap());
        assert_eq!((got.step, &got.state), (12, &want.state));
        for (want, got) in [(&want.parameters, &got.parameters), (&want.buffers, &got.buffers)] {
            assert_eq!(want.len(), got.len());
            for ((name, tensor), (got_name, got_tensor)) in want.iter().zip(got) {
                assert_eq!(name, got_name);
                assert_eq!(
                    (tensor.dims(), tensor.dtype()),
                    (got_tensor.dims(), got_tensor.dtype())
                );
                let bits = |t| storage::to_f64(t).unwrap();
                assert_eq!(bits(tensor), bits(got_tensor));
            }
        }
    }

    #[test]
    fn resuming_takes_the_newest_whole_checkpoint_and_cuts_the_records_back_to_it() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path());
        for step in 1..=4 {
            run.metric(&record(step)).unwrap();
            run.timing(&record(step)).unwrap();
            if step % 2 == 0 {
                run.save(&checkpoint(step)).unwrap();
            }
        }
        let path = run.path().to_owned();
        drop(run);
        let file = path.join("checkpoints/step-000004/parameters.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let (mut run, found) = Run::resume(&path).unwrap();
        assert_eq!(found.newest.as_ref().unwrap().1.step, 2);
        assert_eq!(found.warnings.len(), 1);
        assert!(found.warnings[0].contains("step-000004"), "{:?}", found.warnings);
        let metrics = crate::run::read(&path.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics, [record(1), record(2)]);
        run.save(&checkpoint(4)).unwrap();
        assert_eq!(Checkpoint::read(&path.join("checkpoints/step-000004")).unwrap().step, 4);
    }

    #[test]
    fn a_checkpoint_without_its_sums_or_with_a_file_cut_short_is_damaged() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path());
        let path = run.save(&checkpoint(1)).unwrap();
        fs::write(path.join("state.json"), "{").unwrap();
        let error = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(error.contains("state.json"), "{error}");
        fs::remove_file(path.join("SHA256SUMS")).unwrap();
        assert!(Checkpoint::read(&path).unwrap_err().to_string().contains("SHA256SUMS"));
    }

    #[test]
    fn the_newest_stay_and_each_whose_step_was_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path()).keeping(Keep { newest: 2, steps: vec![1, 4] });
        for step in 1..=7 {
            run.save(&checkpoint(step)).unwrap();
        }
        assert_eq!(steps(run.path()), [7, 6, 4, 1]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_leaves_the_older_checkpoints_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut run = new_run(root.path());
        run.save(&checkpoint(1)).unwrap();
        let folder = run.path().join("checkpoints");
        // A file where the hidden sibling should go stands for any refusal of the file system.
        fs::write(folder.join(".step-000002.partial"), "").unwrap();
        let error = run.save(&checkpoint(2)).unwrap_err();
        assert!(error.message().contains("can't write"), "{error}");
        assert_eq!(steps(run.path()), [1]);
        assert_eq!(checkpoint::find_newest(&folder).unwrap().newest.unwrap().1.step, 1);
    }

    #[test]
    fn what_a_crash_left_half_written_is_swept_away() {
        let root = tempfile::tempdir().unwrap();
        let path = new_run(root.path()).path().to_owned();
        let left = path.join("checkpoints/.step-000009.partial");
        fs::create_dir_all(&left).unwrap();
        let (_run, found) = Run::resume(&path).unwrap();
        assert!(found.newest.is_none() && !left.exists());
    }

    #[test]
    fn a_run_in_use_is_not_resumed_and_a_folder_without_recipe_is_no_run() {
        let root = tempfile::tempdir().unwrap();
        let run = new_run(root.path());
        assert!(Run::resume(run.path()).unwrap_err().message().contains("in use"));
        assert!(Run::resume(root.path()).unwrap_err().message().contains("not a run"));
    }

    #[test]
    fn the_recipe_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let run = new_run(root.path());
        let recipe: toml::Table = "seed = 3\n[train]\nlr = 1e-4".parse().unwrap();
        run.write_recipe(&recipe).unwrap();
        assert_eq!(Run::read_recipe(run.path()).unwrap(), recipe);
    }
}
