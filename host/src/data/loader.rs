//! The loader: worker threads that decode and augment ahead of the step, in bounded memory.
//!
//! Workers take a few samples at a time of the oldest open batch, make their views in buffers of their own
//! and copy them to their place. Which worker makes a sample changes nothing in it, and batches are
//! delivered in order; so the bytes are the same with any number of workers, and after resume at any step.

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::batch::{Batch, BrokenSample, Pool, ViewBatch};
use super::dataset::Dataset;
use super::field::Form;
use super::make::{Drawn, Maker, Slots, Work};
use super::sampler::Sampler;
use super::units::Units;
use super::view::{Asked, ViewPlan};
use crate::{Error, Result};

/// How a loader works.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Samples of a batch.
    pub batch: usize,
    /// Seed of the order and of every view.
    pub seed: u64,
    /// Threads that decode and augment, at least 1.
    pub workers: usize,
    /// Batches made ahead of the one being used, at least 1; memory grows with it.
    pub prefetch: usize,
    /// Whether every epoch has an order of its own; otherwise it is the dataset's.
    pub shuffle: bool,
    /// Whether a last batch that isn't full is left out.
    pub drop_last: bool,
    /// Whether batches carry labels.
    pub labels: bool,
    /// Longer sounds are cut to a random part of this length, in seconds; 0 cuts none.
    pub max_seconds: f64,
    /// The run stops when more than this share of the samples read is broken (and more than ten are).
    pub max_broken_share: f64,
    /// The first step to deliver: 0, or where a run resumes.
    pub start: u64,
    /// The step to stop before; none goes on for ever.
    pub end: Option<u64>,
    /// What stages have found, for the views that ask for it.
    pub units: Units,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            batch: 64,
            seed: 0,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            prefetch: 3,
            shuffle: true,
            drop_last: true,
            labels: false,
            max_seconds: 0.0,
            max_broken_share: 0.01,
            start: 0,
            end: None,
            units: Units::default(),
        }
    }
}

/// Fewer broken samples than this never stop a run, whatever their share.
const FEW: u64 = 10;

/// How a loader fared so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoaderReport {
    /// Samples delivered.
    pub samples: u64,
    /// Broken samples met; one that is met in three epochs counts three times.
    pub broken: u64,
    /// Different broken samples.
    pub broken_names: usize,
    /// How long the caller waited for batches, in all.
    pub wait: Duration,
    /// Samples delivered per second since the loader was made.
    pub samples_per_second: f64,
}

/// Delivers batches. Dropping it stops and joins its threads.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
    report: LoaderReport,
    named: BTreeSet<usize>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Shared {
    dataset: Arc<dyn Dataset>,
    slots: Slots,
    sampler: Sampler,
    options: LoaderOptions,
    pool: Arc<Pool>,
    state: Mutex<State>,
    /// Told when there may be samples to make.
    work: Condvar,
    /// Told when a batch is complete.
    done: Condvar,
}

#[derive(Debug)]
struct State {
    /// Batches being made or waiting, the next to deliver first.
    open: VecDeque<Arc<Job>>,
    /// Samples of the youngest open batch that a worker took.
    taken: usize,
    /// The step of the next batch to open.
    next: u64,
    /// The order of the epoch of the youngest batch.
    order: Option<(u64, Vec<usize>)>,
    closed: bool,
}

/// A batch being made.
#[derive(Debug)]
struct Job {
    step: u64,
    epoch: u64,
    indices: Vec<usize>,
    /// The fields of the samples' views.
    forms: Vec<Vec<Form>>,
    filling: Mutex<Filling>,
}

#[derive(Debug)]
struct Filling {
    views: Vec<ViewBatch>,
    /// The samples that were read, in the places of those that were asked for.
    sources: Vec<usize>,
    /// With the sample's place in the batch, so that they can be put in order.
    broken: Vec<(usize, BrokenSample)>,
    /// The error of the first place that has one.
    error: Option<(usize, Error)>,
    missing: usize,
    /// Whether the views of the whole batch are drawn too.
    complete: bool,
}

