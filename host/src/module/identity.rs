//! `identity`: no network at all, for vectors that are features already and for checking a loss on
//! plain numbers.

use std::rc::Rc;

use super::registry::{ModuleDef, Role};
use super::{Forward, Input, Module, input, select};
use crate::engine::Var;
use crate::state::ParamId;
use crate::{Error, Result};

/// The backbone `identity`: input `vectors` `[B, D]`; outputs `pooled` and `cls`, both the input.
#[derive(Debug)]
struct Identity {
    dim: usize,
}

impl Module for Identity {
    fn call(&self, _: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let vectors = input("identity", inputs, "vectors")?;
        match vectors.dims() {
            [_, dim] if *dim == self.dim => select("identity", outputs, |name| {
                Ok(matches!(name, "pooled" | "cls").then(|| vectors.clone()))
            }),
            dims => Err(Error::failed(format!(
                "`identity` expects vectors [B, {}], got {dims:?}",
                self.dim
            ))),
        }
    }

    fn fact(&self, name: &str) -> Option<i64> {
        (name == "dim").then_some(self.dim as i64)
    }

    fn parameters(&self) -> &[ParamId] {
        &[]
    }
}

inventory::submit! {
    ModuleDef {
        name: "identity",
        help: "no network: vectors pass as they are",
        role: Role::Backbone,
        options: &[],
        grid: None,
        build: |_, shape, _| match shape {
            &[dim] => Ok(Rc::new(Identity { dim })),
            _ => Err(Error::asked_wrongly("the backbone `identity` takes vectors, not images")
                .hint("use `backbone=vit` for images")),
        },
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::module::registry::{Options, find};
    use crate::module::testing::{Bench, named};

    #[test]
    fn vectors_pass_as_they_are_and_images_are_refused() {
        let bench = Bench::backbone("identity", "", &[3]).unwrap();
        let x = Var::constant(Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap());
        let out = bench.call(&[named("vectors", &x)], &["pooled"]).unwrap();
        assert_eq!(out[0].dims(), [2, 3]);
        assert_eq!(bench.module.fact("dim"), Some(3));
        assert!(bench.call(&[named("vectors", &x)], &["tokens"]).is_err());
        let def = find(Role::Backbone, "identity").unwrap();
        assert!(Options::new(def, &std::collections::BTreeMap::new()).is_ok());
        let error = Bench::backbone("identity", "", &[3, 8, 8]).unwrap_err();
        assert_eq!(error.hint_text(), Some("use `backbone=vit` for images"));
    }
}
