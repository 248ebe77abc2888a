//! Forward values of ops that candle-nn has too, against candle-nn's: a second opinion beside the stored
//! values of PyTorch, on shapes that are drawn here.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Activation, loss, ops};

use crate::engine::op::{Arg, find, random_tensor};
use crate::engine::{Precision, Tape, Var, storage};
use crate::random::Stream;

/// Widths around the sizes of vector registers, and one that needs several passes.
const SHAPES: [[usize; 3]; 4] = [[1, 1, 1], [2, 3, 7], [3, 5, 33], [2, 2, 1030]];

fn drawn(stream: &mut Stream, shape: &[usize]) -> Tensor {
    random_tensor(stream, shape).unwrap().to_dtype(DType::F32).unwrap()
}

fn ours(op: &str, arguments: &[Arg]) -> Tensor {
    let made = find(op, 1).unwrap().run(&Tape::new(Precision::F32), arguments).unwrap();
    made[0].value().clone()
}

/// Every op's value on tensors of `shape` and its last size, beside candle-nn's.
fn pairs(stream: &mut Stream, shape: &[usize]) -> Result<Vec<(&'static str, Tensor, Tensor)>> {
    let width = &shape[shape.len() - 1..];
    let (x, w, b) = (drawn(stream, shape), drawn(stream, width), drawn(stream, width));
    let arg = |x: &Tensor| Arg::Tensor(Var::constant(x.clone()));
    let one = Arg::Float(1.0);
    let along = |op| ours(op, &[arg(&x), Arg::Int(-1), one.clone()]);
    let rows = x.flatten_to(shape.len() - 2)?;
    let classes: Vec<u32> = (0..rows.dims()[0]).map(|_| stream.below(width[0]) as u32).collect();
    let classes = Tensor::new(classes, &Device::Cpu)?;
    let losses = ours("cross_entropy", &[arg(&rows), arg(&classes), one.clone()]);
    let normed = [arg(&x), arg(&w), arg(&b), Arg::Float(1e-5)];
    let scaled = [arg(&x), arg(&w), Arg::Float(1e-5)];
    Ok(vec![
        ("softmax", along("softmax"), ops::softmax_last_dim(&x)?),
        ("log_softmax", along("log_softmax"), ops::log_softmax(&x, x.rank() - 1)?),
        ("layer_norm", ours("layer_norm", &normed), ops::layer_norm_slow(&x, &w, &b, 1e-5)?),
        ("rms_norm", ours("rms_norm", &scaled), ops::rms_norm_slow(&x, &w, 1e-5)?),
        ("gelu", ours("gelu", &[arg(&x)]), Activation::Gelu.forward(&x)?),
        ("silu", ours("silu", &[arg(&x)]), ops::silu(&x)?),
        ("sigmoid", ours("sigmoid", &[arg(&x)]), ops::sigmoid(&x)?),
        ("cross_entropy", losses.mean_all()?, loss::cross_entropy(&rows, &classes)?),
    ])
}

#[test]
fn forward_values_agree_with_those_of_candle_nn() {
    let mut stream = Stream::new(0, "candle-nn", 0, 0);
    for shape in SHAPES {
        for (op, ours, theirs) in pairs(&mut stream, &shape).unwrap() {
            assert_eq!(ours.dims(), theirs.dims(), "`{op}` on {shape:?}");
            let (ours, theirs) =
                (storage::to_f64(&ours).unwrap(), storage::to_f64(&theirs).unwrap());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let far = (ours - theirs).abs() / (1.0 + theirs.abs());
                assert!(far < 3e-6, "`{op}` on {shape:?}: {ours}, candle-nn {theirs}");
            }
        }
    }
}
