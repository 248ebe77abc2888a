//! The allocator's one setting.

use libmimalloc_sys as mimalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, version 3.
const PURGE_DELAY: mimalloc::mi_option_t = 15;

/// Tells the allocator to keep freed blocks: a training step frees and takes the same gigabytes again,
/// and giving them back to the system in between costs page faults (15 % of a step was measured).
#[expect(unsafe_code, reason = "the allocator's option has no safe door")]
pub(super) fn keep_freed_blocks() {
    // SAFETY: the option exists in the version that Cargo.lock pins, -1 means "never purge", and `main`
    // calls this before it starts a thread, as the function demands.
    unsafe { mimalloc::mi_option_set(PURGE_DELAY, -1) };
}
