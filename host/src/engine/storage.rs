//! Slices of candle tensors: how kernels read a tensor and how their results become one.

use std::cell::Cell;
use std::marker::PhantomData;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, InplaceOp2, Layout, Shape, Storage, Tensor, WithDType,
};

use super::kernel::elementwise::{Arithmetic, Spread, combine_in_place};
use crate::{Error, Result};

/// Calls `$body` with `$float` standing for the tensor's element type, `f32` or `f64`.
#[macro_export]
macro_rules! for_float {
    ($dtype:expr, $float:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $float = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $float = f64;
                $body
            }
            other => Err($crate::Error::failed(format!("expected f32 or f64, got {other:?}"))),
        }
    };
}

/// Calls `body` with the elements of `tensor` in row-major order; copies only what isn't contiguous.
pub fn read<T: WithDType, R>(tensor: &Tensor, body: impl FnOnce(&[T]) -> R) -> Result<R> {
    read_all([tensor], |[elements]| body(elements))
}

/// Calls `body` with the elements of several tensors of one type; copies only what isn't contiguous.
pub fn read_all<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    body: impl FnOnce([&[T]; N]) -> R,
) -> Result<R> {
    if refused() {
        return Err(no_kernel());
    }
    let tensors: Vec<Tensor> =
        tensors.into_iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (guard, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(cpu) = &**guard else {
            return Err(no_kernel());
        };
        let start = layout.start_offset();
        *slice = &T::cpu_storage_as_slice(cpu)?[start..start + layout.shape().elem_count()];
    }
    Ok(body(slices))
}

fn no_kernel() -> Error {
    Error::failed("it has no kernel for a tensor that is not on the CPU")
        .hint("train with `device=cpu`")
}

/// Whether tensors on the CPU count as lying on a device, see [`refusing`].
fn refused() -> bool {
    #[cfg(test)]
    return REFUSED.get();
    #[cfg(not(test))]
    false
}

