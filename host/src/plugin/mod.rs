//! Everything that knows about shared libraries: where plugins lie, what they say of themselves, how
//! they are opened, and the host's side of the contract.

mod compute;
#[cfg(test)]
mod contract_tests;
pub mod course;
mod crossing;
mod declare;
pub mod find;
pub mod handle;
pub mod load;
pub mod metadata;
pub mod session;
mod slots;
mod view;

pub use course::{AskedStage, AskedTraining, Course, StageFeatures};
pub use find::{Catalogue, Found, Refused, SearchPath, libraries};
pub use metadata::{MethodInfo, PluginInfo};
pub use session::{Building, Session, Setting, Told, ViewSource};
pub use view::AskedView;
