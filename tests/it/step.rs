//! `pretext step`: recorded tensors in, everything that a step made out.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use pretext_tests::parity::Seen;
use pretext_tests::reference::{Reference, difference};
use pretext_tests::{Outcome, Workplace, claims, noise};

use super::dino::{count, defined, number, step_recipe};

const PYTORCH: &str = "lightly's `DINOLoss` and head, timm's ViT and PyTorch's AdamW, f64";

claims! {
    /// Gradients as in the tests of the plugin: f32 there and back against f64.
    REPLAY = "dino", "two steps through `pretext step`: losses, gradients, center, student, teacher", PYTORCH, 5e-5;
    /// f32 against f64.
    PLAIN = "dino", "plain logits through `pretext step`: loss, gradient to every view, center", "lightly's `DINOLoss`, f64", 1e-5;
}

type Named = BTreeMap<String, Tensor>;

fn write(place: &Workplace, name: &str, tensors: &Named) {
    let map = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    candle_core::safetensors::save(&map, place.path().join(name)).expect("it can be written");
}

fn read(place: &Workplace, name: &str) -> Named {
    let path: &Path = &place.path().join(name);
    candle_core::safetensors::load(path, &Device::Cpu).expect(name).into_iter().collect()
}

fn step(place: &Workplace, words: &[&str]) -> Outcome {
    place.pretext(&[&["step"], words].concat())
}

/// How far `got` is from `want`, whatever shape a number has.
fn far(got: &Tensor, want: &Tensor) -> f64 {
    let got = got.reshape(want.dims()).expect("as many elements");
    difference(&got, want, 0.0)
}

/// The views of step `step` of the stored steps, by the names of a replay.
fn views(file: &Reference, step: usize, prefix: &str) -> Named {
    let mut views = Named::new();
    for v in 0..2 {
        let tensor = file.tensor(&format!("globals.{step}.{v}")).clone();
        views.insert(format!("{prefix}global_{}.0.pixels", v + 1), tensor);
    }
    for v in 0..count(&file.json("settings"), "locals") {
        let tensor = file.tensor(&format!("locals.{step}.{v}")).clone();
        views.insert(format!("{prefix}local.{v}.pixels"), tensor);
    }
    views
}

/// The stored weights before the first step; the file has the host's names.
fn weights(file: &Reference) -> Named {
    let of = |network: &str| {
        let prefix = format!("{network}.");
        let all = file.below(&prefix).into_iter();
        let first = all.filter(|(name, _)| !name.starts_with(|c: char| c.is_ascii_digit()));
        first.map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect::<Vec<_>>()
    };
    of("student").into_iter().chain(of("teacher")).collect()
}

#[test]
fn recorded_steps_have_the_losses_gradients_and_weights_of_pytorch() {
    let (file, place) = (Reference::open("dino/step.safetensors"), Workplace::new());
    place.write("recipe.toml", step_recipe(&file.json("settings")));
    let mut batch = views(&file, 0, "step.0.");
    batch.append(&mut views(&file, 1, "step.1."));
    write(&place, "in.safetensors", &batch);
    write(&place, "w.safetensors", &weights(&file));
    let arguments = [
        "recipe.toml",
        "--batch",
        "in.safetensors",
        "--weights",
        "w.safetensors",
        "--out",
        "out.safetensors",
        // What the method's own recipe says and the stored steps don't.
        "warmup_epochs=0",
        "weight_decay_end=0.04",
    ];
    let done = step(&place, &arguments);
    done.assert_done();
    assert!(done.stderr.contains("has no `center`: it starts as declared"), "{}", done.stderr);
    let out = read(&place, "out.safetensors");
    let mut seen = Seen::new();
    for j in 0..2 {
        let at = |name: &str| &out[&format!("step.{j}.{name}")];
        seen.compare(&REPLAY, "loss", far(at("loss"), file.tensor(&format!("loss.{j}"))));
        let norm = file.tensor(&format!("norm.{j}"));
        seen.compare(&REPLAY, "norm", far(at("gradient_norm"), norm));
        let center = file.tensor(&format!("center.{j}"));
        seen.compare(&REPLAY, "center", far(at("after.center"), center));
        for (network, stored) in
            [("student", format!("student.{j}.")), ("teacher", format!("teacher.{j}."))]
        {
            for (name, want) in file.below(&stored) {
                let got = at(&format!("after.{network}.{name}"));
                let far = far(&defined(name, got), &defined(name, want));
                seen.compare(&REPLAY, &format!("{network}.{name}"), far);
            }
        }
    }
    for (name, want) in file.below("gradient.") {
        let got = &out[&format!("step.0.gradient.student.{name}")];
        seen.compare(&REPLAY, &format!("gradient of {name}"), far(got, want));
    }
    assert_eq!(out["step.1.gradient.local.2.pixels"].dims(), batch["step.1.local.2.pixels"].dims());
    seen.finish();
}

