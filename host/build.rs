//! With the feature `cuda`: makes PTX of the kernels in `src/engine/cuda` with nvcc. Without it: nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of kernels, without `.cu`.
const FILES: [&str; 9] = [
    "norm",
    "activation",
    "row",
    "loss",
    "update",
    "attention",
    "attention_bf16",
    "window",
    "batch_norm",
];

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
    for file in FILES {
        let run = Command::new(nvcc())
            .args(["--ptx", "-O3", "-std=c++17", "-arch"])
            .arg(format!("compute_{capability}"))
            .arg("-o")
            .arg(out.join(format!("{file}.ptx")))
            .arg(sources.join(format!("{file}.cu")))
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

fn nvcc() -> PathBuf {
    if let Some(path) = env::var_os("NVCC") {
        return path.into();
    }
    let named = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    named.filter(|path| path.exists()).unwrap_or_else(|| "nvcc".into())
}
