//! The kernels on the processor, for tests: `emulator.h` in front of the `.cu` files, made by a C++ compiler
//! when a test first needs it.

use std::cell::Cell;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::launch::{Launch, Word};
use crate::{Error, Result};

/// How a message begins that tells of an error in a kernel, and not of what the machine lacks.
pub(crate) const BROKEN: &str = "the kernels don't compile";

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's tensors on the CPU go through the kernels.
pub(super) fn on() -> bool {
    ON.get()
}

/// Runs `body` with this thread's tensors on the CPU going through the kernels.
///
/// # Errors
/// When no C++ compiler makes them; the message says why.
pub(crate) fn emulate<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    library().as_ref().map_err(Clone::clone)?;
    ON.set(true);
    let made = body();
    ON.set(false);
    Ok(made)
}

fn library() -> &'static std::result::Result<Library, String> {
    static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = build(folder.path())?;
        // SAFETY: the library is made of this folder's sources, which do nothing when loaded.
        unsafe { Library::new(path) }.map_err(|error| error.to_string())
    })
}

/// Compiles every file, with an entry for each of its kernels.
fn build(folder: &Path) -> std::result::Result<PathBuf, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/cuda");
    let mut text = vec!["#include \"emulator.h\"".to_owned()];
    let mut entries = Vec::new();
    for path in files(&sources).map_err(|error| error.to_string())? {
        text.push(format!("#include \"{}\"", path.display()));
        let source = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        entries.extend(kernels(&source).iter().map(|kernel| format!("EMULATED({kernel})")));
    }
    text.extend(entries);
    text.push(String::new());
    let (source, library) = (folder.join("kernels.cc"), folder.join("kernels.so"));
    std::fs::write(&source, text.join("\n")).map_err(|error| error.to_string())?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let run = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-I"])
        .arg(&sources)
        .arg("-o")
        .args([&library, &source])
        .output()
        .map_err(|error| format!("no C++ compiler `{compiler}`: {error}"))?;
    if !run.status.success() {
        return Err(format!("{BROKEN}: {}", String::from_utf8_lossy(&run.stderr)));
    }
    Ok(library)
}

/// The `.cu` files of a folder, by name.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    paths.sort();
    Ok(paths)
}

/// The names of the kernels in `source`, those made by a macro with its arguments put in.
fn kernels(source: &str) -> Vec<String> {
    let declared = source.split("__global__ void ").skip(1);
    let names = declared.map(|rest| rest.split('(').next().unwrap_or("").trim().to_owned());
    names
        .flat_map(|name| match name.strip_suffix("##DP") {
            None => vec![name],
            Some(stem) => ["32", "64", "128"].map(|dim| format!("{stem}{dim}")).to_vec(),
        })
        .collect()
}

/// A kernel's entry: grid, threads of a block, bytes of shared memory, addresses of arguments.
type Entry = unsafe extern "C" fn(*const u32, u32, u32, *mut *mut c_void);

/// Runs a launch, one at a time: the emulator's threads and its shared memory are global.
pub(super) fn run(launch: Launch, words: &[Word<'_>]) -> Result<()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let library = library().as_ref().map_err(|why| Error::failed(why.clone()))?;
    let name = format!("{}_emulated", launch.kernel);
    // SAFETY: every entry has this type; the macro in `emulator.h` makes it.
    let entry = unsafe { library.get::<Entry>(name.as_str()) }
        .map_err(|error| Error::failed(format!("no kernel `{}`", launch.kernel)).because(error))?;
    let mut addresses: Vec<*mut c_void> = words
        .iter()
        .map(|word| match word {
            Word::Bits(bits) => std::ptr::from_ref(bits).cast_mut().cast(),
            Word::Table(table) => std::ptr::from_ref(*table).cast_mut().cast(),
            Word::Windows(windows) => std::ptr::from_ref(*windows).cast_mut().cast(),
        })
        .collect();
    let grid = [launch.grid[0] as u32, launch.grid[1] as u32, 1];
    let (threads, shared) = (launch.threads as u32, launch.shared as u32);
    // SAFETY: the entry reads three sizes and one address per argument of its kernel, and the kernel what they
    // point to: tensors that the caller of the launch borrows.
    unsafe { entry(grid.as_ptr(), threads, shared, addresses.as_mut_ptr()) };
    drop(alone);
    Ok(())
}
