//! Optimisers, clipping and schedules against PyTorch's stored values (`tests/reference/optim`).

use candle_core::Tensor;
use pretext::schedule::{Progress, Schedule};
use pretext::state::{Group, Init, ParamId, State};
use pretext::train::optimizer::{Clip, Optimizer, Rates, Rule, clip};
use pretext_tests::claims;
use pretext_tests::parity::Seen;
use pretext_tests::reference::{Reference, difference, elements};
use serde_json::Value;

claims! {
    /// f32 steps against f64, relative to the size of the parameter.
    STEPS = "optimisers", "parameters after each of several steps", "PyTorch's AdamW, SGD and clipping, f64", 2e-6;
    /// The same formula in f64, maybe in another order.
    SCHEDULES = "optimisers", "schedules, every step", "DINO's `cosine_scheduler`", 1e-12;
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {case}"))
}

fn numbers(case: &Value, key: &str) -> Vec<f64> {
    let list = case[key].as_array().unwrap_or_else(|| panic!("no list `{key}` in {case}"));
    list.iter().map(|value| value.as_f64().expect("a number")).collect()
}

/// The host's rule of `case`.
fn rule(case: &Value) -> Rule {
    match case["rule"].as_str().expect("a rule") {
        "adamw" => {
            let betas = numbers(case, "betas");
            Rule::AdamW { betas: (betas[0], betas[1]), eps: number(case, "eps") }
        }
        "sgd" => Rule::Sgd { momentum: number(case, "momentum") },
        "larc" => Rule::Larc {
            momentum: number(case, "momentum"),
            trust: number(case, "trust"),
            clip: case["trust_clip"] != false,
            vectors: case["vectors"] != false,
        },
        other => panic!("unknown rule `{other}`"),
    }
}

fn clipping(case: &Value) -> Clip {
    match case["clip"].as_str().expect("a mode") {
        "off" => Clip::Off,
        "tensor" => Clip::Tensor(number(case, "limit")),
        "global" => Clip::Global(number(case, "limit")),
        other => panic!("unknown clipping `{other}`"),
    }
}

/// The stored starts of case `c`: a weight that decays and a bias that doesn't.
fn declare(file: &Reference, c: usize) -> (State, Vec<(&'static str, ParamId)>) {
    let mut state = State::new(0);
    let mut ids = Vec::new();
    for (name, weight_decay) in [("weight", true), ("bias", false)] {
        let start = file.tensor(&format!("c{c}.start.{name}"));
        let group = Group { weight_decay, ..Group::default() };
        let id = state.parameter(name, start.dims(), Init::Constant(0.0), group).unwrap();
        state.assign(id, start).unwrap();
        ids.push((name, id));
    }
    (state, ids)
}

#[test]
fn optimisers_follow_pytorch_step_by_step() {
    let file = Reference::open("optim/optim.safetensors");
    let (mut compared, mut seen) = (0, Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let rule = rule(case);
        let (state, ids) = declare(&file, c);
        let mut optimizer = Optimizer::new(rule, &state);
        let rates = numbers(case, "lr").into_iter().zip(numbers(case, "weight_decay"));
        for (step, (lr, weight_decay)) in rates.enumerate() {
            let mut gradients: Vec<(ParamId, Tensor)> = ids
                .iter()
                .map(|(name, id)| {
                    (*id, file.tensor(&format!("c{c}.gradient.{step}.{name}")).clone())
                })
                .collect();
            clip(&state, &mut gradients, clipping(case)).unwrap();
            optimizer.step(&state, &gradients, Rates { lr, weight_decay }).unwrap();
            for (name, id) in &ids {
                let want = file.tensor(&format!("c{c}.after.{step}.{name}"));
                let far = difference(&state.get(*id).value, want, 0.0);
                seen.compare(&STEPS, &format!("case {c}, `{name}` after step {step}"), far);
            }
        }
        compared += 1;
    }
    assert!(compared >= 8);
    seen.finish();
}

#[test]
fn schedules_are_those_of_the_authors_code() {
    let (file, mut seen) = (Reference::open("optim/schedule.safetensors"), Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let mut schedule = Schedule::cosine(number(case, "start"), number(case, "end"))
            .warmup(number(case, "warmup_start"), number(case, "warmup_epochs"));
        schedule.per_epoch = case["per_epoch"] == true;
        let steps_per_epoch = case["steps_per_epoch"].as_u64().expect("a number");
        let total_steps = steps_per_epoch * case["epochs"].as_u64().expect("a number");
        let want = elements(file.tensor(&format!("c{c}.values")));
        assert_eq!(want.len() as u64, total_steps);
        for (step, want) in want.into_iter().enumerate() {
            let got = schedule.at(Progress { step: step as u64, steps_per_epoch, total_steps });
            let far = if got == want { 0.0 } else { (got - want).abs() / want.abs() };
            seen.compare(&SCHEDULES, &format!("case {c}, step {step}"), far);
        }
    }
    seen.finish();
}
