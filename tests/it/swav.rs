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
use pretext_tests::reference::{Reference, difference};
use pretext_tests::{Workplace, built};
use serde_json::Value;

/// The loss and its gradient: f32 against f64. Scores over 0.03 lose 5 bits in the exponential.
const LOSS: f64 = 1e-5;
/// Gradients of the whole network, f32 there and back through 9 batch norms against f64.
const GRADIENT: f64 = 1e-4;
/// Every parameter after one step and after ten.
const STEP: [f64; 2] = [1e-4, 1e-3];
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

/// Fails where `far` is above `tolerance`; returns it.
fn held(what: &str, far: f64, tolerance: f64) -> f64 {
    assert!(far <= tolerance, "{what}: {far:.1e}");
    far
}

#[test]
fn the_loss_and_its_gradient_are_those_of_lightly_with_and_without_queue() {
    let file = Reference::open("swav/loss.safetensors");
    let (mut largest, place) = ([0.0_f64; 2], Workplace::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let scores = file.tensor(&format!("c{c}.scores"));
        let source = place.path().join(format!("vectors{c}.safetensors"));
        scores.get(0).unwrap().save_safetensors("x", &source).unwrap();
        let recipe = format!(
            "method = \"swav\"
            data = {{ source = \"{}\" }}
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
            source.display(),
            count(case, "batch"),
            count(case, "locals"),
            number(case, "temperature"),
            number(case, "epsilon"),
            count(case, "iterations"),
            count(case, "queue"),
        );
        let mut prepared = prepared(&recipe);
        let state = &mut prepared.trainer.state;
        for name in ["queue_0", "queue_1"] {
            if let Some(id) = state.find_buffer(name) {
                state.set_buffer(id, file.tensor(&format!("c{c}.{name}")).clone()).unwrap();
            }
        }
        let tape = Tape::default();
        let crops = 0..scores.dims()[0];
        let leaves: Vec<Var> = crops.map(|v| tape.leaf(scores.get(v).unwrap())).collect();
        // So many steps that the queue is full.
        let at = Progress { step: 1000, steps_per_epoch: 10, total_steps: 2000 };
        let views = Leaves(by_view(leaves.clone()));
        let told = {
            let vars = StepVars::new(state);
            learn(&tape, &vars, &mut prepared.session, &views, at)
        };
        let arrived = tape.backward(&told.loss).unwrap();
        let gradients: Vec<Tensor> =
            leaves.iter().map(|leaf| arrived.get(leaf).unwrap().clone()).collect();
        let want = file.tensor(&format!("c{c}.loss"));
        let loss = told.loss.value().reshape(want.dims()).unwrap();
        let far = held(&format!("loss of case {c}"), difference(&loss, want, 0.0), LOSS);
        largest[0] = largest[0].max(far);
        let want = file.tensor(&format!("c{c}.gradient"));
        let gradient = Tensor::stack(&gradients, 0).unwrap();
        let far = held(&format!("gradient of case {c}"), difference(&gradient, want, 0.0), LOSS);
        largest[1] = largest[1].max(far);
    }
    println!(
        "largest difference of the loss {:.1e}, of its gradient {:.1e}",
        largest[0], largest[1]
    );
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
        queue_start_epoch = 0",
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

/// The largest difference of a parameter from those stored under `prefix`.
fn parameters(state: &State, file: &Reference, prefix: &str, tolerance: f64) -> f64 {
    let far = file.below(prefix).into_iter().map(|(name, want)| {
        let id = state.find(&format!("student.{name}")).expect(name);
        held(&format!("{prefix}{name}"), difference(&state.get(id).value, want, 0.0), tolerance)
    });
    far.fold(0.0, f64::max)
}

fn buffers(state: &State, file: &Reference) -> f64 {
    let stored = file
        .below("running_after.")
        .into_iter()
        .map(|(name, want)| (format!("student.{name}"), want));
    let queues = ["queue_0", "queue_1"].map(|name| (name.to_owned(), file.tensor(name)));
    let far = stored.chain(queues).filter(|(name, _)| !name.ends_with("head.norms.0.running_mean"));
    let far = far.map(|(name, want)| {
        let id = state.find_buffer(&name).expect(&name);
        held(&name, difference(state.get_buffer(id), want, 0.0), STEP[1])
    });
    far.fold(0.0, f64::max)
}

fn check_steps(path: &str) {
    let file = Reference::open(path);
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    let mut largest = [0.0_f64; 4];
    for step in 0..total_steps as usize {
        let at = Progress { step: step as u64, steps_per_epoch, total_steps };
        let taken = trainer.step(&mut session, at, || Ok(batch(&file, step))).unwrap();
        let want = file.tensor(&format!("loss.{step}"));
        let loss = Tensor::new(&[taken.loss], &Device::Cpu).unwrap();
        let tolerance = if step == 0 { STEP[0] } else { STEP[1] };
        let far = held(&format!("loss of step {step}"), difference(&loss, want, 0.0), tolerance);
        largest[0] = largest[0].max(far);
        if step == 0 {
            largest[1] = parameters(&trainer.state, &file, "after.0.", STEP[0]);
        }
    }
    largest[2] = parameters(&trainer.state, &file, "after.9.", STEP[1]);
    largest[3] = buffers(&trainer.state, &file);
    let [loss, one, ten, buffers] = largest;
    println!(
        "largest difference of {path}: loss {loss:.1e}, parameters after one step {one:.1e} and after \
         ten {ten:.1e}, buffers {buffers:.1e}"
    );
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
    let far = file.below("gradient.").into_iter().map(|(name, want)| {
        let id = trainer.state.find(&format!("student.{name}")).expect(name);
        let gradient = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
        held(name, difference(&gradient, want, 0.0), GRADIENT)
    });
    println!("largest difference of a gradient: {:.1e}", far.fold(0.0, f64::max));
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
    let moved = pretext_tests::reference::elements(&trainer.state.get(id).value);
    assert!(moved.iter().all(|x| x.abs() < 1e-5), "{moved:?}");
}
