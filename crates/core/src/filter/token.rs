//! The text of a filter in tokens, each with its column.

use super::error::{FilterError, FilterErrorKind, quote};

/// A token and where it starts, in characters from 1.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) column: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind<'a> {
    Name(&'a str),
    Number(&'a str),
    Text(String),
    Symbol(&'static str),
    End,
}

impl Kind<'_> {
    /// How a message speaks of this token.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Name(text) | Self::Number(text) => quote(text),
            Self::Text(text) => format!("the string {}", quote(text)),
            Self::Symbol(symbol) => quote(symbol),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longer ones first, so that the first that fits is the right one.
const SYMBOLS: [&str; 19] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", "{", "}", ",", ".", ":", "+"];

/// Splits the text; the last token is [`Kind::End`].
pub(super) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    let mut lexer = Lexer { rest: text, column: 1 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let ended = token.kind == Kind::End;
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

/// Whether `name` can be written as it is after a dot.
pub(super) fn is_name(name: &str) -> bool {
    name.chars().next().is_some_and(starts_name) && name.chars().all(continues_name)
}

fn starts_name(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn continues_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

struct Lexer<'a> {
    rest: &'a str,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Token<'a>, FilterError> {
        self.take_while(char::is_whitespace);
        let column = self.column;
        let kind = match self.rest.chars().next() {
            None => Kind::End,
            Some(c) if starts_name(c) => Kind::Name(self.take_while(continues_name)),
            Some(c) if c.is_ascii_digit() => Kind::Number(self.number()),
            Some(quote @ ('"' | '\'')) => Kind::Text(self.string(quote)?),
            Some(c) => Kind::Symbol(self.symbol(c)?),
        };
        Ok(Token { kind, column })
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.skip(c.len_utf8(), 1);
        Some(c)
    }

    fn skip(&mut self, bytes: usize, chars: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
        self.column += chars;
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let taken = self.rest.get(..end).unwrap_or_default();
        self.skip(end, taken.chars().count());
        taken
    }

    /// Digits with all that may belong to a number; whether it is one is the parser's question.
    fn number(&mut self) -> &'a str {
        let whole = self.rest;
        self.take_while(continues_name);
        let mut after_dot = self.rest.chars().skip(1);
        if self.rest.starts_with('.') && after_dot.next().is_some_and(|c| c.is_ascii_digit()) {
            self.skip(1, 1);
            self.take_while(continues_name);
        }
        if self.rest.starts_with(['+', '-']) && has_open_exponent(whole, self.rest) {
            self.skip(1, 1);
            self.take_while(continues_name);
        }
        consumed(whole, self.rest)
    }

    fn symbol(&mut self, c: char) -> Result<&'static str, FilterError> {
        let known = SYMBOLS.into_iter().chain(["-"]).find(|symbol| self.rest.starts_with(symbol));
        let Some(symbol) = known else {
            let expected = match c {
                '=' => "==",
                '&' => "&&",
                '|' => "||",
                _ => "a field, a literal or an operator",
            };
            return Err(FilterErrorKind::expected(expected, quote(&c.to_string())).at(self.column));
        };
        self.skip(symbol.len(), symbol.len());
        Ok(symbol)
    }

    fn string(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.column;
        self.bump();
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote && c != '\\'));
            match self.bump() {
                None => return Err(FilterErrorKind::UnterminatedString.at(start)),
                Some('\\') => text.push(self.escape()?),
                Some(_) => return Ok(text),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, FilterError> {
        let column = self.column;
        let found = self.bump();
        let escaped = match found {
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some(c @ ('\\' | '"' | '\'')) => Some(c),
            Some('u') => self.code_point(4),
            Some('U') => self.code_point(8),
            _ => None,
        };
        escaped.ok_or_else(|| {
            let found = found.map_or_else(|| "the end".to_owned(), |c| quote(&c.to_string()));
            let expected = r#"one of \n \r \t \\ \" \' \uXXXX \UXXXXXXXX"#;
            FilterErrorKind::expected(expected, found).at(column)
        })
    }

    fn code_point(&mut self, digits: usize) -> Option<char> {
        let hex = self.rest.get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.skip(digits, digits);
        char::from_u32(u32::from_str_radix(hex, 16).ok()?)
    }
}

/// The part of `whole` before `rest`, which is its end.
fn consumed<'a>(whole: &'a str, rest: &str) -> &'a str {
    whole.get(..whole.len() - rest.len()).unwrap_or_default()
}

fn has_open_exponent(whole: &str, rest: &str) -> bool {
    let taken = consumed(whole, rest);
    taken.ends_with(['e', 'E']) && taken.bytes().filter(u8::is_ascii_alphabetic).count() == 1
}
