//! The catalogue of ops as methods of [`Tensor`]. Formulas and shapes: `docs/ops.md`, which is normative.

use crate::abi::value::Value;
use crate::build::Stream;
use crate::tensor::{Op, Tensor, optional};

/// Defines a method that calls an op of the same name, revision 1.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty => $value:expr),* $(,)?);)*) => {
        #[expect(
            clippy::should_implement_trait,
            reason = "the operators below call these, which read better in a chain"
        )]
        impl Tensor {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(self, $($arg: $type),*) -> Self {
                static OP: Op = Op::new(stringify!($name), 1);
                OP.call(&[self.value(), $($value),*])
            })*
        }
    };
}

ops! {
    /// `self + other`, broadcast.
    add(other: Self => other.value());
    /// `self - other`, broadcast.
    sub(other: Self => other.value());
    /// `self * other`, broadcast.
    mul(other: Self => other.value());
    /// `self / other`, broadcast.
    div(other: Self => other.value());
    /// `alpha self + beta`.
    affine(alpha: f64 => Value::float(alpha), beta: f64 => Value::float(beta));
    /// `self + weight (other - self)`.
    lerp(other: Self => other.value(), weight: f64 => Value::float(weight));
    /// e to the power of each element.
    exp();
    /// Natural logarithm.
    log();
    /// Square root.
    sqrt();
    /// Square.
    square();
    /// Absolute value.
    abs();
    /// max(x, 0).
    relu();
    /// GELU by the error function.
    gelu();
    /// x sigmoid(x).
    silu();
    /// Hyperbolic tangent.
    tanh();
    /// 1 / (1 + exp(-x)).
    sigmoid();
    /// Between `low` and `high`.
    clamp(low: f64 => Value::float(low), high: f64 => Value::float(high));
    /// Itself; its gradient is multiplied by `factor`.
    grad_scale(factor: f64 => Value::float(factor));
    /// Itself, cut from the gradient.
    stop_grad();
    /// The same elements in another shape; one size may be -1.
    reshape(shape: &[i64] => Value::ints(shape));
    /// Its dimensions in another order.
    permute(order: &[i64] => Value::ints(order));
    /// Repeated to `shape`.
    broadcast_to(shape: &[i64] => Value::ints(shape));
    /// `length` entries of `dim` from `start` on.
    narrow(dim: i64 => Value::int(dim), start: usize => Value::int(start.cast_signed() as i64), length: usize => Value::int(length.cast_signed() as i64));
    /// The entries `indices` `[K]` of `dim`.
    index_select(dim: i64 => Value::int(dim), indices: Self => indices.value());
    /// Tokens `[B, K, D]` at `indices` `[B, K]` of `[B, N, D]`.
    gather_tokens(indices: Self => indices.value());
    /// `[B, N, D]` with the tokens at `indices` `[B, K]` replaced by `tokens` `[B, K, D]`.
    scatter_tokens(indices: Self => indices.value(), tokens: Self => tokens.value());
    /// `[B, N, D]` with `token` `[D]` where `mask` `[B, N]` is 1.
    mask_tokens(mask: Self => mask.value(), token: Self => token.value());
    /// Sum over `dims` (all where empty).
    sum(dims: &[i64] => Value::ints(dims), keep: bool => Value::int(i64::from(keep)));
    /// Mean over `dims` (all where empty).
    mean(dims: &[i64] => Value::ints(dims), keep: bool => Value::int(i64::from(keep)));
    /// Variance along `dim`.
    var(dim: i64 => Value::int(dim), unbiased: bool => Value::int(i64::from(unbiased)), keep: bool => Value::int(i64::from(keep)));
    /// Largest along `dim`.
    max(dim: i64 => Value::int(dim), keep: bool => Value::int(i64::from(keep)));
    /// log sum exp along `dim`.
    logsumexp(dim: i64 => Value::int(dim), keep: bool => Value::int(i64::from(keep)));
    /// softmax(x / temperature) along `dim`.
    softmax(dim: i64 => Value::int(dim), temperature: f64 => Value::float(temperature));
    /// log softmax(x / temperature) along `dim`.
    log_softmax(dim: i64 => Value::int(dim), temperature: f64 => Value::float(temperature));
    /// Place of the largest along `dim`.
    argmax(dim: i64 => Value::int(dim));
    /// Indices `[...]` to `[..., classes]`.
    one_hot(classes: usize => Value::int(classes.cast_signed() as i64));
    /// 1 where equal, else 0.
    equal(other: Self => other.value());
    /// 1 where `self > other`, else 0.
    greater(other: Self => other.value());
    /// Matrix product over the last two dimensions.
    matmul(other: Self => other.value());
    /// `x w^T + b`, with `weight` `[O, I]`.
    linear(weight: Self => weight.value(), bias: Option<Self> => optional(bias));
    /// gelu(`x w^T + b`), fused.
    linear_gelu(weight: Self => weight.value(), bias: Option<Self> => optional(bias));
    /// Convolution over time of `[B, C, T]` with `weight` `[O, C / groups, k]`.
    conv1d(weight: Self => weight.value(), bias: Option<Self> => optional(bias), stride: usize => Value::int(stride.cast_signed() as i64), padding: usize => Value::int(padding.cast_signed() as i64), groups: usize => Value::int(groups.cast_signed() as i64));
    /// The same of GELU of `[B, C, T]`, fused.
    gelu_conv1d(weight: Self => weight.value(), bias: Option<Self> => optional(bias), stride: usize => Value::int(stride.cast_signed() as i64), padding: usize => Value::int(padding.cast_signed() as i64), groups: usize => Value::int(groups.cast_signed() as i64));
    /// `g v / |v|` over all but the first dimension.
    weight_norm(gain: Option<Self> => optional(gain));
    /// Layer norm over the last dimension.
    layer_norm(weight: Option<Self> => optional(weight), bias: Option<Self> => optional(bias), eps: f64 => Value::float(eps));
    /// Group norm of `[B, C, ...]`.
    group_norm(groups: usize => Value::int(groups.cast_signed() as i64), weight: Option<Self> => optional(weight), bias: Option<Self> => optional(bias), eps: f64 => Value::float(eps));
    /// RMS norm over the last dimension.
    rms_norm(weight: Option<Self> => optional(weight), eps: f64 => Value::float(eps));
    /// `x / max(|x|, eps)` along `dim`.
    l2_normalize(dim: i64 => Value::int(dim), eps: f64 => Value::float(eps));
    /// Multi-head attention of packed `[B, N, 3 D]`; scale 0 means 1/sqrt(D / heads).
    attention(heads: usize => Value::int(heads.cast_signed() as i64), scale: f64 => Value::float(scale));
    /// The same of the first `lengths` `[B]` tokens of each sample; 0 elsewhere.
    padded_attention(lengths: Self => lengths.value(), heads: usize => Value::int(heads.cast_signed() as i64), scale: f64 => Value::float(scale));
    /// Patches `[B, N, C p p]` of images `[B, C, H, W]`.
    patchify(patch: usize => Value::int(patch.cast_signed() as i64));
    /// A convolution of `[B, C, H, W]` with `weight` `[O, C, kh, kw]`.
    conv2d(weight: Self => weight.value(), bias: Option<Self> => optional(bias), stride: usize => Value::int(stride.cast_signed() as i64), padding: usize => Value::int(padding.cast_signed() as i64));
    /// The largest of each window of `[B, C, H, W]`.
    max_pool2d(kernel: usize => Value::int(kernel.cast_signed() as i64), stride: usize => Value::int(stride.cast_signed() as i64), padding: usize => Value::int(padding.cast_signed() as i64));
    /// `[B, C, H, W]` to another size.
    resize_bicubic(height: usize => Value::int(height.cast_signed() as i64), width: usize => Value::int(width.cast_signed() as i64), offset: f64 => Value::float(offset));
    /// Zero with probability `p`, else scaled by 1 / (1 - p).
    dropout(p: f64 => Value::float(p), stream: &Stream => Value::handle(stream.handle));
    /// Whole samples zero with probability `p`, else scaled by 1 / (1 - p).
    drop_path(p: f64 => Value::float(p), stream: &Stream => Value::handle(stream.handle));
    /// Rows of -log softmax(x / temperature) at `targets` `[R]`.
    cross_entropy(targets: Self => targets.value(), temperature: f64 => Value::float(temperature));
    /// Rows of -sum targets log softmax(x / temperature).
    soft_cross_entropy(targets: Self => targets.value(), temperature: f64 => Value::float(temperature));
    /// Smooth L1 distance, elementwise.
    smooth_l1(other: Self => other.value(), beta: f64 => Value::float(beta));
    /// Balanced assignments `[B, K]` of scores over the global batch.
    sinkhorn(epsilon: f64 => Value::float(epsilon), iterations: usize => Value::int(iterations.cast_signed() as i64));
    /// Queue `[L, D]` with `rows` `[B, D]` in front.
    queue_push(rows: Self => rows.value());
    /// Sum, or mean, over ranks.
    all_reduce(mean: bool => Value::int(i64::from(mean)));
    /// Rows of all ranks, in rank order.
    all_gather();
    /// Mean standard deviation of the dimensions of normalised rows.
    spread();
}

