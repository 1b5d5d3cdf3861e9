//! The DataFusion session that every SQL stage and `fulgurite sql` run in, and the lake's tables in it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::SortExpr;
use datafusion::logical_expr::expr::Sort;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::Config;
use crate::lake::{DataFile, Lake};
use crate::schema::Table;

/// Address of the lake's object store inside a session.
const LAKE_URL: &str = "fulgurite://lake/";

/// How SQL runs. Nothing here changes a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Memory of sorts, joins and aggregations in MiB; beyond it they spill to disk. 0 sets no limit.
    pub memory_mib: u64,
    /// Rows that the operators hand to each other at a time.
    pub batch_rows: usize,
    /// Rows of a stage's largest input that it works on at a time, in whole rollouts and on as many such ranges at once as there are
    /// threads; 0 takes everything at once.
    pub range_rows: u64,
    /// Folder that is spilled to; the system's temporary directory where nothing is said.
    pub spill: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig { memory_mib: 2048, batch_rows: 8192, range_rows: 500_000, spill: None }
    }
}

/// Below so many stored bytes, dividing the work among threads costs more than it saves.
const SMALL_BYTES: u64 = 1 << 20;

/// A session with the lake's store and the `json_get_*` functions, without tables.
///
/// Text stays `Utf8` as the schemas say, never a view; statements are read as the schemas are, in lower case.
pub fn session(config: &Config, lake: &Lake) -> Result<SessionContext> {
    divided(config, lake, config.threads())
}

/// As [`session`], for statements over about `stored_bytes` of tables: few of them are not divided among threads.
pub(super) fn sized(config: &Config, lake: &Lake, stored_bytes: u64) -> Result<SessionContext> {
    divided(config, lake, if stored_bytes < SMALL_BYTES { 1 } else { config.threads() })
}

fn divided(config: &Config, lake: &Lake, partitions: usize) -> Result<SessionContext> {
    let mut options = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(config.engine.batch_rows)
        .with_information_schema(true)
        .with_collect_statistics(true);
    let settings = options.options_mut();
    settings.execution.parquet.schema_force_view_types = false;
    settings.sql_parser.map_string_types_to_utf8view = false;
    // The tables are sorted as the windows need them: keeping that order through an exchange is cheaper than sorting again.
    settings.optimizer.prefer_existing_sort = true;
    // A join with a narrow side of up to these sizes keeps the wide side where it is and in its order.
    settings.optimizer.hash_join_single_partition_threshold = 128 << 20;
    settings.optimizer.hash_join_single_partition_threshold_rows = 4_000_000;

    let mut runtime = RuntimeEnvBuilder::new();
    if config.engine.memory_mib > 0 {
        let bytes = usize::try_from(config.engine.memory_mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX);
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    if let Some(folder) = &config.engine.spill {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the spill folder `{}`", folder.display()))?;
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![folder.clone()]));
        runtime = runtime.with_disk_manager_builder(disk);
    }
    let mut session = SessionContext::new_with_config_rt(options, runtime.build_arc()?);
    datafusion_functions_json::register_all(&mut session)?;
    session.register_object_store(&Url::parse(LAKE_URL)?, lake.committed());
    Ok(session)
}

/// A table over exactly these files of the lake, sorted as its schema says.
pub fn lake_table(table: &Table, files: &[DataFile]) -> Result<Arc<dyn TableProvider>> {
    if files.is_empty() {
        return Ok(Arc::new(EmptyTable::new(Arc::clone(&table.arrow))));
    }
    let urls = files.iter().map(|file| ListingTableUrl::parse(format!("{LAKE_URL}{}", file.path))).collect::<Result<_, _>>()?;
    listing(table.arrow.clone(), urls, &table.doc.sorted_by)
}

/// A table over Parquet files.
pub(super) fn listing(schema: SchemaRef, urls: Vec<ListingTableUrl>, sorted_by: &[String]) -> Result<Arc<dyn TableProvider>> {
    let order: Vec<SortExpr> = sorted_by.iter().map(|column| Sort::new(ident(column), true, false)).collect();
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_sort_order(if order.is_empty() {
        vec![]
    } else {
        vec![order]
    });
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}
