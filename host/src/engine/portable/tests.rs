//! Every op in its portable form against its own kernels, on the op's samples. An op without a form fails: on the CPU, where
//! the forms run too, its kernels are refused to it.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::engine::cuda::emulated::{BROKEN, emulate};
use crate::engine::op::{
    Arg, Gradient, OpDef, Sample, catalogue, find, random_tensor, sample_tensor,
};
use crate::engine::{Precision, Tape, Var, storage};
use crate::random::Stream;

/// A place where ops run, and how far its results may lie from those of the CPU's kernels.
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) device: Device,
    /// Whether CUDA's kernels run in `engine/cuda/emulator.h`.
    emulated: bool,
    tolerance: fn(DType) -> f64,
}

impl Place {
    /// Runs `body` there, with a tape of that precision.
    pub(super) fn run<T>(&self, precision: Precision, body: impl FnOnce(&Tape) -> T) -> T {
        let tape = Tape::new(precision).on(&self.device);
        let tape = if self.device.is_cpu() { tape.portable_only() } else { tape };
        if self.emulated { emulate(|| body(&tape)).unwrap() } else { body(&tape) }
    }

    /// The same where, on the CPU, no kernel of the CPU takes a tensor and none is read back.
    fn run_alone<T>(&self, precision: Precision, body: impl FnOnce(&Tape) -> T) -> T {
        if !self.device.is_cpu() {
            return self.run(precision, body);
        }
        storage::refusing(|| self.run(precision, body))
    }
}

/// Where the forms can be run here: as tensor operations on the CPU, with CUDA's kernels emulated, and on a
/// GPU where there is one.
pub(super) fn places() -> Vec<Place> {
    // The same sums in another order, and another implementation of exp and erf.
    let here = |dtype| if dtype == DType::F64 { 1e-9 } else { 2e-5 };
    let cpu = Device::Cpu;
    let mut places =
        vec![Place { name: "portable", device: cpu.clone(), emulated: false, tolerance: here }];
    match emulate(|| ()) {
        Ok(()) => {
            places.push(Place { name: "emulated", device: cpu, emulated: true, tolerance: here });
        }
        Err(why) => {
            assert!(!why.starts_with(BROKEN), "{why}");
            eprintln!("skipped: no emulated kernels: {why}");
        }
    }
    match crate::engine::device::open("cuda") {
        Ok(device) => {
            // A GPU's exp and erf in f32 are good to 2 units in the last place, sums are trees.
            let there = |dtype| if dtype == DType::F64 { 1e-9 } else { 5e-5 };
            places.push(Place { name: "cuda", device, emulated: false, tolerance: there });
        }
        Err(error) => eprintln!("skipped: no device: {error}"),
    }
    places
}

/// The values and the gradients of one call, in order.
struct Outcome {
    values: Vec<Tensor>,
    gradients: Vec<Option<Tensor>>,
}

/// Calls `op` on `sample` in the type `dtype`, every float tensor a leaf, and walks back from its first
/// output with fixed numbers as seed.
fn run(op: &'static OpDef, sample: &Sample, dtype: DType, tape: &Tape) -> Result<Outcome> {
    let mut leaves = Vec::new();
    let args: Vec<Arg> = sample
        .args
        .iter()
        .enumerate()
        .map(|(index, arg)| match arg {
            Arg::Tensor(var) if var.dtype() == DType::F64 => {
                let value = strided(var.value(), dtype, tape.device());
                let leaf = tape.leaf(value);
                if !sample.constant.contains(&index) {
                    leaves.push(leaf.clone());
                }
                Arg::Tensor(leaf)
            }
            Arg::Tensor(var) => {
                Arg::Tensor(Var::constant(var.value().to_device(tape.device()).unwrap()))
            }
            Arg::Stream(stream) => Arg::Stream(Rc::new(RefCell::new(stream.borrow().clone()))),
            other => other.clone(),
        })
        .collect();
    let outputs = op.run(tape, &args)?;
    let values = outputs.iter().map(|output| output.value().clone()).collect();
    let mut gradients = Vec::new();
    if outputs[0].tracked() {
        let mut stream = Stream::new(3, op.name, 0, 0);
        let seed = random_tensor(&mut stream, outputs[0].dims()).unwrap();
        let seed = seed.to_dtype(outputs[0].dtype()).unwrap().to_device(tape.device()).unwrap();
        let mut arrived = tape.backward_from(&outputs[0], seed)?;
        gradients = leaves.iter().map(|leaf| arrived.take_own(leaf).unwrap()).collect();
    }
    Ok(Outcome { values, gradients })
}

