//! Which rollouts belong to a batch: those that began in its period.

use crate::exit::Fault;
use crate::trace::resolve::Row;
use crate::trace::time;

/// From `since` to before `until`; without either, always. Nanoseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Period {
    since_ns: Option<i64>,
    until_ns: Option<i64>,
}

/// How many rollouts were left out, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LeftOut {
    pub outside: u64,
    /// None of their spans has a time.
    pub undated: u64,
}

impl Period {
    /// * `since`, `until`: a day, which begins at midnight UTC, or an ISO 8601 time; empty for no bound.
    ///
    /// # Errors
    /// A text that is neither, or an end that is not after the beginning.
    pub fn parse(since: &str, until: &str) -> Result<Period, Fault> {
        let (since_ns, until_ns) = (instant("since", since)?, instant("until", until)?);
        if since_ns.zip(until_ns).is_some_and(|(since, until)| until <= since) {
            return Err(Fault::Usage(format!("`ingest.until` is `{until}`, which is not after `ingest.since`, `{since}`")));
        }
        Ok(Period { since_ns, until_ns })
    }

    /// The rows of rollouts that began in the period. One that crosses a bound belongs to where it began.
    ///
    /// * `rows`: of whole rollouts, each together.
    pub fn keep(self, rows: Vec<Row>, left_out: &mut LeftOut) -> Vec<Row> {
        if self == Period::default() {
            return rows;
        }
        let mut kept = Vec::with_capacity(rows.len());
        for rollout in rows.chunk_by(|a, b| a.rollout_id == b.rollout_id) {
            match rollout.iter().filter_map(|row| row.start_ns.or(row.end_ns)).min() {
                None => left_out.undated += 1,
                Some(start) if !self.holds(start) => left_out.outside += 1,
                Some(_) => kept.extend_from_slice(rollout),
            }
        }
        kept
    }

    fn holds(self, start_ns: i64) -> bool {
        self.since_ns.is_none_or(|since| since <= start_ns) && self.until_ns.is_none_or(|until| start_ns < until)
    }
}

impl std::ops::AddAssign for LeftOut {
    fn add_assign(&mut self, other: Self) {
        self.outside += other.outside;
        self.undated += other.undated;
    }
}

fn instant(key: &str, text: &str) -> Result<Option<i64>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    // A number alone would be seconds: `20261122` is no day.
    match time::parse(text).filter(|_| text.contains('-')) {
        Some(time) => Ok(Some(time.ns)),
        None => Err(Fault::Usage(format!("`ingest.{key}` is `{text}`; give a day such as `2026-11-22`, or an ISO 8601 time"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_NS: i64 = 86_400_000_000_000;
    /// 2026-11-22T00:00:00Z.
    const NOVEMBER_22_NS: i64 = 1_795_305_600_000_000_000;

    fn row(rollout: &str, start_ns: Option<i64>, end_ns: Option<i64>) -> Row {
        Row { rollout_id: rollout.to_owned(), start_ns, end_ns, ..Row::default() }
    }

    #[test]
    fn a_rollout_belongs_to_the_day_that_it_began_on() {
        let period = Period::parse("2026-11-22", "2026-11-23").unwrap();
        let rows = vec![
            row("before", Some(NOVEMBER_22_NS - 1), Some(NOVEMBER_22_NS + 1)),
            row("crosses", Some(NOVEMBER_22_NS + DAY_NS), None),
            row("crosses", Some(NOVEMBER_22_NS + DAY_NS - 1), None),
            row("ends only", None, Some(NOVEMBER_22_NS)),
            row("next", Some(NOVEMBER_22_NS + DAY_NS), None),
            row("undated", None, None),
        ];
        let mut left_out = LeftOut::default();
        let kept: Vec<String> = period.keep(rows.clone(), &mut left_out).into_iter().map(|row| row.rollout_id).collect();
        assert_eq!(kept, ["crosses", "crosses", "ends only"]);
        assert_eq!(left_out, LeftOut { outside: 2, undated: 1 });
        let mut left_out = LeftOut::default();
        assert_eq!(Period::default().keep(rows, &mut left_out).len(), 6);
        assert_eq!(left_out, LeftOut::default());
    }

    #[test]
    fn bounds_are_days_or_times() {
        assert_eq!(Period::parse("2026-11-22T06:00:00+06:00", "").unwrap().since_ns, Some(NOVEMBER_22_NS));
        for (since, until) in [("yesterday", ""), ("20261122", ""), ("2026-11-22", "2026-11-22"), ("", "2026-13-01")] {
            assert!(Period::parse(since, until).is_err(), "{since} {until}");
        }
    }
}
