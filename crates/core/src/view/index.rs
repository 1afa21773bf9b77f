//! Which of many views can have a record: the answer costs what it finds, not what there is.
//!
//! A view that asks for `teamId == "ios" && priority > 5` can only have records whose `teamId` is `ios`. So it is filed
//! under that one condition (its *cover*: a few pairs of a field and a constant, one of which every record of the view
//! has), and a record is looked up by its values of the fields that covers name. Of the conditions that would do, that one is
//! chosen under which the fewest views are filed already. A view without such a condition is always an answer. (The idea
//! is that of access predicates: F. Fabret et al., *Filtering Algorithms and Implementation for Very Fast
//! Publish/Subscribe Systems*, 2001.)
//!
//! Invariant: every view that has a record is among the answers for it. There may be others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::View;
use crate::filter::ast::{CompareOp, Expr, Operand, Path};
use crate::filter::{Fields, read_field, string_as_timestamp, string_as_uuid};
use crate::limits::{MAX_COVER, MAX_COVER_FIELDS};
use crate::value::{Timestamp, Value};

/// Names a view in an index, or whoever looks through it.
pub type Reader = u64;

/// A value that others can be equal to. Values that a filter finds equal have a key in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Key {
    Null,
    Bool(bool),
    /// An integer, or a float that is one.
    Int(i64),
    /// The bits of any other float.
    Float(u64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Uuid(Uuid),
    Time(Timestamp),
}

/// A field has a value, or an element.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Atom {
    field: Arc<str>,
    /// The value is an array or set that holds the key, rather than the key itself.
    holds: bool,
    key: Key,
}

/// Where a view is filed.
#[derive(Clone, Debug)]
enum Filed {
    /// It may have any record.
    Always,
    /// It has only records with one of these; none at all if there are none.
    Under(Vec<Atom>),
}

/// Readers by the values of one field.
#[derive(Debug, Default)]
struct Field {
    equal: HashMap<Key, BTreeSet<Reader>>,
    holding: HashMap<Key, BTreeSet<Reader>>,
}

/// Views by what they can have. See the [module](self).
#[derive(Debug, Default)]
pub struct ViewIndex {
    fields: BTreeMap<Arc<str>, Field>,
    always: BTreeSet<Reader>,
    filed: HashMap<Reader, Filed>,
}

impl ViewIndex {
    /// Files the view of a reader, in the place of the one that it had.
    pub fn insert(&mut self, reader: Reader, view: &View) {
        self.remove(reader);
        let filed = [view.wanted(), view.granted()]
            .into_iter()
            .filter_map(|filter| self.cover(filter.expr()))
            .min_by_key(|cover| self.cost(cover))
            .map_or(Filed::Always, Filed::Under);
        match &filed {
            Filed::Always => drop(self.always.insert(reader)),
            Filed::Under(cover) => {
                for atom in cover {
                    let field = self.fields.entry(Arc::clone(&atom.field)).or_default();
                    field.side(atom.holds).entry(atom.key.clone()).or_default().insert(reader);
                }
            }
        }
        self.filed.insert(reader, filed);
    }

    /// Forgets a reader.
    pub fn remove(&mut self, reader: Reader) {
        match self.filed.remove(&reader) {
            Some(Filed::Always) => drop(self.always.remove(&reader)),
            Some(Filed::Under(cover)) => cover.iter().for_each(|atom| self.take_out(reader, atom)),
            None => {}
        }
    }