/// `x` in another type and place, with its strides where it has any.
fn strided(x: &Tensor, dtype: DType, device: &Device) -> Tensor {
    let rank = x.rank();
    let moved = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
    if x.is_contiguous() {
        return moved(x);
    }
    let stored = x.transpose(rank - 1, rank - 2).unwrap().contiguous().unwrap();
    moved(&stored).transpose(rank - 1, rank - 2).unwrap()
}

/// The largest difference of two tensors, relative to the larger of 1 and their largest element.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
    let (a, b) = (storage::to_f64(a).unwrap(), storage::to_f64(b).unwrap());
    let size = a.iter().fold(1.0_f64, |size, x| size.max(x.abs()));
    let far = a.iter().zip(&b).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / size });
    // A difference that is not a number is the largest.
    far.fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { x.max(most) })
}

fn compare(op: &OpDef, at: &str, [own, other]: [&Outcome; 2], tolerance: f64) -> Vec<String> {
    assert_eq!(own.gradients.len(), other.gradients.len(), "`{}`", op.name);
    let see = |what: String, a: &Tensor, b: &Tensor| {
        let far = distance(a, b);
        let within = far <= tolerance;
        (!within).then(|| format!("`{}` {at}, {what}: {far:e}", op.name))
    };
    let values = own.values.iter().zip(&other.values).enumerate();
    let values = values.filter_map(|(i, (a, b))| see(format!("output {i}"), a, b));
    let gradients = own.gradients.iter().zip(&other.gradients).enumerate();
    let gradients = gradients.filter_map(|(i, pair)| match pair {
        (Some(a), Some(b)) => see(format!("gradient {i}"), a, b),
        (None, None) => None,
        _ => Some(format!("`{}` {at}: only one of the two has gradient {i}", op.name)),
    });
    values.chain(gradients).collect()
}

/// Compares one call on the CPU with the same at `place`.
fn check(
    op: &'static OpDef,
    sample: &Sample,
    (dtype, precision): (DType, Precision),
    place: &Place,
) -> Vec<String> {
    let own = run(op, sample, dtype, &Tape::new(precision)).unwrap();
    let other = match place.run_alone(precision, |tape| run(op, sample, dtype, tape)) {
        Ok(other) => other,
        Err(error) => return vec![format!("on {}: {error}", place.name)],
    };
    assert!(!matches!(op.gradient, Gradient::None(_)) || other.gradients.is_empty());
    // Operands in bf16 may round to either neighbour: 2^-8 of a product, of which few are summed.
    let tolerance = match precision {
        Precision::F32 => (place.tolerance)(dtype),
        Precision::Bf16 => 2e-2,
    };
    compare(op, &format!("on {}, in {dtype:?}", place.name), [&own, &other], tolerance)
}

