//! Calls into the host's table: the only place where an author's code leaves Rust.
//!
//! The host that a callback belongs to is kept per thread while the callback runs, so that a tensor is
//! a mere number and its operations need no further argument.

use std::cell::Cell;

use super::value::{Handle, Setting, Status, Text, Value, status, tag};
use super::{Context, HostTableRef};
use crate::error::{Error, Result};

/// The host behind the callback that runs on this thread.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    table: HostTableRef,
    context: *mut Context,
}

thread_local! {
    static CURRENT: Cell<Option<Host>> = const { Cell::new(None) };
}

impl Host {
    pub(crate) fn new(table: HostTableRef, context: *mut Context) -> Self {
        Self { table, context }
    }

    /// Runs `body` with this host as the current one.
    pub(crate) fn enter<T>(self, body: impl FnOnce() -> T) -> T {
        struct Leave(Option<Host>);
        impl Drop for Leave {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let leave = Leave(CURRENT.replace(Some(self)));
        let result = body();
        drop(leave);
        result
    }
}

/// Whether this thread is within a callback of a method.
pub(crate) fn within_callback() -> bool {
    CURRENT.get().is_some()
}

/// The current host.
fn host() -> Result<Host> {
    CURRENT.get().ok_or_else(|| {
        Error::failed("a tensor or handle was used outside of the method's callbacks")
            .hint("use them in `plan`, `build` and `step` only, on the thread that called")
    })
}

fn check(status: Status) -> Result<()> {
    if status == status::OK { Ok(()) } else { Err(Error::of_host(status)) }
}

/// Reports `error` to the host; the first report of a callback stands.
pub(crate) fn set_error(error: &Error) {
    if let (Ok(host), false) = (host(), error.message.is_empty()) {
        let (message, hint) = (Text::new(&error.message), Text::new(&error.hint));
        let set = host.table.set_error();
        // SAFETY: the context is the current callback's; both texts outlive the call.
        let _ = unsafe { set(host.context, error.status, message, hint) };
    }
}

pub(crate) fn log(level: u32, message: &str) {
    if let Ok(host) = host() {
        let log = host.table.log();
        // SAFETY: the context is the current callback's; the text outlives the call.
        let _ = unsafe { log(host.context, level, Text::new(message)) };
    }
}

pub(crate) fn metric(name: &str, tensor: Handle) -> Result<()> {
    let host = host()?;
    let metric = host.table.metric();
    // SAFETY: the context is the current callback's; the text outlives the call.
    check(unsafe { metric(host.context, Text::new(name), tensor) })
}

/// What an option or a fact holds, copied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    None,
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
}

fn held(value: &Value) -> Held {
    match value.tag {
        tag::INT => value.as_int().map_or(Held::None, Held::Int),
        tag::FLOAT => value.as_float().map_or(Held::None, Held::Float),
        // SAFETY: the host keeps the text until the next call; it is copied here.
        tag::TEXT => unsafe { value.as_text() }.map_or(Held::None, |text| Held::Text(text.into())),
        // SAFETY: the host keeps the list until the next call; it is copied here.
        tag::INTS => unsafe { value.as_ints() }.map_or(Held::None, |ints| Held::Ints(ints.into())),
        _ => Held::None,
    }
}

pub(crate) fn option(name: &str) -> Result<Held> {
    let host = host()?;
    let mut value = Value::NONE;
    let get = host.table.option();
    // SAFETY: the context is the current callback's; `value` is a place to write to.
    check(unsafe { get(host.context, Text::new(name), &raw mut value) })?;
    Ok(held(&value))
}

pub(crate) fn fact(of: Handle, name: &str) -> Result<Held> {
    let host = host()?;
    let mut value = Value::NONE;
    let get = host.table.fact();
    // SAFETY: the context is the current callback's; `value` is a place to write to.
    check(unsafe { get(host.context, of, Text::new(name), &raw mut value) })?;
    Ok(held(&value))
}

pub(crate) fn op_find(name: &str, revision: u32) -> Result<u32> {
    let host = host()?;
    let mut op = 0;
    let find = host.table.op_find();
    // SAFETY: the context is the current callback's; `op` is a place to write to.
    check(unsafe { find(host.context, Text::new(name), revision, &raw mut op) })?;
    Ok(op)
}

/// Calls op number `op`; fills `results` or, after a failure, leaves 0 in them.
pub(crate) fn op_call(op: u32, arguments: &[Value], results: &mut [Handle]) {
    let Ok(host) = host() else { return };
    let call = host.table.op_call();
    // A failure stays in the host's context: it comes out at the end of the callback.
    // SAFETY: the context is the current callback's; both slices outlive the call.
    let _ = unsafe {
        call(
            host.context,
            op,
            arguments.as_ptr(),
            arguments.len() as u64,
            results.as_mut_ptr(),
            results.len() as u64,
        )
    };
}

