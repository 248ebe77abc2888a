//! Launches of `update.cu`: norms, steps of optimisers and averages of many tensors at once.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, address, file, fresh};
use crate::{Error, Result};

const FILE: File = file!("update");

/// Tensors of one launch, as `update.cu` has it.
const TENSORS: usize = 36;
/// Numbers of one block, as `update.cu` has it.
const SPAN: usize = 4096;

/// `Tensors` of `update.cu`, field by field; at most 4 KiB, the most that a launch takes by value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Table {
    value: [u64; TENSORS],
    gradient: [u64; TENSORS],
    first: [u64; TENSORS],
    second: [u64; TENSORS],
    length: [i32; TENSORS],
    first_block: [i32; TENSORS + 1],
    keep: [f32; TENSORS],
    step: [f32; TENSORS],
    second_scale: [f32; TENSORS],
    count: i32,
}

const _: () = assert!(size_of::<Table>() == 1880 && size_of::<Table>() <= 4096);

// SAFETY: the table is plain numbers in C's layout, and the kernels take it by value.
#[cfg(feature = "cuda")]
unsafe impl candle_core::cuda_backend::cudarc::driver::DeviceRepr for Table {}

/// One tensor of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// What is updated; contiguous, as all of them.
    pub value: &'a Tensor,
    /// Its gradient, or what it follows.
    pub gradient: &'a Tensor,
    /// Its moments.
    pub moments: [Option<&'a Tensor>; 2],
    /// What the kernel calls `keep`, `step` and `second_scale`.
    pub constants: [f32; 3],
}

impl Table {
    /// Of at most [`TENSORS`] items.
    fn new(items: &[Item<'_>]) -> Result<Self> {
        let none = [0; TENSORS];
        let mut table = Self {
            value: none,
            gradient: none,
            first: none,
            second: none,
            length: [0; TENSORS],
            first_block: [0; TENSORS + 1],
            keep: [0.0; TENSORS],
            step: [0.0; TENSORS],
            second_scale: [0.0; TENSORS],
            count: items.len() as i32,
        };
        let mut block = 0;
        for (i, item) in items.iter().enumerate() {
            let length = item.gradient.elem_count();
            if item.value.elem_count() != length {
                return Err(Error::failed("a tensor and what updates it differ in shape"));
            }
            let at = |tensor: &Tensor| address(tensor, DType::F32, length);
            table.value[i] = at(item.value)?;
            table.gradient[i] = at(item.gradient)?;
            let [first, second] = item.moments;
            table.first[i] = first.map_or(Ok(0), at)?;
            table.second[i] = second.map_or(Ok(0), at)?;
            table.length[i] = i32::try_from(length)
                .map_err(|_| Error::failed(format!("a tensor of {length} numbers is too large")))?;
            table.first_block[i] = block;
            [table.keep[i], table.step[i], table.second_scale[i]] = item.constants;
            block += length.div_ceil(SPAN) as i32;
        }
        table.first_block[items.len()..].fill(block);
        Ok(table)
    }

    fn blocks(&self) -> usize {
        self.first_block[TENSORS].unsigned_abs() as usize
    }

    fn launch(&self, kernel: &'static str) -> Launch {
        Launch { file: FILE, kernel, grid: [self.blocks(), 1], threads: 256, shared: 0 }
    }
}

/// The sum of squares of each of `tensors`, `[n]`.
///
/// # Errors
/// When a tensor isn't contiguous, or the launch is refused.
pub fn squares(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(like) = tensors.first() else { return Err(Error::failed("no tensors to measure")) };
    let squares = fresh(tensors.len(), DType::F32, like)?;
    for (i, tensors) in tensors.chunks(TENSORS).enumerate() {
        let items: Vec<Item<'_>> = tensors
            .iter()
            .map(|x| Item { value: x, gradient: x, moments: [None; 2], constants: [0.0; 3] })
            .collect();
        let table = Table::new(&items)?;
        let blocks = table.blocks().max(1);
        let parts = fresh(blocks, DType::F32, like)?;
        let sums = squares.narrow(0, i * TENSORS, tensors.len())?;
        let [given, parts] = [Arg::Table(&table), Arg::F32(&parts, blocks)];
        table.launch("square_parts").run(like, &[given, parts])?;
        Launch { grid: [tensors.len(), 1], threads: 32, ..table.launch("square_sums") }
            .run(like, &[given, parts, Arg::F32(&sums, tensors.len())])?;
    }
    Ok(squares)
}

/// A step of AdamW for every item, where the gate (u8 `[1]`) is open: gradients times `factors` `[n]`.
///
/// # Errors
/// As [`squares`].
pub fn adamw(
    items: &[Item<'_>],
    factors: &Tensor,
    gate: &Tensor,
    [beta1, beta2, eps]: [f32; 3],
) -> Result<()> {
    for (i, items) in items.chunks(TENSORS).enumerate() {
        let table = Table::new(items)?;
        let factors = factors.narrow(0, i * TENSORS, items.len())?;
        let args = [
            Arg::Table(&table),
            Arg::F32(&factors, items.len()),
            Arg::U8(gate, 1),
            Arg::Float(f64::from(beta1)),
            Arg::Float(f64::from(beta2)),
            Arg::Float(f64::from(eps)),
        ];
        table.launch("adamw").run(items[0].value, &args)?;
    }
    Ok(())
}

/// A step of SGD for every item; see [`adamw`]. Slopes with their decay are multiplied by `scales` `[n]`, if given.
///
/// # Errors
/// As [`squares`].
pub fn sgd(
    items: &[Item<'_>],
    factors: &Tensor,
    scales: Option<&Tensor>,
    gate: &Tensor,
) -> Result<()> {
    for (i, items) in items.chunks(TENSORS).enumerate() {
        let table = Table::new(items)?;
        let factors = factors.narrow(0, i * TENSORS, items.len())?;
        let scales = scales.map(|all| all.narrow(0, i * TENSORS, items.len())).transpose()?;
        let factors = Arg::F32(&factors, items.len());
        let scales = Arg::optional(scales.as_ref(), items.len());
        let args = [Arg::Table(&table), factors, scales, Arg::U8(gate, 1)];
        table.launch("sgd").run(items[0].value, &args)?;
    }
    Ok(())
}

/// `value = keep value + take gradient` for every item, where the gate (u8 `[1]`) is open.
///
/// # Errors
/// As [`squares`].
pub fn average(items: &[Item<'_>], gate: &Tensor, [keep, take]: [f32; 2]) -> Result<()> {
    for items in items.chunks(TENSORS) {
        let table = Table::new(items)?;
        let args = [
            Arg::Table(&table),
            Arg::U8(gate, 1),
            Arg::Float(f64::from(keep)),
            Arg::Float(f64::from(take)),
        ];
        table.launch("average").run(items[0].value, &args)?;
    }
    Ok(())
}
