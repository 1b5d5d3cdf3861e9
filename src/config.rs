//! The pipeline file: one struct a stage, one TOML file, `--set stage.key=value` to override.
//!
//! Each stage's struct stands in its stage's module, beside the code that reads it. Here they are put together, loaded, and
//! described: `keys` is what `fulgurite config` prints, taken from the structs themselves.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::air::AirConfig;
use crate::credit::CreditConfig;
use crate::derive::DeriveConfig;
use crate::engine::{EngineConfig, PipelineConfig};
use crate::exit::Fault;
#[cfg(feature = "torch")]
use crate::generate::GenerateConfig;
use crate::ingest::IngestConfig;
#[cfg(feature = "torch")]
use crate::serve::ServeConfig;
#[cfg(feature = "torch")]
use crate::{eval::EvalConfig, iterate::LoopConfig, rollout::RolloutConfig, rollout::agent::AgentConfig};

/// Everything that a pipeline file can say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads of the readers, of DataFusion and of libtorch alike; 0 takes every core. `--threads` overrides it. libtorch's threads spin while they
    /// wait for each other: where other work keeps the cores busy, one thread is faster than several.
    pub threads: usize,
    /// Folder of the pipeline file, where a user's own SQL files are looked for. Set by `load`, never read from the file.
    #[serde(skip)]
    pub folder: Option<PathBuf>,
    pub pipeline: PipelineConfig,
    pub engine: EngineConfig,
    pub ingest: IngestConfig,
    pub derive: DeriveConfig,
    pub air: AirConfig,
    pub credit: CreditConfig,
    #[cfg(feature = "torch")]
    pub train: crate::train::TrainConfig,
    #[cfg(feature = "torch")]
    pub generate: GenerateConfig,
    #[cfg(feature = "torch")]
    pub serve: ServeConfig,
    #[cfg(feature = "torch")]
    pub agent: AgentConfig,
    #[cfg(feature = "torch")]
    pub rollout: RolloutConfig,
    #[cfg(feature = "torch")]
    pub eval: EvalConfig,
    #[cfg(feature = "torch")]
    #[serde(rename = "loop")]
    pub iterate: LoopConfig,
}

impl Config {
    /// Reads the pipeline file, then applies each `stage.key=value` in turn.
    ///
    /// A value is read as TOML (`0.5`, `true`, `["a", "b"]`); what TOML cannot read is taken as text, so that
    /// `credit.method=identical` needs no quotes. Errors are `Fault::Usage` and name the wrong key with the right ones.
    pub fn load(pipeline: Option<&Path>, settings: &[String]) -> Result<Config> {
        let mut config = match pipeline {
            Some(path) => from_file(path)?,
            None => Config::default(),
        };
        let folder = config.folder.take();
        for setting in settings {
            config = set(&config, setting)?;
        }
        Ok(Config { folder, ..config })
    }

    /// Threads to use, the machine's cores where the configuration says 0.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

fn from_file(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::Usage(format!("cannot read the pipeline file `{}`: {error}", path.display())))?;
    let config: Config = toml::from_str(&text)
        .map_err(|error| Fault::Usage(format!("pipeline file `{}`: {}", path.display(), error.to_string().trim_end())))?;
    let folder = path.parent().map(Path::to_path_buf);
    Ok(Config { folder, ..config })
}

/// The configuration with one key replaced.
fn set(config: &Config, setting: &str) -> Result<Config> {
    let Some((path, text)) = setting.split_once('=') else {
        return Err(Fault::Usage(format!("`--set {setting}` has no value: write `--set stage.key=value`")).into());
    };
    let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut root = toml::Table::try_from(config).context("the configuration cannot be written as TOML")?;
    let mut parts: Vec<&str> = path.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut table = &mut root;
    for part in parts {
        let entry = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = match entry {
            toml::Value::Table(inner) => inner,
            _ => return Err(Fault::Usage(format!("`--set {setting}`: `{part}` is a value and has no keys")).into()),
        };
    }
    table.insert(last.to_owned(), value);
    root.try_into::<Config>().map_err(|error| Fault::Usage(format!("`--set {setting}`: {}", error.to_string().trim_end())).into())
}

