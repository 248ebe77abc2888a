//! Recipes: what to run, resolved in layers into one typed tree.
//!
//! Host defaults come first, then the method's own recipe (from its plugin's metadata), then the recipe
//! file, then `key=value` words; the later layer wins key by key, except that a recipe that names
//! `backbone.kind` describes the whole backbone. An unknown key, a wrong type or a value
//! out of range is refused with the nearest name or the range, never passed over.

mod draft;
pub mod option;
mod print;
mod recipe;
mod resolve;
mod schema;
pub mod values;

pub use draft::Draft;
pub use option::{Kind, OptionSpec};
pub use recipe::{Backbone, ClipMode, Data, OptimizerKind, Probe, Recipe, Train};
pub use resolve::{BackboneTable, MethodTable};
pub use schema::{Key, SECTIONS, Section};
pub use values::Values;
