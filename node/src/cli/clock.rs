//! Dates and durations as people write them. UTC only: block time has no
//! zone, and a date must mean the same on every machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tally_ledger::ids::Time;

/// This machine's clock.
pub(crate) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time(since.as_millis() as u64)
}

/// Parses `2026-01-31`, `2026-01-31T12:30:00Z` or `never`.
pub(crate) fn parse_date(text: &str) -> Result<Time, String> {
    if text == "never" {
        return Ok(Time(u64::MAX));
    }
    let error = || format!("`{text}` is no UTC date such as 2026-01-31 or 2026-01-31T12:30:00Z");
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z').ok_or_else(error)?),
        None => (text, "00:00:00"),
    };
    let date = fields::<3>(date, '-').ok_or_else(error)?;
    let time = fields::<3>(time, ':').ok_or_else(error)?;
    let ([year, month, day], [hour, minute, second]) = (date, time);
    let lawful = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !lawful {
        return Err(error());
    }
    let days = days_since_1970(year, month, day);
    Ok(Time(
        (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000,
    ))
}

fn fields<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let parts: Vec<u64> = text
        .split(separator)
        .map(|part| {
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| part.parse().ok())?
        })
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|y| 365 + u64::from(is_leap(y))).sum();
    let months: u64 = (1..month).map(|m| days_of_month(year, m)).sum();
    years + months + day - 1
}

/// Prints what [`parse_date`] reads, to the second.
pub(crate) fn show_date(time: Time) -> String {
    if time.0 == u64::MAX {
        return "never".to_owned();
    }
    let (mut days, seconds) = (time.0 / 86_400_000, time.0 / 1000 % 86_400);
    let mut year = 1970;
    while year < 10_000 && days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    if year == 10_000 {
        return format!("{} ms", time.0);
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

/// Parses `500ms`, `30s`, `10m`, `24h` or `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is no duration such as 500ms, 30s, 10m, 24h or 7d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_back() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799_000),
            ("2026-01-31T12:30:00Z", 1_769_862_600_000),
            ("never", u64::MAX),
        ] {
            assert_eq!(parse_date(text), Ok(Time(ms)), "{text}");
            assert_eq!(show_date(Time(ms)), text);
        }
        assert_eq!(parse_date("2026-01-31"), Ok(Time(1_769_817_600_000)));
        for bad in [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-01-31T24:00:00Z",
            "31.1.2026",
            "+2026-01-31",
        ] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "h", "1.5h", "-1s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
