//! One process per run folder: an advisory lock that the kernel drops when the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use super::disk::cannot_write;
use crate::{Error, Result};

/// The file whose lock means "in use"; it holds the process' number, for people.
pub(super) const FILE: &str = "run.lock";

/// A run folder held by this process, until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// Closing the file releases the lock, also after a crash: a stale lock can't exist.
    _file: File,
}

impl Lock {
    /// Takes the folder `run`, or says which process has it.
    pub(super) fn take(run: &Path) -> Result<Self> {
        let path = run.join(FILE);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| cannot_write(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            // A file system without locks must not keep anybody from training.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(cannot_write(&path, &error)),
            Err(TryLockError::WouldBlock) => return Err(in_use(run, &mut file)),
        }
        let note = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|error| cannot_write(&path, &error))?;
        Ok(Self { _file: file })
    }
}

fn in_use(run: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    let by = match file.read_to_string(&mut holder) {
        Ok(1..) => format!("process {}", holder.trim()),
        _ => "another process".to_owned(),
    };
    Error::asked_wrongly(format!("run `{}` is in use by {by}", run.display()))
        .hint("wait until it ends, or start another run with `run=NAME`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_with_the_holders_number_and_free_once_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err();
        assert!(error.message().contains(&format!("process {}", std::process::id())));
        assert_eq!(error.exit_code(), 2);
        drop(held);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_crash_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "4194305\n").unwrap();
        Lock::take(folder.path()).unwrap();
    }
}
