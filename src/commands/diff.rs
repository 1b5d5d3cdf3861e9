//! `fulgurite diff`: which transitions differ between two batches, or between two settings on one batch, and why.
//!
//! A side whose settings are named is made anew where what is committed is not what they give: in a draft over the lake, which ends with the
//! command. The comparison is SQL (`pipelines/diff/`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::common::ParamValues;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::scalar::ScalarValue;

use super::sql::{Format, Target};
use crate::config::Config;
use crate::exit::Fault;
use crate::lake::{Freshness, Lake, Manifest};
use crate::progress::Progress;
use crate::stage::{Context, Stop, Summary, counted};
use crate::{air, credit, derive, engine, schema};

const DIFFERENCES: &str = include_str!("../../pipelines/diff/differences.sql");
const SUMMARY: &str = include_str!("../../pipelines/diff/summary.sql");
const ROWS: &str = include_str!("../../pipelines/diff/rows.sql");
const TOTALS: &str = include_str!("../../pipelines/diff/totals.sql");

/// The flags of `fulgurite diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// Compare with this batch [default: the same]
    #[arg(long, value_name = "ID")]
    pub other_batch: Option<String>,
    /// Compare with what this pipeline file gives [default: --pipeline]
    #[arg(long, value_name = "FILE")]
    pub other_pipeline: Option<PathBuf>,
    /// Compare with what this key gives, over --set; may be given again
    #[arg(long = "other-set", value_name = "STAGE.KEY=VALUE")]
    pub other_settings: Vec<String>,
    /// Differences that are shown; 0 for the counts alone
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Numbers closer than this are equal, relative to the larger of 1 and their size
    #[arg(long, value_name = "X", default_value_t = 1e-9)]
    pub tolerance: f64,
    /// Form of the differences [default: what the ending of --output says, else table, under the counts]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write the differences to a file, whole or not at all
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl DiffArgs {
    /// Whether the other side has settings of its own.
    pub fn names_settings(&self) -> bool {
        self.other_pipeline.is_some() || !self.other_settings.is_empty()
    }
}

/// What is compared.
pub struct Side {
    pub batch: String,
    /// What it is made with; as it was committed where nothing is said.
    pub config: Option<Config>,
}

/// Compares two sides, and prints counts and differences.
///
/// * `config`: how the comparison itself runs.
pub async fn run(
    lake: &Lake,
    (this, other): (Side, Side),
    config: &Config,
    progress: &Progress,
    stop: &Stop,
    args: DiffArgs,
) -> Result<Summary> {
    let started = Instant::now();
    if args.other_batch.is_none() && !args.names_settings() {
        let message = "compare with what? name another batch with `--other-batch`, or other settings with `--other-set` or `--other-pipeline`";
        return Err(Fault::Usage(message.to_owned()).into());
    }
    if this.config.is_none() && other.config.is_none() && this.batch == other.batch {
        return Err(
            Fault::Usage(format!("`{}` is compared with itself; name another batch or other settings", this.batch)).into()
        );
    }
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        return Err(Fault::Usage(format!("`--tolerance` is {}; it has to be 0 or more", args.tolerance)).into());
    }
    let target = Target::new(args.format, args.output.clone())?;
    if let (Some(one), Some(two)) = (&this.config, &other.config)
        && one.ingest != two.ingest
    {
        progress.warning("the settings of `ingest` differ, but spans are taken as they were read");
    }

    let folder = match &config.engine.spill {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("cannot make a temporary directory for what is compared")?;
    let draft = lake.draft(folder.path())?;
    let session = engine::session(config, &draft)?;
    for (name, side) in [("this", &this), ("other", &other)] {
        let manifest = match &side.config {
            None => committed(lake, &side.batch).await?,
            Some(config) => made(&draft, &side.batch, config, name, progress, stop).await?,
        };
        register(&session, name, &manifest)?;
    }
    let differences = session.sql(DIFFERENCES).await?;
    let tolerance = ParamValues::from(vec![("tolerance", ScalarValue::from(args.tolerance))]);
    session.register_table("differences", differences.with_param_values(tolerance)?.into_view())?;

    let counts = session.sql(SUMMARY).await?.collect().await?;
    let totals = session.sql(TOTALS).await?.collect().await?;
    let totals = ["this", "other", "different"].map(|column| number(&totals[0], column, 0));
    let (counts, differing) = (by_what(&counts), totals[2]);
    progress.clear();
    if target.is_table_on_stdout() && differing > 0 {
        let counts = session.sql(SUMMARY).await?;
        print(counts, SUMMARY, &target, stop).await?;
        if args.limit > 0 {
            target.text("\n")?;
        }
    }
    if args.limit > 0 && (differing > 0 || !target.is_table_on_stdout()) {
        let rows = session.sql(ROWS).await?.limit(0, Some(args.limit))?;
        print(rows, ROWS, &target, stop).await?;
    }
    let found: u64 = counts.values().sum();
    if args.limit > 0 && found > args.limit as u64 {
        progress.message(format!("{} of {found} differences are shown; `--limit` shows more", args.limit));
    }
    progress.message(match differing {
        0 => format!("no difference: {}", counted(totals[0], "calls")),
        _ => format!("{differing} of the calls differ; this has {}, other {}", totals[0], totals[1]),
    });
    let sides = [("this", totals[0]), ("other", totals[1]), ("different", differing)];
    Ok(Summary {
        stage: "diff".to_owned(),
        batch: this.batch,
        status: if differing == 0 { "equal" } else { "different" }.to_owned(),
        rows: sides.into_iter().map(|(name, calls)| (name.to_owned(), calls)).collect(),
        seconds: started.elapsed().as_secs_f64(),
        counts,
        ..Summary::default()
    })
}

