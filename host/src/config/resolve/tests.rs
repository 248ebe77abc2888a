//! Layers, words and refusals of recipes.

use super::*;
use crate::config::{ClipMode, Kind};
use crate::engine::Precision;

const OWN: &str = "
[train]
epochs = 100
lr = 5e-4
weight_decay = 0.04
weight_decay_end = 0.4
clip = 3.0
clip_mode = \"tensor\"
[backbone]
kind = \"vit\"
patch = 16
";

fn option(name: &str, kind: Kind, default: &str, range: (f64, f64)) -> OptionSpec {
    OptionSpec {
        name: name.into(),
        kind,
        default: default.parse().ok(),
        min: Some(range.0),
        max: Some(range.1),
        choices: Vec::new(),
        advice: "as in the paper".into(),
    }
}

fn options() -> Vec<OptionSpec> {
    vec![
        option("prototypes", Kind::Int, "65536", (2.0, 1e6)),
        option("temperature", Kind::Float, "0.1", (0.01, 1.0)),
        option("global_scale", Kind::Numbers, "[0.4, 1.0]", (0.0, 1.0)),
    ]
}

fn backbones(kind: &str) -> Result<Vec<OptionSpec>> {
    match kind {
        "vit" => Ok(vec![
            option("patch", Kind::Int, "8", (1.0, 64.0)),
            option("width", Kind::Int, "", (1.0, 4096.0)),
        ]),
        "identity" => Ok(Vec::new()),
        _ => Err(Error::asked_wrongly(format!("there is no backbone called `{kind}`"))),
    }
}

fn resolve_text(file: Option<&str>, words: &[&str]) -> Result<Recipe> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let draft = match file {
        Some(text) => Draft::from_text("recipe `my.toml`", text, &words)?,
        None => Draft::open("dino", &words)?,
    };
    draft.resolve(&MethodTable { recipe: OWN, options: &options() }, &backbones)
}

fn words(words: &[&str]) -> Result<Recipe> {
    resolve_text(None, words)
}

#[test]
fn the_later_layer_wins_key_by_key() {
    let file = "method = \"dino\"\n[train]\nepochs = 5\nbatch = 32\n[backbone]\npatch = 4";
    let recipe = resolve_text(Some(file), &["train.batch=16"]).unwrap();
    assert_eq!(recipe.train.batch, 16);
    assert_eq!(recipe.train.epochs, 5.0);
    assert_eq!(recipe.train.weight_decay, 0.04);
    assert_eq!(recipe.train.clip_mode, ClipMode::Tensor);
    assert_eq!(recipe.train.momentum, 0.9);
    assert_eq!(recipe.backbone.options.int("patch"), Some(4));
    assert_eq!(recipe.backbone.options.get("width"), None);
}

#[test]
fn a_resolved_recipe_reads_back_as_itself() {
    let recipe =
        words(&["data=a \"b\"", "lr=1e-7", "precision=bf16", "global_scale=0.3,1", "width=64"])
            .unwrap();
    let text = recipe.to_toml().unwrap();
    let again = resolve_text(Some(&text), &[]).unwrap();
    assert_eq!(again, recipe);
    assert_eq!(again.to_toml().unwrap(), text);
    assert_eq!(recipe.precision, Precision::Bf16);
    assert_eq!(recipe.options.numbers("global_scale"), Some(vec![0.3, 1.0]));
}

#[test]
fn short_words_find_their_section() {
    let recipe =
        words(&["data=images", "backbone=identity", "epochs=2", "prototypes=64", "k=5"]).unwrap();
    assert_eq!(recipe.data.source, "images");
    assert_eq!(recipe.data.asked_about(), "images");
    assert_eq!(recipe.backbone.kind, "identity");
    assert_eq!(recipe.backbone.options.get("patch"), None);
    assert_eq!(recipe.options.int("prototypes"), Some(64));
    assert_eq!(recipe.probe.k, 5);
}

#[test]
fn a_recipe_that_names_its_backbone_describes_all_of_it() {
    let own = "[backbone]\nkind = \"vit\"\nwidth = 96";
    let table = MethodTable { recipe: own, options: &[] };
    let width = |file: &str| {
        let draft =
            Draft::from_text("t", &format!("method = \"m\"\n[backbone]\n{file}"), &[]).unwrap();
        draft.resolve(&table, &backbones).unwrap().backbone.options.int("width")
    };
    assert_eq!(width("kind = \"vit\""), None);
    assert_eq!(width("patch = 4"), Some(96));
}

