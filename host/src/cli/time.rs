//! `pretext time`: where the time of a recipe goes.

use clap::Args;
use serde_json::{Value, json};

use super::asked::Asked;
use super::plugin::Places;
use super::words::{bytes_text, colour_on_stdout, say, say_json, table};
use crate::Result;
use crate::engine::profile::Cost;
use crate::train::time::{Spread, Times, time};

/// Time a recipe: the step alone, the loader alone, both together, and every op
#[derive(Args, Debug)]
pub(super) struct Time {
    /// A method's name, `METHOD:RECIPE`, or the path of a recipe
    #[arg(value_name = "METHOD|RECIPE")]
    target: String,
    /// Keys of the recipe, such as `batch=64` or `precision=bf16`
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// How many steps are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    repeats: u64,
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

impl Time {
    /// Measures and tells.
    pub(super) fn run(&self) -> Result<()> {
        let asked = Asked::target(&self.target, &self.words, &self.places)?;
        asked.take_threads()?;
        let times = time(&asked.recipe, &asked.plugin, self.repeats)?;
        if self.json {
            return say_json(&object(&times));
        }
        say(table(&totals(&times), colour_on_stdout()))?;
        say(format!(
            "\npeak memory {} in the step alone, {} in all",
            bytes_text(times.step_memory),
            bytes_text(times.peak_memory)
        ))?;
        let rate = flops(&times) / times.step.median;
        say(format!(
            "{:.1} GFLOP/s over the whole step, as its ops are defined: {:.0} % of the best matrix product's {:.1}\n",
            rate / 1e9,
            100.0 * rate / times.ceiling,
            times.ceiling / 1e9
        ))?;
        say(table(&ops(&times), colour_on_stdout()))
    }
}

/// Floating point operations of one step.
fn flops(times: &Times) -> f64 {
    times.costs.iter().map(|(_, cost)| cost.flops).sum::<u64>() as f64 / times.profiled as f64
}

fn totals(times: &Times) -> Vec<Vec<String>> {
    let mut rows =
        vec![["what", "samples/s", "median ms", "min ms", "max ms"].map(str::to_owned).to_vec()];
    for (name, spread) in
        [("step alone", times.step), ("loader alone", times.loader), ("both", times.both)]
    {
        let Spread { median, min, max } = spread;
        let speed = format!("{:.1}", times.batch as f64 / median);
        let ms = [median, min, max].map(|seconds| format!("{:.1}", 1e3 * seconds));
        rows.push([vec![name.to_owned(), speed], ms.to_vec()].concat());
    }
    rows
}

/// Seconds of one op in one step, forward and backward.
fn seconds(cost: &Cost) -> [f64; 2] {
    [cost.forward.as_secs_f64(), cost.backward.as_secs_f64()]
}

fn ops(times: &Times) -> Vec<Vec<String>> {
    let n = times.profiled as f64;
    let heading = ["op", "calls", "forward ms", "backward ms", "share", "GFLOP/s", "MiB"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let known: f64 = times.costs.iter().flat_map(|(_, cost)| seconds(cost)).sum::<f64>() / n;
    // Measuring costs time too: in small steps the ops take longer than the step does without it.
    let whole = known.max(times.step.median);
    for (name, cost) in &times.costs {
        let [forward, backward] = seconds(cost).map(|seconds| seconds / n);
        let rate = cost.flops as f64 / n / (forward + backward) / 1e9;
        rows.push(vec![
            (*name).to_owned(),
            format!("{:.0}", cost.calls as f64 / n),
            format!("{:.2}", 1e3 * forward),
            format!("{:.2}", 1e3 * backward),
            format!("{:.1} %", 100.0 * (forward + backward) / whole),
            if cost.flops > 0 { format!("{rate:.0}") } else { "-".to_owned() },
            format!("{:.1}", cost.bytes as f64 / n / 1_048_576.0),
        ]);
    }
    let rest = whole - known;
    let dash = || "-".to_owned();
    rows.push(vec![
        "(rest)".to_owned(),
        dash(),
        format!("{:.2}", 1e3 * rest),
        dash(),
        format!("{:.1} %", 100.0 * rest / whole),
        dash(),
        dash(),
    ]);
    rows
}

fn object(times: &Times) -> Value {
    let n = times.profiled as f64;
    let spread = |s: Spread| {
        json!({
            "samples_per_second": times.batch as f64 / s.median,
            "median_ms": 1e3 * s.median, "min_ms": 1e3 * s.min, "max_ms": 1e3 * s.max,
        })
    };
    let ops: Vec<Value> = times
        .costs
        .iter()
        .map(|(name, cost)| {
            let [forward, backward] = seconds(cost);
            json!({
                "op": name, "calls": cost.calls as f64 / n,
                "forward_ms": 1e3 * forward / n, "backward_ms": 1e3 * backward / n,
                "flops": cost.flops as f64 / n, "bytes": cost.bytes as f64 / n,
            })
        })
        .collect();
    json!({
        "batch": times.batch, "step": spread(times.step), "loader": spread(times.loader),
        "both": spread(times.both), "step_memory_bytes": times.step_memory,
        "peak_memory_bytes": times.peak_memory, "flops": flops(times),
        "flops_per_second": flops(times) / times.step.median, "ceiling": times.ceiling, "ops": ops,
    })
}
