//! Requests answered by the engine, timed: `benches/generate.py` runs it beside transformers and llama.cpp.
//!
//! `cargo bench --bench generate -- MODEL REQUESTS.json THREADS SETTINGS REPEATS` prints one line of JSON. MODEL is a Hugging Face
//! directory; REQUESTS.json has `[[prompt ids, tokens to generate], ...]`, all handed over at once; SETTINGS is a `[generate]` table as JSON.
//! The cache is empty at the start of every repeat.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use fulgurite::generate::{Engine, GenerateConfig, Key, Request, Sampling, complete};
use fulgurite::model::Model;
use tch::{Device, Kind};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [model, requests, threads, settings, repeats] = arguments.as_slice() else {
        println!("skipped: benches/generate.py runs this with MODEL REQUESTS.json THREADS SETTINGS REPEATS");
        return Ok(());
    };
    tch::set_num_threads(threads.parse()?);
    let requests: Vec<(Vec<u32>, usize)> = serde_json::from_str(&std::fs::read_to_string(requests).context("REQUESTS.json")?)?;
    let config: GenerateConfig = serde_json::from_str(settings).context("SETTINGS")?;
    let requests: Vec<Request> = requests
        .into_iter()
        .enumerate()
        .map(|(sample, (prompt, max_tokens))| Request {
            prompt,
            sampling: Sampling { max_tokens, ..Sampling::default() },
            key: Key { sample: sample as u64, ..Key::default() },
        })
        .collect();
    let (mut seconds, mut cpu_seconds, mut steps, mut model_seconds, mut other_seconds, mut tokens) =
        (vec![], vec![], 0, 0.0, 0.0, 0);
    for _ in 0..repeats.parse()? {
        let engine = Engine::start(Model::load(Path::new(model), Device::Cpu, Kind::Float)?, config.clone())?;
        let warm =
            Request { prompt: vec![1; 20], sampling: Sampling { max_tokens: 3, ..Sampling::default() }, key: Key::default() };
        complete(&engine, vec![warm])?;
        let before = engine.stats();
        let (started, cpu_started) = (Instant::now(), cpu_now()?);
        tokens = complete(&engine, requests.clone())?.iter().map(|completion| completion.ids.len()).sum();
        seconds.push(started.elapsed().as_secs_f64());
        cpu_seconds.push(cpu_now()? - cpu_started);
        let after = engine.stats();
        steps = after.steps - before.steps;
        (model_seconds, other_seconds) = (after.model_seconds - before.model_seconds, after.other_seconds - before.other_seconds);
    }
    let report = serde_json::json!({
        "seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens, "steps": steps, "model_seconds": model_seconds, "other_seconds": other_seconds,
    });
    println!("{report}");
    Ok(())
}

/// Seconds of CPU that this process has taken, on all threads; Linux counts them in hundredths.
fn cpu_now() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, the name, is in parentheses; user and system time are the fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
