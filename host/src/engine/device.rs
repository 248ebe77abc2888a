//! Where a network is computed: the processor, or a GPU of a build with the feature `cuda`.

use candle_core::Device;

use crate::{Error, Result};

/// The word of a recipe's `device`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Cpu,
    Cuda(usize),
}

fn named(word: &str) -> Result<Named> {
    let number = match word.split_once(':') {
        None if word == "cpu" => return Ok(Named::Cpu),
        None if word == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    number.map(Named::Cuda).ok_or_else(|| {
        Error::asked_wrongly(format!("there is no device `{word}`"))
            .hint("`device=cpu`, `device=cuda` or, for the second GPU, `device=cuda:1`")
    })
}

/// The device that `word` names: `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// When the word names no device, this build has no CUDA, or the machine lacks that GPU.
pub fn open(word: &str) -> Result<Device> {
    match named(word)? {
        Named::Cpu => Ok(Device::Cpu),
        Named::Cuda(ordinal) => cuda(ordinal),
    }
}

/// What the machine offers to this build besides the processor: names of GPUs, or why there is none.
pub fn found() -> std::result::Result<Vec<String>, String> {
    if cfg!(not(feature = "cuda")) {
        return Err("built without CUDA".to_owned());
    }
    gpus()
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    let gpus = gpus().map_err(|why| {
        Error::asked_wrongly(format!("no device `cuda:{ordinal}`: {why}"))
            .hint("`pretext doctor` shows what is found; train with `device=cpu` meanwhile")
    })?;
    if ordinal >= gpus.len() {
        let known = format!("`device=cuda:N` with N below {}", gpus.len());
        return Err(Error::asked_wrongly(format!("there is no GPU {ordinal}")).hint(known));
    }
    let device = Device::new_cuda(ordinal)?;
    super::cuda::owned_here(&device);
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    Err(Error::asked_wrongly(format!("this build can't compute on `cuda:{ordinal}`"))
        .hint("build with `cargo build --release --workspace --features pretext/cuda`, or train with `device=cpu`"))
}

#[cfg(feature = "cuda")]
fn gpus() -> std::result::Result<Vec<String>, String> {
    use candle_core::cuda_backend::cudarc::driver::result::{self, device};
    // A program of this build is linked to the driver and doesn't start without it. None of these calls makes a
    // context: that takes memory of a GPU, and one that is busy would refuse it.
    let said = |error: result::DriverError| error.to_string();
    result::init().map_err(said)?;
    let count = device::get_count().map_err(said)?;
    if count == 0 {
        return Err("the driver sees no GPU".to_owned());
    }
    (0..count).map(|n| device::get(n).and_then(device::get_name).map_err(said)).collect()
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> std::result::Result<Vec<String>, String> {
    Err("built without CUDA".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_cpu_or_cuda_with_a_number() {
        assert_eq!(named("cpu").unwrap(), Named::Cpu);
        assert_eq!(named("cuda").unwrap(), Named::Cuda(0));
        assert_eq!(named("cuda:3").unwrap(), Named::Cuda(3));
        for wrong in ["gpu", "cpu:1", "cuda:", "cuda:x", ""] {
            let error = named(wrong).unwrap_err();
            assert!(error.to_string().contains(&format!("`{wrong}`")));
            assert!(error.hint_text().is_some_and(|hint| hint.contains("device=cuda")));
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_a_hint() {
        let Err(error) = open("cuda:99") else { panic!("99 GPUs") };
        assert!(error.hint_text().is_some_and(|hint| hint.contains("device=")), "{error}");
    }
}
