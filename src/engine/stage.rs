//! One run of a stage made of SQL files, from the manifests that it reads to the one that it commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext, ident, lit};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, stream};
use serde_json::Value;

use super::plans::Plans;
use super::ranges::{self, ROLLOUT_ID, Range};
use super::relation::{Relation, in_order};
use super::session;
use super::sql_file::{SqlFile, SqlFiles};
use super::statement::{plan as plan_file, wrong};
use super::write;
use crate::exit::Fault;
use crate::lake::{Freshness, Lake, Lineage, Manifest, Run};
use crate::schema;
use crate::stage::{Context, Summary};

/// The relation whose rows (name, value) become `Summary::counts`: what a stage has to tell about its run.
const COUNTS: &str = "counts";

/// Rows of a failed audit that the message shows.
const SHOWN_ROWS: usize = 10;

/// A stage made of SQL files.
#[derive(Debug, Clone)]
pub struct SqlStage {
    /// As in the headers of `schemas/`: the stage writes every table that is made by it.
    pub name: &'static str,
    /// Stages whose tables of the same batch are read.
    pub inputs: Vec<StageInput>,
    /// The files that run, in any order. Each writes a table of the stage, a relation that another file reads, or `counts`.
    pub files: Vec<SqlFile>,
    /// Audits of the stage's tables: each must return no row.
    pub audits: Vec<SqlFile>,
    /// Small tables made from the configuration, by name.
    pub relations: Vec<(&'static str, RecordBatch)>,
    /// Values of the files' `$parameters`, without the `$`.
    pub params: BTreeMap<String, ScalarValue>,
    /// The stage's configuration; a change makes it stale.
    pub config: Value,
}

/// A stage that another reads.
#[derive(Debug, Clone, Copy)]
pub struct StageInput {
    pub stage: &'static str,
    /// Whether it has to have run; the tables of one that has not are empty.
    pub required: bool,
}

impl StageInput {
    pub fn required(stage: &'static str) -> StageInput {
        StageInput { stage, required: true }
    }

    pub fn optional(stage: &'static str) -> StageInput {
        StageInput { stage, required: false }
    }
}

/// Audits of every table that a stage writes.
pub fn audits_of(stage: &str, files: &SqlFiles) -> Vec<SqlFile> {
    schema::tables_of(stage).into_iter().flat_map(|table| files.audits(table)).collect()
}

/// What a run of the stage on a batch would depend on now.
pub async fn current_lineage(lake: &Lake, batch: &str, stage: &SqlStage) -> Result<Lineage> {
    lineage(stage, &inputs(lake, batch, stage).await?)
}

/// Whether the stage has to run, and why. Changes nothing.
pub async fn freshness(context: &Context, stage: &SqlStage) -> Result<Freshness> {
    let inputs = inputs(&context.lake, &context.batch, stage).await?;
    let newest = context.lake.manifest(stage.name, &context.batch).await?;
    Ok(lineage(stage, &inputs)?.freshness(newest.as_ref()))
}

/// Runs the stage where it is stale, and commits its tables.
///
/// Every file is checked before the first one runs. Errors: `Fault::Usage` for a SQL file that is not what its header says or an input
/// that is not there; `Fault::Failed` where rows break the schema, the grain or an audit. Nothing is committed then.
pub async fn run(context: &Context, stage: SqlStage) -> Result<Summary> {
    let started = Instant::now();
    let run = context.lake.begin(stage.name, &context.batch).await?;
    let inputs = inputs(&context.lake, &context.batch, &stage).await?;
    let lineage = lineage(&stage, &inputs)?;
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) = context.standing(&freshness, run.previous(), started) {
        return Ok(summary);
    }
    let (rows, stored_bytes) = size(&stage, &inputs);
    let session = session::sized(&context.config, &context.lake, rows, stored_bytes)?;
    register_inputs(&session, &stage, &inputs)?;
    let relations = relations(&stage)?;
    let mut plans = Plans::new(&session, &stage, &relations).await?;
    if let Some(summary) = context.would_run(stage.name, &freshness) {
        return Ok(summary);
    }

