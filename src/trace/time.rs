//! Times as trace formats write them: seconds, milliseconds, microseconds or nanoseconds since 1970 as numbers, or ISO 8601.

/// A time with the resolution of the clock that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Nanoseconds since 1970 UTC.
    pub ns: i64,
    /// 1, 1 000 or 1 000 000.
    pub precision_ns: i64,
}

const SECOND_NS: i64 = 1_000_000_000;
const MILLISECOND_NS: i64 = 1_000_000;
const MICROSECOND_NS: i64 = 1_000;

/// Reads a number, as its JSON text, or the content of a string that holds a number or an ISO 8601 time.
///
/// The unit of a number is found by its size: whole parts below 1e11 are seconds (until the year 5138), below 1e14
/// milliseconds, below 1e17 microseconds, else nanoseconds. Digits are taken as written, so that nothing is lost in a double.
/// ISO times without an offset are UTC. `None` for zero, which stands for "not set", for times before 1970, and for other text.
pub fn parse(text: &str) -> Option<Time> {
    let text = text.trim();
    let time = parse_number(text).or_else(|| parse_iso(text))?;
    (time.ns > 0).then_some(time)
}

fn parse_number(text: &str) -> Option<Time> {
    if text.contains(['e', 'E']) {
        // An exponent is only written by those who print doubles, which hold no more digits than this.
        let number: f64 = text.parse().ok()?;
        return parse_decimal(&format!("{number:.9}"));
    }
    parse_decimal(text)
}

fn parse_decimal(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let unit_ns = match whole {
        0..100_000_000_000 => SECOND_NS,
        100_000_000_000..100_000_000_000_000 => MILLISECOND_NS,
        100_000_000_000_000..100_000_000_000_000_000 => MICROSECOND_NS,
        _ => 1,
    };
    let mut digit_ns = unit_ns;
    let mut fraction_ns = 0;
    for digit in fraction.bytes() {
        digit_ns /= 10;
        fraction_ns += i64::from(digit - b'0') * digit_ns;
    }
    // A double of seconds since 1970 tells about 0.2 microseconds apart, one of milliseconds as much.
    let precision_ns = match unit_ns {
        SECOND_NS | MILLISECOND_NS if fraction.trim_end_matches('0').is_empty() => MILLISECOND_NS,
        SECOND_NS if fraction.len() <= 3 => MILLISECOND_NS,
        1 => 1,
        _ => MICROSECOND_NS,
    };
    Some(Time { ns: whole.checked_mul(unit_ns)?.checked_add(fraction_ns)?, precision_ns })
}

fn parse_iso(text: &str) -> Option<Time> {
    let timestamp: jiff::Timestamp = match text.parse() {
        Ok(timestamp) => timestamp,
        Err(_) => text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(),
    };
    let fraction_digits = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    let precision_ns = match fraction_digits {
        0..=3 => MILLISECOND_NS,
        4..=6 => MICROSECOND_NS,
        _ => 1,
    };
    Some(Time { ns: i64::try_from(timestamp.as_nanosecond()).ok()?, precision_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_instant_is_the_same_time() {
        const INSTANT_NS: i64 = 1_795_362_443_850_000_000;
        for (text, precision_ns) in [
            ("1795362443.85", MILLISECOND_NS),
            ("1795362443.8500001", MICROSECOND_NS),
            ("1.79536244385e9", MICROSECOND_NS),
            ("1795362443850", MILLISECOND_NS),
            ("1795362443850.0", MILLISECOND_NS),
            ("1795362443850000", MICROSECOND_NS),
            ("1795362443850000000", 1),
            ("2026-11-22T15:47:23.850Z", MILLISECOND_NS),
            ("2026-11-22T15:47:23.850000+00:00", MICROSECOND_NS),
            ("2026-11-22T16:47:23.850000+01:00", MICROSECOND_NS),
            ("2026-11-22T15:47:23.850000", MICROSECOND_NS),
            ("2026-11-22 15:47:23.850000000", 1),
        ] {
            let time = parse(text).unwrap_or_else(|| panic!("{text} is a time"));
            assert!((time.ns - INSTANT_NS).abs() <= 100, "{text} gave {}", time.ns);
            assert_eq!(time.precision_ns, precision_ns, "{text}");
        }
    }

    #[test]
    fn digits_beyond_a_double_are_kept() {
        assert_eq!(parse("1795363157.1329603").map(|time| time.ns), Some(1_795_363_157_132_960_300));
        assert_eq!(parse("1795363527493000001").map(|time| time.ns), Some(1_795_363_527_493_000_001));
    }

    #[test]
    fn text_that_is_no_time_is_none() {
        for text in ["", "0", "0.0", "-5", "NaN", "soon", "1.2.3", "99999999999999999999", "1969-12-31T23:59:59Z", ".5"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
