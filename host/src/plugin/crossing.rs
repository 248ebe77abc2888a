//! One call of a plugin into the host: its guard, and what the plugin lends for its length.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pretext_plugin_api::abi;
use pretext_plugin_api::abi::value::{Handle, Status, Text, Value, status, tag};

use super::session::{Context, Setting};
use crate::error::Class;
use crate::{Error, Result};

/// Why a call of the plugin failed: its status, and the words.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) error: Error,
}

impl Refusal {
    /// A handle that names nothing, or something of another kind.
    pub(super) fn handle(error: Error) -> Self {
        Self { status: status::INVALID_HANDLE, error }
    }

    /// Something that this host does not offer.
    pub(super) fn unsupported(error: Error) -> Self {
        Self { status: status::UNSUPPORTED, error }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.class() {
            Class::AskedWrongly => status::ASKED_WRONGLY,
            Class::Interrupted => status::CANCELLED,
            Class::Failed | Class::Diverged => status::FAILED,
        };
        Self { status, error }
    }
}

/// Runs `body` on the context unless an earlier call of this callback failed.
pub(super) fn guard(
    context: *mut abi::Context,
    body: impl FnOnce(&mut Context) -> Result<(), Refusal>,
) -> Status {
    enter(context, |context| match &context.error {
        Some(_) => status::STICKY,
        None => run(context, body),
    })
}

/// The same, after a failure too: for what gives back.
pub(super) fn guard_always(
    context: *mut abi::Context,
    body: impl FnOnce(&mut Context) -> Result<(), Refusal>,
) -> Status {
    enter(context, |context| run(context, body))
}

/// Runs `body` and keeps its error, if it is the first of this callback.
fn run(context: &mut Context, body: impl FnOnce(&mut Context) -> Result<(), Refusal>) -> Status {
    match body(context) {
        Ok(()) => status::OK,
        Err(_) if context.error.is_some() => status::STICKY,
        Err(Refusal { status, error }) => {
            context.error = Some(error);
            status
        }
    }
}

fn enter(context: *mut abi::Context, body: impl FnOnce(&mut Context) -> Status) -> Status {
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the plugin passes on the pointer that `Session` gave it, on the same thread.
        let Some(cell) = (unsafe { context.cast::<RefCell<Context>>().as_ref() }) else {
            return status::INVALID_HANDLE;
        };
        let Ok(mut context) = cell.try_borrow_mut() else { return status::FAILED };
        body(&mut context)
    }));
    result.unwrap_or_else(|panic| {
        // SAFETY: as above; the borrow of the panicked call is over.
        if let Some(cell) = unsafe { context.cast::<RefCell<Context>>().as_ref() }
            && let Ok(mut context) = cell.try_borrow_mut()
        {
            context.error.get_or_insert_with(|| bug(panic.as_ref()));
        }
        status::PANIC
    })
}

/// A panic of the host, within a call that the method made.
fn bug(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::failed("the host panicked in a call of the method")
        .because(said.unwrap_or("no message"))
        .hint("this is a bug in pretext: run it again with `RUST_BACKTRACE=1` and report what it says")
}

/// The text, copied.
pub(super) fn text(text: Text) -> Result<String> {
    // SAFETY: the plugin lends its texts for the length of the call.
    let text = unsafe { text.as_str() };
    text.map(str::to_owned).ok_or_else(|| Error::failed("a text is not valid UTF-8"))
}

/// The elements of a lent list.
///
/// # Safety
/// `pointer` must point at `len` elements that stay valid for `'a`, unless `len` is 0.
pub(super) unsafe fn list<'a, T>(pointer: *const T, len: u64) -> Result<&'a [T]> {
    match (len, pointer.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(Error::failed("a list is null")),
        // SAFETY: the caller promises the elements.
        (len, false) => Ok(unsafe { std::slice::from_raw_parts(pointer, len as usize) }),
    }
}

/// Writes `value` to a lent place.
pub(super) fn put<T>(place: *mut T, value: T) -> Result<()> {
    if place.is_null() {
        return Err(Error::failed("a place for a result is null"));
    }
    // SAFETY: the plugin lends a place for the length of the call, and it is not null.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes 0 to lent places for handles: what a call that fails leaves there.
pub(super) fn clear(places: *mut Handle, n: u64) {
    for i in 0..n as usize {
        let place = places.wrapping_add(i);
        if !places.is_null() {
            // SAFETY: the plugin lends `n` places for the length of the call, and they are not null.
            unsafe { place.write(0) };
        }
    }
}

/// The settings, copied.
pub(super) fn settings(pointer: *const abi::Setting, len: u64) -> Result<Vec<(String, Setting)>> {
    // SAFETY: the plugin lends the list for the length of the call.
    let settings = unsafe { list(pointer, len) }?;
    settings.iter().map(|setting| Ok((text(setting.key)?, copied(&setting.value)?))).collect()
}

pub(super) fn copied(value: &Value) -> Result<Setting> {
    let setting = match value.tag {
        tag::INT => value.as_int().map(Setting::Int),
        tag::FLOAT => value.as_float().map(Setting::Float),
        tag::HANDLE => value.as_handle().map(Setting::Handle),
        // SAFETY: the plugin lends the text for the length of the call.
        tag::TEXT => unsafe { value.as_text() }.map(|text| Setting::Text(text.to_owned())),
        // SAFETY: the plugin lends the list for the length of the call.
        tag::INTS => unsafe { value.as_ints() }.map(|ints| Setting::Ints(ints.to_vec())),
        // SAFETY: the plugin lends the list for the length of the call.
        tag::FLOATS => unsafe { value.as_floats() }.map(|floats| Setting::Floats(floats.to_vec())),
        _ => None,
    };
    setting
        .ok_or_else(|| Error::failed(format!("a value with tag {} is not understood", value.tag)))
}
