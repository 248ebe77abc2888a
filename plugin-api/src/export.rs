//! The one door: what [`export_methods!`](crate::export_methods) puts into a library. Panics stop here.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Once;

pub use abi_stable::library::{__call_root_module_loader, LibHeader, RootModuleResult};
use abi_stable::library::{CheckTypeLayout, RootModule};
use abi_stable::prefix_type::PrefixTypeTrait;
pub use inventory;

use crate::abi::call::{self, Host};
use crate::abi::value::{Handle, Status, Text, status};
use crate::abi::{
    Context, HostTableRef, Instance, MethodTable, MethodTableRef, PluginModule, PluginModuleRef,
};
use crate::build::Builder;
use crate::error::{Error, Result};
use crate::method::Method;
use crate::option::Options;
use crate::stage::StagePlan;
use crate::step::Step;
use crate::view::{View, ViewPlan, Views};

/// A method of this library, as `inventory` collects it.
#[derive(Clone, Copy)]
pub struct Registered {
    name: &'static str,
    table: fn() -> MethodTableRef,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registered({})", self.name)
    }
}

inventory::collect!(Registered);

impl Registered {
    /// The method `M`.
    pub const fn of<M: Method>() -> Self {
        Self { name: M::DESCRIPTOR.name, table: table::<M> }
    }
}

/// What an instance handle points at.
struct Boxed<M> {
    host: Host,
    views: BTreeMap<String, View>,
    method: Option<M>,
}

fn table<M: Method>() -> MethodTableRef {
    MethodTable {
        name: name::<M>,
        create: create::<M>,
        plan: plan::<M>,
        build: build::<M>,
        step: step::<M>,
        destroy: destroy::<M>,
        stages: stages::<M>,
    }
    .leak_into_prefix()
}

extern "C" fn name<M: Method>() -> Text {
    Text::new(M::DESCRIPTOR.name)
}

unsafe extern "C" fn create<M: Method>(
    table: HostTableRef,
    context: *mut Context,
    out: *mut *mut Instance,
) -> Status {
    let host = Host::new(table, context);
    guarded(host, || {
        let boxed = Box::new(Boxed::<M> { host, views: BTreeMap::new(), method: None });
        // SAFETY: the host gives a place to write to.
        unsafe { out.write(Box::into_raw(boxed).cast()) };
        Ok(())
    })
}

/// Runs `body` on the instance that `create` made.
///
/// # Safety
/// `instance` must come from `create::<M>`, not be destroyed yet, and be in no other call.
unsafe fn with<M: Method>(
    instance: *mut Instance,
    body: impl FnOnce(&mut Boxed<M>) -> Result<()>,
) -> Status {
    // SAFETY: the caller promises that `create::<M>` made it and that nobody else uses it.
    let Some(boxed) = (unsafe { instance.cast::<Boxed<M>>().as_mut() }) else {
        return status::INVALID_HANDLE;
    };
    guarded(boxed.host, || body(boxed))
}

unsafe extern "C" fn stages<M: Method>(instance: *mut Instance) -> Status {
    // SAFETY: the host calls with what `create` gave, one call at a time.
    unsafe { with::<M>(instance, |_| M::stages(Options(()), &mut StagePlan(()))) }
}

unsafe extern "C" fn plan<M: Method>(instance: *mut Instance) -> Status {
    // SAFETY: the host calls with what `create` gave, one call at a time.
    unsafe {
        with::<M>(instance, |boxed| {
            let mut plan = ViewPlan::default();
            M::plan(Options(()), &mut plan)?;
            boxed.views = plan.views;
            Ok(())
        })
    }
}

unsafe extern "C" fn build<M: Method>(instance: *mut Instance) -> Status {
    // SAFETY: the host calls with what `create` gave, one call at a time.
    unsafe {
        with::<M>(instance, |boxed| {
            boxed.method = Some(M::build(Options(()), &mut Builder(()))?);
            Ok(())
        })
    }
}

unsafe extern "C" fn step<M: Method>(instance: *mut Instance, out: *mut Handle) -> Status {
    let body = |boxed: &mut Boxed<M>| {
        let Some(method) = &mut boxed.method else {
            return Err(Error::failed("`step` was called before `build`"));
        };
        let loss = method.step(&Views(&boxed.views), &Step(()))?;
        // SAFETY: the host gives a place to write to.
        unsafe { out.write(loss.handle) };
        Ok(())
    };
    // SAFETY: the host calls with what `create` gave, one call at a time.
    unsafe { with::<M>(instance, body) }
}

