//! One update step's forward and backward by the forest, timed: `benches/train.py` runs it beside PyTorch.
//!
//! `cargo bench --bench train -- MODEL ROWS.json THREADS CHECKPOINTING LOGITS_AT_ONCE BUDGET_TOKENS REPEATS` prints one line of JSON. MODEL is a Hugging Face
//! directory; ROWS.json has `[[prompt ids, response ids], ...]`; CHECKPOINTING is `never`, `always` or the MiB that activations may take.

use std::path::Path;

use anyhow::{Context, Result};
use fulgurite::model::Model;
use fulgurite::train::forest::{Checkpointing, Gradients, Options, Scores, Sequence, accumulate, pack};
use fulgurite::train::heap;
use tch::{Device, Kind};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [model, rows, threads, checkpointing, logits_at_once, budget, repeats] = arguments.as_slice() else {
        println!(
            "skipped: benches/train.py runs this with MODEL ROWS.json THREADS CHECKPOINTING LOGITS_AT_ONCE BUDGET_TOKENS REPEATS"
        );
        return Ok(());
    };
    heap::keep_freed();
    tch::set_num_threads(threads.parse()?);
    let checkpointing = match checkpointing.as_str() {
        "never" => Checkpointing::Never,
        "always" => Checkpointing::Always,
        _ => Checkpointing::Auto,
    };
    let activation_bytes = arguments[3].parse::<u64>().map_or(0, |mebibytes| mebibytes << 20);
    let options = Options { checkpointing, activation_bytes, logits_at_once: logits_at_once.parse()?, ..Options::default() };
    let rows: Vec<(Vec<u32>, Vec<u32>)> = serde_json::from_str(&std::fs::read_to_string(rows).context("ROWS.json")?)?;
    let sequences: Vec<Sequence> =
        rows.iter().map(|(prompt, response)| Sequence { prompt, response, temperature: 1.0 }).collect();
    let model = Model::load(Path::new(model), Device::Cpu, Kind::Float)?;
    for (_, mut parameter) in model.parameters() {
        let _ = parameter.requires_grad_(true);
    }
    let idle_mib = status_mib("VmRSS:")?;

    let batches = pack(&sequences, budget.parse()?);
    let (mut seconds, mut row_tokens, mut trie_tokens, mut loss) = (vec![], 0, 0, 0.0);
    for _ in 0..repeats.parse()? {
        (row_tokens, trie_tokens, loss) = (0, 0, 0.0);
        for (_, parameter) in model.parameters() {
            let mut grad = parameter.grad();
            if grad.defined() {
                let _ = grad.zero_();
            }
        }
        let started = cpu_seconds()?;
        for batch in &batches {
            let some: Vec<Sequence> = batch.rows.iter().map(|&row| sequences[row]).collect();
            let work = accumulate(&model, &some, &options, &mut |scores| {
                let (value, gradients) = reinforce(scores, sequences.len());
                loss += value;
                gradients
            })?;
            row_tokens += work.row_tokens;
            trie_tokens += work.trie_tokens;
        }
        seconds.push(cpu_seconds()? - started);
    }
    let gradient: f64 =
        model.parameters().iter().map(|(_, parameter)| parameter.grad().square().sum(Kind::Double).double_value(&[])).sum();
    let report = serde_json::json!({
        "seconds": seconds, "row_tokens": row_tokens, "trie_tokens": trie_tokens, "micro_batches": batches.len(),
        "loss": loss, "gradient_norm": gradient.sqrt(), "idle_mib": idle_mib, "peak_mib": status_mib("VmHWM:")?,
    });
    println!("{report}");
    Ok(())
}

/// The mean over rows of the mean of `-logp`, with every other row's sign turned, as advantages do.
fn reinforce(scores: &Scores, rows: usize) -> (f64, Gradients) {
    let weight = |row: usize, tokens: usize| (if row.is_multiple_of(2) { -1.0 } else { 1.0 }) / (tokens * rows) as f64;
    let logp: Vec<Vec<f64>> =
        scores.logp.iter().enumerate().map(|(row, tokens)| vec![weight(row, tokens.len()); tokens.len()]).collect();
    let value = scores.logp.iter().flatten().zip(logp.iter().flatten()).map(|(logp, weight)| logp * weight).sum();
    (value, Gradients { logp, entropy: None, value: None })
}

/// Processor time of all threads so far, to a hundredth of a second.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in parentheses, which may hold anything.
    let fields = stat.rsplit_once(") ").context("a kernel with another /proc")?.1;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// A line of `/proc/self/status` that is in kB, in MiB.
fn status_mib(key: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("a kernel without that line")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
