//! A launch: which kernel, on what grid, with which arguments; and the two ways to run it.

use std::cell::Cell;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Shape, Tensor};

use super::update::Table;
use super::window::Windows;
use crate::{Error, Result};

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Its name, without `.cu`.
    pub(super) name: &'static str,
    /// What nvcc made of it.
    #[cfg(feature = "cuda")]
    pub(super) ptx: &'static str,
}

/// The file of kernels called `$name`.
macro_rules! file {
    ($name:literal) => {
        $crate::engine::cuda::launch::File {
            name: $name,
            #[cfg(feature = "cuda")]
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}
pub(super) use file;

/// One argument of a kernel, in the type that the kernel declares. A tensor is contiguous, and comes with the number of
/// elements that the kernel takes it to have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    /// `float *`
    F32(&'a Tensor, usize),
    /// `bf16 *`
    Bf16(&'a Tensor, usize),
    /// `unsigned *`
    U32(&'a Tensor, usize),
    /// `unsigned char *`
    U8(&'a Tensor, usize),
    /// A null address.
    Null,
    /// `int`
    Int(usize),
    /// `long long`
    Long(usize),
    /// `float`
    Float(f64),
    /// `Tensors` of `update.cu`, by value.
    Table(&'a Table),
    /// `Windows` of `window.cu`, by value.
    Windows(&'a Windows),
}

impl<'a> Arg<'a> {
    /// `float *`, or a null address.
    pub(super) fn optional(tensor: Option<&'a Tensor>, count: usize) -> Self {
        tensor.map_or(Self::Null, |tensor| Self::F32(tensor, count))
    }

    /// `bf16 *` where `dtype` says so, else `float *`.
    pub(super) fn in_type(dtype: DType, tensor: &'a Tensor, count: usize) -> Self {
        if dtype == DType::BF16 { Self::Bf16(tensor, count) } else { Self::F32(tensor, count) }
    }
}

/// An argument as a launch takes it: in memory, at the start of which the kernel's type reads its part.
#[derive(Debug)]
pub(super) enum Word<'a> {
    Bits(u64),
    Table(&'a Table),
    Windows(&'a Windows),
}

/// A kernel and its grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    /// The file that the kernel stands in.
    pub(super) file: File,
    /// Its name.
    pub(super) kernel: &'static str,
    /// Blocks along x and y.
    pub(super) grid: [usize; 2],
    /// Threads of a block, a multiple of 32.
    pub(super) threads: usize,
    /// Bytes of shared memory whose size the launch gives.
    pub(super) shared: usize,
}

impl Launch {
    /// Enqueues the kernel on the device of `like`; what it writes are tensors among `args`.
    pub(super) fn run(self, like: &Tensor, args: &[Arg<'_>]) -> Result<()> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        let fits = u32::try_from(self.grid[0]).is_ok() && self.grid[1] <= 65_535;
        if !fits {
            return Err(Error::failed(format!(
                "`{}` can't run {:?} blocks",
                self.kernel, self.grid
            )));
        }
        let words = args.iter().map(word).collect::<Result<Vec<_>>>();
        let refused = format!("`{}` can't take its arguments", self.kernel);
        let words = words.map_err(|error| error.context(refused))?;
        match like.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => self.on_gpu(device, &words),
            #[cfg(test)]
            Device::Cpu => super::emulated::run(self, &words),
            _ => Err(Error::failed(format!(
                "this build can't run the kernel `{}` with its {} arguments",
                self.kernel,
                words.len()
            ))),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(self, device: &candle_core::CudaDevice, words: &[Word<'_>]) -> Result<()> {
        use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
        use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
        owned(device)?;
        let failed =
            |error| Error::failed(format!("`{}` can't be launched", self.kernel)).because(error);
        let function =
            device.get_or_load_custom_func(self.kernel, self.file.name, self.file.ptx)?;
        if self.shared > PLAIN_SHARED {
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, self.shared as i32).map_err(|e| failed(e.to_string()))?;
        }
        let config = LaunchConfig {
            grid_dim: (self.grid[0] as u32, self.grid[1] as u32, 1),
            block_dim: (self.threads as u32, 1, 1),
            shared_mem_bytes: self.shared as u32,
        };
        let mut launch = function.builder();
        for word in words {
            match word {
                Word::Bits(bits) => launch.arg(bits),
                Word::Table(table) => launch.arg(*table),
                Word::Windows(windows) => launch.arg(*windows),
            };
        }
        // SAFETY: the arguments are those of the kernel, in order and type, as the engine's tests check by
        // running the same launches; `word` holds tensors to the type and size that the launch names. Addresses
        // are of tensors that the caller borrows, all on this device, and whatever frees or reads them is enqueued
        // after this on the same stream, which is that of this thread.
        unsafe { launch.launch(config) }.map_err(|e| failed(e.to_string()))?;
        Ok(())
    }
}

#[cfg(feature = "cuda")]
thread_local! {
    static OWNED: std::cell::RefCell<Vec<candle_core::cuda_backend::DeviceId>> =
        const { std::cell::RefCell::new(Vec::new()) };
}

/// See [`super::owned_here`].
#[cfg(feature = "cuda")]
pub(super) fn own(device: &Device) {
    if let Device::Cuda(device) = device {
        OWNED.with_borrow_mut(|owned| owned.push(device.id()));
    }
}

/// Holds work on `device` to the thread that opened it: the stream is the calling thread's, and only there is what is
/// enqueued in order with all else.
///
/// # Errors
/// When another thread opened it.
#[cfg(feature = "cuda")]
pub(super) fn owned(device: &candle_core::CudaDevice) -> Result<()> {
    if OWNED.with_borrow(|owned| owned.contains(&device.id())) {
        return Ok(());
    }
    Err(Error::failed("a GPU is used by another thread than the one that opened it"))
}

/// More shared memory than this has to be asked for.
#[cfg(feature = "cuda")]
const PLAIN_SHARED: usize = 48 * 1024;

fn word<'a>(arg: &Arg<'a>) -> Result<Word<'a>> {
    let int = |n: usize| {
        i32::try_from(n).map_err(|_| Error::failed(format!("{n} is too large for a kernel")))
    };
    Ok(match arg {
        Arg::F32(tensor, count) => Word::Bits(address(tensor, DType::F32, *count)?),
        Arg::Bf16(tensor, count) => Word::Bits(address(tensor, DType::BF16, *count)?),
        Arg::U32(tensor, count) => Word::Bits(address(tensor, DType::U32, *count)?),
        Arg::U8(tensor, count) => Word::Bits(address(tensor, DType::U8, *count)?),
        Arg::Null => Word::Bits(0),
        Arg::Int(n) => Word::Bits(u64::from(int(*n)?.cast_unsigned())),
        Arg::Long(n) => Word::Bits(*n as u64),
        Arg::Float(x) => Word::Bits(u64::from((*x as f32).to_bits())),
        Arg::Table(table) => Word::Table(table),
        Arg::Windows(windows) => Word::Windows(windows),
    })
}

/// Where the first of the `count` elements of `tensor` lies, on its device.
///
/// # Errors
/// When it isn't contiguous, or of another type or size.
pub(super) fn address(tensor: &Tensor, dtype: DType, count: usize) -> Result<u64> {
    if tensor.dtype() != dtype || tensor.elem_count() != count {
        return Err(Error::failed(format!(
            "a kernel takes {count} numbers of {dtype:?} and was given {} of {:?}",
            tensor.elem_count(),
            tensor.dtype()
        )));
    }
    if !tensor.is_contiguous() {
        return Err(Error::failed("a kernel needs tensors that are contiguous"));
    }
    let address = Address(Cell::new(0));
    tensor.inplace_op1(&address)?;
    Ok(address.0.get())
}

/// Finds out where a tensor's first element lies, and changes nothing.
struct Address(Cell<u64>);

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let first = match storage {
            CpuStorage::F32(elements) => elements.as_mut_ptr().addr(),
            CpuStorage::U32(elements) => elements.as_mut_ptr().addr(),
            CpuStorage::U8(elements) => elements.as_mut_ptr().addr(),
            CpuStorage::BF16(elements) => elements.as_mut_ptr().addr(),
            other => candle_core::bail!("no kernel takes {:?}", other.dtype()),
        };
        let offset = layout.start_offset() * storage.dtype().size_in_bytes();
        self.0.set((first + offset) as u64);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        use candle_core::cuda_backend::CudaStorageSlice;
        use candle_core::cuda_backend::cudarc::driver::DevicePtr;
        let stream = storage.device().cuda_stream();
        let first = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            _ => candle_core::bail!("no kernel takes {:?}", storage.dtype()),
        };
        let offset = layout.start_offset() * storage.dtype().size_in_bytes();
        self.0.set(first + offset as u64);
        Ok(())
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("no kernel takes {:?} in this build", storage.dtype())
    }
}

/// A tensor on the device of `like` whose elements a kernel is about to write, every one of them.
pub(super) fn fresh(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    fresh_on(shape, dtype, like.device())
}

/// The same on `device`; what a copy is about to write counts as well.
pub(super) fn fresh_on(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the kernels or the copy that are given the tensor write all of it before anything reads it: all are
    // enqueued by this thread, on its stream.
    Ok(unsafe { Tensor::empty(shape, dtype, device) }?)
}

/// Blocks of one warp per row, eight to a block.
pub(super) fn warps(rows: usize) -> [usize; 2] {
    [rows.div_ceil(8), 1]
}

/// Blocks of 256 threads with four numbers each.
pub(super) fn fours(n: usize) -> [usize; 2] {
    [n.div_ceil(1024), 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_of_another_type_or_size_is_no_argument() {
        let x = Tensor::zeros(4, DType::U8, &Device::Cpu).unwrap();
        assert!(word(&Arg::U8(&x, 4)).is_ok());
        for wrong in [Arg::F32(&x, 4), Arg::U32(&x, 4), Arg::Bf16(&x, 4), Arg::U8(&x, 5)] {
            let error = word(&wrong).unwrap_err().to_string();
            assert!(error.contains("was given 4 of U8"), "{error}");
        }
    }
}
