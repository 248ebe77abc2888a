//! Hugging Face's `ViTModel`: queries, keys and values apart, other names.

use candle_core::Tensor;
use serde_json::{Value, json};

use super::apart::{Thirds, apart};
use super::{Dialect, Sizes, Tensors};
use crate::module::transformer::EPS;
use crate::{Error, Result};

pub(super) const DIALECT: Dialect = Dialect {
    format: "hf",
    backbone: "vit",
    model: "Hugging Face `ViTModel`",
    anchor: "embeddings.patch_embeddings.projection.weight",
    import,
    export,
    config: Some(config),
};

/// Names outside of the blocks, ours first.
const OUTSIDE: [(&str, &str); 7] = [
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
];

/// Parts of a block, without `weight` and `bias`: ours, those of files, and those of the model of
/// transformers 5 in memory.
const INSIDE: [[&str; 3]; 5] = [
    ["norm1", "layernorm_before", "layernorm_before"],
    ["attn.proj", "attention.output.dense", "attention.o_proj"],
    ["norm2", "layernorm_after", "layernorm_after"],
    ["mlp.fc1", "intermediate.dense", "mlp.fc1"],
    ["mlp.fc2", "output.dense", "mlp.fc2"],
];

/// Our part for queries, keys and values together, and theirs in that order, as in [`INSIDE`].
const QKV: &str = "attn.qkv";
const APART: [[&str; 2]; 3] = [
    ["attention.attention.query", "attention.q_proj"],
    ["attention.attention.key", "attention.k_proj"],
    ["attention.attention.value", "attention.v_proj"],
];

/// A block's number and the rest of a name.
fn in_block<'a>(name: &'a str, before: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(before)?.split_once('.')
}

/// A part of a block, and `weight` or `bias`.
fn part(rest: &str) -> (&str, &str) {
    rest.rsplit_once('.').unwrap_or((rest, ""))
}

fn import(tensors: Tensors, _: [usize; 2]) -> Result<Tensors> {
    let (mut ours, mut thirds) = (Tensors::new(), Thirds::default());
    for (name, tensor) in tensors {
        if let Some((own, _)) = OUTSIDE.iter().find(|(_, theirs)| *theirs == name) {
            ours.insert((*own).to_owned(), tensor);
            continue;
        }
        let block = in_block(&name, "encoder.layer.").or_else(|| in_block(&name, "layers."));
        let Some((block, rest)) = block else {
            ours.insert(name, tensor);
            continue;
        };
        let (found, kind) = part(rest);
        let third = APART.iter().position(|names| names.contains(&found));
        let own = INSIDE.iter().find(|names| names[1..].contains(&found));
        match (third, own) {
            (Some(third), _) => {
                thirds.take(format!("blocks.{block}.{QKV}.{kind}"), third, tensor);
            }
            (None, Some([own, ..])) => {
                ours.insert(format!("blocks.{block}.{own}.{kind}"), tensor);
            }
            (None, None) => {
                ours.insert(name.clone(), tensor);
            }
        }
    }
    thirds.finish(&mut ours)?;
    Ok(ours)
}

fn export(tensors: Tensors) -> Result<Tensors> {
    let mut theirs = Tensors::new();
    for (name, tensor) in tensors {
        if let Some((_, other)) = OUTSIDE.iter().find(|(own, _)| *own == name) {
            theirs.insert((*other).to_owned(), tensor);
            continue;
        }
        let Some((block, rest)) = in_block(&name, "blocks.") else { return Err(foreign(&name)) };
        let (own, kind) = part(rest);
        let at = |other: &str| format!("encoder.layer.{block}.{other}.{kind}");
        if own == QKV {
            for ([other, _], third) in APART.iter().zip(apart(&tensor)?) {
                theirs.insert(at(other), third);
            }
            continue;
        }
        let [_, other, _] =
            INSIDE.iter().find(|names| names[0] == own).ok_or_else(|| foreign(&name))?;
        theirs.insert(at(other), tensor);
    }
    if !theirs.contains_key("embeddings.cls_token") {
        return Err(Error::asked_wrongly("Hugging Face's `ViTModel` always has a class token")
            .hint("write it with `--format timm`"));
    }
    Ok(theirs)
}

fn foreign(name: &str) -> Error {
    Error::asked_wrongly(format!("Hugging Face's `ViTModel` has no place for `{name}`"))
        .hint("write it with `--format timm`")
}

/// What `ViTConfig` has to know.
fn config(tensors: &Tensors, sizes: &Sizes<'_>) -> Result<Value> {
    let fact = |name: &str| sizes.fact(name);
    let dims = |name: &str| tensors.get(name).map(Tensor::dims).unwrap_or_default();
    let (patch, rows, cols) = (fact("patch")?, fact("rows")?, fact("cols")?);
    let image =
        if rows == cols { json!(rows * patch) } else { json!([rows * patch, cols * patch]) };
    Ok(json!({
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": fact("dim")?,
        "num_hidden_layers": fact("depth")?,
        "num_attention_heads": fact("heads")?,
        "intermediate_size": dims("blocks.0.mlp.fc1.weight").first(),
        "image_size": image,
        "patch_size": patch,
        "num_channels": dims("patch_embed.proj.weight").get(1),
        "qkv_bias": tensors.contains_key("blocks.0.attn.qkv.bias"),
        "layer_norm_eps": EPS,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;

    #[test]
    fn queries_keys_and_values_come_apart_and_together_again() {
        let qkv = storage::tensor((0..12).map(|x| x as f32).collect::<Vec<_>>(), (6, 2)).unwrap();
        let mut ours = Tensors::new();
        ours.insert("blocks.3.attn.qkv.weight".to_owned(), qkv.clone());
        ours.insert("cls_token".to_owned(), qkv.clone());
        let theirs = export(ours).unwrap();
        let key = &theirs["encoder.layer.3.attention.attention.key.weight"];
        assert_eq!(storage::to_f32(key).unwrap(), [4., 5., 6., 7.]);
        let back = import(theirs, [1, 1]).unwrap();
        let again = storage::to_f32(&back["blocks.3.attn.qkv.weight"]).unwrap();
        assert_eq!(again, storage::to_f32(&qkv).unwrap());
    }

    #[test]
    fn what_vit_model_has_no_place_for_is_refused_by_name() {
        let one = storage::tensor(vec![1.0_f32], (1, 1, 1)).unwrap();
        let refused = |name: &str| {
            export([(name.to_owned(), one.clone())].into()).unwrap_err().message().to_owned()
        };
        assert!(refused("reg_token").contains("`reg_token`"));
        assert!(refused("blocks.0.ls1.gamma").contains("`blocks.0.ls1.gamma`"));
        assert!(refused("pos_embed").contains("class token"));
    }
}