/// A thread that panicked inside a lock leaves data that is still whole: every lock guards plain stores.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loader {
    /// A loader of `plan`'s views over `dataset`; starts its threads.
    ///
    /// # Errors
    /// When the plan asks for what this host or this data doesn't have, or an option can't be.
    pub fn new(dataset: Arc<dyn Dataset>, plan: &ViewPlan, options: LoaderOptions) -> Result<Self> {
        for (name, value) in [("workers", options.workers), ("prefetch", options.prefetch)] {
            if value == 0 {
                return Err(
                    Error::asked_wrongly(format!("`{name}` is 0")).hint(format!("{name}=1"))
                );
            }
        }
        let slots = Slots::new(plan, dataset.content())?;
        let (batch, seed) = (options.batch, options.seed);
        let mut sampler =
            Sampler::new(dataset.len(), batch, seed, options.shuffle, options.drop_last)?;
        if slots.follow_length() && options.shuffle {
            let extents = (0..dataset.len()).map(|index| dataset.extent(index));
            sampler = sampler.by_extent(extents.collect::<Option<_>>());
        }
        let (open, next) = (VecDeque::new(), options.start);
        let state = State { open, taken: 0, next, order: None, closed: false };
        let (workers, pool) = (options.workers, Arc::default());
        let shared = Arc::new(Shared {
            dataset,
            slots,
            sampler,
            options,
            pool,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut loader = Self {
            shared,
            threads: Vec::new(),
            started: Instant::now(),
            report: LoaderReport::default(),
            named: BTreeSet::new(),
            failed: None,
        };
        for number in 0..workers {
            let shared = Arc::clone(&loader.shared);
            let thread = Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || work(&shared))
                .map_err(|e| Error::failed("can't start a data thread").because(e))?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// How many steps an epoch has.
    pub fn steps_per_epoch(&self) -> u64 {
        self.shared.sampler.steps_per_epoch()
    }

    /// The next batch; none after the last step. Waits for it if need be.
    ///
    /// # Errors
    /// When too many samples are broken, or making the batch failed. The loader delivers nothing afterwards.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let asked = Instant::now();
        let Some(job) = self.complete_job() else { return Ok(None) };
        let batch = self.deliver(&job, asked);
        if let Err(error) = &batch {
            self.failed = Some(error.clone());
            self.close();
        }
        batch.map(Some)
    }

    /// Waits for the oldest batch to be complete and takes it out.
    fn complete_job(&self) -> Option<Arc<Job>> {
        let mut state = lock(&self.shared.state);
        loop {
            match state.open.front() {
                None if self.shared.ended(state.next) => return None,
                Some(job) if lock(&job.filling).complete => break,
                _ => {
                    state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let job = state.open.pop_front();
        self.shared.work.notify_all();
        job
    }

    fn deliver(&mut self, job: &Job, asked: Instant) -> Result<Batch> {
        let mut filling = lock(&job.filling);
        if let Some((_, error)) = filling.error.take() {
            return Err(error);
        }
        let views = std::mem::take(&mut filling.views);
        let mut broken = std::mem::take(&mut filling.broken);
        drop(filling);
        broken.sort_by_key(|(place, _)| *place);
        self.count(job.indices.len(), &broken)?;
        let dataset = &self.shared.dataset;
        let label = |index: &usize| dataset.label(*index);
        let labels = self.shared.options.labels.then(|| job.indices.iter().map(label).collect());
        broken.retain(|(_, sample)| self.named.insert(sample.index));
        self.report.broken_names = self.named.len();
        let wait = asked.elapsed();
        self.report.wait += wait;
        Ok(Batch {
            step: job.step,
            epoch: job.epoch,
            views,
            indices: job.indices.clone(),
            labels,
            broken: broken.into_iter().map(|(_, sample)| sample).collect(),
            wait,
            pool: Arc::clone(&self.shared.pool),
        })
    }

    /// Counts a batch's samples and refuses to go on when too many are broken.
    fn count(&mut self, samples: usize, broken: &[(usize, BrokenSample)]) -> Result<()> {
        self.report.samples += samples as u64;
        self.report.broken += broken.len() as u64;
        let LoaderReport { samples, broken: count, .. } = self.report;
        let most = self.shared.options.max_broken_share;
        // Every broken sample was read besides the one delivered in its place.
        let met = samples + count;
        let share = count as f64 / met.max(1) as f64;
        match broken.last() {
            Some((_, last)) if count > FEW && share > most => Err(Error::failed(format!(
                "{count} of {met} samples are broken, more than the allowed share of {most}"
            ))
            .because(format!("the last is `{}`, {}", last.name, last.reason))
            .hint(format!(
                "repair the data, or allow it with `max_broken_share={:.2}`",
                (share + 0.01).min(1.0)
            ))),
            _ => Ok(()),
        }
    }

    /// How the loader fared so far.
    pub fn report(&self) -> LoaderReport {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        LoaderReport { samples_per_second: self.report.samples as f64 / seconds, ..self.report }
    }

    fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.work.notify_all();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A panic in a worker was delivered as an error already.
            drop(thread.join());
        }
    }
}

/// Some samples of a batch, given to one worker.
struct Task {
    job: Arc<Job>,
    places: std::ops::Range<usize>,
}

impl Shared {
    fn ended(&self, next: u64) -> bool {
        self.options.end.is_some_and(|end| next >= end)
    }

    /// Waits for samples to make; none when the loader closes or everything was made.
    fn task(&self) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let youngest = state.open.back().filter(|job| state.taken < job.indices.len());
            if let Some(job) = youngest.map(Arc::clone) {
                let start = state.taken;
                state.taken = job.indices.len().min(start + self.share());
                return Some(Task { places: start..state.taken, job });
            }
            if self.ended(state.next) {
                return None;
            }
            // The batch in use isn't among the open ones, so these are those made ahead.
            if state.open.len() < self.options.prefetch {
                self.open(&mut state);
                continue;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many samples a worker takes at once: few enough that all workers have some of a batch.
    fn share(&self) -> usize {
        (self.options.batch / (4 * self.options.workers)).clamp(1, 16)
    }

    fn open(&self, state: &mut State) {
        let step = state.next;
        let (epoch, batch) = self.sampler.position(step);
        let order = match state.order.take() {
            Some((of, order)) if of == epoch => order,
            _ => self.sampler.order(epoch),
        };
        let indices = self.sampler.batch(&order, batch).to_vec();
        let samples = indices.len();
        let forms = self.slots.forms(&Asked { dataset: self.dataset.as_ref(), indices: &indices });
        let filling = Filling {
            views: self.slots.entries(&forms, samples, &self.pool),
            sources: indices.clone(),
            broken: Vec::new(),
            error: None,
            missing: samples,
            complete: false,
        };
        let job = Job { step, epoch, indices, forms, filling: Mutex::new(filling) };
        state.open.push_back(Arc::new(job));
        state.order = Some((epoch, order));
        state.taken = 0;
        state.next += 1;
        self.work.notify_all();
    }

    /// Makes sample `place` of `job` and copies it to its place; says whether it was the last one.
    fn fill(&self, job: &Job, place: usize, maker: &mut Maker) -> bool {
        let index = job.indices[place];
        let work = Work {
            dataset: self.dataset.as_ref(),
            slots: &self.slots,
            forms: &job.forms,
            seed: self.options.seed,
            epoch: job.epoch,
            max_seconds: self.options.max_seconds,
        };
        let made = catch_unwind(AssertUnwindSafe(|| maker.make(&work, index)));
        let made = made.unwrap_or_else(|panic| {
            *maker = Maker::default();
            let name = catch_unwind(AssertUnwindSafe(|| self.dataset.name(index)));
            let name = name.unwrap_or_else(|_| index.to_string());
            Err(panicked(&format!("making the views of `{name}`"), panic.as_ref()))
        });
        let mut filling = lock(&job.filling);
        match made {
            Ok(()) => {
                self.slots.store(&mut filling.views, place, maker);
                filling.sources[place] = maker.source;
                filling.broken.extend(maker.broken.drain(..).map(|broken| (place, broken)));
            }
            Err(error) => {
                if filling.error.as_ref().is_none_or(|(first, _)| place < *first) {
                    filling.error = Some((place, error));
                }
            }
        }
        filling.missing -= 1;
        filling.missing == 0
    }

    /// Draws the views of the whole batch, whose samples are all made, and calls it complete.
    fn complete(&self, job: &Job) {
        let mut filling = lock(&job.filling);
        let mut views = std::mem::take(&mut filling.views);
        let sources = std::mem::take(&mut filling.sources);
        let whole = filling.error.is_none();
        // Nobody else fills this batch any more, but whoever waits for it looks whether it is complete.
        drop(filling);
        let (seed, epoch, step) = (self.options.seed, job.epoch, job.step);
        let (indices, units) = (job.indices.as_slice(), &self.options.units);
        let drawn = Drawn { seed, epoch, step, indices, sources: &sources, units };
        let draw = || if whole { self.slots.draw(&mut views, drawn) } else { Ok(()) };
        let made = catch_unwind(AssertUnwindSafe(draw))
            .unwrap_or_else(|panic| Err(panicked("drawing a batch", panic.as_ref())));
        let mut filling = lock(&job.filling);
        filling.views = views;
        if let Err(error) = made {
            filling.error = Some((0, error));
        }
        filling.complete = true;
    }
}

/// The error for a panic within `what`.
fn panicked(what: &str, panic: &(dyn Any + Send)) -> Error {
    Error::failed(format!("{what} panicked"))
        .because(message(panic))
        .hint("this is a fault of the host: please report it with the sample")
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// A worker's life.
fn work(shared: &Shared) {
    let mut maker = Maker::default();
    while let Some(task) = shared.task() {
        for place in task.places {
            if shared.fill(&task.job, place, &mut maker) {
                shared.complete(&task.job);
                // Under the lock, so that a caller between its check and its wait isn't missed.
                let _state = lock(&shared.state);
                shared.done.notify_all();
            }
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
