//! Criterion, with errors that end the program instead of being timed.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use pretext::Result;

/// Runs `benchmarks` with the settings of the command line and tells how they went.
///
/// # Errors
/// When one of them fails.
pub fn run(benchmarks: impl FnOnce(&mut Criterion) -> Result<()>) -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    benchmarks(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// Measures `body` under `id`, after one run whose error counts.
///
/// # Errors
/// When that first run fails.
pub fn time<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    mut body: impl FnMut() -> Result<T>,
) -> Result<()> {
    drop(body()?);
    let mut failed = None;
    group.bench_function(id, |bencher| {
        bencher.iter(|| match body() {
            Ok(value) => Some(value),
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        });
    });
    failed.map_or(Ok(()), Err)
}

/// Measures under `id` what `rounds` says that so many rounds took.
///
/// # Errors
/// When `rounds` fails.
pub fn time_rounds(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    mut rounds: impl FnMut(u64) -> Result<Duration>,
) -> Result<()> {
    let mut failed = None;
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|n| match rounds(n) {
            Ok(duration) => duration,
            Err(error) => {
                failed.get_or_insert(error);
                // Criterion divides by the time.
                Duration::from_nanos(1)
            }
        });
    });
    failed.map_or(Ok(()), Err)
}
