//! `fulgurite report`: what a lake holds as one HTML page that needs nothing but itself.
//!
//! DataFusion reads narrow columns of every batch, and the whole of a few rollouts; polars counts; the drawings are SVG. The same lake gives the
//! same bytes: no clock, no random number, the lake's name only as far as its folder.

mod figures;
mod page;
mod query;
mod rollout;
mod sample;
mod statistics;
mod svg;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use datafusion::prelude::SessionContext;
use polars::prelude::DataFrame;

use crate::exit::Fault;
use crate::lake::{Lake, Manifest};
use crate::stage::{Stop, counted};
use figures::{short, with_margin};
use page::Page;
use rollout::Rollout;
use statistics::{Batch, Evaluation};

/// The page, and what is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub html: String,
    /// Rollouts, batches, evaluations, rollouts that are shown and so on.
    pub counts: BTreeMap<String, u64>,
}

/// What is counted, as frames.
struct Counted {
    rollouts: DataFrame,
    evals: DataFrame,
    air: DataFrame,
    credit: DataFrame,
    steps: DataFrame,
}

/// Makes the page.
///
/// * `session`: every table of the lake, or of one batch, with the column `batch` in front.
/// * `batch`: the one that the session is of, if it is of one.
/// * `each`: rollouts of a batch that are shown whole.
///
/// `Fault::Usage` where there is neither a rollout nor an evaluation.
pub async fn make(session: &SessionContext, lake: &Lake, batch: Option<&str>, each: usize, stop: &Stop) -> Result<Report> {
    let counted = Counted {
        rollouts: query::frame(session, include_str!("../pipelines/report/rollouts.sql")).await?,
        evals: query::frame(session, include_str!("../pipelines/report/evals.sql")).await?,
        air: query::frame(session, include_str!("../pipelines/report/air.sql")).await?,
        credit: query::frame(session, include_str!("../pipelines/report/credit.sql")).await?,
        steps: query::frame(session, include_str!("../pipelines/report/steps.sql")).await?,
    };
    stop.check()?;
    let mut manifests = lake.manifests().await?;
    if counted.rollouts.height() + counted.evals.height() == 0 {
        return Err(nothing(lake, batch, &manifests).into());
    }
    manifests.retain(|manifest| batch.is_none_or(|batch| manifest.batch == batch));
    let chosen = sample::choose(&counted.rollouts, each)?;
    query::register_chosen(session, &chosen)?;
    let batches = statistics::batches(&counted.rollouts)?;
    let evaluations = statistics::evaluations(&counted.evals)?;
    let histogram = statistics::histogram(&counted.credit)?;
    let shown = match chosen.is_empty() {
        true => Vec::new(),
        false => rollout::read(session, lake, histogram.scale).await?,
    };
    stop.check()?;
    let (credit_steps, credit) = figures::credit(&statistics::cells(&counted.credit)?, histogram.scale);
    let (trained, algorithms, metrics) = statistics::training(&counted.steps)?;
    let (training, training_table) = figures::training(&trained, &metrics);
    let seconds = seconds(lake, &manifests).await?;
    let rates = statistics::trained_tokens_per_second(&counted.steps)?;
    let page = Page {
        lake: name_of(lake),
        as_of: as_of(&manifests),
        lede: lede(&batches, &evaluations),
        tiles: tiles(&batches, &evaluations, shown.len()),
        rewards: figures::rewards(&batches, &evaluations),
        air: figures::air(&statistics::rules(&counted.air, &batches)?),
        failures: figures::failures(&batches),
        credit_steps,
        credit,
        advantages: figures::advantages(&histogram),
        drops: statistics::drops(&counted.credit)?,
        algorithms: format!("Metrics of the optimiser ({}), mean over the steps of each batch.", algorithms.join(", ")),
        training,
        training_table,
        throughput: figures::throughput(&batches, &seconds, &rates),
        sample_note: sample_note(&batches, &shown, each),
        tokens_note: tokens_note(&shown),
        batches: shown.iter().rev().map(|rollout| rollout.batch.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
        failure_classes: shown
            .iter()
            .map(|rollout| rollout.failure.clone())
            .filter(|class| !class.is_empty())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        rollouts: shown,
    };
    let html = page::render(&page, &nonce(&manifests))?;
    let count = |name: &str, count: usize| (name.to_owned(), count as u64);
    let counts = BTreeMap::from([
        count("batches", batches.len()),
        count("rollouts", counted.rollouts.height()),
        count("rollouts_shown", page.rollouts.len()),
        count("evaluations", evaluations.len()),
        count("bytes", html.len()),
    ]);
    Ok(Report { html, counts })
}

/// Why there is no report, and what would help.
fn nothing(lake: &Lake, batch: Option<&str>, manifests: &[Manifest]) -> Fault {
    let ingested = |manifest: &&Manifest| manifest.stage == "ingest" && batch.is_none_or(|batch| manifest.batch == batch);
    let place = batch.map_or_else(|| format!("`{}`", lake.location()), |batch| format!("batch `{batch}`"));
    if let Some(manifest) = manifests.iter().find(ingested) {
        return Fault::Usage(format!(
            "{place} has traces and no rollouts yet; `fulgurite build --batch {}` makes them",
            manifest.batch
        ));
    }
    let others: BTreeSet<&str> =
        manifests.iter().filter(|manifest| manifest.stage == "derive").map(|manifest| manifest.batch.as_str()).collect();
    if let (Some(_), false) = (batch, others.is_empty()) {
        let others: Vec<&str> = others.into_iter().take(5).collect();
        return Fault::Usage(format!("there is nothing of {place}; there are rollouts of {}", others.join(", ")));
    }
    Fault::Usage(format!(
        "there is nothing to report in {place} yet: `fulgurite ingest` and `fulgurite build` begin, or `fulgurite loop`"
    ))
}

/// The last part of the lake's place, which is the same wherever the lake is moved to with it.
fn name_of(lake: &Lake) -> String {
    let location = lake.location();
    let path = std::path::Path::new(location);
    let whole =
        if lake.directory().is_some() { path.canonicalize().unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
    whole.file_name().map_or_else(|| location.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// When the newest of the commits was made, to the minute.
fn as_of(manifests: &[Manifest]) -> String {
    let newest = manifests.iter().map(|manifest| manifest.committed_at.as_str()).max().unwrap_or_default();
    let time = newest.parse::<jiff::Timestamp>().ok();
    time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// What styles and script are allowed by. It follows from the random names of the lake's runs, which whoever wrote a trace cannot know.
fn nonce(manifests: &[Manifest]) -> String {
    let mut hasher = blake3::Hasher::new();
    for manifest in manifests {
        hasher.update(format!("{} {} {}\n", manifest.stage, manifest.batch, manifest.run_id).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Seconds of each stage by batch: from the beginning of the run that made what stands to its commit.
async fn seconds(lake: &Lake, manifests: &[Manifest]) -> Result<BTreeMap<String, BTreeMap<String, f64>>> {
    let mut found: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| manifest.stage != "policy") {
        let committed_at = match manifest.sealed {
            false => manifest.committed_at.clone(),
            true => before_seal(lake, manifest).await?,
        };
        let times = [&manifest.started_at, &committed_at].map(|text| text.parse::<jiff::Timestamp>());
        if let [Ok(from), Ok(to)] = times {
            let seconds = to.duration_since(from).as_secs_f64();
            found.entry(manifest.batch.clone()).or_default().insert(manifest.stage.clone(), seconds);
        }
    }
    Ok(found)
}

/// When the commit was made that a later one only sealed; nothing where it is gone.
async fn before_seal(lake: &Lake, sealed: &Manifest) -> Result<String> {
    let path = Manifest { version: sealed.version.saturating_sub(1), ..sealed.clone() }.path();
    let Ok(found) = object_store::ObjectStoreExt::get(&lake.store(), &path.into()).await else { return Ok(String::new()) };
    let before: Manifest = serde_json::from_slice(&found.bytes().await?).context("the manifest before a seal cannot be read")?;
    Ok(if before.fingerprint == sealed.fingerprint { before.committed_at } else { String::new() })
}

/// What happened, in sentences.
fn lede(batches: &[Batch], evaluations: &[Evaluation]) -> Vec<String> {
    let mut sentences = Vec::new();
    let rollouts: usize = batches.iter().map(|batch| batch.rollouts).sum();
    let calls: i64 = batches.iter().map(|batch| batch.calls).sum();
    let of = format!("{} of {}", counted(rollouts as u64, "rollouts"), counted(calls.cast_unsigned(), "LLM calls"));
    let scored: Vec<(&Batch, f64)> = batches.iter().filter_map(|batch| Some((batch, batch.reward?.mean))).collect();
    match scored.as_slice() {
        [] if rollouts > 0 => sentences.push(format!("{of}; no reward was stated.")),
        [] => {}
        [(_, mean)] => sentences.push(format!("{of}, with a mean reward of {mean:.3}.")),
        [(first, from), .., (last, to)] => sentences.push(format!(
            "{of} in {} batches. Their mean reward went from {from:.3} ({}) to {to:.3} ({}).",
            batches.len(),
            first.name,
            last.name
        )),
    }
    for (split, greedy) in evaluations.iter().map(|one| (&one.split, one.greedy)).collect::<BTreeSet<_>>() {
        let of: Vec<&Evaluation> = evaluations.iter().filter(|one| one.split == *split && one.greedy == greedy).collect();
        let how = if greedy { "greedy answers" } else { "drawn answers" };
        if let [first, .., last] = of.as_slice() {
            sentences.push(format!(
                "On the split {split}, {how} went from {:.3} (policy {}) to {:.3} (policy {}).",
                first.reward.mean, first.policy_version, last.reward.mean, last.policy_version
            ));
        }
    }
    sentences
}

/// The figures at the top: name, value, and what it is of.
fn tiles(batches: &[Batch], evaluations: &[Evaluation], shown: usize) -> Vec<(String, String, String)> {
    let mut tiles = Vec::new();
    let mut tile = |name: &str, value: String, of: String| tiles.push((name.to_owned(), value, of));
    if let Some((batch, reward)) = batches.iter().rev().find_map(|batch| Some((batch, batch.reward?))) {
        tile("Reward", format!("{:.3}", reward.mean), format!("{} in {}", with_margin(&reward), short(&batch.name)));
    }
    for greedy in [false, true] {
        if let Some(one) = evaluations.iter().filter(|one| one.greedy == greedy).max_by_key(|one| one.policy_version) {
            let how = if greedy { "greedy" } else { "drawn" };
            let of = format!("{how}, policy {}, {} tasks", one.policy_version, one.tasks);
            tile(&format!("Eval, {}", one.split), format!("{:.3}", one.reward.mean), of);
        }
    }
    let rollouts: usize = batches.iter().map(|batch| batch.rollouts).sum();
    let total = |of: fn(&Batch) -> i64| batches.iter().map(of).sum::<i64>();
    if rollouts > 0 {
        tile("Rollouts", grouped(rollouts as i64), format!("{}, {shown} shown", of_batches(batches.len())));
        let calls = total(|batch| batch.calls);
        tile("LLM calls", grouped(calls), format!("{:.1} each", calls as f64 / rollouts as f64));
        let (tools, errors) = (total(|batch| batch.tool_calls), total(|batch| batch.tool_errors));
        tile("Tool calls", grouped(tools), format!("{:.1} % failed", 100.0 * errors as f64 / tools.max(1) as f64));
        let tokens = total(|batch| batch.output_tokens);
        tile("Tokens", grouped(tokens), "written by the policy".to_owned());
    }
    tiles
}

/// `counted` takes an s away, which is too little here.
fn of_batches(count: usize) -> String {
    if count == 1 { "1 batch".to_owned() } else { format!("{count} batches") }
}

/// A whole number with thin spaces between thousands.
fn grouped(value: i64) -> String {
    let digits = value.abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    if value < 0 { format!("−{out}") } else { out }
}

/// Which rollouts are shown, and what is left out.
fn sample_note(batches: &[Batch], shown: &[Rollout], each: usize) -> String {
    let rollouts: usize = batches.iter().map(|batch| batch.rollouts).sum();
    if rollouts == shown.len() {
        return format!("All {}.", counted(rollouts as u64, "rollouts"));
    }
    let of: BTreeSet<&str> = shown.iter().map(|rollout| rollout.batch.as_str()).collect();
    format!(
        "{} of {rollouts}: up to {each} of a batch, from {} of {}, and the others left out. They are as different from each other as can be \
         (by failure, reward and tool errors), so rare kinds are shown more often than they happen.",
        shown.len(),
        of.len(),
        of_batches(batches.len())
    )
}

/// By what the tokens of responses are coloured; empty where there are none.
fn tokens_note(shown: &[Rollout]) -> String {
    let by: BTreeSet<&str> =
        shown.iter().flat_map(|rollout| &rollout.steps).filter_map(|step| Some(step.tokens.as_ref()?.by)).collect();
    let trained = "by the change of their log-prob from the policy that was trained to the one that came out (train_tokens)";
    let sampled = "by the log-prob that the sampler recorded, violet the unlikelier (training wrote no train_tokens: set train.tokens = true)";
    let text = match (by.contains("change"), by.contains("logprob")) {
        (false, false) => return String::new(),
        (true, false) => format!("Tokens are coloured {trained}."),
        (false, true) => format!("Tokens are coloured {sampled}."),
        (true, true) => format!("Tokens are coloured {trained}; where there is none, {sampled}."),
    };
    format!("{text} A call's advantage is that of all of its tokens. Point at a token, or use the arrow keys, for its numbers.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_their_thousands_apart() {
        let shown = [0, 999, 1000, 1_234_567, -1000].map(grouped);
        assert_eq!(shown, ["0", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567", "−1\u{2009}000"]);
    }
}
