//! A whole step of every plugin in the workspace: its default recipe with small batches, on random
//! views that lie in memory.

use std::time::Duration;

use criterion::{BenchmarkId, Throughput};
use pretext::Result;
use pretext::plugin::{Found, MethodInfo};
use pretext::schedule::Progress;
use pretext::train::prepare::prepare;
use pretext::train::views::random_views;
use pretext_benches::{measure, product};

const BATCH: usize = 32;

/// A step, ready to be taken again and again.
fn step(
    plugin: &Found,
    method: &MethodInfo,
    precision: &str,
) -> Result<impl FnMut() -> Result<f64> + use<>> {
    let batch = format!("batch={BATCH}");
    let precision = format!("precision={precision}");
    let recipe = product::recipe(method, &[&batch, &precision])?;
    let mut prepared = prepare(&recipe, plugin)?;
    let views = random_views(&prepared.plan, prepared.data.content(), BATCH, recipe.seed)?;
    let mut number = 0;
    Ok(move || {
        let at = Progress {
            step: number,
            steps_per_epoch: prepared.steps_per_epoch,
            total_steps: u64::MAX,
        };
        number += 1;
        let taken = prepared.trainer.step(&mut prepared.session, at, || Ok(views.clone()))?;
        Ok(taken.loss)
    })
}

fn main() -> Result<()> {
    let catalogue = product::plugins()?;
    measure::run(|criterion| {
        let mut group = criterion.benchmark_group("step");
        group.sample_size(10).measurement_time(Duration::from_secs(10));
        group.throughput(Throughput::Elements(BATCH as u64));
        for plugin in &catalogue.plugins {
            for method in &plugin.info.methods {
                for precision in ["f32", "bf16"] {
                    let id = BenchmarkId::new(&method.name, precision);
                    measure::time(&mut group, id, step(plugin, method, precision)?)?;
                }
            }
        }
        group.finish();
        Ok(())
    })
}
