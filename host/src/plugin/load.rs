//! Opening a plugin: the layout check, and the table of one of its methods.
//!
//! The plugin's layout stands for what is asked and the host's for what is there, so that a newer host may
//! have more slots than an older plugin knows of. The version of the package `pretext-plugin-api` is not
//! compared: the contract has a version of its own, which the metadata were checked for.

use std::error::Error as _;
use std::fmt::Display;
use std::mem::ManuallyDrop;
use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{AbiInstability, check_layout_compatibility};
use abi_stable::library::{AbiHeaderRef, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::type_layout::TypeLayout;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use pretext_plugin_api::abi::{MethodTableRef, PluginModuleRef};

use crate::{Error, Result};

/// Never unload: threads, thread-locals and the tables of a Rust library must outlive every use.
const RTLD_NODELETE: i32 = 0x1000;

/// Opens the library at `path`, whose metadata was checked, and gives the table of `method`.
///
/// # Errors
/// When the library can't be opened, its tables have another layout, or it lacks the method.
pub fn open(path: &Path, method: &str) -> Result<MethodTableRef> {
    let named = |reason: &str| Error::failed(format!("`{}` {reason}", path.display()));
    let rebuild = "rebuild the plugin against this host's `pretext-plugin-api`";
    // SAFETY: the file holds a Rust `cdylib` with our metadata; its initialisers only register methods.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) }
        .map_err(|error| named("can't be opened").because(said(&error)).hint(rebuild))?;
    let name = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: under this name abi_stable exports a header of this type; `upgrade` checks its magic.
    let header = unsafe { library.get::<AbiHeaderRef>(name) }
        .map_err(|error| named("exports no plugin header").because(said(&error)).hint(rebuild))?;
    let header = *header;
    // The library is never unloaded, so its statics stay.
    let _ = ManuallyDrop::new(library);
    let other = |reason: &dyn Display| {
        named("has another layout than this host").because(reason).hint(rebuild)
    };
    let header = header.upgrade().map_err(|error| other(&error))?;
    let layout = header.layout().ok_or_else(|| other(&"it carries none"))?;
    fits(layout, PluginModuleRef::LAYOUT).map_err(|difference| other(&difference))?;
    // SAFETY: the layouts of the module and of everything reachable from it were compared.
    let module = unsafe { header.unchecked_layout::<PluginModuleRef>() }
        .map_err(|error| named("could not start").because(error).hint(rebuild))?;
    (0..(module.count())())
        .map(|index| (module.method())(index))
        .find(|table| {
            let name = (table.name())();
            // SAFETY: a plugin's name is valid for the life of the process.
            let name = unsafe { name.as_str() };
            name == Some(method)
        })
        .ok_or_else(|| named(&format!("does not hold the method `{method}`")).hint(rebuild))
}

/// What the system's loader said: it stands behind libloading's own words.
fn said(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether a plugin that was compiled against `plugin` finds in `host` what it relies on; else the first
/// difference. A table of the host's may have further fields at its end.
fn fits(plugin: &'static TypeLayout, host: &'static TypeLayout) -> Result<(), String> {
    let Err(found) = check_layout_compatibility(plugin, host) else { return Ok(()) };
    let counts =
        |difference: &&AbiInstability| !matches!(difference, AbiInstability::PackageVersion(_));
    for error in &found.errors {
        if let Some(difference) = error.errs.iter().find(counts) {
            let place = error
                .stack_trace
                .last()
                .map_or_else(|| plugin.name().to_owned(), |place| place.expected.to_string());
            let words = format!("{difference:?}");
            let kind = words.split(['(', ' ', '{']).next().unwrap_or_default();
            return Err(format!("`{place}` differs ({kind})"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A contract with two slots, and what later versions could make of it.
    macro_rules! contract {
        ($(#[$lint:meta])* $name:ident { $($before:ident,)* } { $($after:ident,)* }) => {
            $(#[$lint])*
            mod $name {
                #![expect(clippy::expl_impl_clone_on_copy, reason = "`StableAbi` writes it")]
                #![expect(dead_code, unreachable_pub, reason = "only the layouts are compared")]
                use abi_stable::StableAbi;

                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = TableRef)))]
                #[sabi(missing_field(panic))]
                pub struct Table {
                    $(pub $before: extern "C" fn(u64) -> u64,)*
                    #[sabi(last_prefix_field)]
                    pub last: extern "C" fn(u64) -> u64,
                    $(pub $after: extern "C" fn(u64) -> u64,)*
                }

                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = ModuleRef)))]
                #[sabi(missing_field(panic))]
                pub struct Module {
                    #[sabi(last_prefix_field)]
                    pub make: extern "C" fn(TableRef) -> u64,
                }

                pub const LAYOUT: &abi_stable::type_layout::TypeLayout = <ModuleRef as StableAbi>::LAYOUT;
            }
        };
    }

    contract!(first { one, } {});
    contract!(
        #[expect(clippy::cast_ptr_alignment, clippy::ptr_as_ptr, reason = "`StableAbi` writes it")]
        appended { one, } { two, three, }
    );
    contract!(renamed { uno, } {});
    contract!(inserted { zero, one, } {});

    #[test]
    fn a_host_with_more_slots_loads_an_older_plugin_and_not_the_reverse() {
        assert_eq!(fits(first::LAYOUT, first::LAYOUT), Ok(()));
        assert_eq!(fits(first::LAYOUT, appended::LAYOUT), Ok(()));
        assert!(fits(appended::LAYOUT, first::LAYOUT).unwrap_err().contains("FieldCountMismatch"));
    }

    #[test]
    fn a_slot_that_was_renamed_or_inserted_is_another_layout() {
        assert!(fits(first::LAYOUT, renamed::LAYOUT).is_err());
        assert!(fits(first::LAYOUT, inserted::LAYOUT).is_err());
    }
}
