//! Tests of `wave`: names, shapes, masks, lengths, what is dropped, what is refused.

use super::*;
use crate::engine::storage;
use crate::module::testing::{Bench, named};
use crate::random::Stream;

const SMALL: &str = "width = 8\ndepth = 2\nheads = 2\nconv_widths = [6]\nposition_kernel = 4\n\
                     position_groups = 2\n";

fn wave(options: &str) -> Bench {
    Bench::backbone("wave", &format!("{SMALL}{options}"), &[1200]).unwrap()
}

fn noise(batch: usize, samples: usize) -> Var {
    let init = Init::Normal { std: 1.0 };
    let mut stream = Stream::new(5, "waveforms", 0, 0);
    Var::constant(init.tensor(&[batch, samples], &mut stream).unwrap())
}

fn numbers(x: &Var) -> Vec<f32> {
    storage::to_f32(x.value()).unwrap()
}

fn lengths(values: &[u32]) -> Var {
    Var::constant(storage::tensor(values.to_vec(), values.len()).unwrap())
}

#[test]
fn frames_are_counted_alike_on_the_host_and_where_the_batch_lies() {
    let of = |kernel, stride| Layer { width: 1, kernel, stride };
    let layers = [of(10, 5), of(3, 2), of(3, 2), of(2, 2)];
    let samples: Vec<u32> = (0..3000).chain([15_999, 16_000, 959_999, 960_005]).collect();
    let counts = frame_counts(&layers, lengths(&samples).value()).unwrap();
    for (samples, count) in samples.iter().zip(storage::to_f64(&counts).unwrap()) {
        assert_eq!(frame_count(&layers, *samples as usize) as f64, count, "{samples}");
    }
}

