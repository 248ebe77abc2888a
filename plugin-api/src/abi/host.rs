//! The functions that the host offers. All are `[step-thread]`: a method calls them from within its own
//! callbacks only, on the thread that it was called on.
//!
//! A call that fails leaves handle 0 where it should have written one. After the first failure within a
//! callback the context is sticky: every later call but `error` and `release` does nothing and returns
//! [`status::STICKY`](super::value::status::STICKY).
#![expect(clippy::expl_impl_clone_on_copy, reason = "`StableAbi` writes it for its references")]

use abi_stable::StableAbi;

use super::value::{Handle, Setting, Status, Text, Value};
use super::{Context, Instance};

/// The host's table. A minor version appends slots.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef)))]
#[sabi(missing_field(panic))]
pub struct HostTable {
    /// Reports a failure of the method, with a hint; the first report of a callback stands.
    pub set_error: unsafe extern "C" fn(*mut Context, Status, Text, Text) -> Status,
    /// Gives the first error of this callback, or an empty text: it stays valid until the next call of
    /// `error`, or the callback's end.
    pub error: unsafe extern "C" fn(*mut Context, *mut Text) -> Status,
    /// Writes a line to the run's log: level 0 says something, 1 warns.
    pub log: unsafe extern "C" fn(*mut Context, u32, Text) -> Status,
    /// Records a figure of this step by the handle of a tensor with one element.
    pub metric: unsafe extern "C" fn(*mut Context, Text, Handle) -> Status,
    /// Gives an option's resolved value; texts stay valid until `destroy`.
    pub option: unsafe extern "C" fn(*mut Context, Text, *mut Value) -> Status,
    /// Finds an op by name and revision; the number holds as long as the process.
    pub op_find: unsafe extern "C" fn(*mut Context, Text, u32, *mut u32) -> Status,
    /// Calls an op: arguments and their number, room for results and its size.
    pub op_call:
        unsafe extern "C" fn(*mut Context, u32, *const Value, u64, *mut Handle, u64) -> Status,
    /// Makes an f32 tensor from elements in row-major order: sizes, rank, elements, their number.
    pub tensor_from:
        unsafe extern "C" fn(*mut Context, *const u64, u64, *const f32, u64, *mut Handle) -> Status,
    /// Reads a tensor as f64 in row-major order; this waits for the device and is counted.
    pub tensor_read: unsafe extern "C" fn(*mut Context, Handle, *mut f64, u64) -> Status,
    /// Keeps a tensor beyond this callback, without its gradient; gives a new handle.
    pub retain: unsafe extern "C" fn(*mut Context, Handle, *mut Handle) -> Status,
    /// Gives a kept tensor back; works after a failure too.
    pub release: unsafe extern "C" fn(*mut Context, Handle) -> Status,
    /// Stops recording gradients (1) or goes on (0); calls nest.
    pub no_grad: unsafe extern "C" fn(*mut Context, u32) -> Status,
    /// Declares a thing by kind and revision (`stage@1` and `training@1` in `stages`, since 1.1; `view@1` in
    /// `plan`; `module@1`, `parameter@1`, `buffer@1`,
    /// `teacher@1`, `schedule@1`, `stream@1` in `build`) under a name, with settings.
    pub declare:
        unsafe extern "C" fn(*mut Context, Text, Text, *const Setting, u64, *mut Handle) -> Status,
    /// Gives a fact about a thing (handle 0: about the step and the run); lists stay valid until the
    /// next call.
    pub fact: unsafe extern "C" fn(*mut Context, Handle, Text, *mut Value) -> Status,
    /// Runs a module: named inputs, their number, names of the outputs wanted, room for as many.
    pub module_call: unsafe extern "C" fn(
        *mut Context,
        Handle,
        *const Setting,
        u64,
        *const Text,
        u64,
        *mut Handle,
    ) -> Status,
    /// Gives the teacher's copy of a module or parameter that the teacher was declared with.
    pub teacher_of: unsafe extern "C" fn(*mut Context, Handle, Handle, *mut Handle) -> Status,
    /// Sets a buffer's next value; it holds from the next batch on, if the step is accepted.
    pub buffer_set: unsafe extern "C" fn(*mut Context, Handle, Handle) -> Status,
    /// Gives a field of the `index`-th copy of a view of this step.
    pub view: unsafe extern "C" fn(*mut Context, Handle, u64, Text, *mut Handle) -> Status,
    /// Draws the next 64-bit numbers of a stream, which starts anew with every batch.
    pub random: unsafe extern "C" fn(*mut Context, Handle, *mut u64, u64) -> Status,
    /// Says whether the run is being stopped: `CANCELLED`, or 0.
    pub cancelled: unsafe extern "C" fn(*mut Context) -> Status,
    /// Gives the table of an optional ability by its id, or null.
    #[sabi(last_prefix_field)]
    pub extension: unsafe extern "C" fn(*mut Context, Text, *mut *const Instance) -> Status,
}
