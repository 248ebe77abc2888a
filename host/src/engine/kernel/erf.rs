//! The error function, erf(x) = 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.
#![expect(clippy::excessive_precision, reason = "the coefficients as published")]

use super::Float;

/// Beyond it erf is 1 up to 2.4e-8, less than half a unit in the last place of f32.
const END: f32 = 3.95;

/// x P(x^2) / Q(x^2): least relative error on [0, 3.95], 2.1e-8 before rounding.
#[inline(always)]
pub(super) fn erf_f32<const FMA: bool>(x: f32) -> f32 {
    // Comparisons are written so that NaN passes through.
    let x = if x < -END { -END } else { x };
    let x = if x > END { END } else { x };
    let s = x * x;
    let p = 2.025_92e-6_f32.fma::<FMA>(s, 2.846_853_8e-4);
    let p = p.fma::<FMA>(s, 3.808_072e-3);
    let p = p.fma::<FMA>(s, 5.287_517e-2);
    let p = p.fma::<FMA>(s, 0.191_548_27);
    let p = p.fma::<FMA>(s, std::f32::consts::FRAC_2_SQRT_PI);
    let q = 3.783_18e-5_f32.fma::<FMA>(s, 1.170_703_3e-3);
    let q = q.fma::<FMA>(s, 1.505_491_2e-2);
    let q = q.fma::<FMA>(s, 0.114_558_78);
    let q = q.fma::<FMA>(s, 0.503_087_94);
    let q = q.fma::<FMA>(s, 1.0);
    let y = x * p / q;
    let y = if y < -1.0 { -1.0 } else { y };
    if y > 1.0 { 1.0 } else { y }
}

/// W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969).
pub(super) fn erf_f64(x: f64) -> f64 {
    let size = x.abs();
    if size <= 0.46875 {
        return x * near(x * x);
    }
    let complement = if size <= 4.0 {
        middle(size) * exp_of_minus_square(size)
    } else if size < 6.0 {
        far(size) * exp_of_minus_square(size)
    } else {
        0.0
    };
    if x.is_nan() { x } else { (1.0 - complement).copysign(x) }
}

/// exp(-x^2), with x^2 split so that its rounding error is not magnified.
fn exp_of_minus_square(x: f64) -> f64 {
    let high = (x * 16.0).trunc() / 16.0;
    let low = (x - high) * (x + high);
    (-high * high).exp() * (-low).exp()
}

/// Horner's rule from the highest power down.
fn polynomial(x: f64, falling: &[f64]) -> f64 {
    falling.iter().fold(0.0, |sum, c| sum * x + c)
}

fn near(s: f64) -> f64 {
    const P: [f64; 5] = [
        1.857_777_061_846_031_53e-1,
        3.161_123_743_870_565_6,
        1.138_641_541_510_501_56e2,
        3.774_852_376_853_020_21e2,
        3.209_377_589_138_469_47e3,
    ];
    const Q: [f64; 5] = [
        1.0,
        2.360_129_095_234_412_09e1,
        2.440_246_379_344_441_73e2,
        1.282_616_526_077_372_28e3,
        2.844_236_833_439_170_62e3,
    ];
    polynomial(s, &P) / polynomial(s, &Q)
}

fn middle(x: f64) -> f64 {
    const P: [f64; 9] = [
        2.153_115_354_744_038_46e-8,
        5.641_884_969_886_700_89e-1,
        8.883_149_794_388_375_94,
        6.611_919_063_714_162_95e1,
        2.986_351_381_974_001_31e2,
        8.819_522_212_417_690_9e2,
        1.712_047_612_634_070_58e3,
        2.051_078_377_826_071_47e3,
        1.230_339_354_797_997_25e3,
    ];
    const Q: [f64; 9] = [
        1.0,
        1.574_492_611_070_983_47e1,
        1.176_939_508_913_124_99e2,
        5.371_811_018_620_098_58e2,
        1.621_389_574_566_690_19e3,
        3.290_799_235_733_459_63e3,
        4.362_619_090_143_247_16e3,
        3.439_367_674_143_721_64e3,
        1.230_339_354_803_749_42e3,
    ];
    polynomial(x, &P) / polynomial(x, &Q)
}

fn far(x: f64) -> f64 {
    const P: [f64; 6] = [
        1.631_538_713_730_209_78e-2,
        3.053_266_349_612_323_44e-1,
        3.603_448_999_498_044_39e-1,
        1.257_817_261_112_292_46e-1,
        1.608_378_514_874_227_66e-2,
        6.587_491_615_298_378_03e-4,
    ];
    const Q: [f64; 6] = [
        1.0,
        2.568_520_192_289_822_42,
        1.872_952_849_923_467_25,
        5.279_051_029_514_284_12e-1,
        6.051_834_131_244_131_91e-2,
        2.335_204_976_268_691_85e-3,
    ];
    const ONE_OVER_ROOT_PI: f64 = 0.564_189_583_547_756_3;
    let s = 1.0 / (x * x);
    (ONE_OVER_ROOT_PI - s * polynomial(s, &P) / polynomial(s, &Q)) / x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series 2 / sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (1 3 5 ... (2n+1)): all terms positive.
    fn by_series(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..400 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn erf_in_f64_is_within_1e_14_of_its_series() {
        for i in -650..=650 {
            let x = f64::from(i) / 100.0;
            assert!((erf_f64(x) - by_series(x)).abs() < 1e-14, "erf({x})");
        }
        assert!(erf_f64(f64::NAN).is_nan());
    }

    #[test]
    fn erf_in_f32_is_within_4e_7() {
        for i in -60_000..=60_000 {
            let x = i as f32 / 10_000.0;
            let exact = erf_f64(f64::from(x));
            for got in [erf_f32::<true>(x), erf_f32::<false>(x)] {
                assert!((f64::from(got) - exact).abs() < 4e-7, "erf({x}) = {got}");
            }
        }
        assert_eq!(erf_f32::<true>(f32::INFINITY), erf_f32::<true>(END));
        assert!(erf_f32::<true>(f32::NAN).is_nan());
    }
}
