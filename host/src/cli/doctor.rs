//! `pretext doctor`: what the machine offers, and which plugins were found or refused, and why.

use std::thread::available_parallelism;

use clap::Args;
use serde_json::{Value, json};

use super::plugin::{Places, method_rows, tell_refused};
use super::words::{bytes_text, colour_on_stdout, say, say_json, table};
use crate::Result;
use crate::engine::device;
use crate::engine::kernel::packed::Format;

/// Show the machine, its processor's abilities, memory, and plugins found or refused
#[derive(Args, Debug)]
pub(super) struct Doctor {
    #[command(flatten)]
    places: Places,
    /// Write one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks at the machine and tells.
    pub(super) fn run(&self) -> Result<()> {
        let facts = facts();
        let catalogue = self.places.everything()?;
        if self.json {
            let mut value: Value =
                facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            value["places"] = json!(self.places.search().places());
            value["plugins"] = json!(catalogue.plugins);
            value["refused"] = json!(catalogue.refused);
            return say_json(&value);
        }
        let mut rows = vec![vec!["what".to_owned(), "found".to_owned()]];
        rows.extend(
            facts.into_iter().map(|(name, value)| vec![name.to_owned(), plain(name, &value)]),
        );
        say(table(&rows, colour_on_stdout()))?;
        let places = self.places.search();
        let places = places.places().iter().map(|place| format!("  {}", place.display()));
        say(format!("\nplugins are looked for in\n{}", places.collect::<Vec<_>>().join("\n")))?;
        say(format!("\n{}", table(&method_rows(&catalogue), colour_on_stdout())))?;
        tell_refused(&catalogue);
        Ok(())
    }
}

fn facts() -> Vec<(&'static str, Value)> {
    let mut facts = vec![
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("cores", json!(available_parallelism().map_or(1, std::num::NonZero::get))),
        ("memory_bytes", json!(memory("MemTotal:"))),
        ("memory_free_bytes", json!(memory("MemAvailable:"))),
    ];
    facts.push(match device::found() {
        Ok(gpus) => ("cuda", json!(gpus)),
        Err(why) => ("cuda", json!(format!("none: {why}"))),
    });
    facts.push(("cpu_bf16", json!(bf16())));
    facts.extend(abilities().map(|(name, present)| (name, json!(present))));
    facts
}

fn plain(name: &str, value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).enumerate();
            names.map(|(n, name)| format!("cuda:{n} {name}")).collect::<Vec<_>>().join(", ")
        }
        Value::Number(n) if name.ends_with("_bytes") => bytes_text(n.as_u64().unwrap_or(0)),
        other => other.to_string(),
    }
}

/// A line of the system's memory table, in bytes; none where the system keeps no such table.
pub(super) fn memory(line: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|found| found.strip_prefix(line))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// What `precision=bf16` is worth on the processor.
fn bf16() -> &'static str {
    match Format::of(true) {
        Format::Bf16 => "multiplied by the processor",
        Format::Rounded | Format::F32 => "rounded and multiplied in f32: less memory, no less time",
    }
}

/// The processor's abilities that the engine has kernels for.
#[cfg(target_arch = "x86_64")]
fn abilities() -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ]
    .into_iter()
}

/// The processor's abilities that the engine has kernels for.
#[cfg(not(target_arch = "x86_64"))]
fn abilities() -> impl Iterator<Item = (&'static str, bool)> {
    std::iter::empty()
}
