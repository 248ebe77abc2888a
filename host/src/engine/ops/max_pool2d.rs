//! `max_pool2d@1`: the largest value of each window of a picture.

use candle_core::Tensor;

use crate::engine::kernel::packed::gathered::Pictures;
use crate::engine::kernel::pool::{self, Pool};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// x `[B, C, H, W]` to `[B, C, H', W']` with H' = (H + 2 padding - kernel) / stride + 1, rounded down. The first
/// of equals takes the gradient; NaN counts as the largest; what lies outside never wins.
///
/// # Errors
/// When x is no picture, the padding is more than half of the window, or no window fits.
pub fn max_pool2d(
    tape: &Tape,
    x: &Var,
    kernel: usize,
    (stride, padding): (usize, usize),
) -> Result<Var> {
    let pool = sizes(x, kernel, (stride, padding))?;
    if tape.portable(x) {
        return portable::pool::max_pool2d(tape, x, &pool);
    }
    let last = storage::channels_last(x.value())?;
    let Pictures { batch, height, width, channels } = pool.result;
    let (value, places) = tape.timed("max_pool2d", || {
        for_float!(x.dtype(), T => {
            let (y, places) = storage::read::<T, _>(&last, |x| pool::max(x, &pool))?;
            Ok::<_, Error>((storage::pictures(y, [batch, height, width, channels])?, places))
        })
    })?;
    Ok(tape.record("max_pool2d", &[x], value, move |gradient, inputs| {
        inputs.add(0, backward(gradient.tensor(), &places, &pool)?)
    }))
}

fn backward(dy: &Tensor, places: &[u32], pool: &Pool) -> Result<Tensor> {
    let Pictures { batch, height, width, channels } = pool.source;
    let dy = storage::channels_last(dy)?;
    for_float!(dy.dtype(), T => {
        let dx = storage::read::<T, _>(&dy, |dy| pool::max_backward(dy, places, pool))?;
        storage::pictures(dx, [batch, height, width, channels])
    })
}

fn sizes(x: &Var, kernel: usize, (stride, padding): (usize, usize)) -> Result<Pool> {
    let &[batch, channels, height, width] = x.dims() else {
        return Err(Error::failed(format!(
            "`max_pool2d` expects x [B, C, H, W], got {:?}",
            x.dims()
        )));
    };
    let side = |side: usize| {
        let room = (side + 2 * padding).checked_sub(kernel);
        room.filter(|_| stride > 0 && kernel > 0 && 2 * padding <= kernel)
            .map(|room| room / stride + 1)
    };
    let (Some(to_height), Some(to_width)) = (side(height), side(width)) else {
        return Err(Error::failed(format!(
            "`max_pool2d` can't take windows of {kernel} at stride {stride} and padding {padding} of \
             {height} x {width} pixels"
        )));
    };
    Ok(Pool {
        source: Pictures { batch, height, width, channels },
        result: Pictures { batch, height: to_height, width: to_width, channels },
        kernel,
        stride,
        padding,
    })
}

inventory::submit! {
    OpDef {
        name: "max_pool2d",
        revision: 1,
        formula: "max_pool2d(x [B, C, H, W], kernel, stride, padding) = [B, C, H', W'], the largest of each window",
        call: |tape, args: &Args<'_>| {
            let steps = (args.size(2)?, args.size(3)?);
            Ok(vec![max_pool2d(tape, args.tensor(0)?, args.size(1)?, steps)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![
                sample_tensor(stream, &[2, 3, 5, 6]),
                Arg::Int(3),
                Arg::Int(2),
                Arg::Int(1),
            ]),
            Sample::new(vec![
                sample_strided(stream, &[1, 2, 4, 4]),
                Arg::Int(2),
                Arg::Int(2),
                Arg::Int(0),
            ]),
            Sample::new(vec![
                sample_tensor(stream, &[1, 1, 1, 1]),
                Arg::Int(1),
                Arg::Int(1),
                Arg::Int(0),
            ]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_first_of_equals_takes_the_gradient_and_nan_wins() {
        let tape = Tape::default();
        let x = [1.0_f32, 1.0, f32::NAN, 2.0];
        let x = tape.leaf(Tensor::new(&x, &Device::Cpu).unwrap().reshape((1, 1, 1, 4)).unwrap());
        let error = max_pool2d(&tape, &x, 2, (2, 0)).unwrap_err();
        assert!(error.to_string().contains("1 x 4 pixels"), "{error}");
        let y = max_pool2d(&tape, &x, 2, (2, 1)).unwrap();
        let values = storage::to_f32(y.value()).unwrap();
        assert!(values[0] == 1.0 && values[1].is_nan() && values[2] == 2.0);
        let ones = Tensor::ones((1, 1, 1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let gradients = tape.backward_from(&y, ones).unwrap();
        let dx = storage::to_f32(gradients.get(&x).unwrap()).unwrap();
        assert_eq!(dx, [1.0, 0.0, 1.0, 1.0]);
    }
}
