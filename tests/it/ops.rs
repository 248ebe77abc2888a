//! Every op of the catalogue against PyTorch's stored values (`tests/reference/ops`) and against its
//! row in `docs/ops.md`.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Tensor};
use pretext::engine::op::catalogue;
use pretext::engine::{Arg, Args, Gradient, OpDef, Precision, Tape, Var};
use pretext::random::Stream;
use pretext_tests::claims;
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements};
use serde_json::Value;

/// How the inputs of a case lie in memory, and in which type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    F32,
    /// f32, in views whose elements aren't contiguous.
    Strided,
    F64,
}

/// Inputs and seeds are of size 1: a result below a tenth of that was made by cancellation.
const LEAST: f64 = 0.1;

const PYTORCH: &str = "PyTorch and lightly, f64";

claims! {
    EVERY_F32 = "ops", "every op, values and gradients, f32", PYTORCH, 1e-5;
    EVERY_F64 = "ops", "every op, values and gradients, f64", PYTORCH, 1e-10;
    /// Inputs around 1000 with a spread of 1: f32 keeps 4 digits of what is left of them.
    FAR_FROM_0 = "ops", "`layer_norm`, `var` of inputs about 1000, f32", PYTORCH, 3e-4;
    /// exp(score / 0.03) multiplies the rounding of the quotient by its size, 30.
    SINKHORN = "ops", "`sinkhorn` of scores over 0.03, f32", PYTORCH, 3e-5;
    /// Logits up to 50 are rounded to 3e-6, and the softmax's gradient is a difference of what they
    /// make: f32 can't hold more digits of it.
    LOUD = "ops", "`attention` with logits up to 50, f32", PYTORCH, 2e-4;
}

/// What is claimed of a case.
fn claim(op: &str, case: usize, form: Form) -> &'static Claim {
    match (op, case, form) {
        (_, _, Form::F64) => &EVERY_F64,
        ("layer_norm", 3, _) | ("var", 4, _) => &FAR_FROM_0,
        ("sinkhorn", _, _) => &SINKHORN,
        ("attention", 4, _) => &LOUD,
        _ => &EVERY_F32,
    }
}

fn cases(file: &Reference) -> Vec<Value> {
    file.json("cases").as_array().expect("a list").clone()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {case}"))
}

fn formed(tensor: &Tensor, form: Form) -> Tensor {
    let tensor = match (form, tensor.dtype()) {
        (Form::F64, DType::F32) => tensor.to_dtype(DType::F64).unwrap(),
        _ => tensor.clone(),
    };
    match tensor.rank() {
        _ if form != Form::Strided => tensor,
        0 => tensor,
        // Every other element of a list twice as long.
        1 => Tensor::stack(&[&tensor, &tensor], 1).unwrap().get_on_dim(1, 0).unwrap(),
        rank => {
            let turned = tensor.transpose(rank - 1, rank - 2).unwrap().contiguous().unwrap();
            turned.transpose(rank - 1, rank - 2).unwrap()
        }
    }
}

/// The arguments of `case`; real tensors are leaves of `tape`.
fn arguments(file: &Reference, case: &Value, form: Form, tape: &Tape) -> Vec<Arg> {
    let argument = |described: &Value| -> Arg {
        let (kind, value) = described.as_object().expect("an object").iter().next().expect("one");
        match kind.as_str() {
            "tensor" => {
                let stored = file.tensor(value.as_str().expect("a name"));
                let tensor = formed(stored, form);
                if stored.dtype() == DType::F32 {
                    Arg::Tensor(tape.leaf(tensor))
                } else {
                    Arg::Tensor(Var::constant(tensor))
                }
            }
            "int" => Arg::Int(value.as_i64().expect("a whole number")),
            "float" => Arg::Float(value.as_f64().expect("a number")),
            "ints" => {
                let list = value.as_array().expect("a list");
                Arg::Ints(list.iter().map(|v| v.as_i64().expect("a whole number")).collect())
            }
            "stream" => {
                let stream = Stream::new(value.as_u64().expect("a seed"), "reference", 0, 0);
                Arg::Stream(Rc::new(RefCell::new(stream)))
            }
            "none" => Arg::None,
            other => panic!("unknown kind of argument `{other}`"),
        }
    };
    case["args"].as_array().expect("a list").iter().map(argument).collect()
}

fn call(op: &'static OpDef, tape: &Tape, args: &[Arg]) -> Vec<Var> {
    (op.call)(tape, &Args::new(op.name, args)).unwrap_or_else(|e| panic!("`{}`: {e}", op.name))
}

/// The largest difference of outputs and gradients, and where it is.
fn check_values(op: &'static OpDef, file: &Reference, case: &Value, form: Form) -> (f64, String) {
    let tape = Tape::new(Precision::F32);
    let args = arguments(file, case, form, &tape);
    let outputs = call(op, &tape, &args);
    let names = case["outputs"].as_array().expect("a list");
    assert_eq!(outputs.len(), names.len(), "outputs of `{}`", op.name);
    let mut worst = (0.0, "nothing".to_owned());
    let mut seen = |far: f64, place: &str| {
        if far > worst.0 {
            worst = (far, place.to_owned());
        }
    };
    for (output, name) in outputs.iter().zip(names) {
        let want = file.tensor(name.as_str().expect("a name"));
        if want.dtype() != DType::F64 {
            assert_eq!(output.dtype(), want.dtype(), "type of an output of `{}`", op.name);
        }
        seen(difference(output.value(), want, LEAST), name.as_str().expect("a name"));
    }
    let Some(gradients) = case["gradients"].as_object() else {
        assert!(outputs.iter().all(|o| !o.tracked()), "`{}` has a gradient, PyTorch none", op.name);
        return worst;
    };
    let seed = formed(file.tensor(text(case, "seed")), form).contiguous().unwrap();
    let got = tape.backward_from(&outputs[0], seed).unwrap();
    for (index, arg) in args.iter().enumerate() {
        let Arg::Tensor(leaf) = arg else { continue };
        let name = gradients.get(&index.to_string()).and_then(Value::as_str);
        match (name, got.get(leaf)) {
            (Some(name), Some(gradient)) => {
                seen(difference(gradient, file.tensor(name), LEAST), name);
            }
            (Some(name), None) => seen(f64::INFINITY, name),
            (None, Some(gradient)) if elements(gradient).iter().any(|g| *g != 0.0) => {
                seen(f64::INFINITY, &format!("argument {index}, which takes no gradient"));
            }
            (None, _) => {}
        }
    }
    worst
}