    /// How many readers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filed.len()
    }

    /// Whether there is no reader.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filed.is_empty()
    }

    /// Adds the readers whose views may have the record.
    pub fn find(&self, record: &dyn Fields, found: &mut BTreeSet<Reader>) {
        found.extend(&self.always);
        for (name, field) in &self.fields {
            let Some(value) = read_field(record, name) else { continue };
            if let Some(readers) = key_of(&value).and_then(|key| field.equal.get(&key)) {
                found.extend(readers);
            }
            if let (Value::Array(elements) | Value::Set(elements), false) =
                (&*value, field.holding.is_empty())
            {
                for key in elements.iter().filter_map(key_of) {
                    found.extend(field.holding.get(&key).into_iter().flatten());
                }
            }
        }
    }

    fn take_out(&mut self, reader: Reader, atom: &Atom) {
        let Some(field) = self.fields.get_mut(&atom.field) else { return };
        let side = field.side(atom.holds);
        if let Some(readers) = side.get_mut(&atom.key) {
            readers.remove(&reader);
            if readers.is_empty() {
                side.remove(&atom.key);
            }
        }
        if field.equal.is_empty() && field.holding.is_empty() {
            self.fields.remove(&atom.field);
        }
    }

    /// Atoms one of which every record has that meets the condition, if there are a few; none if no record does.
    fn cover(&self, condition: &Expr) -> Option<Vec<Atom>> {
        let cover = match condition {
            Expr::Literal(false) => Vec::new(),
            Expr::Truth(path) => vec![self.atom(path, false, Key::Bool(true))?],
            Expr::Compare { op: CompareOp::Eq, left, right } => {
                let (path, constant) = sides(left, right)?;
                self.atoms(path, false, std::slice::from_ref(constant))?
            }
            Expr::In { item: Operand::Path(path), list: Operand::Literal(Value::Array(list)) } => {
                self.atoms(path, false, list)?
            }
            Expr::In { item: Operand::Literal(item), list: Operand::Path(path) } => {
                self.atoms(path, true, std::slice::from_ref(item))?
            }
            Expr::And(members) => {
                members.iter().filter_map(|member| self.cover(member)).min_by_key(|cover| self.cost(cover))?
            }
            Expr::Or(members) => {
                let covers: Option<Vec<_>> = members.iter().map(|member| self.cover(member)).collect();
                covers?.into_iter().flatten().collect()
            }
            _ => return None,
        };
        (cover.len() <= MAX_COVER).then_some(cover)
    }

    fn atoms(&self, path: &Path, holds: bool, constants: &[Value]) -> Option<Vec<Atom>> {
        let mut atoms = Vec::new();
        for constant in constants {
            for key in keys_meant(constant)? {
                atoms.push(self.atom(path, holds, key)?);
            }
        }
        Some(atoms)
    }

    fn atom(&self, path: &Path, holds: bool, key: Key) -> Option<Atom> {
        let name = path.top_level()?;
        let known = self.fields.contains_key(name) || self.fields.len() < MAX_COVER_FIELDS;
        known.then(|| Atom { field: name.into(), holds, key })
    }

    /// What a cover would cost: how many readers are filed there, and how many places it takes.
    fn cost(&self, cover: &[Atom]) -> (usize, usize) {
        let filed = |atom: &Atom| {
            let field = self.fields.get(&atom.field);
            let side = field.map(|field| if atom.holds { &field.holding } else { &field.equal });
            side.and_then(|side| side.get(&atom.key)).map_or(0, BTreeSet::len)
        };
        (cover.iter().map(filed).sum(), cover.len())
    }
}

impl Field {
    const fn side(&mut self, holds: bool) -> &mut HashMap<Key, BTreeSet<Reader>> {
        if holds { &mut self.holding } else { &mut self.equal }
    }
}

/// A field and the constant that it is compared with.
const fn sides<'a>(left: &'a Operand, right: &'a Operand) -> Option<(&'a Path, &'a Value)> {
    match (left, right) {
        (Operand::Path(path), Operand::Literal(constant))
        | (Operand::Literal(constant), Operand::Path(path)) => Some((path, constant)),
        _ => None,
    }
}

/// The key of a value that a record has; `None` for values that are not filed.
fn key_of(value: &Value) -> Option<Key> {
    Some(match value {
        Value::Null => Key::Null,
        Value::Bool(value) => Key::Bool(*value),
        Value::Int(value) | Value::Counter(value) => Key::Int(*value),
        Value::Float(value) => key_of_float(*value),
        Value::String(text) => Key::Text(text.as_str().into()),
        Value::Bytes(bytes) => Key::Bytes(bytes.as_slice().into()),
        Value::Uuid(uuid) => Key::Uuid(*uuid),
        Value::Timestamp(time) => Key::Time(*time),
        Value::Array(_) | Value::Map(_) | Value::Vector(_) | Value::Set(_) => return None,
    })
}

fn key_of_float(value: f64) -> Key {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    let whole = value.trunc() == value && (-BOUND..BOUND).contains(&value);
    if whole { Key::Int(value as i64) } else { Key::Float(value.to_bits()) }
}

/// The keys of all that a constant of a filter equals: a text also stands for the UUID or the time that it names.
fn keys_meant(constant: &Value) -> Option<Vec<Key>> {
    let mut keys = vec![key_of(constant)?];
    if let Value::String(text) = constant {
        keys.extend(string_as_uuid(text).map(Key::Uuid));
        keys.extend(string_as_timestamp(text).map(Key::Time));
    }
    Some(keys)
}

#[cfg(test)]
mod tests;
