//! The functions that a plugin offers: its methods, and the root module through which they are found.
//!
//! Life of an instance: `create`, `stages`, `plan`, `build`, `step`..., `destroy`; never two calls at a time.
#![expect(
    clippy::expl_impl_clone_on_copy,
    clippy::cast_ptr_alignment,
    reason = "`StableAbi` writes it for its references"
)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;

use super::host::HostTableRef;
use super::value::{Handle, Status, Text};
use super::{Context, Instance};

/// One method's table. A minor version appends slots.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = MethodTableRef)))]
#[sabi(missing_field(panic))]
pub struct MethodTable {
    /// The method's name; valid for the life of the process.
    pub name: extern "C" fn() -> Text,
    /// Makes an instance. The table and the context stay valid until `destroy`.
    pub create: unsafe extern "C" fn(HostTableRef, *mut Context, *mut *mut Instance) -> Status,
    /// Declares the views that the method wants; runs before data is opened.
    pub plan: unsafe extern "C" fn(*mut Instance) -> Status,
    /// Declares modules, parameters, buffers, teachers, schedules.
    pub build: unsafe extern "C" fn(*mut Instance) -> Status,
    /// Computes the loss of the present batch: a tensor of one element.
    pub step: unsafe extern "C" fn(*mut Instance, *mut Handle) -> Status,
    /// Ends the instance; legal after any failure.
    #[sabi(last_prefix_field)]
    pub destroy: unsafe extern "C" fn(*mut Instance) -> Status,
    /// 1.1: declares the stages and trainings of the run; runs after `create`, before `plan`.
    #[sabi(missing_field(option))]
    pub stages: unsafe extern "C" fn(*mut Instance) -> Status,
}

/// The root module of a plugin library.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// How many methods the library holds.
    pub count: extern "C" fn() -> u64,
    /// The table of a method, by its place in the order of names.
    #[sabi(last_prefix_field)]
    pub method: extern "C" fn(u64) -> MethodTableRef,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "pretext_plugin";
    const NAME: &'static str = "pretext plugin";
    // The contract's, not the package's, which says nothing of what crosses. The host compares what the
    // metadata say, and then the layouts.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.1.0");
}

const _: () = assert!(super::MAJOR == 1, "`VERSION_STRINGS` has the contract's major version");
