//! What really crosses the boundary: tables of C functions over C types, nothing else.
//!
//! The five laws: (1) everything here is `repr(C)` and made of integers and pointers; (2) a pointer is
//! borrowed for one call and never kept; (3) what one side allocates, that side frees; (4) every
//! function returns a status and none unwinds; (5) a minor version only appends.

pub(crate) mod call;
pub mod host;
pub mod layout;
pub mod method;
pub mod value;

pub use host::{HostTable, HostTableRef};
pub use method::{MethodTable, MethodTableRef, PluginModule, PluginModuleRef};
pub use value::{Handle, Setting, Status, Text, Value};

/// The contract's major version: a plugin of another major is refused.
pub const MAJOR: u16 = 1;
/// The contract's minor version: a plugin of an older minor loads, one of a newer minor does not.
pub const MINOR: u16 = 1;

/// The section of a library that holds its metadata.
pub const SECTION: &str = ".pretext.meta";
/// The first bytes of the metadata section.
pub const MAGIC: [u8; 8] = *b"PRETEXT\0";
/// The layout of the metadata section itself.
pub const METADATA_FORMAT: u32 = 1;

/// The host's side of a call; only the host knows what is in it.
#[repr(C)]
#[derive(Debug, abi_stable::StableAbi)]
pub struct Context {
    private: [u8; 0],
}

/// A method's side of a call; only the plugin knows what is in it.
#[repr(C)]
#[derive(Debug, abi_stable::StableAbi)]
pub struct Instance {
    private: [u8; 0],
}
