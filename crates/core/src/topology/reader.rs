//! Typed access to a parsed TOML document, with the place of everything that is wrong.
//!
//! Invariants: a section is opened with the keys it may have, so no unknown key is ever skipped; every string has
//! its `${NAME}` replaced before anyone sees it, and what replaces it is never parsed as TOML.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{SpecError, SpecErrorKind, ValueError};
use super::policy::FilterText;
use super::toml_file::{FilterUse, ParseContext};
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_FILTER_BYTES, MAX_LINKS};

/// The file's text and the look-ups that its reader was given.
pub(super) struct Source<'s> {
    pub(super) text: &'s str,
    pub(super) context: &'s ParseContext<'s>,
}

impl Source<'_> {
    /// An error at a byte offset.
    pub(super) fn error(&self, offset: usize, kind: impl Into<SpecErrorKind>) -> SpecError {
        let (line, column) = self.place(offset);
        SpecError { line, column, kind: kind.into() }
    }

    /// Line and column of a byte offset, both from 1.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }
}

/// A string value, its variables replaced.
pub(super) struct Word {
    pub(super) text: String,
    pub(super) start: usize,
    /// Byte offset of the first character, if the file shows the text just as it is.
    verbatim: Option<usize>,
}

/// One table of the file.
#[derive(Clone)]
pub(super) struct Section<'s> {
    pub(super) source: &'s Source<'s>,
    /// As people write it: `[databases.bugs.policy]`.
    pub(super) label: String,
    /// Where it is named, as a byte offset.
    pub(super) start: usize,
    table: &'s DeTable<'s>,
}

type Result<T> = std::result::Result<T, SpecError>;

impl<'s> Section<'s> {
    /// The whole document.
    pub(super) fn root(source: &'s Source<'s>, table: &'s DeTable<'s>) -> Self {
        Self { source, label: "the topology file".to_owned(), start: 0, table }
    }

