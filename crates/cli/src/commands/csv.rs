//! CSV as records: RFC 4180, the fields' names in the first line.
//!
//! A cell that reads as a JSON number, `true` or `false` is that; an empty one is no field; anything else is text.

use std::io::{self, BufRead};

use serde_json::{Map, Value as Json};

/// The longest row, in bytes.
const MAX_ROW: usize = 32 << 20;

/// Why CSV is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum CsvError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a quoted cell is not closed")]
    OpenQuote,
    #[error("text behind the closing quote of a cell")]
    BehindQuote,
    #[error("not UTF-8")]
    Utf8,
    #[error("the row is longer than {MAX_ROW} bytes")]
    TooLong,
    #[error("{found} cells, and the first line names {named} fields")]
    Cells { found: usize, named: usize },
    #[error("the first line names {0:?} twice")]
    Twice(String),
}

/// Rows of a CSV file.
#[derive(Debug)]
pub(super) struct Rows<R> {
    reader: R,
    names: Vec<String>,
    /// The line that the next row starts on.
    line: u64,
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(reader: R) -> Result<Self, CsvError> {
        let mut rows = Self { reader, names: Vec::new(), line: 1 };
        let names = rows.cells()?.unwrap_or_default();
        if let Some(name) =
            names.iter().enumerate().find_map(|(at, name)| names.iter().take(at).find(|n| *n == name))
        {
            return Err(CsvError::Twice(name.clone()));
        }
        Ok(Self { names, ..rows })
    }

    pub(super) const fn line(&self) -> u64 {
        self.line
    }

    /// The next row as a JSON object, with the line it starts on.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Json)>, CsvError> {
        loop {
            let line = self.line;
            let Some(cells) = self.cells()? else { return Ok(None) };
            if cells.iter().all(String::is_empty) {
                continue;
            }
            if cells.len() != self.names.len() {
                return Err(CsvError::Cells { found: cells.len(), named: self.names.len() });
            }
            let fields = self.names.iter().cloned().zip(cells).filter(|(_, cell)| !cell.is_empty());
            let record: Map<String, Json> = fields
                .map(
                    |(name, cell)| {
                        if name == "id" { (name, Json::String(cell)) } else { (name, value(cell)) }
                    },
                )
                .collect();
            return Ok(Some((line, Json::Object(record))));
        }
    }

    /// The cells of one row; a quoted cell may go over several lines.
    fn cells(&mut self) -> Result<Option<Vec<String>>, CsvError> {
        let mut row = Vec::new();
        let mut lines = 0;
        loop {
            if self.reader.read_until(b'\n', &mut row)? == 0 {
                if lines > 0 {
                    return Err(CsvError::OpenQuote);
                }
                return Ok(None);
            }
            lines += 1;
            if row.len() > MAX_ROW {
                return Err(CsvError::TooLong);
            }
            let quotes = row.iter().filter(|byte| **byte == b'"').count();
            if quotes % 2 == 0 {
                break;
            }
        }
        let text = std::str::from_utf8(&row).map_err(|_| CsvError::Utf8)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let cells = split(text.strip_suffix('\r').unwrap_or(text))?;
        self.line += lines;
        Ok(Some(cells))
    }
}

fn split(mut row: &str) -> Result<Vec<String>, CsvError> {
    let mut cells = Vec::new();
    loop {
        let rest = match row.strip_prefix('"') {
            Some(mut quoted) => {
                let mut cell = String::new();
                loop {
                    let (text, behind) = quoted.split_once('"').ok_or(CsvError::OpenQuote)?;
                    cell.push_str(text);
                    match behind.strip_prefix('"') {
                        Some(more) => {
                            cell.push('"');
                            quoted = more;
                        }
                        None => {
                            quoted = behind;
                            break;
                        }
                    }
                }
                cells.push(cell);
                quoted
            }
            None => {
                let end = row.find(',').unwrap_or(row.len());
                let (cell, rest) = row.split_at(end);
                cells.push(cell.to_owned());
                rest
            }
        };
        match rest.strip_prefix(',') {
            Some(next) => row = next,
            None if rest.is_empty() => return Ok(cells),
            None => return Err(CsvError::BehindQuote),
        }
    }
}

fn value(cell: String) -> Json {
    match serde_json::from_str(&cell) {
        Ok(value @ (Json::Bool(_) | Json::Number(_))) if cell.trim() == cell => value,
        _ => Json::String(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Vec<(u64, Json)>, CsvError> {
        let mut rows = Rows::new(text.as_bytes())?;
        std::iter::from_fn(|| rows.next().transpose()).collect()
    }

    #[test]
    fn cells_are_typed_and_rows_know_their_line() {
        let text = "title,n,ok,zip\r\n\"a, \"\"b\"\"\nc\",5,true,007\r\n\nplain,1.5,,x\n";
        let expected = [
            (2, json!({"title": "a, \"b\"\nc", "n": 5, "ok": true, "zip": "007"})),
            (5, json!({"title": "plain", "n": 1.5, "zip": "x"})),
        ];
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_csv_is_told() {
        for (text, part) in
            [("a,b\n1\n", "1 cells"), ("a\n\"x", "not closed"), ("a\n\"x\"y\n", "behind"), ("a,a\n", "twice")]
        {
            assert!(read(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}
