//! Lengths of time as people write them: `90s`, `5m`, `24h`, `30d`.

use std::time::Duration;

/// Why a text is not a length of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Not digits and one of the units.
    #[error("expected a whole number and a unit (ms, s, m, h, d), like \"5m\"")]
    Form,
    /// Does not fit.
    #[error("too long a time")]
    TooLong,
}

/// Reads a whole number and its unit, without anything between: `ms`, `s`, `m`, `h` or `d` (24 hours).
///
/// # Errors
/// [`DurationError`] for any other form, and for what does not fit in 64 bits of milliseconds.
///
/// ```
/// use std::time::Duration;
/// use blazedb_core::topology::parse_duration;
/// assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
/// assert!(parse_duration("5").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(DurationError::Form)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Form),
    };
    if number.is_empty() {
        return Err(DurationError::Form);
    }
    let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or(DurationError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "m", "5", "-5m", "5 m", "1.5h", "5M", "1h30m", "5µs"] {
            assert_eq!(parse_duration(text), Err(DurationError::Form), "{text}");
        }
        for text in ["99999999999999999999s", "213503982335d"] {
            assert_eq!(parse_duration(text), Err(DurationError::TooLong), "{text}");
        }
    }
}