impl Tensor {
    /// The `k` largest along the last dimension, and their places.
    pub fn topk(self, k: usize) -> (Self, Self) {
        static OP: Op = Op::new("topk", 1);
        OP.call_all(&[self.value(), Value::int(k.cast_signed() as i64)]).into()
    }

    /// Each channel of `[B, C]` or `[B, C, H, W]` normalised over all else, by its own mean and variance or by
    /// the `statistics` given, times `weight` plus `bias`; with the mean and the variance `[C]` that were used.
    pub fn batch_norm(
        self,
        weight: Option<Self>,
        bias: Option<Self>,
        statistics: Option<(Self, Self)>,
        eps: f64,
    ) -> (Self, Self, Self) {
        static OP: Op = Op::new("batch_norm", 1);
        let (mean, var) = statistics.unzip();
        let [weight, bias, mean, var] = [weight, bias, mean, var].map(optional);
        OP.call_all(&[self.value(), weight, bias, mean, var, Value::float(eps)]).into()
    }

    /// [`batch_norm`](Self::batch_norm), then the addition of `residual`, then max(x, 0), in one pass.
    pub fn batch_norm_relu(
        self,
        [weight, bias]: [Option<Self>; 2],
        statistics: Option<(Self, Self)>,
        residual: Option<Self>,
        eps: f64,
    ) -> (Self, Self, Self) {
        static OP: Op = Op::new("batch_norm_relu", 1);
        let (mean, var) = statistics.unzip();
        let [weight, bias, mean, var] = [weight, bias, mean, var].map(optional);
        let (residual, eps) = (optional(residual), Value::float(eps));
        OP.call_all(&[self.value(), weight, bias, mean, var, residual, eps]).into()
    }

