//! What a library says of itself, read from its file without running it.

use std::path::Path;

use object::{Object, ObjectSection};
use pretext_plugin_api::abi;
use pretext_plugin_api::metadata::checksum;
use serde::Serialize;
use serde_json::Value as Json;

use crate::config::option::{Kind, OptionSpec};
use crate::engine::op;
use crate::{Error, Result};

/// Bytes of the section before its JSON: magic, format, major, minor, length, checksum.
const HEADER: usize = 32;
/// The largest plugin that is read; a method is hundreds of kilobytes.
const LARGEST: u64 = 1 << 30;

/// A plugin library, as its metadata describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginInfo {
    /// Name of the package that it was built from.
    pub package: String,
    /// Version of that package.
    pub version: String,
    /// The contract that it speaks, such as `1.0`.
    pub contract: String,
    /// Its methods.
    pub methods: Vec<MethodInfo>,
}

/// A method, as its descriptor describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodInfo {
    /// Its name.
    pub name: String,
    /// What it is, in one line.
    pub summary: String,
    /// Its paper.
    pub paper: String,
    /// Kinds of data that it learns from.
    pub modalities: Vec<String>,
    /// Kinds of view that it asks for.
    pub views: Vec<String>,
    /// Ops that it calls.
    pub ops: Vec<String>,
    /// Names and texts of its recipes.
    pub recipes: Vec<(String, String)>,
    /// Its options.
    #[serde(serialize_with = "option_table")]
    pub options: Vec<OptionSpec>,
}

impl MethodInfo {
    /// The text of the recipe `name`, if there is one.
    pub fn recipe(&self, name: &str) -> Option<&str> {
        self.recipes.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }
}

/// The options as `pretext plugin info --json` prints them.
fn option_table<S: serde::Serializer>(options: &[OptionSpec], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(options.iter().map(|option| {
        serde_json::json!({
            "name": option.name,
            "type": option.kind.to_string(),
            "default": option.default_text(),
            "range": option.range(),
            "advice": option.advice,
        })
    }))
}

/// Reads the metadata of the library at `path` and checks that this host can run it. Nothing of the
/// library is executed.
///
/// # Errors
/// With one sentence that says why it is refused, and a hint.
pub fn read(path: &Path) -> Result<PluginInfo> {
    let file = std::fs::metadata(path)
        .map_err(|error| Error::asked_wrongly("it can't be read").because(error))?;
    if !file.is_file() {
        return Err(Error::failed("it is not a regular file"));
    }
    if file.len() > LARGEST {
        return Err(Error::failed("it is larger than 1 GiB, which no plugin is"));
    }
    let bytes = std::fs::read(path)
        .map_err(|error| Error::asked_wrongly("it can't be read").because(error))?;
    parse(&bytes)
}

/// The same for a library that lies in memory.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Result<PluginInfo> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Error::failed("it is not a shared library")
            .hint("a plugin is the `.so` that `cargo build --release` makes of a `cdylib` crate"));
    }
    let damaged = |error: object::Error| {
        Error::failed("the library is truncated or damaged")
            .because(error)
            .hint("copy or build it again")
    };
    let file = object::File::parse(bytes).map_err(damaged)?;
    check_machine(&file)?;
    let Some(section) = file.section_by_name(abi::SECTION) else {
        return Err(Error::failed(
            "it is a library without pretext metadata, so no pretext plugin",
        )
        .hint("a plugin calls `export_methods!` of `pretext-plugin-api` once"));
    };
    let json = check_section(section.data().map_err(damaged)?)?;
    // A library that aborts on panic would take the run down with it, checkpoint and all.
    if json.1.get("panic").and_then(Json::as_str) != Some("unwind") {
        return Err(Error::failed("it was built to abort on a panic, which would end the run")
            .hint("build it with `panic = \"unwind\"`, which is the default"));
    }
    let info = decode(json.0, &json.1).ok_or_else(|| {
        Error::failed("its metadata can't be understood").hint("rebuild the plugin")
    })?;
    check_needs(&info)?;
    Ok(info)
}

fn check_machine(file: &object::File<'_>) -> Result<()> {
    let here = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        _ => object::Architecture::Unknown,
    };
    if file.architecture() != here || file.kind() != object::ObjectKind::Dynamic {
        return Err(Error::failed(format!(
            "it is a {:?} {:?} object, this host needs a {here:?} library",
            file.architecture(),
            file.kind()
        ))
        .hint("build the plugin for this machine"));
    }
    Ok(())
}

/// Checks the header; gives the contract's version and the JSON.
fn check_section(section: &[u8]) -> Result<(String, Json)> {
    let damaged = || Error::failed("its metadata is damaged").hint("copy or build it again");
    let number = |at: usize, bytes: usize| -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&section[at..at + bytes]);
        u64::from_le_bytes(word)
    };
    if section.len() < HEADER || section[..8] != abi::MAGIC {
        return Err(damaged());
    }
    let (major, minor) = (number(12, 2), number(14, 2));
    check_contract((major, minor), (u64::from(abi::MAJOR), u64::from(abi::MINOR)))?;
    if number(8, 4) != u64::from(abi::METADATA_FORMAT) {
        return Err(damaged());
    }
    let json = section[HEADER..].get(..number(16, 8) as usize).ok_or_else(damaged)?;
    if checksum(json) != number(24, 8) {
        return Err(damaged());
    }
    let json = serde_json::from_slice(json).map_err(|_| damaged())?;
    Ok((format!("{major}.{minor}"), json))
}

