//! The loader: batches of DINO's views (2 crops of 32 pixels, 6 of 16) of the built-in pictures, in
//! pictures per second, with one worker and with one per core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Throughput};
use pretext::data::{Dataset, Loader, LoaderOptions, OpenOptions, ViewPlan, ViewRequest, open};
use pretext::{Error, Result};
use pretext_benches::measure;

const BATCH: usize = 64;
const PREFETCH: usize = 2;
const CACHE_BYTES: usize = 1 << 28;

/// The built-in pictures: kept in memory as decoded pictures, or drawn anew each time.
fn pictures(cache_bytes: usize) -> Result<Arc<dyn Dataset>> {
    let options = OpenOptions { cache_bytes, ..OpenOptions::default() };
    open("shapes:32:1024", &options)
}

fn crops(name: &str, count: usize, size: f64, scale: (f64, f64)) -> ViewRequest {
    ViewRequest::new(name, "crop", 1, count)
        .with("size", size)
        .with("scale_min", scale.0)
        .with("scale_max", scale.1)
        .with("jitter", 0.8)
        .with("brightness", 0.4)
        .with("contrast", 0.4)
        .with("saturation", 0.2)
        .with("hue", 0.1)
        .with("grayscale", 0.2)
}

/// DINO's views of small pictures; blurred with the authors' probabilities, or not at all.
fn plan(blurred: bool) -> ViewPlan {
    let (global, local) = if blurred { (0.55, 0.5) } else { (0.0, 0.0) };
    let views = vec![
        crops("global", 2, 32.0, (0.4, 1.0)).with("blur", global),
        crops("local", 6, 16.0, (0.05, 0.4)).with("blur", local),
    ];
    ViewPlan::of(views)
}

/// How long `n` batches take, none of them made ahead.
fn batches(loader: &mut Loader, n: u64) -> Result<Duration> {
    let mut next = || {
        let batch = loader.next_batch()?;
        batch.ok_or_else(|| Error::failed("the data ended early"))
    };
    for _ in 0..=PREFETCH {
        drop(next()?);
    }
    let started = Instant::now();
    for _ in 0..n {
        drop(next()?);
    }
    Ok(started.elapsed())
}

fn main() -> Result<()> {
    measure::run(|criterion| {
        let cores = LoaderOptions::default().workers;
        let mut counts = vec![1, cores];
        counts.dedup();
        let mut group = criterion.benchmark_group("loader");
        group.sample_size(20).throughput(Throughput::Elements(BATCH as u64));
        let cases =
            [("cached", CACHE_BYTES, false), ("blurred", CACHE_BYTES, true), ("drawn", 0, false)];
        for (name, cache_bytes, blurred) in cases {
            for &workers in &counts {
                let options = LoaderOptions {
                    batch: BATCH,
                    workers,
                    prefetch: PREFETCH,
                    ..LoaderOptions::default()
                };
                let mut loader = Loader::new(pictures(cache_bytes)?, &plan(blurred), options)?;
                let id = BenchmarkId::new(name, format!("{workers}-workers"));
                measure::time_rounds(&mut group, id, |n| batches(&mut loader, n))?;
            }
        }
        group.finish();
        Ok(())
    })
}
