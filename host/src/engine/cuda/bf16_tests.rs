//! Kernels whose results are operands in bf16, which no op asks for under emulation: what their twins make in f32,
//! rounded.

use candle_core::{DType, Device, Tensor};

use super::emulated::{BROKEN, emulate};
use super::window::Windows;
use super::{activation, norm, window};
use crate::Result;
use crate::engine::storage;
use crate::random::Stream;

fn normal(dims: &[usize]) -> Tensor {
    let stream = &mut Stream::new(17, "bf16", 0, 0);
    let numbers: Vec<f32> = (0..dims.iter().product()).map(|_| stream.normal() as f32).collect();
    storage::tensor(numbers, dims).unwrap()
}

/// Holds what `make` makes in bf16 to what it makes in f32, bit by bit.
fn assert_rounded(what: &str, make: impl Fn(DType) -> Result<Tensor>) {
    let made = emulate(|| [DType::BF16, DType::F32].map(|dtype| make(dtype).unwrap()));
    let [rounded, exact] = match made {
        Ok(made) => made,
        Err(why) => {
            assert!(!why.starts_with(BROKEN), "{why}");
            eprintln!("skipped: no emulated kernels: {why}");
            return;
        }
    };
    assert_eq!((rounded.dims(), rounded.dtype()), (exact.dims(), DType::BF16), "{what}");
    let want = exact.to_dtype(DType::BF16).unwrap();
    assert_eq!(storage::to_f32(&rounded).unwrap(), storage::to_f32(&want).unwrap(), "{what}");
}

#[test]
fn operands_in_bf16_are_their_twins_in_f32_rounded() {
    // More rows than a block has warps, and more numbers than a block takes.
    let (x, w, b) = (normal(&[11, 150]), normal(&[150]), normal(&[150]));
    for centred in [true, false] {
        let affine = [Some(&w), Some(&b)];
        assert_rounded("a norm", |dtype| Ok(norm::forward(&x, affine, (centred, 1e-5), dtype)?.y));
    }
    assert_rounded("GELU", |dtype| activation::gelu(&x, dtype));
    assert_rounded("rounding", |dtype| {
        if dtype == DType::BF16 { activation::round(&x) } else { Ok(x.clone()) }
    });
    let windows = Windows {
        height: 9,
        width: 7,
        channels: 4,
        groups: 2,
        to_height: 5,
        to_width: 4,
        kernel_height: 3,
        kernel_width: 3,
        stride: 2,
        padding_height: 1,
        padding_width: 1,
    };
    let pictures = normal(&[2, 9, 7, 4]);
    assert_rounded("windows", |dtype| window::unfold(&pictures, &windows, dtype));
}

#[test]
fn rounding_goes_to_the_nearest_and_of_two_to_the_even() {
    // Halves between neighbours, the largest, an infinity, the smallest; as candle rounds on the CPU.
    let bits = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0xff80_0000, 0x0000_0001];
    let x = Tensor::new(&bits.map(f32::from_bits), &Device::Cpu).unwrap();
    assert_rounded("rounding", |dtype| {
        if dtype == DType::BF16 { activation::round(&x) } else { Ok(x.clone()) }
    });
}