#[test]
fn a_loss_can_be_compared_on_plain_logits() {
    let (file, place) = (Reference::open("dino/plain.safetensors"), Workplace::new());
    let settings = file.json("settings");
    let views: Named = ["global_1.", "global_2.", "local."]
        .iter()
        .flat_map(|view| {
            file.below(view).into_iter().map(move |(rest, t)| (format!("{view}{rest}"), t.clone()))
        })
        .collect();
    write(&place, "in.safetensors", &views);
    let locals = format!("local_crops={}", count(&settings, "locals"));
    let student = format!("temperature_student={:?}", number(&settings, "temperature_student"));
    let teacher = number(&settings, "temperature_teacher");
    let decay = format!("center_decay={:?}", number(&settings, "center_decay"));
    let [start, end] = ["start", "end"].map(|at| format!("temperature_teacher_{at}={teacher:?}"));
    let words =
        ["dino", "--batch", "in.safetensors", "--out", "out.safetensors", "backbone=identity"];
    let options = ["modality=vector", "head=false", &locals, &student, &start, &end, &decay];
    step(&place, &[&words[..], &options].concat()).assert_done();
    let out = read(&place, "out.safetensors");
    let mut seen = Seen::new();
    seen.compare(&PLAIN, "loss", far(&out["loss"], file.tensor("loss")));
    seen.compare(&PLAIN, "center", far(&out["after.center"], file.tensor("center")));
    for name in views.keys() {
        let name = format!("gradient.{name}");
        seen.compare(&PLAIN, &name, far(&out[&name], file.tensor(&name)));
    }
    assert_eq!(out.iter().filter(|(name, _)| name.starts_with("gradient.")).count(), views.len());
    seen.finish();
}

/// A recipe whose step costs nothing.
const TINY: &[&str] = &[
    "dino",
    "backbone=vit",
    "patch=4",
    "width=8",
    "depth=1",
    "heads=2",
    "global_size=8",
    "local_crops=0",
    "prototypes=6",
    "head_hidden=8",
    "head_bottleneck=4",
];

/// What a batch of [`TINY`] is.
const TINY_BATCH: &str =
    "a batch is: `global_1.0.pixels` f32 [B, 3, 8, 8], `global_2.0.pixels` f32 [B, 3, 8, 8]";

fn tiny_batch() -> Named {
    let view = |name: String| {
        let pixels = noise(&name, (2, 3, 8, 8));
        (name, pixels)
    };
    [1, 2].map(|v| view(format!("global_{v}.0.pixels"))).into()
}

fn tiny(place: &Workplace, words: &[&str]) -> Outcome {
    step(place, &[TINY, &["--batch", "in.safetensors", "--out", "out.safetensors"], words].concat())
}

#[test]
fn a_batch_that_is_not_the_methods_is_refused_by_name_with_what_it_needs() {
    let place = Workplace::new();
    let refused = |change: &dyn Fn(&mut Named), error: &str, hint: &str| {
        let mut batch = tiny_batch();
        change(&mut batch);
        write(&place, "in.safetensors", &batch);
        tiny(&place, &[]).assert_refused(error, hint);
    };
    refused(
        &|batch| drop(batch.remove("global_2.0.pixels")),
        "`in.safetensors` has no tensor `global_2.0.pixels`",
        TINY_BATCH,
    );
    refused(
        &|batch| {
            let view = batch["global_1.0.pixels"].clone();
            batch.insert("global_3.0.pixels".to_owned(), view);
        },
        "`in.safetensors` has a tensor `global_3.0.pixels` that no view has",
        &format!("did you mean `global_1.0.pixels`? {TINY_BATCH}"),
    );
    refused(
        &|batch| {
            let view = batch["global_1.0.pixels"].narrow(2, 0, 4).unwrap().contiguous().unwrap();
            batch.insert("global_1.0.pixels".to_owned(), view);
        },
        "`global_1.0.pixels` in `in.safetensors` has shape [2, 3, 4, 8], not [B, 3, 8, 8]",
        TINY_BATCH,
    );
    refused(
        &|batch| {
            let view = batch["global_1.0.pixels"].to_dtype(DType::U8).unwrap();
            batch.insert("global_1.0.pixels".to_owned(), view);
        },
        "`global_1.0.pixels` in `in.safetensors` is u8, which can't be f32",
        "store `global_1.0.pixels` f32 [B, 3, 8, 8]",
    );
    step(&place, &["dino", "--batch", "nothing.safetensors", "--out", "o"]).assert_refused(
        "there is no file `nothing.safetensors`",
        "check the path of the safetensors file",
    );
    step(&place, &["dino"]).assert_refused(
        "`pretext step` needs `--batch FILE`",
        "`pretext step dino --names` lists what its files hold",
    );
}

