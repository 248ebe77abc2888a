//! SwAV's plugin against the stored values of lightly's loss and of PyTorch's training steps
//! (`tests/reference/swav`).

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use pretext::Result;
use pretext::config::{Draft, MethodTable};
use pretext::engine::{Tape, Var};
use pretext::module::Forward;
use pretext::module::registry::backbone_options;
use pretext::plugin::{Catalogue, SearchPath, Session, Told, ViewSource};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{State, StepVars};
use pretext::train::prepare::{Prepared, prepare};
use pretext::train::views::{BatchViews, Fields};
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements};
use pretext_tests::{Workplace, built, claims};
use serde_json::Value;

const LIGHTLY: &str = "lightly's `SwaVLoss`, f64";
const PYTORCH: &str = "lightly's loss and head, torchvision's blocks, PyTorch's SGD with LARC by its formula and AdamW, f64";
/// The loss and its gradient: f32 against f64. Scores over 0.03 lose 5 bits in the exponential.
const LOSS: f64 = 1e-5;
/// One whole step, and ten.
const STEP: [f64; 2] = [1e-4, 1e-3];

claims! {
    LOSS_ALONE = "swav", "loss without a queue", LIGHTLY, LOSS;
    LOSS_QUEUE = "swav", "loss with a queue", LIGHTLY, LOSS;
    LOSS_GRADIENT = "swav", "loss: gradient to every score, with and without a queue", LIGHTLY, LOSS;
    /// A code is what a gradient lacks to a probability: a difference of f32 numbers of size 1.
    CODES = "swav", "codes of both crops, with and without a queue, as the gradient has them", LIGHTLY, LOSS;
    /// f32 there and back through 9 batch norms against f64.
    GRADIENT = "swav", "whole network: gradient to every parameter", PYTORCH, 1e-4;
    ONE_LOSS = "swav", "one whole step: loss", PYTORCH, STEP[0];
    ONE = "swav", "one whole step: every parameter", PYTORCH, STEP[0];
    TEN_LOSSES = "swav", "ten whole steps, with a queue once it is full: losses", PYTORCH, STEP[1];
    TEN = "swav", "ten whole steps, with a queue once it is full: every parameter", PYTORCH, STEP[1];
    TEN_QUEUES = "swav", "ten whole steps: queues, filled from the first step or from a later one", PYTORCH, STEP[1];
    TEN_RUNNING = "swav", "ten whole steps: running means and variances", PYTORCH, STEP[1];
}
/// A bias in front of a batch norm, which changes nothing: its true gradient is 0. lightly has none there.
const IDLE: &str = "head.layers.0.bias";

/// What `recipe` builds with the real plugin.
fn prepared(recipe: &str) -> Prepared {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let (plugin, method) = catalogue.method("swav").expect("the plugin was built");
    let table = MethodTable { recipe: "", options: &method.options };
    let draft = Draft::from_text("the test's recipe", recipe, &[]).unwrap();
    let recipe = draft.resolve(&table, &backbone_options).unwrap();
    prepare(&recipe, plugin).unwrap()
}

/// Views whose gradients are wanted, by view and copy: `global`, and `local` where there are any.
struct Leaves(Vec<Vec<Var>>);

impl ViewSource for Leaves {
    fn field(&self, view: usize, copy: usize, _: &str) -> Result<Var> {
        Ok(self.0[view][copy].clone())
    }

    fn samples(&self) -> usize {
        self.0[0][0].dims()[0]
    }
}

/// Crops, the two global ones first, as the views that the method asks for.
fn by_view<T>(mut crops: Vec<T>) -> Vec<Vec<T>> {
    let locals = crops.split_off(2);
    if locals.is_empty() { vec![crops] } else { vec![crops, locals] }
}

fn learn(
    tape: &Tape,
    vars: &StepVars<'_>,
    session: &mut Session,
    views: &dyn ViewSource,
    at: Progress,
) -> Told {
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape, vars, training: true, stream };
    session.step(&forward, views, at).unwrap()
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {case}"))
}

fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("no count `{key}` in {case}")) as usize
}

/// The recipe of one case of the loss, on vectors that are scores.
fn loss_recipe(case: &Value, source: &str) -> String {
    format!(
        "method = \"swav\"
        data = {{ source = \"{source}\" }}
        backbone = {{ kind = \"identity\" }}
        train = {{ batch = {} }}
        [options]
        modality = \"vector\"
        head = false
        local_crops = {}
        temperature = {:?}
        epsilon = {:?}
        sinkhorn_iterations = {}
        queue_length = {}
        queue_start_epoch = 0",
        count(case, "batch"),
        count(case, "locals"),
        number(case, "temperature"),
        number(case, "epsilon"),
        count(case, "iterations"),
        count(case, "queue"),
    )
}

/// The codes of the two assigned crops `[2, B, K]`, from gradients `[V, B, K]` of the loss: an assigned crop
/// learns from the other's codes alone, by (softmax - code) / (2 (V - 1) B T).
fn codes(scores: &Tensor, gradients: &Tensor, temperature: f64) -> Tensor {
    let &[crops, batch, _] = scores.dims() else { panic!("scores [V, B, K]") };
    let scale = 2.0 * (crops - 1) as f64 * batch as f64 * temperature;
    let code = |learner: usize| {
        let scores = scores.get(learner)?.to_dtype(candle_core::DType::F64)?;
        let exp = (scores / temperature)?.exp()?;
        let softmax = exp.broadcast_div(&exp.sum_keepdim(1)?)?;
        let gradient = gradients.get(learner)?.to_dtype(candle_core::DType::F64)?;
        softmax - (gradient * scale)?
    };
    Tensor::stack(&[code(1).unwrap(), code(0).unwrap()], 0).unwrap()
}

#[test]
fn the_loss_its_gradient_and_codes_are_those_of_lightly_with_and_without_queue() {
    let file = Reference::open("swav/loss.safetensors");
    let (mut seen, place) = (Seen::new(), Workplace::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let at = |name: &str| file.tensor(&format!("c{c}.{name}"));
        let scores = at("scores");
        let source = place.path().join(format!("vectors{c}.safetensors"));
        scores.get(0).unwrap().save_safetensors("x", &source).unwrap();
        let mut prepared = prepared(&loss_recipe(case, &source.display().to_string()));
        let state = &mut prepared.trainer.state;
        let queued = count(case, "queue") > 0;
        for name in ["queue_0", "queue_1"] {
            let found = state.find_buffer(name);
            assert_eq!(found.is_some(), queued, "case {c}: {name}");
            if let Some(id) = found {
                state.set_buffer(id, at(name).clone()).unwrap();
            }
        }
        let tape = Tape::default();
        let crops = 0..scores.dims()[0];
        let leaves: Vec<Var> = crops.map(|v| tape.leaf(scores.get(v).unwrap())).collect();
        // So many steps that the queue is full.
        let progress = Progress { step: 1000, steps_per_epoch: 10, total_steps: 2000 };
        let views = Leaves(by_view(leaves.clone()));
        let told = {
            let vars = StepVars::new(state);
            learn(&tape, &vars, &mut prepared.session, &views, progress)
        };
        let arrived = tape.backward(&told.loss).unwrap();
        let gradients: Vec<Tensor> =
            leaves.iter().map(|leaf| arrived.get(leaf).unwrap().clone()).collect();
        let gradients = Tensor::stack(&gradients, 0).unwrap();
        let (case_name, loss) = (format!("case {c}"), told.loss.value().reshape(1).unwrap());
        let claim = if queued { &LOSS_QUEUE } else { &LOSS_ALONE };
        seen.compare(claim, &case_name, difference(&loss, at("loss"), 0.0));
        seen.compare(&LOSS_GRADIENT, &case_name, difference(&gradients, at("gradient"), 0.0));
        let codes = codes(scores, &gradients, number(case, "temperature"));
        seen.compare(&CODES, &case_name, difference(&codes, at("codes"), 0.0));
    }
    assert_eq!(seen.claims(), 4);
    seen.finish();
}

/// The recipe of the stored steps.
fn step_recipe(s: &Value) -> String {
    let optimizer = if s["optimizer"] == "larc" {
        format!(
            "optimizer = \"larc\"\nmomentum = {:?}\ntrust = {:?}\ndecay_vectors = true",
            number(s, "momentum"),
            number(s, "trust")
        )
    } else {
        format!("betas = {}\neps = {:?}", s["betas"], number(s, "eps"))
    };
    format!(
        "method = \"swav\"
        data = {{ source = \"shapes\", size = 32, n = {batch} }}
        [backbone]
        kind = \"resnet\"
        width = {width}
        blocks = 1
        stem = \"cifar\"
        [train]
        batch = {batch}
        steps = {steps}
        lr = {lr:?}
        lr_final = {lr:?}
        lr_batch = 0
        weight_decay = {decay:?}
        {optimizer}
        [options]
        global_size = {size}
        local_size = {local_size}
        local_crops = {locals}
        prototypes = {prototypes}
        head_hidden = {hidden}
        head_dim = {dim}
        freeze_prototypes_steps = {frozen}
        temperature = {temperature:?}
        epsilon = {epsilon:?}
        sinkhorn_iterations = {iterations}
        queue_length = {queue}
        queue_start_epoch = {queue_start}",
        batch = count(s, "batch"),
        width = count(s, "width"),
        steps = count(s, "steps"),
        lr = number(s, "lr"),
        decay = number(s, "weight_decay"),
        size = count(s, "size"),
        local_size = count(s, "local_size"),
        locals = count(s, "locals"),
        prototypes = count(s, "prototypes"),
        hidden = count(s, "hidden"),
        dim = count(s, "dim"),
        frozen = count(s, "frozen"),
        temperature = number(s, "temperature"),
        epsilon = number(s, "epsilon"),
        iterations = count(s, "iterations"),
        queue = count(s, "queue"),
        // An epoch is one step.
        queue_start = count(s, "queue_start"),
    )
}

/// The network before the first stored step, prototypes of length 1 as the first step makes them.
fn started(file: &Reference) -> Prepared {
    let mut prepared = prepared(&step_recipe(&file.json("settings")));
    let state = &mut prepared.trainer.state;
    for (name, value) in file.below("start.") {
        let id = state.find(&format!("student.{name}")).expect(name);
        state.assign(id, value).unwrap();
    }
    assert_eq!(state.parameters().len(), file.below("start.").len() + 1);
    for (name, value) in file.below("running.") {
        let id = state.find_buffer(&format!("student.{name}")).expect(name);
        state.set_buffer(id, value.clone()).unwrap();
    }
    prepared
}

/// The crops of stored step `step`.
fn crops(file: &Reference, step: usize) -> Vec<Tensor> {
    let locals = count(&file.json("settings"), "locals");
    let set = step % 2;
    let globals = (0..2).map(|v| format!("globals.{set}.{v}"));
    let locals = (0..locals).map(|v| format!("locals.{set}.{v}"));
    globals.chain(locals).map(|name| file.tensor(&name).clone()).collect()
}

/// The batch of stored step `step`.
fn batch(file: &Reference, step: usize) -> BatchViews {
    let fields =
        |copies: Vec<Tensor>| copies.into_iter().map(|crop| Fields::one("pixels", crop)).collect();
    BatchViews::recorded(by_view(crops(file, step)).into_iter().map(fields).collect())
}

/// Compares every parameter with those stored under `prefix`.
fn parameters(
    seen: &mut Seen,
    claim: &'static Claim,
    state: &State,
    file: &Reference,
    prefix: &str,
) {
    for (name, want) in file.below(prefix) {
        let id = state.find(&format!("student.{name}")).expect(name);
        let far = difference(&state.get(id).value, want, 0.0);
        seen.compare(claim, &format!("{prefix}{name}"), far);
    }
}

/// Compares queues and running statistics; of a bias in front of a norm a running mean keeps what rounding moved.
fn buffers(seen: &mut Seen, state: &State, file: &Reference) {
    let far = |name: &str, want: &Tensor| {
        let id = state.find_buffer(name).expect(name);
        difference(state.get_buffer(id), want, 0.0)
    };
    for name in ["queue_0", "queue_1"] {
        seen.compare(&TEN_QUEUES, name, far(name, file.tensor(name)));
    }
    for (name, want) in file.below("running_after.") {
        if !name.ends_with("head.norms.0.running_mean") {
            seen.compare(&TEN_RUNNING, name, far(&format!("student.{name}"), want));
        }
    }
}

fn check_steps(path: &str) {
    let file = Reference::open(path);
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    assert_eq!((total_steps, steps_per_epoch), (10, 1));
    let mut seen = Seen::new();
    for step in 0..total_steps as usize {
        let at = Progress { step: step as u64, steps_per_epoch, total_steps };
        let taken = trainer.step(&mut session, at, || Ok(batch(&file, step))).unwrap();
        let want = file.tensor(&format!("loss.{step}"));
        let loss = Tensor::new(&[taken.loss], &Device::Cpu).unwrap();
        let claim = if step == 0 { &ONE_LOSS } else { &TEN_LOSSES };
        seen.compare(claim, &format!("step {step} of {path}"), difference(&loss, want, 0.0));
        if step == 0 {
            parameters(&mut seen, &ONE, &trainer.state, &file, "after.0.");
        }
    }
    parameters(&mut seen, &TEN, &trainer.state, &file, "after.9.");
    buffers(&mut seen, &trainer.state, &file);
    assert_eq!(seen.claims(), 6);
    seen.finish();
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch() {
    let file = Reference::open("swav/larc.safetensors");
    let Prepared { mut session, mut trainer, .. } = started(&file);
    let id = trainer.state.find("student.prototypes").unwrap();
    let rows = trainer.state.get(id).value.clone();
    let norms = rows.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    trainer.state.assign(id, &rows.broadcast_div(&norms).unwrap()).unwrap();
    let (tape, vars) = (Tape::default(), StepVars::learning(&trainer.state));
    let views = Leaves(by_view(crops(&file, 0).into_iter().map(Var::constant).collect()));
    let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 10 };
    let told = learn(&tape, &vars, &mut session, &views, at);
    let arrived = tape.backward(&told.loss).unwrap();
    let mut seen = Seen::new();
    for (name, want) in file.below("gradient.") {
        let id = trainer.state.find(&format!("student.{name}")).expect(name);
        let gradient = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
        seen.compare(&GRADIENT, name, difference(&gradient, want, 0.0));
    }
    seen.finish();
}

#[test]
fn one_step_and_ten_with_sgd_and_larc_end_in_the_weights_of_pytorch() {
    check_steps("swav/larc.safetensors");
}

#[test]
fn one_step_and_ten_with_adamw_end_in_the_weights_of_pytorch() {
    check_steps("swav/adamw.safetensors");
}

#[test]
fn a_bias_in_front_of_a_batch_norm_gets_no_gradient_worth_the_name() {
    let file = Reference::open("swav/larc.safetensors");
    assert!(!file.has(&format!("start.{IDLE}")));
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    let at = Progress { step: 0, steps_per_epoch, total_steps };
    trainer.step(&mut session, at, || Ok(batch(&file, 0))).unwrap();
    let id = trainer.state.find(&format!("student.{IDLE}")).unwrap();
    let moved = elements(&trainer.state.get(id).value);
    assert!(moved.iter().all(|x| x.abs() < 1e-5), "{moved:?}");
}
