//! timm's `ResNet`: our own names, running statistics and all.

use super::Dialect;

pub(super) const DIALECT: Dialect = Dialect {
    format: "timm",
    backbone: "resnet",
    model: "timm `ResNet`",
    anchor: "layer1.0.conv1.weight",
    import: |tensors, _| Ok(tensors),
    export: Ok,
    config: None,
};
