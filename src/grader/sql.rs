//! The grader `sql`: a query is right where it gives the rows of the gold query, on a database that it cannot write to.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::Grade;

/// Rows and bytes that a query may return; an answer with more is wrong.
const MOST_ROWS: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;

/// Compares the rows of the answer with those of each gold query. Rows count as often as they occur; their order counts where the gold query
/// orders its result. Columns have to stand in the order of the gold query's, whatever their names.
///
/// Errors: the database cannot be opened, or every gold query is at fault.
pub fn grade(answer: &str, golds: &[String], database: &Path, timeout: Duration) -> Result<Grade> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)
        .with_context(|| format!("cannot open the database `{}`", database.display()))?;
    let found = match rows(&connection, query(answer), timeout) {
        Ok(found) => found,
        Err(error) => return Ok(Grade::wrong(format!("{error:#}"))),
    };
    for gold in golds {
        let expected = rows(&connection, query(gold), timeout).with_context(|| format!("the gold query `{gold}` fails"))?;
        if same(found.clone(), expected, is_ordered(gold)) {
            return Ok(Grade::of(true));
        }
    }
    Ok(Grade::wrong("other rows than the gold query's"))
}

/// The query within an answer: fences and a semicolon at the end are taken off.
fn query(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let text = inner.map_or(text, |inner| inner.strip_prefix("sql").or(inner.strip_prefix("sqlite")).unwrap_or(inner));
    text.trim().trim_end_matches(';').trim_end()
}

/// Runs one query that only reads, ended after `timeout`.
fn rows(connection: &Connection, query: &str, timeout: Duration) -> Result<Vec<Vec<Cell>>> {
    let mut statement = connection.prepare(query)?;
    if !statement.readonly() || statement.column_count() == 0 {
        return Err(anyhow!("the statement is no query"));
    }
    let interrupt = connection.get_interrupt_handle();
    let (finished, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let rows = read(&mut statement);
        drop(finished);
        rows
    })
}

fn read(statement: &mut rusqlite::Statement<'_>) -> Result<Vec<Vec<Cell>>> {
    let columns = statement.column_count();
    let (mut found, mut size_bytes) = (Vec::new(), 0);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let cells: Vec<Cell> = (0..columns).map(|column| row.get_ref(column).map(Cell::of)).collect::<Result<_, _>>()?;
        size_bytes += cells.iter().map(Cell::size_bytes).sum::<usize>();
        found.push(cells);
        if found.len() > MOST_ROWS || size_bytes > MOST_BYTES {
            return Err(anyhow!("the result is too large"));
        }
    }
    Ok(found)
}

/// One value of a row. Whole and broken numbers are one kind, so that 2 and 2.0 are equal.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Cell {
    Null,
    Number(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Number(number as f64),
            ValueRef::Real(number) => Cell::Number(number),
            ValueRef::Text(text) => Cell::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Cell::Null | Cell::Number(_) => 16,
            Cell::Text(bytes) | Cell::Blob(bytes) => 32 + bytes.len(),
        }
    }

    /// Equal, where sums of the same numbers in another order differ in their last bits.
    fn is(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Number(one), Cell::Number(other)) => (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0),
            _ => self == other,
        }
    }
}

fn same(mut one: Vec<Vec<Cell>>, mut other: Vec<Vec<Cell>>, ordered: bool) -> bool {
    if one.len() != other.len() {
        return false;
    }
    if !ordered {
        let by_cells = |a: &Vec<Cell>, b: &Vec<Cell>| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal);
        one.sort_by(by_cells);
        other.sort_by(by_cells);
    }
    let rows = one.iter().zip(&other);
    rows.into_iter().all(|(one, other)| one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is(other)))
}

/// Whether the outermost query has an `order by`: words in brackets, quotes and comments do not count.
fn is_ordered(query: &str) -> bool {
    let mut words: Vec<String> = Vec::new();
    let (mut depth, mut chars) = (0, query.chars().peekable());
    let mut word = String::new();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        if depth == 0 && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        word.clear();
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '\'' | '"' | '`' => skip_past(&mut chars, |_, now| now == c),
            '[' => skip_past(&mut chars, |_, now| now == ']'),
            '-' if chars.peek() == Some(&'-') => skip_past(&mut chars, |_, now| now == '\n'),
            '/' if chars.peek() == Some(&'*') => skip_past(&mut chars, |before, now| (before, now) == ('*', '/')),
            _ => {}
        }
    }
    words.windows(2).any(|pair| pair[0] == "order" && pair[1] == "by")
}

