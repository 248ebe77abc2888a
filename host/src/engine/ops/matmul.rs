//! `matmul@1`: products of stacks of matrices, in f32 or f64 in every precision: only layers take operands in bf16.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::matmul::{self, Stack, Write};
use crate::engine::op::{Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};
use crate::engine::{portable, storage};
use crate::{Error, Result, for_float};

/// `a b`: a `[..., M, K]`, b `[..., K, N]` with equal leading sizes, or b `[K, N]` for all of a.
///
/// # Errors
/// When the shapes don't fit together.
pub fn matmul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let sizes = check(a, b)?;
    if tape.portable(a) {
        return portable::matmul::matmul(tape, a, b);
    }
    let (a_value, b_value) = (a.value().clone(), b.value().clone());
    let value = tape.timed("matmul", || {
        let y = product(Operand::new(&a_value), Operand::new(&b_value), sizes.result())?;
        Ok::<_, Error>(y.reshape(sizes.shape.as_slice())?)
    })?;
    let keep = |value: Tensor, wanted: &Var| wanted.tracked().then_some(value);
    let (a_kept, b_kept) = (keep(a_value, b), keep(b_value, a));
    let (a_dims, b_dims) = (a.dims().to_vec(), b.dims().to_vec());
    Ok(tape.record("matmul", &[a, b], value, move |gradient, inputs| {
        let Sizes { batch, m, k, n, .. } = sizes;
        let dy = gradient.tensor();
        if let Some(b) = &b_kept {
            let da = product(Operand::new(dy), Operand::new(b).transposed(), [batch, m, k])?;
            inputs.add(0, da.reshape(a_dims.as_slice())?)?;
        }
        if let Some(a) = &a_kept {
            let db = product(Operand::new(a).transposed(), Operand::new(dy), [batch, k, n])?;
            inputs.add(1, db.reshape(b_dims.as_slice())?)?;
        }
        Ok(())
    }))
}

/// `batch` products of `[M, K]` and `[K, N]`. Where b has no batch, it is 1 and a's is part of M.
struct Sizes {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    shape: Vec<usize>,
}

impl Sizes {
    fn result(&self) -> [usize; 3] {
        [self.batch, self.m, self.n]
    }
}

fn check(a: &Var, b: &Var) -> Result<Sizes> {
    let wrong = || {
        Error::failed(format!(
            "`matmul` expects [..., M, K] and [..., K, N] or [K, N], got {:?} and {:?}",
            a.dims(),
            b.dims()
        ))
    };
    let ([a_lead @ .., m, k], [b_lead @ .., inner, n]) = (a.dims(), b.dims()) else {
        return Err(wrong());
    };
    if k != inner || !(b_lead.is_empty() || a_lead == b_lead) {
        return Err(wrong());
    }
    let lead: usize = a_lead.iter().product();
    let (batch, m_all) = if b_lead.is_empty() { (1, lead * m) } else { (lead, *m) };
    let shape = a_lead.iter().copied().chain([*m, *n]).collect();
    Ok(Sizes { batch, m: m_all, k: *k, n: *n, shape })
}

/// A stack of matrices, perhaps to be read transposed.
#[derive(Clone, Copy)]
struct Operand<'a> {
    tensor: &'a Tensor,
    transposed: bool,
}

impl<'a> Operand<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        Self { tensor, transposed: false }
    }

    fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// The products, `[batch, rows, cols]`.
fn product(a: Operand<'_>, b: Operand<'_>, [batch, rows, cols]: [usize; 3]) -> Result<Tensor> {
    for_float!(a.tensor.dtype(), T => {
        let c = storage::read_all([a.tensor, b.tensor], |[a_elements, b_elements]| {
            let inner = a_elements.len() / (batch * rows).max(1);
            let left = stack::<T>(a_elements, rows, inner, a.transposed);
            let right = stack::<T>(b_elements, inner, cols, b.transposed);
            let mut c = vec![T::ZERO; batch * rows * cols];
            matmul::matmul_batched(T::ONE, left, right, Write::Set, &mut c);
            c
        })?;
        storage::tensor(c, (batch, rows, cols))
    })
}

/// Matrices `[rows, cols]`, stored the other way round where `transposed`.
fn stack<T: Float + WithDType>(
    data: &[T],
    rows: usize,
    cols: usize,
    transposed: bool,
) -> Stack<'_, T> {
    if transposed {
        Stack::new(data, cols, rows).transposed()
    } else {
        Stack::new(data, rows, cols)
    }
}

inventory::submit! {
    OpDef {
        name: "matmul",
        revision: 1,
        formula: "matmul(a [..., M, K], b [..., K, N] or [K, N]) = a b",
        call: |tape, args: &Args<'_>| Ok(vec![matmul(tape, args.tensor(0)?, args.tensor(1)?)?]),
        gradient: Gradient::Checked,
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[3, 4]), sample_tensor(stream, &[4, 2])]),
            Sample::new(vec![sample_tensor(stream, &[2, 3, 4]), sample_strided(stream, &[4, 2])]),
            Sample::new(vec![
                sample_strided(stream, &[2, 1, 3, 4]),
                sample_strided(stream, &[2, 1, 4, 5]),
            ]),
            Sample::new(vec![sample_tensor(stream, &[1, 1]), sample_tensor(stream, &[1, 1])]),
            Sample::new(vec![sample_tensor(stream, &[2, 1, 3]), sample_tensor(stream, &[2, 3, 1])]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn shapes_that_do_not_fit_are_named_in_the_error() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        let tape = Tape::default();
        let error = matmul(&tape, &zeros(&[2, 3]), &zeros(&[4, 5])).unwrap_err();
        assert!(error.to_string().contains("got [2, 3] and [4, 5]"), "{error}");
        assert!(matmul(&tape, &zeros(&[2, 2, 3]), &zeros(&[3, 3, 5])).is_err());
        assert!(matmul(&tape, &zeros(&[3]), &zeros(&[3, 5])).is_err());
    }
}
