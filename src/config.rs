//! The pipeline file: one struct a stage, one TOML file, `--set stage.key=value` to override.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that a pipeline file can say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}
