//! What stands around the loop: device and memory, the model and what of it is trained, scores without gradients, the folder of the next policy,
//! and what the person who watches is told.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind, Tensor};
use tempfile::TempDir;

use super::forest::{self, Checkpointing, Options, Scores, Sequence, ValueHead};
use super::learn::Sources;
use super::metrics::StepMetrics;
use super::rows::Rows;
use super::{ActivationCheckpointing, Compute, LoraConfig, OPTIMISER, TrainConfig};
use crate::exit::Fault;
use crate::lake::{Fetched, Manifest};
use crate::model::{Model, ModelConfig, lora, memory, safetensors};
use crate::progress::{Bar, Progress};
use crate::stage::{Context, Stop};
use crate::text::template;

/// File of the optimiser's state in its folder.
pub const OPTIMISER_FILE: &str = "optimiser.safetensors";

/// Files of a policy folder that are made anew with the weights.
const REWRITTEN: [&str; 3] = ["config.json", "model.safetensors.index.json", VALUE_HEAD];

/// A value head in a policy folder, and the names of its tensors.
const VALUE_HEAD: &str = "value_head.safetensors";
const HEAD_NAMES: [&str; 2] = ["value_head.weight", "value_head.bias"];

/// The file in an adapter's folder that says what it belongs to.
const BASE: &str = "base.json";

/// What an adapter belongs to, and how it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Base {
    /// Version of the policy whose weights it adapts.
    policy: u64,
    lora: LoraConfig,
}

/// Where stderr is no terminal, a line is printed at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The device and the kind of numbers that the configuration asks for. `Fault::Usage` where there is no such device.
pub fn device(config: &TrainConfig) -> Result<(Device, Kind)> {
    let device = match config.device.as_str() {
        "auto" => Device::cuda_if_available(),
        "cpu" => Device::Cpu,
        name => {
            let index =
                name.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "0" } else { rest }));
            let Some(index) = index.and_then(|index| index.parse::<usize>().ok()) else {
                return Err(Fault::Usage(format!("`train.device` is `{name}`; write auto, cpu, cuda or cuda:1")).into());
            };
            let there = Cuda::device_count();
            if index as i64 >= there {
                return Err(Fault::Usage(format!("`train.device` is `{name}`, but libtorch sees {there} GPUs")).into());
            }
            Device::Cuda(index)
        }
    };
    let kind = match config.compute {
        Compute::Auto if device.is_cuda() => Kind::BFloat16,
        Compute::Auto | Compute::F32 => Kind::Float,
        Compute::Bf16 => Kind::BFloat16,
        Compute::F64 => Kind::Double,
    };
    Ok((device, kind))
}

/// How the forest computes.
pub fn forest_options(config: &TrainConfig) -> Options<'static> {
    let checkpointing = match config.activation_checkpointing {
        ActivationCheckpointing::Auto => Checkpointing::Auto,
        ActivationCheckpointing::Always => Checkpointing::Always,
        ActivationCheckpointing::Never => Checkpointing::Never,
    };
    Options { checkpointing, activation_bytes: config.activation_mib.saturating_mul(1 << 20), ..Options::default() }
}

/// Fails before anything large is loaded where a step cannot fit this machine's free memory. Says nothing of a GPU, which refuses by itself.
///
/// * `tokens`: of all rows.
///
/// Returns the bytes that are left beside the least that a step needs, where that is known.
pub fn check_memory(policy: &Path, config: &TrainConfig, tokens: usize, device: Device, kind: Kind) -> Result<Option<u64>> {
    let Some(free_bytes) = memory::available_bytes().filter(|_| device == Device::Cpu) else { return Ok(None) };
    let plan = memory::Plan {
        kind,
        lora_rank: (config.lora.rank > 0).then_some(config.lora.rank),
        reference: config.loss.kl.coefficient != 0.0,
        tokens: config.micro_batch_tokens.min(tokens) as i64,
        logit_tokens: Options::default().logits_at_once as i64,
        // `auto` computes layers again where they would take much.
        checkpointing: config.activation_checkpointing != ActivationCheckpointing::Never,
    };
    Ok(Some(memory::check(&ModelConfig::load(policy)?, &plan, free_bytes)?))
}

/// The same tensors once more, under the same names.
pub fn shared(weights: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    weights.iter().map(|(name, weight)| (name.clone(), weight.shallow_clone())).collect()
}

/// The learning rate after warm-up.
pub fn learning_rate(config: &TrainConfig) -> f64 {
    config.learning_rate.unwrap_or(if config.lora.rank > 0 { 2e-5 } else { 1e-6 })
}

/// The policy that an adapter's weights come from.
pub struct AdapterBase {
    pub version: u64,
    pub folder: Fetched,
}