/// Leaves out everything up to the character that ends it, known by itself and the one before.
fn skip_past(chars: &mut impl Iterator<Item = char>, is_end: impl Fn(char, char) -> bool) {
    let mut before = ' ';
    for now in chars {
        if is_end(before, now) {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn database() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("db.sqlite")).unwrap();
        connection
            .execute_batch(
                "create table t (name text, n integer);
                 insert into t values ('a', 1), ('b', 2), ('c', 2), ('d', null);",
            )
            .unwrap();
        folder
    }

    fn graded(answer: &str, gold: &str) -> Grade {
        let folder = database();
        grade(answer, &[gold.to_owned()], &folder.path().join("db.sqlite"), Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn rows_decide() {
        for (answer, gold, reward) in [
            ("select name from t where n = 2", "select name from t where n > 1", 1.0),
            ("```sql\nselect name from t where n = 2;\n```", "select name from t where n > 1", 1.0),
            // Any order will do, unless the gold query gives one.
            ("select name from t order by name desc", "select name from t", 1.0),
            ("select name from t order by name desc", "select name from t order by name", 0.0),
            ("select name from t", "select name from (select name from t order by n)", 1.0),
            // A row counts as often as it is there.
            ("select distinct n from t where n = 2", "select n from t where n = 2", 0.0),
            ("select 2.0", "select max(n) from t", 1.0),
            ("select 0.1 + 0.2", "select 0.3", 1.0),
            ("select '2'", "select max(n) from t", 0.0),
            ("select null", "select n from t where name = 'd'", 1.0),
            ("select n, name from t", "select name, n from t", 0.0),
            ("select nam from t", "select name from t", 0.0),
            ("", "select name from t", 0.0),
        ] {
            assert_eq!(graded(answer, gold).reward, reward, "{answer} | {gold}");
        }
    }

    #[test]
    fn an_answer_cannot_write() {
        for answer in
            ["delete from t", "drop table t", "create table u (x)", "select 1; delete from t", "pragma writable_schema = 1"]
        {
            let grade = graded(answer, "select 1 where 0");
            assert_eq!(grade.reward, 0.0, "{answer}");
            assert!(grade.comment.is_some());
        }
    }

    #[test]
    fn an_answer_that_never_ends_is_ended() {
        let folder = database();
        let endless = "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c";
        let started = Instant::now();
        let timeout = Duration::from_millis(100);
        let grade = grade(endless, &["select 1".to_owned()], &folder.path().join("db.sqlite"), timeout).unwrap();
        assert_eq!(grade.reward, 0.0);
        assert!(grade.comment.unwrap().contains("interrupted"));
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_gold_query_at_fault_scores_nobody() {
        let folder = database();
        let file = folder.path().join("db.sqlite");
        assert!(grade("select 1", &["select x from nowhere".to_owned()], &file, Duration::from_secs(5)).is_err());
        assert!(grade("select 1", &["select 1".to_owned()], &folder.path().join("none"), Duration::from_secs(5)).is_err());
    }

    #[test]
    fn every_query_of_the_sample_tasks_gives_rows_that_a_wrong_one_does_not() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/sql");
        let tasks = crate::rollout::tasks::read(&folder.join("tasks.jsonl")).unwrap();
        assert_eq!(tasks.len(), 400);
        for task in tasks {
            let gold = task.expected.as_str().unwrap().to_owned();
            let reward = |answer: &str| {
                grade(answer, std::slice::from_ref(&gold), &folder.join("geo.sqlite"), Duration::from_secs(5)).unwrap().reward
            };
            assert_eq!((reward(&gold), reward("select code from country where 0")), (1.0, 0.0), "{gold}");
        }
    }

    #[test]
    fn order_counts_where_the_outermost_query_has_one() {
        for (query, ordered) in [
            ("select a from t order by a", true),
            ("select a from t ORDER\n BY a limit 1", true),
            ("select a from (select a from t order by a)", false),
            ("select 'order by' from t", false),
            ("select row_number() over (order by a) from t", false),
            ("select a from t -- order by a", false),
            ("select a /* order by */ from t", false),
            ("select [order by] from t", false),
            ("select order_id, by_x from t", false),
        ] {
            assert_eq!(is_ordered(query), ordered, "{query}");
        }
    }
}