#[test]
fn weights_that_are_not_the_networks_are_refused_by_name() {
    let place = Workplace::new();
    write(&place, "in.safetensors", &tiny_batch());
    tiny(&place, &[]).assert_done();
    let out = read(&place, "out.safetensors");
    let whole: Named = out
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix("after.")?.to_owned(), t.clone())))
        .collect();
    let hint = "`pretext step dino --names` lists the weights, with their shapes";
    let run = |weights: &Named| {
        write(&place, "w.safetensors", weights);
        tiny(&place, &["--weights", "w.safetensors"])
    };
    run(&whole).assert_done();
    let mut weights = whole.clone();
    weights.remove("student.backbone.norm.bias");
    run(&weights).assert_refused("`w.safetensors` lacks `student.backbone.norm.bias`", hint);
    let mut weights = whole.clone();
    weights.insert(
        "student.backbone.norm.bais".to_owned(),
        whole["student.backbone.norm.bias"].clone(),
    );
    run(&weights).assert_refused(
        "`w.safetensors` has a tensor `student.backbone.norm.bais` that nothing takes",
        &format!("did you mean `student.backbone.norm.bias`? {hint}"),
    );
    let mut weights = whole.clone();
    weights.insert("center".to_owned(), whole["student.backbone.norm.bias"].clone());
    run(&weights).assert_refused(
        "`center` in `w.safetensors` has shape [8], not [1, 6]",
        "give the recipe the sizes of these weights",
    );
    let students: Named = whole
        .iter()
        .filter(|(name, _)| !name.starts_with("teacher."))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    let done = run(&students);
    done.assert_done();
    assert!(
        done.stderr.contains("has no teacher: it starts equal to the student"),
        "{}",
        done.stderr
    );
}

#[test]
fn one_recorded_batch_serves_many_steps_and_the_loss_falls() {
    let place = Workplace::new();
    write(&place, "in.safetensors", &tiny_batch());
    let words = ["--steps", "30", "lr=1e-3", "lr_batch=0", "weight_decay=0", "steps=100", "--json"];
    let still = [
        "teacher_decay_start=1",
        "teacher_decay_end=1",
        "center_decay=1",
        "freeze_last_layer_epochs=0",
    ];
    let done = tiny(&place, &[&words[..], &still].concat());
    done.assert_done();
    let said: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let losses: Vec<f64> = said["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 30);
    assert!(losses[29] < losses[0], "{losses:?}");
    let out = read(&place, "out.safetensors");
    assert!(out.contains_key("step.29.after.student.backbone.cls_token"));
}

#[test]
fn the_names_that_are_listed_are_those_of_the_files() {
    let place = Workplace::new();
    let listed = step(&place, &[TINY, &["--names", "--json"]].concat());
    listed.assert_done();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let in_file = |file: &str| -> Vec<String> {
        let rows = listed.as_array().unwrap().iter().filter(|row| row["file"] == file);
        let mut names: Vec<String> =
            rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let batch = tiny_batch();
    assert_eq!(in_file("batch"), batch.keys().cloned().collect::<Vec<_>>());
    write(&place, "in.safetensors", &batch);
    tiny(&place, &[]).assert_done();
    let out = read(&place, "out.safetensors");
    assert_eq!(in_file("out"), out.keys().cloned().collect::<Vec<_>>());
    let weights: Vec<String> =
        in_file("weights").iter().map(|name| format!("after.{name}")).collect();
    assert!(weights.iter().all(|name| out.contains_key(name)));
}