    let worked = async {
        let (table, rows) = largest(&stage, &inputs);
        let ranges = ranges::cut(&session, table, rows, context.config.engine.range_rows).await?;
        let counts = execute(context, &session, &stage, &relations, &mut plans, &ranges, &run).await?;
        audit(context, &session, &stage, &plans, &ranges).await?;
        context.stop.check()?;
        Ok(counts)
    };
    match worked.await {
        Ok(counts) => Ok(Summary::of(&run.commit(lineage, counts).await?, "done", started)),
        Err(error) => {
            run.abandon().await;
            Err(error)
        }
    }
}

/// The newest manifest of every stage that is read, where there is one.
async fn inputs(lake: &Lake, batch: &str, stage: &SqlStage) -> Result<Vec<(StageInput, Option<Manifest>)>> {
    let mut manifests = Vec::new();
    for input in &stage.inputs {
        let manifest = lake.manifest(input.stage, batch).await?;
        if manifest.is_none() && input.required {
            let message = format!(
                "`{}` reads what `{}` makes, which has not run on batch `{}`; run `fulgurite {}` on it first",
                stage.name, input.stage, batch, input.stage
            );
            return Err(Fault::Usage(message).into());
        }
        manifests.push((*input, manifest));
    }
    Ok(manifests)
}

/// Tables and relations that some file or audit of the stage reads.
fn names_read(stage: &SqlStage) -> BTreeSet<&str> {
    stage.files.iter().chain(&stage.audits).flat_map(|file| file.header.reads.iter().map(String::as_str)).collect()
}

fn lineage(stage: &SqlStage, inputs: &[(StageInput, Option<Manifest>)]) -> Result<Lineage> {
    let read = names_read(stage);
    let mut lineage = Lineage::new(stage.name, stage.config.clone())?;
    for (input, manifest) in inputs {
        let tables: Vec<&str> = schema::tables_of(input.stage).into_iter().filter(|table| read.contains(table)).collect();
        if let Some(manifest) = manifest
            && !tables.is_empty()
        {
            lineage.inputs.push(manifest.input(&tables)?);
        }
    }
    lineage.sql = stage.files.iter().chain(&stage.audits).map(|file| (file.name.clone(), file.hash())).collect();
    Ok(lineage)
}

/// Rows of the tables that are read, and their bytes as they are stored.
fn size(stage: &SqlStage, inputs: &[(StageInput, Option<Manifest>)]) -> (u64, u64) {
    let read = names_read(stage);
    let tables = inputs.iter().filter_map(|(_, manifest)| manifest.as_ref()).flat_map(|manifest| &manifest.tables);
    let files = tables.filter(|(name, _)| read.contains(name.as_str())).flat_map(|(_, entry)| &entry.files);
    files.fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.size_bytes))
}

/// The input of most rows among those of rollouts, and how many it has.
fn largest(stage: &SqlStage, inputs: &[(StageInput, Option<Manifest>)]) -> (&'static str, u64) {
    let read = names_read(stage);
    let tables = inputs.iter().filter_map(|(_, manifest)| manifest.as_ref()).flat_map(|manifest| &manifest.tables);
    let of_rollouts = tables.filter(|(name, _)| read.contains(name.as_str())).filter_map(|(name, entry)| {
        let table =
            schema::table(name).ok().filter(|table| table.doc.sorted_by.first().is_some_and(|first| first == ROLLOUT_ID))?;
        Some((table.doc.name.as_str(), entry.files.iter().map(|file| file.rows).sum()))
    });
    of_rollouts.max_by_key(|(_, rows)| *rows).unwrap_or_default()
}