/// Whether a host that speaks `ours` runs a plugin that speaks contract `theirs`: major and minor.
fn check_contract(theirs: (u64, u64), ours: (u64, u64)) -> Result<()> {
    if theirs.0 == ours.0 && theirs.1 <= ours.1 {
        return Ok(());
    }
    let hint = if theirs > ours {
        "update pretext, or rebuild the plugin against an older `pretext-plugin-api`"
    } else {
        "rebuild the plugin against the present `pretext-plugin-api`"
    };
    let (theirs, ours) = (format!("{}.{}", theirs.0, theirs.1), format!("{}.{}", ours.0, ours.1));
    let message = format!("it speaks contract {theirs}, this host speaks {ours}");
    Err(Error::failed(message).hint(hint))
}

fn check_needs(info: &PluginInfo) -> Result<()> {
    for method in &info.methods {
        for need in &method.ops {
            let known = need.split_once('@').is_some_and(|(name, revision)| {
                revision.parse().is_ok_and(|revision| op::find(name, revision).is_some())
            });
            if !known {
                return Err(Error::failed(format!(
                    "its method `{}` needs the op `{need}`, which this host does not have",
                    method.name
                ))
                .hint("update pretext"));
            }
        }
    }
    Ok(())
}

fn decode(contract: String, json: &Json) -> Option<PluginInfo> {
    let methods = json.get("methods")?.as_array()?;
    Some(PluginInfo {
        package: text(json, "package")?,
        version: text(json, "version")?,
        contract,
        methods: methods.iter().map(method).collect::<Option<_>>()?,
    })
}

fn text(json: &Json, key: &str) -> Option<String> {
    json.get(key)?.as_str().map(str::to_owned)
}

fn texts(json: &Json, key: &str) -> Option<Vec<String>> {
    json.get(key)?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn method(json: &Json) -> Option<MethodInfo> {
    let recipes = json.get("recipes")?.as_object()?;
    Some(MethodInfo {
        name: text(json, "name")?,
        summary: text(json, "summary")?,
        paper: text(json, "paper")?,
        modalities: texts(json, "modalities")?,
        views: texts(json, "views")?,
        ops: texts(json, "ops")?,
        recipes: recipes
            .iter()
            .map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
            .collect::<Option<_>>()?,
        options: json.get("options")?.as_array()?.iter().map(option).collect::<Option<_>>()?,
    })
}

fn option(json: &Json) -> Option<OptionSpec> {
    let kind = match json.get("type")?.as_str()? {
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "float" => Kind::Float,
        "choice" => Kind::Choice,
        _ => return None,
    };
    let default = json.get("default")?;
    let default = match kind {
        Kind::Bool => toml::Value::Boolean(default.as_bool()?),
        Kind::Int => toml::Value::Integer(default.as_i64()?),
        Kind::Float => toml::Value::Float(float(default)?),
        _ => toml::Value::String(default.as_str()?.to_owned()),
    };
    Some(OptionSpec {
        name: text(json, "name")?,
        kind,
        default: Some(default),
        min: json.get("min").and_then(float),
        max: json.get("max").and_then(float),
        choices: texts(json, "choices").unwrap_or_default(),
        advice: text(json, "advice")?,
    })
}

/// A number: whole, or `{"f64": "hexadecimal bits"}`.
fn float(json: &Json) -> Option<f64> {
    match json.get("f64") {
        Some(bits) => u64::from_str_radix(bits.as_str()?, 16).ok().map(f64::from_bits),
        None => json.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_refused_in_words() {
        let error = parse(b"hello, world").unwrap_err();
        assert_eq!(error.message(), "it is not a shared library");
        let error = parse(b"\x7fELF and then nothing").unwrap_err();
        assert_eq!(error.message(), "the library is truncated or damaged");
    }

    #[test]
    fn a_float_comes_back_from_its_bits() {
        assert_eq!(float(&serde_json::json!({"f64": "3fe0000000000000"})), Some(0.5));
        assert_eq!(float(&serde_json::json!(3)), Some(3.0));
    }

    fn section(major: u16, json: &[u8]) -> Vec<u8> {
        let mut bytes = abi::MAGIC.to_vec();
        bytes.extend(abi::METADATA_FORMAT.to_le_bytes());
        bytes.extend(major.to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend((json.len() as u64).to_le_bytes());
        bytes.extend(checksum(json).to_le_bytes());
        bytes.extend(json);
        bytes
    }

    #[test]
    fn an_older_minor_is_taken_and_a_newer_one_is_refused_with_what_to_update() {
        assert!(check_contract((1, 0), (1, 1)).is_ok() && check_contract((1, 1), (1, 1)).is_ok());
        let error = check_contract((1, 1), (1, 0)).unwrap_err();
        assert_eq!(error.message(), "it speaks contract 1.1, this host speaks 1.0");
        assert!(error.hint_text().unwrap().starts_with("update pretext"));
        let error = check_contract((1, 3), (2, 0)).unwrap_err();
        assert!(error.hint_text().unwrap().starts_with("rebuild the plugin"));
    }

    #[test]
    fn another_major_and_a_damaged_section_are_told_apart() {
        assert!(check_section(&section(abi::MAJOR, b"{}")).is_ok());
        let error = check_section(&section(9, b"{}")).unwrap_err();
        let ours = format!("{}.{}", abi::MAJOR, abi::MINOR);
        assert_eq!(error.message(), format!("it speaks contract 9.0, this host speaks {ours}"));
        let mut bytes = section(abi::MAJOR, b"{}");
        bytes[HEADER] = b'[';
        assert_eq!(check_section(&bytes).unwrap_err().message(), "its metadata is damaged");
        assert!(check_section(&bytes[..HEADER - 1]).is_err());
    }
}
