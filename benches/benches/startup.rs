//! Startup: commands that do next to nothing, as whole processes.

use std::process::Command;

use criterion::BenchmarkId;
use pretext::{Error, Result};
use pretext_benches::{measure, product};

fn main() -> Result<()> {
    let pretext = product::built()?.join("pretext");
    measure::run(|criterion| {
        let mut group = criterion.benchmark_group("startup");
        group.sample_size(50);
        for (name, arguments) in
            [("version", ["--version"].as_slice()), ("plugin-list", &["plugin", "list"])]
        {
            measure::time(&mut group, BenchmarkId::from_parameter(name), || {
                let output = Command::new(&pretext).args(arguments).output();
                let output = output
                    .map_err(|error| Error::failed("`pretext` can't be started").because(error))?;
                if output.status.success() {
                    return Ok(output);
                }
                Err(Error::failed(format!("`pretext {}` failed", arguments.join(" ")))
                    .because(String::from_utf8_lossy(&output.stderr).trim()))
            })?;
        }
        group.finish();
        Ok(())
    })
}