    /// Refuses the first key that is not `valid`.
    pub(super) fn only(&self, valid: &'static [&'static str]) -> Result<()> {
        let unknown = self.table.keys().filter(|key| !valid.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let kind =
            SpecErrorKind::UnknownKey { key: key.get_ref().to_string(), section: self.label.clone(), valid };
        Err(self.source.error(key.span().start, kind))
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'s Spanned<DeValue<'s>>)> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| (name.span(), value))
    }

    /// Where a key stands; where the section is named, if it has no such key.
    pub(super) fn at(&self, key: &str) -> usize {
        self.entry(key).map_or(self.start, |(span, _)| span.start)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// An error at a key, or at the section's name if it has no such key.
    pub(super) fn error(&self, key: &str, kind: impl Into<SpecErrorKind>) -> SpecError {
        self.source.error(self.at(key), kind)
    }

    pub(super) fn missing(&self, key: &'static str) -> SpecError {
        self.source.error(self.start, SpecErrorKind::Missing { section: self.label.clone(), key })
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: &Spanned<DeValue<'_>>) -> SpecError {
        let found_type = type_with_article(found.get_ref());
        let kind = SpecErrorKind::WrongType { key: key.to_owned(), expected, found: found_type };
        self.source.error(found.span().start, kind)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some((_, value)) = self.entry(key) else { return Ok(None) };
        value.get_ref().as_bool().map(Some).ok_or_else(|| self.wrong_type(key, "true or false", value))
    }

    /// A whole number of one byte.
    pub(super) fn small_integer(&self, key: &str) -> Result<Option<i8>> {
        let Some((_, value)) = self.entry(key) else { return Ok(None) };
        let found =
            value.get_ref().as_integer().ok_or_else(|| self.wrong_type(key, "a whole number", value))?;
        let number = i8::from_str_radix(found.as_str(), found.radix()).ok();
        let wrong = || self.value_error(key, value.span().start, ValueError::OutOfRange);
        number.map(Some).ok_or_else(wrong)
    }

    pub(super) fn word(&self, key: &str) -> Result<Option<Word>> {
        self.entry(key).map(|(_, value)| self.as_word(key, value)).transpose()
    }

    fn as_word(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Word> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong_type(key, "a string", value))?;
        let raw = self.source.text.get(value.span()).unwrap_or_default();
        let start = value.span().start;
        let quoted = raw.get(1..raw.len().saturating_sub(1));
        let replaced = replace_variables(text, self.source.context.env).map_err(|error| {
            let within = raw.find(&error.written).unwrap_or_default();
            self.source.error(start + within, error.kind)
        })?;
        let verbatim = (quoted == Some(replaced.as_str())).then_some(start + 1);
        Ok(Word { text: replaced, start, verbatim })
    }

    /// A string that means something.
    pub(super) fn parsed<T>(&self, key: &str) -> Result<Option<T>>
    where
        T: FromStr,
        ValueError: From<T::Err>,
    {
        self.word(key)?.map(|word| self.parse_word(key, &word)).transpose()
    }

    fn parse_word<T>(&self, key: &str, word: &Word) -> Result<T>
    where
        T: FromStr,
        ValueError: From<T::Err>,
    {
        word.text.parse().map_err(|error| self.value_error(key, word.start, error))
    }

    pub(super) fn value_error(&self, key: &str, offset: usize, error: impl Into<ValueError>) -> SpecError {
        self.source.error(offset, SpecErrorKind::Value { key: key.to_owned(), error: error.into() })
    }

    /// A string that is not empty and holds no control characters.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>> {
        let Some(word) = self.word(key)? else { return Ok(None) };
        self.check_text(key, &word)?;
        Ok(Some(word.text))
    }

    fn check_text(&self, key: &str, word: &Word) -> Result<()> {
        if word.text.is_empty() {
            return Err(self.value_error(key, word.start, ValueError::Empty));
        }
        if word.text.chars().any(char::is_control) {
            return Err(self.value_error(key, word.start, ValueError::Control));
        }
        Ok(())
    }

    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    fn words(&self, key: &str) -> Result<Vec<Word>> {
        let Some((_, value)) = self.entry(key) else { return Ok(Vec::new()) };
        let array =
            value.get_ref().as_array().ok_or_else(|| self.wrong_type(key, "a list of strings", value))?;
        array.iter().map(|item| self.as_word(key, item)).collect()
    }

    /// A list of strings that are not empty and differ.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut texts = Vec::new();
        for word in self.words(key)? {
            self.check_text(key, &word)?;
            if !seen.insert(word.text.clone()) {
                return Err(self.value_error(key, word.start, ValueError::Twice(word.text)));
            }
            texts.push(word.text);
        }
        Ok(texts)
    }

    /// A list of names of fields.
    pub(super) fn fields(&self, key: &str) -> Result<Vec<String>> {
        let fields = self.texts(key)?;
        if fields.iter().any(|field| field.len() > MAX_FIELD_NAME_BYTES) {
            return Err(self.value_error(key, self.at(key), ValueError::FieldTooLong));
        }
        Ok(fields)
    }

    /// A list of strings that mean something.
    pub(super) fn list<T>(&self, key: &str) -> Result<Vec<T>>
    where
        T: FromStr,
        ValueError: From<T::Err>,
    {
        let words = self.words(key)?;
        if words.len() > MAX_LINKS {
            return Err(self.error(key, SpecErrorKind::TooManyLinks(key.to_owned())));
        }
        words.iter().map(|word| self.parse_word(key, word)).collect()
    }

    /// A filter, which the filter language accepts.
    pub(super) fn filter(&self, key: &str, used: FilterUse) -> Result<Option<FilterText>> {
        let Some(word) = self.word(key)? else { return Ok(None) };
        if word.text.len() > MAX_FILTER_BYTES {
            return Err(self.value_error(key, word.start, ValueError::FilterTooLong));
        }
        let (line, column) = self.source.place(word.verbatim.unwrap_or(word.start));
        (self.source.context.check_filter)(&word.text, used).map_err(|error| {
            let (offset, message) = match word.verbatim {
                Some(start) => (start + byte_of_column(&word.text, error.column), error.message),
                None => (word.start, error.to_string()),
            };
            self.source.error(offset, SpecErrorKind::Filter { key: key.to_owned(), message })
        })?;
        Ok(Some(FilterText { text: word.text, line, column }))
    }

    /// A table under this one.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>> {
        let Some((span, value)) = self.entry(key) else { return Ok(None) };
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong_type(key, "a section", value))?;
        Ok(Some(Self { source: self.source, label: self.label_of(key), start: span.start, table }))
    }

    /// Whether a key holds a table.
    pub(super) fn is_section(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|(_, value)| value.get_ref().is_table())
    }

    /// Every table under this one, with its name.
    pub(super) fn children(&self) -> Result<Vec<(String, Self)>> {
        let names = self.table.keys().map(|key| key.get_ref().to_string());
        names.filter_map(|name| self.section(&name).transpose().map(|s| s.map(|s| (name, s)))).collect()
    }

    /// A list of tables.
    pub(super) fn sections(&self, key: &str) -> Result<Vec<Self>> {
        let Some((span, value)) = self.entry(key) else { return Ok(Vec::new()) };
        let expected = "a list of sections";
        let array = value.get_ref().as_array().ok_or_else(|| self.wrong_type(key, expected, value))?;
        if array.len() > MAX_LINKS {
            return Err(self.source.error(span.start, SpecErrorKind::TooManyLinks(key.to_owned())));
        }
        let label = format!("[{}]", self.label_of(key));
        let section = |item: &'s Spanned<DeValue<'s>>| {
            let table = item.get_ref().as_table().ok_or_else(|| self.wrong_type(key, expected, item))?;
            Ok(Self { source: self.source, label: label.clone(), start: item.span().start, table })
        };
        array.iter().map(section).collect()
    }

    fn label_of(&self, key: &str) -> String {
        match self.label.strip_prefix('[').and_then(|label| label.strip_suffix(']')) {
            Some(parent) => format!("[{parent}.{key}]"),
            None => format!("[{key}]"),
        }
    }
}

