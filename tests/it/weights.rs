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
use pretext::module::{Forward, Input};
use pretext::random::Stream;
use pretext::state::{State, StepVars};
use pretext::weights::{Expected, fit, read};
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, difference, elements, folder};
use pretext_tests::{Outcome, Workplace, claims};
use serde_json::Value;

claims! {
    /// f32 through two blocks against f64.
    TIMM = "vit", "features with weights of a timm file", "timm's `VisionTransformer`, f64", 1e-4;
    TIMM_REGISTERS = "vit", "features with weights of a timm file with registers", "timm's `VisionTransformer`, f64", 1e-4;
    TIMM_RESIZED = "vit", "features with weights of a timm file for another grid", "timm's blocks on positions resized by PyTorch, f64", 1e-4;
    HF = "vit", "features with weights of a Hugging Face folder", "transformers' `ViTModel`, f64", 1e-4;
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

/// Compares what a backbone with the weights in `name` makes of stored images; returns the notes.
fn check(claim: &'static Claim, name: &str, values: &str, more: &[(&str, i64)]) -> Vec<String> {
    let file = Reference::open("weights/values.safetensors");
    let images = if values == "timm_resized" { "small_images" } else { "images" };
    let images = file.tensor(images).clone();
    let def = find(Role::Backbone, "vit").unwrap();
    let mut state = State::new(0);
    let declare = Declare::new(&mut state, "", true);
    let shape = &images.dims()[1..];
    let module = (def.build)(&Options::new(def, &options(more)).unwrap(), shape, declare).unwrap();
    let grid = ["rows", "cols"].map(|fact| module.fact(fact).unwrap() as usize);
    let tensors = state.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect();
    let expected = Expected { kind: "vit", tensors, grid };
    let (tensors, notes) = fit(read(&stored(name)).unwrap(), &expected).unwrap();
    for (name, tensor) in tensors {
        let id = state.find(&name).unwrap();
        state.assign(id, &tensor).unwrap();
    }
    let (tape, vars) = (Tape::default(), StepVars::new(&state));
    let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
    let forward = Forward { tape: &tape, vars: &vars, training: false, stream };
    let inputs = [Input { name: "images".to_owned(), value: Var::constant(images) }];
    let outputs = ["cls", "tokens"];
    let mut seen = Seen::new();
    for (output, got) in outputs.iter().zip(module.call(&forward, &inputs, &outputs).unwrap()) {
        let want = file.tensor(&format!("{values}.{output}"));
        seen.compare(claim, &format!("{values}, {output}"), difference(got.value(), want, 0.0));
    }
    seen.finish();
    notes
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
        trained.stderr.contains("note: the backbone starts from 30 tensors"),
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
    let vectors = Tensor::randn(0.0_f32, 1.0, (20, 5), &Device::Cpu).unwrap();
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
