//! Reads a store: whole or not at all, then any sample at any time, from any thread.

use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{About, DIGEST, Element, HEADER, Layout, MAGIC};
use crate::cluster::Points;
use crate::run::disk::cannot_read;
use crate::{Error, Result};

/// The frames of every sample of a data set.
#[derive(Debug)]
pub struct Store<T> {
    path: PathBuf,
    file: File,
    about: About,
    width: usize,
    offsets: Vec<u64>,
    element: PhantomData<T>,
}

impl<T: Element> Store<T> {
    /// Opens the store at `path` and checks every byte of it.
    ///
    /// # Errors
    /// When it is not there, holds something else, or is not what was written.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
        let parts = Parts::read(&file, T::KIND, size_of::<T>() as u64).map_err(|why| {
            let hint = "remove it; the stage that made it is then run again";
            let error = Error::failed(format!("the store `{}` is damaged", path.display()));
            error.because(why).hint(hint)
        })?;
        let Parts { about, width, offsets } = parts;
        let (path, element) = (path.to_owned(), PhantomData);
        Ok(Self { path, file, about, width, offsets, element })
    }

    /// What it holds.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// How frames lie in a sample.
    pub fn layout(&self) -> Layout {
        self.about.layout
    }

    /// How many samples.
    pub fn samples(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Elements of a frame.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many frames sample `index` has; 0 where it was left out.
    pub fn frames_of(&self, index: usize) -> usize {
        (self.offsets[index + 1] - self.offsets[index]) as usize
    }

    /// How many frames all samples have.
    pub fn frames(&self) -> usize {
        self.offsets[self.samples()] as usize
    }

    /// Puts the frames `[F, width]` of sample `index` into `out`, in place of what it held.
    ///
    /// # Errors
    /// When there is no such sample, or the file can't be read.
    pub fn read(&self, index: usize, out: &mut Vec<T>) -> Result<()> {
        if index >= self.samples() {
            let (path, n) = (self.path.display(), self.samples());
            return Err(Error::failed(format!("`{path}` has {n} samples, so no sample {index}")));
        }
        out.clear();
        out.resize(self.frames_of(index) * self.width, T::zeroed());
        self.read_at(self.offsets[index], out)
    }

    /// Reads whole frames from frame number `first` on.
    fn read_at(&self, first: u64, out: &mut [T]) -> Result<()> {
        let at = HEADER as u64 + first * (self.width * size_of::<T>()) as u64;
        let read = self.file.read_exact_at(bytemuck::cast_slice_mut(out), at);
        read.map_err(|error| cannot_read(&self.path, &error))
    }
}