const fn type_with_article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn byte_of_column(text: &str, column: usize) -> usize {
    text.char_indices().nth(column.saturating_sub(1)).map_or(text.len(), |(offset, _)| offset)
}

struct VariableError {
    /// As it stands in the string.
    written: String,
    kind: SpecErrorKind,
}

/// Replaces each `${NAME}`; `$${` stands for `${`.
fn replace_variables(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<String, VariableError> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            replaced.push_str(literal);
            replaced.push_str("${");
            rest = after;
            continue;
        }
        replaced.push_str(before);
        let form = || VariableError { written: "${".to_owned(), kind: SpecErrorKind::EnvForm };
        let (name, after) = after.split_once('}').ok_or_else(form)?;
        if !is_variable(name) {
            return Err(form());
        }
        replaced.push_str(&env(name).ok_or_else(|| VariableError {
            written: format!("${{{name}}}"),
            kind: SpecErrorKind::EnvMissing(name.to_owned()),
        })?);
        rest = after;
    }
    replaced.push_str(rest);
    Ok(replaced)
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(text: &str) -> Option<String> {
        let env = |name: &str| (name != "NONE").then(|| format!("<{name}>"));
        replace_variables(text, &env).ok()
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("", Some("")),
            ("a$b $5 $", Some("a$b $5 $")),
            ("${A}", Some("<A>")),
            ("x${A_1}y${B}", Some("x<A_1>y<B>")),
            ("$${A}", Some("${A}")),
            ("$$${A}", Some("$${A}")),
            ("${NONE}", None),
            ("${}", None),
            ("${A", None),
            ("${1A}", None),
            ("${A B}", None),
        ] {
            assert_eq!(replaced(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_replacement_is_not_replaced_again() {
        let env = |_: &str| Some("${A}".to_owned());
        assert_eq!(replace_variables("${A}", &env).ok().unwrap(), "${A}");
    }

    proptest! {
        #[test]
        fn text_without_a_variable_stays(text in "[^{]{0,40}") {
            prop_assert_eq!(replaced(&text), Some(text));
        }
    }
}
