//! `pretext report`: makes a run's page anew from its files.

use std::path::PathBuf;

use clap::Args;

use super::asked::Asked;
use super::plugin::Places;
use super::words::{say, tell_warnings};
use crate::Result;
use crate::train::again::again;

/// Make the report of a run anew, from its newest checkpoint
#[derive(Args, Debug)]
pub(super) struct Report {
    /// The run's folder
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    #[command(flatten)]
    places: Places,
}

impl Report {
    /// Writes one page per run and says where.
    pub(super) fn run(&self) -> Result<()> {
        for run in &self.runs {
            let asked = Asked::run(run, &[], &self.places)?;
            let again = again(run, &asked.recipe, &asked.plugin)?;
            tell_warnings(&again.warnings);
            say(again.write_report(run, &asked.recipe)?.display())?;
        }
        Ok(())
    }
}
