//! Stages made of SQL files: what a stage reads, which files run in which order, and how their rows become tables of the lake.
//!
//! ```text
//! manifests ─► fresh? ─► session ─► files in the order of reads and writes ─► rows: sorted, checked, written ─► audits ─► commit
//! ```
//!
//! A file writes a table of its stage (from `schemas/`) or a relation that other files read; several files that write the same one are
//! put under each other. A relation read once is a view, so that DataFusion optimises it together with its reader; one read more often
//! is computed once, into memory where it is small, else into temporary files. A table that is written is read back by the files after
//! it, never computed again. A large batch is worked on by ranges of rollouts.

mod builtin;
mod choice;
mod grain;
mod plans;
mod ranges;
mod relation;
mod session;
mod small;
mod sql_file;
mod stage;
mod statement;
mod write;

pub use session::{EngineConfig, lake_table, session};
pub use sql_file::{Header, Param, SqlFile, SqlFiles};
pub use stage::{SqlStage, StageInput, audits_of, current_lineage, freshness, run};

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Where a pipeline's own SQL files are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineConfig {
    /// Folder with the folders derive, air, credit and audits, whose SQL files replace or add to the built-in ones; relative to the
    /// pipeline file. The pipeline file's own folder where nothing is said.
    pub sql: Option<PathBuf>,
}

/// The SQL files in force: built in, and the pipeline's own.
pub fn sql_files(config: &Config) -> anyhow::Result<SqlFiles> {
    let folder = config.folder.as_deref();
    match &config.pipeline.sql {
        Some(sql) => {
            let path = folder.unwrap_or(Path::new("")).join(sql);
            if !path.is_dir() {
                let message = format!("`pipeline.sql` is `{}`, which is no folder", path.display());
                return Err(crate::exit::Fault::Usage(message).into());
            }
            SqlFiles::load(Some(&path))
        }
        None => SqlFiles::load(folder),
    }
}
