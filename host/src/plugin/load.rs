//! Opening a plugin: the layout check, and the table of one of its methods.

use std::mem::ManuallyDrop;
use std::path::Path;

use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
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
        .map_err(|error| named("can't be opened").because(error).hint(rebuild))?;
    let name = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: under this name abi_stable exports a header of this type; `upgrade` checks its magic.
    let header = unsafe { library.get::<AbiHeaderRef>(name) }
        .map_err(|error| named("exports no plugin header").because(error).hint(rebuild))?;
    let header = *header;
    // The library is never unloaded, so its statics stay.
    let _ = ManuallyDrop::new(library);
    let module = header
        .upgrade()
        .and_then(LibHeader::init_root_module::<PluginModuleRef>)
        .map_err(|error| named("has another layout than this host").because(error).hint(rebuild))?;
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
