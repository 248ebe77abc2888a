//! Convolutions over time whose frames are rows: sizes, and plain kernels for any number type.
//!
//! A frame holds all channels at one time, so that a window of frames is one run of memory and a
//! convolution is a product of overlapping runs. The plain kernels define the meaning and serve
//! gradient checks; training uses [`packed::conv1d`](super::packed::conv1d).

use super::Float;

/// The sizes of a convolution: x `[B, L, C]`, w `[O, k, C / groups]`, result `[B, T, O]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Samples, B.
    pub batch: usize,
    /// Frames that go in, L.
    pub frames: usize,
    /// Numbers per frame that goes in, C.
    pub channels: usize,
    /// Numbers per frame that comes out, O.
    pub outputs: usize,
    /// Frames in a window, k: at least 1, at most L + 2 padding.
    pub kernel: usize,
    /// Frames from one window to the next, at least 1.
    pub stride: usize,
    /// Frames of zeros before the first and after the last.
    pub padding: usize,
    /// Parts that channels and outputs are cut into; each part of the outputs sees one of channels.
    pub groups: usize,
}

impl Conv {
    /// Frames that come out, T.
    pub fn out_frames(&self) -> usize {
        (self.frames + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Channels that one output sees.
    pub fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Outputs of one group.
    pub fn group_outputs(&self) -> usize {
        self.outputs / self.groups
    }

    /// Numbers of x.
    pub fn x_len(&self) -> usize {
        self.batch * self.frames * self.channels
    }

    /// Numbers of w.
    pub fn w_len(&self) -> usize {
        self.outputs * self.kernel * self.group_channels()
    }

    /// Numbers of the result.
    pub fn y_len(&self) -> usize {
        self.batch * self.out_frames() * self.outputs
    }

    /// Multiplications and additions of one product: forward, or one of the gradients.
    pub fn flops(&self) -> usize {
        2 * self.batch * self.out_frames() * self.w_len()
    }

    /// Checks the lengths of x, w and of the result (or its gradient).
    pub(super) fn check<T>(&self, x: Option<&[T]>, w: Option<&[T]>, y: Option<&[T]>) {
        assert!(x.is_none_or(|x| x.len() == self.x_len()), "x is [B, L, C]");
        assert!(w.is_none_or(|w| w.len() == self.w_len()), "w is [O, k, C / groups]");
        assert!(y.is_none_or(|y| y.len() == self.y_len()), "the result is [B, T, O]");
    }

    /// Calls `body` with every place of a result and of the window's frame under each tap that is no
    /// padding: (start of x, of w, of y), where y is one number and x and w runs of C / groups.
    fn each(&self, mut body: impl FnMut(usize, usize, usize)) {
        let (width, outputs) = (self.group_channels(), self.group_outputs());
        for y in 0..self.y_len() {
            let (row, output) = (y / self.outputs, y % self.outputs);
            let (sample, t) = (row / self.out_frames(), row % self.out_frames());
            for tap in 0..self.kernel {
                // Before the first frame it wraps around, to far behind the last.
                let frame = (t * self.stride + tap).wrapping_sub(self.padding);
                if frame < self.frames {
                    let first = (sample * self.frames + frame) * self.channels;
                    let x = first + output / outputs * width;
                    body(x, (output * self.kernel + tap) * width, y);
                }
            }
        }
    }
}

/// `y[b, t, o] = bias[o] + sum over taps j and channels c of x[b, t stride + j - padding, c] w[o, j, c]`.
///
/// # Panics
/// When a slice has another length.
pub fn forward<T: Float>(x: &[T], w: &[T], bias: Option<&[T]>, conv: &Conv) -> Vec<T> {
    conv.check(Some(x), Some(w), None);
    let width = conv.group_channels();
    let mut y = vec![T::ZERO; conv.y_len()];
    if let Some(bias) = bias {
        y.chunks_exact_mut(conv.outputs).for_each(|y| y.copy_from_slice(bias));
    }
    conv.each(|at_x, at_w, at_y| {
        for (x, w) in x[at_x..][..width].iter().zip(&w[at_w..][..width]) {
            y[at_y] += *x * *w;
        }
    });
    y
}

/// The gradient of [`forward`] to x.
///
/// # Panics
/// When a slice has another length.
pub fn grad_input<T: Float>(dy: &[T], w: &[T], conv: &Conv) -> Vec<T> {
    conv.check(None, Some(w), Some(dy));
    let width = conv.group_channels();
    let mut dx = vec![T::ZERO; conv.x_len()];
    conv.each(|at_x, at_w, at_y| {
        for (dx, w) in dx[at_x..][..width].iter_mut().zip(&w[at_w..][..width]) {
            *dx += dy[at_y] * *w;
        }
    });
    dx
}

/// The gradient of [`forward`] to w.
///
/// # Panics
/// When a slice has another length.
pub fn grad_weight<T: Float>(dy: &[T], x: &[T], conv: &Conv) -> Vec<T> {
    conv.check(Some(x), None, Some(dy));
    let width = conv.group_channels();
    let mut dw = vec![T::ZERO; conv.w_len()];
    conv.each(|at_x, at_w, at_y| {
        for (dw, x) in dw[at_w..][..width].iter_mut().zip(&x[at_x..][..width]) {
            *dw += dy[at_y] * *x;
        }
    });
    dw
}
