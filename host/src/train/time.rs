//! Where the time goes: the step alone, the loader alone, both together, and every op of the step.

use std::rc::Rc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::prepare::{Prepared, prepare};
use super::views::{BatchViews, random_views};
use crate::config::Recipe;
use crate::data::loader::{Loader, LoaderOptions};
use crate::data::units::Units;
use crate::engine::Precision;
use crate::engine::kernel::packed::{self, Format, Left, Panels};
use crate::engine::portable::matmul::product;
use crate::engine::profile::{Cost, Profile};
use crate::plugin::Found;
use crate::schedule::Progress;
use crate::{Error, Result};

/// Steps that warm caches, memory and clocks up before anything is measured.
const WARM_UP: u64 = 2;

/// Middle, shortest and longest of some times, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |i: usize| seconds.get(i).copied().unwrap_or(0.0);
        let last = seconds.len().saturating_sub(1);
        // The mean of the middle two where their number is even.
        Self {
            median: f64::midpoint(at(last / 2), at(seconds.len() / 2)),
            min: at(0),
            max: at(last),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Samples of a step.
    pub batch: usize,
    /// Seconds of one step on views that lie in memory.
    pub step: Spread,
    /// Seconds that the loader takes for the samples of one step, alone.
    pub loader: Spread,
    /// Seconds of one step with its loading.
    pub both: Spread,
    /// The most memory of the host in use during the steps alone, in bytes.
    pub step_memory: u64,
    /// The most memory in use in all, in bytes.
    pub peak_memory: u64,
    /// Cost of every op and part, summed over the profiled steps, longest first.
    pub costs: Vec<(&'static str, Cost)>,
    /// Steps that were profiled.
    pub profiled: u64,
    /// Floating point operations per second of the best matrix product of the processor or the device.
    pub ceiling: f64,
}

/// Times `repeats` steps of `recipe`, alone and with loading, and as many batches of its loader.
///
/// # Errors
/// When the recipe can't be prepared or a step fails.
pub fn time(recipe: &Recipe, plugin: &Found, repeats: u64) -> Result<Times> {
    let mut prepared = prepare(recipe, plugin)?;
    prepared.units = Units::blank();
    let batch = recipe.train.batch * recipe.train.accumulate as usize;
    let content = prepared.data.content();
    let device = prepared.trainer.state.device().clone();
    let views = random_views(&prepared.plan, content, recipe.train.batch, recipe.seed)?;
    let views = views.move_to(&device)?;
    let mut at = At { step: 0, prepared: &mut prepared };
    let step = at.steps(repeats, || Ok(views.clone()))?;
    let step_memory = peak_memory();
    let profile = Rc::new(Profile::on(device.clone()));
    at.prepared.trainer.profile = Some(Rc::clone(&profile));
    at.steps_without_warm_up(repeats, || Ok(views.clone()))?;
    at.prepared.trainer.profile = None;
    let loading = load(recipe, at.prepared, repeats)?;
    let mut loader = loader(recipe, at.prepared)?;
    let plan = at.prepared.plan.clone();
    let both = at.steps(repeats, || {
        let batch = loader.next_batch()?.ok_or_else(|| Error::failed("the data ended early"))?;
        BatchViews::new(batch, &plan)?.move_to(&device)
    })?;
    let mut costs: Vec<_> = profile.costs().into_iter().collect();
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.forward + cost.backward));
    Ok(Times {
        batch,
        step: Spread::of(step),
        loader: Spread::of(loading),
        both: Spread::of(both),
        step_memory,
        peak_memory: peak_memory(),
        costs,
        profiled: repeats,
        ceiling: ceiling(&device, recipe.precision)?,
    })
}

/// Steps on and on.
struct At<'a> {
    step: u64,
    prepared: &'a mut Prepared,
}

impl At<'_> {
    fn steps(
        &mut self,
        repeats: u64,
        mut next: impl FnMut() -> Result<BatchViews>,
    ) -> Result<Vec<f64>> {
        self.steps_without_warm_up(WARM_UP, &mut next)?;
        self.steps_without_warm_up(repeats, next)
    }

    fn steps_without_warm_up(
        &mut self,
        repeats: u64,
        mut next: impl FnMut() -> Result<BatchViews>,
    ) -> Result<Vec<f64>> {
        (0..repeats)
            .map(|_| {
                let at = Progress {
                    step: self.step,
                    steps_per_epoch: self.prepared.steps_per_epoch,
                    total_steps: u64::MAX,
                };
                self.step += 1;
                let started = Instant::now();
                self.prepared.trainer.step(&mut self.prepared.session, at, &mut next)?;
                Ok(started.elapsed().as_secs_f64())
            })
            .collect()
    }
}

fn loader(recipe: &Recipe, prepared: &Prepared) -> Result<Loader> {
    let default = LoaderOptions::default();
    let workers = recipe.data.workers;
    let options = LoaderOptions {
        batch: recipe.train.batch,
        seed: recipe.seed,
        workers: if workers == 0 { default.workers } else { workers },
        prefetch: recipe.data.prefetch.max(1),
        max_seconds: recipe.data.max_seconds,
        units: prepared.units.clone(),
        max_broken_share: recipe.data.max_broken_share,
        ..default
    };
    Loader::new(prepared.data.clone(), &prepared.plan, options)
}

/// Seconds per step's worth of samples, with nobody else at work.
fn load(recipe: &Recipe, prepared: &Prepared, repeats: u64) -> Result<Vec<f64>> {
    let mut loader = loader(recipe, prepared)?;
    // What was made ahead would make the first ones look quick.
    let ahead = recipe.data.prefetch as u64 + WARM_UP;
    let per_step = recipe.train.accumulate;
    let mut seconds = Vec::new();
    for round in 0..ahead + repeats {
        let started = Instant::now();
        for _ in 0..per_step {
            loader.next_batch()?;
        }
        if round >= ahead {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// The most memory that this process ever had, in bytes; 0 where the system doesn't say.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Rows, columns and depth of the product that stands for the machine's best: 16 pieces of work, which 2, 4, 8 or 16
/// threads share evenly.
const CEILING: usize = 16 * packed::TASK;

/// Rows, columns and depth of the same on a device, which a smaller one would not fill.
const CEILING_ON_DEVICE: usize = 8192;

/// Floating point operations per second of a large product of `device`, as ops make it there.
fn ceiling_on(device: &Device, precision: Precision) -> Result<f64> {
    let n = CEILING_ON_DEVICE;
    let ones = Tensor::ones((n, n), DType::F32, device)?;
    let mut best = f64::INFINITY;
    // The first one loads what it needs.
    for _ in 0..4 {
        device.synchronize()?;
        let started = Instant::now();
        product(&ones, &ones, precision)?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (n as f64).powi(3) / best)
}

/// Floating point operations per second of a large product: on the processor with packed operands.
fn ceiling(device: &Device, precision: Precision) -> Result<f64> {
    if !device.is_cpu() {
        return ceiling_on(device, precision);
    }
    let format = Format::of(precision == Precision::Bf16);
    let ones = vec![1.0; CEILING * CEILING];
    let left = Left::from_rows(format, &ones, CEILING, CEILING);
    let right = Panels::from_columns(format, &ones, CEILING, CEILING);
    let mut product = vec![0.0; CEILING * CEILING];
    let seconds = (0..8).map(|_| {
        let started = Instant::now();
        packed::matmul(&left, &right, &mut product, false);
        started.elapsed().as_secs_f64()
    });
    Ok(2.0 * (CEILING as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min))
}
