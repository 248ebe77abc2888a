//! Ctrl-C: the first asks the run to stop with a checkpoint, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::words::tell;
use crate::{Error, Result};

/// A flag that the first Ctrl-C (or a request to terminate) sets.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            leave();
        }
        tell("\nstopping after this step with a checkpoint; press Ctrl-C again to leave at once");
    })
    .map_err(|error| Error::failed("can't watch for Ctrl-C").because(error))?;
    Ok(stop)
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the second Ctrl-C is for a main thread that no longer answers"
)]
fn leave() {
    std::process::exit(130)
}
