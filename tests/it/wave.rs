//! The backbone `wave` against the stored features and gradients of transformers' `HubertModel`
//! (`tests/reference/wave`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use candle_core::Tensor;
use pretext::engine::ops::mul::mul;
use pretext::engine::ops::sum::sum;
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{Options, Role, find};
use pretext::module::{Forward, Input, Module};
use pretext::random::Stream;
use pretext::state::{State, StepVars};
use pretext_tests::claims;
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference};
use toml::Value;

const TRANSFORMERS: &str = "transformers' `HubertModel`, f64";
/// f32 through three convolutions and two blocks against f64.
const FEATURES: f64 = 1e-5;
/// Two f32 programs through twelve blocks.
const BASE: f64 = 1e-4;

claims! {
    PLAIN = "wave", "features: frames, tokens after every block", TRANSFORMERS, FEATURES;
    MASKED = "wave", "features with masked frames", TRANSFORMERS, FEATURES;
    PADDED = "wave", "features with masked frames and padded sound", TRANSFORMERS, FEATURES;
    /// f32 there and back against f64.
    GRADIENTS = "wave", "gradients to parameters, with masked frames and padded sound", TRANSFORMERS, 1e-4;
}
/// What the gradient of the convolutions is multiplied by, as in the authors' recipe.
const GRAD_FACTOR: f64 = 0.1;

