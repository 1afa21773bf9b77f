//! What was measured, as a table and as JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value as Json, json};

/// What a ratio should reach.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
}

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(floor) => ratio >= floor,
            Self::AtMost(ceiling) => ratio <= ceiling,
        }
    }

    fn to_text(self) -> String {
        match self {
            Self::AtLeast(floor) => format!(">= {}", short(floor)),
            Self::AtMost(ceiling) => format!("<= {}", short(ceiling)),
        }
    }
}

/// The middle one of several rounds, in the order of `key`: one round says little on a machine that does other
/// things besides. `None` if there is none.
pub(crate) fn middle<T>(mut rounds: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    rounds.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let at = rounds.len() / 2;
    rounds.into_iter().nth(at)
}

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Measure {
    /// The workload and what of it.
    pub name: String,
    /// Ours, in `unit`.
    pub value: f64,
    /// The unit of `value` and `reference`.
    pub unit: &'static str,
    /// What it is compared with, in `unit`; `None` for a figure without a reference.
    pub reference: Option<f64>,
    /// What `value / reference` should reach.
    pub target: Option<Target>,
}

impl Measure {
    /// A figure without a reference.
    #[must_use]
    pub fn alone(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, reference: None, target: None }
    }

    /// A figure and what it is compared with.
    #[must_use]
    pub fn beside(name: impl Into<String>, value: f64, unit: &'static str, reference: f64) -> Self {
        Self { reference: Some(reference), ..Self::alone(name, value, unit) }
    }

    /// The same with a target for the ratio.
    #[must_use]
    pub const fn reach(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Ours divided by the reference.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.reference.map(|reference| self.value / reference)
    }

    /// Whether the target is met; `None` if there is none.
    #[must_use]
    pub fn ok(&self) -> Option<bool> {
        Some(self.target?.is_met(self.ratio()?))
    }
}

/// An array with one object per figure.
#[must_use]
pub fn to_json(measures: &[Measure]) -> Json {
    let object = |measure: &Measure| {
        json!({
            "name": measure.name,
            "value": measure.value,
            "unit": measure.unit,
            "reference": measure.reference,
            "ratio": measure.ratio(),
            "target": measure.target.map(Target::to_text),
            "ok": measure.ok(),
        })
    };
    measures.iter().map(object).collect()
}

/// A table for people: one line per figure, aligned.
#[must_use]
pub fn to_table(measures: &[Measure]) -> String {
    let mut rows = vec![["", "ours", "reference", "unit", "ratio", "target", ""].map(str::to_owned)];
    for measure in measures {
        rows.push([
            measure.name.clone(),
            short(measure.value),
            measure.reference.map(short).unwrap_or_default(),
            measure.unit.to_owned(),
            measure.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            measure.target.map(Target::to_text).unwrap_or_default(),
            measure.ok().map(|ok| if ok { "ok" } else { "short" }.to_owned()).unwrap_or_default(),
        ]);
    }
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut table = String::new();
    for row in &rows {
        let mut line = String::new();
        for (at, (width, cell)) in widths.iter().zip(row).enumerate() {
            // Numbers are aligned to the right; writing to a string can't fail.
            let _ = match at {
                1 | 2 | 4 => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// Prints to stdout; what can't be printed there can't be printed anywhere.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Three significant digits, more for large numbers.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        small if small < 0.1 => format!("{value:.4}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_about_the_ratio_and_in_one_direction() {
        let slow = Measure::beside("a", 5.0, "/s", 10.0);
        assert_eq!(slow.ok(), None);
        assert_eq!(slow.clone().reach(Target::AtLeast(0.5)).ok(), Some(true));
        assert_eq!(slow.clone().reach(Target::AtLeast(0.51)).ok(), Some(false));
        assert_eq!(slow.clone().reach(Target::AtMost(0.49)).ok(), Some(false));
        assert_eq!(slow.reach(Target::AtMost(0.5)).ok(), Some(true));
        assert_eq!(Measure::alone("b", 1.0, "MiB").reach(Target::AtMost(1.0)).ok(), None);
    }

    #[test]
    fn both_forms_say_the_same() {
        let measures = [
            Measure::beside("local: insert", 123_456.0, "/s", 200_000.0).reach(Target::AtLeast(0.6)),
            Measure::alone("bulk: time", 1.5, "s"),
        ];
        let json = to_json(&measures);
        assert_eq!(json[0]["ok"], true);
        assert_eq!(json[0]["target"], ">= 0.60");
        assert!(json[1]["reference"].is_null() && json[1]["ok"].is_null());
        let table = to_table(&measures);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("123456") && lines[1].ends_with("ok"), "{table}");
        assert!(lines[2].ends_with(" s"), "{table}");
    }
}
