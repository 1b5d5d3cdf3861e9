//! `fulgurite sql`: reads, and never writes, over all tables of all batches.
//!
//! Tables hold exactly the committed files, with the column `batch` in front.

mod mistake;
mod output;
mod prompt;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionContext, lit};
use datafusion::sql::parser::{DFParser, Statement};

use crate::config::Config;
use crate::engine;
use crate::exit::Fault;
use crate::lake::Lake;
use crate::progress::Progress;
use crate::schema;
use crate::stage::Stop;
pub use output::Format;
pub(super) use output::Target;

/// The flags of `fulgurite sql`.
#[derive(Debug, Clone, clap::Args)]
pub struct SqlArgs {
    /// What to ask; without it a prompt opens, or statements are read from a pipe
    pub query: Option<String>,
    /// Read the statements from a file
    #[arg(long, short, value_name = "FILE", conflicts_with = "query")]
    pub file: Option<PathBuf>,
    /// Form of the rows [default: what the ending of --output says, else table]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Write the rows to a file, whole or not at all
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print views over the committed files for another engine instead
    #[arg(long, value_enum, conflicts_with_all = ["query", "file"])]
    pub views: Option<crate::lake::Dialect>,
}

/// What a query runs with.
pub struct Session {
    context: SessionContext,
    stop: Stop,
}

/// Answers the query, the file, the pipe or the person at the terminal.
pub async fn run(
    lake: &Lake,
    batch: Option<&str>,
    config: &Config,
    progress: &Progress,
    stop: &Stop,
    args: SqlArgs,
) -> Result<()> {
    let target = Target::new(args.format, args.output)?;
    if let Some(dialect) = args.views {
        return target.text(&lake.views(dialect, batch).await?);
    }
    let session = Session::open(lake, batch, config, stop).await?;
    let text = match (args.query, args.file) {
        (Some(query), _) => query,
        (None, Some(path)) => read(&path)?,
        (None, None) if std::io::stdin().is_terminal() => return prompt::run(&session, &target, progress).await,
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the statements from stdin")?;
            text
        }
    };
    session.answer(&text, &target).await
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| Fault::Usage(format!("cannot read `{}`: {error}", path.display())).into())
}

impl Session {
    /// A session with every table of the lake, over one batch or all. A table that was never written is there, and empty.
    pub async fn open(lake: &Lake, batch: Option<&str>, config: &Config, stop: &Stop) -> Result<Session> {
        let context = engine::session(config, lake)?;
        context.state_ref().write().config_mut().options_mut().sql_parser.collect_spans = true;
        let mut committed = lake.tables(batch).await?;
        for table in schema::tables() {
            let name = table.doc.name.as_str();
            let mut all: Option<DataFrame> = None;
            for files in committed.remove(name).unwrap_or_default() {
                let rows = context.read_table(engine::lake_table(table, &files.files)?)?;
                let rows = with_batch(rows, &files.batch)?;
                all = Some(match all {
                    None => rows,
                    Some(others) => others.union(rows)?,
                });
            }
            let rows = match all {
                Some(rows) => rows,
                None => with_batch(context.read_table(engine::lake_table(table, &[])?)?, "")?,
            };
            context.register_table(quoted(name), rows.into_view())?;
        }
        Ok(Session { context, stop: stop.clone() })
    }

    /// The tables, for who asks them in another way.
    #[cfg(feature = "torch")]
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Runs the statements one after the other. A mistake in one is shown at its place, and those after it do not run.
    pub async fn answer(&self, text: &str, target: &Target) -> Result<()> {
        let statements = DFParser::parse_sql(text).map_err(|error| mistake::fault(text, &error))?;
        if statements.is_empty() {
            return Err(Fault::Usage("there is no statement to run".to_owned()).into());
        }
        if target.is_file() && statements.len() > 1 {
            let message = format!("`--output` takes one statement, and these are {}", statements.len());
            return Err(Fault::Usage(message).into());
        }
        for statement in statements {
            let rows = self.plan(text, statement).await?;
            let rows = rows.execute_stream().await.map_err(|error| mistake::fault(text, &error))?;
            target.write(rows, text, &self.stop).await?;
        }
        Ok(())
    }

    async fn plan(&self, text: &str, statement: Statement) -> Result<DataFrame> {
        let state = self.context.state();
        let plan = state.statement_to_plan(statement).await.map_err(|error| mistake::fault(text, &error))?;
        let reads_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        if reads_only.verify_plan(&plan).is_err() {
            return Err(Fault::Usage("`fulgurite sql` only reads: write `select`, `with`, `show` or `explain`".to_owned()).into());
        }
        Ok(DataFrame::new(state, plan))
    }
}

/// The rows with the name of their batch in front.
fn with_batch(rows: DataFrame, batch: &str) -> Result<DataFrame> {
    let columns = rows.schema().columns().into_iter().map(datafusion::logical_expr::Expr::Column);
    let columns: Vec<_> = std::iter::once(lit(batch).alias("batch")).chain(columns).collect();
    Ok(rows.select(columns)?)
}

/// A table's name as a reference that is taken letter by letter (`values` is a word of SQL).
fn quoted(name: &str) -> datafusion::common::TableReference {
    datafusion::common::TableReference::bare(name.to_owned())
}