/// The tables of other stages and those made from the configuration.
fn register_inputs(session: &SessionContext, stage: &SqlStage, inputs: &[(StageInput, Option<Manifest>)]) -> Result<()> {
    for (input, manifest) in inputs {
        for name in schema::tables_of(input.stage) {
            let files = manifest.as_ref().and_then(|manifest| manifest.tables.get(name)).map(|entry| entry.files.as_slice());
            let table = schema::table(name)?;
            session.register_table(quoted(name), session::lake_table(table, files.unwrap_or_default())?)?;
        }
    }
    for (name, rows) in &stage.relations {
        session.register_table(*name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?))?;
    }
    Ok(())
}

/// A table's name as a reference that is taken letter by letter.
fn quoted(name: &str) -> TableReference {
    TableReference::bare(name.to_owned())
}

fn relations(stage: &SqlStage) -> Result<Vec<Relation>> {
    let mut known: BTreeSet<String> = stage.relations.iter().map(|(name, _)| (*name).to_owned()).collect();
    for input in &stage.inputs {
        known.extend(schema::tables_of(input.stage).into_iter().map(str::to_owned));
    }
    let mut wanted = schema::tables_of(stage.name);
    if stage.files.iter().any(|file| file.header.writes == COUNTS) {
        wanted.push(COUNTS);
    }
    in_order(&stage.files, &known, &wanted)
}