impl Points for Store<f32> {
    fn len(&self) -> usize {
        self.frames()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn gather(&self, numbers: &[usize], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.resize(numbers.len() * self.width, 0.0);
        let mut rows = out.chunks_exact_mut(self.width).zip(numbers);
        rows.try_for_each(|(row, number)| self.read_at(*number as u64, row))
    }
}

/// What a store has besides its frames, checked against each other; why it is damaged, in words.
struct Parts {
    about: About,
    width: usize,
    offsets: Vec<u64>,
}

impl Parts {
    fn read(file: &File, kind: u32, size: u64) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let short = || "it is cut short".to_owned();
        let length = file.metadata().map_err(text)?.len();
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0).map_err(|_| short())?;
        if head[..8] != MAGIC {
            return Err("it is no store, or a newer pretext wrote it".to_owned());
        }
        if number(&head[8..12]) != u64::from(kind) {
            return Err("it holds elements of another kind".to_owned());
        }
        let (width, samples) = (number(&head[12..16]), number(&head[16..24]));
        let described_end = length.checked_sub(DIGEST as u64 + 8).ok_or_else(short)?;
        let mut word = [0; 8];
        file.read_exact_at(&mut word, described_end).map_err(text)?;
        let described = described_end.checked_sub(number(&word)).ok_or_else(short)?;
        let table = samples.checked_add(1).and_then(|n| n.checked_mul(8)).ok_or_else(short)?;
        let begin = described.checked_sub(table).filter(|at| *at >= HEADER as u64);
        let begin = begin.ok_or_else(short)?;
        if width == 0 || !check_hash(file, length).map_err(text)? {
            return Err("it is not what was written".to_owned());
        }
        let mut offsets = vec![0_u64; samples as usize + 1];
        file.read_exact_at(bytemuck::cast_slice_mut(&mut offsets), begin).map_err(text)?;
        let bytes = offsets.last().copied().unwrap_or(0).saturating_mul(width * size);
        if !offsets.is_sorted() || bytes.next_multiple_of(8) != begin - HEADER as u64 {
            return Err("its samples don't fill it".to_owned());
        }
        let mut json = vec![0; number(&word) as usize];
        file.read_exact_at(&mut json, described).map_err(text)?;
        let about = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        Ok(Self { about, width: width as usize, offsets })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Whether the last bytes are the hash of those before.
fn check_hash(mut file: &File, length: u64) -> std::io::Result<bool> {
    let (mut hasher, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    let mut left = length - DIGEST as u64;
    while left > 0 {
        let n = block.len().min(left as usize);
        file.read_exact(&mut block[..n])?;
        hasher.update(&block[..n]);
        left -= n as u64;
    }
    let mut stored = [0; DIGEST];
    file.read_exact(&mut stored)?;
    Ok(hasher.finalize().as_slice() == stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Writer;

    fn about() -> About {
        let figures = vec![("purity".to_owned(), 0.5)];
        About {
            inputs: "abc".to_owned(),
            layout: Layout::Rate { frames: 50.0, values: 16_000.0 },
            clusters: 7,
            figures,
        }
    }

    fn written(path: &Path) -> Store<u32> {
        let mut writer = Writer::<u32>::new(path, 3, 1).unwrap();
        for frames in [&[1, 2, 3][..], &[], &[4]] {
            writer.push(frames).unwrap();
        }
        writer.finish(&about()).unwrap()
    }

    #[test]
    fn every_sample_comes_back_and_one_that_was_left_out_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stages/units");
        let store = written(&path);
        assert_eq!((store.about(), store.samples(), store.frames()), (&about(), 3, 4));
        let mut frames = Vec::new();
        for (index, want) in [(2, vec![4]), (0, vec![1, 2, 3]), (1, vec![])] {
            store.read(index, &mut frames).unwrap();
            assert_eq!(frames, want);
        }
        assert!(store.read(3, &mut frames).unwrap_err().message().contains("no sample 3"));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn rows_are_gathered_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features");
        let mut writer = Writer::<f32>::new(&path, 2, 2).unwrap();
        writer.push(&[0.0, 1.0, 2.0, 3.0]).unwrap();
        writer.push(&[4.0, 5.0]).unwrap();
        let store = writer.finish(&About::default()).unwrap();
        let mut rows = Vec::new();
        store.gather(&[2, 0, 2], &mut rows).unwrap();
        assert_eq!(rows, [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    }

    #[test]
    fn a_store_that_is_cut_short_changed_or_of_another_kind_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("units");
        drop(written(&path));
        let whole = std::fs::read(&path).unwrap();
        assert!(Store::<f32>::open(&path).unwrap_err().to_string().contains("another kind"));
        for n in [0, 10, HEADER, whole.len() - 1] {
            std::fs::write(&path, &whole[..n]).unwrap();
            let error = Store::<u32>::open(&path).unwrap_err();
            assert!(error.message().ends_with("is damaged"), "{n}: {error}");
        }
        for at in [13, 17, HEADER + 3, whole.len() - 36, whole.len() - 50] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(Store::<u32>::open(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_store_without_all_its_samples_is_never_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("units");
        let mut writer = Writer::<u32>::new(&path, 2, 1).unwrap();
        writer.push(&[1]).unwrap();
        assert!(writer.finish(&about()).is_err() && !path.exists());
        let mut writer = Writer::<u32>::new(&path, 1, 2).unwrap();
        assert!(writer.push(&[1]).is_err());
    }
}
