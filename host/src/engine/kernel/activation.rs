//! Activations and exp, elementwise, forward and backward.

use super::dispatch::{Kernel, dispatch};
use super::gelu::Gelu;
use super::{Float, threads};

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Phi(x), where Phi is the normal distribution's function, by erf.
    Gelu,
    /// max(x, 0); the slope at 0 is 0.
    Relu,
    /// x / (1 + exp(-x)).
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// exp(x).
    Exp,
}

/// A function and its slope at a point; without branches in f32.
pub(super) trait Function: Copy + Send + Sync {
    /// f(x).
    fn value<T: Float, const FMA: bool>(self, x: T) -> T;

    /// f'(x).
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T;
}

/// Calls `$body` with `$function` standing for the activation's type.
macro_rules! with_function {
    ($activation:expr, $function:ident => $body:expr) => {
        match $activation {
            Activation::Gelu => {
                let $function = Gelu;
                $body
            }
            Activation::Relu => {
                let $function = Relu;
                $body
            }
            Activation::Silu => {
                let $function = Silu;
                $body
            }
            Activation::Tanh => {
                let $function = Tanh;
                $body
            }
            Activation::Sigmoid => {
                let $function = Sigmoid;
                $body
            }
            Activation::Exp => {
                let $function = Exp;
                $body
            }
        }
    };
}

/// f(x), elementwise.
pub fn forward<T: Float>(activation: Activation, x: &[T]) -> Vec<T> {
    let len = threads::ELEMENTS_PER_TASK;
    with_function!(activation, function => threads::made((x.len(), len), || (), |(), i, y| {
        let x = &x[i * len..][..y.len()];
        dispatch(Forward { function, x, y });
    }))
}

/// `y = f(x)`, on the calling thread.
pub(super) fn forward_on_one_thread<T: Float>(activation: Activation, x: &[T], y: &mut [T]) {
    with_function!(activation, function => dispatch(Forward { function, x, y }));
}

/// `dy *= f'(x)`, on the calling thread.
pub(super) fn backward_on_one_thread<T: Float>(activation: Activation, x: &[T], dy: &mut [T]) {
    with_function!(activation, function => dispatch(InPlace { function, x, dy }));
}

/// `dy f'(x)`, elementwise.
///
/// # Panics
/// When the lengths differ.
pub fn backward<T: Float>(activation: Activation, x: &[T], dy: &[T]) -> Vec<T> {
    assert_eq!(x.len(), dy.len(), "the gradient has the length of the input");
    let len = threads::ELEMENTS_PER_TASK;
    with_function!(activation, function => threads::made((x.len(), len), || (), |(), i, dx| {
        let start = i * len;
        let (x, dy) = (&x[start..][..dx.len()], &dy[start..][..dx.len()]);
        dispatch(Backward { function, x, dy, dx });
    }))
}

struct Forward<'a, T, F> {
    function: F,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Float, F: Function> Kernel for Forward<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = self.function.value::<T, FMA>(*x);
        }
    }
}

struct Backward<'a, T, F> {
    function: F,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Float, F: Function> Kernel for Backward<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((dx, x), dy) in self.dx.iter_mut().zip(self.x).zip(self.dy) {
            *dx = *dy * self.function.slope::<T, FMA>(*x);
        }
    }
}

struct InPlace<'a, T, F> {
    function: F,
    x: &'a [T],
    dy: &'a mut [T],
}

impl<T: Float, F: Function> Kernel for InPlace<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (dy, x) in self.dy.iter_mut().zip(self.x) {
            *dy *= self.function.slope::<T, FMA>(*x);
        }
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Function for Relu {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        // Written so that NaN passes through.
        if x < T::ZERO { T::ZERO } else { x }
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        if x > T::ZERO { T::ONE } else { T::ZERO }
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        T::ONE / (T::ONE + (-x).exp::<FMA>())
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        let y = self.value::<T, FMA>(x);
        y * (T::ONE - y)
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        x * Sigmoid.value::<T, FMA>(x)
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        let s = Sigmoid.value::<T, FMA>(x);
        s * (T::ONE + x * (T::ONE - s))
    }
}

#[derive(Clone, Copy)]
struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        x.tanh::<FMA>()
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        let y = x.tanh::<FMA>();
        T::ONE - y * y
    }
}

#[derive(Clone, Copy)]
struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn value<T: Float, const FMA: bool>(self, x: T) -> T {
        x.exp::<FMA>()
    }

    #[inline(always)]
    fn slope<T: Float, const FMA: bool>(self, x: T) -> T {
        x.exp::<FMA>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::erf::erf_f64;
    use crate::engine::kernel::testing::{assert_close, numbers, to};

    const ALL: [Activation; 6] = [
        Activation::Gelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Exp,
    ];

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => x * 0.5 * (1.0 + erf_f64(x / 2.0_f64.sqrt())),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Exp => x.exp(),
        }
    }

    /// Numbers from -7 to 7.
    fn inputs(count: usize) -> Vec<f64> {
        numbers(1, count).iter().map(|x| f64::from((x * 7.0) as f32)).collect()
    }

    fn check<T: Float>(count: usize, tolerance: f64, slope_tolerance: f64) {
        let (x, dy) = (inputs(count), numbers(2, count));
        let (xt, dyt) = (to::<T>(&x), to::<T>(&dy));
        for activation in ALL {
            let y = forward(activation, &xt);
            let want: Vec<f64> = x.iter().map(|x| exact(activation, *x)).collect();
            assert_close(&y, &want, tolerance);
            let y = backward(activation, &xt, &dyt);
            let slope = |x| (exact(activation, x + 1e-5) - exact(activation, x - 1e-5)) / 2e-5;
            let want: Vec<f64> = x.iter().zip(&dy).map(|(x, dy)| dy * slope(*x)).collect();
            assert_close(&y, &want, slope_tolerance);
            let mut in_place = dyt.clone();
            backward_on_one_thread(activation, &xt, &mut in_place);
            assert_eq!(in_place, y);
        }
    }

    #[test]
    fn activations_and_their_slopes_agree_with_their_formulas() {
        for count in [0, 1, 17, 1000, threads::ELEMENTS_PER_TASK + 3] {
            check::<f32>(count, 1e-6, 2e-6);
            check::<f64>(count, 1e-13, 1e-7);
        }
    }

    #[test]
    fn nan_stays_nan_so_that_the_guard_can_see_it() {
        for activation in ALL {
            assert!(forward(activation, &[f32::NAN])[0].is_nan(), "{activation:?}");
        }
    }
}
