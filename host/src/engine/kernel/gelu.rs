//! GELU by erf, x Phi(x), and its slope Phi(x) + x phi(x).

use super::Float;
use super::activation::Function;

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

impl Function for Gelu {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        x * phi::<T, FMA>(x)
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        let density = (-T::HALF * x * x).exp::<FMA>() * T::from_f64(DENSITY_AT_0);
        x.fma::<FMA>(density, phi::<T, FMA>(x))
    }
}
