//! `fulgurite policy`: models into the lake, a list of them, and out of it again.

mod generate;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::table::{Column, render};
use crate::lake::Lake;
use crate::policy;
use crate::policy::new::Sizes;
use crate::progress::Progress;
pub use generate::{GenerateArgs, run as generate};

/// What to do with policies.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum PolicyCommand {
    /// Bring a model into the lake: a Hugging Face folder, or a GGUF file
    #[command(before_help = "Examples:
  fulgurite policy import --from models/SmolLM2-135M-Instruct.Q4_1.gguf --lake runs/lake
  fulgurite policy import --from trained-elsewhere --as-next --lake runs/lake")]
    Import {
        /// The model's folder, or its GGUF file
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// As the version after the newest one, not as policy 0
        #[arg(long)]
        as_next: bool,
    },
    /// Make a small model with random weights, and a tokenizer learnt from texts
    #[command(before_help = "Example:
  fulgurite policy new --hidden 128 --layers 4 --heads 4 --vocab 1024 --text tasks.jsonl --lake runs/lake")]
    New {
        #[command(flatten)]
        sizes: Sizes,
        /// Texts to learn the tokenizer from: JSON, JSON Lines or plain
        #[arg(long = "text", value_name = "FILES", required = true, num_args = 1..)]
        texts: Vec<PathBuf>,
        /// As the version after the newest one, not as policy 0
        #[arg(long)]
        as_next: bool,
    },
    /// Every policy of the lake
    #[command(before_help = "Example:
  fulgurite policy list --lake runs/lake")]
    List,
    /// Copy a policy out of the lake: a folder that transformers, vLLM and others load
    #[command(before_help = "Example:
  fulgurite policy export --version 1 --to my-model --lake runs/lake")]
    Export {
        /// Version of the policy [default: the newest]
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        /// Folder to make
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Show what a policy says to a prompt
    #[command(before_help = "Example:
  fulgurite policy generate --version 1 --prompt \"What is 2 + 3?\" --temperature 0 --lake runs/lake")]
    Generate(GenerateArgs),
}

/// Prints a line for each policy on stdout.
pub async fn list(lake: &Lake, json: bool) -> Result<()> {
    let manifests = lake.policy_manifests().await?;
    let mut out = std::io::stdout().lock();
    let policies = manifests.iter().filter_map(|manifest| Some((manifest, manifest.policy.as_ref()?)));
    if json {
        let listed = policies.map(|(manifest, policy)| {
            json!({
                "version": policy.version,
                "parent": policy.parent,
                "stage": manifest.stage,
                "batch": manifest.batch,
                "folder": policy.stored.folder,
                "size_bytes": policy.stored.size_bytes(),
                "committed_at": manifest.committed_at,
            })
        });
        return Ok(writeln!(out, "{}", serde_json::Value::from_iter(listed))?);
    }
    if manifests.is_empty() {
        return Ok(writeln!(out, "no policy yet: `fulgurite policy import` brings one in")?);
    }
    let columns = [
        Column::right("version"),
        Column::right("parent"),
        Column::left("stage"),
        Column::left("batch"),
        Column::right("size"),
        Column::left("folder"),
    ];
    let rows: Vec<Vec<String>> = policies
        .map(|(manifest, policy)| {
            let parent = policy.parent.map_or_else(String::new, |parent| parent.to_string());
            let size = indicatif::BinaryBytes(policy.stored.size_bytes()).to_string();
            let (stage, batch) = (manifest.stage.clone(), manifest.batch.clone());
            vec![policy.version.to_string(), parent, stage, batch, size, policy.stored.folder.clone()]
        })
        .collect();
    Ok(out.write_all(render(&columns, &rows).as_bytes())?)
}

/// Copies a policy out.
pub async fn export(lake: &Lake, version: Option<u64>, to: &std::path::Path, progress: &Progress) -> Result<()> {
    let policy = policy::export(lake, version, to).await?;
    let size = indicatif::BinaryBytes(policy.stored.size_bytes());
    progress.message(format!("policy {} is in `{}`, {size}", policy.version, to.display()));
    Ok(())
}
