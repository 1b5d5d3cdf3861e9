//! The plans of a stage. Every file is planned once, while it is checked, over empty stand-ins for what the stage's other files write;
//! when its turn comes, the rows that were written take the places of the stand-ins.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use arrow::datatypes::Schema;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion::prelude::{SessionContext, ident};

use super::builtin;
use super::ranges::Range;
use super::relation::Relation;
use super::sql_file::SqlFile;
use super::stage::SqlStage;
use super::statement::{check_columns, check_keys, plan as plan_file, wrong};

/// What a stage runs, and what it reads while it does.
pub(super) struct Plans {
    /// A plan for each relation, in the order in which they run.
    pub(super) relations: Vec<LogicalPlan>,
    pub(super) audits: Vec<LogicalPlan>,
    /// How often each table or relation is read.
    reads: BTreeMap<String, usize>,
    /// What has been written so far, by name.
    written: BTreeMap<String, Written>,
}

/// What a name stands for once its turn has come.
enum Written {
    /// Rows of every range, or in one piece.
    Rows(Vec<Arc<dyn TableProvider>>),
    /// A plan that runs as part of its reader's, and whether that may be over a range of rollouts.
    View(LogicalPlan, bool),
}

impl Plans {
    /// Plans every file, which checks it. The session has the stage's inputs; stand-ins for its relations are added to it.
    pub(super) async fn new(session: &SessionContext, stage: &SqlStage, relations: &[Relation]) -> Result<Plans> {
        let mut plans = Plans { relations: Vec::new(), audits: Vec::new(), reads: BTreeMap::new(), written: BTreeMap::new() };
        for relation in relations {
            let stated = builtin::schema_of(&relation.name);
            let plan = union(session, stage, relation, stated.as_deref()).await?;
            plan.apply(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    *plans.reads.entry(scan.table_name.table().to_owned()).or_default() += 1;
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            // A view would be planned into its readers at once, and could not be counted there.
            let columns = schema_of_table(stage, &relation.name).unwrap_or_else(|| Arc::new(plan.schema().as_arrow().clone()));
            session.register_table(TableReference::bare(relation.name.clone()), Arc::new(EmptyTable::new(columns)))?;
            plans.relations.push(plan);
        }
        for file in &stage.audits {
            plans.audits.push(plan_file(session, file, &stage.params).await?);
        }
        Ok(plans)
    }

    /// How often the plans read a relation.
    pub(super) fn reads(&self, relation: &str) -> usize {
        self.reads.get(relation).copied().unwrap_or_default()
    }

    /// From now on the name stands for these rows: those of each range, or all in one piece. Their columns are those of the stand-in.
    pub(super) fn put(&mut self, name: &str, rows: Vec<Arc<dyn TableProvider>>) {
        self.written.insert(name.to_owned(), Written::Rows(rows));
    }

    /// From now on the name stands for the rows of a relation's plan, which its one reader computes.
    pub(super) fn put_view(&mut self, relation: &Relation, plan: LogicalPlan) {
        self.written.insert(relation.name.clone(), Written::View(plan, relation.is_within_rollouts()));
    }

    /// The plan over what has been written so far: over all of it, or over one range of rollouts with its number.
    pub(super) fn over_written(&self, plan: &LogicalPlan, range: Option<(usize, &Range)>) -> Result<LogicalPlan> {
        let plan = plan.clone().transform_up_with_subqueries(|node| match &node {
            LogicalPlan::TableScan(scan) => Ok(Transformed::yes(self.scan(scan, range)?)),
            _ => Ok(Transformed::no(node)),
        })?;
        Ok(plan.data)
    }

    /// Every row that was written under a name, where that was done by ranges.
    pub(super) fn all_written(&self, name: &str) -> Result<LogicalPlan> {
        match self.written.get(name) {
            Some(Written::Rows(rows)) => Ok(union_of(TableReference::bare(name), rows, None)?),
            _ => bail!("nothing was written as `{name}`"),
        }
    }

    fn scan(&self, scan: &TableScan, range: Option<(usize, &Range)>) -> Result<LogicalPlan, DataFusionError> {
        let name = || scan.table_name.clone();
        let all = match (self.written.get(scan.table_name.table()), range) {
            (None, _) => LogicalPlan::TableScan(scan.clone()),
            (Some(Written::Rows(rows)), Some((number, _))) if rows.len() > 1 => {
                return union_of(name(), &rows[number..=number], scan.projection.as_ref());
            }
            (Some(Written::Rows(rows)), _) => union_of(name(), rows, scan.projection.as_ref())?,
            (Some(Written::View(plan, within_rollouts)), range) => {
                let within = range.filter(|_| *within_rollouts);
                let plan = self.over_written(plan, within).map_err(|error| DataFusionError::External(error.into()))?;
                let plan = LogicalPlanBuilder::from(plan).alias(name())?.build()?;
                if within.is_some() {
                    return Ok(plan);
                }
                plan
            }
        };
        match range {
            Some((_, range)) => range.of(all),
            None => Ok(all),
        }
    }
}

/// The rows of tables with equal columns, as those of one table.
fn union_of(
    name: TableReference,
    tables: &[Arc<dyn TableProvider>],
    projection: Option<&Vec<usize>>,
) -> Result<LogicalPlan, DataFusionError> {
    let scan = |rows: &Arc<dyn TableProvider>| {
        LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::clone(rows)), projection.cloned())
    };
    let (first, others) = tables.split_first().expect("what is kept has at least one part");
    let all = others.iter().try_fold(scan(first)?, |all, rows| all.union(scan(rows)?.build()?))?;
    if others.is_empty() { all.build() } else { all.alias(name)?.build() }
}

/// The columns of a table of the stage: its rows are read back as the table has them.
fn schema_of_table(stage: &SqlStage, name: &str) -> Option<Arc<Schema>> {
    let table = crate::schema::tables().iter().find(|table| table.doc.name == name && table.doc.made_by == stage.name)?;
    Some(Arc::clone(&table.arrow))
}

/// The rows of all files that write a relation, one file under the other.
///
/// * `stated`: the columns that it has to have; those of its first file where nothing is said.
async fn union(session: &SessionContext, stage: &SqlStage, relation: &Relation, stated: Option<&Schema>) -> Result<LogicalPlan> {
    let mut target: Option<Schema> = stated.cloned();
    let mut all: Option<LogicalPlan> = None;
    for file in &relation.files {
        let plan = plan_file(session, file, &stage.params).await?;
        let schema = target.get_or_insert_with(|| plan.schema().as_arrow().clone());
        check_columns(file, &plan, schema)?;
        check_keys(file, schema)?;
        let columns = schema.fields().iter().map(|field| ident(field.name()));
        let plan = LogicalPlanBuilder::from(plan).project(columns)?.build().map_err(|error| wrong(file, &error))?;
        all = Some(match all {
            None => plan,
            Some(others) => under(others, plan, file)?,
        });
    }
    all.with_context(|| format!("no file writes `{}`", relation.name))
}

fn under(others: LogicalPlan, plan: LogicalPlan, file: &SqlFile) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(others).union(plan)?.build().map_err(|error| wrong(file, &error))
}
