//! Literals and their text: times, durations and the values written in a filter.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::value::{Timestamp, Value};

/// Microseconds of each unit of a duration, longest first.
const UNITS: [(&str, i64); 7] = [
    ("w", 7 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The time that an RFC 3339 text names; what is finer than a microsecond is cut off.
pub(super) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).ok().map(Timestamp)
}

/// The RFC 3339 text of a time; `None` outside of the years 0 to 9999, which is all that it can write.
fn format_timestamp(time: Timestamp) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000).ok()?;
    time.format(&Rfc3339).ok()
}

pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok()
}

pub(super) fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

pub(super) fn parse_float(text: &str) -> Option<f64> {
    text.parse().ok().filter(|float: &f64| !float.is_nan())
}

/// A number token with its sign: an int if it has neither point nor exponent. `None` if it is out of range.
pub(super) fn parse_number(text: &str, negative: bool) -> Option<Value> {
    let sign = if negative { "-" } else { "" };
    let signed = format!("{sign}{text}");
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return signed.parse().ok().map(Value::Int);
    }
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    plain.then(|| signed.parse().ok()).flatten().filter(|float: &f64| float.is_finite()).map(Value::Float)
}

/// Microseconds of a duration such as `24h`, `1h30m`, `-1.5s`; units are w, d, h, m, s, ms, us.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let mut total: i64 = 0;
    while let Some((amount, unit, after)) = split_duration(rest) {
        total = total.checked_add(scale(amount, unit)?)?;
        rest = after;
    }
    let whole = rest.is_empty() && !text.is_empty() && text != "-";
    whole.then_some(if negative { -total } else { total })
}

/// The first amount, its unit in microseconds, and what follows.
fn split_duration(text: &str) -> Option<(&str, i64, &str)> {
    let (amount, rest) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let (unit, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
    let (_, micros) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    Some((amount, micros, rest))
}

/// `amount` with an optional decimal part, times `micros`; what is finer than a microsecond is cut off.
fn scale(amount: &str, micros: i64) -> Option<i64> {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, "0"));
    let digits =
        |text: &str| !text.is_empty() && text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let denominator = 10_i128.pow(u32::try_from(part.len()).ok()?);
    let fraction = part.parse::<i128>().ok()? * i128::from(micros) / denominator;
    whole.parse::<i64>().ok()?.checked_mul(micros)?.checked_add(i64::try_from(fraction).ok()?)
}

/// ` + duration("..")` or ` - duration("..")`; nothing for zero.
pub(super) fn write_offset(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    let sign = if micros < 0 { '-' } else { '+' };
    let fitting = UNITS.into_iter().find(|(_, unit)| micros % unit == 0);
    let (unit, size) = fitting.unwrap_or(("us", 1));
    write!(f, " {sign} duration(\"{}{unit}\")", (micros / size).unsigned_abs())
}

/// The text of a literal, which parses to an equal one.
pub(super) fn write_value(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Null => f.write_str("null"),
        Value::Bool(value) => write!(f, "{value}"),
        Value::Int(value) | Value::Counter(value) => write!(f, "{value}"),
        Value::Float(value) => write_float(f, *value),
        Value::String(text) => write_string(f, text),
        Value::Bytes(bytes) => write!(f, "bytes(\"{}\")", BASE64.encode(bytes)),
        Value::Uuid(uuid) => write!(f, "uuid(\"{}\")", uuid.as_hyphenated()),
        Value::Timestamp(time) => write_timestamp(f, *time),
        Value::Array(elements) | Value::Set(elements) => write_list(f, elements, write_value),
        Value::Vector(floats) => write_list(f, floats, |f, float| write_float(f, f64::from(*float))),
        Value::Map(entries) => {
            f.write_char('{')?;
            for (nth, (key, value)) in entries.iter().enumerate() {
                f.write_str(if nth == 0 { "" } else { ", " })?;
                write_string(f, key)?;
                f.write_str(": ")?;
                write_value(f, value)?;
            }
            f.write_char('}')
        }
    }
}

fn write_list<T>(
    f: &mut fmt::Formatter<'_>,
    elements: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char('[')?;
    for (nth, element) in elements.iter().enumerate() {
        f.write_str(if nth == 0 { "" } else { ", " })?;
        write(f, element)?;
    }
    f.write_char(']')
}

fn write_float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    // Negative zero equals zero, and equal filters have equal texts.
    let value = if value == 0.0 { 0.0 } else { value };
    if value.is_finite() { write!(f, "{value:?}") } else { write!(f, "float(\"{value}\")") }
}

fn write_timestamp(f: &mut fmt::Formatter<'_>, time: Timestamp) -> fmt::Result {
    if let Some(text) = format_timestamp(time) {
        return write!(f, "timestamp(\"{text}\")");
    }
    // Two steps reach every time, also i64::MIN, whose distance from the epoch is not a duration.
    let half = time.0 / 2;
    f.write_str("timestamp(\"1970-01-01T00:00:00Z\")")?;
    write_offset(f, half)?;
    write_offset(f, time.0 - half)
}

pub(super) fn write_string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
