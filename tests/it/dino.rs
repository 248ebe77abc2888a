//! DINO's plugin against the stored values of lightly's loss and of PyTorch's training steps
//! (`tests/reference/dino`).

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use pretext::Result;
use pretext::config::{Draft, MethodTable};
use pretext::engine::ops::narrow::narrow;
use pretext::engine::{Tape, Var, storage};
use pretext::module::declare::{Declare, ZEROS};
use pretext::module::registry::{ModuleDef, Role, backbone_options};
use pretext::module::{Forward, Input, Module, input, select};
use pretext::plugin::{Catalogue, SearchPath, Session, Told, ViewSource};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{BufferId, ParamId, State, StepVars};
use pretext::train::prepare::{Prepared, prepare};
use pretext::train::views::{BatchViews, Fields};
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements};
use pretext_tests::{Workplace, built, claims};
use serde_json::Value;

const LIGHTLY: &str = "lightly's `DINOLoss`, f64";
const PYTORCH: &str = "lightly's `DINOLoss` and head, timm's ViT and PyTorch's AdamW, f64";
/// f32 against f64.
const LOSS: f64 = 1e-5;
/// Two steps move a weight by about 1e-2 of its size.
const STEP: f64 = 1e-5;

const TEN_STEPS: &str = "dino/ten_steps.safetensors";

claims! {
    LOSS_ALONE = "dino", "loss", LIGHTLY, LOSS;
    LOSS_GRADIENT = "dino", "loss: gradient to every student logit", LIGHTLY, LOSS;
    LOSS_CENTER = "dino", "loss: center after each batch", LIGHTLY, LOSS;
    /// f32 there and back against f64. PyTorch's own f32 is off by 1e-5.
    GRADIENT = "dino", "whole network: gradient to every parameter", PYTORCH, 5e-5;
    STEP_LOSS = "dino", "two whole steps: loss", PYTORCH, STEP;
    STEP_NORM = "dino", "two whole steps: norm of the gradient", PYTORCH, STEP;
    STEP_CENTER = "dino", "two whole steps: center", PYTORCH, STEP;
    STEP_STUDENT = "dino", "two whole steps: every parameter of the student", PYTORCH, STEP;
    STEP_TEACHER = "dino", "two whole steps: every parameter of the teacher", PYTORCH, STEP;
    /// Ten updates by AdamW, which divides each gradient by its own size: rounding grows step by step.
    TEN = "dino", "ten whole steps: losses, norms, center, student, teacher", PYTORCH, 1e-3;
}

/// What `recipe` builds with the real plugin.
fn prepared(recipe: &str) -> Prepared {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let (plugin, method) = catalogue.method("dino").expect("the plugin was built");
    let table = MethodTable { recipe: "", options: &method.options };
    let draft = Draft::from_text("the test's recipe", recipe, &[]).unwrap();
    let recipe = draft.resolve(&table, &backbone_options).unwrap();
    prepare(&recipe, plugin).unwrap()
}

/// A network without weights that gives a student the first half of each vector and a teacher the
/// second, so that a loss sees chosen logits of both.
#[derive(Debug)]
struct Halves {
    width: usize,
    /// 0 for the first half, 1 for the second.
    half: ParamId,
    parameters: Vec<ParamId>,
}

impl Module for Halves {
    fn call(&self, f: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let half = storage::scalar(f.param(self.half).value())? as usize;
        let vectors = input("halves", inputs, "vectors")?;
        let logits = narrow(f.tape, vectors, 1, half * self.width, self.width)?;
        select("halves", outputs, |name| Ok((name == "pooled").then(|| logits.clone())))
    }

    fn fact(&self, name: &str) -> Option<i64> {
        (name == "dim").then_some(self.width as i64)
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

inventory::submit! {
    ModuleDef {
        name: "halves",
        help: "no network: the first half of a vector for a student, the second for a teacher",
        role: Role::Backbone,
        options: &[],
        grid: None,
        build: |_, shape, mut declare: Declare<'_>| {
            let half = declare.parameter("half", &[1], ZEROS)?;
            let parameters = declare.finish();
            Ok(Rc::new(Halves { width: shape[0] / 2, half, parameters }))
        },
    }
}

/// Views whose gradients are wanted, by view and copy.
#[derive(Debug)]
struct Leaves(Vec<Vec<Var>>);

impl Leaves {
    /// Crops in the order of [`by_view`].
    fn new(tape: &Tape, crops: Vec<Tensor>) -> Self {
        let leaves = |copies: Vec<Tensor>| copies.into_iter().map(|x| tape.leaf(x)).collect();
        Self(by_view(crops).into_iter().map(leaves).collect())
    }
}

impl ViewSource for Leaves {
    fn field(&self, view: usize, copy: usize, _: &str) -> Result<Var> {
        Ok(self.0[view][copy].clone())
    }

