//! The DataFusion session that every SQL stage and `fulgurite sql` run in, and the lake's tables in it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::file_format::FileFormat;
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

use super::small;
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
    /// Rows of all its inputs up to which a stage works in one thread and leaves out optimisations that take longer than so few rows do, if
    /// they are stored in at most 1 MiB. 0 treats every input as a large one.
    pub small_rows: u64,
    /// Folder that is spilled to; the system's temporary directory where nothing is said.
    pub spill: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig { memory_mib: 2048, batch_rows: 8192, range_rows: 1_000_000, small_rows: 20_000, spill: None }
    }
}

/// Most bytes of tables, as they are stored, that are few.
const SMALL_BYTES: u64 = 1 << 20;

/// A session with the lake's store and the `json_get_*` functions, without tables.
///
/// Text stays `Utf8` as the schemas say, never a view; statements are read as the schemas are, in lower case.
pub fn session(config: &Config, lake: &Lake) -> Result<SessionContext> {
    with_options(config, lake, options(config))
}

/// As [`session`], for statements over tables of about so many rows and stored bytes.
pub(super) fn sized(config: &Config, lake: &Lake, rows: u64, stored_bytes: u64) -> Result<SessionContext> {
    if rows > config.engine.small_rows || stored_bytes > SMALL_BYTES {
        return session(config, lake);
    }
    let whole = with_options(config, lake, options(config).with_target_partitions(1))?;
    Ok(small::session(whole.state()))
}

fn options(config: &Config) -> SessionConfig {
    let mut options = SessionConfig::new()
        .with_target_partitions(config.threads())
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
    options
}

fn with_options(config: &Config, lake: &Lake, options: SessionConfig) -> Result<SessionContext> {
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
    listing(table.arrow.clone(), Arc::new(ParquetFormat::default()), urls, &table.doc.sorted_by)
}

/// The orders that are known of rows sorted by these columns: one, or none where there are no columns.
pub(super) fn orders(sorted_by: &[String]) -> Vec<Vec<SortExpr>> {
    if sorted_by.is_empty() { vec![] } else { vec![ascending(sorted_by)] }
}

/// The order of the lake's tables: ascending, with nulls last.
pub(super) fn ascending(columns: &[String]) -> Vec<SortExpr> {
    columns.iter().map(|column| Sort::new(ident(column), true, false)).collect()
}

/// A table over files.
pub(super) fn listing(
    schema: SchemaRef,
    format: Arc<dyn FileFormat>,
    urls: Vec<ListingTableUrl>,
    sorted_by: &[String],
) -> Result<Arc<dyn TableProvider>> {
    let options = ListingOptions::new(format).with_file_sort_order(orders(sorted_by));
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}
