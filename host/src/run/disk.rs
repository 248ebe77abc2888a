//! Writing files so that they are whole or absent, and the hashes that prove it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Says in words why `path` couldn't be written, with what to do about it.
pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let failed = Error::failed(format!("can't write `{}`", path.display())).because(error);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failed.hint("free some space there")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            failed.hint("give write permission there, or run `pretext` from a folder of your own")
        }
        _ => failed.hint("check the path and the disk"),
    }
}

/// Says in words why `path` couldn't be read.
pub(crate) fn cannot_read(path: &Path, error: &impl std::fmt::Display) -> Error {
    Error::failed(format!("can't read `{}`", path.display())).because(error)
}

/// Writes `bytes` to a new file at `path` and waits until they are on the disk.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| cannot_write(path, &error))
}

/// Replaces the file at `path`: readers see the old bytes or the new ones, never a part.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = path.with_added_extension("partial");
    let rename = || fs::rename(&aside, path).map_err(|error| cannot_write(path, &error));
    let written = write_new(&aside, bytes).and_then(|()| rename());
    if written.is_err() {
        // The first error is the one to report, and on a full disk a part of a file takes what room there is.
        fs::remove_file(&aside).ok();
    }
    written?;
    sync_parent(path)
}

/// Whether a file can be made at `path`, asked before what is to be written costs any time.
///
/// # Errors
/// When there is no such folder, or a folder is in the file's place.
pub fn check_place(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::asked_wrongly(format!("there is no folder `{}`", folder.display()))
            .hint(format!("make it with `mkdir -p {}`", folder.display())));
    }
    if path.is_dir() {
        return Err(Error::asked_wrongly(format!("`{}` is a folder", path.display()))
            .hint("name a file in it"));
    }
    Ok(())
}

/// Waits until the renames in the folder of `path` are on the disk.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    // A bare name lies in the folder that one is in.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match File::open(parent).and_then(|folder| folder.sync_all()) {
        // Some network file systems can't sync a folder; there the rename itself is durable.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done.map_err(|error| cannot_write(parent, &error)),
    }
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of the file at `path`, in hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String> {
    let hash = || {
        let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block)? {
                0 => return Ok(hex(&hasher.finalize())),
                n => hasher.update(&block[..n]),
            }
        }
    };
    hash().map_err(|error: io::Error| cannot_read(path, &error))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` can't fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_abc_is_the_standards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        write_new(&path, b"abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).unwrap(), want);
        assert_eq!(sha256(b"abc"), want);
    }

    #[test]
    fn replacing_leaves_one_file_with_the_new_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_with_a_hint() {
        let error = write_new(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(error.message().contains("/dev/full"));
        assert!(error.hint_text().unwrap().contains("free some space"));
    }
}
