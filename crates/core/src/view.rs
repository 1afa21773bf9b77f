//! What a reader of a feed may see, and what it may hold already.
//!
//! A [`View`] is closed: whoever asks and what time it is are bound into its filters, so that the same view gives the
//! same answer for the same record wherever and whenever it is asked. A view that depends on time or on a user's
//! rights changes by being replaced. A [`Lens`] is a view together with what its reader may hold: with it the store
//! reads its feed, and tells changes from arrivals and departures.

pub mod index;

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::feed::Seq;
use crate::filter::{EvalContext, Fields, Filter, FilterError};
use crate::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELDS, MAX_FILTER_BYTES};
use crate::value::Timestamp;

/// Why a record is taken from a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemovalReason {
    /// It does not match the filter of the reader's policy any more.
    LeftFilter,
    /// The access rules do not show it to the reader any more.
    AccessRevoked,
}

impl RemovalReason {
    /// The byte that stands for the reason, on the wire and on disk.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::LeftFilter => 1,
            Self::AccessRevoked => 2,
        }
    }

    /// The reason that a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::LeftFilter),
            2 => Some(Self::AccessRevoked),
            _ => None,
        }
    }

    /// The reason in one word, for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::LeftFilter => "left_filter",
            Self::AccessRevoked => "access_revoked",
        }
    }

    /// The reason in words, as status displays show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeftFilter => "left the filter",
            Self::AccessRevoked => "access revoked",
        }
    }
}

/// What a client asks to see: the part of its policy that the sender keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ViewRequest {
    /// Only records that match, in the filter language; `None` for all.
    pub filter: Option<String>,
    /// Fields that do not travel, in either direction.
    pub excluded: Vec<String>,
}

impl ViewRequest {
    /// The view that this amounts to at a time, cut by what the access rules let the reader read: a filter without
    /// `user` (`Rights::read`), or `None` for everything.
    ///
    /// # Errors
    /// [`FilterError`] if the text is no filter.
    pub fn view(&self, granted: Option<&Filter>, now: Timestamp) -> Result<View, FilterError> {
        let wanted = self.filter.as_deref().map(Filter::parse).transpose()?;
        let wanted = wanted.map_or(Filter::always(true), |filter| filter.for_records(now));
        let granted = granted.map_or(Filter::always(true), |granted| granted.for_records(now));
        let view = View::new(wanted, granted, self.excluded.iter().map(|name| name.as_str().into()));
        view.wanted.check()?;
        view.granted.check()?;
        Ok(view)
    }

    /// Whether the answer for one record changes with time.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        let filter = self.filter.as_deref().and_then(|text| Filter::parse(text).ok());
        filter.is_some_and(|filter| filter.depends_on_time())
    }
}

/// Which records and which of their fields a reader sees.
#[derive(Clone, PartialEq, Debug)]
pub struct View {
    wanted: Filter,
    granted: Filter,
    excluded: BTreeSet<Arc<str>>,
    id: ViewId,
}

/// Stands for a view: views with the same id show the same.
pub type ViewId = [u8; 16];

impl View {
    /// What the policy asks for, cut by what the rules grant, without some fields. Both filters must be bound
    /// ([`Filter::for_user`], [`Filter::for_records`]).
    #[must_use]
    pub fn new(wanted: Filter, granted: Filter, excluded: impl Iterator<Item = Arc<str>>) -> Self {
        let mut view = Self { wanted, granted, excluded: excluded.collect(), id: [0; 16] };
        let mut text = Vec::new();
        view.encode(&mut text);
        let [id, _] = split(Sha256::digest(text).into());
        view.id = id;
        view
    }

    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::new(Filter::always(true), Filter::always(true), std::iter::empty())
    }

    /// Whether this is everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        let everything = Filter::always(true);
        self.excluded.is_empty() && self.wanted == everything && self.granted == everything
    }

    /// The name of this view.
    #[must_use]
    pub const fn id(&self) -> ViewId {
        self.id
    }

    /// The filter of the policy.
    #[must_use]
    pub const fn wanted(&self) -> &Filter {
        &self.wanted
    }

    /// The filter that the access rules amount to.
    #[must_use]
    pub const fn granted(&self) -> &Filter {
        &self.granted
    }

    /// Whether the view has the record.
    #[must_use]
    pub fn matches(&self, record: &dyn Fields) -> bool {
        self.why_not(record).is_none()
    }

    /// Why the view does not have the record; `None` if it has.
    #[must_use]
    pub fn why_not(&self, record: &dyn Fields) -> Option<RemovalReason> {
        // Bound filters do not ask for the time.
        let context = EvalContext::new(record, Timestamp(0));
        if !self.granted.matches(&context) {
            Some(RemovalReason::AccessRevoked)
        } else if !self.wanted.matches(&context) {
            Some(RemovalReason::LeftFilter)
        } else {
            None
        }
    }

    /// Whether a field of this name travels.
    #[must_use]
    pub fn shows(&self, field: &str) -> bool {
        !self.excluded.contains(field)
    }

    /// The fields that do not travel.
    pub fn excluded(&self) -> impl Iterator<Item = &str> {
        self.excluded.iter().map(|name| &**name)
    }

    /// Whether every field that `other` shows is shown here too.
    #[must_use]
    pub fn shows_fields_of(&self, other: &Self) -> bool {
        self.excluded.is_subset(&other.excluded)
    }

    /// Appends the view as bytes: the filters' canonical texts and the names of the fields left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_text(&self.wanted.to_string(), out);
        write_text(&self.granted.to_string(), out);
        write_varint(self.excluded.len() as u64, out);
        self.excluded.iter().for_each(|name| write_text(name, out));
    }

    /// Reads what [`View::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] if it is damaged.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let filter = |text: String| Filter::parse(&text).map_err(|_| DecodeError::Mismatch);
        let wanted = filter(read_text(reader, MAX_FILTER_BYTES)?)?;
        let granted = filter(read_text(reader, MAX_FILTER_BYTES)?)?;
        let count = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
        if count > MAX_FIELDS || count > reader.remaining() {
            return Err(DecodeError::OutOfRange);
        }
        let excluded: Result<Vec<_>, _> =
            (0..count).map(|_| read_text(reader, MAX_FIELD_NAME_BYTES).map(Arc::from)).collect();
        Ok(Self::new(wanted, granted, excluded?.into_iter()))
    }
}

