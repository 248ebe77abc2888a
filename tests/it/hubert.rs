//! HuBERT's plugin against the stored values of torchaudio's head and fairseq's loss, and of PyTorch's
//! training steps on pictures and on sound (`tests/reference/hubert`).

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::Tensor;
use pretext::Result;
use pretext::config::{Draft, MethodTable};
use pretext::data::{Content, Grid, ViewPlan, ViewRequest, rehearse};
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{ModuleDef, Role, backbone_options};
use pretext::module::{Forward, Input, Module, input, select};
use pretext::plugin::{Catalogue, SearchPath, Session, Told, ViewSource};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{ParamId, State, StepVars};
use pretext::train::prepare::{Prepared, prepare};
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements};
use pretext_tests::{built, claims};
use serde_json::Value;

const SPANS: &str = "torchaudio's `_compute_mask_indices`";
const HEAD: &str = "torchaudio's `LogitGenerator` with fairseq's criterion, f64";
const PICTURES: &str =
    "torchaudio's `LogitGenerator`, fairseq's criterion and PyTorch's AdamW on a ViT, f64";
const SOUND: &str = "torchaudio's `LogitGenerator`, fairseq's criterion and PyTorch's AdamW on transformers' `HubertModel`, f64";
/// The loss and its gradients: f32 against f64.
const LOSS: f64 = 1e-5;
/// Gradients of the whole network, and one whole step.
const STEP: f64 = 1e-4;
/// Ten whole steps.
const TEN_STEPS: f64 = 1e-3;

claims! {
    LOSS_ALONE = "hubert", "loss, with weights of hidden and shown frames", HEAD, LOSS;
    LOSS_TOKENS = "hubert", "loss: gradient to the tokens", HEAD, LOSS;
    LOSS_HEAD = "hubert", "loss: gradient to projection and codewords", HEAD, LOSS;
    PENALTY = "hubert", "penalty of the first features", SOUND, LOSS;
    PENALTY_GRADIENT = "hubert", "penalty of the first features: gradient to every parameter of the convolutions", SOUND, STEP;
    GRADIENT = "hubert", "whole network, pictures: gradient to every parameter", PICTURES, STEP;
    GRADIENT_SOUND = "hubert", "whole network, padded sound: gradient to every parameter", SOUND, STEP;
    ONE = "hubert", "one whole step, pictures: loss, norm, every parameter", PICTURES, STEP;
    ONE_SOUND = "hubert", "one whole step, padded sound: loss with its parts, norm, every parameter", SOUND, STEP;
    TEN = "hubert", "ten whole steps, pictures: losses, norms, every parameter", PICTURES, TEN_STEPS;
    COUNTS = "hubert", "masks of spans: mean number of hidden frames, in standard errors", SPANS, 5.0;
    PLACES = "hubert", "masks of spans: share of each frame, in standard errors", SPANS, 5.0;
    TEN_SOUND = "hubert", "ten whole steps, padded sound: losses with their parts, norms, every parameter", SOUND, TEN_STEPS;
}

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

