//! `patchify@1`: an image cut into patches, each a row.

use candle_core::Tensor;

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// x `[B, C, H, W]` to `[B, (H/p)(W/p), C p p]`: patches row by row, each in the order (c, y, x) of a
/// convolution's weight `[D, C, p, p]`.
///
/// # Errors
/// When H or W is no multiple of the patch.
pub fn patchify(tape: &Tape, x: &Var, patch: usize) -> Result<Var> {
    let &[b, c, height, width] = x.dims() else {
        return Err(Error::failed(format!(
            "`patchify` expects images [B, C, H, W], got {:?}",
            x.dims()
        )));
    };
    if patch == 0 || height % patch != 0 || width % patch != 0 {
        return Err(Error::failed(format!(
            "{height} x {width} can't be cut into patches of {patch}"
        ))
        .hint("choose a crop size that is a multiple of the patch"));
    }
    let grid = [height / patch, width / patch];
    let value = tape.timed("patchify", || cut(x.value(), [b, c], grid, patch))?;
    Ok(tape.record("patchify", &[x], value, move |gradient, inputs| {
        inputs.add(0, join(gradient.tensor(), [b, c], grid, patch)?)
    }))
}

fn cut(x: &Tensor, [b, c]: [usize; 2], [rows, cols]: [usize; 2], p: usize) -> Result<Tensor> {
    let cut = x.reshape(&[b, c, rows, p, cols, p])?.permute([0, 2, 4, 1, 3, 5])?;
    Ok(cut.reshape((b, rows * cols, c * p * p))?)
}

fn join(y: &Tensor, [b, c]: [usize; 2], [rows, cols]: [usize; 2], p: usize) -> Result<Tensor> {
    let joined = y.reshape(&[b, rows, cols, c, p, p])?.permute([0, 3, 1, 4, 2, 5])?;
    Ok(joined.reshape((b, c, rows * p, cols * p))?)
}

inventory::submit! {
    OpDef {
        name: "patchify",
        revision: 1,
        formula: "patchify(x [B, C, H, W], patch) = [B, (H/p)(W/p), C p p], order (c, y, x)",
        call: |tape, args: &Args<'_>| Ok(vec![patchify(tape, args.tensor(0)?, args.size(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3, 4, 6]), Arg::Int(2)]),
            Sample::new(vec![sample_strided(stream, &[1, 1, 2, 4]), Arg::Int(2)]),
            Sample::new(vec![sample_tensor(stream, &[1, 2, 3, 1]), Arg::Int(1)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::engine::storage;

    #[test]
    fn patches_come_row_by_row_in_the_order_of_a_convolution() {
        let x = Tensor::arange(0.0_f32, 16.0, &Device::Cpu).unwrap().reshape((1, 1, 4, 4)).unwrap();
        let y = patchify(&Tape::default(), &Var::constant(x), 2).unwrap();
        assert_eq!(y.dims(), [1, 4, 4]);
        assert_eq!(storage::to_f32(y.value()).unwrap()[..8], [0., 1., 4., 5., 2., 3., 6., 7.]);
    }

    #[test]
    fn an_image_that_is_no_multiple_of_the_patch_is_refused_with_a_hint() {
        let x = Var::constant(Tensor::zeros((1, 3, 9, 8), DType::F32, &Device::Cpu).unwrap());
        let error = patchify(&Tape::default(), &x, 4).unwrap_err();
        assert_eq!(error.to_string(), "9 x 8 can't be cut into patches of 4");
        assert!(error.hint_text().is_some() && patchify(&Tape::default(), &x, 0).is_err());
    }
}
