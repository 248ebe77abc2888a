//! Weights that travel: from timm and Hugging Face into a backbone, through a run, and out again
//! (`tests/reference/weights`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use pretext::engine::{Tape, Var};
use pretext::module::declare::Declare;
use pretext::module::registry::{Options, Role, find};
use pretext::module::{Forward, Input, Module};
use pretext::random::Stream;
use pretext::state::{State, StepVars};
use pretext::weights::{Expected, fit, read};
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements, folder};
use pretext_tests::{Outcome, Workplace, claims, noise};
use serde_json::Value;

claims! {
    /// f32 through two blocks against f64.
    TIMM = "vit", "features with weights of a timm file", "timm's `VisionTransformer`, f64", 1e-4;
    TIMM_REGISTERS = "vit", "features with weights of a timm file with registers", "timm's `VisionTransformer`, f64", 1e-4;
    TIMM_RESIZED = "vit", "features with weights of a timm file for another grid", "timm's blocks on positions resized by PyTorch, f64", 1e-4;
    HF = "vit", "features with weights of a Hugging Face folder", "transformers' `ViTModel`, f64", 1e-4;
    HF_WAVE = "wave", "features with weights of a Hugging Face folder", "transformers' `HubertModel`, f64", 1e-4;
}

fn stored(name: &str) -> PathBuf {
    folder().join("weights").join(name)
}

/// The options of the stored models, and others on top.
fn options(more: &[(&str, i64)]) -> BTreeMap<String, toml::Value> {
    let settings = Reference::open("weights/values.safetensors").json("settings");
    let size = |key: &str| settings[key].as_i64().expect(key);
    let own = [("width", "dim"), ("depth", "depth"), ("heads", "heads"), ("patch", "patch")];
    let own = own.map(|(option, key)| (option, size(key)));
    let all = own.iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), toml::Value::Integer(*value))).collect()
}

/// A backbone with the weights in `name`, and the notes.
struct Loaded {
    state: State,
    module: Rc<dyn Module>,
    notes: Vec<String>,
}

impl Loaded {
    fn open(
        kind: &str,
        given: &BTreeMap<String, toml::Value>,
        shape: &[usize],
        name: &str,
    ) -> Self {
        let def = find(Role::Backbone, kind).unwrap();
        let mut state = State::new(0);
        let declare = Declare::new(&mut state, "", true);
        let module = (def.build)(&Options::new(def, given).unwrap(), shape, declare).unwrap();
        let grid = ["rows", "cols"].map(|fact| module.fact(fact).unwrap_or(0) as usize);
        let tensors =
            state.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect();
        let eps = given.get("norm_eps").and_then(toml::Value::as_float).unwrap_or(1e-6);
        let norm_eps = (kind == "vit").then_some(eps);
        let expected = Expected { kind, tensors, grid, norm_eps };
        let (tensors, notes) = fit(read(&stored(name)).unwrap(), &expected).unwrap();
        for (name, tensor) in tensors {
            let id = state.find(&name).unwrap();
            state.assign(id, &tensor).unwrap();
        }
        Self { state, module, notes }
    }

    /// Compares `outputs` with the values stored under `values`; returns the notes.
    fn check(
        self,
        claim: &'static Claim,
        values: &str,
        (name, input): (&str, &Tensor),
        outputs: [&str; 2],
    ) -> Vec<String> {
        let file = Reference::open("weights/values.safetensors");
        let (tape, vars) = (Tape::default(), StepVars::new(&self.state));
        let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
        let forward = Forward { tape: &tape, vars: &vars, training: false, stream };
        let inputs = [Input { name: name.to_owned(), value: Var::constant(input.clone()) }];
        let got = self.module.call(&forward, &inputs, &outputs).unwrap();
        let mut seen = Seen::new();
        for (output, got) in outputs.iter().zip(got) {
            let want = file.tensor(&format!("{values}.{output}"));
            let far = difference(got.value(), want, 0.0);
            seen.compare(claim, &format!("{values}, {output}"), far);
        }
        seen.finish();
        self.notes
    }
}

/// Compares what a `vit` with the weights in `name` makes of stored images; returns the notes.
fn check(claim: &'static Claim, name: &str, values: &str, more: &[(&str, i64)]) -> Vec<String> {
    let file = Reference::open("weights/values.safetensors");
    let images = if values == "timm_resized" { "small_images" } else { "images" };
    let images = file.tensor(images);
    let loaded = Loaded::open("vit", &options(more), &images.dims()[1..], name);
    loaded.check(claim, values, ("images", images), ["cls", "tokens"])
}

