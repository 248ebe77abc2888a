//! Products with operands in bf16 and sums in f32, by cuBLASLt.
//!
//! The library is asked once for each shape which of its kernels is the fastest; the answer is a [`Plan`], and a step
//! asks for the same few shapes again and again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::c_void;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::{CudaDevice, DType, Device, DeviceLocation, Tensor};

use super::activation::round;
use super::launch::{address, fresh, owned};
use crate::{Error, Result};

/// Bytes of a device's memory that kernels of the library may write to: what NVIDIA advises for the largest GPUs.
const WORKSPACE: usize = 32 << 20;

/// What the library takes a buffer to be aligned to, in bytes, where nothing is said; more is of no use.
const ALIGNMENT: u64 = 256;

/// A stack of matrices in bf16, in memory row by row, perhaps of the transposed matrix.
struct Operand {
    tensor: Tensor,
    transposed: bool,
}

impl Operand {
    /// Of `x` `[..., rows, cols]`, whose memory is not moved where it only has to be read the other way round.
    fn new(x: &Tensor) -> Result<Self> {
        let rank = x.rank();
        let turned = x.transpose(rank - 2, rank - 1)?;
        let transposed = !x.is_contiguous() && turned.is_contiguous();
        let tensor = if transposed { turned } else { x.contiguous()? };
        let tensor = if tensor.dtype() == DType::BF16 { tensor } else { round(&tensor)? };
        Ok(Self { tensor, transposed })
    }

    fn matrices(&self, address: u64) -> Matrices {
        let dims = self.tensor.dims();
        let [rows, cols] = [dims[dims.len() - 2], dims[dims.len() - 1]];
        Matrices { rows, cols, transposed: self.transposed, alignment: alignment(address) }
    }
}

/// How a stack of matrices lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Matrices {
    /// In memory, one row after another.
    rows: usize,
    cols: usize,
    /// Whether the product takes them the other way round.
    transposed: bool,
    /// Of the first number, in bytes.
    alignment: u32,
}

/// Bytes that `address` is a multiple of, as a power of 2, [`ALIGNMENT`] at most.
fn alignment(address: u64) -> u32 {
    1 << (address | ALIGNMENT).trailing_zeros()
}

/// A product's shape: `left right` by columns, which the library counts by; so memory by rows is the transposed
/// matrix to it, and `c = a b` is asked for as `c^T = b^T a^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    batch: usize,
    left: Matrices,
    right: Matrices,
    made: Matrices,
}

/// A description that the library keeps; it is freed with its owner.
struct Description<T: Copy> {
    handle: T,
    free: unsafe fn(T) -> std::result::Result<(), CublasError>,
}

impl<T: Copy> Drop for Description<T> {
    fn drop(&mut self) {
        // SAFETY: `free` is the function that belongs to what made `handle`, which nothing else frees. What it answers
        // changes nothing any more.
        let _ = unsafe { (self.free)(self.handle) };
    }
}

type Layout = Description<sys::cublasLtMatrixLayout_t>;

/// What the library needs to know for products of one shape.
struct Plan {
    product: Description<sys::cublasLtMatmulDesc_t>,
    left: Layout,
    right: Layout,
    made: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's address of a value that it copies.
fn read<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

fn layout(
    of: Matrices,
    kind: sys::cudaDataType,
    batch: usize,
) -> std::result::Result<Layout, CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
    let (rows, cols) = (of.cols as u64, of.rows as u64);
    let handle = result::create_matrix_layout(kind, rows, cols, of.cols as i64)?;
    let layout = Description { handle, free: result::destroy_matrix_layout };
    let (count, stride) = (batch as i32, (of.rows * of.cols) as i64);
    let (counted, strided) = (
        Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
        Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
    );
    // SAFETY: the layout lives, and a count of matrices has the size of an `i32`.
    unsafe {
        result::set_matrix_layout_attribute(handle, counted, read(&count), size_of::<i32>())
    }?;
    // SAFETY: the layout lives, and a stride has the size of an `i64`.
    unsafe {
        result::set_matrix_layout_attribute(handle, strided, read(&stride), size_of::<i64>())
    }?;
    Ok(layout)
}

impl Plan {
    fn new(library: sys::cublasLtHandle_t, shape: Shape) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let half = sys::cudaDataType_t::CUDA_R_16BF;
        let full = sys::cudaDataType_t::CUDA_R_32F;
        let handle =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, full)?;
        let product = Description { handle, free: result::destroy_matmul_desc };
        for (attribute, matrices) in [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, shape.left),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, shape.right),
        ] {
            // `CUBLAS_OP_T` is 1, `CUBLAS_OP_N` is 0.
            let operation = i32::from(matrices.transposed);
            // SAFETY: the description lives, and an operation has the size of an `i32`.
            unsafe {
                result::set_matmul_desc_attribute(
                    handle,
                    attribute,
                    read(&operation),
                    size_of::<i32>(),
                )?;
            }
        }
        let left = layout(shape.left, half, shape.batch)?;
        let right = layout(shape.right, half, shape.batch)?;
        let made = layout(shape.made, full, shape.batch)?;
        let preference = preference(shape)?;
        // SAFETY: every description lives, and describes memory that a product of this shape is called with.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                library,
                handle,
                left.handle,
                right.handle,
                made.handle,
                made.handle,
                preference.handle,
            )
        }?;
        Ok(Self { product, left, right, made, algorithm: found.algo })
    }
}

