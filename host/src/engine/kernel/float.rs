//! The numbers that kernels calculate with: f32 for training, f64 for gradient checks.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use super::block::{self, Left, Product, Transposed};
use super::erf;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// f32 or f64.
///
/// The functions with a parameter `FMA` have no branches in f32, so that loops over them are
/// vectorised; `FMA` says whether a fused multiply-add is one instruction here.
pub trait Float:
    sealed::Sealed
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// 1/2.
    const HALF: Self;
    /// Below every other number.
    const NEG_INFINITY: Self;

    /// The nearest number to `value`.
    #[must_use]
    fn from_f64(value: f64) -> Self;

    /// The same number in f64.
    fn to_f64(self) -> f64;

    /// The square root.
    #[must_use]
    fn sqrt(self) -> Self;

    /// The natural logarithm; scalar.
    #[must_use]
    fn ln(self) -> Self;

    /// The absolute value.
    #[must_use]
    fn abs(self) -> Self;

    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// `self b + c`.
    #[must_use]
    fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self;

    /// e to this power: 2 units in the last place in f32; exactly 0 below the smallest number.
    #[must_use]
    fn exp<const FMA: bool>(self) -> Self;

    /// The error function: within 4e-7 in f32, 1e-15 in f64.
    #[must_use]
    fn erf<const FMA: bool>(self) -> Self;

    /// The hyperbolic tangent: within 3e-7, relatively, in f32.
    #[must_use]
    fn tanh<const FMA: bool>(self) -> Self;

    /// `c = a b` or `c += a b`, for small operands and one thread; see [`block::product`].
    fn block_product(a: Left<'_, Self>, b: &[Self], product: &Product, c: &mut [Self]);

    /// `to[c, j] = from[j, c]`; see [`block::transpose`].
    fn block_transpose(from: &[Self], sizes: &Transposed, to: &mut [Self]);

    /// The number of this size, as `from_f64`.
    #[must_use]
    fn from_usize(value: usize) -> Self {
        Self::from_f64(value as f64)
    }

    /// The larger of the two; `other` where `self` is NaN.
    #[inline(always)]
    #[must_use]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const HALF: Self = 0.5;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as Self
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn ln(self) -> Self {
        self.ln()
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    #[inline(always)]
    fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self {
        if FMA { self.mul_add(b, c) } else { self * b + c }
    }

    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        // Comparisons are written so that NaN passes through.
        let x = if self < -104.0 { -104.0 } else { self };
        let x = if x > 89.0 { 89.0 } else { x };
        // Adding 1.5 2^23 rounds to a whole number, which then stands in the lowest bits.
        let shifted = x.fma::<FMA>(std::f32::consts::LOG2_E, MAGIC);
        let whole = shifted - MAGIC;
        let power = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed();
        let r = whole.fma::<FMA>(-LN2_HIGH, x);
        let r = whole.fma::<FMA>(-LN2_LOW, r);
        let p = 0.001_381_45_f32.fma::<FMA>(r, 0.008_368_782);
        let p = p.fma::<FMA>(r, 0.041_668_393);
        let p = p.fma::<FMA>(r, 0.166_665_2);
        let p = p.fma::<FMA>(r, 0.499_999_94);
        let y = (r * r).fma::<FMA>(p, r) + 1.0;
        // Two factors, because 2^power alone leaves the range of f32 at both ends.
        let half = power >> 1;
        y * power_of_two(half) * power_of_two(power.wrapping_sub(half))
    }

    #[inline(always)]
    fn erf<const FMA: bool>(self) -> Self {
        erf::erf_f32::<FMA>(self)
    }

    #[inline(always)]
    fn tanh<const FMA: bool>(self) -> Self {
        let size = self.abs();
        let s = self * self;
        let p = (-0.005_666_966_6_f32).fma::<FMA>(s, 0.020_606_168);
        let p = p.fma::<FMA>(s, -0.053_730_004);
        let p = p.fma::<FMA>(s, 0.133_313_31);
        let p = p.fma::<FMA>(s, -0.333_332_78);
        let near = (s * self).fma::<FMA>(p, self);
        let e = Float::exp::<FMA>(-2.0 * size);
        let far = ((1.0 - e) / (1.0 + e)).copysign(self);
        if size < 0.625 { near } else { far }
    }

    #[inline]
    fn block_product(a: Left<'_, Self>, b: &[Self], product: &Product, c: &mut [Self]) {
        block::product_f32(a, b, product, c);
    }

    #[inline]
    fn block_transpose(from: &[Self], sizes: &Transposed, to: &mut [Self]) {
        block::transpose_f32(from, sizes, to);
    }
}

const MAGIC: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// 2 to `power`, for powers from -126 to 127.
#[inline(always)]
fn power_of_two(power: i32) -> f32 {
    f32::from_bits((power.wrapping_add(127).cast_unsigned()) << 23)
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const HALF: Self = 0.5;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    fn ln(self) -> Self {
        self.ln()
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    #[inline(always)]
    fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self {
        if FMA { self.mul_add(b, c) } else { self * b + c }
    }

    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn erf<const FMA: bool>(self) -> Self {
        erf::erf_f64(self)
    }

    #[inline(always)]
    fn tanh<const FMA: bool>(self) -> Self {
        self.tanh()
    }

    #[inline]
    fn block_product(a: Left<'_, Self>, b: &[Self], product: &Product, c: &mut [Self]) {
        block::product(a, b, product, c);
    }

    #[inline]
    fn block_transpose(from: &[Self], sizes: &Transposed, to: &mut [Self]) {
        block::transpose(from, sizes, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
        (0..=20_000).map(move |i| low + (high - low) * f64::from(i) / 20_000.0)
    }

    #[test]
    fn exp_in_f32_is_within_3e_7_relatively_with_and_without_fma() {
        for x in steps(-86.0, 88.0) {
            let x = x as f32;
            let exact = f64::from(x).exp();
            for got in [Float::exp::<true>(x), Float::exp::<false>(x)] {
                assert!((f64::from(got) / exact - 1.0).abs() < 3e-7, "exp({x}) = {got}");
            }
        }
    }

    #[test]
    fn exp_in_f32_keeps_zero_infinity_and_nan() {
        assert_eq!(Float::exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(Float::exp::<true>(-1e6_f32), 0.0);
        assert_eq!(Float::exp::<true>(1e6_f32), f32::INFINITY);
        assert_eq!(Float::exp::<true>(0.0_f32), 1.0);
        assert!(Float::exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_in_f32_is_within_3e_7_relatively() {
        for x in steps(-12.0, 12.0) {
            let x = x as f32;
            let exact = f64::from(x).tanh();
            let got = f64::from(Float::tanh::<true>(x));
            assert!((got - exact).abs() <= 3e-7 * exact.abs(), "tanh({x}) = {got}");
        }
        assert!(Float::tanh::<true>(f32::NAN).is_nan());
    }
}
