//! A tar of a folder of images or sounds, or WebDataset shards, read in place: one pass over the headers makes an
//! index, then every sample is one positioned read.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Certainty, Content, Dataset, Kind, OpenOptions, Sample, Split, counted, layout, webdataset,
};
use crate::data::decode::Medium;
use crate::{Error, Result};

inventory::submit! {
    Kind {
        name: "tar",
        opens: "FILE.tar, shard-{000..012}.tar or DIR with .tar files",
        help: "a tar of a folder of images or sounds, or WebDataset shards (KEY.jpg with KEY.cls or KEY.json), read in place",
        recognise: |source| match shards(source) {
            Ok(shards) if !shards.is_empty() => Certainty::Yes,
            Ok(_) => Certainty::No,
            Err(_) => Certainty::Perhaps,
        },
        open: |source, options| Ok(Arc::new(Tar::open(source, options)?)),
    }
}

thread_local! {
    /// Bytes of the file being decoded: one buffer per thread, grown to the largest file.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tar consists of blocks of so many bytes: headers, and files filled up to whole ones.
const BLOCK: u64 = 512;

/// Where a file lies in which shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub shard: usize,
    pub offset: u64,
    pub size: usize,
}

/// The files of some tars, read through an index.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<(PathBuf, File)>,
    pub members: Vec<Member>,
    /// Path of each member inside its tar.
    pub paths: Vec<String>,
}