/// Runs the files in order and writes the stage's tables. Returns the counts.
async fn execute(
    context: &Context,
    session: &SessionContext,
    stage: &SqlStage,
    relations: &[Relation],
    plans: &mut Plans,
    ranges: &[Range],
    run: &Run,
) -> Result<BTreeMap<String, u64>> {
    let temporary = match &context.config.engine.spill {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let temporary = temporary.context("cannot make a temporary directory for the relations")?;
    let at_once = context.config.threads();
    let mut counts = BTreeMap::new();
    let tables = schema::tables_of(stage.name);
    let bar = context.progress.bar(stage.name, relations.len() as u64);
    for (index, relation) in relations.iter().enumerate() {
        let ranges = if relation.is_within_rollouts() { ranges } else { &[] };
        let name = relation.name.as_str();
        let rows = |plans: &Plans| over_ranges(session, plans, &plans.relations[index], ranges);
        if !tables.contains(&name) {
            check_grain_of_users(session, stage, plans, relation).await?;
        }
        if tables.contains(&name) {
            let table = schema::table(name)?;
            let order = match relation.files.as_slice() {
                [file] if !file.header.order.is_empty() => &file.header.order,
                _ => &table.doc.sorted_by,
            };
            let sorted = |rows: DataFrame| rows.sort(session::ascending(order));
            let mut rows = rows(plans)?.into_iter().map(sorted).collect::<Result<Vec<_>, _>>()?;
            if rows.len() > 1 && order.first().is_none_or(|first| first != ROLLOUT_ID) {
                // Ranges of rollouts are no ranges of this order: each is sorted by itself, and all of them are merged.
                let kept = write::keep(rows, order, at_once, temporary.path(), name, &context.stop).await;
                plans.put(name, kept.with_context(|| failed_in(relation))?);
                rows = vec![sorted(DataFrame::new(session.state(), plans.all_written(name)?))?];
            }
            let grain = &relation.files[0].header.grain;
            let files = write::table(rows, at_once, table, grain, run, &context.stop).await;
            let files = files.with_context(|| failed_in(relation))?;
            plans.put(name, vec![session::lake_table(table, &files)?]);
        } else if name == COUNTS {
            let plan = plans.over_written(&plans.relations[index], None)?;
            counts = read_counts(DataFrame::new(session.state(), plan)).await.with_context(|| failed_in(relation))?;
        } else if plans.reads(name) > 1 {
            let kept = write::keep(rows(plans)?, &[], at_once, temporary.path(), name, &context.stop).await;
            plans.put(name, kept.with_context(|| failed_in(relation))?);
        } else {
            plans.put_view(relation, plans.relations[index].clone());
        }
        bar.inc(1);
    }
    Ok(counts)
}

/// The rows of a plan: a part for each range of rollouts, or all in one where there are no ranges. A range is not divided among threads,
/// since as many run at once.
fn over_ranges(session: &SessionContext, plans: &Plans, plan: &LogicalPlan, ranges: &[Range]) -> Result<Vec<DataFrame>> {
    if ranges.is_empty() {
        return Ok(vec![DataFrame::new(session.state(), plans.over_written(plan, None)?)]);
    }
    let mut state = session.state();
    state.config_mut().options_mut().execution.target_partitions = 1;
    let of = |range| Ok(DataFrame::new(state.clone(), plans.over_written(plan, Some(range))?));
    ranges.iter().enumerate().map(of).collect()
}

/// Looks for rows with equal grain in what each file of the user's gives, so that the message names that file and not a table after it.
/// The rows of other files are none of its business: two rules may find the same span. Built-in files are as good as their tests.
async fn check_grain_of_users(session: &SessionContext, stage: &SqlStage, plans: &Plans, relation: &Relation) -> Result<()> {
    for file in relation.files.iter().filter(|file| file.path.is_some()) {
        let plan = plans.over_written(&plan_file(session, file, &stage.params).await?, None)?;
        let rows = DataFrame::new(session.state(), plan);
        let grain = file.header.grain.iter().map(ident).collect();
        let repeated = rows.aggregate(grain, vec![count(lit(1)).alias("rows")])?.filter(ident("rows").gt(lit(1)))?;
        let shown = repeated.limit(0, Some(SHOWN_ROWS))?.collect().await.map_err(|error| wrong(file, &error))?;
        if shown.iter().any(|batch| batch.num_rows() > 0) {
            let (shown, grain, name) = (pretty_format_batches(&shown)?, file.header.grain.join(", "), &relation.name);
            let message = format!("`{}`: the grain of `{name}` is {grain}, but some have several rows\n{shown}", file.shown());
            return Err(Fault::Failed(message).into());
        }
    }
    Ok(())
}

fn failed_in(relation: &Relation) -> String {
    let files: Vec<String> = relation.files.iter().map(|file| format!("`{}`", file.shown())).collect();
    format!("cannot write `{}` with {}", relation.name, files.join(", "))
}

async fn read_counts(rows: DataFrame) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for batch in rows.collect().await? {
        let (names, values) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
        for (name, value) in names.iter().zip(values) {
            counts.insert(name.unwrap_or_default().to_owned(), u64::try_from(value.unwrap_or_default()).unwrap_or_default());
        }
    }
    Ok(counts)
}

/// Runs every audit of the stage's tables. `Fault::Failed` shows the first rows that should not be there.
async fn audit(context: &Context, session: &SessionContext, stage: &SqlStage, plans: &Plans, ranges: &[Range]) -> Result<()> {
    for (file, plan) in stage.audits.iter().zip(&plans.audits) {
        let ranges = if file.header.within_rollouts { ranges } else { &[] };
        let run = |rows: DataFrame| tokio::spawn(async move { rows.limit(0, Some(SHOWN_ROWS))?.collect().await });
        let found = stream::iter(over_ranges(session, plans, plan, ranges)?).map(run);
        let mut found = found.buffered(context.config.threads());
        while let Some(rows) = found.next().await {
            context.stop.check()?;
            let rows = rows.context("the task of an audit panicked")?.map_err(|error| wrong(file, &error))?;
            if rows.iter().any(|batch| batch.num_rows() > 0) {
                let table = file.header.audits.as_deref().unwrap_or_default();
                let shown = pretty_format_batches(&rows)?;
                let message = format!(
                    "`{table}` fails the audit `{}`: {}\n{shown}\nnothing was committed",
                    file.shown(),
                    file.header.about
                );
                return Err(Fault::Failed(message).into());
            }
        }
    }
    Ok(())
}