unsafe extern "C" fn destroy<M: Method>(instance: *mut Instance) -> Status {
    if instance.is_null() {
        return status::INVALID_HANDLE;
    }
    // SAFETY: `create::<M>` made it by `Box::into_raw`, and the host destroys it once.
    let boxed = unsafe { Box::from_raw(instance.cast::<Boxed<M>>()) };
    guarded(boxed.host, || {
        drop(boxed);
        Ok(())
    })
}

/// Runs `body` with `host` as the current one; turns errors and panics into a status and a text.
#[expect(
    clippy::mem_forget,
    reason = "a payload whose own drop panics must not unwind out of here"
)]
fn guarded(host: Host, body: impl FnOnce() -> Result<()>) -> Status {
    host.enter(|| match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => status::OK,
        Ok(Err(error)) => {
            call::set_error(&error);
            error.status
        }
        Err(payload) => {
            let mut error = Error::failed(panic_text(payload.as_ref()));
            error.status = status::PANIC;
            call::set_error(&error);
            std::mem::forget(payload);
            status::PANIC
        }
    })
}

thread_local! {
    /// Where the last panic of a callback on this thread happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a panic said, and where.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    match PLACE.take() {
        Some(place) => format!("{said}, at `{place}`"),
        None => said.to_owned(),
    }
}

/// Keeps the place of a callback's panic for its error instead of printing it: this library has a
/// standard library of its own, so the host's hook never hears of its panics. Those of the author's
/// own threads are printed as usual, and all of them where `RUST_BACKTRACE` is set.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        let loud = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        std::panic::set_hook(Box::new(move |panic| {
            let within = call::within_callback();
            if within {
                PLACE.set(panic.location().map(Location::to_string));
            }
            if loud || !within {
                usual(panic);
            }
        }));
    });
}

/// The methods of this library, ordered by name.
fn registered() -> Vec<&'static Registered> {
    let mut methods: Vec<&Registered> = inventory::iter::<Registered>.into_iter().collect();
    methods.sort_by_key(|method| method.name);
    methods
}

extern "C" fn count() -> u64 {
    registered().len() as u64
}

extern "C" fn method(index: u64) -> MethodTableRef {
    // The host asks below `count` only; a wrong index gets the last one rather than a crash.
    let methods = registered();
    let at = (index as usize).min(methods.len().saturating_sub(1));
    (methods[at].table)()
}

/// The root module; the constructor behind the exported header.
pub fn root_module() -> PluginModuleRef {
    remember_panics();
    PluginModule { count, method }.leak_into_prefix()
}

/// The exported header of a library whose constructor is `constructor`.
pub const fn header(constructor: extern "C" fn() -> RootModuleResult) -> LibHeader {
    const fn assert_root_module<M: RootModule>() {}
    assert_root_module::<PluginModuleRef>();
    // SAFETY: the macro passes a constructor that returns `root_module()`'s reference.
    unsafe { LibHeader::from_constructor::<PluginModuleRef>(constructor, CheckTypeLayout::Yes) }
}

/// Exports methods from a library of crate type `cdylib`: once per library, with every method listed.
///
/// `export_methods!(Dino);` at the root of the crate is all that a library needs.
#[macro_export]
macro_rules! export_methods {
    ($($method:ty),+ $(,)?) => {
        const _: () = {
            const LIBRARY: $crate::metadata::Library = $crate::metadata::Library {
                package: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
            };
            const METHODS: &[$crate::Descriptor] =
                &[$(<$method as $crate::Method>::DESCRIPTOR),+];
            const LENGTH: usize = $crate::metadata::length(LIBRARY, METHODS);

            #[used]
            #[unsafe(link_section = ".pretext.meta")]
            static METADATA: $crate::metadata::Section<LENGTH> =
                $crate::metadata::Section::new(LIBRARY, METHODS);

            $($crate::export::inventory::submit! {
                $crate::export::Registered::of::<$method>()
            })+

            extern "C" fn constructor() -> $crate::export::RootModuleResult {
                // The linker keeps a section that code refers to.
                ::std::hint::black_box(&METADATA);
                $crate::export::__call_root_module_loader($crate::export::root_module)
            }

            // abi_stable looks for its header under this name.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::export::LibHeader = $crate::export::header(constructor);
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_exports_the_header_under_the_name_that_abi_stable_looks_for() {
        let macro_text = include_str!("export.rs");
        let name = abi_stable::library::ROOT_MODULE_LOADER_NAME;
        assert!(macro_text.contains(&format!("export_name = \"{name}\"")), "{name}");
    }
}
