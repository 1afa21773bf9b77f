//! Full-text search (SQLite's FTS5).
//!
//! Invariant: the index holds the words of exactly those records that are there, whoever wrote them. Triggers on
//! the table `records` keep it so, in the transaction of the write; the index has no text of its own and reads
//! bodies through a view. Which fields it covers stands in `meta`; when that changes it is made anew.
//!
//! `bz_text(body, n)` is the text of field number `n`: a string, or the strings in a list, set or map.

use blazedb_core::blazebinary::{FieldNo, RawValue, Scalar, get_field};
use blazedb_core::limits::{MAX_SEARCH_BYTES, MAX_SEARCH_TERMS};
use blazedb_core::{Filter, Record, Value};
use blazedb_sqlite::rusqlite::functions::{Context, FunctionFlags};
use blazedb_sqlite::rusqlite::{Connection, Result};

use crate::error::{QueryProblem, StoreError};
use crate::functions::now;
use crate::query::{clamp, decode, id_and_body};
use crate::ranking::Totals;
use crate::row::ALIVE;
use crate::schema::{meta, set_meta};
use crate::sql_filter::{SqlParam, compile_for};
use crate::store::{Store, Writer};

/// What to search for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Words that a record must have; see `docs/spec/query.md`.
    pub text: String,
    /// Only records that match.
    pub filter: Option<Filter>,
    /// Only records that these are shown: neither a hit nor a rank tells anything of the others.
    pub shown: Option<Filter>,
    /// At most so many.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: u64,
    /// What stands before and behind each word found in a snippet.
    pub marks: (String, String),
}

impl Search {
    /// All records that have the words of `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let marks = ("[".to_owned(), "]".to_owned());
        Self { text: text.into(), filter: None, shown: None, limit: None, offset: 0, marks }
    }
}

/// A record that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct SearchHit {
    /// The record.
    pub record: Record,
    /// How well it fits (Okapi BM25): higher is better. It compares with other hits of the same search only.
    pub score: f64,
    /// The passage of it that fits best.
    pub snippet: String,
}

/// How the index is made; with another one it is made anew.
const INDEX_VERSION: u32 = 1;
/// Words of a snippet.
const SNIPPET_WORDS: u32 = 16;

impl Store {
    /// Says which fields are searched: makes the index, makes it anew, or removes it, if that is not what there is.
    ///
    /// # Errors
    /// If a field's name can't be used, or the file can't be written.
    pub fn set_search_fields(&self, fields: &[String]) -> std::result::Result<(), StoreError> {
        let wanted = declaration(fields);
        if self.search_declaration()?.unwrap_or_else(|| declaration(&[])) == wanted {
            return Ok(());
        }
        self.commit(|writer| {
            drop_index(&writer.db).map_err(|error| self.sqlite(error))?;
            if !fields.is_empty() {
                self.make_index(writer, fields)?;
            }
            set_meta(&writer.db, "search", wanted.as_str()).map_err(|error| self.sqlite(error))
        })
    }

