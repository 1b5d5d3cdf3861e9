//! `fulgurite config`: every key with its doc, type and default.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use serde_json::Value;

use crate::config::{Config, Key, keys};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A list for the eye.
    Text,
    /// A pipeline file with every key at its value in force.
    Toml,
    /// A table for a document.
    Markdown,
    /// A JSON array.
    Json,
}

/// Prints every key of the configuration on stdout.
pub fn run(config: &Config, format: Format) -> Result<()> {
    let keys = keys(config)?;
    let text = match format {
        Format::Text => text(&keys),
        Format::Toml => toml_file(&keys),
        Format::Markdown => markdown(&keys),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&keys)?),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn text(keys: &[Key]) -> String {
    let mut out = String::new();
    for key in keys {
        let set = if key.value == key.default { String::new() } else { format!(", set to {}", shown(&key.value)) };
        let _ = writeln!(out, "{} ({}; default {}{set})\n    {}", key.path, key.kind, shown(&key.default), key.doc);
    }
    out
}

fn toml_file(keys: &[Key]) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in keys {
        let (stage, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        if stage != section {
            let _ = writeln!(out, "\n[{stage}]");
            section = stage;
        }
        let _ = writeln!(out, "# {} ({})", key.doc, key.kind);
        match toml::Value::try_from(&key.value) {
            Ok(value) => drop(writeln!(out, "{name} = {value}")),
            // TOML has no null: a key without a value stays a comment.
            Err(_) => drop(writeln!(out, "# {name} =")),
        }
    }
    out
}

fn markdown(keys: &[Key]) -> String {
    let mut out = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    let cell = |text: &str| text.replace('|', "\\|");
    for key in keys {
        let (kind, default) = (cell(&key.kind), cell(&shown(&key.default)));
        let _ = writeln!(out, "| `{}` | {kind} | `{default}` | {} |", key.path, cell(&key.doc));
    }
    out
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}
