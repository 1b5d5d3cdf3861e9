//! `fulgurite policy generate`: what a policy says to a prompt, printed as it comes.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde_json::json;
use tch::{Device, Kind};

use crate::config::Config;
use crate::exit::Fault;
use crate::generate::{Engine, Event, Finish, GenerateConfig, Key, Request, Sampling};
use crate::lake::Lake;
use crate::model::Model;
use crate::stage::Stop;
use crate::text::Text;

/// What is asked, and how the answer is drawn.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArgs {
    /// Version of the policy [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// What a user says
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// What the system message says
    #[arg(long, value_name = "TEXT", conflicts_with = "complete")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    pub complete: bool,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f64,
    /// Nucleus mass
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Seed of what is drawn: the same one gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Prints the answer on stdout; with `json` one line with its ids and log-probabilities besides.
pub async fn run(lake: &Lake, config: &Config, stop: &Stop, args: GenerateArgs, json: bool) -> Result<()> {
    let policy = lake.policy(args.version).await?;
    let fetched = lake.fetch_policy(&policy).await?;
    let text = Text::load(fetched.path())?;
    let prompt = if args.complete { args.prompt.clone() } else { chat(&text, &args)? };
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        max_tokens: args.max_tokens,
        stop_ids: text.end_ids().to_vec(),
        ..Sampling::default()
    };
    let key = Key { seed: args.seed, ..Key::default() };
    let request = Request { prompt: text.encode(&prompt), sampling, key };
    tch::set_num_threads(i32::try_from(config.threads()).unwrap_or(i32::MAX));
    let device = Device::cuda_if_available();
    let kind = if device == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
    let model =
        Model::load(fetched.path(), device, kind).with_context(|| format!("policy {} cannot be loaded", policy.version))?;
    // One request needs one place.
    let engine = Engine::start(model, GenerateConfig { max_batch: 1, ..config.generate.clone() })?;
    let mut events = engine.submit(request).map_err(|refusal| Fault::Usage(refusal.to_string()))?;

    let mut stream = text.stream_decoder();
    let (mut ids, mut logprobs, mut answer) = (Vec::new(), Vec::new(), String::new());
    let mut finish = Finish::Cancelled;
    while let Some(event) = events.recv().await {
        stop.check()?;
        match event {
            Event::Started { .. } => {}
            Event::Token { id, behaviour_logprob, .. } => {
                ids.push(id);
                logprobs.push(behaviour_logprob);
                if text.end_ids().contains(&id) {
                    continue;
                }
                let piece = stream.push(id);
                print(&piece, json)?;
                answer.push_str(&piece);
            }
            Event::Finished(how) => finish = how,
            Event::Failed(message) => return Err(Fault::Failed(message).into()),
        }
    }
    let rest = stream.finish();
    answer.push_str(&rest);
    if !json {
        return print(&format!("{rest}\n"), false);
    }
    let line = json!({
        "policy_version": policy.version,
        "prompt": prompt,
        "text": answer,
        "token_ids": ids,
        "behaviour_logprobs": logprobs,
        "finish_reason": if finish == Finish::Stop { "stop" } else { "length" },
    });
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn chat(text: &Text, args: &GenerateArgs) -> Result<String> {
    if text.template().is_none() {
        let message = "the policy has no chat template; `--complete` continues the prompt as it is";
        return Err(Fault::Usage(message.to_owned()).into());
    }
    let system = args.system.iter().map(|told| json!({ "role": "system", "content": told }));
    let messages: Vec<_> = system.chain([json!({ "role": "user", "content": args.prompt })]).collect();
    text.render(&messages, &[], true)
}

fn print(text: &str, json: bool) -> Result<()> {
    if json {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
