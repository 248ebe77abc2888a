//! Weights put into a backbone: every tensor of the one has its place in the other, or is named.

use candle_core::{DType, Tensor};
use serde_json::Value;

use super::{Source, Tensors};
use crate::engine::ops::resize_bicubic::resize_bicubic;
use crate::engine::{Tape, Var};
use crate::error::did_you_mean;
use crate::module::transformer::EPS;
use crate::run::NamedTensors;
use crate::{Error, Result};

/// What a backbone wants, by the names below its prefix.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Kind of backbone.
    pub kind: &'a str,
    /// Names and present values.
    pub tensors: Vec<(String, Tensor)>,
    /// Rows and columns of its grid of tokens; zeros where it has none.
    pub grid: [usize; 2],
}

/// Tokens that a backbone may have and published weights need not: they stay as they start.
const OPTIONAL: [&str; 2] = ["mask_token", "masked_spec_embed"];
/// How many names an error says.
const SAID: usize = 4;

/// The tensors of `source` for a backbone, in the order of `expected`, and what there is to say about them.
///
/// # Errors
/// When the source is of another kind of backbone, or a tensor is missing, left over or misshapen.
pub fn fit(source: Source, expected: &Expected<'_>) -> Result<(NamedTensors, Vec<String>)> {
    let Source { name, tensors, dialect, left_out, config } = source;
    if dialect.backbone != expected.kind {
        return Err(Error::asked_wrongly(format!(
            "`{name}` holds a {}, and the recipe's backbone is `{}`",
            dialect.model, expected.kind
        ))
        .hint(format!("set `backbone={}`", dialect.backbone)));
    }
    let mut notes: Vec<String> = left_out.into_iter().collect();
    notes.extend(config.as_ref().and_then(|config| other_eps(config, expected.kind, &name)));
    let mut given = (dialect.import)(tensors, expected.grid)?;
    let mut pairs = Vec::with_capacity(expected.tensors.len());
    let mut missing = Vec::new();
    for (wanted, value) in &expected.tensors {
        match given.remove(wanted) {
            Some(tensor) => pairs.push((wanted, tensor, value.dims())),
            None if OPTIONAL.contains(&wanted.as_str()) => {
                notes.push(format!("`{name}` has no `{wanted}`: it starts anew"));
            }
            None => missing.push(wanted.as_str()),
        }
    }
    complete(&name, &missing, &given, expected)?;
    let mut fitted = Vec::with_capacity(pairs.len());
    for (wanted, tensor, dims) in pairs {
        let tensor = match wanted.as_str() {
            "pos_embed" => placed(tensor, dims, expected.grid, &name, &mut notes)?,
            _ => tensor,
        };
        if tensor.dims() != dims {
            return Err(misshapen(wanted, &name, tensor.dims(), dims));
        }
        fitted.push((wanted.clone(), tensor.to_dtype(DType::F32)?.contiguous()?));
    }
    Ok((fitted, notes))
}

/// Refuses weights of which something is missing or left over.
fn complete(file: &str, missing: &[&str], left: &Tensors, expected: &Expected<'_>) -> Result<()> {
    let kind = expected.kind;
    if let Some(first) = missing.first() {
        let hint = match did_you_mean(first, left.keys().map(String::as_str)) {
            Some(near) => format!("it has `{near}`, which nothing takes"),
            None => format!("give `{kind}` the depth and the parts of these weights"),
        };
        let message = format!("`{file}` lacks {} of the backbone `{kind}`", listed(missing));
        return Err(Error::asked_wrongly(message).hint(hint));
    }
    let left: Vec<&str> = left.keys().map(String::as_str).collect();
    let Some(first) = left.first() else { return Ok(()) };
    let hint = match *first {
        "cls_token" => "set `backbone.class_token=true`".to_owned(),
        "mask_token" | "masked_spec_embed" => "set `backbone.mask_token=true`".to_owned(),
        "reg_token" => "set `backbone.registers` to their number".to_owned(),
        name if name.contains(".ls1.") => "set `backbone.layer_scale=1e-5`".to_owned(),
        name if name.contains("blocks.") => {
            "set `backbone.depth` to that of these weights".to_owned()
        }
        _ => format!("give `{kind}` the parts of these weights"),
    };
    let message = format!("`{file}` has {}, which the backbone `{kind}` has not", listed(&left));
    Err(Error::asked_wrongly(message).hint(hint))
}

/// The first few names, and how many more there are.
fn listed(names: &[&str]) -> String {
    let some = names[..names.len().min(SAID)].join("`, `");
    if names.len() > SAID {
        format!("`{some}` and {} more", names.len() - SAID)
    } else {
        format!("`{some}`")
    }
}

fn misshapen(name: &str, file: &str, has: &[usize], wants: &[usize]) -> Error {
    let hint = match (name, has, wants) {
        ("patch_embed.proj.weight", [width, _, patch, _], _) => {
            format!(
                "set `backbone.width={width} backbone.patch={patch}`, and heads and depth to match"
            )
        }
        (_, [1, _, width], [1, _, _]) => {
            format!("set `backbone.width={width}`, and heads and depth to match")
        }
        _ => "give the backbone the sizes of these weights".to_owned(),
    };
    Error::asked_wrongly(format!(
        "`{name}` of `{file}` has shape {has:?}, the backbone's {wants:?}"
    ))
    .hint(hint)
}

/// Position embeddings `[1, P + n, D]` for the grid of a backbone whose own are `wants`: resized, and said
/// so, where only the grid differs.
fn placed(
    tensor: Tensor,
    wants: &[usize],
    grid: [usize; 2],
    file: &str,
    notes: &mut Vec<String>,
) -> Result<Tensor> {
    let (&[1, has, width], &[1, wanted, own]) = (tensor.dims(), wants) else { return Ok(tensor) };
    if has == wanted || width != own {
        return Ok(tensor);
    }
    let prefix = wanted - grid[0] * grid[1];
    let side = has.saturating_sub(prefix).isqrt();
    if has < prefix + 1 || prefix + side * side != has {
        return Err(misshapen("pos_embed", file, tensor.dims(), wants));
    }
    let tape = Tape::default();
    let rows = tensor.to_dtype(DType::F32)?.narrow(1, prefix, side * side)?;
    let image = rows.reshape((1, side, side, width))?.permute((0, 3, 1, 2))?.contiguous()?;
    let resized = resize_bicubic(&tape, &Var::constant(image), grid, 0.0)?;
    let rows = resized.value().permute((0, 2, 3, 1))?.reshape((1, grid[0] * grid[1], width))?;
    let class = tensor.to_dtype(DType::F32)?.narrow(1, 0, prefix)?;
    notes.push(format!(
        "the positions of `{file}` were resized from {side} x {side} to {} x {}",
        grid[0], grid[1]
    ));
    Ok(Tensor::cat(&[class, rows], 1)?)
}

/// Says that layer norms of the weights had another constant.
fn other_eps(config: &Value, kind: &str, file: &str) -> Option<String> {
    let eps = config.get("layer_norm_eps")?.as_f64()?;
    (kind == "vit" && eps != EPS).then(|| {
        format!("`{file}` was trained with layer_norm_eps {eps:e}, here it is {EPS:e}: features differ where tokens are small")
    })
}
