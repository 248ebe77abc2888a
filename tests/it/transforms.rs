//! Image transforms against torchvision's on PIL images (`tests/reference/transforms`).
//!
//! PIL rounds to 8 bits inside and after each transform, the host never: one level apart is rounding, two
//! where a crop is resized along rows and columns. Hue is further apart, since PIL keeps 8 bits of hue and
//! saturation; and blur, since PIL approximates the bell by boxes. There the mean difference says that it
//! is the same transform.

use pretext::data::Image;
use pretext::data::transform::blur::Blur;
use pretext::data::transform::crop::CropBox;
use pretext::data::transform::jitter::Change;
use pretext::data::transform::resize::Resample;
use pretext::data::transform::{flip, grayscale, jitter, normalize, solarize};
use pretext_tests::reference::{Reference, elements};
use serde_json::Value;

/// Largest and mean difference allowed, in 8-bit levels.
fn allowed(transform: &str) -> (f64, f64) {
    match transform {
        "flip" => (0.0, 0.0),
        "normalize" => (1e-3, 1e-4),
        "resized_crop" => (2.0, 0.3),
        "hue" => (11.0, 1.0),
        "blur" => (16.2, 1.1),
        _ => (1.1, 0.5),
    }
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {case}"))
}

fn size(case: &Value, key: &str) -> usize {
    number(case, key) as usize
}

fn three(case: &Value, key: &str) -> [f32; 3] {
    [0, 1, 2].map(|i| case[key][i].as_f64().expect("three numbers") as f32)
}

/// What the host makes of `image`: values from 0 to 255, `[3, H, W]`.
fn transformed(case: &Value, image: &Image) -> Vec<f64> {
    let kind = case["transform"].as_str().expect("a name");
    let mut pixels = image.pixels.clone();
    if kind == "resized_crop" {
        let [left, top, width, height] = ["left", "top", "width", "height"].map(|k| size(case, k));
        let part = CropBox { left, top, width, height };
        let [rows, columns] = [0, 1].map(|i| case["size"][i].as_u64().expect("a size") as usize);
        Resample::default().apply(image, part, (columns, rows), &mut pixels).unwrap();
    }
    let mut planes = vec![0.0; pixels.len()];
    normalize::planes_of(&pixels, &mut planes);
    let area = (image.width, image.height);
    match kind {
        "resized_crop" => {}
        "grayscale" => grayscale::apply(&mut planes),
        "blur" => Blur::default().apply(&mut planes, area, number(case, "radius") as f32),
        "solarize" => solarize::apply(&mut planes, number(case, "threshold") as f32),
        "flip" => flip::apply(&mut planes, image.width),
        "normalize" => normalize::apply(&mut planes, three(case, "mean"), three(case, "std")),
        change => jitter::apply(&mut planes, change_named(change, number(case, "factor") as f32)),
    }
    let scale = if kind == "normalize" { 1.0 } else { 255.0 };
    planes.iter().map(|x| f64::from(*x) * scale).collect()
}

fn change_named(name: &str, factor: f32) -> Change {
    match name {
        "brightness" => Change::Brightness(factor),
        "contrast" => Change::Contrast(factor),
        "saturation" => Change::Saturation(factor),
        "hue" => Change::Hue(factor),
        other => panic!("unknown transform `{other}`"),
    }
}

/// `[H, W, 3]` to `[3, H, W]`.
fn planar(values: &[f64]) -> Vec<f64> {
    (0..3).flat_map(|channel| values.iter().skip(channel).step_by(3).copied()).collect()
}

#[test]
fn transforms_give_torchvisions_pixels() {
    let file = Reference::open("transforms/transforms.safetensors");
    let mut compared = 0;
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let input = file.tensor(&format!("c{c}.in"));
        let (height, width, _) = input.dims3().unwrap();
        let pixels = elements(input).iter().map(|x| *x as u8).collect();
        let got = transformed(case, &Image { width, height, pixels });
        let out = file.tensor(&format!("c{c}.out"));
        let is_float = out.dims()[0] == 3;
        let want = if is_float { elements(out) } else { planar(&elements(out)) };
        assert_eq!(got.len(), want.len(), "{case}");
        let apart: Vec<f64> = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
        let largest = apart.iter().copied().fold(0.0, f64::max);
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        let (most, most_mean) = allowed(case["transform"].as_str().expect("a name"));
        println!("{case}: largest {largest:.3}, mean {mean:.3}");
        let near = largest <= most + 1e-4 && mean <= most_mean + 1e-4;
        assert!(near, "{case}: {largest} {mean}, allowed are {most} {most_mean}");
        compared += 1;
    }
    assert!(compared > 20);
}
