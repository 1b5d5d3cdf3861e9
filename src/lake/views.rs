//! Views over exactly the committed files, for other engines: a glob would also see files that no manifest names.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::Lake;
use crate::schema;

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "lake", derive(clap::ValueEnum))]
pub enum Dialect {
    Duckdb,
}

impl Lake {
    /// `create view` for every table that has been written, over all batches or one. They stand until the next commit: make them anew.
    pub async fn views(&self, dialect: Dialect, batch: Option<&str>) -> Result<String> {
        let Dialect::Duckdb = dialect;
        let mut sql = String::new();
        let tables = self.tables(batch).await?;
        for table in schema::tables() {
            let name = &table.doc.name;
            let files = tables.get(name).into_iter().flatten().flat_map(|batch| &batch.files);
            let files: Vec<String> = files.map(|file| Ok(quoted(&self.address(&file.path)?))).collect::<Result<_>>()?;
            if files.is_empty() {
                writeln!(sql, "-- {name}: not written yet")?;
                continue;
            }
            writeln!(sql, "create or replace view \"{name}\" as select * from read_parquet([")?;
            writeln!(sql, "    {}", files.join(",\n    "))?;
            writeln!(sql, "], hive_partitioning = true, hive_types = {{'batch': varchar}}, union_by_name = true);")?;
        }
        Ok(sql)
    }

    /// Where others find a file of the lake.
    fn address(&self, path: &str) -> Result<String> {
        let Some(directory) = &self.directory else { return Ok(format!("{}/{path}", self.location)) };
        let directory = std::path::absolute(directory).with_context(|| format!("where is `{}`", directory.display()))?;
        Ok(directory.join(path).display().to_string())
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_quote_in_a_path_ends_no_string() {
        assert_eq!(super::quoted("/it's/a lake"), "'/it''s/a lake'");
    }
}
