//! `fulgurite serve`: a policy of the lake, or another server, behind OpenAI's APIs, until Ctrl-C.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use tch::{Device, Kind};

use crate::config::Config;
use crate::exit::Fault;
use crate::generate::Engine;
use crate::lake::Lake;
use crate::model::Model;
use crate::progress::Progress;
use crate::serve::{Options, Outcome, Policy, Server, Update, publish};
use crate::stage::Stop;
use crate::text::Text;

/// How often a wish to end is looked for.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Version of the policy; the newest where none is named
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8321)]
    pub port: u16,
    /// What clients have to send as their API key; else what FULGURITE_KEY holds, else a new one for every run
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// Serves until the user wants it to end. With a batch, rollouts that agents name in their base URL are recorded under its traces.
pub async fn run(
    lake: Option<&Lake>,
    batch: Option<&str>,
    config: &Config,
    progress: &Progress,
    stop: &Stop,
    args: ServeArgs,
) -> Result<()> {
    let recorded = match (batch, lake) {
        (Some(batch), Some(lake)) => Some((lake, batch)),
        (Some(_), None) => return Err(Fault::Usage("`--batch` records into a lake; name it with `--lake URL`".to_owned()).into()),
        (None, _) => None,
    };
    let mut settings = config.serve.clone();
    let version = args.version.and_then(|version| i64::try_from(version).ok());
    let policy = match (config.serve.upstream.is_empty(), lake) {
        (false, lake) => {
            if let (Some(lake), true) = (lake, config.serve.upstream_update != Update::None) {
                let entry = lake.policy(args.version).await?;
                let folder = lake.fetch_policy(&entry).await?;
                settings = publish(&settings, entry.version, folder.path()).await?;
            }
            Policy::Upstream { version }
        }
        (true, Some(lake)) => local(lake, args.version, config).await?,
        (true, None) => {
            let message = "which policy? name the lake with `--lake URL`, or another server with `--set serve.upstream=URL`";
            return Err(Fault::Usage(message.to_owned()).into());
        }
    };
    let key = args.key.or_else(|| std::env::var("FULGURITE_KEY").ok()).filter(|key| !key.is_empty());
    let key = key.unwrap_or_else(|| format!("fg-{}", uuid::Uuid::new_v4().simple()));
    let options = Options { port: args.port, key: Some(key.clone()), open: recorded.is_some() };
    let server = Server::start(&settings, options, policy).await?;
    progress.message(told(&server, &key, &config.serve.model, recorded.map(|(_, batch)| batch)));
    while stop.check().is_ok() {
        tokio::time::sleep(LOOK).await;
    }
    progress.message("stopping");
    if let Some((lake, batch)) = recorded {
        for session in server.sessions().all() {
            let path = server.sessions().finish(&session, &Outcome::default(), lake, batch).await?;
            progress.message(format!("recorded {path}"));
        }
    }
    server.stop().await
}

/// A policy of the lake on its own engine.
pub async fn local(lake: &Lake, version: Option<u64>, config: &Config) -> Result<Policy> {
    let entry = lake.policy(version).await?;
    let folder = lake.fetch_policy(&entry).await?;
    let text = Text::load(folder.path())?;
    tch::set_num_threads(i32::try_from(config.threads()).unwrap_or(1));
    let model = Model::load(folder.path(), Device::cuda_if_available(), Kind::Float)
        .with_context(|| format!("policy {} cannot be loaded", entry.version))?;
    let engine = Engine::start(model, config.generate.clone())?;
    Ok(Policy::Local { engine, text, version: i64::try_from(entry.version).ok() })
}

/// How to call the server.
fn told(server: &Server, key: &str, model: &str, batch: Option<&str>) -> String {
    let address = server.address();
    let mut text = format!(
        "serving on http://{address}\n  export OPENAI_BASE_URL=http://{address}/v1 OPENAI_API_KEY={key}\n  curl http://{address}/v1/chat/completions -H \
         'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \
         \"content\": \"Hello\"}}]}}'"
    );
    if let Some(batch) = batch {
        text.push_str(&format!(
            "\n  calls under http://{address}/rollout/<id>/attempt/0/v1 are recorded and written under traces/batch={batch} at the end"
        ));
    }
    text.push_str("\nCtrl-C ends it");
    text
}