    /// `tensors` joined along `dim`.
    pub fn cat(dim: i64, tensors: &[Self]) -> Self {
        static OP: Op = Op::new("cat", 1);
        let mut arguments = vec![Value::int(dim)];
        arguments.extend(tensors.iter().map(|tensor| tensor.value()));
        OP.call(&arguments)
    }

    /// `mask` chooses: `self` where 1, `other` where 0. `mask` is u8.
    #[must_use]
    pub fn choose(mask: Self, one: Self, other: Self) -> Self {
        static OP: Op = Op::new("where", 1);
        OP.call(&[mask.value(), one.value(), other.value()])
    }

    /// Uniform numbers in `[low, high)`.
    pub fn uniform(stream: &Stream, shape: &[i64], low: f64, high: f64) -> Self {
        static OP: Op = Op::new("uniform", 1);
        let stream = Value::handle(stream.handle);
        OP.call(&[stream, Value::ints(shape), Value::float(low), Value::float(high)])
    }

    /// Normal numbers.
    pub fn normal(stream: &Stream, shape: &[i64], mean: f64, std: f64) -> Self {
        static OP: Op = Op::new("normal", 1);
        let stream = Value::handle(stream.handle);
        OP.call(&[stream, Value::ints(shape), Value::float(mean), Value::float(std)])
    }

    /// `factor` times itself.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        self.affine(factor, 0.0)
    }
}

impl std::ops::Add for Tensor {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::add(self, other)
    }
}

impl std::ops::Sub for Tensor {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::sub(self, other)
    }
}

impl std::ops::Mul for Tensor {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self::mul(self, other)
    }
}

impl std::ops::Div for Tensor {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        Self::div(self, other)
    }
}
