//! Points in time, as a user writes them.

use std::time::{Duration, UNIX_EPOCH};

use crate::exit::Failure;

/// The form of a day.
const DAY: &str = "2026-11-21";

/// Milliseconds since 1970 of `2026-11-21T12:00:00Z`, of `1795262400000` or `@1795262400000`, or of `-1h`, which is an hour
/// before `now_ms`. Without a zone a date is one of UTC; a day alone is its beginning.
pub(crate) fn parse(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "'{text}' is no time: write 2026-11-21T12:00:00Z or 2026-11-21, milliseconds since 1970, or -1h for an hour \
             ago"
        ))
    };
    // As `group reset` has it, where a bare number is an offset.
    if let Some(milliseconds) = text.strip_prefix('@') {
        return milliseconds.parse().map_err(|_| wrong());
    }
    if let Some(age) = text.strip_prefix('-')
        && let Ok(age) = humantime::parse_duration(age)
    {
        return Ok(now_ms.saturating_sub(millis(age)));
    }
    // A minus is for ages, and an age has a unit.
    if let Ok(milliseconds) = text.parse::<u64>() {
        return i64::try_from(milliseconds).map_err(|_| wrong());
    }
    let midnight = (text.len() == DAY.len()).then(|| format!("{text} 00:00:00"));
    let time = humantime::parse_rfc3339_weak(midnight.as_deref().unwrap_or(text));
    let time = time.map_err(|_| wrong())?;
    time.duration_since(UNIX_EPOCH).map(millis).map_err(|_| wrong())
}

/// A point in time as it is shown, in UTC.
pub(crate) fn show(milliseconds: i64) -> String {
    let since = Duration::from_millis(milliseconds.unsigned_abs());
    let time = match milliseconds < 0 {
        true => UNIX_EPOCH.checked_sub(since),
        false => UNIX_EPOCH.checked_add(since),
    };
    // What a calendar does not reach is shown as it is.
    match time.filter(|_| (0..253_402_300_800_000).contains(&milliseconds)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => milliseconds.to_string(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_number_or_an_age() {
        let now = 1_700_000_000_000;
        for (text, expected) in [
            ("2023-11-14T22:13:20Z", now),
            ("2023-11-14 22:13:20", now),
            ("2023-11-14", now - 80_000_000),
            ("1700000000000", now),
            ("@1700000000000", now),
            ("-1h", now - 3_600_000),
            ("-2m 30s", now - 150_000),
        ] {
            assert_eq!(parse(text, now).unwrap(), expected, "{text}");
        }
        for wrong in ["yesterday", "", "-1", "-1y2", "2023-13-01T00:00:00Z", "2023-02-30"] {
            let error = parse(wrong, now).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{wrong}' is no time")), "{error}");
        }
    }

    #[test]
    fn a_time_is_shown_in_utc() {
        assert_eq!(show(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!((show(-1), show(i64::MAX)), ("-1".to_owned(), i64::MAX.to_string()));
    }
}