/// Fields by name, whatever the view: `pixels` or `samples` and `lengths`, `mask`, `units`, `known`.
struct Fields(Vec<(&'static str, Var)>);

impl Fields {
    /// `input` is what a backbone sees; every frame has a unit.
    fn pictures(input: Var, mask: &Tensor, units: &Tensor) -> Self {
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

    /// The views of stored step `step`: of pictures, or of sound where the file has any.
    fn stored(file: &Reference, step: usize) -> Self {
        let at = |name: &str| file.tensor(&format!("{name}.{step}")).clone();
        if !file.has("samples.0") {
            return Self::pictures(Var::constant(at("images")), &at("mask"), &at("units"));
        }
        let names = ["samples", "lengths", "mask", "units", "known"];
        Self(names.map(|name| (name, Var::constant(at(name)))).into())
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

/// The recipe of one case of the loss.
fn loss_recipe(case: &Value) -> String {
    format!(
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
    )
}

/// What the method makes of `views` in the first of ten steps.
fn learn(tape: &Tape, vars: &StepVars<'_>, session: &mut Session, views: &Fields) -> Told {
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape, vars, training: true, stream };
    let progress = Progress { step: 0, steps_per_epoch: 1, total_steps: 10 };
    session.step(&forward, views, progress).unwrap()
}

#[test]
fn the_loss_and_its_gradients_are_those_of_torchaudio_and_fairseq() {
    let file = Reference::open("hubert/loss.safetensors");
    let mut seen = Seen::new();
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let Prepared { mut session, mut trainer, .. } = prepared(&loss_recipe(case));
        let at = |name: &str| file.tensor(&format!("c{c}.{name}")).clone();
        let names = ["projection.weight", "projection.bias", "codewords"];
        let stored = ["weight", "bias", "codewords"];
        let ids = names.map(|name| trainer.state.find(&format!("student.{name}")).expect(name));
        for (id, stored) in ids.iter().zip(stored) {
            trainer.state.assign(*id, &at(stored)).unwrap();
        }
        let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
        let tokens = tape.leaf(at("tokens"));
        let views = Fields::pictures(tokens.clone(), &at("mask"), &at("units"));
        let told = learn(&tape, &vars, &mut session, &views);
        let arrived = tape.backward(&told.loss).unwrap();
        let mut check = |claim, what: &str, got: &Tensor, want: &Tensor| {
            let far = difference(&got.reshape(want.dims()).unwrap(), want, 0.0);
            seen.compare(claim, &format!("{what} of case {c}"), far);
        };
        check(&LOSS_ALONE, "loss", told.loss.value(), &at("loss"));
        check(&LOSS_TOKENS, "tokens", arrived.get(&tokens).unwrap(), &at("gradient.tokens"));
        for (id, stored) in ids.iter().zip(stored) {
            let leaf = vars.used(*id).expect(stored);
            let want = at(&format!("gradient.{stored}"));
            check(&LOSS_HEAD, stored, arrived.get(&leaf).unwrap(), &want);
        }
    }
    assert_eq!(seen.claims(), 3);
    seen.finish();
}

/// The recipe of the stored steps, `backbone` and `options` but for their common lines.
fn step_recipe(settings: &Value, data: &str, backbone: &str, options: &str) -> String {
    format!(
        "method = \"hubert\"
        data = {{ source = \"{data}\", n = {batch} }}
        [backbone]
        {backbone}
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
        iterations = 1
        clusters_first = {units}
        extra_classes = {extra_classes}
        projection = {width}
        {options}",
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

/// On pictures; the sizes are those of `network.py`.
fn picture_recipe(settings: &Value) -> String {
    let backbone = "kind = \"vit\"\nwidth = 24\ndepth = 2\nheads = 3\npatch = 4";
    let options =
        "modality = \"image\"\nimage_size = 16\nfeatures_first = \"patches\"\nmask = \"random\"";
    step_recipe(settings, "shapes", backbone, options)
}

/// On padded sound.
fn sound_recipe(settings: &Value, options: &str) -> String {
    let backbone = format!(
        "kind = \"wave\"
        width = {}
        depth = {}
        heads = {}
        mlp_ratio = {:?}
        conv_widths = {}
        conv_kernels = {}
        conv_strides = {}
        position_kernel = {}
        position_groups = {}
        conv_grad_factor = {:?}
        dropout = 0.0
        input_dropout = 0.0
        layer_drop = 0.0",
        count(settings, "hidden_size"),
        count(settings, "num_hidden_layers"),
        count(settings, "num_attention_heads"),
        number(settings, "intermediate_size") / number(settings, "hidden_size"),
        settings["conv_dim"],
        settings["conv_kernel"],
        settings["conv_stride"],
        count(settings, "num_conv_pos_embeddings"),
        count(settings, "num_conv_pos_embedding_groups"),
        number(settings, "grad_factor"),
    );
    let penalty = number(settings, "penalty");
    let options = format!("pad = true\nfeature_penalty = {penalty:?}\n{options}");
    step_recipe(settings, "speech", &backbone, &options)
}

/// The network of `recipe` as it is before the first stored step.
fn started(file: &Reference, recipe: &str) -> Prepared {
    let mut prepared = prepared(recipe);
    let state = &mut prepared.trainer.state;
    for index in 0..state.parameters().len() {
        let id = ParamId(index);
        let stored = file.tensor(&state.get(id).name).clone();
        state.assign(id, &stored).unwrap();
    }
    assert_eq!(state.parameters().len(), file.below("gradient.").len());
    prepared
}

/// `value` of parameter `name` without the biases of keys, whose true gradient is 0: what rounding leaves
/// of it AdamW divides by its own size.
fn defined(name: &str, value: &Tensor) -> Tensor {
    if !name.ends_with("qkv.bias") {
        return value.clone();
    }
    let width = value.dims()[0] / 3;
    let part = |i: usize| value.narrow(0, i * width, width).unwrap();
    Tensor::cat(&[part(0), part(2)], 0).unwrap()
}

/// How far the gradients of `told` lie from those stored under a prefix, by name.
fn gradients(
    (file, prefix): (&Reference, &str),
    (state, vars): (&State, &StepVars<'_>),
    tape: &Tape,
    told: &Told,
) -> Vec<(String, f64)> {
    let arrived = tape.backward(&told.loss).unwrap();
    let far = file.below(prefix).into_iter().map(|(name, want)| {
        let id = state.find(&format!("student.{name}")).expect(name);
        let gradient = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
        (name.to_owned(), difference(&defined(name, &gradient), &defined(name, want), 0.0))
    });
    far.collect()
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch() {
    for (claim, path, sound) in [
        (&GRADIENT, "hubert/steps.safetensors", false),
        (&GRADIENT_SOUND, "hubert/sound.safetensors", true),
    ] {
        let file = Reference::open(path);
        let settings = file.json("settings");
        let recipe = if sound { sound_recipe(&settings, "") } else { picture_recipe(&settings) };
        let Prepared { mut session, trainer, .. } = started(&file, &recipe);
        let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
        let told = learn(&tape, &vars, &mut session, &Fields::stored(&file, 0));
        let mut seen = Seen::new();
        for (name, far) in gradients((&file, "gradient."), (&trainer.state, &vars), &tape, &told) {
            seen.compare(claim, &name, far);
        }
        seen.finish();
    }
}

#[test]
fn the_penalty_of_the_first_features_and_its_gradient_are_those_of_fairseq() {
    let file = Reference::open("hubert/sound.safetensors");
    let settings = file.json("settings");
    // Without frames that count nothing but the penalty is left.
    let recipe = sound_recipe(&settings, "weight_masked = 0.0\nweight_unmasked = 0.0");
    let Prepared { mut session, trainer, .. } = started(&file, &recipe);
    let (tape, vars) = (Tape::default(), StepVars::new(&trainer.state));
    let told = learn(&tape, &vars, &mut session, &Fields::stored(&file, 0));
    let want = (file.tensor("penalty.0") * number(&settings, "penalty")).unwrap();
    let far = difference(&told.loss.value().reshape(1).unwrap(), &want, 0.0);
    let mut seen = Seen::new();
    seen.compare(&PENALTY, "step 0", far);
    let stored = (&file, "penalty_gradient.");
    for (name, far) in gradients(stored, (&trainer.state, &vars), &tape, &told) {
        seen.compare(&PENALTY_GRADIENT, &name, far);
    }
    assert_eq!(seen.claims(), 2);
    seen.finish();
}

/// Trains ten steps from stored weights on stored views, and compares; of `figures` each is a metric's name and
/// the stored one's.
fn check_steps(
    path: &str,
    recipe: fn(&Value) -> String,
    figures: &[(&str, &str)],
    claims: [&'static Claim; 2],
) {
    let file = Reference::open(path);
    let recipe = recipe(&file.json("settings"));
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } =
        started(&file, &recipe);
    assert_eq!(total_steps, 10);
    let mut seen = Seen::new();
    for step in 0..total_steps as usize {
        let progress = Progress { step: step as u64, steps_per_epoch, total_steps };
        let fields = std::cell::Cell::new(Some(Fields::stored(&file, step)));
        let taken = trainer
            .step(&mut Given { session: &mut session }, progress, || {
                Ok(fields.take().expect("one batch a step"))
            })
            .unwrap();
        let claim = claims[usize::from(step > 0)];
        let mut got = vec![("loss", taken.loss), ("norm", taken.gradient_norm)];
        for (metric, stored) in figures {
            let (_, value) = taken.metrics.iter().find(|(name, _)| name == metric).expect(metric);
            got.push((stored, *value));
        }
        for (what, got) in got {
            let want = file.tensor(&format!("{what}.{step}"));
            let got = Tensor::new(&[got], &candle_core::Device::Cpu).unwrap();
            seen.compare(claim, &format!("{what} of step {step}"), difference(&got, want, 0.0));
        }
        for (name, want) in file.below(&format!("student.{step}.")) {
            let id = trainer.state.find(&format!("student.{name}")).expect(name);
            let got = &trainer.state.get(id).value;
            let far = difference(&defined(name, got), &defined(name, want), 0.0);
            seen.compare(claim, &format!("{name} after step {step}"), far);
        }
    }
    assert_eq!(seen.claims(), 2);
    seen.finish();
}

#[test]
fn one_whole_step_and_ten_on_pictures_end_in_the_weights_of_pytorch() {
    check_steps("hubert/steps.safetensors", picture_recipe, &[], [&ONE, &TEN]);
}

#[test]
fn one_whole_step_and_ten_on_padded_sound_end_in_the_weights_of_pytorch() {
    let parts = [("prediction", "prediction"), ("feature_penalty", "penalty")];
    let recipe = |settings: &Value| sound_recipe(settings, "");
    check_steps("hubert/sound.safetensors", recipe, &parts, [&ONE_SOUND, &TEN_SOUND]);
}

#[test]
fn masks_of_spans_have_the_statistics_of_torchaudio() {
    const BATCHES: u64 = 1000;
    let (file, mut seen) = (Reference::open("hubert/masks.safetensors"), Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let (side, batch) = (count(case, "side"), count(case, "batch"));
        let input = ViewRequest::new("input", "crop", 1, 1).with("size", side as f64);
        let mask = ViewRequest::new("mask", "span-mask", 1, 1).with_text("of", "input");
        let mask = ["probability", "length", "min_spans"]
            .iter()
            .fold(mask, |mask, key| mask.with(key, number(case, key)));
        let grid = Grid::new(|shape| Ok(shape[1..].to_vec()));
        let plan = ViewPlan { views: vec![input, mask], grid };
        let (mut share, mut hidden) = (vec![0.0; side * side], 0.0);
        for seed in 0..BATCHES {
            let drawn = rehearse(&plan, Content::Images, batch, seed).unwrap();
            let mask = drawn.named("mask").next().unwrap().field("mask").unwrap();
            for (at, value) in mask.values.u8().iter().enumerate() {
                share[at % (side * side)] += f64::from(*value) / (BATCHES * batch as u64) as f64;
                hidden += f64::from(*value) / (BATCHES * batch as u64) as f64;
            }
        }
        // Both means are of so many batches.
        let batches = 1.0 / BATCHES as f64 + 1.0 / number(case, "batches");
        let errors =
            |far: f64, std: f64| if far == 0.0 { 0.0 } else { far.abs() / (std * batches.sqrt()) };
        let stored = |name: &str| elements(file.tensor(&format!("c{c}.{name}")));
        let counts = stored("count");
        seen.compare(&COUNTS, &format!("case {c}"), errors(hidden - counts[0], counts[1]));
        for (at, (want, std)) in stored("share").iter().zip(stored("share_std")).enumerate() {
            seen.compare(&PLACES, &format!("case {c}, frame {at}"), errors(share[at] - want, std));
        }
    }
    seen.finish();
}

/// The method on recorded fields.
struct Given<'a> {
    session: &'a mut Session,
}

impl pretext::train::step::Learner for Given<'_> {
    type Batch = Fields;

    fn learn(&mut self, forward: &Forward<'_>, batch: &Fields, progress: Progress) -> Result<Told> {
        self.session.step(forward, batch, progress)
    }
}
