//! From tokens to the expression: precedence climbing (Pratt, *Top Down Operator Precedence*, 1973).
//!
//! Invariants: the stack is bounded by [`MAX_FILTER_DEPTH`] and [`MAX_DEPTH`], since only what nests in brackets or
//! under `!` recurses without bound; the time is linear in the length of the text.

use std::collections::BTreeMap;

use crate::limits::{MAX_DEPTH, MAX_FILTER_BYTES, MAX_FILTER_DEPTH};
use crate::value::{Timestamp, Value};

use super::ast::{CompareOp, Expr, Function, Operand, Path, Root};
use super::error::{FilterError, FilterErrorKind, quote};
use super::literal;
use super::token::{Kind, Token, tokenize};

/// Parses a whole text. `rules`: whether `old` and `user` exist.
pub(super) fn parse(text: &str, rules: bool) -> Result<Expr, FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        let column = text.char_indices().take_while(|(at, _)| *at < MAX_FILTER_BYTES).count() + 1;
        return Err(FilterErrorKind::TooLong { bytes: text.len() }.at(column));
    }
    let tokens = tokenize(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, rules, depth: 0, literal_depth: 0 };
    let condition = parser.expression(0)?.condition()?;
    match parser.peek() {
        Kind::End => Ok(condition),
        _ => Err(parser.unexpected("an operator or the end")),
    }
}

/// What a part of the text turned out to be. A condition is not a value, nor is a duration.
enum Node {
    Condition(Expr),
    Operand(Operand),
    /// Microseconds.
    Duration(i64),
}

struct Parsed {
    node: Node,
    column: usize,
    text: String,
}

impl Parsed {
    fn condition(self) -> Result<Expr, FilterError> {
        match self.node {
            Node::Condition(condition) => Ok(condition),
            Node::Operand(Operand::Path(path)) => Ok(Expr::Truth(path)),
            Node::Operand(Operand::Literal(Value::Bool(value))) => Ok(Expr::Literal(value)),
            Node::Operand(_) | Node::Duration(_) => {
                Err(FilterErrorKind::expected("a condition", self.text).at(self.column))
            }
        }
    }

    fn operand(self) -> Result<Operand, FilterError> {
        match self.node {
            Node::Operand(operand) => Ok(operand),
            Node::Condition(_) => Err(FilterErrorKind::ConditionAsValue.at(self.column)),
            Node::Duration(_) => Err(FilterErrorKind::NotATime.at(self.column)),
        }
    }

    fn path(self) -> Result<Path, FilterError> {
        match self.node {
            Node::Operand(Operand::Path(path)) => Ok(path),
            _ => Err(FilterErrorKind::expected("a field", self.text).at(self.column)),
        }
    }

    fn literal(self) -> Result<Value, FilterError> {
        match self.node {
            Node::Operand(Operand::Literal(value)) => Ok(value),
            _ => Err(FilterErrorKind::expected("a literal", self.text).at(self.column)),
        }
    }
}

#[derive(Clone, Copy)]
enum Infix {
    Or,
    And,
    Compare(CompareOp),
    In,
    Add { negative: bool },
}

impl Infix {
    fn of(token: &Kind<'_>) -> Option<Self> {
        match token {
            Kind::Symbol("||") => Some(Self::Or),
            Kind::Symbol("&&") => Some(Self::And),
            Kind::Symbol("==") => Some(Self::Compare(CompareOp::Eq)),
            Kind::Symbol("!=") => Some(Self::Compare(CompareOp::Ne)),
            Kind::Symbol("<") => Some(Self::Compare(CompareOp::Lt)),
            Kind::Symbol("<=") => Some(Self::Compare(CompareOp::Le)),
            Kind::Symbol(">") => Some(Self::Compare(CompareOp::Gt)),
            Kind::Symbol(">=") => Some(Self::Compare(CompareOp::Ge)),
            Kind::Symbol("+") => Some(Self::Add { negative: false }),
            Kind::Symbol("-") => Some(Self::Add { negative: true }),
            Kind::Name("in") => Some(Self::In),
            _ => None,
        }
    }

