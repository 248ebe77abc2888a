//! The `pretext` command.

use std::process::ExitCode;

/// A training step frees and takes large blocks; this allocator keeps them, see `cli/alloc.rs`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pretext::cli::main(std::env::args_os())
}
