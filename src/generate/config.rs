//! Settings of the inference engine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::Fault;

/// The inference engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Memory of the KV cache, in MiB; allocated at the start and never more. Requests wait where it is full.
    pub kv_mib: u64,
    /// Tokens of a block, the unit in which the cache is lent and shared: a power of two from 1 to 1024. Prefixes are found again in
    /// whole blocks; what is alike at the beginning of the next is copied from a request that is being worked on.
    pub block_tokens: usize,
    /// Requests that are worked on at once; more wait.
    pub max_batch: usize,
    /// Prompt tokens that one step takes in beside the running requests' next tokens. More means sooner first tokens and longer waits
    /// between the others'.
    pub prefill_chunk: usize,
    /// Requests that may wait; what comes beyond is refused. 0 for no limit.
    pub queue_limit: usize,
    /// Longest prompt and response together, in tokens; 0 for what the model was made for.
    pub max_context: usize,
    /// Keep what was computed for one request for others that begin alike.
    pub prefix_reuse: bool,
    /// Same bytes for a request whatever else runs, and whether its prefix was in the cache: every product of matrices gets one fixed
    /// shape, which is slower. Without it log-probs agree to about 1e-4.
    pub deterministic: bool,
}

impl Default for GenerateConfig {
    fn default() -> GenerateConfig {
        GenerateConfig {
            kv_mib: 1024,
            block_tokens: 16,
            max_batch: 32,
            prefill_chunk: 256,
            queue_limit: 0,
            max_context: 0,
            prefix_reuse: true,
            deterministic: false,
        }
    }
}

impl GenerateConfig {
    /// `Fault::Usage` names a setting that cannot be.
    pub fn check(&self) -> Result<(), Fault> {
        let at_least_one =
            [("kv_mib", self.kv_mib), ("max_batch", self.max_batch as u64), ("prefill_chunk", self.prefill_chunk as u64)];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Fault::Usage(format!("`generate.{name}` is 0; it has to be at least 1")));
        }
        if !self.block_tokens.is_power_of_two() || self.block_tokens > 1024 {
            return Err(Fault::Usage(format!(
                "`generate.block_tokens` is {}; it has to be a power of two from 1 to 1024",
                self.block_tokens
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let message = |config: GenerateConfig| config.check().expect_err("must be refused").to_string();
        assert!(message(GenerateConfig { max_batch: 0, ..Default::default() }).contains("`generate.max_batch` is 0"));
        assert!(message(GenerateConfig { block_tokens: 24, ..Default::default() }).contains("power of two"));
        assert_eq!(GenerateConfig::default().check().map_err(|fault| fault.to_string()), Ok(()));
    }
}