#[test]
fn another_recipe_of_the_method_is_named_after_a_colon() {
    let draft = Draft::open("dino:vit-small", &[]).unwrap();
    assert_eq!((draft.method(), draft.own_recipe()), ("dino", "vit-small"));
    assert_eq!(Draft::open("dino", &[]).unwrap().own_recipe(), "default");
}

#[test]
fn a_key_that_follows_another_takes_its_value_unless_given() {
    let draft = Draft::from_text("t", "method = \"m\"\n[train]\nweight_decay = 0.1", &[]).unwrap();
    let recipe = draft.resolve(&MethodTable::default(), &backbones).unwrap();
    assert_eq!(recipe.train.weight_decay_end, 0.1);
    assert_eq!(words(&["weight_decay=0.1"]).unwrap().train.weight_decay_end, 0.4);
}

#[test]
fn a_word_with_two_meanings_is_refused_and_both_are_named() {
    let error = words(&["temperature=0.2"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`temperature` can mean `probe.temperature` or `options.temperature`"
    );
    assert_eq!(
        words(&["options.temperature=0.2"]).unwrap().options.float("temperature"),
        Some(0.2)
    );
}

#[test]
fn misspelt_keys_get_their_neighbour() {
    let refused = |word: &str| words(&[word]).unwrap_err();
    assert_eq!(refused("prototipes=5").hint_text(), Some("did you mean `prototypes=5`?"));
    assert_eq!(refused("train.epoch=5").hint_text(), Some("did you mean `train.epochs`?"));
    assert_eq!(
        refused("options.prototipes=5").hint_text(),
        Some("did you mean `options.prototypes`?")
    );
    assert_eq!(refused("trian.epochs=5").hint_text(), Some("did you mean `train`?"));
    assert_eq!(refused("backbone.pach=5").hint_text(), Some("did you mean `backbone.patch`?"));
    assert_eq!(
        refused("data.epochs=5").hint_text(),
        Some("it belongs to another section: `train.epochs`")
    );
    assert_eq!(refused("epochs").exit_code(), 2);
}

#[test]
fn errors_in_a_file_name_the_file() {
    let refused = |text: &str| resolve_text(Some(text), &[]).unwrap_err().to_string();
    let text = "method = \"dino\"\n[train]\nbatch = \"ten\"";
    let expected =
        "recipe `my.toml` can't be used: `train.batch` takes a whole number, not `\"ten\"`";
    assert_eq!(refused(text), expected);
    assert!(refused("method = \"dino\"\nepochs = 3").contains("`epochs` is no key of a recipe"));
    assert!(refused("method = \"dino\"\ndata = \"x\"").contains("`data` is a section"));
    assert!(refused("[train]").contains("names no method"));
    assert!(refused("method = \"dino\"\n\nx = ").contains("line 3"));
}

#[test]
fn a_value_out_of_range_names_the_range() {
    let error = words(&["prototypes=1"]).unwrap_err();
    assert_eq!(error.to_string(), "`options.prototypes` must lie between 2 and 1000000, not `1`");
    assert_eq!(error.exit_code(), 2);
    let error = words(&["betas=0.9"]).unwrap_err();
    assert_eq!(error.to_string(), "`train.betas` takes two numbers, not `0.9`");
    assert_eq!(error.hint_text(), Some("`train.betas=0.9,0.999`"));
    // A moment that never moves, or a division by 0, makes a loss that is no number.
    assert!(words(&["betas=0.9,1.0"]).is_err() && words(&["eps=0"]).is_err());
    assert!(words(&["seed=-1"]).is_err());
    for more_than_a_machine_has in ["threads=5000", "workers=5000", "prefetch=5000"] {
        let error = words(&[more_than_a_machine_has]).unwrap_err().to_string();
        assert!(error.contains("must lie between") && error.contains("1024"), "{error}");
    }
}

#[test]
fn the_learning_rate_scales_with_the_batch_unless_told_not_to() {
    let recipe = words(&["batch=64", "accumulate=8", "lr=1e-3"]).unwrap();
    assert_eq!(recipe.train.effective_lr(), 2e-3);
    assert!(recipe.train.lr_rule().contains("0.001 x batch 64 x accumulate 8 / 256"));
    assert_eq!(words(&["lr_batch=0", "lr=1e-3"]).unwrap().train.effective_lr(), 1e-3);
}