#[test]
fn weights_of_timm_give_timms_features_and_its_classifier_is_left_out() {
    let notes = check(&TIMM, "timm.safetensors", "timm", &[]);
    assert!(notes.len() == 1 && notes[0].contains("`head.bias`"), "{notes:?}");
}

#[test]
fn places_of_timms_registers_are_kept() {
    let notes =
        check(&TIMM_REGISTERS, "timm_registers.safetensors", "timm_registers", &[("registers", 2)]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn positions_for_another_grid_are_resized_and_that_is_said() {
    let notes = check(&TIMM_RESIZED, "timm.safetensors", "timm_resized", &[]);
    assert!(notes.iter().any(|note| note.contains("resized from 4 x 4 to 2 x 2")), "{notes:?}");
}

#[test]
fn weights_of_a_hugging_face_folder_give_its_features() {
    let notes = check(&HF, "hf_vit", "hf_vit", &[]);
    assert!(notes.len() == 1 && notes[0].contains("`pooler.dense.bias`"), "{notes:?}");
}

#[test]
fn another_constant_of_layer_norms_is_noted_and_an_option_takes_it() {
    let (place, file) = (Workplace::new(), Reference::open("weights/values.safetensors"));
    std::fs::create_dir(place.path().join("folder")).expect("a folder");
    let model = std::fs::read(stored("hf_vit/model.safetensors")).unwrap();
    place.write("folder/model.safetensors", model);
    let config = std::fs::read_to_string(stored("hf_vit/config.json")).unwrap();
    let other = config.replace("\"layer_norm_eps\": 1e-06", "\"layer_norm_eps\": 0.1");
    assert_ne!(config, other);
    place.write("folder/config.json", other);
    let (images, folder) = (file.tensor("images"), place.path().join("folder"));
    let folder = folder.to_str().expect("a path of letters");
    let mut given = options(&[]);
    let notes = Loaded::open("vit", &given, &images.dims()[1..], folder).notes;
    let hint = "set `backbone.norm_eps=1e-1` to have the same";
    assert!(notes.iter().any(|note| note.contains(hint)), "{notes:?}");
    given.insert("norm_eps".to_owned(), toml::Value::Float(0.1));
    let loaded = Loaded::open("vit", &given, &images.dims()[1..], folder);
    let notes = loaded.check(&HF, "hf_vit_eps", ("images", images), ["cls", "tokens"]);
    assert!(!notes.iter().any(|note| note.contains("norm_eps")), "{notes:?}");
}

/// The words for a `wave` of the size of the stored one.
const WAVE: [&str; 9] = [
    "width=24",
    "depth=2",
    "heads=2",
    "mlp_ratio=2.0",
    "conv_widths=[8, 12, 12]",
    "conv_kernels=[10, 3, 2]",
    "conv_strides=[5, 2, 2]",
    "position_kernel=8",
    "position_groups=4",
];

#[test]
fn weights_of_a_hugging_face_folder_of_sound_give_its_features() {
    let table: toml::Table = WAVE.join("\n").parse().expect("TOML");
    let options = table.into_iter().chain([("mask_token".to_owned(), toml::Value::Boolean(true))]);
    let file = Reference::open("weights/values.safetensors");
    let waveforms = file.tensor("waveforms");
    let loaded = Loaded::open("wave", &options.collect(), &waveforms.dims()[1..], "hf_wave");
    let notes = loaded.check(&HF_WAVE, "hf_wave", ("waveforms", waveforms), ["frames", "tokens"]);
    assert!(notes.is_empty(), "{notes:?}");
}

/// A run of one step that changes nothing of the student, from the weights at `init`.
fn run_from(place: &Workplace, init: &str, words: &[&str]) -> Outcome {
    let init = format!("init={init}");
    let own = [
        "train",
        "dino",
        "run=it",
        "n=32",
        "batch=8",
        "train.steps=1",
        "lr=0",
        "lr_final=0",
        "weight_decay=0",
        "backbone=vit",
        "patch=4",
        "width=24",
        "depth=2",
        "heads=3",
        "global_size=16",
        "local_crops=0",
        "prototypes=16",
        "head_hidden=16",
        "head_bottleneck=8",
        "probe.every=0",
        "bank=16",
        "queries=16",
        "k=3",
        &init,
    ];
    place.pretext(&[&own[..], words].concat())
}

fn tensors(path: &std::path::Path) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).expect("safetensors").into_iter().collect()
}

/// Exports the student of the run as `format` to `out`.
fn export(place: &Workplace, format: &str, out: &str) {
    let arguments = ["export", "runs/it", "--which", "student", "--format", format, "--out", out];
    place.pretext(&arguments).assert_done();
}