    fn samples(&self) -> usize {
        self.0[0][0].dims()[0]
    }
}

/// Crops, the two global ones first, as the views that the method asks for: `global_1`, `global_2`,
/// and the copies of `local`, if there are any.
fn by_view(crops: Vec<Tensor>) -> Vec<Vec<Tensor>> {
    let mut crops = crops.into_iter();
    let mut views: Vec<Vec<Tensor>> = crops.by_ref().take(2).map(|global| vec![global]).collect();
    let locals: Vec<Tensor> = crops.collect();
    views.extend((!locals.is_empty()).then_some(locals));
    views
}

/// What the method makes of `views`, on `tape`; nothing is updated.
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

pub(super) fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {case}"))
}

pub(super) fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("no count `{key}` in {case}")) as usize
}

/// The recipe of one case of the loss, on vectors that hold a student's and a teacher's logits.
fn loss_recipe(case: &Value, source: &str) -> String {
    format!(
        "method = \"dino\"
        data = {{ source = \"{source}\" }}
        backbone = {{ kind = \"halves\" }}
        [train]
        batch = {}
        [options]
        modality = \"vector\"
        head = false
        local_crops = {}
        temperature_student = {:?}
        temperature_teacher_start = {:?}
        temperature_teacher_end = {:?}
        temperature_teacher_warmup_epochs = {:?}
        center_decay = {:?}",
        count(case, "batch"),
        count(case, "locals"),
        number(case, "temperature_student"),
        number(case, "temperature_teacher_start"),
        number(case, "temperature_teacher_end"),
        number(case, "warmup_epochs"),
        number(case, "center_decay"),
    )
}

/// The crops `[B, 2 K]` of a step: the student's logits, then the teacher's (0 for local crops).
fn crops(file: &Reference, at: &str) -> Vec<Tensor> {
    let (student, teacher) =
        (file.tensor(&format!("{at}.student")), file.tensor(&format!("{at}.teacher")));
    let (n_crops, n_globals) = (student.dims()[0], teacher.dims()[0]);
    let crop = |v: usize| {
        let said = student.get(v)?;
        let told = if v < n_globals { teacher.get(v)? } else { said.zeros_like()? };
        Tensor::cat(&[said, told], 1)
    };
    (0..n_crops).map(|v| crop(v).unwrap()).collect()
}

/// The gradients of `crops`, as `[V, B, K]` for the student's logits and for the teacher's.
fn gradients(tape: &Tape, loss: &Var, views: &Leaves) -> [Tensor; 2] {
    let arrived = tape.backward(loss).unwrap();
    let all: Vec<Tensor> =
        views.0.iter().flatten().map(|leaf| arrived.get(leaf).unwrap().clone()).collect();
    let all = Tensor::stack(&all, 0).unwrap();
    let width = all.dims()[2] / 2;
    [0, 1].map(|half| all.narrow(2, half * width, width).unwrap())
}

#[test]
fn the_loss_its_gradient_and_the_center_are_those_of_lightly() {
    let file = Reference::open("dino/loss.safetensors");
    let (mut seen, place) = (Seen::new(), Workplace::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let name = format!("vectors{c}.safetensors");
        let source = place.path().join(&name);
        crops(&file, &format!("c{c}.s0"))[0].save_safetensors("x", &source).unwrap();
        let mut prepared = prepared(&loss_recipe(case, &source.display().to_string()));
        let state = &mut prepared.trainer.state;
        let half = state.find("teacher.backbone.half").expect("the teacher's backbone");
        let second = Tensor::ones(1, DType::F32, &Device::Cpu);
        state.assign(half, &second.unwrap()).unwrap();
        for (j, epoch) in case["epochs"].as_array().expect("a list").iter().enumerate() {
            let at = format!("c{c}.s{j}");
            let epoch = epoch.as_u64().expect("a number");
            let progress = Progress { step: epoch, steps_per_epoch: 1, total_steps: 100 };
            let tape = Tape::default();
            let views = Leaves::new(&tape, crops(&file, &at));
            let told = {
                let vars = StepVars::new(state);
                learn(&tape, &vars, &mut prepared.session, &views, progress)
            };
            let [student, teacher] = gradients(&tape, &told.loss, &views);
            let far = |got: &Tensor, what: &str| {
                let want = file.tensor(&format!("{at}.{what}"));
                difference(&got.reshape(want.dims()).unwrap(), want, 0.0)
            };
            seen.compare(&LOSS_ALONE, &at, far(told.loss.value(), "loss"));
            seen.compare(&LOSS_GRADIENT, &at, far(&student, "gradient"));
            assert!(elements(&teacher).iter().all(|&x| x == 0.0), "{at}: a teacher learned");
            for (id, value) in told.buffers {
                seen.compare(&LOSS_CENTER, &at, far(&value, "center"));
                state.set_buffer(id, value).unwrap();
            }
        }
    }
    assert_eq!(seen.claims(), 3);
    seen.finish();
}

/// The recipe of the stored steps; the sizes are those of `network.py`.
pub(super) fn step_recipe(settings: &Value) -> String {
    format!(
        "method = \"dino\"
        data = {{ source = \"shapes\", size = 32, n = {batch} }}
        [backbone]
        kind = \"vit\"
        width = 24
        depth = 2
        heads = 3
        patch = 4
        position_offset = {offset:?}
        [train]
        batch = {batch}
        steps = {steps}
        lr = {lr:?}
        lr_final = {lr:?}
        lr_batch = 0
        weight_decay = {weight_decay:?}
        betas = {betas}
        eps = {eps:?}
        clip = {clip:?}
        clip_mode = \"{clip_mode}\"
        [options]
        global_size = 16
        local_size = {local_size}
        local_crops = {locals}
        head_hidden = 48
        head_bottleneck = 16
        prototypes = 32
        freeze_last_layer_epochs = 0.0
        temperature_student = {temperature_student:?}
        temperature_teacher_start = {temperature_teacher:?}
        temperature_teacher_end = {temperature_teacher:?}
        teacher_decay_start = {teacher_decay:?}
        teacher_decay_end = {teacher_decay:?}
        center_decay = {center_decay:?}",
        batch = count(settings, "batch"),
        steps = count(settings, "steps"),
        locals = count(settings, "locals"),
        local_size = count(settings, "local_size"),
        betas = settings["betas"],
        clip_mode = if settings["clip_per_tensor"] == true { "tensor" } else { "global" },
        offset = number(settings, "offset"),
        lr = number(settings, "lr"),
        weight_decay = number(settings, "weight_decay"),
        eps = number(settings, "eps"),
        clip = number(settings, "clip"),
        temperature_student = number(settings, "temperature_student"),
        temperature_teacher = number(settings, "temperature_teacher"),
        teacher_decay = number(settings, "teacher_decay"),
        center_decay = number(settings, "center_decay"),
    )
}

/// Student and teacher as they are before the first stored step. The file has the host's names
/// already: `named` in `network.py` is the table of those that differ from lightly's.
fn started(file: &Reference) -> Prepared {
    let mut prepared = prepared(&step_recipe(&file.json("settings")));
    let state = &mut prepared.trainer.state;
    for index in 0..state.parameters().len() {
        let id = ParamId(index);
        let stored = file.tensor(&state.get(id).name).clone();
        state.assign(id, &stored).unwrap();
    }
    prepared
}

/// The views of stored step `step`.
fn batch(file: &Reference, step: usize) -> BatchViews {
    let locals = count(&file.json("settings"), "locals");
    let globals = (0..2).map(|v| format!("globals.{step}.{v}"));
    let locals = (0..locals).map(|v| format!("locals.{step}.{v}"));
    let crops = globals.chain(locals).map(|name| file.tensor(&name).clone());
    let fields =
        |copies: Vec<Tensor>| copies.into_iter().map(|crop| Fields::one("pixels", crop)).collect();
    BatchViews::recorded(by_view(crops.collect()).into_iter().map(fields).collect())
}

/// How the bias of queries, keys and values is called.
const KEYS: &str = "attn.qkv.bias";

/// `value` of parameter `name` without the biases of keys. Those add the same to every score of a query,
/// so their true gradient is 0, and what rounding leaves of it AdamW divides by its own size.
pub(super) fn defined(name: &str, value: &Tensor) -> Tensor {
    if !name.ends_with(KEYS) {
        return value.clone();
    }
    let width = value.dims()[0] / 3;
    let part = |i: usize| value.narrow(0, i * width, width).unwrap();
    Tensor::cat(&[part(0), part(2)], 0).unwrap()
}

/// The biases of keys, if `value` of parameter `name` has some.
fn keys(name: &str, value: &Tensor) -> Vec<f64> {
    let width = value.dims()[0] / 3;
    let has = name.ends_with(KEYS);
    if has { elements(&value.narrow(0, width, width).unwrap()) } else { Vec::new() }
}

/// Compares every parameter of `network` in `state` with what stands under `prefix` in the file.
fn compare_parameters(
    seen: &mut Seen,
    file: &Reference,
    state: &State,
    [network, prefix]: [&str; 2],
) {
    for (name, want) in file.below(prefix) {
        let id = state.find(&format!("{network}.{name}")).expect(name);
        let got = &state.get(id).value;
        let far = difference(&defined(name, got), &defined(name, want), 0.0);
        // Where AdamW only meets rounding, it still moves nothing by more than the learning rate.
        let settings = file.json("settings");
        let most = number(&settings, "lr") * number(&settings, "steps");
        let moved = keys(name, got).into_iter().zip(keys(name, want));
        assert!(moved.into_iter().all(|(got, want)| (got - want).abs() < most), "{prefix}{name}");
        let claim = match (is_ten(&settings), network) {
            (true, _) => &TEN,
            (false, "student") => &STEP_STUDENT,
            _ => &STEP_TEACHER,
        };
        seen.compare(claim, &format!("{prefix}{name}"), far);
    }
}

fn one(value: f64) -> Tensor {
    Tensor::new(&[value], &Device::Cpu).unwrap()
}

fn check_gradients(path: &str) {
    let file = Reference::open(path);
    let Prepared { mut session, trainer, .. } = started(&file);
    let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
    let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 2 };
    let told = learn(&tape, &vars, &mut session, &batch(&file, 0), at);
    let arrived = tape.backward(&told.loss).unwrap();
    let mut seen = Seen::new();
    for (name, want) in file.below("gradient.") {
        let id = trainer.state.find(&format!("student.{name}")).expect(name);
        let gradient = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned());
        let far = difference(&gradient.expect(name), want, 0.0);
        seen.compare(&GRADIENT, name, far);
    }
    seen.finish();
}

/// Whether a file with these settings holds ten steps, with the weights after the last one only.
fn is_ten(settings: &Value) -> bool {
    count(settings, "steps") == 10
}

fn check_steps(path: &str) {
    let file = Reference::open(path);
    let ten = is_ten(&file.json("settings"));
    let of = |claim: &'static Claim| if ten { &TEN } else { claim };
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    let mut seen = Seen::new();
    for step in 0..total_steps as usize {
        let at = Progress { step: step as u64, steps_per_epoch, total_steps };
        let taken = trainer.step(&mut session, at, || Ok(batch(&file, step))).unwrap();
        let place = format!("step {step}");
        let far = |got: Tensor, what: &str| {
            let want = file.tensor(&format!("{what}.{step}"));
            difference(&got.reshape(want.dims()).unwrap(), want, 0.0)
        };
        seen.compare(of(&STEP_LOSS), &place, far(one(taken.loss), "loss"));
        seen.compare(of(&STEP_NORM), &place, far(one(taken.gradient_norm), "norm"));
        let center = trainer.state.get_buffer(BufferId(0)).clone();
        seen.compare(of(&STEP_CENTER), &place, far(center, "center"));
        let state = &trainer.state;
        let prefix = format!("student.{step}.");
        compare_parameters(&mut seen, &file, state, ["student", &prefix]);
        let prefix = format!("teacher.{step}.");
        compare_parameters(&mut seen, &file, state, ["teacher", &prefix]);
    }
    assert_eq!(seen.claims(), if ten { 1 } else { 5 });
    seen.finish();
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch() {
    check_gradients("dino/step.safetensors");
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch_with_positions_resized_as_the_authors_do() {
    check_gradients("dino/step_official.safetensors");
}

#[test]
fn whole_steps_end_in_the_weights_of_pytorch() {
    check_steps("dino/step.safetensors");
}

#[test]
fn whole_steps_with_the_authors_clipping_and_positions_end_in_the_weights_of_pytorch() {
    check_steps("dino/step_official.safetensors");
}

#[test]
fn ten_whole_steps_end_in_the_weights_of_pytorch() {
    check_steps(TEN_STEPS);
}
