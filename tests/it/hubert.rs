//! HuBERT's plugin against the stored values of torchaudio's head and fairseq's loss, and of PyTorch's
//! training steps (`tests/reference/hubert`).

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::Tensor;
use pretext::Result;
use pretext::config::{Draft, MethodTable};
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{ModuleDef, Role, backbone_options};
use pretext::module::{Forward, Input, Module, input, select};
use pretext::plugin::{Catalogue, SearchPath, ViewSource};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{ParamId, StepVars};
use pretext::train::prepare::{Prepared, prepare};
use pretext_tests::built;
use pretext_tests::reference::{Reference, difference};
use serde_json::Value;

/// The loss and its gradients: f32 against f64.
const LOSS: f64 = 1e-5;
/// Gradients of the whole network, and one whole step.
const STEP: f64 = 1e-4;
/// Ten whole steps.
const TEN_STEPS: f64 = 1e-3;

fn prepared(recipe: &str) -> Prepared {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let (plugin, method) = catalogue.method("hubert").expect("the plugin was built");
    let table = MethodTable { recipe: "", options: &method.options };
    let draft = Draft::from_text("the test's recipe", recipe, &[]).unwrap();
    let recipe = draft.resolve(&table, &backbone_options).unwrap();
    prepare(&recipe, plugin).unwrap()
}

/// A network without weights whose tokens are its input.
#[derive(Debug)]
struct Tokens(usize);

impl Module for Tokens {
    fn call(&self, _: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let tokens = input("given-tokens", inputs, "images")?;
        select("given-tokens", outputs, |name| Ok((name == "tokens").then(|| tokens.clone())))
    }

    fn fact(&self, name: &str) -> Option<i64> {
        (name == "dim").then_some(self.0 as i64)
    }

    fn parameters(&self) -> &[ParamId] {
        &[]
    }
}

inventory::submit! {
    ModuleDef {
        name: "given-tokens",
        help: "no network: the tokens are the input",
        role: Role::Backbone,
        options: &[pretext::module::registry::OptionDef {
            name: "width",
            kind: pretext::module::registry::Kind::Int { default: Some(1), low: 1, high: 1000 },
            help: "width of a token",
        }],
        grid: Some(|_, _| Ok(vec![4, 4])),
        build: |options, _, declare: Declare<'_>| {
            declare.finish();
            Ok(Rc::new(Tokens(options.required("width")?)))
        },
    }
}

/// Fields by name, whatever the view: `pixels`, `mask`, `units`, `known`.
struct Fields(Vec<(&'static str, Var)>);

impl Fields {
    /// `input` is what a backbone sees; every frame has a unit.
    fn new(input: Var, mask: &Tensor, units: &Tensor) -> Self {
        let (mask, units) = (mask.clone(), units.clone());
        let known = mask.ones_like().unwrap();
        let constant = Var::constant;
        Self(vec![
            ("pixels", input),
            ("mask", constant(mask)),
            ("units", constant(units)),
            ("known", constant(known)),
        ])
    }
}

impl ViewSource for Fields {
    fn field(&self, _: usize, _: usize, field: &str) -> Result<Var> {
        Ok(self.0.iter().find(|(name, _)| *name == field).expect(field).1.clone())
    }

    fn samples(&self) -> usize {
        self.0[0].1.dims()[0]
    }
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {case}"))
}

fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("no count `{key}` in {case}")) as usize
}

