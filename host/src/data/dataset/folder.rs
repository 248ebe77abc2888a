//! A folder of image or sound files; its sub-folders are the classes, `train/` and `test/` (or `val/`) the splits.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Certainty, Content, Dataset, Kind, OpenOptions, Sample, Split, counted, layout};
use crate::data::decode::Medium;
use crate::{Error, Result};

inventory::submit! {
    Kind {
        name: "folder",
        opens: "DIR with .jpg, .png, .wav or .flac files",
        help: "image or sound files, classes are sub-folders if any; train/ and test/ or val/ are splits",
        recognise: |source| if Path::new(source).is_dir() { Certainty::Perhaps } else { Certainty::No },
        open: |source, options| Ok(Arc::new(Folder::open(source, options)?)),
    }
}

thread_local! {
    /// Bytes of the file being decoded: one buffer per thread, grown to the largest file.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Files on the disk, each decoded when it is asked for.
#[derive(Debug)]
pub(super) struct Folder {
    /// What it is and where it lies, for people.
    pub(super) title: String,
    pub(super) root: PathBuf,
    pub(super) medium: Medium,
    /// Paths from the root.
    pub(super) files: Vec<String>,
    /// Length of each file in bytes or values, for sounds only: pictures have none.
    pub(super) extents: Vec<u64>,
    pub(super) labels: Vec<Option<u32>>,
    pub(super) class_names: Vec<String>,
    pub(super) split: Split,
    pub(super) rate: u32,
}

impl Folder {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let root = PathBuf::from(source);
        let mut paths = Vec::new();
        collect(&root, "", &mut paths)?;
        let medium = Medium::of_most(&paths).unwrap_or(Medium::Picture);
        paths.retain(|path| Medium::of(path) == Some(medium));
        let layout = layout::arrange(&paths, options, source)?;
        let files: Vec<String> =
            layout.files.iter().map(|file| std::mem::take(&mut paths[*file])).collect();
        let size = |file: &String| std::fs::metadata(root.join(file)).map_or(0, |file| file.len());
        let sounds = medium == Medium::Sound;
        let extents = if sounds { files.iter().map(size).collect() } else { Vec::new() };
        let (labels, class_names) = (layout.labels, layout.class_names);
        let (split, rate) = (options.split, options.rate);
        let title = format!("folder `{source}`");
        Ok(Self { title, root, medium, files, extents, labels, class_names, split, rate })
    }
}

/// Adds every image and sound below `folder`, as a path from the root with `/` between parts. Hidden files are left out.
fn collect(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    let unreadable = |e| {
        Error::asked_wrongly(format!("can't read the folder `{}`", folder.display()))
            .because(e)
            .hint("check the path and its permissions")
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}{name}");
        if Medium::of(&name).is_some() {
            paths.push(path);
        } else if entry.path().is_dir() {
            collect(&entry.path(), &format!("{path}/"), paths)?;
        }
    }
    Ok(())
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn content(&self) -> Content {
        match self.medium {
            Medium::Picture => Content::Images,
            Medium::Sound => Content::Sounds { rate: self.rate },
        }
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        BYTES.with_borrow_mut(|bytes| {
            bytes.clear();
            File::open(self.root.join(&self.files[index]))?.read_to_end(bytes)?;
            self.medium.decode(bytes, self.rate, sample)
        })
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels[index]
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        self.root.join(&self.files[index]).display().to_string()
    }

    fn extent(&self, index: usize) -> Option<u64> {
        self.extents.get(index).copied()
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        format!("{}: {}", self.title, counted(self, self.medium.noun()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Loader, LoaderOptions, ViewPlan, ViewRequest, open};

    fn write(root: &Path, path: &str, shade: u8) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        ::image::RgbImage::from_pixel(3, 2, ::image::Rgb([shade; 3])).save(path).unwrap();
    }

    #[test]
    fn classes_and_splits_are_folders_and_pixels_arrive() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train/cat/a.png", 10);
        write(folder.path(), "train/dog/a.png", 20);
        write(folder.path(), "test/dog/b.png", 30);
        std::fs::write(folder.path().join("train/cat/notes.txt"), "x").unwrap();
        let source = folder.path().to_str().unwrap();
        let train = open(source, &OpenOptions::default()).unwrap();
        assert_eq!((train.len(), train.label(1)), (2, Some(1)));
        assert!(train.name(1).ends_with("train/dog/a.png"));
        let options = OpenOptions { split: Split::Test, ..Default::default() };
        let test = open(source, &options).unwrap();
        let Sample::Image(image) = test.sample(0).unwrap() else { panic!("a picture") };
        assert_eq!((image.width, image.height, image.pixels), (3, 2, vec![30; 18]));
        assert!(test.describe().ends_with("1 images, 2 classes, test split"));
    }

    #[test]
    fn a_truncated_jpeg_is_skipped_and_counted() {
        const WHOLE: &[u8] = include_bytes!("../decode/tiny/colour.jpg");
        let folder = tempfile::tempdir().unwrap();
        for (name, length) in [("a.jpg", WHOLE.len()), ("b.jpg", 300), ("c.jpg", WHOLE.len())] {
            std::fs::write(folder.path().join(name), &WHOLE[..length]).unwrap();
        }
        let data = open(folder.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        let view = ViewRequest::new("g", "crop", 1, 1).with("size", 16.0).with("scale_min", 1.0);
        let options =
            LoaderOptions { batch: 3, end: Some(1), shuffle: false, ..Default::default() };
        let mut loader = Loader::new(data, &ViewPlan::of(vec![view]), options).unwrap();
        let batch = loader.next_batch().unwrap().unwrap();
        assert!(batch.broken.len() == 1 && batch.broken[0].name.ends_with("b.jpg"));
        assert_eq!(batch.broken[0].reason, "the JPEG is truncated");
        assert_eq!((batch.len(), loader.report().broken), (3, 1));
    }

    #[test]
    fn an_empty_folder_and_one_without_images_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().to_str().unwrap();
        let error = open(source, &OpenOptions::default()).unwrap_err();
        assert!(error.message().ends_with("holds no image and no sound"));
        std::fs::write(folder.path().join("a.txt"), "x").unwrap();
        assert!(open(source, &OpenOptions::default()).is_err());
    }
}