/// The policy whose weights the adapter of a policy folder belongs to, where this run is to go on with that adapter: one of the same rank, alpha
/// and targets. Else a new adapter is put on the policy itself.
pub async fn adapter_base(context: &Context, policy: &Path) -> Result<Option<AdapterBase>> {
    let config = &context.config.train;
    let path = policy.join(lora::FOLDER).join(BASE);
    if config.lora.rank == 0 || !path.exists() {
        return Ok(None);
    }
    let base: Base =
        serde_json::from_slice(&std::fs::read(&path)?).with_context(|| format!("`{}` cannot be read", path.display()))?;
    if base.lora != config.lora {
        return Ok(None);
    }
    let entry = context.lake.policy(Some(base.policy)).await?;
    Ok(Some(AdapterBase { version: base.policy, folder: context.lake.fetch_policy(&entry).await? }))
}

/// The model that is trained, with its adapter where one is wanted.
pub fn load(sources: &Sources, config: &TrainConfig, device: Device, kind: Kind) -> Result<Model> {
    if config.lora.rank == 0 {
        return Model::load(sources.policy, device, kind);
    }
    if let Some((_, base)) = sources.base {
        let mut model = Model::load(base, device, kind)?;
        model.load_adapter(&sources.policy.join(lora::FOLDER))?;
        return Ok(model);
    }
    let mut model = Model::load(sources.policy, device, kind)?;
    let LoraConfig { rank, alpha, targets } = &config.lora;
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    model.add_adapter(*rank, alpha.unwrap_or(2.0 * *rank as f64), &targets, config.seed)?;
    Ok(model)
}

/// The policy's value head, or a new one that estimates 0; none where no critic is trained.
pub fn value_head(policy: &Path, model: &Model, config: &TrainConfig) -> Result<Option<ValueHead>> {
    if !config.critic.enabled {
        return Ok(None);
    }
    load_value_head(policy, model).map(Some)
}

/// The value head of a policy folder, on the model's device; one that estimates 0 where there is none.
pub fn load_value_head(policy: &Path, model: &Model) -> Result<ValueHead> {
    let kind = if model.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let path = policy.join(VALUE_HEAD);
    let width = model.config.hidden_size;
    let mut stored = if path.exists() { safetensors::read_all(&path)? } else { Default::default() };
    let mut take = |name: &str, shape: &[i64]| -> Result<Tensor> {
        let found = stored.remove(name).unwrap_or_else(|| Tensor::zeros(shape, (kind, model.device())));
        let has = found.size();
        ensure!(has == shape, "`{name}` of `{}` has the shape {has:?}, not {shape:?}", path.display());
        Ok(found.to_device(model.device()).to_kind(kind))
    };
    Ok(ValueHead { weight_1d: take(HEAD_NAMES[0], &[1, width])?, bias_1: take(HEAD_NAMES[1], &[1])? })
}

/// The head's weights under the names that they are saved by.
pub fn head_weights(head: &ValueHead) -> Vec<(String, Tensor)> {
    let weights = [&head.weight_1d, &head.bias_1];
    HEAD_NAMES.iter().zip(weights).map(|(name, weight)| ((*name).to_owned(), weight.shallow_clone())).collect()
}

/// Log-probs and entropies of all sequences, without gradients, a micro-batch at a time.
pub fn score(model: &Model, sequences: &[Sequence], micro_batch_tokens: usize, options: &Options, stop: &Stop) -> Result<Scores> {
    let mut all = Scores {
        logp: vec![Vec::new(); sequences.len()],
        entropy: vec![Vec::new(); sequences.len()],
        value: vec![0.0; sequences.len()],
    };
    for micro_batch in forest::pack(sequences, micro_batch_tokens) {
        stop.check()?;
        let of_batch: Vec<Sequence> = micro_batch.rows.iter().map(|&row| sequences[row]).collect();
        let scores = forest::score(model, &of_batch, options)?;
        for ((&row, logp_t), entropy_t) in micro_batch.rows.iter().zip(scores.logp).zip(scores.entropy) {
            all.logp[row] = logp_t;
            all.entropy[row] = entropy_t;
        }
        for (&row, value) in micro_batch.rows.iter().zip(scores.value) {
            all.value[row] = value;
        }
    }
    Ok(all)
}

/// The reference policy, where divergence is measured.
pub async fn reference(context: &Context) -> Result<Option<Fetched>> {
    let config = &context.config.train;
    if config.loss.kl.coefficient == 0.0 {
        return Ok(None);
    }
    let version = match config.reference {
        Some(version) => Some(version),
        None if config.lora.rank > 0 => return Ok(None),
        None => context.lake.policies().await?.first().map(|policy| policy.version),
    };
    let policy = context.lake.policy(version).await?;
    context.lake.fetch_policy(&policy).await.map(Some)
}

