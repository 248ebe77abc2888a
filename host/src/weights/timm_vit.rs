//! timm's `VisionTransformer`: our own names; only places of class token and registers differ.
//!
//! Here the class token has a place and registers have none. In timm either all of them have one or
//! none has (`no_embed_class`). Since a token and its place are added before anything else happens, a place
//! moves into its token, or is 0, without any change to what the network computes.

use candle_core::Tensor;

use super::{Dialect, Tensors};
use crate::Result;

pub(super) const DIALECT: Dialect = Dialect {
    format: "timm",
    backbone: "vit",
    model: "timm `VisionTransformer`",
    anchor: "patch_embed.proj.weight",
    import,
    export,
    config: None,
};

/// Tokens of `name` before the patches.
fn count(tensors: &Tensors, name: &str) -> usize {
    tensors.get(name).map_or(0, |tensor| tensor.dims().get(1).copied().unwrap_or(0))
}

/// How many of `length` places belong to class token and registers: the number that leaves the grid, or
/// a square.
fn places_before(length: usize, class: usize, registers: usize, grid: [usize; 2]) -> usize {
    let choices = [class + registers, class, 0];
    let leaves = |before: &&usize| length.checked_sub(**before);
    let exact = choices.iter().find(|before| leaves(before) == Some(grid[0] * grid[1]));
    let square = || choices.iter().find(|b| leaves(b).is_some_and(|n| n.isqrt().pow(2) == n));
    *exact.or_else(square).unwrap_or(&class)
}

fn import(mut tensors: Tensors, grid: [usize; 2]) -> Result<Tensors> {
    let (class, registers) = (count(&tensors, "cls_token"), count(&tensors, "reg_token"));
    let Some(places) = tensors.remove("pos_embed") else { return Ok(tensors) };
    let &[1, length, width] = places.dims() else {
        tensors.insert("pos_embed".to_owned(), places);
        return Ok(tensors);
    };
    let before = places_before(length, class, registers, grid);
    let patches = places.narrow(1, before, length - before)?;
    let placed = match (class, before) {
        (0, _) => patches,
        (_, 0) => {
            let zeros = Tensor::zeros((1, class, width), places.dtype(), places.device())?;
            Tensor::cat(&[zeros, patches], 1)?
        }
        _ => Tensor::cat(&[places.narrow(1, 0, class)?, patches], 1)?,
    };
    if before == class + registers && registers > 0 {
        let own = places.narrow(1, class, registers)?;
        if let Some(tokens) = tensors.get_mut("reg_token") {
            *tokens = (&*tokens + own)?;
        }
    }
    tensors.insert("pos_embed".to_owned(), placed);
    Ok(tensors)
}

/// With registers the class token takes up its place, which `no_embed_class=True` then lacks.
fn export(mut tensors: Tensors) -> Result<Tensors> {
    let class = count(&tensors, "cls_token");
    if count(&tensors, "reg_token") == 0 || class == 0 {
        return Ok(tensors);
    }
    if let Some(places) = tensors.remove("pos_embed") {
        let n = places.dims()[1] - class;
        if let Some(token) = tensors.get_mut("cls_token") {
            *token = (&*token + places.narrow(1, 0, class)?)?;
        }
        tensors.insert("pos_embed".to_owned(), places.narrow(1, class, n)?.contiguous()?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;

    fn tensor(values: &[f32]) -> Tensor {
        storage::tensor(values.to_vec(), (1, values.len(), 1)).unwrap()
    }

    fn values(tensors: &Tensors, name: &str) -> Vec<f32> {
        storage::to_f32(&tensors[name]).unwrap()
    }

    fn vit(places: &[f32], registers: &[f32]) -> Tensors {
        let mut tensors = Tensors::new();
        tensors.insert("cls_token".to_owned(), tensor(&[10.0]));
        tensors.insert("pos_embed".to_owned(), tensor(places));
        if !registers.is_empty() {
            tensors.insert("reg_token".to_owned(), tensor(registers));
        }
        tensors
    }

    #[test]
    fn places_that_timm_gives_to_registers_move_into_them() {
        let ours = import(vit(&[1., 2., 3., 4., 5., 6., 7.], &[20., 30.]), [2, 2]).unwrap();
        assert_eq!(values(&ours, "pos_embed"), [1., 4., 5., 6., 7.]);
        assert_eq!(values(&ours, "reg_token"), [22., 33.]);
    }

    #[test]
    fn a_class_token_without_a_place_gets_the_place_0() {
        let ours = import(vit(&[4., 5., 6., 7.], &[]), [2, 2]).unwrap();
        assert_eq!(values(&ours, "pos_embed"), [0., 4., 5., 6., 7.]);
    }

    #[test]
    fn with_registers_the_class_token_takes_its_place_along() {
        let timm = export(vit(&[1., 4., 5., 6., 7.], &[20., 30.])).unwrap();
        assert_eq!(values(&timm, "cls_token"), [11.]);
        assert_eq!(values(&timm, "pos_embed"), [4., 5., 6., 7.]);
        let back = import(timm, [2, 2]).unwrap();
        assert_eq!(values(&back, "pos_embed"), [0., 4., 5., 6., 7.]);
        let plain = vit(&[1., 4., 5., 6., 7.], &[]);
        assert_eq!(
            values(&export(plain.clone()).unwrap(), "pos_embed"),
            values(&plain, "pos_embed")
        );
    }
}