#[test]
fn every_op_gives_the_same_values_and_gradients_wherever_it_runs() {
    let mut wrong = Vec::new();
    for place in places() {
        for op in catalogue() {
            for sample in (op.samples)(&mut Stream::new(5, op.name, 0, 0)) {
                for dtype in [DType::F64, DType::F32] {
                    wrong.extend(check(op, &sample, (dtype, Precision::F32), &place));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sizes that fill more than one tile of the kernels: heads of each version, rows of several warps and
/// blocks, a row of logits longer than a block.
fn large() -> Vec<(&'static str, Sample)> {
    let stream = &mut Stream::new(11, "large", 0, 0);
    let mut samples = Vec::new();
    for (tokens, heads, dim) in [(70, 2, 20), (66, 1, 64), (35, 1, 100)] {
        let qkv = sample_tensor(stream, &[1, tokens, 3 * heads * dim]);
        let args = vec![qkv, Arg::Int(heads as i64), Arg::Float(0.0)];
        samples.push(("attention", Sample::new(args)));
    }
    let (x, w, b) = (
        sample_tensor(stream, &[300, 70]),
        sample_tensor(stream, &[70]),
        sample_tensor(stream, &[70]),
    );
    samples.push(("layer_norm", Sample::new(vec![x, w, b, Arg::Float(1e-6)])));
    let [x, w1, w2] = [[97, 40], [70, 40], [33, 70]].map(|shape| sample_tensor(stream, &shape));
    let (g, c) = (sample_tensor(stream, &[40]), sample_tensor(stream, &[40]));
    let args = vec![x, g, c, w1, Arg::None, w2, Arg::None, Arg::Float(1e-6)];
    samples.push(("feed_forward", Sample::new(args)));
    let logits = [sample_tensor(stream, &[3, 1500]), sample_tensor(stream, &[3, 1500])];
    let [logits, targets] = logits;
    let args = vec![logits, targets, Arg::Float(0.1)];
    samples.push(("soft_cross_entropy", Sample::new(args).constant(&[1])));
    let (x, w, b) = (
        sample_tensor(stream, &[300, 9]),
        sample_tensor(stream, &[130, 9]),
        sample_tensor(stream, &[130]),
    );
    samples.push(("linear", Sample::new(vec![x, w, b])));
    let lengths = Tensor::new(&[70_u32, 33, 0], &Device::Cpu).unwrap();
    let qkv = sample_tensor(stream, &[3, 70, 120]);
    let args = vec![qkv, Arg::Tensor(Var::constant(lengths)), Arg::Int(2), Arg::Float(0.0)];
    samples.push(("padded_attention", Sample::new(args)));
    let (x, w) = (sample_tensor(stream, &[3, 8, 17, 19]), sample_tensor(stream, &[5, 8, 3, 3]));
    let args = vec![x.clone(), w, Arg::None, Arg::Int(2), Arg::Int(1)];
    samples.push(("conv2d", Sample::new(args)));
    samples.push(("max_pool2d", Sample::new(vec![x, Arg::Int(3), Arg::Int(2), Arg::Int(1)])));
    let (x, w) = (sample_tensor(stream, &[2, 8, 300]), sample_tensor(stream, &[6, 4, 16]));
    let args = [1, 8, 2].map(Arg::Int);
    samples.push(("conv1d", Sample::new([[x, w, Arg::None].as_slice(), &args].concat())));
    let (x, w) = (sample_tensor(stream, &[600, 130]), sample_tensor(stream, &[130]));
    let rest = [Arg::None, Arg::None, Arg::None, Arg::None, Arg::Float(1e-5)];
    samples.push(("batch_norm_relu", Sample::new([[x, w].as_slice(), &rest].concat())));
    samples.push(("gelu", Sample::new(vec![sample_tensor(stream, &[11, 150])])));
    samples
}

#[test]
fn kernels_agree_beyond_one_tile() {
    let mut wrong = Vec::new();
    for place in places() {
        for (name, sample) in large() {
            let op = find(name, 1).unwrap();
            wrong.extend(check(op, &sample, (DType::F32, Precision::F32), &place));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn products_with_operands_in_bf16_round_alike_wherever_they_run() {
    let names = [
        "linear",
        "linear_gelu",
        "gelu_linear",
        "feed_forward",
        "norm_linear",
        "attention",
        "padded_attention",
        "conv1d",
        "gelu_conv1d",
        "conv2d",
    ];
    let mut wrong = Vec::new();
    for place in places() {
        for op in names.map(|name| find(name, 1).unwrap()) {
            let large = large().into_iter().filter(|(name, _)| *name == op.name);
            let samples = (op.samples)(&mut Stream::new(5, op.name, 0, 0));
            for sample in samples.into_iter().chain(large.map(|(_, sample)| sample)) {
                wrong.extend(check(op, &sample, (DType::F32, Precision::Bf16), &place));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_index_out_of_range_makes_nan_where_nothing_may_be_read_back() {
    let tape = Tape::new(Precision::F32).portable_only();
    let cpu = &Device::Cpu;
    let tensor = |t: candle_core::Result<Tensor>| Arg::Tensor(Var::constant(t.unwrap()));
    let x = || tensor(Tensor::ones((1, 2, 3), DType::F32, cpu));
    let at = |index: u32| tensor(Tensor::new(&[[index]], cpu));
    let run = |name: &str, args: &[Arg]| {
        let made = find(name, 1).unwrap().run(&tape, args).unwrap();
        storage::to_f64(made[0].value()).unwrap().iter().any(|x| x.is_nan())
    };
    let y = || tensor(Tensor::ones((1, 1, 3), DType::F32, cpu));
    for (index, wrong) in [(1, false), (2, true)] {
        assert_eq!(run("gather_tokens", &[x(), at(index)]), wrong);
        assert_eq!(run("scatter_tokens", &[x(), at(index), y()]), wrong);
        assert_eq!(run("one_hot", &[at(index), Arg::Int(2)]), wrong);
        let logits = tensor(Tensor::ones((1, 2), DType::F32, cpu));
        let target = tensor(Tensor::new(&[index], cpu));
        assert_eq!(run("cross_entropy", &[logits, target, Arg::Float(1.0)]), wrong);
    }
}

#[test]
fn targets_of_another_type_are_refused_wherever_they_run() {
    for place in places() {
        let held = |dtype, dims: &[usize]| {
            let x = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            Arg::Tensor(Var::constant(x.to_device(&place.device).unwrap()))
        };
        let logits = || held(DType::F32, &[2, 3]);
        for (name, targets) in [
            ("soft_cross_entropy", held(DType::U8, &[2, 3])),
            ("cross_entropy", held(DType::U8, &[2])),
        ] {
            let args = [logits(), targets, Arg::Float(1.0)];
            let run = |tape: &Tape| find(name, 1).unwrap().run(tape, &args).map(|_| ());
            assert!(place.run(Precision::F32, run).is_err(), "`{name}` on {}", place.name);
        }
    }
}

#[test]
fn nan_passes_through_max_with_0_wherever_it_runs() {
    for place in places() {
        for dtype in [DType::F64, DType::F32] {
            let held = |t: candle_core::Result<Tensor>| {
                let t = t.unwrap().to_dtype(dtype).unwrap().to_device(&place.device).unwrap();
                Arg::Tensor(Var::constant(t))
            };
            let cpu = &Device::Cpu;
            let x = held(Tensor::new(&[[f64::NAN, -1.0], [-2.0, 3.0]], cpu));
            let (mean, var) =
                (held(Tensor::zeros(2, dtype, cpu)), held(Tensor::ones(2, dtype, cpu)));
            let none = Arg::None;
            let normed = [x.clone(), none.clone(), none.clone(), mean, var, none, Arg::Float(0.0)];
            for (name, args) in [("relu", &[x][..]), ("batch_norm_relu", &normed)] {
                let run = |tape: &Tape| find(name, 1).unwrap().run(tape, args).unwrap();
                let made = place.run(Precision::F32, run);
                let made = storage::to_f64(made[0].value()).unwrap();
                let at = (name, place.name, dtype);
                assert!(made[0].is_nan() && made[1..] == [0.0, 0.0, 3.0], "{at:?}: {made:?}");
            }
        }
    }
}

#[test]
fn nan_is_the_largest_and_the_first_of_equals_is_found() {
    let tape = Tape::new(Precision::F32).portable_only();
    let nan = f64::NAN;
    let rows =
        [[1.0, 3.0, 3.0], [nan, 9.0, nan], [f64::NEG_INFINITY; 3], [0.0, f64::INFINITY, nan]];
    let x = Tensor::new(&rows, &Device::Cpu).unwrap();
    let x = Arg::Tensor(Var::constant(x));
    let places = find("argmax", 1).unwrap().run(&tape, &[x, Arg::Int(1)]).unwrap();
    assert_eq!(places[0].value().to_vec1::<u32>().unwrap(), [1, 0, 0, 2]);
}
