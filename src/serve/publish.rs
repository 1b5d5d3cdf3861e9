//! A new version of the policy for another server: vLLM loads adapters under a name of their own, SGLang reads weights from the disk.
//!
//! Both read a folder of *their* file system. Each version gets a new name with vLLM, so that no rollout mixes two; SGLang drops what its
//! prefix cache holds of the old weights.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::config::{Dialect, ServeConfig, Update};
use super::upstream;
use crate::exit::Fault;
use crate::model::lora;

/// What a version is called where it is asked for by name.
pub fn name(version: u64) -> String {
    format!("policy-{version:04}")
}

/// Gives the server that `serve.upstream` names a version of the policy, if `serve.upstream_update` says so. Returns the settings to serve
/// with, which ask for that version.
///
/// * `folder`: the policy as the server sees it. Of one that was trained as an adapter vLLM gets that; one without is what the server was
///   started with, and is asked for as `serve.upstream_model`.
///
/// # Errors
/// `Fault::Usage` where the server's kind cannot be updated, `Fault::TryAgain` where it does not answer, and others where it refuses.
pub async fn publish(config: &ServeConfig, version: u64, folder: &Path) -> Result<ServeConfig> {
    let folder = std::path::absolute(folder).with_context(|| format!("cannot say where `{}` lies", folder.display()))?;
    let text =
        |path: &Path| path.to_str().map(str::to_owned).with_context(|| format!("the path `{}` is no text", path.display()));
    let (endpoint, body, model) = match (config.upstream_update, config.dialect) {
        (Update::None, _) => return Ok(config.clone()),
        (Update::Adapter, Dialect::Vllm) => {
            let adapter = folder.join(lora::FOLDER);
            if !adapter.join(lora::CONFIG).is_file() {
                return Ok(config.clone());
            }
            let name = name(version);
            (
                format!("{}/load_lora_adapter", config.upstream.trim_end_matches('/')),
                json!({ "lora_name": name, "lora_path": text(&adapter)? }),
                Some(name),
            )
        }
        (Update::Weights, Dialect::Sglang) => {
            let body = json!({ "model_path": text(&folder)?, "weight_version": version.to_string(), "flush_cache": true });
            (format!("{}/update_weights_from_disk", root(&config.upstream)), body, None)
        }
        (Update::Adapter | Update::Weights, _) => {
            let message = "`serve.upstream_update` is for `adapter` with the dialect `vllm` and `weights` with `sglang`; start other servers anew with each policy";
            return Err(Fault::Usage(message.to_owned()).into());
        }
    };
    let mut request = upstream::client()?.post(&endpoint).json(&body);
    if let Some(key) = upstream::key(config)? {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.with_context(|| Fault::TryAgain(format!("`{endpoint}` does not answer")))?;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    // SGLang answers 200 also where it could not; vLLM refuses a name that it has, which is what was wanted.
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let known = text.contains("already been loaded") || text.contains("already loaded");
    if (!status.is_success() && !known) || answer["success"] == json!(false) {
        return Err(Fault::Failed(format!("`{endpoint}` refuses policy {version} ({status}): {}", text.trim())).into());
    }
    let upstream_model = model.unwrap_or_else(|| config.upstream_model.clone());
    Ok(ServeConfig { upstream_model, ..config.clone() })
}

/// The server without the `/v1` of OpenAI's API.
fn root(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url)
}
