//! Runs a kernel with the widest vector instructions that the machine has.

use std::sync::OnceLock;

/// The vector instructions that kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 and its bf16 dot product.
    Avx512Bf16,
}

/// The widest level of this machine, found once.
#[cfg(target_arch = "x86_64")]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let found = match (avx2, avx512) {
            (_, true) if is_x86_feature_detected!("avx512bf16") => Level::Avx512Bf16,
            (_, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            (false, false) => Level::Portable,
        };
        #[cfg(test)]
        let found = found.min(highest());
        found
    })
}

/// The highest level that tests may use: that of `PRETEXT_TEST_LEVEL`, so that one machine can test the kernels of
/// lesser ones.
#[cfg(all(test, target_arch = "x86_64"))]
fn highest() -> Level {
    match std::env::var("PRETEXT_TEST_LEVEL").as_deref() {
        Ok("portable") => Level::Portable,
        Ok("avx2") => Level::Avx2,
        Ok("avx512") => Level::Avx512,
        Ok(other) => panic!("PRETEXT_TEST_LEVEL is `{other}`: portable, avx2 and avx512 are known"),
        Err(_) => Level::Avx512Bf16,
    }
}

/// The widest level of this machine.
#[cfg(not(target_arch = "x86_64"))]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| Level::Portable)
}

/// A piece of work that is compiled once per level.
///
/// `run` and all it calls are `#[inline(always)]`; plain loops in it are vectorised by the compiler.
/// `FMA` says whether a fused multiply-add is one instruction (or a slow call).
pub(super) trait Kernel {
    /// What it gives back.
    type Output;

    /// Does the work.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs `kernel` at the machine's level.
#[inline]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: `level` found every feature that `run_avx512` enables.
        Level::Avx512 | Level::Avx512Bf16 => return unsafe { run_avx512(kernel) },
        // SAFETY: `level` found every feature that `run_avx2` enables.
        Level::Avx2 => return unsafe { run_avx2(kernel) },
        Level::Portable => {}
    }
    kernel.run::<false>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<true>()
}