/// Each option of the backbone, and the setting of transformers that it stands for.
const SETTINGS: [(&str, &str); 8] = [
    ("width", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("conv_widths", "conv_dim"),
    ("conv_kernels", "conv_kernel"),
    ("conv_strides", "conv_stride"),
    ("position_kernel", "num_conv_pos_embeddings"),
    ("position_groups", "num_conv_pos_embedding_groups"),
];

/// A `wave` with the stored weights.
struct Stored {
    file: Reference,
    state: State,
    module: Rc<dyn Module>,
    depth: usize,
}

fn number(value: &serde_json::Value) -> Value {
    match value.as_array() {
        Some(list) => Value::Array(list.iter().map(number).collect()),
        None => Value::Integer(value.as_i64().expect("a whole number")),
    }
}

/// The stored tensor that a parameter is: queries, keys and values lie in one.
fn stored(file: &Reference, kind: &str, parameter: &str) -> Tensor {
    let Some((block, part)) = parameter.split_once("attention.qkv.") else {
        return file.tensor(&format!("{kind}.{parameter}")).clone();
    };
    let parts = ["q_proj", "k_proj", "v_proj"]
        .map(|name| file.tensor(&format!("{kind}.{block}attention.{name}.{part}")).clone());
    Tensor::cat(&parts, 0).unwrap()
}

impl Stored {
    fn open(file: Reference) -> Self {
        let settings = file.json("settings");
        let mut given: BTreeMap<String, Value> = SETTINGS
            .map(|(option, setting)| (option.to_owned(), number(&settings[setting])))
            .into();
        let whole = |setting: &str| settings[setting].as_f64().expect("a number");
        let ratio = whole("intermediate_size") / whole("hidden_size");
        given.insert("mlp_ratio".into(), Value::Float(ratio));
        given.insert("mask_token".into(), Value::Boolean(true));
        given.insert("conv_grad_factor".into(), Value::Float(GRAD_FACTOR));
        let def = find(Role::Backbone, "wave").unwrap();
        let mut state = State::new(0);
        let declare = Declare::new(&mut state, "", true);
        let options = Options::new(def, &given).unwrap();
        let module = (def.build)(&options, &[0], declare).unwrap();
        let names: Vec<String> = state.parameters().iter().map(|p| p.name.clone()).collect();
        for name in names {
            let id = state.find(&name).expect("a name just read");
            let value = stored(&file, "weights", &name);
            state.assign(id, &value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let depth = whole("num_hidden_layers") as usize;
        // Three of the stored tensors make one here, twice per block.
        assert_eq!(state.parameters().len() + 4 * depth, file.below("weights.").len());
        Self { file, state, module, depth }
    }

    fn call(&self, f: &Forward<'_>, inputs: &[&str], outputs: &[&str]) -> Vec<Var> {
        let inputs: Vec<Input> = inputs
            .iter()
            .map(|name| Input {
                name: (*name).to_owned(),
                value: Var::constant(self.file.tensor(name).clone()),
            })
            .collect();
        self.module.call(f, &inputs, outputs).unwrap()
    }

    /// Runs `body` with a forward pass that records and drops nothing.
    fn forward<T>(&self, body: impl FnOnce(&Forward<'_>) -> T) -> T {
        let (tape, vars) = (Tape::default(), StepVars::new(&self.state));
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
        body(&Forward { tape: &tape, vars: &vars, training: false, stream })
    }

    /// How far frames and every block's tokens lie in `case`; where `lengths` are given, those of sound.
    fn far(&self, case: &str, inputs: &[&str]) -> Vec<(String, f64)> {
        let layers: Vec<String> = (1..=self.depth).map(|layer| format!("layer.{layer}")).collect();
        let names: Vec<&str> =
            ["frames"].into_iter().chain(layers.iter().map(String::as_str)).collect();
        let out = self.forward(|f| self.call(f, inputs, &names));
        let far = names.iter().zip(&out).map(|(name, got)| {
            let what = format!("{case}.{name}");
            let want = self.file.tensor(&what);
            let beyond = inputs.contains(&"lengths") && *name != "frames";
            let far = if beyond {
                difference(&self.sound(got.value()), &self.sound(want), 0.0)
            } else {
                difference(got.value(), want, 0.0)
            };
            (what, far)
        });
        far.collect()
    }

    /// What of tokens `[B, F, D]` is sound: where the seed is not 0.
    fn sound(&self, tokens: &Tensor) -> Tensor {
        let seed = self.file.tensor("seed").abs().unwrap().sum_keepdim(2).unwrap();
        let valid = seed.gt(0.0).unwrap().to_dtype(tokens.dtype()).unwrap();
        tokens.broadcast_mul(&valid).unwrap()
    }
}

fn small() -> Stored {
    Stored::open(Reference::open("wave/wave.safetensors"))
}

/// Compares one case of the small network.
fn check(claim: &'static Claim, case: &str, inputs: &[&str]) {
    let mut seen = Seen::new();
    for (what, far) in small().far(case, inputs) {
        seen.compare(claim, &what, far);
    }
    seen.finish();
}

#[test]
fn frames_and_tokens_of_every_block_are_those_of_transformers() {
    check(&PLAIN, "plain", &["waveforms"]);
}

#[test]
fn masked_frames_and_padded_sound_give_what_transformers_gives() {
    check(&MASKED, "masked", &["waveforms", "mask"]);
    check(&PADDED, "padded", &["waveforms", "mask", "lengths"]);
}

#[test]
fn the_gradient_of_every_parameter_is_that_of_transformers() {
    let wave = small();
    let (tape, vars) = (Tape::default(), StepVars::new(&wave.state));
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape: &tape, vars: &vars, training: false, stream };
    let out = wave.call(&forward, &["waveforms", "mask", "lengths"], &["tokens"]);
    let seed = Var::constant(wave.file.tensor("seed").clone());
    let product = mul(&tape, &out[0], &seed).unwrap();
    let arrived = tape.backward(&sum(&tape, &product, &[], false).unwrap()).unwrap();
    let mut seen = Seen::new();
    for parameter in wave.state.parameters() {
        let name = &parameter.name;
        let leaf = vars.used(wave.state.find(name).expect(name)).expect(name);
        let factor = if name.starts_with("feature_extractor") { GRAD_FACTOR } else { 1.0 };
        let want = stored(&wave.file, "gradient", name).affine(factor, 0.0).unwrap();
        // Keys take no gradient from their bias: it moves all scores of a query alike. What is left there is
        // rounding, of the size of the other two thirds.
        seen.compare(&GRADIENTS, name, difference(arrived.get(&leaf).expect(name), &want, 0.0));
    }
    seen.finish();
}

#[test]
fn the_base_configuration_agrees_in_every_block() {
    let Some(path) = std::env::var_os("PRETEXT_WAVE_BASE") else {
        println!(
            "skipped: no PRETEXT_WAVE_BASE; `python tests/reference/wave/make.py --base FILE` writes such a file"
        );
        return;
    };
    let base = Stored::open(Reference::open_at(PathBuf::from(path)));
    for (what, far) in base.far("plain", &["waveforms"]) {
        println!("{what}: {far:.1e}");
        assert!(far < BASE, "{what}: {far:.1e}");
    }
}
