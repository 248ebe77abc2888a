//! I-JEPA's plugin against the stored values of a network written from the paper (`tests/reference/jepa`),
//! and its masks against sampled statistics.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use pretext::Result;
use pretext::config::{Draft, MethodTable};
use pretext::data::{Content, Grid, ViewPlan, ViewRequest, rehearse};
use pretext::engine::ops::gather_tokens::gather_tokens;
use pretext::engine::ops::narrow::narrow;
use pretext::engine::ops::permute::permute;
use pretext::engine::ops::reshape::reshape;
use pretext::engine::{Tape, Var, storage};
use pretext::module::declare::{Declare, ZEROS};
use pretext::module::registry::{Kind, ModuleDef, OptionDef, Role, backbone_options};
use pretext::module::{Forward, Input, Module, input, optional_input, select};
use pretext::plugin::{Catalogue, SearchPath, Session, Told, ViewSource};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{ParamId, StepVars};
use pretext::train::prepare::{Prepared, prepare};
use pretext::train::views::{BatchViews, Fields};
use pretext_tests::parity::Seen;
use pretext_tests::reference::{Reference, difference, elements};
use pretext_tests::{built, claims};
use serde_json::Value;

const PAPER: &str = "a network written from the paper, f64";
const PYTORCH: &str = "a network written from the paper and PyTorch's AdamW, f64";
const SAMPLED: &str = "the authors' sampling, written anew in NumPy";

claims! {
    /// f32 against f64.
    LOSS = "jepa", "loss", PAPER, 1e-5;
    TO_FEATURES = "jepa", "loss: gradient to the features", PAPER, 1e-5;
    TO_PREDICTOR = "jepa", "loss: gradient to every parameter of the predictor", PAPER, 1e-5;
    /// f32 there and back against f64.
    GRADIENT = "jepa", "whole network: gradient to every parameter", PYTORCH, 1e-5;
    /// Ten steps move a weight by about 1e-2.
    STEP_LOSS = "jepa", "one and ten whole steps: losses", PYTORCH, 1e-5;
    STEP_STUDENT = "jepa", "one and ten whole steps: every parameter of the student", PYTORCH, 1e-5;
    STEP_TEACHER = "jepa", "one and ten whole steps: every parameter of the teacher", PYTORCH, 1e-5;
    LENGTHS = "jepa", "masks on 14 x 14 and 16 x 16, official and corrected: mean lengths, in standard errors", SAMPLED, 5.0;
    PLACES = "jepa", "masks on 14 x 14 and 16 x 16, official and corrected: share of each patch, in standard errors", SAMPLED, 5.0;
}

/// A network without weights over pictures `[B, 2 D, rows, cols]`: their first D channels are a student's
/// tokens, the others a teacher's.
#[derive(Debug)]
struct TokenHalves {
    width: usize,
    grid: [usize; 2],
    /// 0 for the first half, 1 for the second.
    half: ParamId,
    parameters: Vec<ParamId>,
}

impl Module for TokenHalves {
    fn call(&self, f: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let half = storage::scalar(f.param(self.half).value())? as usize;
        let images = input("token-halves", inputs, "images")?;
        let batch = images.dims()[0];
        let planes = narrow(f.tape, images, 1, half * self.width, self.width)?;
        let planes = reshape(f.tape, &planes, &[batch, self.width, self.grid[0] * self.grid[1]])?;
        let mut tokens = permute(f.tape, &planes, &[0, 2, 1])?;
        if let Some(keep) = optional_input(inputs, "keep") {
            tokens = gather_tokens(f.tape, &tokens, keep)?;
        }
        select("token-halves", outputs, |name| Ok((name == "tokens").then(|| tokens.clone())))
    }