/// One key of the configuration, as `fulgurite config` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// `stage.key`.
    pub path: String,
    /// What it means: the doc comment of the field.
    pub doc: String,
    /// number, integer, text, boolean, list of ..., table of ..., or the choices `"a" | "b"`.
    pub kind: String,
    /// Null where the key has no default.
    pub default: Value,
    /// The value in force: the pipeline file's or `--set`'s, else the default.
    pub value: Value,
}

/// Every key, in the order of the structs.
pub fn keys(config: &Config) -> Result<Vec<Key>> {
    let schema = schemars::schema_for!(Config).to_value();
    let default = serde_json::to_value(Config::default()).context("the default configuration cannot be written as JSON")?;
    let value = serde_json::to_value(config).context("the configuration cannot be written as JSON")?;
    let mut keys = Vec::new();
    walk(&schema, &schema, "", &default, &value, &mut keys);
    Ok(keys)
}

fn walk(root: &Value, schema: &Value, path: &str, default: &Value, value: &Value, keys: &mut Vec<Key>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let resolved = resolve(root, property);
        let (default, value) = (&default[name], &value[name]);
        if resolved.get("properties").is_some() {
            walk(root, resolved, &path, default, value, keys);
            continue;
        }
        let doc = [property, resolved].into_iter().find_map(|schema| schema["description"].as_str()).unwrap_or_default();
        let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        keys.push(Key { path, doc, kind: kind(root, property), default: default.clone(), value: value.clone() });
    }
}

/// Follows `$ref`, also through the wrappers that schemars makes for a described or optional field.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = |reference: &Value| reference.as_str().and_then(|text| root.pointer(text.trim_start_matches('#')));
    if let Some(found) = target(&schema["$ref"]) {
        return resolve(root, found);
    }
    let wrapped = ["allOf", "anyOf"].iter().find_map(|key| schema[key].as_array());
    match wrapped.and_then(|schemas| schemas.iter().find(|schema| schema["type"] != "null")) {
        Some(inner) => resolve(root, inner),
        None => schema,
    }
}

/// The type of a key in a reader's words.
fn kind(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    let choices: Vec<&Value> = match (schema["enum"].as_array(), schema["oneOf"].as_array()) {
        (Some(values), _) => values.iter().collect(),
        (None, Some(variants)) => variants
            .iter()
            .flat_map(|variant| match variant["enum"].as_array() {
                Some(values) => values.iter().collect::<Vec<_>>(),
                None => variant.get("const").into_iter().collect(),
            })
            .collect(),
        (None, None) => Vec::new(),
    };
    if !choices.is_empty() {
        return choices.iter().map(|choice| choice.to_string()).collect::<Vec<_>>().join(" | ");
    }
    let name = match &schema["type"] {
        Value::String(name) => Some(name.as_str()),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    };
    match name {
        Some("string") => "text".to_owned(),
        Some("array") => format!("list of {}", kind(root, &schema["items"])),
        Some("object") => format!("table of {}", kind(root, &schema["additionalProperties"])),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        format!("{:#}", Config::load(None, &settings).expect_err("must fail"))
    }

    #[test]
    fn a_setting_replaces_the_default() {
        let config = Config::load(None, &["threads=3".to_owned()]).expect("loads");
        assert_eq!(config.threads(), 3);
    }

    #[test]
    fn a_wrong_key_is_named_with_the_right_ones() {
        let message = failure(&["thread=3"]);
        assert!(message.contains("unknown field `thread`") && message.contains("`threads`"), "{message}");
    }

    #[test]
    fn a_setting_without_value_is_refused() {
        assert!(failure(&["threads"]).contains("stage.key=value"));
    }

    #[test]
    fn every_key_is_documented() {
        for key in keys(&Config::default()).expect("describes") {
            assert!(!key.doc.is_empty(), "`{}` has no doc comment", key.path);
            assert_ne!(key.kind, "any", "`{}` has no type that a reader can name", key.path);
        }
    }
}