#[test]
fn the_loss_and_its_gradients_are_those_of_torchaudio_and_fairseq() {
    let file = Reference::open("hubert/loss.safetensors");
    let mut largest = 0.0_f64;
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let recipe = format!(
            "method = \"hubert\"
            data = {{ source = \"shapes\", size = 32, n = 8 }}
            backbone = {{ kind = \"given-tokens\", width = {} }}
            train = {{ batch = 2 }}
            [options]
            modality = \"image\"
            image_size = 16
            features_first = \"patches\"
            mask = \"random\"
            clusters_first = {}
            extra_classes = 0
            projection = {}
            weight_masked = {:?}
            weight_unmasked = {:?}",
            count(case, "dim"),
            count(case, "classes"),
            count(case, "width"),
            number(case, "masked"),
            number(case, "unmasked"),
        );
        let Prepared { mut session, mut trainer, .. } = prepared(&recipe);
        let at = |name: &str| file.tensor(&format!("c{c}.{name}")).clone();
        let names = ["projection.weight", "projection.bias", "codewords"];
        let stored = ["weight", "bias", "codewords"];
        let ids = names.map(|name| trainer.state.find(&format!("student.{name}")).expect(name));
        for (id, stored) in ids.iter().zip(stored) {
            trainer.state.assign(*id, &at(stored)).unwrap();
        }
        let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        let tokens = tape.leaf(at("tokens"));
        let views = Fields::new(tokens.clone(), &at("mask"), &at("units"));
        let progress = Progress { step: 0, steps_per_epoch: 1, total_steps: 1 };
        let told = session.step(&forward, &views, progress).unwrap();
        let arrived = tape.backward(&told.loss).unwrap();
        let mut check = |what: &str, got: &Tensor, want: &Tensor| {
            let far = difference(&got.reshape(want.dims()).unwrap(), want, 0.0);
            assert!(far <= LOSS, "case {c}: {what} is off by {far:.1e}");
            largest = largest.max(far);
        };
        check("loss", told.loss.value(), &at("loss"));
        check("tokens", arrived.get(&tokens).unwrap(), &at("gradient.tokens"));
        for (id, stored) in ids.iter().zip(stored) {
            let leaf = vars.used(*id).expect(stored);
            let want = at(&format!("gradient.{stored}"));
            check(stored, arrived.get(&leaf).unwrap(), &want);
        }
    }
    println!("largest difference: {largest:.1e}");
}

/// The recipe of the stored steps; the sizes are those of `network.py`.
fn step_recipe(settings: &Value) -> String {
    format!(
        "method = \"hubert\"
        data = {{ source = \"shapes\", size = 32, n = {batch} }}
        [backbone]
        kind = \"vit\"
        width = 24
        depth = 2
        heads = 3
        patch = 4
        mask_token = true
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
        clip_mode = \"global\"
        [options]
        modality = \"image\"
        image_size = 16
        features_first = \"patches\"
        iterations = 1
        mask = \"random\"
        clusters_first = {units}
        extra_classes = {extra_classes}
        projection = {width}",
        batch = count(settings, "batch"),
        steps = count(settings, "steps"),
        betas = settings["betas"],
        lr = number(settings, "lr"),
        weight_decay = number(settings, "weight_decay"),
        eps = number(settings, "eps"),
        clip = number(settings, "clip"),
        units = count(settings, "units"),
        extra_classes = count(settings, "extra_classes"),
        width = count(settings, "width"),
    )
}

/// The network as it is before the first stored step.
fn started(file: &Reference) -> Prepared {
    let mut prepared = prepared(&step_recipe(&file.json("settings")));
    let state = &mut prepared.trainer.state;
    for index in 0..state.parameters().len() {
        let id = ParamId(index);
        let stored = file.tensor(&state.get(id).name).clone();
        state.assign(id, &stored).unwrap();
    }
    assert_eq!(state.parameters().len(), file.below("gradient.").len());
    prepared
}

/// The views of stored step `step`.
fn batch(file: &Reference, step: usize) -> Fields {
    let at = |name: &str| file.tensor(&format!("{name}.{step}"));
    Fields::new(Var::constant(at("images").clone()), at("mask"), at("units"))
}

/// `value` of parameter `name` without the biases of keys, whose true gradient is 0: what rounding leaves
/// of it AdamW divides by its own size.
fn defined(name: &str, value: &Tensor) -> Tensor {
    if !name.ends_with("attn.qkv.bias") {
        return value.clone();
    }
    let width = value.dims()[0] / 3;
    let part = |i: usize| value.narrow(0, i * width, width).unwrap();
    Tensor::cat(&[part(0), part(2)], 0).unwrap()
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch() {
    let file = Reference::open("hubert/steps.safetensors");
    let Prepared { mut session, trainer, .. } = started(&file);
    let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
    let progress = Progress { step: 0, steps_per_epoch: 1, total_steps: 10 };
    let told = session.step(&forward, &batch(&file, 0), progress).unwrap();
    let arrived = tape.backward(&told.loss).unwrap();
    for (name, want) in file.below("gradient.") {
        let id = trainer.state.find(&format!("student.{name}")).expect(name);
        let gradient = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
        let far = difference(&defined(name, &gradient), &defined(name, want), 0.0);
        assert!(far <= STEP, "{name} is off by {far:.1e}");
    }
}

#[test]
fn one_whole_step_and_ten_end_in_the_weights_of_pytorch() {
    let file = Reference::open("hubert/steps.safetensors");
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    assert_eq!(total_steps, 10);
    for step in 0..total_steps as usize {
        let progress = Progress { step: step as u64, steps_per_epoch, total_steps };
        let fields = std::cell::Cell::new(Some(batch(&file, step)));
        let taken = trainer
            .step(&mut Given { session: &mut session }, progress, || {
                Ok(fields.take().expect("one batch a step"))
            })
            .unwrap();
        let tolerance = if step == 0 { STEP } else { TEN_STEPS };
        for (what, got) in [("loss", taken.loss), ("norm", taken.gradient_norm)] {
            let want = file.tensor(&format!("{what}.{step}"));
            let got = Tensor::new(&[got], &candle_core::Device::Cpu).unwrap();
            let far = difference(&got, want, 0.0);
            assert!(far <= tolerance, "{what} of step {step} is off by {far:.1e}");
        }
        let mut largest = (0.0, "");
        let after = file.below(&format!("student.{step}."));
        for (name, want) in &after {
            let id = trainer.state.find(&format!("student.{name}")).expect(name);
            let got = &trainer.state.get(id).value;
            let far = difference(&defined(name, got), &defined(name, want), 0.0);
            assert!(far <= tolerance, "{name} after step {step} is off by {far:.1e}");
            largest = if far > largest.0 { (far, *name) } else { largest };
        }
        if !after.is_empty() {
            println!("largest difference after step {step}: {:.1e} ({})", largest.0, largest.1);
        }
    }
}

/// The method on recorded fields.
struct Given<'a> {
    session: &'a mut pretext::plugin::Session,
}

impl pretext::train::step::Learner for Given<'_> {
    type Batch = Fields;

    fn learn(
        &mut self,
        forward: &Forward<'_>,
        batch: &Fields,
        progress: Progress,
    ) -> Result<pretext::plugin::Told> {
        self.session.step(forward, batch, progress)
    }
}