    fn fact(&self, name: &str) -> Option<i64> {
        let value = match name {
            "dim" => self.width,
            "rows" => self.grid[0],
            "cols" => self.grid[1],
            _ => return None,
        };
        Some(value as i64)
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

const SIZE: Kind = Kind::Int { default: None, low: 1, high: 1 << 16 };

inventory::submit! {
    ModuleDef {
        name: "token-halves",
        help: "no network: half of the channels for a student, half for a teacher",
        role: Role::Backbone,
        options: &[
            OptionDef { name: "width", kind: SIZE, help: "width of a token" },
            OptionDef { name: "rows", kind: SIZE, help: "rows of tokens" },
            OptionDef { name: "cols", kind: SIZE, help: "columns of tokens" },
        ],
        grid: Some(|options, _| Ok(vec![options.required("rows")?, options.required("cols")?])),
        build: |options, _, mut declare: Declare<'_>| {
            let half = declare.parameter("half", &[1], ZEROS)?;
            let grid = [options.required("rows")?, options.required("cols")?];
            let (width, parameters) = (options.required("width")?, declare.finish());
            Ok(Rc::new(TokenHalves { width, grid, half, parameters }))
        },
    }
}

/// What `recipe` builds with the real plugin.
fn prepared(recipe: &str) -> Prepared {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let (plugin, method) = catalogue.method("jepa").expect("the plugin was built");
    let table = MethodTable { recipe: "", options: &method.options };
    let draft = Draft::from_text("the test's recipe", recipe, &[]).unwrap();
    let recipe = draft.resolve(&table, &backbone_options).unwrap();
    prepare(&recipe, plugin).unwrap()
}

fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("no count `{key}` in {case}")) as usize
}

/// The predictor of a case, and masks that fit any grid: the stored ones are used.
fn options(case: &Value) -> String {
    format!(
        "mask_sampling = \"corrected\"
        target_scale_min = 0.9
        target_scale_max = 1.0
        min_keep = 0
        target_blocks = {}
        predictor_width = {}
        predictor_depth = {}
        predictor_heads = {}",
        count(case, "blocks"),
        count(case, "predictor_width"),
        count(case, "predictor_depth"),
        count(case, "predictor_heads"),
    )
}

/// A batch whose picture is a leaf of the tape.
struct Watched {
    image: Var,
    masks: BatchViews,
}

impl ViewSource for Watched {
    fn field(&self, view: usize, copy: usize, field: &str) -> Result<Var> {
        match view {
            0 => Ok(self.image.clone()),
            _ => self.masks.field(view, copy, field),
        }
    }

    fn samples(&self) -> usize {
        self.masks.samples()
    }
}

/// Views as the method asks for them: a picture, and the masks of every block.
fn views(image: &Tensor, context: &Tensor, targets: &Tensor) -> BatchViews {
    let block = |block: usize| {
        let target = targets.get(block).unwrap();
        Fields::one("target", target).with("context", context.clone())
    };
    let blocks = (0..targets.dims()[0]).map(block).collect();
    BatchViews::recorded(vec![vec![Fields::one("pixels", image.clone())], blocks])
}

/// What the method makes of `views`, on `tape`; nothing is updated.
fn learn(tape: &Tape, vars: &StepVars<'_>, session: &mut Session, views: &dyn ViewSource) -> Told {
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape, vars, training: true, stream };
    let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 10 };
    session.step(&forward, views, at).unwrap()
}

/// Tokens `[B, N, D]` as planes `[B, D, rows, cols]`, and back.
fn planes(tokens: &Tensor, grid: [usize; 2]) -> Tensor {
    let (batch, _, dim) = tokens.dims3().unwrap();
    let planes = tokens.transpose(1, 2).unwrap().contiguous().unwrap();
    planes.reshape((batch, dim, grid[0], grid[1])).unwrap()
}

fn tokens(planes: &Tensor) -> Tensor {
    planes.flatten_from(2).unwrap().transpose(1, 2).unwrap()
}

