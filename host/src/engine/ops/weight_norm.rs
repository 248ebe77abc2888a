//! `weight_norm@1`: a weight as direction and length (Salimans and Kingma 2016).

use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::l2_normalize::{gradients, normalize};
use crate::engine::portable;
use crate::engine::tape::{Tape, Var};
use crate::{Error, Result};

/// `g v / norm`, with the norm of v `[O, ...]` over all but the first dimension and g `[O]`, or any
/// shape of O elements such as `[O, 1]`; g is 1 where left out.
///
/// # Errors
/// When g has another number of elements.
pub fn weight_norm(tape: &Tape, v: &Var, g: Option<&Var>) -> Result<Var> {
    let Some((&rows, rest)) = v.dims().split_first() else {
        return Err(Error::failed("`weight_norm` expects v [O, ...], got a single number"));
    };
    if let Some(g) = g.filter(|g| g.value().elem_count() != rows) {
        return Err(Error::failed(format!(
            "`weight_norm` expects g [{rows}] for v {:?}, got {:?}",
            v.dims(),
            g.dims()
        )));
    }
    if tape.portable(v) {
        return portable::row::weight_norm(tape, v, g);
    }
    let flat = v.value().reshape((rows, rest.iter().product::<usize>()))?;
    let gain = g.map(|g| g.value().clone());
    let (y, norms) = tape.timed("weight_norm", || normalize(&flat, gain.as_ref(), 0.0))?;
    let (v_dims, g_dims) = (v.dims().to_vec(), g.map(|g| g.dims().to_vec()));
    let inputs: Vec<&Var> = [Some(v), g].into_iter().flatten().collect();
    let value = y.reshape(v_dims.as_slice())?;
    Ok(tape.record("weight_norm", &inputs, value, move |gradient, inputs| {
        let dy = gradient.tensor().reshape(flat.dims())?;
        let (dv, dg) = gradients(&flat, &norms, gain.as_ref(), 0.0, &dy)?;
        inputs.add(0, dv.reshape(v_dims.as_slice())?)?;
        match g_dims {
            Some(dims) => inputs.add(1, dg.reshape(dims)?),
            None => Ok(()),
        }
    }))
}

inventory::submit! {
    OpDef {
        name: "weight_norm",
        revision: 1,
        formula: "weight_norm(v [O, ...], g? [O]) = g v / norm of v over all but the first dimension",
        call: |tape, args: &Args<'_>| {
            Ok(vec![weight_norm(tape, args.tensor(0)?, args.optional_tensor(1)?)?])
        },
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[3, 4]), sample_tensor(stream, &[3])]),
            Sample::new(vec![sample_strided(stream, &[2, 3, 4]), sample_tensor(stream, &[2, 1])]),
            Sample::new(vec![sample_tensor(stream, &[3, 2]), Arg::None]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), sample_tensor(stream, &[1])]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::engine::storage;

    #[test]
    fn every_row_has_the_length_of_its_gain() {
        let var = |tensor: Tensor| Var::constant(tensor);
        let v = var(Tensor::new(&[[3.0_f32, 4.0], [0.0, 2.0]], &Device::Cpu).unwrap());
        let g = var(Tensor::new(&[10.0_f32, 1.0], &Device::Cpu).unwrap());
        let y = weight_norm(&Tape::default(), &v, Some(&g)).unwrap();
        assert_eq!(storage::to_f32(y.value()).unwrap(), [6.0, 8.0, 0.0, 1.0]);
    }

    #[test]
    fn a_gain_of_another_length_is_refused() {
        let v = Var::constant(Tensor::new(&[[3.0_f32, 4.0]], &Device::Cpu).unwrap());
        let g = Var::constant(Tensor::new(&[1.0_f32, 2.0], &Device::Cpu).unwrap());
        assert!(weight_norm(&Tape::default(), &v, Some(&g)).is_err());
    }
}
