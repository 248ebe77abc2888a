//! Hugging Face's `HubertModel`: our own names but for queries, keys and values, which are apart there, and
//! for the two parts of the positional convolution's weight.

use candle_core::Tensor;
use serde_json::{Value, json};

use super::apart::{Thirds, apart};
use super::{Dialect, Sizes, Tensors};
use crate::{Error, Result};

pub(super) const DIALECT: Dialect = Dialect {
    format: "hf",
    backbone: "wave",
    model: "Hugging Face `HubertModel`",
    anchor: "feature_extractor.conv_layers.0.conv.weight",
    import,
    export,
    config: Some(config),
};

/// Ours, and what transformers writes since it has parametrizations.
const RENAMED: [(&str, &str); 2] = [
    (
        "encoder.pos_conv_embed.conv.weight_g",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    ),
    (
        "encoder.pos_conv_embed.conv.weight_v",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    ),
];
const QKV: &str = ".attention.qkv.";
const APART: [&str; 3] = [".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj."];

fn import(tensors: Tensors, _: [usize; 2]) -> Result<Tensors> {
    let (mut ours, mut thirds) = (Tensors::new(), Thirds::default());
    for (name, tensor) in tensors {
        if let Some(third) = APART.iter().position(|part| name.contains(part)) {
            thirds.take(name.replace(APART[third], QKV), third, tensor);
            continue;
        }
        let own = RENAMED.iter().find(|(_, theirs)| *theirs == name);
        ours.insert(own.map_or(name, |(own, _)| (*own).to_owned()), tensor);
    }
    thirds.finish(&mut ours)?;
    Ok(ours)
}

fn export(tensors: Tensors) -> Result<Tensors> {
    let mut theirs = Tensors::new();
    for (name, tensor) in tensors {
        if name.contains(QKV) {
            for (part, third) in APART.iter().zip(apart(&tensor)?) {
                theirs.insert(name.replace(QKV, part), third);
            }
            continue;
        }
        let other = RENAMED.iter().find(|(own, _)| *own == name);
        theirs.insert(other.map_or(name, |(_, other)| (*other).to_owned()), tensor);
    }
    Ok(theirs)
}

/// The class of the model in transformers.
const CLASS: &str = "HubertModel";

/// What `HubertConfig` has to know.
fn config(tensors: &Tensors, sizes: &Sizes<'_>) -> Result<Value> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims).unwrap_or_default();
    let layers: Vec<&[usize]> = (0..tensors.len())
        .map(|i| dims(&format!("feature_extractor.conv_layers.{i}.conv.weight")))
        .take_while(|dims| !dims.is_empty())
        .collect();
    let strides = sizes.list("conv_strides")?;
    if strides.len() != layers.len() {
        return Err(Error::failed("the recipe has other convolutions than the weights"));
    }
    let positions = dims("encoder.pos_conv_embed.conv.weight_v");
    let &[width, per_group, kernel] = positions else {
        return Err(Error::failed("the weights have no positional convolution"));
    };
    Ok(json!({
        "architectures": [CLASS],
        // Hugging Face's rule for the types of its models.
        "model_type": CLASS.trim_end_matches("Model").to_lowercase(),
        "hidden_size": width,
        "num_hidden_layers": sizes.fact("depth")?,
        "num_attention_heads": sizes.fact("heads")?,
        "intermediate_size": dims("encoder.layers.0.feed_forward.intermediate_dense.weight").first(),
        "conv_dim": layers.iter().map(|dims| dims[0]).collect::<Vec<_>>(),
        "conv_kernel": layers.iter().map(|dims| dims[2]).collect::<Vec<_>>(),
        "conv_stride": strides,
        "conv_bias": false,
        "num_feat_extract_layers": layers.len(),
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": true,
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": width / per_group.max(1),
        "do_stable_layer_norm": false,
        "layer_norm_eps": EPS,
        "hidden_act": "gelu",
        "mask_time_prob": 0.0,
        "torch_dtype": "float32",
    }))
}

/// What keeps a layer norm's variance from 0, as in the authors' code.
const EPS: f64 = 1e-5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;

    #[test]
    fn names_come_back_through_both_ways() {
        let tensor = |n: usize| storage::tensor(vec![1.0_f32; 2 * n], (n, 2)).unwrap();
        let mut ours = Tensors::new();
        for name in
            ["encoder.layers.0.attention.qkv.weight", RENAMED[0].0, "encoder.layer_norm.bias"]
        {
            ours.insert(name.to_owned(), tensor(3));
        }
        let theirs = export(ours.clone()).unwrap();
        let names: Vec<&str> = theirs.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "encoder.layer_norm.bias",
                "encoder.layers.0.attention.k_proj.weight",
                "encoder.layers.0.attention.q_proj.weight",
                "encoder.layers.0.attention.v_proj.weight",
                RENAMED[0].1,
            ]
        );
        assert!(import(theirs, [0, 0]).unwrap().keys().eq(ours.keys()));
    }
}