#[test]
fn the_loss_and_its_gradients_are_those_of_the_papers_network() {
    let file = Reference::open("jepa/loss.safetensors");
    let mut seen = Seen::new();
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let at = |what: &str| file.tensor(&format!("c{c}.{what}"));
        let (grid, dim) = ([count(case, "rows"), count(case, "cols")], count(case, "dim"));
        let mut prepared = prepared(&format!(
            "method = \"jepa\"
            data = {{ source = \"shapes\", size = 32, n = 8 }}
            backbone = {{ kind = \"token-halves\", width = {dim}, rows = {}, cols = {} }}
            [train]
            batch = 8
            [options]
            size = 32
            {}",
            grid[0],
            grid[1],
            options(case)
        ));
        let state = &mut prepared.trainer.state;
        let half = state.find("teacher.backbone.half").expect("the teacher's backbone");
        state.assign(half, &Tensor::new(&[1.0_f32], &Device::Cpu).unwrap()).unwrap();
        let predictor = format!("c{c}.predictor.");
        for (name, value) in file.below(&predictor) {
            let id = state.find(&format!("student.predictor.{name}")).expect(name);
            state.assign(id, value).unwrap();
        }
        let both = [planes(at("student"), grid), planes(at("teacher"), grid)];
        let (image, tape) = (Tensor::cat(&both, 1).unwrap(), Tape::default());
        let masks = views(&image, at("context"), at("targets"));
        let views = Watched { image: tape.leaf(image), masks };
        let vars = StepVars::new(&prepared.trainer.state);
        let told = learn(&tape, &vars, &mut prepared.session, &views);
        let loss = told.loss.value().reshape(1).unwrap();
        seen.compare(&LOSS, &format!("c{c}"), difference(&loss, at("loss"), 0.0));
        let arrived = tape.backward(&told.loss).unwrap();
        let gradient = arrived.get(&views.image).unwrap();
        let student = tokens(&gradient.narrow(1, 0, dim).unwrap());
        let far = difference(&student, at("gradient.student"), 0.0);
        seen.compare(&TO_FEATURES, &format!("c{c}"), far);
        let teacher = elements(&gradient.narrow(1, dim, dim).unwrap());
        assert!(teacher.iter().all(|&x| x == 0.0), "case {c}: the teacher learned");
        for (name, want) in file.below(&format!("c{c}.gradient.predictor.")) {
            let id = prepared.trainer.state.find(&format!("student.predictor.{name}")).expect(name);
            let got = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
            let far = difference(&defined(name, &got), &defined(name, want), 0.0);
            seen.compare(&TO_PREDICTOR, &format!("c{c}.{name}"), far);
        }
    }
    seen.finish();
}

/// `value` of parameter `name` without the biases of keys. Those add the same to every score of a query,
/// so their true gradient is 0, and what rounding leaves of it AdamW divides by its own size.
fn defined(name: &str, value: &Tensor) -> Tensor {
    if !name.ends_with("attn.qkv.bias") {
        return value.clone();
    }
    let width = value.dims()[0] / 3;
    let part = |i: usize| value.narrow(0, i * width, width).unwrap();
    Tensor::cat(&[part(0), part(2)], 0).unwrap()
}

/// The network of the stored steps before the first of them.
fn started(file: &Reference) -> Prepared {
    let settings = file.json("settings");
    let mut prepared = prepared(&format!(
        "method = \"jepa\"
        data = {{ source = \"shapes\", size = 32, n = {batch} }}
        [backbone]
        kind = \"vit\"
        width = {dim}
        depth = {depth}
        heads = {heads}
        patch = {patch}
        class_token = false
        positions = \"sin-cos\"
        pool = \"mean\"
        [train]
        batch = {batch}
        steps = {steps}
        lr = {lr}
        lr_final = {lr}
        lr_batch = 0
        weight_decay = {decay}
        betas = {betas}
        eps = {eps}
        [options]
        size = 16
        teacher_decay_start = {start}
        teacher_decay_end = {end}
        {options}",
        batch = settings["batch"],
        dim = settings["dim"],
        depth = settings["depth"],
        heads = settings["heads"],
        patch = settings["patch"],
        steps = settings["steps"],
        lr = settings["lr"],
        decay = settings["weight_decay"],
        betas = settings["betas"],
        eps = settings["eps"],
        start = settings["decay_start"],
        end = settings["decay_end"],
        options = options(&settings),
    ));
    let state = &mut prepared.trainer.state;
    for index in 0..state.parameters().len() {
        let id = ParamId(index);
        let name = state.get(id).name.clone();
        // Positions are a constant that both compute.
        if !name.ends_with("pos_embed") {
            state.assign(id, file.tensor(&name)).unwrap();
        }
    }
    prepared
}

fn batch(file: &Reference, step: usize) -> BatchViews {
    let at = |what: &str| file.tensor(&format!("{what}.{step}"));
    views(at("images"), at("context"), at("targets"))
}

#[test]
fn a_first_steps_gradients_are_those_of_pytorch() {
    let file = Reference::open("jepa/step.safetensors");
    let mut prepared = started(&file);
    let (tape, views) = (Tape::default(), batch(&file, 0));
    let vars = StepVars::new(&prepared.trainer.state);
    let told = learn(&tape, &vars, &mut prepared.session, &views);
    let arrived = tape.backward(&told.loss).unwrap();
    let mut seen = Seen::new();
    for (name, want) in file.below("gradient.") {
        let id = prepared.trainer.state.find(&format!("student.{name}")).expect(name);
        let got = vars.used(id).and_then(|leaf| arrived.get(&leaf).cloned()).expect(name);
        let far = difference(&defined(name, &got), &defined(name, want), 0.0);
        seen.compare(&GRADIENT, name, far);
    }
    seen.finish();
}

#[test]
fn one_whole_step_and_ten_end_in_the_weights_of_pytorch() {
    let file = Reference::open("jepa/step.safetensors");
    let Prepared { mut session, mut trainer, total_steps, steps_per_epoch, .. } = started(&file);
    let mut seen = Seen::new();
    for step in 0..total_steps as usize {
        let at = Progress { step: step as u64, steps_per_epoch, total_steps };
        let taken = trainer.step(&mut session, at, || Ok(batch(&file, step))).unwrap();
        let loss = Tensor::new(&[taken.loss], &Device::Cpu).unwrap();
        let far = difference(&loss, file.tensor(&format!("loss.{step}")), 0.0);
        seen.compare(&STEP_LOSS, &format!("step {step}"), far);
        for (network, claim) in [("student", &STEP_STUDENT), ("teacher", &STEP_TEACHER)] {
            for (name, want) in file.below(&format!("{network}.{step}.")) {
                let id = trainer.state.find(&format!("{network}.{name}")).expect(name);
                let got = defined(name, &trainer.state.get(id).value);
                let far = difference(&got, &defined(name, want), 0.0);
                seen.compare(claim, &format!("{name} after step {step}"), far);
            }
        }
    }
    assert_eq!(seen.claims(), 3);
    seen.finish();
}

/// How often each patch lies in a mask, as a share of masks, and the lengths of each batch's masks.
struct Statistics {
    target: Vec<f64>,
    context: Vec<f64>,
    lengths: Vec<[f64; 2]>,
}

fn sampled(side: usize, corrected: bool, batch: usize, batches: u64) -> Statistics {
    let image = ViewRequest::new("image", "crop", 1, 1).with("size", side as f64);
    let mut blocks = ViewRequest::new("blocks", "block-mask", 1, 4);
    if corrected {
        blocks =
            blocks.with("shared_draw", 0.0).with("touch_edges", 1.0).with_text("cut", "random");
    }
    let grid = Grid::new(|shape| Ok(shape[1..].to_vec()));
    let plan = ViewPlan { views: vec![image, blocks], grid };
    let zeros = vec![0.0; side * side];
    let mut all = Statistics { target: zeros.clone(), context: zeros, lengths: Vec::new() };
    let masks = (batches * batch as u64) as f64;
    for seed in 0..batches {
        let drawn = rehearse(&plan, Content::Images, batch, seed).unwrap();
        let copies: Vec<_> = drawn.named("blocks").collect();
        let field = |copy: usize, name: &str| copies[copy].field(name).unwrap();
        for copy in 0..4 {
            for patch in field(copy, "target").values.u32() {
                all.target[*patch as usize] += 0.25 / masks;
            }
        }
        for patch in field(0, "context").values.u32() {
            all.context[*patch as usize] += 1.0 / masks;
        }
        all.lengths.push([field(0, "target").shape[1] as f64, field(0, "context").shape[1] as f64]);
    }
    all
}

/// How many standard errors `difference` is; none where both are 0.
fn errors(difference: f64, error: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference.abs() / error }
}

#[test]
fn the_masks_have_the_statistics_of_the_authors_sampling() {
    const BATCHES: u64 = 500;
    let (file, mut seen) = (Reference::open("jepa/masks.safetensors"), Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let (side, corrected) = (count(case, "side"), case["corrected"] == true);
        let got = sampled(side, corrected, count(case, "batch"), BATCHES);
        let place = format!("{side} x {side}, corrected {corrected}");
        let stored = elements(file.tensor(&format!("c{c}.lengths")));
        for dim in 0..2 {
            let mean = got.lengths.iter().map(|l| l[dim]).sum::<f64>() / BATCHES as f64;
            let (want, std) = (stored[2 * dim], stored[2 * dim + 1]);
            // Of a mean over so many batches.
            let error = std / (BATCHES as f64).sqrt();
            seen.compare(&LENGTHS, &place, errors(mean - want, error));
        }
        for (name, got) in [("target", &got.target), ("context", &got.context)] {
            let want = elements(file.tensor(&format!("c{c}.{name}")));
            for (patch, (got, want)) in got.iter().zip(&want).enumerate() {
                // Patches of one batch share their sizes and cuts, so a batch counts once or twice.
                let error = (want * (1.0 - want) / BATCHES as f64).sqrt();
                seen.compare(
                    &PLACES,
                    &format!("{place}, {name} {patch}"),
                    errors(got - want, error),
                );
                assert_eq!(*got > 0.0, *want > 0.0, "{place}: {name} {patch}");
            }
        }
    }
    seen.finish();
}
