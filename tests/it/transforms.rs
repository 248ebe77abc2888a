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
use pretext_tests::claims;
use pretext_tests::parity::{Claim, Seen};
use pretext_tests::reference::{Reference, elements};
use serde_json::Value;

const TORCHVISION: &str = "torchvision on PIL images";
const OF: &str = "transforms";

claims! {
    FLIP = OF, "flip, in 8-bit levels", TORCHVISION, 0.0;
    NORMALIZE = OF, "normalise", TORCHVISION, 1e-3;
    CROP = OF, "resized crop, in 8-bit levels", TORCHVISION, 2.0;
    HUE = OF, "hue, in 8-bit levels (PIL keeps 8 bits of hue)", TORCHVISION, 11.0;
    BLUR = OF, "blur, in 8-bit levels (PIL takes boxes for the bell)", TORCHVISION, 16.2;
    OTHERS = OF, "brightness, contrast, saturation, grayscale, solarize, in 8-bit levels", TORCHVISION, 1.1;
}

/// The claim about the largest difference, and the mean difference allowed, in 8-bit levels.
fn allowed(transform: &str) -> (&'static Claim, f64) {
    match transform {
        "flip" => (&FLIP, 0.0),
        "normalize" => (&NORMALIZE, 1e-4),
        "resized_crop" => (&CROP, 0.3),
        "hue" => (&HUE, 1.0),
        "blur" => (&BLUR, 1.1),
        _ => (&OTHERS, 0.5),
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
    let (mut compared, mut seen) = (0, Seen::new());
    for (c, case) in file.json("cases").as_array().expect("a list").iter().enumerate() {
        let input = file.tensor(&format!("c{c}.in"));
        let (height, width, _) = input.dims3().unwrap();
        let pixels = elements(input).iter().map(|x| *x as u8).collect();
        let got = transformed(case, &Image { width, height, pixels });
        let out = file.tensor(&format!("c{c}.out"));
        let is_float = out.dims()[0] == 3;
        let want = if is_float { elements(out) } else { planar(&elements(out)) };
        assert_eq!(got.len(), want.len(), "{case}");
        // Rounded to what f32 holds of 255 levels.
        let apart = |(a, b): (&f64, &f64)| (1e4 * (a - b).abs()).round() / 1e4;
        let apart: Vec<f64> = got.iter().zip(&want).map(apart).collect();
        let largest = apart.iter().copied().fold(0.0, f64::max);
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        let (claim, most_mean) = allowed(case["transform"].as_str().expect("a name"));
        println!("{case}: largest {largest:.3}, mean {mean:.3}");
        seen.compare(claim, &case.to_string(), largest);
        assert!(mean <= most_mean + 1e-4, "{case}: {mean}, the mean allowed is {most_mean}");
        compared += 1;
    }
    assert!(compared > 20);
    seen.finish();
}
