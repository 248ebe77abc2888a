//! TEMP
pub mod find;
pub mod metadata;
pub use find::{Catalogue, Found, Refused, SearchPath};
pub use metadata::{MethodInfo, PluginInfo};