/// What a kernel for `shape` may count on: the workspace, and how its buffers are aligned.
fn preference(
    shape: Shape,
) -> std::result::Result<Description<sys::cublasLtMatmulPreference_t>, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let handle = result::create_matmul_pref()?;
    let preference = Description { handle, free: result::destroy_matmul_pref };
    let most = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    // SAFETY: the preference lives, and a number of bytes has the size of a `usize` on 64-bit machines.
    unsafe {
        result::set_matmul_pref_attribute(handle, most, read(&WORKSPACE), size_of::<usize>())?;
    }
    for (attribute, matrices) in [
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.left),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.right),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.made),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.made),
    ] {
        // SAFETY: the preference lives, and an alignment has the size of a `u32`.
        unsafe {
            result::set_matmul_pref_attribute(
                handle,
                attribute,
                read(&matrices.alignment),
                size_of::<u32>(),
            )?;
        }
    }
    Ok(preference)
}

/// cuBLASLt on one device. Plans are dropped before the handle, as fields are in order.
struct Library {
    plans: BTreeMap<Shape, Plan>,
    handle: Description<sys::cublasLtHandle_t>,
    workspace: CudaSlice<u8>,
}

thread_local! {
    /// Of the GPUs that this thread uses, which no other thread does ([`owned`]). A GPU that is opened again is the same:
    /// its memory and the thread's stream are.
    static LIBRARIES: RefCell<Vec<(DeviceLocation, Library)>> = const { RefCell::new(Vec::new()) };
}

fn refused(error: CublasError) -> Error {
    Error::failed("cuBLASLt refused a product").because(format!("{error:?}"))
}

impl Library {
    fn new(device: &CudaDevice) -> Result<Self> {
        let workspace = device.alloc_zeros::<u8>(WORKSPACE)?;
        let handle = result::create_handle().map_err(refused)?;
        let handle = Description { handle, free: result::destroy_handle };
        Ok(Self { plans: BTreeMap::new(), handle, workspace })
    }

    /// Enqueues the product of `addresses` `[left, right, made]`.
    fn enqueue(&mut self, stream: &CudaStream, shape: Shape, addresses: [u64; 3]) -> Result<()> {
        let plan = match self.plans.entry(shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Plan::new(self.handle.handle, shape).map_err(refused)?)
            }
        };
        let [left, right, made] = addresses;
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let (workspace, _order) = self.workspace.device_ptr(stream);
        // SAFETY: the plan describes the three buffers, which live until the call has enqueued the product; what frees
        // or reads them comes later on the same stream, as does the next product that writes to the workspace. alpha
        // and beta lie on the host, as a description does by default.
        unsafe {
            result::matmul(
                self.handle.handle,
                plan.product.handle,
                read(&alpha),
                read(&beta),
                left as *const _,
                plan.left.handle,
                right as *const _,
                plan.right.handle,
                made as *const _,
                plan.made.handle,
                made as *mut _,
                plan.made.handle,
                &raw const plan.algorithm,
                workspace as *mut _,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
    }
}

/// `a b` in f32: `[M, K]` and `[K, N]`, or stacks of as many of both.
///
/// # Errors
/// When the shapes don't fit, or cuBLASLt refuses.
pub(super) fn bf16(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (&[ref lead @ .., m, k], &[ref others @ .., inner, n]) = (a.dims(), b.dims()) else {
        return Err(Error::failed("a product needs matrices"));
    };
    if k != inner || lead != others {
        return Err(Error::failed(format!("no product of {:?} and {:?}", a.dims(), b.dims())));
    }
    let batch: usize = lead.iter().product();
    let shape = [lead, &[m, n]].concat();
    if batch * m * n * k == 0 {
        return Ok(Tensor::zeros(shape, DType::F32, a.device())?);
    }
    if i32::try_from(batch).is_err() {
        return Err(Error::failed(format!("{batch} products are too many for cuBLASLt")));
    }
    let (a, b) = (Operand::new(a)?, Operand::new(b)?);
    let c = fresh(shape, DType::F32, &a.tensor)?;
    let Device::Cuda(device) = c.device() else {
        return Err(Error::failed("cuBLASLt multiplies on a GPU"));
    };
    owned(device)?;
    let left = address(&b.tensor, DType::BF16, batch * k * n)?;
    let right = address(&a.tensor, DType::BF16, batch * m * k)?;
    let made = address(&c, DType::F32, batch * m * n)?;
    let shape = Shape {
        batch,
        left: b.matrices(left),
        right: a.matrices(right),
        made: Matrices { rows: m, cols: n, transposed: false, alignment: alignment(made) },
    };
    LIBRARIES.with_borrow_mut(|libraries| {
        let place = device.location();
        let known = libraries.iter().position(|(of, _)| *of == place);
        let at = match known {
            Some(at) => at,
            None => {
                libraries.push((place, Library::new(device)?));
                libraries.len() - 1
            }
        };
        libraries[at].1.enqueue(&device.cuda_stream(), shape, [left, right, made])
    })?;
    Ok(c)
}
