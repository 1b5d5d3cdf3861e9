//! Policies from outside and to the outside: model folders and GGUF files into the lake, and folders out of it.

pub mod new;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;
use tch::{Device, Kind};

use crate::exit::Fault;
use crate::lake::{Freshness, Input, Lake, Lineage, Manifest, PolicyEntry};
use crate::model::Model;
use crate::model::gguf::Gguf;
use crate::stage::{Context, Summary};
use crate::text::{self, Text};

/// The stage that brings policies in.
pub const STAGE: &str = "policy";

/// Files of a model folder that make the policy; a folder may hold the same weights in other formats besides.
const WANTED: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
];

/// Which version a policy gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// Version 0: where the line of policies begins.
    First,
    /// The number after the newest.
    Next,
}

impl As {
    pub fn next(as_next: bool) -> As {
        if as_next { As::Next } else { As::First }
    }
}

/// The batch of the commit that brings a version in.
pub fn batch(version: u64) -> String {
    format!("{version:04}")
}

/// Brings in a Hugging Face model folder, or a GGUF file, whose weights are dequantised to f32, after trying whether weights, tokenizer and
/// template can be read.
///
/// Doing it again does nothing. `Fault::Usage` where it is no model, or where policy 0 is another model already and `rebuild` does not
/// ask to replace it.
pub async fn import(context: &mut Context, from: &Path, which: As) -> Result<Summary> {
    let started = Instant::now();
    if !from.exists() {
        return Err(Fault::Usage(format!("there is no folder or file `{}`", from.display())).into());
    }
    let input = if from.is_dir() { folder_input(from)? } else { file_input(from)? };
    let version = version(&context.lake, which, &input).await?;
    context.batch = batch(version);
    let mut run = context.lake.begin(STAGE, &context.batch).await?;
    let lineage = Lineage { inputs: vec![input], ..Lineage::new(STAGE, json!({ "version": version }))? };
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) = context.standing(&freshness, run.previous(), started) {
        return Ok(summary);
    }
    if matches!(freshness, Freshness::Stale(_)) && !context.rebuild {
        let message = format!(
            "policy {version} is there already, and it is another model; `--as-next` brings this one in as the next version, `--rebuild` \
             puts it in the place of policy {version}"
        );
        return Err(Fault::Usage(message).into());
    }
    if let Some(summary) = context.would_run(STAGE, &freshness) {
        return Ok(summary);
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    if from.is_dir() {
        for path in wanted_files(from)? {
            let to = folder.path().join(path.strip_prefix(from).context("the file lies in the folder")?);
            fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            let path = path.canonicalize().with_context(|| format!("cannot read `{}`", path.display()))?;
            std::os::unix::fs::symlink(&path, to)?;
        }
    } else {
        let file = Gguf::open(from)?;
        text::gguf::write_text_files(&file, folder.path()).with_context(|| format!("in `{}`", from.display()))?;
        Model::from_gguf(&file, Device::Cpu, Kind::Float)?.save(folder.path())?;
    }
    check(folder.path(), from)?;
    context.stop.check()?;
    run.put_policy(version, None, folder.path()).await?;
    let manifest = run.commit(lineage, BTreeMap::new()).await?;
    Ok(summary(&manifest, started))
}

/// Makes a small policy with random weights and brings it in.
pub async fn make(context: &mut Context, sizes: &new::Sizes, texts: &[PathBuf], which: As) -> Result<Summary> {
    let read = new::read_texts(texts)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    new::make(folder.path(), sizes, &read)?;
    import(context, folder.path(), which).await
}

/// Copies a policy to a folder that is not there yet: whole or not at all.
pub async fn export(lake: &Lake, version: Option<u64>, to: &Path) -> Result<PolicyEntry> {
    let policy = lake.policy(version).await?;
    if to.exists() {
        return Err(Fault::Usage(format!("`{}` is there already; name a folder that is not", to.display())).into());
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))?;
    let fetched = lake.fetch_policy(&policy).await?;
    let partial = tempfile::Builder::new().prefix(".fulgurite-").tempdir_in(parent).context("cannot make a folder")?;
    for file in &policy.stored.files {
        let (from, to) = (fetched.path().join(&file.name), partial.path().join(&file.name));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot copy `{}`", from.display()))?;
    }
    let partial = partial.keep();
    // Temporary folders are private; this one is to be read.
    fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(&partial, to).with_context(|| format!("cannot make `{}`", to.display()))?;
    Ok(policy)
}

/// Says what a run did, with the version that it made.
pub fn summary(manifest: &Manifest, started: Instant) -> Summary {
    let mut summary = Summary::of(manifest, "done", started);
    if let Some(policy) = &manifest.policy {
        summary.counts.insert("bytes".to_owned(), policy.stored.size_bytes());
    }
    summary
}

/// The version that an import makes; the one that holds this very model where it is the newest already.
async fn version(lake: &Lake, which: As, input: &Input) -> Result<u64> {
    let manifests = lake.policy_manifests().await?;
    let newest = manifests.last().and_then(|manifest| Some((manifest, manifest.policy.as_ref()?.version)));
    Ok(match (which, newest) {
        (As::First, _) | (As::Next, None) => 0,
        (As::Next, Some((manifest, version))) if manifest.lineage.inputs.iter().any(|one| one.hash == input.hash) => version,
        (As::Next, Some((_, version))) => version + 1,
    })
}

/// Files of the folder that make the policy, in the order of their names.
fn wanted_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let weights = name.ends_with(".safetensors") || name == "model.safetensors.index.json";
        if WANTED.contains(&name) || weights && name.starts_with("model") {
            paths.push(folder.join(name));
        }
    }
    let named = text::template::files(folder)?.into_iter().filter(|(name, _)| name != text::template::DEFAULT);
    paths.extend(named.map(|(_, path)| path));
    paths.sort();
    Ok(paths)
}

/// The model as something that the stage reads: known by its contents.
fn file_input(path: &Path) -> Result<Input> {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let size_bytes = std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, &mut file), &mut hasher)?;
    Ok(Input { name: "model".to_owned(), tables: Vec::new(), hash: hasher.finalize().to_hex().to_string(), size_bytes })
}

fn folder_input(folder: &Path) -> Result<Input> {
    let mut hasher = blake3::Hasher::new();
    let mut size_bytes = 0;
    for path in wanted_files(folder)? {
        let file = file_input(&path)?;
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy();
        hasher.update(format!("{name} {}\n", file.hash).as_bytes());
        size_bytes += file.size_bytes;
    }
    Ok(Input { name: "model".to_owned(), tables: Vec::new(), hash: hasher.finalize().to_hex().to_string(), size_bytes })
}

/// Whether everything that rollout and training read can be read, and fits together.
///
/// * `from`: where the files in `folder` come from, for the messages.
fn check(folder: &Path, from: &Path) -> Result<()> {
    let no_policy = || format!("`{}` cannot be a policy", from.display());
    let text = Text::load(folder).with_context(no_policy)?;
    let model = Model::load(folder, Device::Cpu, Kind::BFloat16).with_context(no_policy)?;
    let (tokens, rows) = (text.tokenizer().vocab_size() as i64, model.config.vocab_size);
    if tokens > rows {
        let message = format!("the tokenizer has {tokens} tokens and the model only {rows}: they are of different models");
        return Err(Fault::Usage(message).into());
    }
    Ok(())
}