    /// How tightly it binds; an operator of a higher power takes its operands first.
    const fn power(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Compare(_) | Self::In => 3,
            Self::Add { .. } => SUM,
        }
    }
}

/// The power of what may stand in a list: sums, but no comparison.
const SUM: u8 = 4;

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    rules: bool,
    depth: usize,
    literal_depth: usize,
}

impl<'a> Parser<'a> {
    fn peek_at(&self, ahead: usize) -> &'a Kind<'a> {
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |token| &token.kind)
    }

    fn peek(&self) -> &'a Kind<'a> {
        self.peek_at(0)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.column)
    }

    fn unexpected(&self, expected: &'static str) -> FilterError {
        FilterErrorKind::expected(expected, self.peek().describe()).at(self.column())
    }

    fn take(&mut self, symbol: &'static str) -> bool {
        let found = *self.peek() == Kind::Symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), FilterError> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected(symbol)) }
    }

    /// Runs `parse` one level deeper.
    fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        if self.depth >= MAX_FILTER_DEPTH {
            return Err(FilterErrorKind::TooDeep.at(self.column()));
        }
        self.depth += 1;
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    /// An operand and all operators after it that bind at least as tightly as `power`.
    fn expression(&mut self, power: u8) -> Result<Parsed, FilterError> {
        let mut left = self.operand()?;
        while let Some(infix) = Infix::of(self.peek()).filter(|infix| infix.power() >= power) {
            self.at += 1;
            let right = self.expression(infix.power() + 1)?;
            left =
                Parsed { column: left.column, text: left.text.clone(), node: combine(infix, left, right)? };
        }
        Ok(left)
    }

    /// An operand with its prefix and its method calls.
    fn operand(&mut self) -> Result<Parsed, FilterError> {
        let column = self.column();
        let text = self.peek().describe();
        let mut node = self.prefix()?;
        while self.take(".") {
            let Kind::Name(name) = self.peek() else { return Err(self.unexpected("a name")) };
            let Some(function) = Function::named(name) else {
                return Err(self.unexpected("contains, startsWith or endsWith"));
            };
            self.at += 1;
            let subject = Parsed { node, column, text: text.clone() }.operand()?;
            let argument = self.arguments(|parser| parser.expression(0)?.operand())?;
            node = Node::Condition(Expr::Call { function, subject, argument });
        }
        Ok(Parsed { node, column, text })
    }

    fn prefix(&mut self) -> Result<Node, FilterError> {
        match self.peek() {
            Kind::Text(text) => {
                self.at += 1;
                Ok(literal_node(Value::String(text.clone())))
            }
            Kind::Number(text) => self.number(text, false),
            Kind::Name(name) => self.named(name),
            Kind::Symbol("!") => {
                self.at += 1;
                let inner = self.nested(Self::operand)?.condition()?;
                Ok(Node::Condition(inner.negated()))
            }
            Kind::Symbol("(") => self.arguments(|parser| Ok(parser.expression(0)?.node)),
            Kind::Symbol("[") => self.literal_nested(Self::list),
            Kind::Symbol("{") => self.literal_nested(Self::map),
            Kind::Symbol("-") => {
                self.at += 1;
                let Kind::Number(text) = self.peek() else { return Err(self.unexpected("a number")) };
                self.number(text, true)
            }
            Kind::Symbol(_) | Kind::End => Err(self.unexpected("a field, a literal or a function")),
        }
    }

    fn number(&mut self, text: &str, negative: bool) -> Result<Node, FilterError> {
        let value = literal::parse_number(text, negative)
            .ok_or_else(|| self.unexpected("an integer of 64 bits or a decimal number"))?;
        self.at += 1;
        Ok(literal_node(value))
    }

    /// What a pair of parentheses holds.
    fn arguments<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        self.expect("(")?;
        let parsed = self.nested(parse)?;
        self.expect(")")?;
        Ok(parsed)
    }

    fn literal_nested(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<Value, FilterError>,
    ) -> Result<Node, FilterError> {
        if self.literal_depth >= MAX_DEPTH {
            return Err(FilterErrorKind::TooDeep.at(self.column()));
        }
        self.literal_depth += 1;
        self.at += 1;
        let value = parse(self)?;
        self.literal_depth -= 1;
        Ok(literal_node(value))
    }

    fn list(&mut self) -> Result<Value, FilterError> {
        let mut elements = Vec::new();
        while !self.take("]") {
            elements.push(self.expression(SUM)?.literal()?);
            if !self.take(",") && *self.peek() != Kind::Symbol("]") {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
        Ok(Value::Array(elements))
    }

    fn map(&mut self) -> Result<Value, FilterError> {
        let mut entries = BTreeMap::new();
        while !self.take("}") {
            let key = self.text("a string as the key")?;
            self.expect(":")?;
            entries.insert(key, self.expression(SUM)?.literal()?);
            if !self.take(",") && *self.peek() != Kind::Symbol("}") {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
        Ok(Value::Map(entries))
    }

    fn text(&mut self, expected: &'static str) -> Result<String, FilterError> {
        let Kind::Text(text) = self.peek() else { return Err(self.unexpected(expected)) };
        self.at += 1;
        Ok(text.clone())
    }

    /// A keyword, a call or a path.
    fn named(&mut self, name: &'a str) -> Result<Node, FilterError> {
        if *self.peek_at(1) == Kind::Symbol("(") {
            return self.call(name);
        }
        let keyword = match name {
            "true" => Node::Operand(Operand::Literal(Value::Bool(true))),
            "false" => Node::Operand(Operand::Literal(Value::Bool(false))),
            "null" => Node::Operand(Operand::Literal(Value::Null)),
            "now" => Node::Operand(Operand::Now(0)),
            "in" => return Err(self.unexpected("a field, a literal or a function")),
            _ => return Ok(Node::Operand(Operand::Path(self.path(name)?))),
        };
        self.at += 1;
        Ok(keyword)
    }

    fn call(&mut self, name: &'a str) -> Result<Node, FilterError> {
        let column = self.column();
        self.at += 1;
        if let Some(function) = Function::named(name) {
            return self.arguments(|parser| {
                let subject = parser.expression(0)?.operand()?;
                parser.expect(",")?;
                let argument = parser.expression(0)?.operand()?;
                Ok(Node::Condition(Expr::Call { function, subject, argument }))
            });
        }
        match name {
            "has" => self.arguments(|parser| Ok(Node::Condition(Expr::Has(parser.expression(0)?.path()?)))),
            "uuid" => self.constant("a UUID in quotes", |text| {
                literal::parse_uuid(text).map(|uuid| literal_node(Value::Uuid(uuid)))
            }),
            "timestamp" => self.constant("an RFC 3339 time in quotes", |text| {
                literal::parse_timestamp(text).map(|time| literal_node(Value::Timestamp(time)))
            }),
            "duration" => self.constant("a duration in quotes, such as \"24h\" or \"1h30m\"", |text| {
                literal::parse_duration(text).map(Node::Duration)
            }),
            "bytes" => self.constant("base64 in quotes", |text| {
                literal::parse_bytes(text).map(|bytes| literal_node(Value::Bytes(bytes)))
            }),
            "float" => self.constant("a number in quotes", |text| {
                literal::parse_float(text).map(|float| literal_node(Value::Float(float)))
            }),
            _ => {
                let name = name.chars().take(40).collect();
                Err(FilterErrorKind::UnknownFunction { name }.at(column))
            }
        }
    }

    /// A call whose one argument is a string literal that `read` understands.
    fn constant(
        &mut self,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<Node>,
    ) -> Result<Node, FilterError> {
        self.expect("(")?;
        let Kind::Text(text) = self.peek() else { return Err(self.unexpected(expected)) };
        let node = read(text).ok_or_else(|| self.unexpected(expected))?;
        self.at += 1;
        self.expect(")")?;
        Ok(node)
    }

    fn path(&mut self, first: &'a str) -> Result<Path, FilterError> {
        let column = self.column();
        self.at += 1;
        let continues = matches!(self.peek(), Kind::Symbol("." | "["));
        let root = match first {
            "record" => Some(Root::Record),
            // On its own and outside of rules these are fields. In a rule that would be a trap: an author who
            // writes `user` does not mean what the record says of itself.
            "old" if continues || self.rules => Some(Root::Old),
            "user" if continues || self.rules => Some(Root::User),
            _ => None,
        };
        if let Some(root @ (Root::Old | Root::User)) = root.filter(|_| !self.rules) {
            return Err(FilterErrorKind::RuleOnly { root: root.name() }.at(column));
        }
        let mut segments = match root {
            Some(_) => vec![self.segment()?.ok_or_else(|| self.unexpected("`.` and the name of a field"))?],
            None => vec![first.to_owned()],
        };
        if root == Some(Root::User)
            && !matches!(segments.concat().as_str(), "id" | "teams" | "roles" | "claims")
        {
            let found = quote(&segments.concat());
            let expected = "user.id, user.teams, user.roles or user.claims";
            return Err(FilterErrorKind::expected(expected, found).at(column));
        }
        while let Some(segment) = self.segment()? {
            segments.push(segment);
        }
        Ok(Path { root: root.unwrap_or(Root::Record), segments })
    }

    /// `.name` or `["name"]`; `None` if neither follows, also if a method call does.
    fn segment(&mut self) -> Result<Option<String>, FilterError> {
        if self.take("[") {
            let segment = self.text("a key in quotes")?;
            self.expect("]")?;
            return Ok(Some(segment));
        }
        if *self.peek() != Kind::Symbol(".") || *self.peek_at(2) == Kind::Symbol("(") {
            return Ok(None);
        }
        self.at += 1;
        let Kind::Name(name) = self.peek() else { return Err(self.unexpected("a name")) };
        self.at += 1;
        Ok(Some((*name).to_owned()))
    }
}

const fn literal_node(value: Value) -> Node {
    Node::Operand(Operand::Literal(value))
}

fn combine(infix: Infix, left: Parsed, right: Parsed) -> Result<Node, FilterError> {
    Ok(Node::Condition(match infix {
        Infix::Or => left.condition()?.or(right.condition()?),
        Infix::And => left.condition()?.and(right.condition()?),
        Infix::Compare(op) => Expr::Compare { op, left: left.operand()?, right: right.operand()? },
        Infix::In => Expr::In { item: left.operand()?, list: list_operand(right)? },
        Infix::Add { negative } => return add(left, right, negative),
    }))
}

fn list_operand(parsed: Parsed) -> Result<Operand, FilterError> {
    let Parsed { column, text, .. } = parsed;
    match parsed.node {
        Node::Operand(operand @ (Operand::Path(_) | Operand::Literal(Value::Array(_)))) => Ok(operand),
        _ => Err(FilterErrorKind::expected("a list or a field", text).at(column)),
    }
}

/// Times and durations: time ± duration, duration + time, duration ± duration.
fn add(left: Parsed, right: Parsed, negative: bool) -> Result<Node, FilterError> {
    let column = left.column;
    let moved = |from: i64, by: i64| {
        let sum = if negative { from.checked_sub(by) } else { from.checked_add(by) };
        sum.ok_or(FilterErrorKind::TimeOutOfRange.at(column))
    };
    let bounded = |micros: i64| {
        if micros == i64::MIN { Err(FilterErrorKind::TimeOutOfRange.at(column)) } else { Ok(micros) }
    };
    match (left.node, right.node) {
        (Node::Duration(one), Node::Duration(two)) => Ok(Node::Duration(bounded(moved(one, two)?)?)),
        (Node::Operand(Operand::Now(from)), Node::Duration(by)) => {
            Ok(Node::Operand(Operand::Now(bounded(moved(from, by)?)?)))
        }
        (Node::Operand(Operand::Literal(Value::Timestamp(from))), Node::Duration(by)) => {
            Ok(literal_node(Value::Timestamp(Timestamp(moved(from.0, by)?))))
        }
        (Node::Duration(by), Node::Operand(Operand::Now(from))) if !negative => {
            Ok(Node::Operand(Operand::Now(bounded(moved(from, by)?)?)))
        }
        (Node::Duration(by), Node::Operand(Operand::Literal(Value::Timestamp(from)))) if !negative => {
            Ok(literal_node(Value::Timestamp(Timestamp(moved(from.0, by)?))))
        }
        _ => Err(FilterErrorKind::NotATime.at(column)),
    }
}
