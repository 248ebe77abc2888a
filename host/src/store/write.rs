//! Writes a store, sample by sample.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{About, Element, HEADER, MAGIC, Store};
use crate::run::disk::{cannot_write, sync_parent};
use crate::{Error, Result};

/// A store on its way: a hidden file beside its place, until [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<T> {
    path: PathBuf,
    aside: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
    width: usize,
    samples: usize,
    offsets: Vec<u64>,
    element: PhantomData<T>,
}

impl<T: Element> Writer<T> {
    /// Begins a store of `samples` samples with `width` elements a frame, to stand at `path`.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn new(path: &Path, samples: usize, width: usize) -> Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend(T::KIND.to_le_bytes());
        head.extend((width as u32).to_le_bytes());
        head.extend((samples as u64).to_le_bytes());
        debug_assert_eq!(head.len(), HEADER);
        let aside = path.with_added_extension("partial");
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        let file = File::create(&aside).map_err(|error| cannot_write(&aside, &error))?;
        let mut writer = Self {
            path: path.to_owned(),
            aside,
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: Sha256::new(),
            width,
            samples,
            offsets: vec![0],
            element: PhantomData,
        };
        writer.write(&head)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|error| cannot_write(&self.aside, &error))
    }

    /// Adds the frames `[F, width]` of the next sample; none for one that is left out.
    ///
    /// # Errors
    /// When they are no whole frames, there are more samples than announced, or the disk is full.
    pub fn push(&mut self, frames: &[T]) -> Result<()> {
        if !frames.len().is_multiple_of(self.width) || self.offsets.len() > self.samples {
            return Err(Error::failed(format!(
                "sample {} of {} has {} numbers, which are no frames of {}",
                self.offsets.len(),
                self.samples,
                frames.len(),
                self.width
            )));
        }
        let end = self.offsets.last().copied().unwrap_or(0) + (frames.len() / self.width) as u64;
        self.offsets.push(end);
        self.write(bytemuck::cast_slice(frames))
    }

    /// Says what it holds, puts the store in its place and opens it.
    ///
    /// # Errors
    /// When samples are missing, or it can't be written.
    pub fn finish(mut self, about: &About) -> Result<Store<T>> {
        let offsets = std::mem::take(&mut self.offsets);
        if offsets.len() != self.samples + 1 {
            let got = offsets.len() - 1;
            return Err(Error::failed(format!("{got} of {} samples were stored", self.samples)));
        }
        let bytes = offsets.last().copied().unwrap_or(0) as usize * self.width * size_of::<T>();
        self.write(&[0; 8][..bytes.next_multiple_of(8) - bytes])?;
        self.write(bytemuck::cast_slice(&offsets))?;
        let described = serde_json::to_vec(about).map_err(|error| {
            Error::failed("a store's description has no JSON form").because(error)
        })?;
        self.write(&described)?;
        self.write(&(described.len() as u64).to_le_bytes())?;
        let digest = self.hasher.clone().finalize();
        let written = self.file.write_all(&digest).and_then(|()| self.file.flush());
        let written = written.and_then(|()| self.file.get_ref().sync_all());
        written.map_err(|error| cannot_write(&self.aside, &error))?;
        fs::rename(&self.aside, &self.path).map_err(|error| cannot_write(&self.path, &error))?;
        sync_parent(&self.path)?;
        Store::open(&self.path)
    }
}