/// Which half of a session reads the feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The side that was connected to: what leaves a view is taken from its reader.
    Serve,
    /// The side that connected and pushes: what leaves its filter is sent once more, so that the other side
    /// learns of the change, and nothing is ever taken from the other side.
    Deliver,
}

/// What the reader of a feed may hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Held {
    /// What its view showed up to where it stands.
    Same,
    /// What any of these views showed up to a sequence: the reader's view was replaced there. Its feed is read
    /// once from the start.
    Under {
        /// The views, at least one. The reader may hold what any of them shows, and surely holds what all of them show.
        views: Vec<Arc<View>>,
        /// The reader has the feed up to here under them.
        upto: Seq,
    },
}

/// How a feed is read for one reader.
#[derive(Clone, PartialEq, Debug)]
pub struct Lens {
    /// What the reader may see.
    pub view: Arc<View>,
    /// What it may hold.
    pub held: Held,
    /// Which half of its session reads.
    pub side: Side,
    /// Values that are sealed for it may be compressed before: its link compresses.
    pub packs: bool,
}

impl Lens {
    /// Everything, for a reader that always saw everything.
    #[must_use]
    pub fn all(side: Side) -> Self {
        Self { view: Arc::new(View::all()), held: Held::Same, side, packs: true }
    }

    /// Whether batches read through this lens serve readers with the other one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.side, self.packs) == (other.side, other.packs)
            && self.view.id == other.view.id
            && match (&self.held, &other.held) {
                (Held::Same, Held::Same) => true,
                (a, b) => a == b,
            }
    }
}

fn split(hash: [u8; 32]) -> [[u8; 16]; 2] {
    let mut halves = [[0; 16]; 2];
    for (to, from) in halves.iter_mut().flatten().zip(hash) {
        *to = from;
    }
    halves
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn read_text(reader: &mut Reader<'_>, limit: usize) -> Result<String, DecodeError> {
    let len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    if len > limit {
        return Err(DecodeError::OutOfRange);
    }
    let bytes = reader.read_bytes(len)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::User;
    use crate::{Record, RecordId, Value};

    fn record(team: &str, priority: i64) -> Record {
        let mut record = Record::new(RecordId::from_bytes([1; 16]));
        record.fields.insert("teamId".into(), Value::from(team));
        record.fields.insert("priority".into(), priority.into());
        record
    }

    fn request(filter: &str) -> ViewRequest {
        ViewRequest { filter: Some(filter.into()), excluded: vec!["big".into()] }
    }

    #[test]
    fn a_rule_cuts_what_a_policy_asks_for_and_the_reason_says_which_of_them_it_was() {
        let rule = Filter::parse_rule("record.teamId in user.teams").unwrap();
        let user = User { teams: vec!["ios".into()], ..User::default() };
        let view = request("priority > 5").view(Some(&rule.for_user(&user)), Timestamp(0)).unwrap();
        assert_eq!(view.why_not(&record("ios", 8)), None);
        assert_eq!(view.why_not(&record("ios", 1)), Some(RemovalReason::LeftFilter));
        assert_eq!(view.why_not(&record("web", 8)), Some(RemovalReason::AccessRevoked));
        assert_eq!(view.why_not(&record("web", 1)), Some(RemovalReason::AccessRevoked));
        assert!(!view.shows("big") && view.shows("priority"));
    }

    #[test]
    fn what_is_unknown_is_not_shown() {
        let view = request("missing > 5").view(None, Timestamp(0)).unwrap();
        assert!(!view.matches(&record("ios", 8)));
        let rule = Filter::parse_rule("record.teamId in user.teams").unwrap();
        let nobody =
            ViewRequest::default().view(Some(&rule.for_user(&User::default())), Timestamp(0)).unwrap();
        assert!(!nobody.matches(&record("ios", 8)));
    }

    #[test]
    fn time_is_bound() {
        let filter = request("at > now - duration(\"1h\")");
        assert!(filter.depends_on_time() && !request("priority > 5").depends_on_time());
        let mut young = record("ios", 1);
        young.fields.insert("at".into(), Value::Timestamp(Timestamp(10_000_000)));
        let at = |seconds: i64| filter.view(None, Timestamp(seconds * 1_000_000)).unwrap();
        assert!(at(20).matches(&young));
        assert!(!at(20_000).matches(&young));
        assert_ne!(at(20).id(), at(20_000).id());
    }

    #[test]
    fn a_view_is_read_back_with_the_same_id() {
        let rule = Filter::parse_rule("record.teamId in user.teams && now > record.at").unwrap();
        let user = User { teams: vec!["i\"os".into()], ..User::default() };
        let view = request("priority > 5").view(Some(&rule.for_user(&user)), Timestamp(7)).unwrap();
        let mut bytes = Vec::new();
        view.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let read = View::decode(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!((read.id(), &read), (view.id(), &view));
        assert!(View::all().is_all() && !view.is_all());
        for len in 0..bytes.len() {
            assert!(View::decode(&mut Reader::new(bytes.get(..len).unwrap())).is_err());
        }
    }
}
