//! The policy of a batch of rollouts behind a server on this machine, or another server that the settings name.

use anyhow::{Context as _, Result};
use tch::{Device, Kind};

use super::urls::Urls;
use crate::exit::Fault;
use crate::generate::Engine;
use crate::lake::Manifest;
use crate::model::Model;
use crate::serve::{Options, Policy, Server, Sessions, Update, publish};
use crate::stage::Context;
use crate::text::Text;

/// A server that answers the agents of one run.
pub struct Served {
    server: Server,
    key: String,
    model: String,
    /// Version of the policy that answers.
    pub version: u64,
    /// Keeps a policy that was downloaded on the disk.
    _policy: crate::lake::Fetched,
}

impl Served {
    /// Loads the policy that a manifest holds, and serves it on a free port; where another server answers, it is given that policy
    /// first (`serve.upstream_update`).
    pub async fn start(context: &Context, manifest: &Manifest) -> Result<Served> {
        let config = &context.config;
        let policy = manifest.policy.as_ref().context("the manifest holds no policy")?;
        let version = i64::try_from(policy.version).ok();
        let fetched = context.lake.fetch_policy(policy).await?;
        let mut settings = config.serve.clone();
        let answering = if settings.upstream.is_empty() {
            let (folder, generate) = (fetched.path().to_path_buf(), config.generate.clone());
            generate.check()?;
            let threads = config.threads();
            // Reading weights is work, not waiting.
            tokio::task::spawn_blocking(move || {
                tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
                let device = Device::cuda_if_available();
                let kind = if device.is_cuda() { Kind::BFloat16 } else { Kind::Float };
                let model = Model::load(&folder, device, kind)?;
                let text = Text::load(&folder)?;
                anyhow::Ok(Policy::Local { engine: Engine::start(model, generate)?, text, version })
            })
            .await
            .context("loading the policy panicked")??
        } else {
            if settings.upstream_update == Update::Adapter && config.train.lora.rank == 0 {
                let message = "`serve.upstream_update = \"adapter\"` gives adapters, and none is trained; set `train.lora.rank`";
                return Err(Fault::Usage(message.to_owned()).into());
            }
            settings = publish(&settings, policy.version, fetched.path()).await?;
            Policy::Upstream { version }
        };
        let key = format!("fulgurite-{}", uuid::Uuid::new_v4().simple());
        let options = Options { key: Some(key.clone()), ..Options::default() };
        let server = Server::start(&settings, options, answering).await?;
        Ok(Served { server, key, model: config.serve.model.clone(), version: policy.version, _policy: fetched })
    }

    pub fn sessions(&self) -> &Sessions {
        self.server.sessions()
    }

    /// Addresses of an attempt at a rollout.
    pub fn urls(&self, rollout_id: &str, attempt: u32) -> Urls {
        Urls::new(&format!("http://{}", self.server.address()), &self.key, &self.model, rollout_id, attempt)
    }

    /// Ends the server and the engine. Returns the seconds that it spent in passes through the model.
    pub async fn stop(self) -> Result<f64> {
        let seconds = self.server.model_seconds();
        self.server.stop().await?;
        Ok(seconds)
    }
}
