//! GELU by erf, x Phi(x), and its slope Phi(x) + x phi(x).

use super::Float;
use super::activation::Function;
use super::dispatch::{Kernel, dispatch};

/// 1 / sqrt(2 pi).
const DENSITY_AT_0: f64 = 0.398_942_280_401_432_7;

/// The function.
#[derive(Clone, Copy)]
pub(super) struct Gelu;

/// The normal distribution's function.
#[inline(always)]
fn phi<T: Float, const FMA: bool>(x: T) -> T {
    let half = T::HALF;
    (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf::<FMA>().fma::<FMA>(half, half)
}

/// The normal distribution's density.
#[inline(always)]
fn density<T: Float, const FMA: bool>(x: T) -> T {
    (-T::HALF * x * x).exp::<FMA>() * T::from_f64(DENSITY_AT_0)
}

impl Function for Gelu {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        x * phi::<T, FMA>(x)
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        x.fma::<FMA>(density::<T, FMA>(x), phi::<T, FMA>(x))
    }
}

/// Turns `h` into gelu(h), on the calling thread.
pub(super) fn in_place(h: &mut [f32]) {
    dispatch(InPlace { h });
}

struct InPlace<'a> {
    h: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for h in self.h {
            *h = Gelu.value::<f32, FMA>(*h);
        }
    }
}

/// Turns `h` into gelu(h), and `dy`, the gradient of that, into the gradient of `h`, which is added to `sums`; on the
/// calling thread. Both need Phi(h), which is most of the work.
pub(super) fn turn(h: &mut [f32], dy: &mut [f32], sums: &mut [f32]) {
    dispatch(Turn { h, dy, sums });
}

struct Turn<'a> {
    h: &'a mut [f32],
    dy: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rows = self.h.iter_mut().zip(self.dy.iter_mut()).zip(self.sums.iter_mut());
        for ((h, dy), sum) in rows {
            let (x, phi) = (*h, phi::<f32, FMA>(*h));
            *h = x * phi;
            *dy *= x.fma::<FMA>(density::<f32, FMA>(x), phi);
            *sum += *dy;
        }
    }
}