#[cfg(test)]
thread_local! {
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` in a thread whose tensors on the CPU neither kernels of the CPU take nor ops read back: what fails in here
/// has no form for a device, or waits for it.
#[cfg(test)]
pub(crate) fn refusing<T>(body: impl FnOnce() -> T) -> T {
    REFUSED.set(true);
    let made = body();
    REFUSED.set(false);
    made
}

/// A tensor of `shape` from its elements in row-major order, without a copy.
pub fn tensor<T: WithDType>(elements: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(elements, shape.into(), &Device::Cpu)?)
}

/// `[B, H, W, C]` of pictures `[B, C, H, W]`: a view where their channels lie last, else a copy.
///
/// Ops on pictures leave channels last in memory, as their kernels want them, while the order of dimensions
/// stays the catalogue's.
pub fn channels_last(pictures: &Tensor) -> Result<Tensor> {
    Ok(pictures.permute((0, 2, 3, 1))?.contiguous()?)
}

/// Pictures `[B, C, H, W]` from elements in the order `[B, H, W, C]`, without a copy.
pub fn pictures<T: WithDType>(elements: Vec<T>, sizes: [usize; 4]) -> Result<Tensor> {
    Ok(tensor(elements, &sizes)?.permute((0, 3, 1, 2))?)
}

/// A view of `tensor` whose elements lie in row-major order: itself, or pictures with channels last.
pub fn dense(tensor: &Tensor) -> Option<Tensor> {
    if tensor.is_contiguous() {
        return Some(tensor.clone());
    }
    let turned = (tensor.rank() == 4).then(|| tensor.permute((0, 2, 3, 1)).ok()).flatten();
    turned.filter(Tensor::is_contiguous)
}

/// The elements of `tensor` as f32, in row-major order.
pub fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    if refused() {
        return Err(Error::failed("it reads a tensor back to the host"));
    }
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// The elements of `tensor` as f64, in row-major order.
pub fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    if refused() {
        return Err(Error::failed("it reads a tensor back to the host"));
    }
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The one element of `tensor`, whatever its shape.
pub fn scalar(tensor: &Tensor) -> Result<f64> {
    match to_f64(tensor)?.as_slice() {
        [value] => Ok(*value),
        _ => Err(Error::failed(format!("expected one number, got {:?}", tensor.dims()))),
    }
}

/// Ones in the shape and type of `tensor`.
pub fn ones_like(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.ones_like()?)
}

/// Calls `body` with the elements of `target`, to change in place, and those of `source` to read.
///
/// Both are contiguous, of the same shape and type, and don't share storage. Whoever else holds
/// `target`'s storage sees the change: callers own it.
pub fn update<T: WithDType>(
    target: &Tensor,
    source: &Tensor,
    body: impl Fn(&mut [T], &[T]),
) -> Result<()> {
    let source = source.contiguous()?;
    if !target.is_contiguous() || target.dims() != source.dims() {
        return Err(Error::failed(format!(
            "can't update {:?} in place from {:?}",
            target.dims(),
            source.dims()
        )));
    }
    target.inplace_op2(&source, &Update(body, PhantomData::<fn(T)>))?;
    Ok(())
}

/// Calls `body` with the elements of `target`, which is contiguous, to change in place. Whoever else holds its storage
/// sees the change: callers own it.
pub fn change<T: WithDType, R>(target: &Tensor, body: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    if refused() {
        return Err(no_kernel());
    }
    if !target.is_contiguous() {
        return Err(Error::failed(format!("can't change {:?} in place", target.dims())));
    }
    let change =
        Change { body: Cell::new(Some(body)), made: Cell::new(None), element: PhantomData };
    target.inplace_op1(&change)?;
    change.made.into_inner().ok_or_else(no_kernel)
}

/// `target + source` of a target that nobody else holds: in place on the CPU, a fresh tensor elsewhere,
/// where that costs the same traffic and memory comes from a pool. On the CPU `target` is contiguous or
/// holds pictures with channels last.
pub fn add_into(target: Tensor, source: &Tensor) -> Result<Tensor> {
    if !target.device().is_cpu() || refused() {
        return Ok((target + source)?);
    }
    if !target.is_contiguous() && target.rank() == 4 {
        let turned = |tensor: &Tensor| tensor.permute((0, 2, 3, 1));
        add_contiguous(&turned(&target)?, &turned(source)?)?;
    } else {
        add_contiguous(&target, source)?;
    }
    Ok(target)
}

fn add_contiguous(target: &Tensor, source: &Tensor) -> Result<()> {
    for_float!(target.dtype(), T => update::<T>(target, source, |target, source| {
        combine_in_place(Arithmetic::Add, target, source, Spread::Same);
    }))
}

/// Writes the elements of `source` over those of `target`: same shape and type, on one device.
pub fn assign(target: &Tensor, source: &Tensor) -> Result<()> {
    if target.device().is_cpu() {
        return for_float!(target.dtype(), T => update::<T>(target, source, <[T]>::copy_from_slice));
    }
    if target.dims() != source.dims() {
        return Err(Error::failed(format!(
            "can't write {:?} over {:?}",
            source.dims(),
            target.dims()
        )));
    }
    Ok(target.flatten_all()?.slice_set(&source.flatten_all()?.contiguous()?, 0, 0)?)
}

struct Change<T, F, R> {
    body: Cell<Option<F>>,
    made: Cell<Option<R>>,
    element: PhantomData<fn(T)>,
}

impl<T: WithDType, R, F: FnOnce(&mut [T]) -> R> InplaceOp1 for Change<T, F, R> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (start, n) = (layout.start_offset(), layout.shape().elem_count());
        let target = mutable_slice::<T>(target)?;
        self.made.set(self.body.take().map(|body| body(&mut target[start..start + n])));
        Ok(())
    }
}

struct Update<T, F>(F, PhantomData<fn(T)>);

impl<T: WithDType, F: Fn(&mut [T], &[T])> InplaceOp2 for Update<T, F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        source: &CpuStorage,
        source_layout: &Layout,
    ) -> candle_core::Result<()> {
        let n = target_layout.shape().elem_count();
        let (t, s) = (target_layout.start_offset(), source_layout.start_offset());
        let source = T::cpu_storage_as_slice(source)?;
        let target = mutable_slice::<T>(target)?;
        (self.0)(&mut target[t..t + n], &source[s..s + n]);
        Ok(())
    }
}

/// The elements of `storage`, which must be of type `T`.
fn mutable_slice<T: WithDType>(storage: &mut CpuStorage) -> candle_core::Result<&mut [T]> {
    let any: &mut dyn std::any::Any = match storage {
        CpuStorage::F32(elements) => elements,
        CpuStorage::F64(elements) => elements,
        CpuStorage::U32(elements) => elements,
        CpuStorage::I64(elements) => elements,
        CpuStorage::U8(elements) => elements,
        CpuStorage::BF16(elements) => elements,
        _ => candle_core::bail!("no in-place access to this element type"),
    };
    match any.downcast_mut::<Vec<T>>() {
        Some(elements) => Ok(elements),
        None => candle_core::bail!("in-place access with the wrong element type"),
    }
}
