//! The backbone `vit` against the stored features and gradients of timm's (`tests/reference/vit`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;
use pretext::engine::ops::mul::mul;
use pretext::engine::ops::sum::sum;
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{Options, Role, find};
use pretext::module::{Forward, Input, Module};
use pretext::random::Stream;
use pretext::state::{ParamId, State, StepVars};
use pretext_tests::claims;
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference};
use toml::Value;

claims! {
    /// f32 through two blocks against f64.
    FEATURES = "vit", "features, taps after each block", "timm's `VisionTransformer`, f64", 5e-6;
    /// f32 there and back against f64. PyTorch's own f32 is off by 1e-5.
    GRADIENTS = "vit", "gradients to parameters", "timm's `VisionTransformer`, f64", 5e-5;
}

/// A vit with the stored weights.
struct Stored {
    file: Reference,
    state: State,
    module: Rc<dyn Module>,
}

impl Stored {
    /// With `options` on top of the stored sizes.
    fn open(options: &[(&str, Value)]) -> Self {
        let file = Reference::open("vit/vit.safetensors");
        let settings = file.json("settings");
        let size = |key: &str| settings[key].as_i64().expect(key);
        let mut given: BTreeMap<String, Value> =
            [("width", "dim"), ("depth", "depth"), ("heads", "heads"), ("patch", "patch")]
                .map(|(option, key)| (option.to_owned(), Value::Integer(size(key))))
                .into();
        given.extend(options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let def = find(Role::Backbone, "vit").unwrap();
        let mut state = State::new(0);
        let side = size("size") as usize;
        let declare = Declare::new(&mut state, "", true);
        let options = Options::new(def, &given).unwrap();
        let module = (def.build)(&options, &[3, side, side], declare).unwrap();
        for (name, value) in file.below("weights.") {
            let id = state.find(name).expect(name);
            state.assign(id, value).unwrap();
        }
        assert_eq!(state.parameters().len(), file.below("weights.").len());
        Self { file, state, module }
    }

    /// The outputs for inputs that are stored: (input's name, stored tensor's name).
    fn call(
        &self,
        tape: &Tape,
        vars: &StepVars<'_>,
        inputs: &[(&str, &str)],
        outputs: &[&str],
    ) -> Vec<Var> {
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
        let forward = Forward { tape, vars, training: true, stream };
        let inputs: Vec<Input> = inputs
            .iter()
            .map(|(name, stored)| Input {
                name: (*name).to_owned(),
                value: Var::constant(self.file.tensor(stored).clone()),
            })
            .collect();
        self.module.call(&forward, &inputs, outputs).unwrap()
    }

    fn check(&self, what: &str, got: &Tensor, claim: &'static Claim) {
        near(what, got, self.file.tensor(what), claim);
    }

    /// Checks the gradients of sum(cls * seed) to some parameters: (stored, parameter).
    fn check_gradients(&self, images: &str, parameters: &[(String, &str)]) {
        let (tape, vars) = (Tape::default(), StepVars::new(&self.state));
        let cls = self.call(&tape, &vars, &[("images", images)], &["cls"]);
        let seed = Var::constant(self.file.tensor("seed").clone());
        let product = mul(&tape, &cls[0], &seed).unwrap();
        let arrived = tape.backward(&sum(&tape, &product, &[], false).unwrap()).unwrap();
        for (stored, parameter) in parameters {
            let id: ParamId = self.state.find(parameter).expect(parameter);
            let gradient = arrived.get(&vars.used(id).expect(parameter)).expect(parameter);
            self.check(stored, gradient, &GRADIENTS);
        }
    }
}

fn near(what: &str, got: &Tensor, want: &Tensor, claim: &'static Claim) {
    let mut seen = Seen::new();
    seen.compare(claim, what, difference(got, want, 0.0));
    seen.finish();
}

#[test]
fn features_and_taps_are_those_of_timm() {
    let vit = Stored::open(&[]);
    let (tape, vars) = (Tape::default(), StepVars::new(&vit.state));
    let names = ["cls", "tokens", "pooled", "layer.1", "layer.2"];
    let out = vit.call(&tape, &vars, &[("images", "images")], &names);
    vit.check("cls", out[0].value(), &FEATURES);
    vit.check("tokens", out[1].value(), &FEATURES);
    // By default, the class token is what is pooled.
    near("pooled class token", out[2].value(), vit.file.tensor("cls"), &FEATURES);
    for (name, got) in names.iter().zip(&out).skip(3) {
        let stored = vit.file.tensor(name);
        let patches = stored.narrow(1, 1, stored.dims()[1] - 1).unwrap();
        near(name, got.value(), &patches, &FEATURES);
    }
    // Alone, the class token takes the way that makes no patches in the last block.
    let alone = vit.call(&tape, &vars, &[("images", "images")], &["cls"]);
    vit.check("cls", alone[0].value(), &FEATURES);
}

#[test]
fn mean_pooling_is_the_mean_of_timms_patch_tokens() {
    let vit = Stored::open(&[("pool", Value::String("mean".into()))]);
    let (tape, vars) = (Tape::default(), StepVars::new(&vit.state));
    let out = vit.call(&tape, &vars, &[("images", "images")], &["pooled"]);
    vit.check("pooled", out[0].value(), &FEATURES);
}

#[test]
fn kept_patches_alone_give_what_timms_blocks_make_of_them() {
    let vit = Stored::open(&[]);
    let (tape, vars) = (Tape::default(), StepVars::new(&vit.state));
    let inputs = [("images", "images"), ("keep", "keep")];
    let out = vit.call(&tape, &vars, &inputs, &["cls", "tokens"]);
    vit.check("kept_cls", out[0].value(), &FEATURES);
    vit.check("kept_tokens", out[1].value(), &FEATURES);
}

#[test]
fn gradients_are_those_of_timm() {
    let vit = Stored::open(&[]);
    let stored = vit.file.below("gradient.");
    let parameters: Vec<(String, &str)> =
        stored.iter().map(|(name, _)| (format!("gradient.{name}"), *name)).collect();
    assert_eq!(parameters.len(), 9);
    vit.check_gradients("images", &parameters);
}

#[test]
fn images_of_another_size_get_positions_resized_as_pytorch_does() {
    let file = Reference::open("vit/vit.safetensors");
    let cases = file.json("settings")["resized"].as_array().expect("a list").clone();
    assert_eq!(cases.len(), 4);
    for (i, case) in cases.iter().enumerate() {
        let offset = case["offset"].as_f64().expect("a number");
        let vit = Stored::open(&[("position_offset", Value::Float(offset))]);
        let (tape, vars) = (Tape::default(), StepVars::new(&vit.state));
        let stored = |part: &str| format!("resized.{i}.{part}");
        let images = stored("images");
        let out = vit.call(&tape, &vars, &[("images", &images)], &["cls", "tokens"]);
        vit.check(&stored("cls"), out[0].value(), &FEATURES);
        vit.check(&stored("tokens"), out[1].value(), &FEATURES);
        vit.check_gradients(&images, &[(stored("gradient"), "pos_embed")]);
    }
}
