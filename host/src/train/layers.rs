//! Whether the backbone has the layers that probes and stages ask for: else they would find out when the run has begun.

use super::prepare::Prepared;
use crate::config::Recipe;
use crate::module::{Module, registry};
use crate::plugin::{AskedStage, StageFeatures};
use crate::{Error, Result};

/// Refuses layers that the backbone of `prepared` lacks.
///
/// # Errors
/// When the recipe's probe or a stage of the method asks for one.
pub(super) fn check(recipe: &Recipe, prepared: &Prepared) -> Result<()> {
    let Some(backbone) = prepared.session.backbone() else { return Ok(()) };
    check_probe(recipe, &*backbone)?;
    let last = last(&*backbone);
    let mut stages = prepared.course.0.iter().flat_map(|training| &training.stages);
    let asks = |stage: &&AskedStage| matches!(stage.features, StageFeatures::Layer { layer, .. } if layer > last);
    let Some(stage) = stages.find(asks) else { return Ok(()) };
    let lacks = lacks(recipe, last);
    let message = format!("the stage `{}` asks for `{}`: {lacks}", stage.name, stage.features);
    let kind = &recipe.backbone.kind;
    let deeper = registry::backbone_options(kind)?.iter().any(|option| option.name == "depth");
    Err(Error::asked_wrongly(message).hint(match (stage.features, last) {
        (StageFeatures::Layer { layer, .. }, 1..) if deeper => {
            format!("`backbone.depth={layer}`, or a layer up to {last} in the method's options")
        }
        (_, 1..) => format!("choose a layer up to {last} in the method's options"),
        (_, 0) => "choose other features in the method's options, or another backbone".to_owned(),
    }))
}

/// Refuses a probe of a layer that `backbone` lacks.
///
/// # Errors
/// When `probe.layer` is one.
pub(super) fn check_probe(recipe: &Recipe, backbone: &dyn Module) -> Result<()> {
    let (asked, last) = (recipe.probe.layer, last(backbone));
    if asked <= last {
        return Ok(());
    }
    let hint = match last {
        0 => "`probe.layer=0`, which asks what the backbone gives in the end".to_owned(),
        _ => format!("`probe.layer={last}`; 0 asks what the backbone gives in the end"),
    };
    let message = format!("`probe.layer = {asked}`: {}", lacks(recipe, last));
    Err(Error::asked_wrongly(message).hint(hint))
}

/// The number of the last output `layer.K`; 0 where there is none.
fn last(backbone: &dyn Module) -> usize {
    backbone.fact("depth").and_then(|depth| usize::try_from(depth).ok()).unwrap_or(0)
}

fn lacks(recipe: &Recipe, last: usize) -> String {
    let kind = &recipe.backbone.kind;
    if last == 0 {
        return format!("`{kind}` has no layers");
    }
    format!("the last layer of `{kind}` is {last} here")
}