#[test]
fn every_op_agrees_with_pytorch_in_values_and_gradients() {
    let mut seen = Seen::new();
    for op in catalogue() {
        let file = Reference::open(&format!("ops/{}.safetensors", op.name));
        let differentiable = matches!(op.gradient, Gradient::Checked);
        for (number, case) in cases(&file).iter().enumerate() {
            if case.get("property").is_some() {
                continue;
            }
            for form in [Form::F32, Form::Strided, Form::F64] {
                if form == Form::F64 && !differentiable {
                    continue;
                }
                let (far, place) = check_values(op, &file, case, form);
                let place = format!("`{}`, case {number} in {form:?}, {place}", op.name);
                seen.compare(claim(op.name, number, form), &place, far);
            }
        }
    }
    seen.finish();
}

#[test]
fn every_random_op_keeps_its_laws_and_repeats_with_its_stream() {
    for op in catalogue() {
        let file = Reference::open(&format!("ops/{}.safetensors", op.name));
        for case in cases(&file).iter().filter(|case| case.get("property").is_some()) {
            match text(case, "property") {
                "distribution" => check_distribution(op, &file, case),
                "dropped" => check_dropped(op, &file, case),
                other => panic!("unknown property `{other}` of `{}`", op.name),
            }
            let again = || {
                let tape = Tape::new(Precision::F32);
                let args = arguments(&file, case, Form::F32, &tape);
                let first = elements(call(op, &tape, &args)[0].value());
                (first, elements(call(op, &tape, &args)[0].value()))
            };
            assert_eq!(again(), again(), "`{}` differs with the same stream", op.name);
            assert_ne!(again().0, again().1, "`{}` does not move its stream on", op.name);
        }
    }
}

/// A share of `n` draws lies within 4.5 standard errors of its `probability`.
fn assert_share(op: &OpDef, got: f64, probability: f64, n: usize) {
    let error = (probability * (1.0 - probability) / n as f64).sqrt();
    assert!(
        (got - probability).abs() <= 4.5 * error + 1e-12,
        "`{}`: a share of {got}, expected {probability} +- {error} (of {n})",
        op.name
    );
}

fn check_distribution(op: &'static OpDef, file: &Reference, case: &Value) {
    let tape = Tape::new(Precision::F32);
    let output = call(op, &tape, &arguments(file, case, Form::F32, &tape)).remove(0);
    let shape: Vec<u64> = output.dims().iter().map(|size| *size as u64).collect();
    assert_eq!(Value::from(shape), case["shape"], "shape of `{}`", op.name);
    assert!(output.dtype() == DType::F32 && !output.tracked());
    let values = elements(output.value());
    let points = elements(file.tensor(text(case, "points")));
    let shares = elements(file.tensor(text(case, "shares")));
    for (point, share) in points.iter().zip(shares) {
        let below = values.iter().filter(|value| *value < point).count();
        assert_share(op, below as f64 / values.len() as f64, share, values.len());
    }
}

fn check_dropped(op: &'static OpDef, file: &Reference, case: &Value) {
    let tape = Tape::new(Precision::F32);
    let args = arguments(file, case, Form::F32, &tape);
    let Arg::Tensor(x) = &args[0] else { panic!("`{}` takes no tensor", op.name) };
    let output = call(op, &tape, &args).remove(0);
    let seed = Tensor::ones(x.dims(), DType::F32, x.device()).unwrap();
    let gradients = tape.backward_from(&output, seed).unwrap();
    let factors = elements(gradients.get(x).unwrap());
    let scale = case["scale"].as_f64().expect("a number");
    let together = case["together"].as_u64().expect("a size") as usize;
    let mut zeros = 0;
    for run in factors.chunks(together) {
        assert!(run.iter().all(|f| *f == run[0]), "`{}` splits a sample", op.name);
        assert!(run[0] == 0.0 || (run[0] / scale - 1.0).abs() < 1e-6, "`{}`: {}", op.name, run[0]);
        zeros += usize::from(run[0] == 0.0);
    }
    for ((y, x), factor) in elements(output.value()).iter().zip(elements(x.value())).zip(&factors) {
        assert!((y - x * factor).abs() <= 1e-6 * (1.0 + y.abs()), "`{}`: {y}", op.name);
    }
    let runs = factors.len() / together;
    let dropped = case["dropped"].as_f64().expect("a number");
    assert_share(op, zeros as f64 / runs as f64, dropped, runs);
}

#[test]
fn the_page_says_of_every_op_whether_it_has_a_gradient() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops.md");
    let page = std::fs::read_to_string(path).unwrap();
    for op in catalogue() {
        let name = format!("`{}@{}`", op.name, op.revision);
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&name));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let yes = row.trim_end_matches(['|', ' ']).ends_with("yes");
        assert_eq!(yes, !matches!(op.gradient, Gradient::None(_)), "column grad of {name}");
    }
}
