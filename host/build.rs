//! With the feature `cuda`: makes PTX of the kernels in `src/engine/cuda` with nvcc. Without it: nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let sources = Path::new("src/engine/cuda");
    println!("cargo::rerun-if-changed={}", sources.display());
    for name in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "NVCC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // PTX of an older GPU runs on a newer one; bf16 needs 8.0.
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    for path in kernels(sources) {
        let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = Command::new(nvcc())
            .args(["--ptx", "-O3", "-std=c++17", "-arch"])
            .arg(format!("compute_{capability}"))
            .arg("-o")
            .arg(out.join(format!("{file}.ptx")))
            .arg(&path)
            .status();
        match run {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("nvcc could not compile `{file}.cu`: {status}"),
            Err(error) => panic!(
                "the feature `cuda` needs CUDA's compiler: {error}; put `nvcc` on the PATH, or say where \
                 the toolkit is with CUDA_HOME"
            ),
        }
    }
}

/// The `.cu` files of a folder.
fn kernels(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the kernels lie beside the build script");
    let paths = entries.map(|entry| entry.expect("a folder that can be read").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "cu")).collect()
}

fn nvcc() -> PathBuf {
    if let Some(path) = env::var_os("NVCC") {
        return path.into();
    }
    let named = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    named.filter(|path| path.exists()).unwrap_or_else(|| "nvcc".into())
}