    /// The fields that are searched.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn search_fields(&self) -> std::result::Result<Vec<String>, StoreError> {
        let declared = self.search_declaration()?.unwrap_or_default();
        let fields = declared.split_once(' ').map_or("[]", |(_, fields)| fields);
        Ok(serde_json::from_str(fields).unwrap_or_default())
    }

    /// What does not hold in the index, if anything: FTS5 compares it with the text that it was made of.
    pub(crate) fn search_problem(&self) -> std::result::Result<Option<String>, StoreError> {
        if self.search_fields()?.is_empty() {
            return Ok(None);
        }
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        let checked = writer.db.execute("INSERT INTO search(search,rank) VALUES('integrity-check',1)", []);
        Ok(checked.err().map(|error| {
            format!("the search index contradicts the records ({error}): name other fields, then these again")
        }))
    }

    fn search_declaration(&self) -> std::result::Result<Option<String>, StoreError> {
        self.read_once(|db| meta(db, "search").map_err(|error| self.sqlite(error)))
    }

    fn make_index(&self, writer: &mut Writer, fields: &[String]) -> std::result::Result<(), StoreError> {
        let mut numbers = Vec::with_capacity(fields.len());
        for field in fields {
            numbers.push(writer.names.intern_field(&writer.db, field)?);
        }
        writer.db.execute_batch(&index_sql(&numbers)).map_err(|error| self.sqlite(error))
    }

    /// Calls `visit` with every record that is found, the best first, until it answers false.
    ///
    /// # Errors
    /// [`QueryProblem`] about the text, [`QueryProblem::NoSearch`], and if the file can't be read.
    pub fn search(
        &self,
        wanted: &Search,
        mut visit: impl FnMut(SearchHit) -> bool,
    ) -> std::result::Result<(), StoreError> {
        let expression = match_expression(&wanted.text)?;
        if self.search_fields()?.is_empty() {
            return Err(QueryProblem::NoSearch.into());
        }
        self.read(|db| {
            let names = self.names();
            let mut found = format!(
                " FROM search CROSS JOIN records r ON r.seq=search.rowid WHERE search MATCH ? AND r.state={ALIVE}"
            );
            let mut params = vec![SqlParam::Text(expression)];
            for filter in wanted.shown.iter().chain(&wanted.filter) {
                let condition = compile_for(filter, &*names, now(), Some("r"));
                found.push_str(&format!(" AND {}", condition.sql));
                params.extend(condition.params);
            }
            let (score, weights) = match wanted.shown {
                None => ("-search.rank", None),
                Some(_) => ("bz_rank(bz_hits(search),?)", Some(self.weights(db, &found, &params)?)),
            };
            let (open, close) = wanted.marks.clone();
            let head = weights.into_iter().map(SqlParam::Blob);
            let head = head.chain([SqlParam::Text(open), SqlParam::Text(close)]).collect::<Vec<_>>();
            let order = if wanted.shown.is_none() { "search.rank" } else { "3 DESC, r.id" };
            let sql = format!(
                "SELECT r.id, r.body, {score}, snippet(search,-1,?,?,'…',{SNIPPET_WORDS}){found}
                 ORDER BY {order} LIMIT {} OFFSET {}",
                wanted.limit.map_or(-1, clamp),
                clamp(wanted.offset)
            );
            self.each(db, &sql, &[head, params].concat(), |row| {
                let (id, body) = id_and_body(row)?;
                let record = decode(id, body, &names, None)?;
                let snippet = row.get::<_, Option<String>>(3)?.unwrap_or_default();
                Ok(visit(SearchHit { record, score: row.get(2)?, snippet }))
            })
        })
    }

    /// What the hits weigh that count.
    fn weights(
        &self,
        db: &Connection,
        found: &str,
        params: &[SqlParam],
    ) -> std::result::Result<Vec<u8>, StoreError> {
        let mut totals = Totals::default();
        self.each(db, &format!("SELECT bz_hits(search){found}"), params, |row| {
            totals.add(row.get_ref(0)?.as_blob().unwrap_or_default());
            Ok(true)
        })?;
        Ok(totals.weights())
    }
}

fn declaration(fields: &[String]) -> String {
    format!("{INDEX_VERSION} {}", serde_json::json!(fields))
}

fn drop_index(db: &Connection) -> Result<()> {
    db.execute_batch(
        "DROP TRIGGER IF EXISTS search_insert; DROP TRIGGER IF EXISTS search_update;
         DROP TRIGGER IF EXISTS search_delete; DROP TABLE IF EXISTS search; DROP VIEW IF EXISTS search_text;",
    )
}

fn index_sql(fields: &[FieldNo]) -> String {
    let columns: Vec<String> = (0..fields.len()).map(|at| format!("c{at}")).collect();
    let columns = columns.join(",");
    let texts = |row: &str| {
        let texts: Vec<String> = fields.iter().map(|no| format!("bz_text({row}body,{no})")).collect();
        texts.join(",")
    };
    let named: Vec<String> =
        fields.iter().enumerate().map(|(at, no)| format!("bz_text(body,{no}) AS c{at}")).collect();
    let (named, new, old) = (named.join(","), texts("new."), texts("old."));
    let add = format!("INSERT INTO search(rowid,{columns}) SELECT new.seq,{new} WHERE new.state={ALIVE};");
    let remove = format!(
        "INSERT INTO search(search,rowid,{columns}) SELECT 'delete',old.seq,{old} WHERE old.state={ALIVE};"
    );
    format!(
        "CREATE VIEW search_text AS SELECT seq,{named} FROM records WHERE state={ALIVE};
         CREATE VIRTUAL TABLE search USING fts5({columns},content='search_text',content_rowid='seq',
             tokenize='unicode61 remove_diacritics 2');
         INSERT INTO search(search) VALUES('rebuild');
         CREATE TRIGGER search_insert AFTER INSERT ON records BEGIN {add} END;
         CREATE TRIGGER search_update AFTER UPDATE OF seq,state,body ON records BEGIN {remove} {add} END;
         CREATE TRIGGER search_delete AFTER DELETE ON records BEGIN {remove} END;"
    )
}

/// Adds the function to a connection.
pub(crate) fn register(db: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("bz_text", 2, flags | FunctionFlags::SQLITE_INNOCUOUS, |ctx| Ok(text(ctx)))
}

fn text(ctx: &Context<'_>) -> Option<String> {
    let body = ctx.get_raw(0).as_blob().ok()?;
    let raw = get_field(body, ctx.get(1).ok()?)?;
    text_of(&raw)
}

fn text_of(raw: &RawValue<'_>) -> Option<String> {
    match raw.scalar().ok()? {
        Scalar::Str(text) => Some(text.as_str().to_owned()),
        Scalar::Composite if raw.vector_bytes().is_none() => {
            let mut text = String::new();
            collect(&raw.decode().ok()?, &mut text);
            (!text.is_empty()).then_some(text)
        }
        _ => None,
    }
}