#[test]
fn its_parameters_have_names_near_those_of_transformers() {
    let wave = wave("mask_token = true\n");
    let names = wave.names();
    let want = [
        "feature_extractor.conv_layers.0.conv.weight",
        "feature_extractor.conv_layers.0.layer_norm.weight",
        "feature_extractor.conv_layers.6.conv.weight",
        "feature_projection.layer_norm.bias",
        "feature_projection.projection.weight",
        "masked_spec_embed",
        "encoder.pos_conv_embed.conv.weight_g",
        "encoder.pos_conv_embed.conv.weight_v",
        "encoder.layer_norm.weight",
        "encoder.layers.1.attention.qkv.weight",
        "encoder.layers.1.attention.out_proj.bias",
        "encoder.layers.0.layer_norm.weight",
        "encoder.layers.0.feed_forward.intermediate_dense.weight",
        "encoder.layers.0.feed_forward.output_dense.bias",
        "encoder.layers.1.final_layer_norm.bias",
    ];
    for name in want {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

#[test]
fn the_base_size_has_the_released_shapes() {
    let options = "size = \"base\"\nmask_token = true\ndepth = 1";
    let base = Bench::backbone("wave", options, &[16_000]).unwrap();
    let count: usize =
        base.state.parameters().iter().map(|parameter| parameter.value.elem_count()).sum();
    // All parameters of transformers' `HubertModel` for its base configuration, less 11 of 12 blocks.
    assert_eq!(count, 94_371_712 - 11 * 7_087_872);
    assert_eq!(base.module.fact("tokens"), Some(49));
}

#[test]
fn outputs_have_their_shapes_for_sound_of_any_length() {
    let wave = wave("");
    let asked = ["frames", "tokens", "layer.1", "pooled", "cls"];
    for (samples, count) in [(400, 1), (1200, 3), (1999, 5)] {
        let out = wave.call(&[named("waveforms", &noise(2, samples))], &asked).unwrap();
        let dims: Vec<&[usize]> = out.iter().map(Var::dims).collect();
        assert_eq!(dims, [&[2, count, 6][..], &[2, count, 8], &[2, count, 8], &[2, 8], &[2, 8]]);
    }
    assert_eq!(wave.module.fact("tokens"), Some(3));
    assert_eq!(wave.module.fact("frame_stride"), Some(320));
    assert_eq!(wave.module.fact("frame_size"), Some(400));
}

#[test]
fn masks_cover_its_frames() {
    let given = toml::from_str("").unwrap();
    let tokens = crate::module::registry::backbone_grid("wave", &given).unwrap().unwrap();
    assert_eq!(tokens(&[16_000]).unwrap(), [49]);
    assert_eq!(tokens(&[100]).unwrap(), [0]);
    assert!(tokens(&[3, 16, 16]).is_err());
}

#[test]
fn pooling_takes_the_mean_of_the_frames_that_are_sound() {
    let wave = wave("");
    let inputs = [named("waveforms", &noise(2, 2000)), named("lengths", &lengths(&[2000, 1100]))];
    let out = wave.call(&inputs, &["tokens", "pooled"]).unwrap();
    let (tokens, pooled) = (numbers(&out[0]), numbers(&out[1]));
    // 2000 samples make 6 frames, 1100 make 3.
    for (sample, count) in [(0, 6), (1, 3)] {
        for c in 0..8 {
            let mean: f32 =
                (0..count).map(|t| tokens[(sample * 6 + t) * 8 + c] / count as f32).sum();
            assert!((pooled[sample * 8 + c] - mean).abs() < 1e-5);
        }
    }
    let short = [named("waveforms", &noise(2, 2000)), named("lengths", &lengths(&[2000]))];
    let error = wave.call(&short, &["tokens"]).unwrap_err();
    assert!(error.to_string().contains("one of `lengths` for each"), "{error}");
}

#[test]
fn sound_of_full_length_is_what_sound_without_lengths_is() {
    let wave = wave("");
    let plain = [named("waveforms", &noise(2, 2000))];
    let with = [plain[0].clone(), named("lengths", &lengths(&[2000, 5000]))];
    let tokens = |inputs: &[Input]| numbers(&wave.call(inputs, &["tokens"]).unwrap()[0]);
    assert_eq!(tokens(&plain), tokens(&with));
}

#[test]
fn masked_frames_are_replaced_and_need_a_mask_embedding() {
    let masked = wave("mask_token = true\n");
    let mask = Var::constant(storage::tensor(vec![1_u8; 6], (1, 6)).unwrap());
    let part = |sample| {
        let one = noise(2, 2000).value().narrow(0, sample, 1).unwrap().contiguous().unwrap();
        let inputs = [named("waveforms", &Var::constant(one)), named("mask", &mask)];
        numbers(&masked.call(&inputs, &["tokens"]).unwrap()[0])
    };
    assert_eq!(part(0), part(1));
    let inputs = [named("waveforms", &noise(1, 2000)), named("mask", &mask)];
    let error = wave("").call(&inputs, &["tokens"]).unwrap_err();
    assert_eq!(error.hint_text(), Some("set `backbone.mask_token=true`"));
}

#[test]
fn blocks_are_left_out_by_the_streams_draw_and_only_in_training() {
    let wave = wave("dropout = 0\ninput_dropout = 0\nlayer_drop = 0.5\n");
    let inputs = [named("waveforms", &noise(1, 2000))];
    let asked = ["layer.1", "layer.2"];
    let whole = wave.call(&inputs, &asked).unwrap();
    let mut seen = [false; 2];
    for step in 0..12 {
        let out = wave.train(step, &inputs, &asked).unwrap();
        let again = wave.train(step, &inputs, &asked).unwrap();
        assert_eq!(numbers(&out[1]), numbers(&again[1]));
        let kept = numbers(&out[0]) != numbers(&out[1]);
        seen[usize::from(kept)] = true;
    }
    assert_eq!(seen, [true, true]);
    assert_ne!(numbers(&whole[0]), numbers(&whole[1]));
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_a_hint() {
    let refused = |options: &str, shape: &[usize]| {
        let error = Bench::backbone("wave", options, shape).unwrap_err();
        assert!(error.hint_text().is_some() && error.exit_code() == 2);
        error.to_string()
    };
    assert!(refused("", &[3, 16, 16]).contains("takes waveforms"));
    assert!(refused("", &[399]).contains("don't fill one frame of 400"));
    assert!(refused("width = 10\nheads = 3", &[400]).contains("`heads` 3"));
    assert!(refused("width = 24\nheads = 3", &[400]).contains("`position_groups` 16"));
    assert!(refused("conv_kernels = [10, 3]", &[400]).contains("2 kernels, 7 strides"));
    assert!(refused("conv_kernels = []\nconv_strides = []", &[400]).contains("at least one"));
    assert!(refused("conv_strides = [0.5]", &[400]).contains("whole numbers"));
}