/// What credit committed on a batch. `Fault::Usage` where it did not, with the batches that there are.
async fn committed(lake: &Lake, batch: &str) -> Result<Manifest> {
    if let Some(manifest) = lake.manifest("credit", batch).await? {
        return Ok(manifest);
    }
    let all = lake.manifests().await?;
    if all.iter().any(|manifest| manifest.batch == batch) {
        return Err(Fault::Usage(format!("`credit` has not run on batch `{batch}`; run `fulgurite build` on it first")).into());
    }
    let credited = all.iter().filter(|manifest| manifest.stage == "credit");
    let names: Vec<String> = credited.map(|manifest| format!("`{}`", manifest.batch)).collect();
    let names = if names.is_empty() { "none is built".to_owned() } else { format!("there are {}", names.join(", ")) };
    Err(Fault::Usage(format!("there is no batch `{batch}` in `{}`; {names}", lake.location())).into())
}

/// What credit gives on a batch with these settings: as committed where that is fresh, else made in the draft.
async fn made(draft: &Lake, batch: &str, config: &Config, side: &str, progress: &Progress, stop: &Stop) -> Result<Manifest> {
    if draft.manifest("ingest", batch).await?.is_none() {
        committed(draft, batch).await?;
    }
    let mut context = Context {
        lake: draft.clone(),
        batch: batch.to_owned(),
        config: config.clone(),
        rebuild: false,
        dry_run: false,
        progress: progress.clone(),
        stop: stop.clone(),
    };
    let mut anew = Vec::new();
    for stage in ["derive", "air", "credit"] {
        stop.check()?;
        let freshness = match stage {
            "derive" => derive::freshness(&context).await?,
            "air" => air::freshness(&context).await?,
            _ => credit::freshness(&context).await?,
        };
        // A seal keeps what is committed from later settings; here it is asked what these would give.
        context.rebuild = match &freshness {
            Freshness::Fresh => continue,
            Freshness::Sealed(reasons) if reasons.is_empty() => continue,
            Freshness::Sealed(_) | Freshness::Stale(_) | Freshness::Missing => true,
        };
        match stage {
            "derive" => derive::run(&context).await?,
            "air" => air::run(&context).await?,
            _ => credit::run(&context).await?,
        };
        anew.push(stage);
    }
    progress.clear();
    progress.message(match anew.as_slice() {
        [] => format!("{side}: batch {batch} as it is committed"),
        stages => format!("{side}: batch {batch} with {} made anew, which is not kept", stages.join(", ")),
    });
    draft.manifest("credit", batch).await?.context("credit has run and committed nothing")
}

/// The tables of credit as those of one side.
fn register(session: &SessionContext, side: &str, manifest: &Manifest) -> Result<()> {
    for name in schema::tables_of("credit") {
        let files = manifest.tables.get(name).map(|entry| entry.files.as_slice()).unwrap_or_default();
        session.register_table(format!("{side}_{name}"), engine::lake_table(schema::table(name)?, files)?)?;
    }
    Ok(())
}

async fn print(rows: DataFrame, query: &str, target: &Target, stop: &Stop) -> Result<()> {
    target.write(rows.execute_stream().await?, query, stop).await
}

fn by_what(batches: &[RecordBatch]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for batch in batches {
        let names = batch.column_by_name("what").expect("the query names it").as_string::<i32>();
        for row in 0..names.len() {
            counts.insert(names.value(row).to_owned(), number(batch, "calls", row));
        }
    }
    counts
}

fn number(batch: &RecordBatch, column: &str, row: usize) -> u64 {
    let values = batch.column_by_name(column).expect("the query names it").as_primitive::<Int64Type>();
    u64::try_from(values.value(row)).unwrap_or_default()
}