/// Strings at every depth, a line each: no phrase reaches over two of them by chance alone.
fn collect(value: &Value, text: &mut String) {
    match value {
        Value::String(string) => {
            text.push_str(string);
            text.push('\n');
        }
        Value::Array(elements) | Value::Set(elements) => elements.iter().for_each(|e| collect(e, text)),
        Value::Map(entries) => entries.values().for_each(|value| collect(value, text)),
        _ => {}
    }
}

/// A part of a search text.
struct Term {
    text: String,
    prefix: bool,
    without: bool,
}

impl Term {
    fn expression(&self) -> String {
        format!("\"{}\"{}", self.text.replace('"', "\"\""), if self.prefix { "*" } else { "" })
    }
}

/// The search text in FTS5's own language. Every word of it is quoted, so no text is a syntax error there.
fn match_expression(text: &str) -> std::result::Result<String, QueryProblem> {
    if text.len() > MAX_SEARCH_BYTES {
        return Err(QueryProblem::SearchTooLong { bytes: text.len(), limit: MAX_SEARCH_BYTES });
    }
    let mut alternatives = vec![Vec::new()];
    let mut terms = 0;
    let mut rest = text;
    while let Some((term, after)) = next_term(rest) {
        rest = after;
        match term {
            None => alternatives.push(Vec::new()),
            // Punctuation alone is in no index.
            Some(term) if !term.text.chars().any(char::is_alphanumeric) => {}
            Some(term) => {
                terms += 1;
                if terms > MAX_SEARCH_TERMS {
                    return Err(QueryProblem::TooManyTerms { limit: MAX_SEARCH_TERMS });
                }
                if let Some(last) = alternatives.last_mut() {
                    last.push(term);
                }
            }
        }
    }
    let alternatives: Vec<_> = alternatives.iter().filter(|terms| !terms.is_empty()).collect();
    if alternatives.is_empty() {
        return Err(QueryProblem::NoWord);
    }
    let mut expressions = Vec::new();
    for terms in alternatives {
        let part = |without| terms.iter().filter(move |term| term.without == without).map(Term::expression);
        let wanted = part(false).collect::<Vec<_>>().join(" AND ");
        if wanted.is_empty() {
            return Err(QueryProblem::OnlyWithout);
        }
        let without: String = part(true).map(|term| format!(" NOT {term}")).collect();
        expressions.push(format!("(({wanted}){without})"));
    }
    Ok(expressions.join(" OR "))
}

/// The next term (`None` inside for `OR`) and what follows it.
fn next_term(text: &str) -> Option<(Option<Term>, &str)> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
    if text.is_empty() {
        return None;
    }
    let (without, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (word, rest, quoted) = match text.strip_prefix('"') {
        // A phrase that does not end, ends with the text.
        Some(phrase) => {
            let (phrase, rest) = phrase.split_once('"').unwrap_or((phrase, ""));
            (phrase, rest, true)
        }
        None => {
            let end = text.find(|c: char| c.is_whitespace() || c == '"' || c == '\0').unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            (word, rest, false)
        }
    };
    if word == "OR" && !quoted && !without {
        return Some((None, rest));
    }
    let (word, prefix, rest) = match (quoted, word.strip_suffix('*'), rest.strip_prefix('*')) {
        (false, Some(word), _) => (word, true, rest),
        (true, _, Some(rest)) => (word, true, rest),
        _ => (word, false, rest),
    };
    Some((Some(Term { text: word.replace('\0', " "), prefix, without }), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_texts_become_quoted_expressions() {
        for (text, expression) in [
            ("crash", r#"(("crash"))"#),
            ("crash start*", r#"(("crash" AND "start"*))"#),
            (r#""on start" -linux"#, r#"(("on start") NOT "linux")"#),
            (r#"a OR "b c"*"#, r#"(("a")) OR (("b c"*))"#),
            (r#"x AND y"#, r#"(("x" AND "AND" AND "y"))"#),
            (r#"title:x NEAR(a b)"#, r#"(("title:x" AND "NEAR(a" AND "b)"))"#),
            (r#"say"open phrase"#, r#"(("say" AND "open phrase"))"#),
            ("a !!! OR", r#"(("a"))"#),
            ("nul\0in", r#"(("nul" AND "in"))"#),
        ] {
            assert_eq!(match_expression(text).unwrap(), expression, "{text}");
        }
        assert_eq!(match_expression(""), Err(QueryProblem::NoWord));
        assert_eq!(match_expression("*** \"\" OR -"), Err(QueryProblem::NoWord));
        assert_eq!(match_expression("a OR -b"), Err(QueryProblem::OnlyWithout));
        assert!(matches!(match_expression(&"a ".repeat(65)), Err(QueryProblem::TooManyTerms { .. })));
        assert!(matches!(match_expression(&"a".repeat(5_000)), Err(QueryProblem::SearchTooLong { .. })));
    }
}