pub(crate) fn tensor_from(shape: &[usize], elements: &[f32]) -> Handle {
    let Ok(host) = host() else { return 0 };
    let sizes: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
    let mut tensor = 0;
    let make = host.table.tensor_from();
    // SAFETY: the context is the current callback's; both slices outlive the call.
    let _ = unsafe {
        make(
            host.context,
            sizes.as_ptr(),
            sizes.len() as u64,
            elements.as_ptr(),
            elements.len() as u64,
            &raw mut tensor,
        )
    };
    tensor
}

pub(crate) fn tensor_read(tensor: Handle, elements: &mut [f64]) -> Result<()> {
    let host = host()?;
    let read = host.table.tensor_read();
    // SAFETY: the context is the current callback's; the slice is a place to write to.
    check(unsafe { read(host.context, tensor, elements.as_mut_ptr(), elements.len() as u64) })
}

pub(crate) fn retain(tensor: Handle) -> Result<Handle> {
    let host = host()?;
    let mut kept = 0;
    let retain = host.table.retain();
    // SAFETY: the context is the current callback's; `kept` is a place to write to.
    check(unsafe { retain(host.context, tensor, &raw mut kept) })?;
    Ok(kept)
}

pub(crate) fn release(tensor: Handle) {
    if let Ok(host) = host() {
        let release = host.table.release();
        // SAFETY: the context is the current callback's.
        let _ = unsafe { release(host.context, tensor) };
    }
}

pub(crate) fn no_grad(on: bool) {
    if let Ok(host) = host() {
        let no_grad = host.table.no_grad();
        // SAFETY: the context is the current callback's.
        let _ = unsafe { no_grad(host.context, u32::from(on)) };
    }
}

pub(crate) fn declare(kind: &str, name: &str, settings: &[(&str, Value)]) -> Result<Handle> {
    let host = host()?;
    let settings: Vec<Setting> = settings
        .iter()
        .map(|(key, value)| Setting { key: Text::new(key), value: *value })
        .collect();
    let mut handle = 0;
    let declare = host.table.declare();
    // SAFETY: the context is the current callback's; every text and list outlives the call.
    check(unsafe {
        declare(
            host.context,
            Text::new(kind),
            Text::new(name),
            settings.as_ptr(),
            settings.len() as u64,
            &raw mut handle,
        )
    })?;
    Ok(handle)
}

pub(crate) fn module_call(
    module: Handle,
    inputs: &[(&str, Value)],
    outputs: &[&str],
    results: &mut [Handle],
) {
    let Ok(host) = host() else { return };
    let inputs: Vec<Setting> =
        inputs.iter().map(|(key, value)| Setting { key: Text::new(key), value: *value }).collect();
    let outputs: Vec<Text> = outputs.iter().map(|name| Text::new(name)).collect();
    assert_eq!(outputs.len(), results.len(), "one result per output");
    let call = host.table.module_call();
    // A failure stays in the host's context: it comes out at the end of the callback.
    // SAFETY: the context is the current callback's; every slice outlives the call.
    let _ = unsafe {
        call(
            host.context,
            module,
            inputs.as_ptr(),
            inputs.len() as u64,
            outputs.as_ptr(),
            outputs.len() as u64,
            results.as_mut_ptr(),
        )
    };
}

pub(crate) fn teacher_of(teacher: Handle, of: Handle) -> Result<Handle> {
    let host = host()?;
    let mut copy = 0;
    let find = host.table.teacher_of();
    // SAFETY: the context is the current callback's; `copy` is a place to write to.
    check(unsafe { find(host.context, teacher, of, &raw mut copy) })?;
    Ok(copy)
}

pub(crate) fn buffer_set(buffer: Handle, value: Handle) -> Result<()> {
    let host = host()?;
    let set = host.table.buffer_set();
    // SAFETY: the context is the current callback's.
    check(unsafe { set(host.context, buffer, value) })
}

pub(crate) fn view(view: Handle, index: u64, field: &str) -> Handle {
    let Ok(host) = host() else { return 0 };
    let mut tensor = 0;
    let get = host.table.view();
    // SAFETY: the context is the current callback's; `tensor` is a place to write to.
    let _ = unsafe { get(host.context, view, index, Text::new(field), &raw mut tensor) };
    tensor
}

pub(crate) fn random(stream: Handle, numbers: &mut [u64]) -> Result<()> {
    let host = host()?;
    let random = host.table.random();
    // SAFETY: the context is the current callback's; the slice is a place to write to.
    check(unsafe { random(host.context, stream, numbers.as_mut_ptr(), numbers.len() as u64) })
}

pub(crate) fn cancelled() -> bool {
    host().is_ok_and(|host| {
        let cancelled = host.table.cancelled();
        // SAFETY: the context is the current callback's.
        unsafe { cancelled(host.context) == status::CANCELLED }
    })
}
