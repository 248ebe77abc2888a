//! The contract between the Pretext host and its methods.
//!
//! A method is a crate of type `cdylib` that depends on this one alone. It declares what it is
//! ([`Descriptor`]), what it wants to see ([`ViewPlan`]) and what it learns ([`Builder`]), and computes a
//! loss ([`Method::step`]) from tensors that the host owns ([`Tensor`]). It contains no `unsafe`.
//!
//! Read in this order: [`method`], [`descriptor`], [`view`], [`build`], [`tensor`], [`step`], and [`stage`]
//! where one training is not enough.

pub mod abi;
pub mod build;
pub mod descriptor;
pub mod error;
pub mod export;
pub mod metadata;
pub mod method;
pub mod ops;
pub mod option;
pub mod stage;
pub mod step;
pub mod tensor;
pub mod view;

pub use build::{
    Buffer, Builder, Curve, Group, Init, Module, Parameter, Schedule, Setting, Stream, Teacher,
};
pub use descriptor::{Descriptor, OptionKind, OptionSpec};
pub use error::{Error, Result};
pub use method::Method;
pub use option::Options;
pub use stage::{Clustering, Features, StagePlan};
pub use step::Step;
pub use tensor::{Kept, Tensor, no_grad};
pub use view::{View, ViewPlan, ViewRequest, Views};