impl Shards {
    fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self { files: Vec::new(), members: Vec::new(), paths: Vec::new() };
        for path in paths {
            let file = File::open(path).map_err(|e| {
                Error::asked_wrongly(format!("can't open `{}`", path.display()))
                    .because(e)
                    .hint("check the path and its permissions")
            })?;
            all.index(path, &file)?;
            all.files.push((path.clone(), file));
        }
        Ok(all)
    }

    /// One pass over the headers of `file`.
    fn index(&mut self, path: &Path, file: &File) -> Result<()> {
        let broken = |e: &dyn std::fmt::Display| {
            Error::failed(format!("`{}` is no tar file, or is broken", path.display()))
                .because(readable(&e.to_string()))
                .hint(format!("check it with `tar tf {}`, or copy it again", path.display()))
        };
        let length = file.metadata()?.len();
        let mut archive = ::tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(|e| broken(&e))? {
            let entry = entry.map_err(|e| broken(&e))?;
            let end = entry.raw_file_position() + entry.size();
            if end > length {
                return Err(truncated(path, end, length));
            }
            if entry.header().entry_type().is_file() {
                self.paths.push(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
                self.members.push(Member {
                    shard: self.files.len(),
                    offset: entry.raw_file_position(),
                    size: entry.size() as usize,
                });
            }
        }
        // The reader takes a cut in what fills up a file's last block for the end.
        if !length.is_multiple_of(BLOCK) {
            return Err(truncated(path, length.next_multiple_of(BLOCK), length));
        }
        Ok(())
    }

    /// Reads a member's bytes.
    pub(super) fn read(&self, member: Member, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.resize(member.size, 0);
        Ok(self.files[member.shard].1.read_exact_at(bytes, member.offset)?)
    }

    /// The file of shard `index`.
    pub(super) fn shard(&self, index: usize) -> &Path {
        &self.files[index].0
    }

    /// How many shards.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

fn truncated(path: &Path, wanted: u64, length: u64) -> Error {
    Error::failed(format!(
        "`{}` is truncated: it ends at byte {length}, and what is in it goes on to byte {wanted}",
        path.display()
    ))
    .hint("copy or download it again")
}

/// What a reader said, without what it quotes of the file's bytes.
fn readable(said: &str) -> &str {
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if said.chars().all(plain) { said } else { "what should be a header isn't one" }
}

/// The tar files that `source` means: a file, a brace pattern or a folder of tars; none if it is neither.
fn shards(source: &str) -> Result<Vec<PathBuf>> {
    if Path::new(source).is_dir() {
        let mut tars: Vec<PathBuf> = std::fs::read_dir(source)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar")))
            .collect();
        tars.sort();
        return Ok(tars);
    }
    let is_tar = Path::new(source).extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"));
    if is_tar && source.contains('{') && !Path::new(source).exists() {
        return Ok(expand(source)?.into_iter().map(PathBuf::from).collect());
    }
    Ok(if is_tar && Path::new(source).is_file() { vec![PathBuf::from(source)] } else { Vec::new() })
}

/// Expands one `{000..012}` or `{a,b}` per level, leftmost first.
fn expand(pattern: &str) -> Result<Vec<String>> {
    let Some((head, rest)) = pattern.split_once('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let wrong = || {
        Error::asked_wrongly(format!("`{pattern}` is no brace pattern"))
            .hint("write it as `shard-{000..012}.tar`, in quotes so that the shell leaves it alone")
    };
    let (inside, tail) = rest.split_once('}').ok_or_else(wrong)?;
    let choices: Vec<String> = match inside.split_once("..") {
        None => inside.split(',').map(str::to_owned).collect(),
        Some((first, last)) => {
            let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
            let (low, high) = (number(first)?, number(last)?);
            if low > high {
                return Err(wrong());
            }
            (low..=high).map(|n| format!("{n:0width$}", width = first.len())).collect()
        }
    };
    let mut all = Vec::new();
    for end in expand(tail)? {
        all.extend(choices.iter().map(|choice| format!("{head}{choice}{end}")));
    }
    all.sort();
    Ok(all)
}

#[derive(Debug)]
struct Tar {
    source: String,
    shards: Shards,
    samples: Vec<Member>,
    names: Vec<String>,
    labels: Vec<Option<u32>>,
    class_names: Vec<String>,
    split: Split,
    medium: Medium,
    rate: u32,
}

impl Tar {
    fn open(source: &str, options: &OpenOptions) -> Result<Self> {
        let paths = shards(source)?;
        if paths.is_empty() {
            return Err(Error::asked_wrongly(format!("there is no tar at `{source}`")).hint(
                "give a .tar file, a pattern like `shard-{000..012}.tar`, or a folder of them",
            ));
        }
        let mut shards = Shards::open(&paths)?;
        let medium = Medium::of_most(&shards.paths).unwrap_or(Medium::Picture);
        let mut tar = Self {
            source: source.to_owned(),
            samples: Vec::new(),
            names: Vec::new(),
            labels: Vec::new(),
            class_names: Vec::new(),
            split: options.split,
            medium,
            rate: options.rate,
            shards: Shards { files: Vec::new(), members: Vec::new(), paths: Vec::new() },
        };
        if webdataset::is_one(&shards, medium) {
            let index = webdataset::arrange(&shards, (options.split, medium), source)?;
            for (member, label) in index.samples {
                tar.samples.push(shards.members[member]);
                tar.names.push(std::mem::take(&mut shards.paths[member]));
                tar.labels.push(label);
            }
            tar.class_names = index.class_names;
        } else {
            tar.arrange_as_folder(&mut shards, options)?;
        }
        shards.members = Vec::new();
        shards.paths = Vec::new();
        tar.shards = shards;
        Ok(tar)
    }

    fn arrange_as_folder(&mut self, shards: &mut Shards, options: &OpenOptions) -> Result<()> {
        let kept: Vec<bool> = shards.paths.iter().map(|path| is_one(path, self.medium)).collect();
        let mut keep = kept.iter().copied();
        shards.paths.retain(|_| keep.next().unwrap_or(false));
        let mut keep = kept.iter().copied();
        shards.members.retain(|_| keep.next().unwrap_or(false));
        let layout = layout::arrange(&shards.paths, options, &self.source)?;
        self.samples = layout.files.iter().map(|file| shards.members[*file]).collect();
        self.names =
            layout.files.iter().map(|file| std::mem::take(&mut shards.paths[*file])).collect();
        self.labels = layout.labels;
        self.class_names = layout.class_names;
        Ok(())
    }
}

/// A file of `medium`, and not the shadow that some systems put beside it (`._NAME.jpg`).
fn is_one(path: &str, medium: Medium) -> bool {
    let hidden = path.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    Medium::of(path) == Some(medium) && !hidden
}

impl Dataset for Tar {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn content(&self) -> Content {
        match self.medium {
            Medium::Picture => Content::Images,
            Medium::Sound => Content::Sounds { rate: self.rate },
        }
    }

    fn read(&self, index: usize, sample: &mut Sample) -> Result<()> {
        BYTES.with_borrow_mut(|bytes| {
            self.shards.read(self.samples[index], bytes)?;
            self.medium.decode(bytes, self.rate, sample)
        })
    }

    fn extent(&self, index: usize) -> Option<u64> {
        (self.medium == Medium::Sound).then(|| self.samples[index].size as u64)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels[index]
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self, index: usize) -> String {
        let tar = self.shards.shard(self.samples[index].shard);
        format!("{}:{}", tar.display(), self.names[index])
    }

    fn split(&self) -> Split {
        self.split
    }

    fn describe(&self) -> String {
        let what = match self.shards.len() {
            1 => "tar".to_owned(),
            n => format!("{n} tars"),
        };
        format!("{what} `{}`: {}", self.source, counted(self, self.medium.noun()))
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
