//! Records, one JSON object a line: appended as they come, cut back when a run resumes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::disk::{cannot_read, cannot_write};
use crate::{Error, Result};

/// One record: `step` and whatever was measured there, in order.
pub type Record = Map<String, Value>;

/// A file of records, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the file at `path`, empty if it doesn't exist.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| cannot_write(&path, &error))?;
        Ok(Self { path, file })
    }

    /// Adds a record, as one write, so that a reader never meets half a line of a living run.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record)
            .map_err(|error| Error::failed("a record has no JSON form").because(error))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| cannot_write(&self.path, &error))
    }

    /// Waits until all records are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| cannot_write(&self.path, &error))
    }

    /// Drops every record after `step`, and a line that a crash cut short.
    pub(super) fn rewind(&mut self, step: u64) -> Result<()> {
        let text = fs::read(&self.path).map_err(|error| cannot_read(&self.path, &error))?;
        let kept: usize = text
            .split_inclusive(|byte| *byte == b'\n')
            .take_while(|line| step_of(line).is_some_and(|of| of <= step))
            .map(<[u8]>::len)
            .sum();
        self.file.set_len(kept as u64).map_err(|error| cannot_write(&self.path, &error))?;
        self.sync()
    }
}

/// The step of a whole line; none for a broken one.
fn step_of(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\n")?;
    serde_json::from_slice::<Record>(line).ok()?.get("step")?.as_u64()
}

/// The records of the file at `path`, up to the first broken line; none where there is no file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(cannot_read(path, &error).hint(
            "give permission to read it, or move it away: the run goes on without its records",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, loss: f64) -> Record {
        let mut record = Record::new();
        record.insert("step".to_owned(), step.into());
        record.insert("loss".to_owned(), loss.into());
        record
    }

    #[test]
    fn rewinding_and_repeating_gives_the_same_bytes_as_never_stopping() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
        let mut log = Log::open(whole.clone()).unwrap();
        (1..=6).for_each(|step| log.append(&record(step, 0.1 * step as f64)).unwrap());
        let mut log = Log::open(cut.clone()).unwrap();
        (1..=5).for_each(|step| log.append(&record(step, 0.1 * step as f64)).unwrap());
        drop(log);
        let mut file = OpenOptions::new().append(true).open(&cut).unwrap();
        file.write_all(b"{\"step\":6,\"lo").unwrap();
        let mut log = Log::open(cut.clone()).unwrap();
        log.rewind(3).unwrap();
        (4..=6).for_each(|step| log.append(&record(step, 0.1 * step as f64)).unwrap());
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&cut).unwrap());
    }

    #[test]
    fn a_line_cut_short_ends_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(read(&path).unwrap(), Vec::<Record>::new());
        fs::write(&path, "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"lo").unwrap();
        assert_eq!(read(&path).unwrap(), [record(1, 0.5)]);
    }
}
