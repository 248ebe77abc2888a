//! The backbone `resnet` against stored features, gradients and running statistics of torchvision's blocks
//! (`tests/reference/resnet`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;
use pretext::config::{Draft, MethodTable};
use pretext::engine::ops::mul::mul;
use pretext::engine::ops::sum::sum;
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{Options, Role, backbone_options, find};
use pretext::module::{Forward, Input, Module};
use pretext::plugin::{Catalogue, SearchPath};
use pretext::random::Stream;
use pretext::schedule::Progress;
use pretext::state::{State, StepVars};
use pretext::train::prepare::prepare;
use pretext::train::views::random_views;
use pretext_tests::built;
use pretext_tests::reference::{Reference, difference};
use toml::Value;

/// f32 through up to 26 convolutions and norms against f64. A norm over the 12 pixels of the last stage divides by
/// a spread that may be small; the error grows from 2e-5 behind the first stage to 1e-4 behind the last.
const FEATURES: f64 = 3e-4;
/// f32 there and back against f64.
const GRADIENTS: f64 = 1e-3;

/// A resnet with the stored weights and running statistics.
struct Stored {
    file: Reference,
    state: State,
    module: Rc<dyn Module>,
}

impl Stored {
    fn open(name: &str) -> Self {
        let file = Reference::open(&format!("resnet/{name}.safetensors"));
        let settings = file.json("settings");
        let number = |key: &str| settings[key].as_i64().expect(key);
        let word = |word: &str| Value::String(word.to_owned());
        let size = if settings["bottleneck"] == true { "50" } else { "18" };
        let given: BTreeMap<String, Value> = [
            ("width".to_owned(), Value::Integer(number("width"))),
            ("blocks".to_owned(), Value::Integer(number("blocks"))),
            ("size".to_owned(), word(size)),
            ("stem".to_owned(), word(settings["stem"].as_str().expect("a stem"))),
        ]
        .into();
        let def = find(Role::Backbone, "resnet").unwrap();
        let mut state = State::new(0);
        let side = number("size") as usize;
        let declare = Declare::new(&mut state, "", true);
        let options = Options::new(def, &given).unwrap();
        let module = (def.build)(&options, &[3, side, side], declare).unwrap();
        for (name, value) in file.below("weights.") {
            let id = state.find(name).expect(name);
            state.assign(id, value).unwrap();
        }
        for (name, value) in file.below("running.") {
            let id = state.find_buffer(name).expect(name);
            state.set_buffer(id, value.clone()).unwrap();
        }
        assert_eq!(state.parameters().len(), file.below("weights.").len());
        assert_eq!(state.buffers().len(), file.below("running.").len());
        Self { file, state, module }
    }

    fn call(&self, tape: &Tape, vars: &StepVars<'_>, outputs: &[&str]) -> Vec<Var> {
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
        let forward = Forward { tape, vars, training: vars.learns(), stream };
        let value = Var::constant(self.file.tensor("images").clone());
        let inputs = [Input { name: "images".to_owned(), value }];
        self.module.call(&forward, &inputs, outputs).unwrap()
    }

    /// The largest difference of all gradients of sum(pooled * seed).
    fn gradients(&self) -> f64 {
        let (tape, vars) = (Tape::default(), StepVars::learning(&self.state));
        let pooled = self.call(&tape, &vars, &["pooled"]);
        let seed = Var::constant(self.file.tensor("seed").clone());
        let product = mul(&tape, &pooled[0], &seed).unwrap();
        let arrived = tape.backward(&sum(&tape, &product, &[], false).unwrap()).unwrap();
        let far = self.file.below("gradient.").into_iter().map(|(name, want)| {
            let id = self.state.find(name).expect(name);
            let gradient = arrived.get(&vars.used(id).expect(name)).expect(name);
            difference(gradient, want, 0.0)
        });
        far.fold(0.0, f64::max)
    }
}

fn near(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    let far = difference(got, want, 0.0);
    println!("{what}: {far:.1e}");
    assert!(far < tolerance, "{what}: {far:.1e}");
}

fn check(name: &str) {
    let resnet = Stored::open(name);
    let asked = resnet.call(&Tape::default(), &StepVars::new(&resnet.state), &["pooled"]);
    near("asked", asked[0].value(), resnet.file.tensor("asked"), FEATURES);
    let (tape, vars) = (Tape::default(), StepVars::learning(&resnet.state));
    let names = ["pooled", "layer.1", "layer.2", "layer.3", "layer.4"];
    let out = resnet.call(&tape, &vars, &names);
    near("pooled", out[0].value(), resnet.file.tensor("pooled"), FEATURES);
    for (stage, got) in (1..).zip(&out[1..]) {
        let stored = resnet.file.tensor(&format!("stage.{stage}"));
        let pixels = stored.flatten_from(2).unwrap().transpose(1, 2).unwrap();
        near(&format!("stage {stage}"), got.value(), &pixels, FEATURES);
    }
    let set: BTreeMap<_, _> = vars.take_buffers().into_iter().collect();
    for (name, want) in resnet.file.below("running_after.") {
        let id = resnet.state.find_buffer(name).expect(name);
        near(name, &set[&id], want, FEATURES);
    }
    let far = resnet.gradients();
    println!("largest difference of a gradient: {far:.1e}");
    assert!(far < GRADIENTS, "{far:.1e}");
}

#[test]
fn a_network_of_basic_blocks_is_that_of_torchvision() {
    check("basic");
}

#[test]
fn a_network_of_bottlenecks_is_that_of_torchvision() {
    check("bottleneck");
}

#[test]
fn a_method_with_a_teacher_trains_it_and_each_network_keeps_statistics_of_its_own() {
    let catalogue = Catalogue::read(&SearchPath::only(vec![built().to_owned()]));
    let (plugin, method) = catalogue.method("dino").expect("the plugin was built");
    let table = MethodTable { recipe: "", options: &method.options };
    let recipe = "method = \"dino\"
        data = { source = \"shapes\", size = 32, n = 8 }
        backbone = { kind = \"resnet\", width = 4, blocks = 1, stem = \"cifar\" }
        train = { batch = 4, steps = 3, lr = 1e-3 }
        options = { global_size = 16, local_size = 8, local_crops = 1, head_hidden = 8, prototypes = 8 }";
    let draft = Draft::from_text("the test's recipe", recipe, &[]).unwrap();
    let recipe = draft.resolve(&table, &backbone_options).unwrap();
    let mut prepared = prepare(&recipe, plugin).unwrap();
    let running = |state: &State, network: &str| {
        let name = format!("{network}.backbone.layer2.0.bn1.running_var");
        let id = state.find_buffer(&name).expect(&name);
        pretext_tests::reference::elements(state.get_buffer(id))
    };
    let before = running(&prepared.trainer.state, "teacher");
    assert_eq!(before, running(&prepared.trainer.state, "student"));
    for step in 0..3 {
        let at = Progress { step, steps_per_epoch: 2, total_steps: 3 };
        let views = random_views(&prepared.plan, prepared.data.content(), 4, step).unwrap();
        let mut views = Some(views);
        let next = || Ok(views.take().expect("one batch"));
        prepared.trainer.step(&mut prepared.session, at, next).unwrap();
    }
    let [student, teacher] =
        ["student", "teacher"].map(|network| running(&prepared.trainer.state, network));
    assert!(student != before && teacher != before && student != teacher);
}
