//! CIFAR-10 in its binary form: records of one label byte and 3,072 pixel bytes, channel by channel.
//! Krizhevsky 2009, <https://www.cs.toronto.edu/~kriz/cifar.html>

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Certainty, Dataset, Kind, OpenOptions, Sample, Split, counted, layout};
use crate::{Error, Result};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PIXELS;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

inventory::submit! {
    Kind {
        name: "cifar10",
        opens: "DIR with data_batch_*.bin and test_batch.bin",
        help: "CIFAR-10 in its binary form, 32 x 32 pixels",
        recognise: |source| {
            if files(source, Split::Train).is_empty() && files(source, Split::Test).is_empty() {
                Certainty::No
            } else {
                Certainty::Yes
            }
        },
        open: |source, options| Ok(Arc::new(Cifar10::open(source, options)?)),
    }
}

/// The files of a split, sorted.
fn files(source: &str, split: Split) -> Vec<PathBuf> {
    let start = match split {
        Split::Train => "data_batch_",
        Split::Test => "test_batch",
    };
    let Ok(entries) = std::fs::read_dir(source) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "bin"))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        })
        .collect();
    files.sort();
    files
}

#[derive(Debug)]
struct Cifar10 {
    source: String,
    files: Vec<(PathBuf, File)>,
    /// File and record of each sample.
    records: Vec<(usize, usize)>,
    labels: Vec<u8>,
    class_names: Vec<String>,
    split: Split,
}

impl Cifar10 {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let paths = files(source, options.split);
        if paths.is_empty() {
            return Err(layout::no_split(source, options.split)
                .hint("expected `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`"));
        }
        let mut all = Self {
            source: source.to_owned(),
            files: Vec::new(),
            records: Vec::new(),
            labels: Vec::new(),
            class_names: names(source),
            split: options.split,
        };
        for path in paths {
            all.add(path)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let bytes = std::fs::read(&path)
            .map_err(|e| Error::failed(format!("can't read `{}`", path.display())).because(e))?;
        if bytes.is_empty() || bytes.len() % RECORD != 0 {
            return Err(Error::failed(format!(
                "`{}` has {} bytes, which is no multiple of {RECORD}",
                path.display(),
                bytes.len()
            ))
            .hint("it is truncated or no CIFAR-10 file: download it again"));
        }
        let labels: Vec<u8> = bytes.chunks_exact(RECORD).map(|record| record[0]).collect();
        if let Some(label) = labels.iter().find(|label| usize::from(**label) >= CLASSES.len()) {
            return Err(Error::failed(format!("`{}` has the label {label}", path.display()))
                .hint("labels of CIFAR-10 are 0 to 9; is it CIFAR-100?"));
        }
        let file = self.files.len();
        self.records.extend((0..labels.len()).map(|record| (file, record)));
        self.labels.extend(labels);
        self.files.push((path.clone(), File::open(path)?));
        Ok(())
    }
}

/// The class names in `batches.meta.txt`, or the well-known ones.
fn names(source: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(source).join("batches.meta.txt"));
    let given: Vec<String> =
        text.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if given.len() == CLASSES.len() { given } else { CLASSES.map(str::to_owned).to_vec() }
}

thread_local! {
    static RECORD_BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; RECORD]);
}

impl Dataset for Cifar10 {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        let (file, record) = self.records[index];
        let image = sample.image_mut();
        image.width = SIDE;
        image.height = SIDE;
        image.pixels.resize(3 * PIXELS, 0);
        RECORD_BYTES.with_borrow_mut(|bytes| {
            self.files[file].1.read_exact_at(bytes, (record * RECORD) as u64)?;
            let (red, rest) = bytes[1..].split_at(PIXELS);
            let (green, blue) = rest.split_at(PIXELS);
            for (i, pixel) in image.pixels.chunks_exact_mut(3).enumerate() {
                pixel.copy_from_slice(&[red[i], green[i], blue[i]]);
            }
            Ok(())
        })
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(u32::from(self.labels[index]))
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        let (file, record) = self.records[index];
        format!("{}:{record}", self.files[file].0.display())
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        format!("CIFAR-10 `{}`: {}", self.source, counted(self, "images"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::open;

    fn record(label: u8, colour: [u8; 3]) -> Vec<u8> {
        let mut bytes = vec![label];
        for channel in colour {
            bytes.extend([channel; PIXELS]);
        }
        bytes
    }

    #[test]
    fn records_become_interleaved_pixels_with_labels() {
        let folder = tempfile::tempdir().unwrap();
        let both = [record(3, [1, 2, 3]), record(9, [4, 5, 6])].concat();
        std::fs::write(folder.path().join("data_batch_1.bin"), both).unwrap();
        let data = open(folder.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!((data.len(), data.label(1)), (2, Some(9)));
        assert_eq!(data.class_names()[9], "truck");
        let Sample::Image(image) = data.sample(1).unwrap() else { panic!("a picture") };
        assert_eq!(image.pixels[..6], [4, 5, 6, 4, 5, 6]);
        let options = OpenOptions { split: Split::Test, ..Default::default() };
        assert!(open(folder.path().to_str().unwrap(), &options).is_err());
    }

    #[test]
    fn a_cut_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        std::fs::write(&path, &record(0, [0; 3])[..3000]).unwrap();
        let options = OpenOptions { split: Split::Test, ..Default::default() };
        let error = open(folder.path().to_str().unwrap(), &options).unwrap_err();
        assert!(error.message().contains("no multiple of 3073"));
    }
}