/// The same names, shapes and values, but for heads.
fn assert_same(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>) {
    let part = |name: &&String| !name.starts_with("head.") && !name.starts_with("pooler.");
    assert!(got.keys().eq(want.keys().filter(part)), "{:?}", got.keys());
    for (name, tensor) in got {
        assert_eq!(tensor.dims(), want[name].dims(), "{name}");
        assert_eq!(elements(tensor), elements(&want[name]), "{name}");
    }
}

fn names(format: &str) -> Vec<String> {
    let listed = Reference::open("weights/values.safetensors").json(&format!("names.{format}"));
    listed.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn weights_of_timm_go_through_a_run_and_come_out_for_timm_and_hugging_face() {
    let place = Workplace::new();
    let file = stored("timm.safetensors");
    let trained = run_from(&place, &file.display().to_string(), &[]);
    trained.assert_done();
    assert!(
        trained.stderr.contains("\nnote: the backbone starts from 30 tensors"),
        "{}",
        trained.stderr
    );
    export(&place, "timm", "timm.safetensors");
    let timm = tensors(&place.path().join("timm.safetensors"));
    assert_same(&timm, &tensors(&file));
    assert_eq!(timm.into_keys().collect::<Vec<_>>(), names("timm"));
    export(&place, "hf", "folder");
    let theirs = tensors(&place.path().join("folder/model.safetensors"));
    assert_eq!(theirs.into_keys().collect::<Vec<_>>(), names("hf"));
    // What was written is read again, by another run.
    let again = Workplace::new();
    run_from(&again, &place.path().join("folder").display().to_string(), &[]).assert_done();
    export(&again, "safetensors", "again.safetensors");
    assert_same(&tensors(&again.path().join("again.safetensors")), &tensors(&file));
}

#[test]
fn a_hugging_face_folder_goes_through_a_run_and_comes_out_with_its_configuration() {
    let place = Workplace::new();
    run_from(&place, &stored("hf_vit").display().to_string(), &[]).assert_done();
    place.write("taken", "a file");
    let words = ["export", "runs/it", "--which", "student"];
    place.pretext(&[&words[..], &["--format", "hf", "--out", "taken"]].concat()).assert_refused(
        "`taken` is a file, and `hf` is written as a folder",
        "name a folder, such as `--out taken-hf`",
    );
    for heads in [&[][..], &["--heads"]] {
        let place_of = ["--out", "nowhere/x.safetensors"];
        place
            .pretext(&[&words[..], &place_of, heads].concat())
            .assert_refused("there is no folder `nowhere`", "make it with `mkdir -p nowhere`");
    }
    export(&place, "hf", "folder");
    let written = tensors(&place.path().join("folder/model.safetensors"));
    assert_same(&written, &tensors(&stored("hf_vit/model.safetensors")));
    let config: Value = serde_json::from_str(&place.read("folder/config.json")).expect("JSON");
    let want = std::fs::read_to_string(stored("hf_vit/config.json")).unwrap();
    let want: Value = serde_json::from_str(&want).expect("JSON");
    for key in [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
        "num_channels",
        "qkv_bias",
        "layer_norm_eps",
        "hidden_act",
        "architectures",
    ] {
        assert_eq!(config[key], want[key], "{key}");
    }
}

#[test]
fn a_hugging_face_folder_of_sound_goes_through_a_run_and_comes_out_with_its_configuration() {
    let place = Workplace::new();
    let init = format!("init={}", stored("hf_wave").display());
    let words =
        ["train", "hubert", "run=it", "n=16", "batch=4", "backbone=wave", "mask_token=true"];
    let still = ["train.steps=1", "lr=0", "lr_final=0", "weight_decay=0", "probe.every=0", &init];
    let short =
        ["options.max_seconds=0.2", "iterations=1", "features_first=layer", "options.layer=1"];
    let fast = ["clusters_first=4", "cluster_tries=1", "cluster_epochs=1", "bank=8", "queries=8"];
    place.pretext(&[&words[..], &WAVE, &still, &short, &fast].concat()).assert_done();
    export(&place, "hf", "folder");
    let written = tensors(&place.path().join("folder/model.safetensors"));
    assert_same(&written, &tensors(&stored("hf_wave/model.safetensors")));
    let read = |text: &str| -> serde_json::Map<String, Value> {
        serde_json::from_str(text).expect("JSON")
    };
    let config = read(&place.read("folder/config.json"));
    let want = read(&std::fs::read_to_string(stored("hf_wave/config.json")).unwrap());
    // transformers 5 writes `dtype`, and reads either.
    for (key, value) in config.iter().filter(|(key, _)| *key != "torch_dtype") {
        assert_eq!(value, &want[key], "{key}");
    }
}

#[test]
fn a_run_starts_from_another_run_and_its_heads_can_be_written_too() {
    let place = Workplace::new();
    run_from(&place, &stored("timm.safetensors").display().to_string(), &[]).assert_done();
    run_from(&place, "runs/it", &["run=next"]).assert_done();
    let arguments =
        ["export", "runs/next", "--which", "student", "--heads", "--out", "all.safetensors"];
    place.pretext(&arguments).assert_done();
    let all = tensors(&place.path().join("all.safetensors"));
    assert!(all.contains_key("head.layers.0.weight") && all.contains_key("backbone.norm.bias"));
    let refused = place.pretext(&[&arguments[..], &["--format", "hf"]].concat());
    refused.assert_refused(
        "`hf` has no names for the heads of a method",
        "leave out `--format` or `--heads`",
    );
}

#[test]
fn weights_that_do_not_fit_are_refused_with_what_to_set() {
    let place = Workplace::new();
    let file = stored("timm.safetensors").display().to_string();
    let refused = |init: &str, words: &[&str], error: &str, hint: &str| {
        let outcome = run_from(&place, init, words);
        outcome.assert_ended(2, error, hint);
        assert!(!place.path().join("runs").exists(), "a run that never began left a folder");
    };
    refused(
        &file,
        &["width=48"],
        &format!("`cls_token` of `{file}` has shape [1, 1, 24], the backbone's [1, 1, 48]"),
        "set `backbone.width=24`, and heads and depth to match",
    );
    refused(
        &file,
        &["depth=1"],
        &format!(
            "`{file}` has `blocks.1.attn.proj.bias`, `blocks.1.attn.proj.weight`, `blocks.1.attn.qkv.bias`, \
            `blocks.1.attn.qkv.weight` and 8 more, which the backbone `vit` has not"
        ),
        "set `backbone.depth` to that of these weights",
    );
    refused(
        &file,
        &["registers=4"],
        &format!("`{file}` lacks `reg_token` of the backbone `vit`"),
        "give `vit` the depth and the parts of these weights",
    );
    place.write("other.safetensors", std::fs::read(stored("values.safetensors")).unwrap());
    let outcome = run_from(&place, "other.safetensors", &[]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("holds no backbone that is known"), "{}", outcome.stderr);
    let outcome = run_from(&place, "vit.pth", &[]);
    assert!(
        outcome.stderr.contains("error: `vit.pth` is a pickle of PyTorch"),
        "{}",
        outcome.stderr
    );
    let outcome = run_from(&place, "nothing", &[]);
    outcome.assert_ended(2, "there is no file `nothing`", "check the path of the safetensors file");
}

#[test]
fn features_of_the_identity_are_the_vectors_themselves_with_labels_and_names() {
    let place = Workplace::new();
    let vectors = noise("vectors", (20, 5));
    vectors.save_safetensors("x", place.path().join("v.safetensors")).unwrap();
    let words =
        ["train", "dino", "run=it", "data=v.safetensors", "modality=vector", "backbone=identity"];
    let small = [
        "batch=4",
        "train.steps=1",
        "prototypes=8",
        "head_hidden=8",
        "head_bottleneck=4",
        "probe.every=0",
    ];
    place.pretext(&[&words[..], &small].concat()).assert_done();
    let refused = place.pretext(&["export", "runs/it", "--out", "x.safetensors"]);
    refused.assert_refused(
        "the backbone `identity` has no weights",
        "train one that has, such as `backbone=vit`",
    );
    place.pretext(&[&words[..], &small, &["run=next", "probe.layer=1"]].concat()).assert_ended(
        2,
        "`probe.layer = 1`: `identity` has no layers",
        "`probe.layer=0`, which asks what the backbone gives in the end",
    );
    assert!(!place.path().join("runs/next").exists(), "nothing was begun");
    place.pretext(&["embed", "runs/it", "--out", "f.safetensors"]).assert_done();
    let features = tensors(&place.path().join("f.safetensors"));
    assert_eq!(elements(&features["features"]), elements(&vectors));
    assert_eq!(features["labels"].dims(), [20]);
    place.pretext(&["embed", "runs/it", "--out", "f.npy"]).assert_done();
    let beside: Value = serde_json::from_str(&place.read("f.json")).expect("JSON");
    assert_eq!(beside["names"].as_array().map(Vec::len), Some(20));
    let bytes = std::fs::read(place.path().join("f.npy")).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.len() > 20 * 5 * 4);
    place
        .pretext(&["embed", "runs/it", "--out", "f.csv"])
        .assert_refused("`f.csv` has no known ending", "end it in `.safetensors` or `.npy`");
}
