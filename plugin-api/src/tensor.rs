//! Tensors: handles of the host's values, and the ops of its catalogue as methods.
//!
//! An op that fails gives a tensor that names nothing; every later op on it fails too, and the first
//! error comes out at the end of the callback. So a loss is written without a `?` per line.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi::call;
use crate::abi::value::{Handle, Value};
use crate::error::{Error, Result};

/// A value of the host: valid until the callback that made it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(crate) handle: Handle,
    /// Handles belong to the thread of the callback.
    not_send: std::marker::PhantomData<*const ()>,
}

/// An op of the catalogue, found once per process.
pub(crate) struct Op {
    name: &'static str,
    revision: u32,
    /// The host's number + 1; 0 before it was asked.
    number: AtomicU32,
}

impl Op {
    pub(crate) const fn new(name: &'static str, revision: u32) -> Self {
        Self { name, revision, number: AtomicU32::new(0) }
    }

    fn number(&self) -> Option<u32> {
        match self.number.load(Ordering::Relaxed) {
            0 => {
                let number = call::op_find(self.name, self.revision).ok()?;
                self.number.store(number + 1, Ordering::Relaxed);
                Some(number)
            }
            known => Some(known - 1),
        }
    }

    /// Calls the op for its first result.
    pub(crate) fn call(&self, arguments: &[Value]) -> Tensor {
        let mut results = [0];
        if let Some(number) = self.number() {
            call::op_call(number, arguments, &mut results);
        }
        Tensor::new(results[0])
    }

    /// Calls the op for its `N` results.
    pub(crate) fn call_all<const N: usize>(&self, arguments: &[Value]) -> [Tensor; N] {
        let mut results = [0; N];
        if let Some(number) = self.number() {
            call::op_call(number, arguments, &mut results);
        }
        results.map(Tensor::new)
    }
}

/// The argument for a tensor that may be left out.
pub(crate) fn optional(tensor: Option<Tensor>) -> Value {
    tensor.map_or(Value::NONE, |tensor| Value::handle(tensor.handle))
}

impl Tensor {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, not_send: std::marker::PhantomData }
    }

    pub(crate) fn value(self) -> Value {
        Value::handle(self.handle)
    }

    /// A constant of `shape` from its elements in row-major order.
    pub fn from_slice(shape: &[usize], elements: &[f32]) -> Self {
        Self::new(call::tensor_from(shape, elements))
    }

    /// A constant of one element.
    pub fn scalar(value: f32) -> Self {
        Self::from_slice(&[1], &[value])
    }

    /// The sizes.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn shape(self) -> Result<Vec<usize>> {
        match call::fact(self.handle, "shape")? {
            call::Held::Ints(sizes) => Ok(sizes.iter().map(|size| *size as usize).collect()),
            _ => Err(Error::failed("the host gave no shape of a tensor")),
        }
    }

    /// The size of dimension `dim`; negative ones count from the end.
    ///
    /// # Errors
    /// When an earlier op of the callback failed, or there is no such dimension.
    pub fn size(self, dim: i64) -> Result<usize> {
        let shape = self.shape()?;
        let at = if dim < 0 { dim + shape.len() as i64 } else { dim };
        usize::try_from(at).ok().and_then(|at| shape.get(at)).copied().ok_or_else(|| {
            Error::failed(format!("a tensor of shape {shape:?} has no dimension {dim}"))
        })
    }

    /// The elements, in row-major order. Waits for the device: not for the inside of a step.
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn read(self) -> Result<Vec<f64>> {
        let mut elements = vec![0.0; self.shape()?.iter().product()];
        call::tensor_read(self.handle, &mut elements)?;
        Ok(elements)
    }

    /// Keeps the value, cut from its gradient, beyond this callback; see [`Kept`].
    ///
    /// # Errors
    /// When an earlier op of the callback failed.
    pub fn keep(self) -> Result<Kept> {
        Ok(Kept(call::retain(self.handle)?))
    }
}

/// A tensor that outlives the callback. What must survive a stop belongs in a buffer instead: a
/// checkpoint doesn't hold kept tensors.
#[derive(Debug)]
pub struct Kept(Handle);

impl Kept {
    /// The tensor.
    pub fn tensor(&self) -> Tensor {
        Tensor::new(self.0)
    }

    /// Gives it back to the host.
    pub fn release(self) {
        call::release(self.0);
    }
}

/// Runs `body` without recording gradients.
pub fn no_grad<T>(body: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            call::no_grad(false);
        }
    }
    call::no_grad(true);
    let leave = Leave;
    let result = body();
    drop(leave);
    result
}