/// The state of the optimiser that made the policy, where this run goes on with it: of a training with the same algorithm.
pub async fn optimiser_state(context: &Context, parent: &Manifest) -> Result<Option<Fetched>> {
    let config = &context.config.train;
    let same = parent.stage == "train" && parent.lineage.config["algorithm"] == serde_json::to_value(config.algorithm)?;
    match parent.states.get(OPTIMISER).filter(|_| same && config.keep_optimiser) {
        Some(state) => context.lake.fetch_folder(state).await.map(Some),
        None => {
            if same && config.keep_optimiser {
                let version = parent.policy_version().unwrap_or(0);
                let message =
                    format!("the optimiser begins anew: its state of policy {version} went, as `train.keep_states` says");
                context.progress.warning(message);
            }
            Ok(None)
        }
    }
}

/// The folder of the next policy: the new weights, an adapter merged into them and beside them, the value head, and every other file of the
/// policy that it was made from.
pub fn save(model: &Model, value_head: Option<&ValueHead>, sources: &Sources, config: &TrainConfig) -> Result<TempDir> {
    let parent = sources.policy;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    for entry in std::fs::read_dir(parent).with_context(|| format!("cannot list `{}`", parent.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_weights = name.to_str().is_some_and(|name| REWRITTEN.contains(&name) || is_weights_file(name));
        if entry.metadata()?.is_file() && !is_weights {
            std::fs::copy(entry.path(), folder.path().join(&name))
                .with_context(|| format!("cannot copy `{}`", entry.path().display()))?;
        }
    }
    for (name, path) in template::files(parent)?.into_iter().filter(|(name, _)| name != template::DEFAULT) {
        let to = folder.path().join(template::FOLDER);
        std::fs::create_dir_all(&to)?;
        std::fs::copy(&path, to.join(format!("{name}.jinja"))).with_context(|| format!("cannot copy `{}`", path.display()))?;
    }
    if model.adapter_parameters().is_empty() {
        model.save(folder.path())?;
    } else {
        model.merged().save(folder.path())?;
        let adapter = folder.path().join(lora::FOLDER);
        model.save_adapter(&adapter, None)?;
        let base = Base { policy: sources.base.map_or(sources.version, |(version, _)| version), lora: config.lora.clone() };
        std::fs::write(adapter.join(BASE), serde_json::to_vec_pretty(&base)?)?;
    }
    if let Some(head) = value_head {
        safetensors::write(&folder.path().join(VALUE_HEAD), &head_weights(head))?;
    }
    Ok(folder)
}

/// `model.safetensors`, and the shards of a larger model.
fn is_weights_file(name: &str) -> bool {
    name.starts_with("model") && name.ends_with(".safetensors")
}

/// What should be looked at though the run goes on.
pub fn warnings(batch: &Rows, rollouts: usize, config: &TrainConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    for (reason, count) in &batch.refused {
        warnings.push(format!("{count} transitions are not learnt from: {reason}"));
    }
    if config.minibatches > rollouts as u64 {
        warnings.push(format!(
            "{rollouts} rollouts make {rollouts} steps an epoch, not the {} of `train.minibatches`",
            config.minibatches
        ));
    }
    warnings
}

/// Tells the person who watches how far training is.
pub struct Reporter {
    progress: Progress,
    bar: Bar,
    started: Instant,
    total: usize,
    first: usize,
    last_line: Option<Instant>,
}

impl Reporter {
    /// * `total`, `done`: steps of the run, and those that an earlier run has done.
    pub fn new(progress: &Progress, total: usize, done: usize) -> Reporter {
        let bar = progress.bar("training", total as u64);
        bar.inc(done as u64);
        Reporter { progress: progress.clone(), bar, started: Instant::now(), total, first: done, last_line: None }
    }

    /// After each step: step, loss, reward, KL, tokens a second, time left.
    pub fn step(&mut self, metrics: &StepMetrics) {
        let done = metrics.step as usize + 1;
        let each = self.started.elapsed() / (done - self.first).max(1) as u32;
        let number =
            |name: &str, shown: &str| metrics.get(name).map(|number| format!(", {shown} {}", short(number))).unwrap_or_default();
        let line = format!(
            "step {done}/{}{}{}{}{}, {:.0} tokens/s, {:.0} s left{}",
            self.total,
            number("loss", "loss"),
            number("reward_mean", "reward"),
            number("approx_kl", "KL"),
            number("reference_kl", "KL to reference"),
            metrics.get("tokens_per_second").unwrap_or_default(),
            (each * (self.total.saturating_sub(done)) as u32).as_secs_f64(),
            if metrics.skipped { ", LEFT OUT: not finite" } else { "" },
        );
        self.bar.inc(1);
        self.bar.say(&line);
        let due = self.last_line.is_none_or(|last| last.elapsed() > LINE_EVERY) || done == self.total;
        if due && !self.progress.has_bars() {
            self.progress.message(line);
            self.last_line = Some(Instant::now());
        }
    }
}

/// Four digits that count.
fn short(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 { format!("{number:.2e}") } else { format!("{number:.4}") }
}
